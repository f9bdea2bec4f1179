//! Scenarios: what is given, what is asked, and what must come of it; run through the walk that requests take.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderName;
use serde::Deserialize;
use serde_json::Value;

use super::{
    coverage::Coverage,
    given::Given,
    recorded::is_answered_here,
    rehearsal::{Outcome, Part, Stage},
    retold::{DEPTH_MAX, FILE_BYTES_MAX, NODES_MAX},
};
use crate::{
    base::{
        clock::Timestamp,
        filled,
        problem::{Problem, Problems, Source},
    },
    entities::{hiding::Reading, recorded::RecordedQuestion},
    forward::Obligations,
    pipeline::Admission,
    policy::Explanation,
    refusal::Refusal,
};

/// A file of scenarios.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioFile {
    /// What stands for all of them.
    #[serde(default)]
    given: Given,
    /// The scenarios.
    pub scenarios: Vec<Scenario>,
}

/// A scenario.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows.
    pub name: String,
    #[serde(default)]
    given: Given,
    /// The request: a line, or a whole head.
    when: String,
    then: Then,
}

/// What must come of it. What is not named may be anything.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Then {
    /// `allowed`, or the code of the refusal.
    code: Option<String>,
    /// The status; 200 for what is allowed.
    status: Option<u16>,
    /// The policies that determine it, all of them.
    policies: Option<Vec<String>>,
    /// Fields that the upstream gets; `null` for one that it must not get.
    upstream: Option<BTreeMap<String, Option<String>>>,
    /// The target that the upstream gets: path and query.
    target: Option<String>,
    /// Fields of the answer to a refused client, or to a preflight; `null` for one that it must not have.
    headers: Option<BTreeMap<String, Option<String>>>,
    /// Members of the body of a refusal.
    body: Option<BTreeMap<String, Value>>,
}

/// What came of a scenario.
#[derive(Debug)]
pub struct Played {
    /// What it shows.
    pub name: String,
    /// In what it differs from what it should be; empty where it is as it should be.
    pub differences: Vec<String>,
    /// What may help to see why: nearest misses, and questions that nobody answered.
    pub hints: Vec<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// What is looked at of an outcome.
struct Seen {
    code: String,
    status: u16,
    policies: Vec<String>,
    route: Option<Arc<str>>,
    store: Option<Arc<str>>,
    explanation: Option<Explanation>,
    outcome: Option<Outcome>,
}

/// The moment at which scenarios happen that do not say when.
const NOW: &str = "2026-01-01T12:00:00Z";

/// Where `null` says something: as JSON that others are given or give, and for fields that must not be there.
fn takes_null(path: &[&str]) -> bool {
    matches!(
        path.strip_prefix(&["scenarios"]).unwrap_or(path),
        ["given", "claims", ..]
            | ["given", "header" | "question", _, ..]
            | ["given", "answers", "json", ..]
            | ["given", "answers", "rows", _, ..]
            | ["then", "upstream" | "headers" | "body", _, ..]
    )
}

impl ScenarioFile {
    /// How files of scenarios are read: what is made of a log can be read again, and no more than that.
    pub(super) fn options() -> serde_saphyr::Options {
        serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_nodes: NODES_MAX,
                max_events: NODES_MAX.saturating_mul(2),
                max_total_scalar_bytes: FILE_BYTES_MAX,
                max_depth: DEPTH_MAX,
                simple_key_max_lookahead: FILE_BYTES_MAX,
            },
        }
    }

    /// Reads `source`.
    ///
    /// # Errors
    /// What is wrong with it, with its place.
    pub fn parse(source: &Arc<Source>) -> Result<Self, Problems> {
        let file: Self = filled::read(source, Self::options, takes_null)?;
        let mut problems = Problems::default();
        if let Some(wrong) = file.given.malformed() {
            problems.push(Problem::new(format!("what stands for all: {wrong}")).within(source));
        }
        for scenario in &file.scenarios {
            if let Some(wrong) = scenario.wrong(&scenario.given.over(&file.given)) {
                problems.push(Problem::new(format!("scenario `{}`: {wrong}", scenario.name)).within(source));
            }
        }
        if file.scenarios.is_empty() {
            problems.push(Problem::new("no scenario").within(source));
        }
        problems.into_result(Some(file))
    }

    /// Runs every scenario on `stage`, noting in `coverage` what each exercises.
    pub async fn play(&self, stage: &Stage, coverage: &mut Coverage) -> Vec<Played> {
        let mut played = Vec::with_capacity(self.scenarios.len());
        for scenario in &self.scenarios {
            let began = std::time::Instant::now();
            let given = scenario.given.over(&self.given);
            let (differences, hints) = match scenario.see(&given, stage).await {
                Ok(seen) => {
                    coverage.note(
                        seen.route.as_deref(),
                        seen.store.as_deref(),
                        seen.explanation.as_ref(),
                        seen.determining(),
                    );
                    let differences = scenario.then.differences(&seen);
                    let hints = if differences.is_empty() { Vec::new() } else { scenario.hints(&seen) };
                    (differences, hints)
                }
                Err(message) => (vec![message], Vec::new()),
            };
            let seconds = began.elapsed().as_secs_f64();
            played.push(Played { name: scenario.name.clone(), differences, hints, seconds });
        }
        played
    }
}

impl Scenario {
    /// What is wrong with how it is written, where `given` stands.
    fn wrong(&self, given: &Given) -> Option<String> {
        let then = &self.then;
        if then.code.is_none() && then.status.is_none() {
            return Some("`then` names neither `code` nor `status`, so that anything would do".into());
        }
        let known = |code: &String| {
            code == "allowed" || is_answered_here(code) || Refusal::every().iter().any(|it| it.code() == code)
        };
        if let Some(code) = then.code.as_ref().filter(|code| !known(code)) {
            return Some(format!(
                "`{code}` is neither `allowed` nor `preflight` nor the code of a page or refusal (docs/errors.md)"
            ));
        }
        let mut fields = then.upstream.iter().chain(&then.headers).flat_map(BTreeMap::keys);
        if let Some(name) = fields.find(|name| name.parse::<HeaderName>().is_err()) {
            return Some(format!("`{name}` names no header field"));
        }
        let forwarded = then.upstream.is_none() && then.target.is_none();
        let parts = [forwarded, then.headers.is_none(), then.body.is_none(), then.status.is_none()];
        if given.question.is_some() && parts.contains(&false) {
            return Some("of a recorded question only `code` and `policies` can be told".into());
        }
        given.wrong(&self.when)
    }

    async fn see(&self, given: &Given, stage: &Stage) -> Result<Seen, String> {
        if let Some(question) = &given.question {
            return seen_of_record(question, given.store.as_deref(), &self.when, stage);
        }
        let now = given.now.or_else(|| Timestamp::parse_rfc3339(NOW)).ok_or("no time")?;
        let (request, token) = given.presented(&self.when);
        let peer = given.peer.map(|ip| (ip, 0).into());
        let answers = given.answers.clone().unwrap_or_default();
        let outcome = stage
            .rehearse(&Part { now, peer, certificate: given.certificate.clone(), token, answers, request })
            .await?;
        let record = &outcome.record;
        Ok(Seen {
            code: record.code.to_owned(),
            status: record.status,
            policies: record.policies.clone(),
            route: record.route.clone(),
            store: record.store.clone(),
            explanation: outcome.explanation.clone(),
            outcome: Some(outcome),
        })
    }

    /// What may help to see why it fails.
    fn hints(&self, seen: &Seen) -> Vec<String> {
        let mut hints = seen.hints();
        // Of those that stand for all of a file, one scenario need not ask for every one.
        if let (Some(outcome), true) = (&seen.outcome, self.given.answers.is_some()) {
            hints.extend(outcome.unused.clone());
        }
        hints
    }
}

/// What the policies of `stage` say to a recorded question.
fn seen_of_record(question: &RecordedQuestion, store: Option<&str>, when: &str, stage: &Stage) -> Result<Seen, String> {
    let blueprint = stage.blueprint();
    let store = blueprint.stores.named(store).ok_or("there is no such store")?;
    let question = question.read(&Reading::default())?;
    let decision = store.policies.decide(&question);
    let (method, path) = when.trim().split_once(' ').unwrap_or_default();
    let route = blueprint.routes.routes().iter().find(|plan| {
        let (methods, place) = plan.name().split_once(' ').unwrap_or_default();
        let template = place.find('/').and_then(|at| place.get(at..)).unwrap_or_default();
        methods.split(',').any(|known| known == method) && is_of(path, template)
    });
    let explanation = Some(store.policies.explain(&question));
    let (code, status, determining) = match decision.into_result() {
        Ok(allowed) => ("allowed", 200, allowed.determining().to_vec()),
        Err(denied) => {
            let determining = denied.determining.clone();
            let refusal = Refusal::from(denied);
            (refusal.code(), refusal.status().as_u16(), determining)
        }
    };
    Ok(Seen {
        code: code.to_owned(),
        status,
        policies: determining.iter().map(|note| note.id.clone()).collect(),
        route: route.map(|plan| plan.name().clone()),
        store: store.name.clone(),
        explanation,
        outcome: None,
    })
}

/// Whether a recorded path is one of `template`.
fn is_of(path: &str, template: &str) -> bool {
    let (path, template): (Vec<_>, Vec<_>) = (path.split('/').collect(), template.split('/').collect());
    path.len() == template.len()
        && path.iter().zip(template).all(|(is, should)| *is == should || should.starts_with('{'))
}

impl Then {
    /// Everything in which `seen` is not as it should be.
    fn differences(&self, seen: &Seen) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, is: Value, should: Value| {
            if is != should {
                differences.push(format!("{what} is {is}, should be {should}"));
            }
        };
        if let Some(code) = &self.code {
            compare("code", seen.code.as_str().into(), code.as_str().into());
        }
        if let Some(status) = self.status {
            compare("status", seen.status.into(), status.into());
        }
        if let Some(policies) = &self.policies {
            let mut should = policies.clone();
            should.sort();
            compare("policies", seen.policies.clone().into(), should.into());
        }
        let Some(outcome) = &seen.outcome else { return differences };
        let unheard = match &outcome.result {
            Ok(Admission::Forward(_)) if self.headers.is_some() || self.body.is_some() => {
                Some("it is allowed, so that there is no refusal with `headers` and `body`")
            }
            Ok(Admission::Preflight(_)) if self.body.is_some() => Some("it is a preflight, answered without `body`"),
            Ok(Admission::Page(_)) if self.body.is_some() => Some("it is a page, which has no refusal's `body`"),
            Ok(Admission::Preflight(_) | Admission::Page(_)) | Err(_)
                if self.upstream.is_some() || self.target.is_some() =>
            {
                Some("it is answered here, so that nothing is forwarded with `upstream` and `target`")
            }
            _ => None,
        };
        if let Some(unheard) = unheard {
            differences.push(unheard.to_owned());
            return differences;
        }
        if let Some(target) = &self.target {
            let is = outcome.obligations().map(Obligations::target);
            compare("the upstream's target", is.into(), target.as_str().into());
        }
        for (name, should) in self.upstream.iter().flatten() {
            compare(&format!("the upstream's {name}"), outcome.forwarded(name).into(), should.clone().into());
        }
        for (name, should) in self.headers.iter().flatten() {
            compare(name, outcome.answered(name).into(), should.clone().into());
        }
        for (name, should) in self.body.iter().flatten() {
            let is = outcome.problem.as_ref().and_then(|body| body.get(name)).cloned().unwrap_or_default();
            compare(&format!("the body's {name}"), is, should.clone());
        }
        differences
    }
}

impl Seen {
    /// The policies that determined what was decided. Where one erred, none did.
    fn determining(&self) -> &[String] {
        if self.code == "policy_failed" { &[] } else { &self.policies }
    }

    fn hints(&self) -> Vec<String> {
        let mut hints: Vec<_> = self.outcome.iter().flat_map(|outcome| outcome.unanswered.clone()).collect();
        if let Some(missing) = self.outcome.as_ref().and_then(|outcome| outcome.record.missing.as_ref()) {
            hints.push(format!("`{missing}` is missing"));
        }
        if let (Some(explanation), false) = (&self.explanation, self.code == "allowed") {
            let sides = explanation.sides.iter().map(|consulted| consulted.side);
            hints.extend(sides.flat_map(|side| explanation.misses(side)).map(|miss| miss.to_string()));
        }
        hints
    }
}
