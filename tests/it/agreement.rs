//! `test`, `explain` and `replay` say what the live gate says: for every case and attack, and for policies and requests
//! made at random.

use std::sync::Arc;

use portcullis::{
    audit::Record,
    authoring::{
        account::Account,
        coverage::Coverage,
        recorded::{RecordLine, is_answered_here},
        rehearsal::{Outcome, Part, Stage, Token},
        replay::Replay,
        retold,
        scenario::ScenarioFile,
    },
    base::{clock::Timestamp, problem::Source, pseudonym::Pseudonyms, secret::Secret},
    config::Loaded,
    entities::hiding::{Reading, Recording},
};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Map, Value, json};

use crate::{
    house::{self, House, NOW},
    wire,
};

/// Everybody else who tells of decisions, beside a live gate of the same configuration.
pub(crate) struct Tellers {
    stage: Stage,
}

/// What a decision is, in the words that all of them share.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: String,
    status: u16,
    policies: Vec<String>,
    resource: Option<String>,
}

impl Said {
    fn live(record: &Record) -> Self {
        let (code, policies) = (record.code.to_owned(), record.policies.clone());
        Self { code, status: record.status, policies, resource: record.resource.as_deref().map(str::to_owned) }
    }
}

impl Tellers {
    pub(crate) fn of(loaded: &Loaded) -> Self {
        Self { stage: Stage::real(loaded).unwrap_or_else(|error| panic!("{error}")) }
    }

    /// Everything that they say otherwise than the live gate, which got `request` and wrote `record`.
    pub(crate) async fn differences(&self, request: &str, record: &Record) -> Vec<String> {
        let part = Part {
            now: Timestamp::from_seconds(NOW),
            peer: Some(([127, 0, 0, 1], 0).into()),
            certificate: None,
            token: Token::AsIs,
            answers: Vec::new(),
            request: request.to_owned(),
        };
        let outcome = match self.stage.rehearse(&part).await {
            Ok(outcome) => outcome,
            Err(error) => return vec![format!("cannot be rehearsed: {error}")],
        };
        let (live, rehearsed) = (Said::live(record), Said::live(&outcome.record));
        let mut differences = Vec::new();
        if live != rehearsed {
            differences.push(format!("live it is {live:?}, rehearsed {rehearsed:?}"));
        }
        differences.extend(explained_otherwise(&outcome, &live));
        if record.question.is_some() {
            differences.extend(self.replayed_otherwise(record));
            differences.extend(self.scenario_otherwise(record).await);
        }
        differences
    }

    fn replayed_otherwise(&self, record: &Record) -> Vec<String> {
        let stores = &self.stage.blueprint().stores;
        let store = stores.named(record.store.as_deref()).unwrap();
        let name = record.store.as_deref().unwrap_or("default");
        let line = serde_json::to_string(record).unwrap();
        let replay = Replay::new(&store.policies, name, Reading::default());
        let tally = replay.run(line.as_bytes(), 1, |_| {}).unwrap();
        let same = (tally.records, tally.replayed, tally.same) == (1, 1, 1);
        if same { Vec::new() } else { vec![format!("replayed it is {tally:?}")] }
    }

    async fn scenario_otherwise(&self, record: &Record) -> Vec<String> {
        let (line, mut made) = (serde_json::to_string(record).unwrap(), Vec::new());
        retold::scenarios(line.as_bytes(), &mut made).unwrap();
        let source = Arc::new(Source { name: "recorded.yaml".into(), text: String::from_utf8(made).unwrap() });
        let file = ScenarioFile::parse(&source).unwrap_or_else(|error| panic!("{error}"));
        let played = file.play(&self.stage, &mut Coverage::of(self.stage.blueprint())).await;
        played.into_iter().flat_map(|it| it.differences).map(|it| format!("as a scenario: {it}")).collect()
    }
}

/// What `explain` makes of a rehearsal: its decision, and what it says of each policy.
fn explained_otherwise(outcome: &Outcome, live: &Said) -> Vec<String> {
    let account = Account::of(outcome);
    let mut differences = Vec::new();
    let allowed = live.code == "allowed" || is_answered_here(&live.code);
    if account.code != live.code || (account.decision == "allow") != allowed {
        differences.push(format!("explained it is {} ({}), live {}", account.decision, account.code, live.code));
    }
    let determining = |applies: &str, effect: &str| {
        let policies = account.principals.iter().flat_map(|it| &it.policies);
        let mut ids: Vec<_> = policies
            .filter(|it| it.applies == applies && (effect.is_empty() || it.effect == effect))
            .map(|it| it.id.clone())
            .collect();
        ids.sort();
        ids.dedup();
        ids
    };
    let told = match live.code.as_str() {
        "allowed" => determining("true", "permit"),
        "access_denied" if !live.policies.is_empty() => determining("true", "forbid"),
        "policy_failed" => determining("error", ""),
        _ => return differences,
    };
    // Of several principals the gate names those of the first that is denied.
    if account.principals.len() == 1 && told != live.policies {
        differences.push(format!("explained it is by {told:?}, live by {:?}", live.policies));
    }
    if !allowed && account.nearest_miss.is_empty() {
        differences.push("explained without a nearest miss".into());
    }
    differences
}

pub(crate) const SCHEMA: &str = "
entity User = { username?: String, level?: Long };
entity Agent;
entity UserData = { owner: User, kind: String };
type Token = { scope: Set<String>, callerApp?: String, amount?: Long };
action read, write appliesTo { principal: [Agent], resource: [UserData],
  context: { token: Token, onBehalfOf?: User, request: { method: String, peer?: ipaddr, time: datetime } } };
";

pub(crate) const CONFIG: &str = "
listen: 127.0.0.1:8080
upstream: { url: http://127.0.0.1:9000 }
issuers:
  - cognito_access:
      issuer: https://cognito-idp.us-east-1.amazonaws.com/us-east-1_agents
      client_ids: [1example23456789]
      scope_prefix: crossDomainService/
routes:
  - { methods: [GET], path: '/users/{userId}/{kind}', action: read, resource: 'UserData::\"{path.userId}\"', delegation: optional,
      attributes: { owner: 'User::\"{path.userId}\"', kind: '{path.kind}' } }
  - { methods: [POST], path: '/users/{userId}/{kind}', action: write, resource: 'UserData::\"{path.userId}\"', delegation: optional,
      attributes: { owner: 'User::\"{path.userId}\"', kind: '{path.kind}' } }
records: { questions: true }
";

/// What policies of all kinds of tests are made of.
pub(crate) const POOL: [&str; 18] = [
    "permit (principal is Agent, action == Action::\"read\", resource) when { context.token.scope.contains(\"crossDomainService/read\") && context has onBehalfOf && resource.owner == context.onBehalfOf };",
    "permit (principal, action, resource) when { context.token has callerApp && context.token.callerApp like \"Example*\" };",
    "permit (principal, action, resource) when { context.token has amount && context.token.amount < 100 };",
    "permit (principal == Agent::\"1example23456789\", action == Action::\"write\", resource is UserData);",
    "permit (principal, action, resource == UserData::\"user-1\") unless { resource.kind == \"secrets\" };",
    "permit (principal, action, resource) when { [\"data\", \"notes\"].contains(resource.kind) };",
    "permit (principal, action, resource) when { context has onBehalfOf && context.onBehalfOf has level && context.onBehalfOf.level == 3 };",
    "permit (principal, action, resource) when { if context has onBehalfOf then context.onBehalfOf has username else resource.kind == \"data\" };",
    "permit (principal, action, resource) when { context.token.scope.containsAny([\"crossDomainService/write\", \"userData/read\"]) };",
    "forbid (principal, action, resource) when { context.token has amount && context.token.amount + 1 > 50 };",
    "forbid (principal, action == Action::\"write\", resource) unless { context.token.scope.contains(\"crossDomainService/write\") };",
    "forbid (principal, action, resource) when { resource.kind like \"*secret*\" };",
    "forbid (principal, action, resource) when { context has onBehalfOf && context.onBehalfOf has username && context.onBehalfOf.username == \"mallory\" };",
    "forbid (principal, action, resource) unless { context.request has peer && context.request.peer.isLoopback() };",
    "forbid (principal, action, resource) when { context.request.time < datetime(\"2026-01-01\") };",
    "forbid (principal, action, resource) when { context.token has amount && context.token.amount == -7 };",
    "forbid (principal, action, resource) when { context.request has peer && context.request.peer == ip(\"10.0.0.1\") };",
    "forbid (principal == Agent::\"another\", action, resource);",
];

/// A request: method, user, kind of data, and claims over the usual ones.
pub(crate) fn asked() -> impl Strategy<Value = (&'static str, &'static str, &'static str, Map<String, Value>)> {
    let claim = |name: &'static str, values: Vec<Value>| {
        prop::sample::select(values).prop_map(move |value| (name.to_owned(), value))
    };
    let claims = (
        claim(
            "scope",
            ["crossDomainService/read", "userData/read crossDomainService/x", "crossDomainService/write"]
                .map(Value::from)
                .into(),
        ),
        claim("callerApp", vec![Value::Null, "ExampleChatApplication".into(), "Other".into(), 7.into()]),
        claim(
            "amount",
            vec![Value::Null, 1.into(), 49.into(), 60.into(), i64::MAX.into(), (-7).into(), 1.5.into(), "1".into()],
        ),
        claim(
            "onBehalfOf",
            vec![
                Value::Null,
                json!({}),
                json!({ "sub": "user-1", "username": "jane", "level": 3 }),
                json!({ "sub": "user-2", "username": "mallory" }),
                json!({ "sub": "user-1", "level": i64::MIN }),
                json!("{\"sub\":\"user-1\"}"),
            ],
        ),
    );
    let claims = claims.prop_map(|(a, b, c, d)| Map::from_iter([a, b, c, d]));
    let method = prop::sample::select(vec!["GET", "GET", "POST", "DELETE"]);
    let (user, kind) = (vec!["user-1", "user-2"], vec!["data", "notes", "secrets"]);
    (method, prop::sample::select(user), prop::sample::select(kind), claims)
}

/// What a pseudonymised record is replayed to: the same, or nobody can tell; never anything else.
fn pseudonymised(record: &Record, stage: &Stage, clear: &[&str]) -> (bool, String) {
    let pseudonyms = Pseudonyms::new(&Secret::from("a key of sixteen bytes or more".to_owned())).unwrap();
    let clear = clear.iter().map(|it| it.split('.').map(str::to_owned).collect()).collect();
    let recording = Recording { pseudonyms: Some(pseudonyms.clone()), clear };
    let line: RecordLine = serde_json::from_value(serde_json::to_value(record).unwrap()).unwrap();
    let question = line.question.unwrap().read(&Reading::default()).unwrap();
    let mut hidden = record.clone();
    hidden.hide(&pseudonyms);
    hidden.resource = question.resource(&recording).map(Arc::from);
    hidden.question = serde_json::value::to_raw_value(&question.recorded(&recording).unwrap()).ok();
    let text = serde_json::to_string(&hidden).unwrap();
    let policies = &stage.blueprint().stores.named(None).unwrap().policies;
    let reading = Reading::new(&pseudonyms, &policies.literals());
    let tally = Replay::new(policies, "default", reading).run(text.as_bytes(), 1, |_| {}).unwrap();
    assert_eq!(tally.same + tally.unfaithful, 1, "{tally:?}\n{text}");
    (tally.same == 1, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_test_replay_and_the_live_gate_say_the_same_of_policies_and_requests_made_at_random() {
    let mut runner = TestRunner::default();
    let mut draw = |sets: &mut Vec<Vec<&'static str>>| {
        let some = prop::sample::subsequence(POOL.to_vec(), 1..=4);
        sets.push(some.new_tree(&mut runner).unwrap().current());
    };
    let mut sets = vec![POOL.to_vec()];
    (0..9).for_each(|_| draw(&mut sets));
    let (mut seen, mut told, mut clear) = (std::collections::BTreeMap::<String, usize>::new(), 0, 0);
    for set in sets {
        let texts = set.iter().enumerate().map(|(number, text)| format!("@id(\"p{number}\") {text}\n"));
        let files = [("schema.cedarschema", SCHEMA.to_owned()), ("users.cedar", texts.collect())];
        let files = files.map(|(name, text)| (format!("policies/{name}"), text));
        let loaded = House::load(Some(CONFIG), &files);
        let tellers = Tellers::of(&loaded);
        let mut house = House::of(loaded, NOW).await;
        for _ in 0..40 {
            let (method, user, kind, over) = asked().new_tree(&mut runner).unwrap().current();
            let mut claims = house::claims();
            for (name, value) in over {
                let claims = claims.as_object_mut().unwrap();
                if value.is_null() {
                    claims.remove(&name)
                } else {
                    claims.insert(name, value)
                };
            }
            let token = house::key("agents").sign(&claims).unwrap();
            let fields = [("authorization".to_owned(), format!("Bearer {token}"))];
            let bytes = wire::request(method, &format!("/users/{user}/{kind}"), &fields);
            let (_, record) = house.ask(&bytes).await;
            let record = record.expect("a record");
            *seen.entry(record.code.to_owned()).or_default() += 1;
            let differences = tellers.differences(&String::from_utf8(bytes).unwrap(), &record).await;
            assert!(differences.is_empty(), "{set:#?}\n{method} {user} {kind} {claims}: {differences:#?}");
            if record.question.is_some() {
                let (known, text) = pseudonymised(&record, &tellers.stage, &[]);
                told += usize::from(known);
                for name in ["user-1", "user-2", "jane", "mallory", "1example23456789", "secrets", "127.0.0.1\""] {
                    assert!(!text.contains(name), "{name} in {text}");
                }
                let needed = ["context.token.callerApp", "context.token.amount", "UserData.kind", "context.request"];
                let (known, _) = pseudonymised(&record, &tellers.stage, &needed);
                clear += 1;
                assert!(known, "with all that is needed in the clear, it can be told");
            }
        }
    }
    println!("{seen:?}; of {clear} questions under pseudonyms {told} could be told");
    for code in ["allowed", "access_denied", "policy_failed", "claim_missing", "route_missing"] {
        assert!(seen.contains_key(code), "no request was {code}: {seen:?}");
    }
    assert!(told > 5 && told < clear, "{told} of {clear}");
}
