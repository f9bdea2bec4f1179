//! An account of one decision: every stage, what the policies could see and where it came from, what came of each policy,
//! and the nearest miss. For tools it is JSON; the command line makes a text of it.

use std::cmp::Ordering;

use serde::Serialize;

use super::{
    recorded::{RecordLine, is_answered_here},
    rehearsal::Outcome,
    seen::{self, SeenEntity, SeenValue},
};
use crate::{
    entities::Side,
    policy::{Effect, Examined, Explanation, Finding, Truth},
    refusal::Stage,
};

/// The account.
#[derive(Debug, Serialize)]
pub struct Account {
    /// `allow`, `deny` or `abandoned`.
    pub decision: String,
    /// `allowed`, `abandoned`, or the code of the refusal.
    pub code: String,
    /// Why, in words.
    pub reason: Option<String>,
    /// Method and path.
    pub request: String,
    /// What came of each stage.
    pub stages: Vec<Told>,
    /// The entities that the policies saw.
    pub entities: Vec<SeenEntity>,
    /// The context that they saw.
    pub context: Vec<SeenValue>,
    /// The policies that speak of the action, for each principal.
    pub principals: Vec<SeenPrincipal>,
    /// What would have allowed it.
    pub nearest_miss: Vec<String>,
    /// What else deserves a look.
    pub notes: Vec<String>,
}

/// A stage.
#[derive(Debug, Serialize)]
pub struct Told {
    /// Its name.
    pub stage: Stage,
    /// `passed`, `refused` or `not_reached`.
    pub outcome: Passage,
    /// What is known of it.
    pub facts: Vec<String>,
}

/// What came of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Passage {
    /// It goes on.
    Passed,
    /// It ends here.
    Refused,
    /// It ended before.
    NotReached,
}

/// The policies and one principal.
#[derive(Debug, Serialize)]
pub struct SeenPrincipal {
    /// `agent` or `user`.
    pub side: &'static str,
    /// The policies that speak of the action.
    pub policies: Vec<SeenPolicy>,
}

/// A policy.
#[derive(Debug, Serialize)]
pub struct SeenPolicy {
    /// Its id.
    pub id: String,
    /// `permit` or `forbid`.
    pub effect: &'static str,
    /// Whether its scope holds the question.
    pub in_scope: bool,
    /// Whether it applies: `true`, `false` or `error`.
    pub applies: &'static str,
    /// The parts of its scope that do not hold the question.
    pub scope: Vec<SeenPart>,
    /// Its conditions.
    pub conditions: Vec<SeenPart>,
}

/// A part of a policy.
#[derive(Debug, Serialize)]
pub struct SeenPart {
    /// It, as Cedar.
    pub text: String,
    /// `true`, `false` or `error`.
    pub is: &'static str,
    /// Whether Cedar gets to it.
    pub reached: bool,
    /// Why it cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it compares.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<(String, String)>,
    /// What nearly held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What it is made of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Self>,
}

impl Account {
    /// Of what came of a rehearsal.
    pub fn of(outcome: &Outcome) -> Self {
        let record = serde_json::to_value(&outcome.record).ok().and_then(|it| serde_json::from_value(it).ok());
        let mut account = record.map_or_else(Self::empty, |mut record: RecordLine| {
            record.question.clone_from(&outcome.question);
            Self::of_parts(&record, outcome.explanation.as_ref())
        });
        account.reason = outcome.result.as_ref().err().map(ToString::to_string);
        account.notes.extend(outcome.unanswered.clone());
        account
    }

    /// Of a decision that was recorded, with what the policies say to its question now.
    pub fn of_parts(record: &RecordLine, explanation: Option<&Explanation>) -> Self {
        let mut account = Self {
            decision: record.decision.clone(),
            code: record.code.clone(),
            request: format!("{} {}", record.method, record.path),
            stages: Stage::ALL.into_iter().map(|stage| Told::of(stage, record)).collect(),
            ..Self::empty()
        };
        if let Some(question) = &record.question {
            account.entities = seen::entities(question, record);
            account.context = seen::context(question, &record.attributes);
        }
        if let Some(explanation) = explanation {
            account.principals = explanation
                .sides
                .iter()
                .map(|it| SeenPrincipal {
                    side: it.side.name(),
                    policies: it.policies.iter().map(SeenPolicy::of).collect(),
                })
                .collect();
            if record.decision == "deny" {
                let sides = explanation.sides.iter().map(|it| it.side);
                account.nearest_miss = sides.flat_map(|side| misses(explanation, side)).collect();
            }
        }
        account
    }

    fn empty() -> Self {
        Self {
            decision: "deny".into(),
            code: String::new(),
            reason: None,
            request: String::new(),
            stages: Vec::new(),
            entities: Vec::new(),
            context: Vec::new(),
            principals: Vec::new(),
            nearest_miss: Vec::new(),
            notes: Vec::new(),
        }
    }
}

impl Told {
    fn of(stage: Stage, record: &RecordLine) -> Self {
        let facts = facts(stage, record);
        let ended = Stage::of_code(&record.code).unwrap_or(Stage::Upstream);
        let outcome = match stage.cmp(&ended) {
            _ if record.code == "allowed" => Passage::Passed,
            // It asks for nobody, and nothing of it goes on.
            _ if is_answered_here(&record.code) && !matches!(stage, Stage::Request | Stage::Route) => {
                Passage::NotReached
            }
            _ if is_answered_here(&record.code) => Passage::Passed,
            // How far it came before its client left is known by what is known of it alone.
            _ if record.decision == "abandoned" && facts.is_empty() => Passage::NotReached,
            _ if record.decision == "abandoned" => Passage::Passed,
            Ordering::Less => Passage::Passed,
            Ordering::Equal => Passage::Refused,
            Ordering::Greater => Passage::NotReached,
        };
        Self { stage, outcome, facts }
    }
}

fn misses(explanation: &Explanation, side: Side) -> Vec<String> {
    let misses = explanation.misses(side);
    let consulted = explanation.sides.iter().filter(|it| it.side == side).flat_map(|it| &it.policies);
    let no_permit = consulted.filter(|it| it.effect == Effect::Permit).count() == 0;
    let none = no_permit.then(|| "no permit speaks of this action".to_owned());
    misses.iter().map(ToString::to_string).chain(none).collect()
}

fn facts(stage: Stage, record: &RecordLine) -> Vec<String> {
    let fact = |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name} {value}"));
    let limit = || fact("limit", &record.limit).filter(|_| Stage::of_code(&record.code) == Some(stage));
    let facts = match stage {
        Stage::Request if record.method.is_empty() => Vec::new(),
        Stage::Request => vec![Some(format!("{} {}", record.method, record.path)), limit()],
        Stage::Token => vec![
            fact("issuer", &record.issuer),
            fact("agent", &record.agent),
            fact("user", &record.user),
            fact("app", &record.app),
            limit(),
        ],
        Stage::Route => vec![record.route.clone(), fact("store", &record.store)],
        Stage::Mapping => vec![
            fact("action", &record.action),
            fact("resource", &record.resource),
            record.missing.as_ref().map(|missing| format!("missing: {missing}")),
        ],
        Stage::Policy if record.policies.is_empty() => Vec::new(),
        Stage::Policy => vec![Some(format!("by {}", record.policies.join(", ")))],
        Stage::Upstream => vec![fact("to", &record.upstream), fact("as", &record.upstream_path)],
    };
    facts.into_iter().flatten().collect()
}

impl SeenPolicy {
    fn of(examined: &Examined) -> Self {
        let effect = match examined.effect {
            Effect::Permit => "permit",
            Effect::Forbid => "forbid",
        };
        let outside = examined.scope.iter().filter(|part| part.truth != Truth::True);
        Self {
            id: examined.note.id.clone(),
            effect,
            in_scope: examined.is_in_scope(),
            applies: truth(&examined.applies),
            scope: outside.map(SeenPart::of).collect(),
            conditions: examined.conditions.iter().map(SeenPart::of).collect(),
        }
    }
}

impl SeenPart {
    fn of(finding: &Finding) -> Self {
        let error = match &finding.truth {
            Truth::Error(why) => Some(why.clone()),
            Truth::True | Truth::False => None,
        };
        Self {
            text: finding.text.to_string(),
            is: truth(&finding.truth),
            reached: finding.reached,
            error,
            values: finding.values.iter().map(|(text, value)| (text.to_string(), value.clone())).collect(),
            hint: finding.hint.clone(),
            parts: finding.parts.iter().map(Self::of).collect(),
        }
    }
}

const fn truth(truth: &Truth) -> &'static str {
    match truth {
        Truth::True => "true",
        Truth::False => "false",
        Truth::Error(_) => "error",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_left_before_the_decision_was_neither_allowed_nor_denied() {
        let record = json!({ "decision_id": "1", "decision": "abandoned", "code": "abandoned", "method": "GET",
            "path": "/x", "issuer": "https://i.example/", "agent": "a" });
        let account = Account::of_parts(&serde_json::from_value(record).unwrap(), None);
        assert_eq!((&*account.decision, &*account.code), ("abandoned", "abandoned"));
        let passages: Vec<_> = account.stages.iter().map(|it| it.outcome).collect();
        let (came, not) = (Passage::Passed, Passage::NotReached);
        assert_eq!(passages, [came, came, not, not, not, not]);
        let record = json!({ "decision_id": "1", "decision": "abandoned", "code": "abandoned" });
        let account = Account::of_parts(&serde_json::from_value(record).unwrap(), None);
        assert!(account.stages.iter().all(|it| it.outcome == not), "{account:?}");
    }
}
