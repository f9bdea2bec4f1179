//! Text that others chose, as terminals and logs may show it: nothing in it gives a terminal orders, tells a line of its own,
//! or turns other text round.

/// `text` on one line, and without what a terminal takes orders from: control characters, line breaks among them, so that
/// no value tells a line of its own, and what changes the direction in which text is shown.
pub fn tame(text: &str) -> String {
    text.chars().map(|c| if is_wild(c) { '\u{fffd}' } else { c }).collect()
}

/// The same, with every such character spelt out.
pub fn spelt(text: &str) -> String {
    let mut spelt = String::with_capacity(text.len());
    for c in text.chars() {
        if is_wild(c) { spelt.extend(c.escape_default()) } else { spelt.push(c) }
    }
    spelt
}

/// JSON, which escapes control characters of ASCII by itself, with all others escaped too.
pub fn escaped(json: &str) -> String {
    let is_bare = |c: char| misleads(c) || (c.is_control() && !c.is_ascii_control()) || c == '\u{7f}';
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if is_bare(c) { escaped += &format!("\\u{:04x}", u32::from(c)) } else { escaped.push(c) }
    }
    escaped
}

fn is_wild(c: char) -> bool {
    c.is_control() || misleads(c)
}

/// Separators of lines and paragraphs (U+2028, U+2029), and characters that set the direction of text (Unicode's
/// `Bidi_Control`).
const fn misleads(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_gives_orders_or_turns_text_round() {
        let evil = "a\u{202e}\nb\u{9b}2J ✓";
        assert_eq!(tame(evil), "a\u{fffd}\u{fffd}b\u{fffd}2J ✓");
        assert_eq!(spelt(evil), "a\\u{202e}\\nb\\u{9b}2J ✓");
    }

    #[test]
    fn json_stays_what_it_is_and_shows_nothing_else() {
        let value = serde_json::json!({ "a": "\u{202e}\u{9b}2J\u{7f}\u{2028}ü\n" });
        let text = escaped(&serde_json::to_string_pretty(&value).unwrap());
        assert!(text.lines().count() == 3 && !text.chars().any(|c| is_wild(c) && c != '\n'), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
