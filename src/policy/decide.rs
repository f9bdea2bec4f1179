//! The decision. Cedar skips a policy that errs, a `forbid` too; here it turns the decision into a denial.

use std::sync::Arc;

use cedar_policy::{AuthorizationError, Decision as Effect, Entities, PolicyId, Request};

use super::{Policies, PolicyNote, stores::OnError};
use crate::entities::{DecisionRequest, Side};

/// What the policies say to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    outcome: Result<Allowed, Denied>,
    skipped: Vec<Arc<PolicyNote>>,
}

/// A question that the policies answered with yes. Only [`Policies::decide`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    determining: Vec<Arc<PolicyNote>>,
}

/// A question that the policies answered with no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// How it came to be denied.
    pub reason: DenyReason,
    /// Whom it was denied to, where that is known.
    pub side: Option<Side>,
    /// The policies that made it so: the forbids that applied, or those that erred; none for the default denial.
    pub determining: Vec<Arc<PolicyNote>>,
    /// What would have allowed it, where the client is to be told that.
    pub nearest_miss: Option<String>,
}

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<_> = self.determining.iter().map(|note| format!("`{}`", note.id)).collect();
        match (self.reason, ids.as_slice()) {
            (DenyReason::Failure, _) => write!(f, "a policy could not be evaluated: {}", ids.join(", ")),
            (DenyReason::Policy, []) => f.write_str("no permit applies"),
            (DenyReason::Policy, _) => write!(f, "it is forbidden by {}", ids.join(", ")),
        }
    }
}

/// How a question came to be denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyReason {
    /// No permit applied, or a forbid did.
    Policy,
    /// A policy in scope erred.
    Failure,
}

/// The policies that apply to a question, and those that err about it. A policy may stand in it twice, and permits may be
/// left out where a forbid applies.
#[derive(Debug, Default)]
struct Evaluation {
    erred: Vec<Arc<PolicyNote>>,
    forbids: Vec<Arc<PolicyNote>>,
    permits: Vec<Arc<PolicyNote>>,
}

impl Decision {
    /// Yes or no.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn into_result(self) -> Result<Allowed, Denied> {
        self.outcome
    }

    /// Yes or no, to be looked at.
    ///
    /// # Errors
    /// [`Denied`].
    pub const fn result(&self) -> Result<&Allowed, &Denied> {
        self.outcome.as_ref()
    }

    /// The policies that erred and were passed over, in a store that takes them so.
    pub fn skipped(&self) -> &[Arc<PolicyNote>] {
        &self.skipped
    }
}

impl Allowed {
    /// The permits that applied.
    pub fn determining(&self) -> &[Arc<PolicyNote>] {
        &self.determining
    }
}

impl Policies {
    /// Decides `question`, which each of its principals must be allowed: a policy that errs denies, unless the store passes
    /// it over, else a forbid that applies denies, else a permit that applies allows, else nothing does.
    pub fn decide(&self, question: &DecisionRequest) -> Decision {
        let (mut determining, mut skipped) = (Vec::new(), Vec::new());
        for (side, request) in &question.requests {
            let Evaluation { mut erred, forbids, permits } = self.evaluate(request, &question.entities);
            if self.on_error == OnError::AcceptSkippedPolicies {
                skipped.append(&mut erred);
            }
            let (reason, determines) = match (erred.is_empty(), forbids.is_empty(), permits.is_empty()) {
                (false, ..) => (DenyReason::Failure, erred),
                (true, true, false) => {
                    determining.extend(permits);
                    continue;
                }
                (true, ..) => (DenyReason::Policy, forbids),
            };
            let denied = Denied { reason, side: Some(*side), determining: in_order(determines), nearest_miss: None };
            return Decision { outcome: Err(denied), skipped: in_order(skipped) };
        }
        // INVARIANT: nobody is allowed who was not asked about.
        let outcome = match question.requests.is_empty() {
            false => Ok(Allowed { determining: in_order(determining) }),
            true => Err(Denied { reason: DenyReason::Policy, side: None, determining, nearest_miss: None }),
        };
        Decision { outcome, skipped: in_order(skipped) }
    }

    /// Asks Cedar about every policy whose scope can hold `request`.
    fn evaluate(&self, request: &Request, entities: &Entities) -> Evaluation {
        let mut found = Evaluation::default();
        for set in self.index.matching(request, entities) {
            let response = self.authorizer.is_authorized(request, set, entities);
            let diagnostics = response.diagnostics();
            found.erred.extend(diagnostics.errors().map(|error| match error {
                AuthorizationError::PolicyEvaluationError(error) => self.note_of(error.policy_id()),
            }));
            // Cedar names the forbids that apply, or the permits where none does.
            let determining = diagnostics.reason().map(|id| self.note_of(id));
            match response.decision() {
                Effect::Allow => found.permits.extend(determining),
                Effect::Deny => found.forbids.extend(determining),
            }
        }
        found
    }

    /// The policies whose scope can hold `question`, by id.
    pub fn in_scope(&self, question: &DecisionRequest) -> Vec<String> {
        let sets = question.requests.iter().flat_map(|(_, request)| self.index.matching(request, &question.entities));
        sets.flat_map(cedar_policy::PolicySet::policies).map(|policy| policy.id().to_string()).collect()
    }

    pub(super) fn note_of(&self, id: &PolicyId) -> Arc<PolicyNote> {
        let unknown = || Arc::new(PolicyNote::silent(id.to_string()));
        self.known.get(id).map_or_else(unknown, |known| known.note.clone())
    }
}

/// Each once, in order of id, so that records compare.
fn in_order(mut notes: Vec<Arc<PolicyNote>>) -> Vec<Arc<PolicyNote>> {
    notes.sort_by(|a, b| a.id.cmp(&b.id));
    notes.dedup_by(|a, b| a.id == b.id);
    notes
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path, sync::OnceLock};

    use cedar_policy::{Authorizer, Context, EntityUid, Policy, PolicySet, Schema};
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::policy::{anatomy::Truth, index::Index};

    /// Users in groups, documents in folders, actions in groups.
    fn entities() -> Entities {
        static ENTITIES: OnceLock<Entities> = OnceLock::new();
        ENTITIES.get_or_init(build_entities).clone()
    }

    fn build_entities() -> Entities {
        let entity = |uid: (&str, &str), parents: &[(&str, &str)]| {
            let named = |(kind, id): (&str, &str)| serde_json::json!({ "type": kind, "id": id });
            let parents: Vec<_> = parents.iter().map(|parent| named(*parent)).collect();
            serde_json::json!({ "uid": named(uid), "attrs": { "n": 1 }, "parents": parents })
        };
        let all = serde_json::json!([
            entity(("U", "0"), &[("G", "0")]),
            entity(("U", "1"), &[("G", "0"), ("G", "1")]),
            entity(("G", "0"), &[("G", "2")]),
            entity(("G", "1"), &[]),
            entity(("G", "2"), &[]),
            entity(("D", "0"), &[("F", "0")]),
            entity(("D", "1"), &[]),
            entity(("F", "0"), &[]),
            entity(("Action", "a"), &[("Action", "all"), ("Action", "some")]),
            entity(("Action", "b"), &[("Action", "all")]),
        ]);
        Entities::from_json_value(all, None).unwrap()
    }

    fn scope(variable: &'static str, kind: &'static str, group: &'static str) -> impl Strategy<Value = String> {
        let uid = prop_oneof![Just(kind), Just(group)]
            .prop_flat_map(|kind| (0..3).prop_map(move |id| format!("{kind}::\"{id}\"")));
        prop_oneof![
            2 => Just(variable.to_owned()),
            1 => Just(format!("{variable} is {kind}")),
            1 => Just(format!("{variable} is {group}")),
            2 => uid.clone().prop_map(move |uid| format!("{variable} == {uid}")),
            2 => uid.clone().prop_map(move |uid| format!("{variable} in {uid}")),
            1 => uid.prop_map(move |uid| format!("{variable} is {kind} in {uid}")),
        ]
    }

    fn action() -> impl Strategy<Value = String> {
        let uid = prop::sample::select(vec!["a", "b", "all", "some"]).prop_map(|id| format!("Action::\"{id}\""));
        prop_oneof![
            Just("action".to_owned()),
            uid.clone().prop_map(|uid| format!("action == {uid}")),
            uid.clone().prop_map(|uid| format!("action in {uid}")),
            prop::collection::vec(uid, 0..4).prop_map(|uids| format!("action in [{}]", uids.join(", "))),
        ]
    }

    fn policy() -> impl Strategy<Value = String> {
        let conditions = vec![
            "",
            "when { principal.n == 1 }",
            "unless { resource.n == 1 }",
            "when { principal.absent }",
            "when { principal has absent && principal.absent }",
            "when { !(principal.n == 1 && resource.n == 2) || principal.absent }",
            "when { if principal has absent then principal.absent else resource.n > 0 }",
            "unless { principal.absent || true } when { resource.n < 2 }",
            "unless { principal.n == 1 || principal.absent }",
            "when { principal in G::\"0\" && !(resource in F::\"0\") }",
            "unless { if principal in G::\"1\" then resource.n == 2 else principal.absent == 1 }",
        ];
        let parts = (
            prop::sample::select(vec!["permit", "permit", "forbid"]),
            scope("principal", "U", "G"),
            action(),
            scope("resource", "D", "F"),
            prop::sample::select(conditions),
        );
        parts.prop_map(|(effect, principal, action, resource, condition)| {
            format!("{effect} ({principal}, {action}, {resource}) {condition};")
        })
    }

    /// What Cedar's authorizer says of the whole set, in our words.
    fn plain(set: &PolicySet, question: &DecisionRequest) -> Decision {
        let response = Authorizer::new().is_authorized(&question.requests[0].1, set, &question.entities);
        let note = |id: &PolicyId| Arc::new(PolicyNote::silent(id.to_string()));
        let erred: Vec<_> = response
            .diagnostics()
            .errors()
            .map(|AuthorizationError::PolicyEvaluationError(error)| note(error.policy_id()))
            .collect();
        let determining = in_order(response.diagnostics().reason().map(note).collect());
        let outcome = if !erred.is_empty() {
            Err(Denied {
                reason: DenyReason::Failure,
                side: Some(Side::Agent),
                determining: in_order(erred),
                nearest_miss: None,
            })
        } else if response.decision() == Effect::Allow {
            Ok(Allowed { determining })
        } else {
            Err(Denied { reason: DenyReason::Policy, side: Some(Side::Agent), determining, nearest_miss: None })
        };
        Decision { outcome, skipped: Vec::new() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn the_index_changes_no_decision(texts in prop::collection::vec(policy(), 0..16)) {
            let named = texts.iter().enumerate();
            let policies: Vec<_> =
                named.map(|(index, text)| Policy::parse(Some(PolicyId::new(index.to_string())), text).unwrap()).collect();
            let set = PolicySet::from_policies(policies.iter().cloned()).unwrap();
            let indexed = indexed(policies.iter());
            let uid = |text: String| text.parse::<EntityUid>().unwrap();
            for principal in ["U::\"0\"", "U::\"1\"", "U::\"2\"", "G::\"0\""] {
                for action in ["a", "b"] {
                    for resource in ["D::\"0\"", "D::\"1\"", "F::\"0\""] {
                        let (principal, resource) = (uid(principal.to_owned()), uid(resource.to_owned()));
                        let action = uid(format!("Action::\"{action}\""));
                        let request = Request::new(principal, action, resource, Context::empty(), None).unwrap();
                        let question = DecisionRequest {
                            requests: vec![(Side::Agent, request)],
                            entities: entities(),
                            origins: Vec::new(),
                        };
                        let whole = indexed.evaluate(&question.requests[0].1, &question.entities);
                        let parts = by_parts(&indexed, &question);
                        prop_assert!(!differ(&whole, &parts), "{:?}: {:?} is not {:?}", texts, parts, whole);
                        prop_assert_eq!(indexed.decide(&question), plain(&set, &question), "{:?}: {:?}", texts, question.requests);
                    }
                }
            }
        }
    }

    fn indexed<'a>(policies: impl Iterator<Item = &'a Policy>) -> Policies {
        let index = Index::build(policies).unwrap();
        let known =
            index.policies().map(|policy| (policy.id().clone(), PolicyNote::silent(policy.id().to_string()).into()));
        let known = known.collect();
        Policies { index, known, authorizer: Authorizer::new(), on_error: OnError::Deny, revision: "".into() }
    }

    /// What applies and errs by the explanation of a question, which looks at each policy by its parts.
    fn by_parts(policies: &Policies, question: &DecisionRequest) -> Evaluation {
        let mut found = Evaluation::default();
        for examined in policies.explain(question).sides.remove(0).policies {
            match (examined.applies, examined.effect) {
                (Truth::Error(_), _) => found.erred.push(examined.note),
                (Truth::True, cedar_policy::Effect::Permit) => found.permits.push(examined.note),
                (Truth::True, cedar_policy::Effect::Forbid) => found.forbids.push(examined.note),
                (Truth::False, _) => {}
            }
        }
        found
    }

    /// Whether both name the same policies; of permits beside a forbid Cedar says nothing.
    fn differ(whole: &Evaluation, parts: &Evaluation) -> bool {
        let permits_told = whole.forbids.is_empty();
        ids(&whole.erred) != ids(&parts.erred)
            || ids(&whole.forbids) != ids(&parts.forbids)
            || permits_told && ids(&whole.permits) != ids(&parts.permits)
    }

    fn ids(notes: &[Arc<PolicyNote>]) -> BTreeSet<&str> {
        notes.iter().map(|note| note.id.as_str()).collect()
    }

    fn expected<'a>(request: &'a Value, name: &str) -> BTreeSet<&'a str> {
        request[name].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect()
    }

    /// Runs one test file of cedar-integration-tests, whose paths start at `root`; gives its requests and what differs.
    fn run_integration_test(root: &Path, test: &Value) -> (usize, Vec<String>) {
        let read = |name: &str| std::fs::read_to_string(root.join(test[name].as_str().unwrap())).unwrap();
        let set: PolicySet = read("policies").parse().unwrap();
        let policies = indexed(set.policies());
        let (schema, _) = Schema::from_cedarschema_str(&read("schema")).unwrap();
        let entities = read("entities");
        let typed = Entities::from_json_str(&entities, Some(&schema)).ok();
        let Some(entities) = typed.or_else(|| Entities::from_json_str(&entities, None).ok()) else {
            return (0, Vec::new());
        };
        let (mut asked, mut wrong) = (0, Vec::new());
        for request in test["requests"].as_array().unwrap() {
            let uid = |name: &str| EntityUid::from_json(request[name].clone()).unwrap();
            let action = uid("action");
            let context = |typed| Context::from_json_value(request["context"].clone(), typed).ok();
            let context = context(Some((&schema, &action))).or_else(|| context(None)).unwrap();
            let put = Request::new(uid("principal"), action, uid("resource"), context, None).unwrap();
            let question =
                DecisionRequest { requests: vec![(Side::Agent, put)], entities: entities.clone(), origins: Vec::new() };
            let found = policies.evaluate(&question.requests[0].1, &entities);
            if differ(&found, &by_parts(&policies, &question)) {
                wrong.push(format!("{}: {}: explained otherwise", test["policies"], request["description"]));
            }
            let allowed = found.forbids.is_empty() && !found.permits.is_empty();
            let reason = if found.forbids.is_empty() { ids(&found.permits) } else { ids(&found.forbids) };
            let right = (request["decision"] == "allow") == allowed
                && expected(request, "reason") == reason
                && expected(request, "errors") == ids(&found.erred);
            asked += 1;
            if !right {
                wrong.push(format!("{}: {}", test["policies"], request["description"]));
            }
        }
        (asked, wrong)
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "what was judged and what was skipped is said aloud")]
    fn the_integration_tests_of_cedar_are_decided_as_cedar_says() {
        let given = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora/cedar");
        let archive = given.join("corpus-given.tar.gz");
        if !archive.exists() {
            println!("SKIPPED: no {}", archive.display());
            return;
        }
        let unpacked = tempfile::tempdir().unwrap();
        let tar = std::process::Command::new("tar").arg("xzf").arg(&archive).arg("-C").arg(unpacked.path()).status();
        assert!(tar.unwrap().success());
        let (mut asked, mut wrong) = (0, Vec::new());
        for root in [given.as_path(), unpacked.path()] {
            let mut folders = vec![root.to_owned()];
            while let Some(folder) = folders.pop() {
                for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                    if path.is_dir() {
                        folders.push(path);
                        continue;
                    }
                    let text = std::fs::read(&path).unwrap();
                    let test: Option<Value> = serde_json::from_slice(&text).ok();
                    let Some(test) = test.filter(|test| test["requests"].is_array()) else { continue };
                    let (requests, differences) = run_integration_test(root, &test);
                    asked += requests;
                    wrong.extend(differences);
                }
            }
        }
        println!("{asked} requests decided");
        assert!(asked > 1_000, "only {asked} requests");
        assert!(wrong.is_empty(), "{} of {asked}: {wrong:#?}", wrong.len());
    }
}
