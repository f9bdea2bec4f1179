//! Scenarios made of decision records: what policies say to what they were asked must stay as it was.

use std::{
    fmt::Write as _,
    io::{BufRead, Write},
};

use serde_json::{Map, Value, json};

use super::recorded::{Content, Line, RecordLine, content, next_line};

/// Scenarios that are made of one log.
const SCENARIOS_MAX: usize = 10_000;

/// Keys, values and collections of a file of scenarios: 400 for each of [`SCENARIOS_MAX`].
pub(super) const NODES_MAX: usize = 4_000_000;

/// Bytes of the texts of a file of scenarios.
pub(super) const FILE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Collections inside each other in a file of scenarios.
pub(super) use crate::base::filled::DEPTH_MAX;

/// What became of the records of a log.
#[derive(Default)]
struct Made {
    scenarios: usize,
    /// Of the file that they make.
    nodes: usize,
    bytes: usize,
    unreadable: usize,
    /// Could not be written, as the chain says.
    dropped: u64,
    without_question: usize,
    hidden: usize,
    deep: usize,
    beyond: usize,
}

/// Writes a scenario for each record of `log` that holds a question, with nothing under a pseudonym: those that do could not
/// fail, or not pass. Gives back what to tell of it.
///
/// # Errors
/// Where records cannot be read or scenarios not be written.
pub fn scenarios(mut log: impl BufRead, out: &mut impl Write) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("cannot write the scenarios: {error}");
    let (mut line, mut made) = (Vec::new(), Made::default());
    writeln!(out, "# Made of decision records. What policies say to these questions must stay as it was.")
        .map_err(failed)?;
    writeln!(out, "scenarios:").map_err(failed)?;
    loop {
        let read = next_line(&mut log, &mut line)?;
        if read == Line::End {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let content = Some(&line).filter(|_| read == Line::Read).and_then(|line| content(line).ok());
        let scenario = match content {
            Some(Content::Record(record)) => made.scenario(&record),
            Some(Content::OfChain { dropped }) => {
                made.dropped = made.dropped.saturating_add(dropped);
                None
            }
            None => {
                made.unreadable = made.unreadable.saturating_add(1);
                None
            }
        };
        if let Some(scenario) = scenario {
            out.write_all(scenario.as_bytes()).map_err(failed)?;
        }
    }
    made.told()
}

impl Made {
    /// A scenario of `record`, if one is to be made.
    fn scenario(&mut self, record: &RecordLine) -> Option<String> {
        let Some(question) = &record.question else {
            self.without_question = self.without_question.saturating_add(1);
            return None;
        };
        if question.hides_anything() {
            self.hidden = self.hidden.saturating_add(1);
            return None;
        }
        let mut given = Map::from_iter([("question".to_owned(), json!(question))]);
        given.extend(record.store.iter().map(|store| ("store".to_owned(), json!(store))));
        let members = [
            ("name", json!(format!("{} {} {}", record.decision_id, record.method, record.path))),
            ("given", given.into()),
            ("when", json!(format!("{} {}", record.method, record.path))),
            ("then", json!({ "code": record.code_of_policies(), "policies": record.policies })),
        ];
        let mut text = String::new();
        for ((key, value), indent) in members.iter().zip(["  - ", "    ", "    ", "    "]) {
            let _ = writeln!(text, "{indent}{key}: {}", for_yaml(value));
        }
        // Around each value stand its key, the scenario, the list of them, and the file.
        let (own, depth) = members.iter().fold((1_usize, 0), |(nodes, depth), (_, value)| {
            let (inside, deep) = extent(value);
            (nodes.saturating_add(inside).saturating_add(1), deep.saturating_add(3).max(depth))
        });
        if depth > DEPTH_MAX {
            self.deep = self.deep.saturating_add(1);
            return None;
        }
        let (nodes, bytes) = (self.nodes.saturating_add(own), self.bytes.saturating_add(text.len()));
        // What is said once takes a little, too.
        let room = (NODES_MAX.saturating_sub(nodes), FILE_BYTES_MAX.saturating_sub(bytes));
        if self.beyond > 0 || self.scenarios >= SCENARIOS_MAX || room.0 < 1024 || room.1 < 1024 {
            self.beyond = self.beyond.saturating_add(1);
            return None;
        }
        (self.scenarios, self.nodes, self.bytes) = (self.scenarios.saturating_add(1), nodes, bytes);
        Some(text)
    }

    /// What to tell of it.
    fn told(&self) -> Result<String, String> {
        let dropped = usize::try_from(self.dropped).unwrap_or(usize::MAX);
        let left = [
            (self.unreadable, "cannot be read"),
            (dropped, "could not be written when they were made"),
            (self.without_question, "hold no question"),
            (self.hidden, "hold pseudonyms, so that what policies say to them tells nothing"),
            (self.deep, "are nested too deep"),
            (self.beyond, "are more than one file of scenarios can hold"),
        ];
        let left = left.iter().filter(|(count, _)| *count > 0);
        let left: String = left.map(|(count, why)| format!("; {count} records {why}")).collect();
        match (self.scenarios, self.hidden.saturating_add(self.deep)) {
            (0, 0) => {
                Err("no record holds a question: set `records: { questions: true }` (docs/decision-record.md)".into())
            }
            (0, _) => Err(format!("no scenario{left}")),
            (made, _) => Ok(format!("{made} scenarios{left}")),
        }
    }
}

/// Keys, values and collections in `value`, and how many are inside each other.
fn extent(value: &Value) -> (usize, usize) {
    let inner: Vec<_> = match value {
        Value::Array(items) => items.iter().map(extent).collect(),
        Value::Object(members) => {
            let keyed = |(nodes, depth): (usize, usize)| (nodes.saturating_add(1), depth);
            members.values().map(|value| keyed(extent(value))).collect()
        }
        _ => return (1, 0),
    };
    inner.iter().fold((1, 1), |(nodes, depth), (inside, deep)| {
        (nodes.saturating_add(*inside), deep.saturating_add(1).max(depth))
    })
}

/// JSON in which no character stands that YAML has not: those stand in texts alone, where an escape is the same.
fn for_yaml(value: &Value) -> String {
    let mut text = String::new();
    for c in value.to_string().chars() {
        if matches!(c, '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}') {
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde::Deserialize;

    use super::*;
    use crate::{authoring::scenario::ScenarioFile, base::problem::Source};

    /// A record whose question says this of the token.
    fn record(token: &Value) -> Value {
        let uid = |kind: &str| json!({ "type": kind, "id": "1" });
        let entity =
            |kind: &str| json!({ "uid": uid(kind), "attrs": { "owner": { "__entity": uid("User") } }, "parents": [] });
        json!({
            "decision_id": "01M88AJ17M29YCPETVY8T9ZYYX", "decision": "allow", "code": "allowed", "status": 200,
            "method": "GET", "path": "/users/1/data", "policies": ["agent-reads-its-users-data"],
            "question": {
                "principals": [["agent", uid("Agent")]], "action": uid("Action"), "resource": uid("Data"),
                "context": { "onBehalfOf": { "__entity": uid("User") }, "token": token },
                "entities": [entity("User")],
            },
        })
    }

    fn made(log: &str) -> (String, String) {
        let mut out = Vec::new();
        let told = scenarios(log.as_bytes(), &mut out).unwrap();
        (String::from_utf8(out).unwrap(), told)
    }

    fn read(text: &str) -> ScenarioFile {
        let source = Arc::new(Source { name: "recorded.yaml".into(), text: text.to_owned() });
        ScenarioFile::parse(&source).unwrap_or_else(|problems| panic!("{}", problems.0[0].message()))
    }

    #[test]
    fn as_many_scenarios_as_are_made_can_be_read() {
        let line = format!("{}\n", record(&json!({ "scope": ["a", "b"] })));
        let (text, told) = made(&line.repeat(SCENARIOS_MAX + 3));
        assert_eq!(told, "10000 scenarios; 3 records are more than one file of scenarios can hold");
        assert_eq!(read(&text).scenarios.len(), SCENARIOS_MAX);
    }

    #[test]
    fn lines_of_a_chain_are_passed_over() {
        let record = record(&json!({}));
        let log = format!(
            "{{\"time\":\"t\",\"chain\":\"opened\",\"prev\":\"p\",\"seq\":0,\"hash\":\"h\"}}\n{record}\n\
             {{\"time\":\"t\",\"chain\":\"signed\",\"signature\":\"s\",\"seq\":2,\"hash\":\"h\"}}\n"
        );
        assert_eq!(made(&log).1, "1 scenarios");
        let dropped = "{\"time\":\"t\",\"chain\":\"dropped\",\"records\":3,\"seq\":3,\"hash\":\"h\"}\n";
        assert_eq!(
            made(&format!("{log}{dropped}{{\"chain\":\"new\"}}\n")).1,
            "1 scenarios; 1 records cannot be read; 3 records could not be written when they were made"
        );
    }

    #[test]
    fn large_records_end_the_file_before_it_cannot_be_read() {
        let large = record(&json!({ "scope": vec![1; 300_000] })).to_string() + "\n";
        let small = record(&json!({})).to_string() + "\n";
        let (text, told) = made(&(large.repeat(20) + &small));
        assert_eq!(told, "13 scenarios; 8 records are more than one file of scenarios can hold");
        assert_eq!(text.matches("- name:").count(), 13);
    }

    #[test]
    fn what_is_counted_is_what_a_reader_counts() {
        let record = serde_json::from_value(record(&json!({ "scope": ["a", "b"], "deep": { "er": [[]] } }))).unwrap();
        let mut made = Made::default();
        let text = format!("scenarios:\n{}", made.scenario(&record).unwrap());
        let reads = |nodes: usize| {
            let mut options = ScenarioFile::options();
            options.budget.as_mut().unwrap().max_nodes = nodes;
            serde_saphyr::from_str_with_options::<Value>(&text, options).is_ok()
        };
        assert!(reads(made.nodes + 3) && !reads(made.nodes + 2), "the file, its key and its list are 3 more");
    }

    #[test]
    fn every_character_and_every_depth_is_read_as_it_was() {
        let all: String =
            ('\0'..=char::MAX).filter(|c| u32::from(*c) < 0x3000 || u32::from(*c) & 0xff > 0xf0).collect();
        let nested = |depth: usize| (0..depth).fold(json!(all), |inner, _| json!([inner]));
        // Within token, context, question, what is given, the scenario, the list and the file.
        let deep = nested(DEPTH_MAX - 7);
        let token = json!({ "deep": deep, "<<": "merge", "all": all, (all.as_str()): 1, "9e9": "9e9", "~": "null", "k".repeat(5000): "y" });
        let too_deep = json!({ "deep": nested(DEPTH_MAX - 6) });
        let (text, told) = made(&format!("{}\n{}\n", record(&token), record(&too_deep)));
        assert_eq!(told, "1 scenarios; 1 records are nested too deep");
        assert!(!text.contains('\u{7f}'));
        #[derive(Deserialize)]
        struct File {
            scenarios: Vec<Member>,
        }
        #[derive(Deserialize)]
        struct Member {
            given: Value,
        }
        let file: File = serde_saphyr::from_str_with_options(&text, ScenarioFile::options()).unwrap();
        assert_eq!(file.scenarios[0].given["question"]["context"]["token"], token);
        read(&text);
    }
}
