//! Where in a policy's text a part of it stands: as a word by itself, not inside a comment or another text.

use std::ops::Range;

/// The first `part` in `text` from `from` on. A part in quotes is a text; any other is a word, or several joined by `.`.
pub(super) fn find(text: &str, part: &str, from: usize) -> Option<Range<usize>> {
    let mut at = 0;
    let mut before = ' ';
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if at >= from && rest.starts_with(part) && is_whole(before, rest.get(part.len()..), part) {
            return Some(at..at.saturating_add(part.len()));
        }
        let first = rest.chars().next()?;
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '"' => text_length(rest),
            other => other.len_utf8(),
        };
        at = at.saturating_add(length);
        before = first;
    }
    None
}

/// Where a policy's conditions begin; its end where it has none.
pub(super) fn conditions(text: &str) -> usize {
    find(text, "{", 0).map_or(text.len(), |brace| brace.start)
}

fn is_whole(before: char, after: Option<&str>, part: &str) -> bool {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    let after = after.and_then(|after| after.chars().next()).unwrap_or(' ');
    !part.starts_with(joins) || !(joins(before) || joins(after) || before == '@' || before == '.' && part.contains('.'))
}

/// The length of the text in quotes that `rest` begins with.
fn text_length(rest: &str) -> usize {
    let mut escaped = false;
    let end = rest.char_indices().skip(1).find(|(_, c)| {
        let ends = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    end.map_or(rest.len(), |(at, quote)| at.saturating_add(quote.len_utf8()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_as_words_outside_comments_and_texts() {
        let text = "@reason(\"do not forbid note\") // note: forbid\n\
                    forbid(principal, action == Action::\"note\", resource)\n\
                    when { resource.notes.contains(\"note\") && resource.note == \"a\\\"note\" && \"note\" == \"é\" };";
        let found = |part: &str, from: usize| find(text, part, from).map(|it| &text[it.start - 9..it.end]);
        assert_eq!(find(text, "forbid", 0).map(|it| it.start), text.find("\nforbid").map(|at| at + 1));
        assert_eq!(found("note", conditions(text)), Some("resource.note"));
        assert_eq!(found("resource.note", 0), Some("ote\") && resource.note"));
        assert_eq!(found("\"note\"", conditions(text)), Some("contains(\"note\""));
        assert_eq!(find(text, "\"é\"", 0).map(|it| &text[it]), Some("\"é\""));
        assert_eq!(find(text, "absent", 0), None);
        assert_eq!(find("permit(a, b, \"c", "d", 0), None);
        assert_eq!(conditions("permit (principal, action, resource);"), 37);
    }
}
