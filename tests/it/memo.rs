//! Decisions that are remembered: the same as those that are not, wherever they are; and gone with what they rest on.

use std::{collections::BTreeMap, fs, path::Path};

use portcullis::audit::Record;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Map, Value, json};

use crate::{
    agreement::{self, POOL, SCHEMA},
    house::{self, House, NOW},
    tls,
    wire::{self, Answer},
};

/// Nothing is remembered.
const FORGETFUL: &str = "limits: { decisions_cached_max: 0 }\n";

/// What else policies may read of a request, and what may err about it.
const FURTHER: [&str; 4] = [
    "forbid (principal, action, resource) when { context.request.time >= datetime(\"2026-11-18T11:30:00Z\") };",
    "permit (principal, action, resource) when { context.request has peer && context.request.peer.isInRange(ip(\"10.0.0.0/8\")) };",
    "permit (principal, action, resource) when { context.request.method == \"GET\" && context has request };",
    "permit (principal, action == Action::\"read\", resource) when { context.token has amount && context.token.amount * 2 > 0 };",
];

/// The agreement's routes, and others that are made of more of a request.
fn config(more: &str) -> String {
    let routes = "
  - { methods: [GET, POST], path: '/said/{userId}', action: read, resource: 'UserData::\"{path.userId}\"', delegation: optional,
      attributes: { owner: 'User::\"{path.userId}\"', kind: '{query.kind}' } }
  - { methods: [GET, POST], path: '/how/{userId}', action: read, resource: 'UserData::\"{path.userId}\"', delegation: optional,
      attributes: { owner: 'User::\"{path.userId}\"', kind: '{method}' } }
records: { annotations: [id] }
refusals: { nearest_miss: true }
trusted_proxies: { addresses: [127.0.0.1] }
";
    agreement::CONFIG.replace("records: { questions: true }\n", routes) + more
}

/// What errs, allows or denies by a claim and a path alone.
const SURE: [&str; 2] = [FURTHER[3], "forbid (principal, action, resource) when { resource.kind == \"secrets\" };"];

/// A record without what no two visits, or no two gates, have in common.
fn comparable(record: &Record) -> Value {
    let mut record = serde_json::to_value(record).unwrap();
    let members = record.as_object_mut().unwrap();
    for name in ["time", "decision_id", "traceparent", "server", "config_revision", "decision_cached"] {
        members.remove(name);
    }
    members.retain(|name, _| !name.ends_with("_us"));
    if let Some(attributes) = members.get_mut("attributes").and_then(Value::as_array_mut) {
        attributes.sort_by_key(ToString::to_string);
    }
    record
}

/// What a client, and the upstream through its answer, was told.
fn told(answer: &Answer, record: &Record) -> String {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| !["date", "content-length"].contains(&name.to_lowercase().as_str()));
    let span = record.traceparent.get(..52).unwrap();
    let body = answer.body.replace(&record.decision_id, "ID");
    // The upstream is told the span of the attempt, in the same trace.
    let body = match body.split_once(&span[..35]) {
        Some((before, after)) => format!("{before}TRACE{}", after.get(20..).unwrap_or_default()),
        None => body,
    };
    format!("{} {headers:?} {body}", answer.status).replace(&record.decision_id, "ID")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_remembers_says_and_records_what_one_does_that_asks_each_time() {
    let mut runner = TestRunner::default();
    let pool: Vec<_> = POOL.into_iter().chain(FURTHER).collect();
    let mut draw = |from: std::ops::RangeInclusive<usize>, pool: &[&'static str]| {
        prop::sample::subsequence(pool.to_vec(), from).new_tree(&mut runner).unwrap().current()
    };
    // Of some sets no policy reads time or peer, so that much is remembered.
    let still: Vec<_> =
        pool.iter().copied().filter(|it| !it.contains(".time") && !it.contains("request has peer")).collect();
    // Whatever is drawn, of this one each of three outcomes is remembered.
    let mut sets = vec![SURE.to_vec()];
    sets.extend((0..4).map(|_| draw(1..=5, &pool)));
    sets.extend((0..4).map(|_| draw(1..=5, &still)));
    let mut requests = TestRunner::default();
    let (mut remembered, mut asked_again) = (BTreeMap::<&str, usize>::new(), 0);
    for set in sets {
        let texts = set.iter().enumerate().map(|(number, text)| format!("@id(\"p{number}\") {text}\n"));
        let files = [("schema.cedarschema", SCHEMA.to_owned()), ("users.cedar", texts.collect())];
        let files = files.map(|(name, text)| (format!("policies/{name}"), text));
        let mut remembering = House::build(Some(&config("")), &files, NOW).await;
        let mut forgetful = House::build(Some(&config(FORGETFUL)), &files, NOW).await;
        let drawn = (0..12).map(|_| agreement::asked().new_tree(&mut requests).unwrap().current());
        let sure = [("data", i64::MAX), ("data", 1), ("secrets", 1)]
            .map(|(kind, amount)| ("GET", "user-1", kind, Map::from_iter([("amount".into(), amount.into())])));
        for (method, user, kind, over) in sure.into_iter().chain(drawn).collect::<Vec<_>>() {
            let mut claims = house::claims();
            for (name, value) in over.into_iter().filter(|(_, value)| !value.is_null()) {
                claims[name] = value;
            }
            let token = house::key("agents").sign(&claims).unwrap();
            for path in [format!("/users/{user}/{kind}"), format!("/said/{user}"), format!("/how/{user}")] {
                let others = ["data", "secrets", "data"].into_iter().zip(["192.0.2.7", "10.0.0.1", "10.0.0.1"]);
                for (minute, (query, peer)) in (0..).step_by(20).zip(others) {
                    let fields = [("authorization", format!("Bearer {token}")), ("x-forwarded-for", peer.to_owned())];
                    let fields = fields.map(|(name, value)| (name.to_owned(), value));
                    let bytes = wire::request(method, &format!("{path}?kind={query}"), &fields);
                    remembering.at(NOW + minute * 60);
                    forgetful.at(NOW + minute * 60);
                    let (answer, record) = remembering.ask(&bytes).await;
                    let (plain_answer, plain) = forgetful.ask(&bytes).await;
                    let (record, plain) = (record.unwrap(), plain.unwrap());
                    let what = format!("{set:#?}\n{method} {path}?kind={query} from {peer} {claims}");
                    assert_eq!(comparable(&record), comparable(&plain), "{what}");
                    let port = |house: &House| format!(":{}", house.service.address().port());
                    let of = told(&answer, &record).replace(&port(&remembering), ":PORT");
                    assert_eq!(of, told(&plain_answer, &plain).replace(&port(&forgetful), ":PORT"), "{what}");
                    assert!(!plain.decision_cached, "{what}");
                    assert!(!path.starts_with("/said") || !record.decision_cached, "the query decides: {what}");
                    *remembered.entry(record.code).or_default() += usize::from(record.decision_cached);
                    asked_again += usize::from(minute == 40 && !record.decision_cached);
                }
            }
        }
    }
    println!("remembered: {remembered:?}; asked again: {asked_again}");
    for code in ["allowed", "access_denied", "policy_failed"] {
        assert!(remembered.get(code).is_some_and(|times| *times > 0), "{code} was never remembered: {remembered:?}");
    }
    assert!(asked_again > 20, "only {asked_again} were asked again");
}

/// Whether each of so many calls, one after the other, was answered from memory.
async fn calls(house: &mut House, many: usize, target: &str) -> Vec<bool> {
    let mut cached = Vec::new();
    for number in 0..many {
        let fields = [house::bearer(), ("x-number".into(), number.to_string())];
        let (_, record) = house.ask(&wire::request("GET", target, &fields)).await;
        cached.push(record.unwrap().decision_cached);
    }
    cached
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_remembered_only_where_nothing_else_is_read() {
    const SETTLED: &str = "context: { token: { scope: Set<String> }, onBehalfOf?: User }";
    let request = |members: &str| SETTLED.replace("token:", &format!("request: {{ {members} }}, token:"));
    let schema = |context: &str| {
        format!(
            "entity User = {{ username?: String }}; entity Agent; entity UserData = {{ owner: User, note?: String }};
             action readOnly, write in [all] appliesTo {{ principal: [Agent], resource: [UserData], {context} }}; action all;"
        )
    };
    let when = |condition: &str| format!("permit (principal, action, resource) when {{ {condition} }};");
    let all = "permit (principal, action, resource);".to_owned();
    let routes = || house::ROUTES.replace("url:", "forward_host: true, url:");
    let note = |hole: &str| routes().replace("attributes: { owner", &format!("attributes: {{ note: '{hole}', owner"));
    let time = || request("time: datetime");
    let early = "context.request.time < datetime(\"2026-01-01\")";
    let made = tls::folder();
    let pki = |name: &str| fs::read_to_string(made.path().join(name)).unwrap();
    for (what, context, policy, config, cached) in [
        ("nothing varies", SETTLED.to_owned(), all.clone(), routes(), true),
        ("nobody reads the time", time(), all.clone(), routes(), true),
        ("somebody does", time(), when(early), routes(), false),
        ("who asks for its place does not read it", time(), when("context has request"), routes(), true),
        (
            "whoever takes the request as a whole reads it",
            time(),
            when("[context.request].contains(context.request)"),
            routes(),
            false,
        ),
        (
            "of another action",
            time(),
            format!("{all} forbid (principal, action == Action::\"write\", resource) when {{ {early} }};"),
            routes(),
            true,
        ),
        (
            "of a group of it",
            time(),
            format!("{all} forbid (principal, action in Action::\"all\", resource) when {{ {early} }};"),
            routes(),
            false,
        ),
        (
            "of another agent",
            time(),
            format!("{all} forbid (principal == Agent::\"b\", action, resource) when {{ {early} }};"),
            routes(),
            false,
        ),
        (
            "the method is asked",
            request("method: String, path: String"),
            when("context.request.method == \"GET\" && context.request.path like \"/users/*\""),
            routes(),
            true,
        ),
        ("an address that may be missing", request("peer?: ipaddr, host?: String"), all.clone(), routes(), true),
        (
            "one that is read",
            request("peer?: ipaddr, host?: String"),
            when("context.request has peer && context.request.peer.isLoopback()"),
            routes(),
            false,
        ),
        (
            "a host that is read",
            request("peer?: ipaddr, host?: String"),
            when("context.request has host"),
            routes(),
            false,
        ),
        ("an address that may not be missing", request("peer: ipaddr"), all.clone(), routes(), false),
        ("headers may be unclear", request("headers: { x?: Set<String> }"), all.clone(), routes(), false),
        ("queries may be unclear", request("query: { x?: Set<String> }"), all.clone(), routes(), false),
        (
            "certificates may be missing",
            request("certificate?: { thumbprint: String }"),
            all.clone(),
            routes()
                + "listeners: [{ listen: '127.0.0.1:0', tls: { certificate: gate.pem, private_key: { file: gate.key }, \
                   client_certificate: accepted } }]\n",
            false,
        ),
        ("of the token", SETTLED.to_owned(), all.clone(), note("{token.jti}/{path.id}"), true),
        ("of a header", SETTLED.to_owned(), all.clone(), note("{header.x-number}"), false),
        ("of a query", SETTLED.to_owned(), all.clone(), note("{query.x}"), false),
        ("of the peer", SETTLED.to_owned(), all.clone(), note("{peer}"), false),
        ("of the host", SETTLED.to_owned(), all.clone(), note("{host}"), false),
        ("questions are recorded", SETTLED.to_owned(), all.clone(), routes() + "records: { questions: true }\n", false),
        (
            "a candidate wants the question",
            SETTLED.to_owned(),
            all.clone(),
            routes() + "shadow: { policies: new }\n",
            false,
        ),
        ("nothing is to be remembered", SETTLED.to_owned(), all.clone(), routes() + FORGETFUL, false),
    ] {
        let policy = policy.split_inclusive(';').filter(|it| it.len() > 1).enumerate();
        let policy: String = policy.map(|(number, text)| format!("@id(\"p{number}\") {text}\n")).collect();
        let files = [
            ("policies/schema.cedarschema".to_owned(), schema(&context)),
            ("policies/users.cedar".to_owned(), policy),
            ("new/new.cedar".to_owned(), "@id(\"n\") permit (principal, action, resource);".to_owned()),
            ("gate.pem".to_owned(), pki("gate.pem")),
            ("gate.key".to_owned(), pki("gate.key")),
        ];
        let mut house = House::build(Some(&config), &files, NOW).await;
        let seen = calls(&mut house, 3, "/users/user-1/data?x=1").await;
        assert_eq!(seen, [false, false, cached], "{what}");
    }
}

/// A folder with a configuration whose deny-list exists.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    fs::create_dir(folder.path().join("policies")).unwrap();
    for name in ["policies/schema.cedarschema", "policies/users.cedar"] {
        put(name, &house::repository(name));
    }
    put("keys.json", &json!({ "keys": [house::key("agents").jwk()] }).to_string());
    put("deny.jsonl", "");
    folder
}

/// Waits until a call, by then known, is not answered from memory any more; then it is again.
async fn is_forgotten(house: &mut House, what: &str) {
    let begin = std::time::Instant::now();
    while calls(house, 1, "/users/user-1/data").await != [false] {
        assert!(begin.elapsed().as_secs() < 20, "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let seen = calls(house, 3, "/users/user-1/data").await;
    assert_eq!(seen[1..], [true; 2], "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_goes_with_each_reload_and_each_change_of_the_deny_list() {
    let folder = folder();
    let config = house::ROUTES.replace("      client_ids", "      jwks_file: keys.json\n      client_ids").replace(
        "upstream: { url: 'http://127.0.0.1:1' }",
        "upstream: { url: 'UPSTREAM' }\nadmin: 127.0.0.1:0\ndeny_list: deny.jsonl",
    );
    let mut house = House::following(folder.path(), &config).await;
    let put = |name: &str, text: &str| fs::write(Path::new(folder.path()).join(name), text).unwrap();
    assert_eq!(calls(&mut house, 4, "/users/user-1/data").await, [false, false, true, true]);
    put("policies/more.cedar", "@id(\"never\") forbid (principal, action, resource) when { 1 == 2 };");
    is_forgotten(&mut house, "another policy").await;
    put("keys.json", &json!({ "keys": [house::key("agents").jwk(), house::key("stranger").jwk()] }).to_string());
    is_forgotten(&mut house, "another key").await;
    put("deny.jsonl", "{ \"jti\": \"another\" }\n");
    is_forgotten(&mut house, "an entry on the deny-list").await;
    put("deny.jsonl", "");
    is_forgotten(&mut house, "no entry on it any more").await;
    put("policies/more.cedar", "@id(\"never\") forbid (principal, action, resource);");
    is_forgotten_and_denied(&mut house).await;
}

async fn is_forgotten_and_denied(house: &mut House) {
    let begin = std::time::Instant::now();
    loop {
        let (_, record) = house.ask(&wire::request("GET", "/users/user-1/data", &[house::bearer()])).await;
        if record.unwrap().code == "access_denied" {
            return;
        }
        assert!(begin.elapsed().as_secs() < 20, "what was allowed before is denied now");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_answered_with_what_another_token_method_path_or_store_was_told() {
    let stores =
        "stores: [{ name: default, hosts: ['*'] }, { name: strict, folder: strict, hosts: [strict.example] }]\n";
    let strict = ("strict/all.cedar".to_owned(), "@id(\"no\") forbid (principal, action, resource);".to_owned());
    let config = house::ROUTES.replace("url:", "forward_host: true, url:") + stores;
    let mut house = House::build(Some(&config), &[strict], NOW).await;
    let mut other = house::claims();
    other["onBehalfOf"] = json!({ "sub": "user-2" });
    let other = house::key("agents").sign(&other).unwrap();
    let good = house::good_token();
    for round in 0..4 {
        for (token, method, path, host, code) in [
            (&good, "GET", "/users/user-1/data", "gate.example", "allowed"),
            (&other, "GET", "/users/user-1/data", "gate.example", "access_denied"),
            (&good, "GET", "/users/user-2/data", "gate.example", "access_denied"),
            (&good, "GET", "/users/user-1/data", "strict.example", "access_denied"),
            (&good, "POST", "/users/user-1/data", "gate.example", "allowed"),
            (&other, "GET", "/users/user-2/data", "gate.example", "allowed"),
        ] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-length: 0\r\n\r\n"
            );
            let (_, record) = house.ask(request.as_bytes()).await;
            let record = record.unwrap();
            assert_eq!((record.code, record.decision_cached), (code, round > 1), "{method} {path} {host}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_holds_no_longer_than_its_token() {
    let mut house = House::build(Some(house::ROUTES), &[], NOW).await;
    assert_eq!(calls(&mut house, 3, "/users/user-1/data").await, [false, false, true]);
    house.at(1_795_003_600 + 3600);
    let (answer, record) = house.ask(&wire::request("GET", "/users/user-1/data", &[house::bearer()])).await;
    assert_eq!((answer.status, record.unwrap().code), (401, "token_expired"));
}
