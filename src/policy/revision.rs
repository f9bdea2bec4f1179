//! The revision of a set of policies: a digest of what decides, whatever file it stands in and however it is laid out.

use cedar_policy::{PolicySet, PolicySetError};
use serde_json::Value;

use super::stores::OnError;
use crate::base::digest::sha256;

/// SHA-256, in hexadecimal, of the set in Cedar's JSON, in order, and of what becomes of policies that err.
pub(super) fn revision(policies: &PolicySet, on_error: OnError) -> Result<String, Box<PolicySetError>> {
    let mut whole = policies.clone().to_json()?;
    whole.sort_all_objects();
    if let Some(links) = whole.get_mut("templateLinks").and_then(Value::as_array_mut) {
        links.sort_by_cached_key(Value::to_string);
    }
    let digest = sha256(format!("{on_error:?}\n{whole}").as_bytes());
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use cedar_policy::{Policy, PolicyId, Template};

    use super::*;

    const FIRST: &str = "@id(\"a\") permit (principal, action, resource) when { context.x == 1 };";
    const SECOND: &str = "forbid (principal, action, resource);";

    fn set(texts: &[(&str, &str)], links: &[&str]) -> PolicySet {
        let mut set = PolicySet::new();
        for (id, text) in texts {
            set.add(Policy::parse(Some(PolicyId::new(id)), text).unwrap()).unwrap();
        }
        let template = "permit (principal == ?principal, action, resource);";
        set.add_template(Template::parse(Some(PolicyId::new("t")), template).unwrap()).unwrap();
        for user in links {
            let slots = [(cedar_policy::SlotId::principal(), format!("User::\"{user}\"").parse().unwrap())];
            set.link(PolicyId::new("t"), PolicyId::new(format!("t-{user}")), slots.into()).unwrap();
        }
        set
    }

    fn of(set: &PolicySet) -> String {
        revision(set, OnError::Deny).unwrap()
    }

    #[test]
    fn it_is_the_same_for_the_same_policies_and_another_for_others() {
        let whole = set(&[("a", FIRST), ("b", SECOND)], &["u", "v", "w"]);
        let other_order = set(&[("b", SECOND), ("a", FIRST)], &["w", "u", "v"]);
        let laid_out = FIRST.replace(" when", "\n  // why\n  when");
        assert_eq!((of(&whole).len(), of(&whole)), (64, of(&other_order)));
        assert_eq!(of(&whole), of(&set(&[("a", &laid_out), ("b", SECOND)], &["u", "v", "w"])));
        let others = [
            set(&[("a", FIRST), ("b", SECOND)], &["u", "v"]),
            set(&[("a", FIRST), ("b", SECOND)], &["u", "v", "x"]),
            set(&[("a", FIRST), ("c", SECOND)], &["u", "v", "w"]),
            set(&[("a", FIRST)], &["u", "v", "w"]),
            set(&[("a", &FIRST.replace('1', "2")), ("b", SECOND)], &["u", "v", "w"]),
            set(&[("a", &FIRST.replace("@id(\"a\")", "@reason(\"r\")")), ("b", SECOND)], &["u", "v", "w"]),
        ];
        for (index, other) in others.iter().enumerate() {
            assert_ne!(of(&whole), of(other), "{index}");
        }
        assert_ne!(of(&whole), revision(&whole, OnError::AcceptSkippedPolicies).unwrap());
    }
}
