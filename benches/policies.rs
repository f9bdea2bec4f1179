//! What a decision costs as policies become many, of which a handful apply: ours, with the same handful alone, and Cedar's
//! authorizer over all of them. `cargo bench --bench policies` prints a table; figures are medians on one thread.

#![expect(clippy::print_stdout, reason = "it prints a table")]

use std::{
    fmt::Write,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use cedar_policy::{Authorizer, Context, Entities, Entity, EntityUid, PolicySet, Request, RestrictedExpression};
use http::{HeaderMap, Method, header};
use portcullis::{
    authoring::keys::SigningKey,
    base::{clock::Timestamp, files::Files, outside::Outside},
    config,
    entities::{DecisionRequest, sources::Sources},
    policy::{Decision, stores::Stores},
    request::{Head, Inbound, Limits, path::Target},
    server::fetch::HttpFetch,
    token::{Issuers, Presented},
};
use serde_json::json;
use tokio::runtime::Runtime;

const SCHEMA: &str = "entity User; entity Agent; entity Doc = { owner: User };
    action read appliesTo { principal: [Agent], resource: [Doc], context: { token: { scope: Set<String> }, onBehalfOf?: User } };";

const CONFIG: &str = "
listen: 127.0.0.1:0
upstream: { url: 'http://127.0.0.1:1' }
issuers: [oidc_generic: { issuer: 'https://a.example', audiences: [api], jwks_file: keys.json, algorithms: [ES256] }]
routes: [{ methods: [GET], path: '/{id}', action: read, resource: 'Doc::\"{path.id}\"', attributes: { owner: 'User::\"u\"' } }]
";

/// The handful that applies to every question: five, and one for the document asked for.
fn handful() -> String {
    let condition = "context has onBehalfOf && resource.owner == context.onBehalfOf";
    let scopes = [
        "principal, action, resource",
        "principal is Agent, action, resource",
        "principal, action == Action::\"read\", resource",
        "principal, action, resource is Doc",
        "principal is Agent, action == Action::\"read\", resource is Doc",
    ];
    let rules = scopes
        .iter()
        .enumerate()
        .map(|(index, scope)| format!("@id(\"a{index}\") permit ({scope}) when {{ {condition} }};\n"));
    rules.chain([document_rule(7)]).collect()
}

fn document_rule(number: usize) -> String {
    format!(
        "@id(\"d{number}\") permit (principal, action == Action::\"read\", resource == Doc::\"d{number}\") \
         when {{ context.token.scope.contains(\"read\") }};\n"
    )
}

/// The handful, among so many that there are `count`.
fn many(count: usize) -> String {
    let mut text = handful();
    for number in (0..).filter(|number| *number != 7).take(count.saturating_sub(6)) {
        let _ = write!(text, "{}", document_rule(number));
    }
    text
}

/// Policies, and a question of a verified token about the document that one of them names.
fn case(policies: &str, key: &SigningKey, runtime: &Runtime) -> (Stores, DecisionRequest, Duration) {
    let keys = json!({ "keys": [key.jwk()] }).to_string();
    let files = Files::memory([
        ("keys.json", keys.as_str()),
        ("policies/schema.cedarschema", SCHEMA),
        ("policies/p.cedar", policies),
    ]);
    let begin = Instant::now();
    let compiled =
        config::parse("config.yaml".into(), CONFIG.into(), files.clone()).and_then(|loaded| loaded.compile());
    let blueprint = compiled.unwrap_or_else(|problems| panic!("{problems}")).blueprint;
    let loading = begin.elapsed();
    let inside = runtime.enter();
    let clock = Arc::new(portcullis::base::clock::SystemClock);
    let outside = Outside::without_databases(clock, Arc::new(HttpFetch::new().expect("TLS")), files);
    let issuers = Issuers::start(blueprint.trust, &outside, None);
    drop(inside);
    let now = Timestamp::from_seconds(1_795_000_000);
    let claims = json!({ "iss": "https://a.example", "aud": "api", "client_id": "c", "exp": 1_795_000_600, "scope": "read write",
        "onBehalfOf": { "sub": "u" } });
    let token = key.sign(&claims).expect("randomness");
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {token}").parse().expect("a token"))]);
    let (method, target) = (&Method::GET, b"/d7".as_slice());
    let head = Head { method, target, headers: &headers, wire: None, peer: None, certificate: None };
    let inbound = Inbound::parse(&head, &Limits::default()).expect("a request");
    let presented = Presented::of(&inbound).expect("a token");
    let verified = runtime.block_on(issuers.verify(presented.token, now)).expect("a good token");
    let possession = issuers.possession(&verified, &presented, &inbound, now).expect("a bearer token");
    let names = blueprint.mapping.names(&verified).expect("a principal");
    let subject = blueprint.mapping.subject(Arc::new(verified), names).expect("a subject");
    let found = blueprint
        .routes
        .find(None, &Method::GET, Target::parse(target).expect("a target"))
        .expect("one reading")
        .expect("a route");
    let sources = Sources::default();
    let question = blueprint.mapping.question(&sources, &found, &subject, &possession, &inbound, now);
    let question = runtime.block_on(question).expect("a question");
    (Arc::into_inner(blueprint.stores).expect("nobody else holds it"), question, loading)
}

/// The same question, put to Cedar's authorizer and all policies.
fn plainly(policies: &str) -> (PolicySet, Request, Entities) {
    let uid = |text: &str| text.parse::<EntityUid>().expect("an entity");
    let scope =
        RestrictedExpression::new_set(["read", "write"].map(|word| RestrictedExpression::new_string(word.into())));
    let token = RestrictedExpression::new_record([("scope".to_owned(), scope)]).expect("a record");
    let user = RestrictedExpression::new_entity_uid(uid("User::\"u\""));
    let context =
        Context::from_pairs([("token".to_owned(), token), ("onBehalfOf".to_owned(), user.clone())]).expect("a context");
    let (agent, document) = (uid("Agent::\"c\""), uid("Doc::\"d7\""));
    let request =
        Request::new(agent.clone(), uid("Action::\"read\""), document.clone(), context, None).expect("a request");
    let document = Entity::new(document, [("owner".to_owned(), user)].into(), [].into()).expect("an entity");
    let others = [Entity::with_uid(agent), Entity::with_uid(uid("User::\"u\""))];
    let entities = Entities::from_entities(others.into_iter().chain([document]), None).expect("entities");
    (policies.parse().expect("policies"), request, entities)
}

/// The median of some rounds, each long enough to be measured.
fn median(mut work: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..15)
        .map(|_| {
            let (begin, mut calls) = (Instant::now(), 0_u32);
            while begin.elapsed() < Duration::from_millis(10) {
                work();
                calls += 1;
            }
            begin.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn decide(stores: &Stores, question: &DecisionRequest) -> Decision {
    stores.choose(None, || None).expect("the default store").policies.decide(question)
}

fn main() {
    // As a test it only shows that it runs.
    let whole = std::env::args().any(|argument| argument == "--bench");
    let counts: &[usize] = if whole { &[10, 100, 1_000, 10_000, 100_000] } else { &[10] };
    let runtime = Runtime::new().expect("a runtime");
    let key = SigningKey::es256("k").expect("randomness");
    let (few, question, _) = case(&handful(), &key, &runtime);
    println!("| policies | load, s | the six alone, µs | ours, µs | ratio | Cedar's authorizer, µs |");
    println!("|---|---|---|---|---|---|");
    for count in counts {
        let text = many(*count);
        let (all, same, loading) = case(&text, &key, &runtime);
        let alone = median(|| drop(black_box(decide(&few, &question))));
        let ours = median(|| assert!(black_box(decide(&all, &same)).into_result().is_ok()));
        let (set, request, entities) = plainly(&text);
        let authorizer = Authorizer::new();
        let plain = median(|| drop(black_box(authorizer.is_authorized(&request, &set, &entities))));
        let ratio = ours / alone;
        println!("| {count} | {:.2} | {alone:.1} | {ours:.1} | {ratio:.2} | {plain:.1} |", loading.as_secs_f64());
    }
}
