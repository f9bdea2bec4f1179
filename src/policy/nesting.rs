//! How deep a Cedar text nests, and how long its expressions are. Cedar's parser recurses without a bound of its own, so
//! a text that nests deeper than any author needs would end the process instead of being an error; a chain of operators
//! is as deep a tree, which the evaluator would give up on at each request.

use std::ops::Range;

/// Brackets open at once, or `if`s in one statement.
pub(super) const NESTING_MAX: usize = 100;

/// Operators, accesses and conditions in one statement: Cedar makes one chain of its `when` and `unless` too.
pub(super) const OPERATORS_MAX: usize = 400;

/// Where `text` nests deeper than [`NESTING_MAX`] or has more than [`OPERATORS_MAX`] operators in a statement, if it does. `angles` says whether `<` opens a bracket, as it does in
/// a schema.
pub(super) fn too_deep(text: &str, angles: bool) -> Option<Range<usize>> {
    let (mut brackets, mut conditionals, mut operators) = (0_usize, 0_usize, 0_usize);
    let mut before = ' ';
    let mut rest = text.char_indices();
    let mut word_start = None;
    while let Some((at, c)) = rest.next() {
        if c.is_alphanumeric() || c == '_' {
            word_start.get_or_insert(at);
            before = c;
            continue;
        }
        let word = word_start.take().and_then(|start| text.get(start..at));
        conditionals = conditionals.saturating_add(usize::from(word == Some("if")));
        operators = operators.saturating_add(usize::from(matches!(word, Some("when" | "unless"))));
        match c {
            '(' | '[' | '{' => brackets = brackets.saturating_add(1),
            '<' if angles => brackets = brackets.saturating_add(1),
            ')' | ']' | '}' => brackets = brackets.saturating_sub(1),
            '>' if angles => brackets = brackets.saturating_sub(1),
            ';' => (conditionals, operators) = (0, 0),
            '"' => skip_string(&mut rest),
            '/' if text.get(at..).is_some_and(|rest| rest.starts_with("//")) => {
                rest.find(|(_, c)| *c == '\n');
            }
            _ => {}
        }
        // `&&` and `||` count once.
        if matches!(c, '.' | '[' | '+' | '-' | '*' | '=' | '!' | '<' | '&' | '|')
            && !(c == before && matches!(c, '&' | '|'))
        {
            operators = operators.saturating_add(1);
        }
        before = c;
        if brackets.saturating_add(conditionals) > NESTING_MAX || operators > OPERATORS_MAX {
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
        assert!(too_deep(&format!("a{}", ".a".repeat(OPERATORS_MAX)), false).is_none());
        assert!(too_deep(&format!("a{}", ".a".repeat(OPERATORS_MAX + 1)), false).is_some());
        assert!(too_deep(&format!("a{}", " && a".repeat(OPERATORS_MAX)), false).is_none());
        for long in ["&&a", "||a", "[\"a\"]", "when{a}", " unless {a}"] {
            assert!(too_deep(&format!("a {};", long.repeat(OPERATORS_MAX)), false).is_none(), "{long}");
            assert!(too_deep(&format!("a {};", long.repeat(OPERATORS_MAX + 1)), false).is_some(), "{long}");
        }
        assert!(too_deep(&"a.b;".repeat(OPERATORS_MAX + 1), false).is_none());
        assert!(too_deep(&deep("()"), false).is_none());
        assert!(too_deep(&deep("if a then b else c;"), false).is_none());
        assert!(too_deep(&deep("notif "), false).is_none());
        assert!(too_deep(&format!("\"\\\"{}\"", deep("(")), false).is_none());
        assert!(too_deep(&format!("// {}\n", deep("(")), false).is_none());
        assert_eq!(too_deep(&format!("// x\n{}", deep("(")), false), Some(105..106));
    }
}
