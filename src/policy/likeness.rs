//! How two values that are not equal are nearly so: the mistakes that people make with ids.

use cedar_policy::{EntityUid, EvalResult};

/// What `one` and `other` differ in, where that is so little that a mistake is likely; one of them may be a set that nearly
/// holds the other.
pub(super) fn likeness(one: &EvalResult, other: &EvalResult) -> Option<String> {
    match (one, other) {
        (EvalResult::String(a), EvalResult::String(b)) => of_texts(a, b),
        (EvalResult::EntityUid(a), EvalResult::EntityUid(b)) => of_entities(a, b),
        (EvalResult::EntityUid(entity), EvalResult::String(text))
        | (EvalResult::String(text), EvalResult::EntityUid(entity)) => (text == entity.id().unescaped()
            || *text == entity.to_string())
        .then(|| format!("a text is never equal to an entity: write `{entity}`")),
        (EvalResult::Set(set), element) | (element, EvalResult::Set(set)) => {
            set.iter().find_map(|member| likeness(member, element))
        }
        _ => None,
    }
}

fn of_texts(a: &str, b: &str) -> Option<String> {
    if a == b {
        return None;
    }
    if a.trim() == b.trim() {
        return Some(format!("`{a}` and `{b}` differ in blanks at an end"));
    }
    if a.to_lowercase() == b.to_lowercase() {
        return Some(format!("`{a}` and `{b}` differ in upper and lower case"));
    }
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    let prefix = long.strip_suffix(short).and_then(|prefix| prefix.strip_suffix('|'));
    prefix.filter(|_| !short.is_empty()).map(|prefix| format!("`{short}` lacks the prefix `{prefix}|`"))
}

fn of_entities(a: &EntityUid, b: &EntityUid) -> Option<String> {
    let ids = (a.id().unescaped(), b.id().unescaped());
    if a.type_name() == b.type_name() {
        return of_texts(ids.0, ids.1);
    }
    let (of_a, of_b) = (a.type_name().to_string(), b.type_name().to_string());
    if ids.0 == ids.1 {
        return Some(format!("the ids are the same, the types are not: `{of_a}` and `{of_b}`"));
    }
    // `Resource::"service::data"` and `service::"data"`.
    let folded = |kind: &str, id: &str| format!("{kind}::{id}").replace("::", ":");
    let whole = (folded(&of_a, ids.0), folded(&of_b, ids.1));
    let alike = whole.0.ends_with(&format!(":{}", whole.1)) || whole.1.ends_with(&format!(":{}", whole.0));
    alike.then(|| format!("the type stands inside an id: `{a}` and `{b}`"))
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn mistakes_with_ids_are_named_and_other_differences_are_not() {
        let text = |text: &str| EvalResult::String(text.into());
        let entity = |text: &str| EvalResult::EntityUid(EntityUid::from_str(text).unwrap());
        for (one, other, named) in [
            (text(" user-1"), text("user-1"), "blanks"),
            (text("App"), text("app"), "upper and lower case"),
            (text("pool|user-1"), text("user-1"), "lacks the prefix `pool|`"),
            (entity("User::\" user-1\""), entity("User::\"user-1\""), "blanks"),
            (entity("Agent::\"a\""), entity("User::\"a\""), "types are not"),
            (entity("Resource::\"svc::data\""), entity("svc::\"data\""), "the type stands inside an id"),
            (entity("User::\"user-1\""), text("user-1"), "never equal to an entity"),
            (entity("User::\"user-1\""), text("User::\"user-1\""), "never equal to an entity"),
        ] {
            for (one, other) in [(&one, &other), (&other, &one)] {
                let said = likeness(one, other).unwrap_or_default();
                assert!(said.contains(named), "{one} {other}: {said}");
            }
        }
        for (one, other) in [
            (text("user-1"), text("user-2")),
            (text(""), text("pool|")),
            (entity("User::\"user-1\""), entity("User::\"user-2\"")),
            (entity("User::\"user-1\""), entity("Agent::\"user-2\"")),
            (entity("User::\"user-1\""), text("user-2")),
            (EvalResult::Long(1), EvalResult::Long(2)),
        ] {
            assert_eq!(likeness(&one, &other), None, "{one} {other}");
        }
    }
}
