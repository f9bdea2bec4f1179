//! How deep a Cedar text nests. Cedar's parser recurses without a bound of its own, so a text that nests deeper than
//! any author needs would end the process instead of being an error.

use std::ops::Range;

/// Brackets open at once, or `if`s in one statement.
pub(super) const NESTING_MAX: usize = 100;

/// Where `text` nests deeper than [`NESTING_MAX`], if it does. `angles` says whether `<` opens a bracket, as it does in
/// a schema.
pub(super) fn too_deep(text: &str, angles: bool) -> Option<Range<usize>> {
    let (mut brackets, mut conditionals) = (0_usize, 0_usize);
    let mut rest = text.char_indices();
    let mut word_start = None;
    while let Some((at, c)) = rest.next() {
        if c.is_alphanumeric() || c == '_' {
            word_start.get_or_insert(at);
            continue;
        }
        let word = word_start.take().and_then(|start| text.get(start..at));
        conditionals = conditionals.saturating_add(usize::from(word == Some("if")));
        match c {
            '(' | '[' | '{' => brackets = brackets.saturating_add(1),
            '<' if angles => brackets = brackets.saturating_add(1),
            ')' | ']' | '}' => brackets = brackets.saturating_sub(1),
            '>' if angles => brackets = brackets.saturating_sub(1),
            ';' => conditionals = 0,
            '"' => skip_string(&mut rest),
            '/' if text.get(at..).is_some_and(|rest| rest.starts_with("//")) => {
                rest.find(|(_, c)| *c == '\n');
            }
            _ => {}
        }
        if brackets.saturating_add(conditionals) > NESTING_MAX {
            return Some(at..at.saturating_add(c.len_utf8()));
        }
    }
    None
}

fn skip_string(rest: &mut std::str::CharIndices<'_>) {
    while let Some((_, c)) = rest.next() {
        match c {
            '"' => return,
            '\\' => drop(rest.next()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_and_conditionals_count_but_not_in_strings_and_comments() {
        let deep = |open: &str| open.repeat(NESTING_MAX + 1);
        assert!(too_deep(&deep("("), false).is_some());
        assert!(too_deep(&deep("{ a: ["), false).is_some());
        assert!(too_deep(&deep("if true then true else "), false).is_some());
        assert!(too_deep(&deep("Set<"), true).is_some());
        assert!(too_deep(&deep("a < "), false).is_none());
        assert!(too_deep(&deep("()"), false).is_none());
        assert!(too_deep(&deep("if a then b else c;"), false).is_none());
        assert!(too_deep(&deep("notif "), false).is_none());
        assert!(too_deep(&format!("\"\\\"{}\"", deep("(")), false).is_none());
        assert!(too_deep(&format!("// {}\n", deep("(")), false).is_none());
        assert_eq!(too_deep(&format!("// x\n{}", deep("(")), false), Some(105..106));
    }
}
