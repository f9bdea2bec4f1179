//! A whole record, for people: a field a line, and what is in fields below them.

use serde_json::{Map, Value};

use super::terminal::{Screen, Tone};

/// Blanks before what is in a field.
const INDENT: usize = 2;

/// Fields in fields that are set out; what is deeper is told as JSON.
const DEPTH_MAX: usize = 4;

/// The record in `line`.
pub(super) fn whole(screen: &Screen, line: &[u8]) -> String {
    match serde_json::from_slice(line) {
        Ok(record) => fields(screen, &record, 0),
        Err(error) => screen.wrapped("", &format!("this is no record: {error}")),
    }
}

fn fields(screen: &Screen, of: &Map<String, Value>, depth: usize) -> String {
    let blanks = " ".repeat(depth.saturating_mul(INDENT));
    let width = of.keys().map(|name| name.chars().count()).max().unwrap_or_default();
    let told = of.iter().map(|(name, value)| {
        let first = format!("{blanks}{} ", screen.paint(Tone::Faint, &format!("{name:width$}")));
        match value {
            Value::Object(inner) if !inner.is_empty() && depth < DEPTH_MAX => {
                format!("{}\n{}", first.trim_end(), fields(screen, inner, depth.saturating_add(1)))
            }
            Value::Array(items) if !items.is_empty() => {
                screen.wrapped_items(&first, &items.iter().map(word).collect::<Vec<_>>())
            }
            value => screen.wrapped(&first, &word(value)),
        }
    });
    told.collect()
}

/// A value in a few words: text as it is, an object by its values.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(members) if members.values().all(|it| !it.is_object() && !it.is_array()) => {
            members.iter().map(|(name, value)| format!("{name}={}", word(value))).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_in_a_record_is_told_and_nothing_gives_orders() {
        let evil = "x\u{1b}[2J\n\u{202e}";
        let record = serde_json::json!({
            "decision_id": "D1", "side": "user", "stages_us": { "request": 6, "policy": 11 }, "policies": ["a b", "c"],
            "annotations": { "a": { "owner": "team" } }, "attributes": [{ "of": "user", "name": "x", "source": "token" }],
            "question": { "a": { "b": { "c": { "d": { "e": [1] } } } } }, evil: { evil: evil }, "empty": {}, "none": null,
        });
        let text = whole(&Screen::new(), record.to_string().as_bytes());
        for told in [
            "decision_id D1",
            "side        user",
            "  request 6",
            "a b   c",
            "owner team",
            "of=user name=x source=token",
            "[1]",
        ] {
            assert!(text.contains(told), "{told}: {text}");
        }
        assert!(!text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text:?}");
        assert!(whole(&Screen::new(), b"no").starts_with("this is no record"));
    }
}
