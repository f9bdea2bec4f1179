//! A record as a line: whole, or, where that is longer than its way takes, without what makes it so, which it names. Nothing is
//! cut: a part would pass for the whole. So nobody keeps a request out of the records by making it long.

use std::cmp::Reverse;

use super::Record;

/// What a line usually has in bytes at most.
const BYTES_USUAL: usize = 1024;

/// Bytes in JSON of a field that is there and says nothing.
const EMPTY_BYTES: usize = 2;

/// A field, and what leaves it out.
type Dispensable = (&'static str, fn(&mut Record));

/// What a record can do without.
const DISPENSABLE: [Dispensable; 13] = [
    ("question", |record| record.question = None),
    ("attributes", |record| record.attributes = [].into()),
    ("claims", |record| record.claims.clear()),
    ("annotations", |record| record.annotations.clear()),
    ("shadow", |record| record.shadow = None),
    ("skipped", |record| record.skipped.clear()),
    ("upstream_path", |record| record.upstream_path = None),
    ("preflight", |record| record.preflight = None),
    ("path", |record| record.path.clear()),
    ("resource", |record| record.resource = None),
    ("policies", |record| record.policies.clear()),
    ("actors", |record| record.actors = [].into()),
    ("app", |record| record.app = None),
];

impl Record {
    /// The record in JSON, in one line without its break, of at most so many bytes: what is longest in it is left out first. None
    /// where what it cannot do without is longer.
    pub(super) fn line(&self, bytes_max: usize) -> Option<Vec<u8>> {
        let whole = self.whole()?;
        if whole.len() <= bytes_max {
            return Some(whole);
        }
        let members = serde_json::to_value(self).ok()?;
        let bytes = |name: &str| members.get(name).map_or(0, |value| value.to_string().len());
        let mut longest_first = DISPENSABLE.map(|(name, leave_out)| (bytes(name), name, leave_out));
        longest_first.sort_by_key(|(bytes, ..)| Reverse(*bytes));
        let mut record = self.clone();
        longest_first.into_iter().filter(|(bytes, ..)| *bytes > EMPTY_BYTES).find_map(|(_, name, leave_out)| {
            leave_out(&mut record);
            record.left_out.push(name);
            record.whole().filter(|line| line.len() <= bytes_max)
        })
    }

    fn whole(&self) -> Option<Vec<u8>> {
        let mut line = Vec::with_capacity(BYTES_USUAL);
        serde_json::to_writer(&mut line, self).is_ok().then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Map, Value, json, value::RawValue};

    use super::*;
    use crate::{
        audit::{Outcome, PreflightRecord, ShadowOutcome, ShadowRecord},
        base::origin::Origin,
    };

    /// A record in which everything that may be long is, by so many bytes.
    fn long(bytes: usize) -> Record {
        let text = "x".repeat(bytes);
        let origin = Origin { of: "user", name: text.as_str().into(), source: "token".into(), age_s: None };
        let shadow = ShadowRecord {
            outcome: ShadowOutcome::Wider,
            decision: Some(Outcome::Allow),
            policy_revision: "r".into(),
            policies: vec![text.clone()],
        };
        Record {
            decision_id: "01K9ZC6B8E8S1N4H6V2Q0W3X5Y".into(),
            decision: Outcome::Allow,
            agent: Some("a".into()),
            question: RawValue::from_string(json!({ "x": text }).to_string()).ok(),
            attributes: [origin].into(),
            claims: Map::from_iter([("c".to_owned(), text.as_str().into())]),
            annotations: [("p".to_owned(), [("a".to_owned(), text.clone())].into())].into(),
            shadow: Some(shadow),
            skipped: vec![text.clone()],
            upstream_path: Some(text.clone()),
            preflight: Some(PreflightRecord { origin: text.clone(), method: "GET".into() }),
            policies: vec![text.clone()],
            actors: [text.clone()].into(),
            resource: Some(text.as_str().into()),
            path: text.clone(),
            app: Some(text.as_str().into()),
            ..Record::default()
        }
    }

    #[test]
    fn whatever_is_long_a_record_says_what_it_is_without() {
        const BYTES: usize = 5_000;
        let record = long(BYTES);
        let whole = record.line(usize::MAX).unwrap();
        assert_eq!(whole, serde_json::to_vec(&record).unwrap());
        let mut seen = BTreeSet::new();
        for bytes_max in (1_700..=whole.len()).step_by(BYTES / 3) {
            let line = record.line(bytes_max).unwrap();
            assert!(line.len() <= bytes_max);
            let told: Value = serde_json::from_slice(&line).unwrap();
            assert_eq!((&told["decision_id"], &told["agent"]), (&json!(record.decision_id), &json!("a")));
            let left_out: Vec<_> = told["left_out"].as_array().into_iter().flatten().collect();
            for (name, _) in DISPENSABLE {
                let is_there = !matches!(told[name].to_string().as_str(), "null" | r#""""# | "[]");
                assert_eq!(is_there, !left_out.contains(&&json!(name)), "{name} up to {bytes_max}");
            }
            // No more than what it takes: with what was left out last it would be too long.
            assert!(line.len().saturating_add(BYTES) > bytes_max);
            seen.insert(left_out.len());
        }
        assert_eq!(
            seen.into_iter().collect::<Vec<_>>(),
            Vec::from_iter(1..=DISPENSABLE.len()),
            "from one to all of them"
        );
        assert_eq!(record.line(300), None);
    }

    #[test]
    fn what_is_longest_is_left_out_and_the_rest_is_there() {
        let long = Some("r".repeat(5_000).into());
        let record = Record { resource: long, policies: vec!["p".into()], path: "/p".into(), ..Record::default() };
        let told: Value = serde_json::from_slice(&record.line(3_000).unwrap()).unwrap();
        assert_eq!(told["left_out"], json!(["resource"]));
        assert_eq!((&told["path"], &told["policies"]), (&json!("/p"), &json!(["p"])));
        let empty = Record { decision_id: "x".repeat(5_000), ..Record::default() };
        assert_eq!(empty.line(3_000), None);
    }
}
