//! What a request costs inside the house: verifying a token the first and every further time, and the whole walk.
//! `make bench-micro`; figures are per call on one thread.

use std::{
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use divan::{Bencher, black_box};
use http::{HeaderMap, HeaderValue, Method, header};
use portcullis::{
    audit::{
        Record, Sink,
        lines::{Lines, Stream},
    },
    authoring::keys::SigningKey,
    base::{
        clock::{SystemClock, Timestamp},
        files::Files,
        outside::Outside,
    },
    config,
    entities::{Subject, sources::Sources},
    forward::identity::Told,
    metrics::Metrics,
    pipeline::{Admission, Gate},
    request::{
        Head, Inbound, Limits,
        path::Target,
        rewrite::Outbound,
        route::{PathTemplate, RouteTable},
    },
    server::fetch::HttpFetch,
    snapshot::{Blueprint, Current},
    token::{
        Issuers, Presented, RawToken, Trust, VerifiedToken,
        cache::{CacheLimits, Remembered, TokenCache},
        issuer::Rules,
    },
};
use serde_json::json;
use tokio::runtime::Runtime;

/// Allocations are counted beside times: `alloc` and `max alloc` of each row.
#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

const ISSUER: &str = "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_agents";

/// A gate of the repository's own configuration that knows two keys, and what it takes to ask it.
struct Bench {
    runtime: Runtime,
    gate: Gate,
    /// What the gate was made of.
    blueprint: Blueprint,
    current: Arc<Current>,
    issuers: Issuers,
    keys: [SigningKey; 2],
}

struct Nowhere;

impl Sink for Nowhere {
    fn write(&self, record: &Record) {
        let _ = black_box(serde_json::to_vec(record));
    }

    fn has_room(&self, _: usize) -> bool {
        true
    }
}

/// Takes records and leaves them as they are.
#[derive(Clone, Default)]
struct Unwritten(Arc<Mutex<Option<Record>>>);

impl Sink for Unwritten {
    fn write(&self, record: &Record) {
        black_box(record);
        // The last is looked at by whoever wants to see one.
        if let Ok(mut last) = self.0.try_lock()
            && last.is_none()
        {
            *last = Some(record.clone());
        }
    }

    fn has_room(&self, _: usize) -> bool {
        true
    }
}

/// Keys for assertions, made for this alone.
const SIGNING_KEYS: [(&str, &str); 2] = [
    (
        "ed25519.pem",
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n",
    ),
    (
        "p256.pem",
        "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgLXKwofUmHDsN7md7\npF/TQnZPauDM8pJQhZ/IvqGCCayhRANCAAQFPzfVugwtBMw4/J3S0UqvUo/wmeGh\n7mM+UtCLZYJTxckkHELxKOWaWKnq/pmX2BwPPgdBsOkmbfaP9pyTWljj\n-----END PRIVATE KEY-----\n",
    ),
];

impl Bench {
    fn new() -> Self {
        Self::with(|text| text)
    }

    /// One whose configuration is changed so.
    fn with(change: impl FnOnce(String) -> String) -> Self {
        Self::writing(change, Arc::new(Nowhere))
    }

    /// The same, whose records go to `sink`.
    fn writing(change: impl FnOnce(String) -> String, sink: Arc<dyn Sink>) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let _inside = runtime.enter();
        let keys = [SigningKey::rs256("rsa"), SigningKey::es256("ec")].map(|key| key.expect("randomness"));
        let jwks = json!({ "keys": keys.each_ref().map(SigningKey::jwk) }).to_string();
        let text = include_str!("../config.yaml")
            .replace("jwks_uri: http://127.0.0.1:9100/us-east-1_agents/.well-known/jwks.json", "jwks_file: keys.json")
            .replace("# algorithms: [RS256]", "algorithms: [RS256, ES256]");
        let read = [
            ("keys.json", jwks.as_str()),
            ("policies/schema.cedarschema", include_str!("../policies/schema.cedarschema")),
            ("policies/users.cedar", include_str!("../policies/users.cedar")),
        ];
        let files = Files::memory(read.into_iter().chain(SIGNING_KEYS));
        let loaded = config::parse("config.yaml".into(), change(text), files.clone()).expect("the example");
        let compiled = loaded.compile().expect("the example");
        let fetch = Arc::new(HttpFetch::new().expect("TLS"));
        let outside = Outside::without_databases(Arc::new(SystemClock), fetch, files.clone());
        let rules = Rules::compile(&loaded.config.issuers.value[0], &files).expect("the example");
        let issuers = Issuers::start(Trust::plain(vec![rules]).expect("randomness"), &outside, None);
        let blueprint = compiled.blueprint;
        let current = Arc::new(Current::new(blueprint.clone().start(&outside, None)));
        runtime.block_on(async {
            issuers.first_attempts().await;
            current.load().issuers().first_attempts().await;
        });
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let gate = Gate::new(current.clone(), Arc::new(SystemClock), sink, metrics);
        drop(_inside);
        Self { runtime, gate, blueprint, current, issuers, keys }
    }

    /// The scenario's token; `serial` makes each one another.
    fn token(&self, key: usize, serial: u64) -> String {
        let claims = json!({
            "sub": "1example23456789", "iss": ISSUER, "version": 2, "client_id": "1example23456789",
            "onBehalfOf": { "sub": "user-1", "username": "my-example-username", "groups": ["readaccess"] },
            "callerApp": "ExampleChatApplication", "token_use": "access", "scope": "crossDomainService/read userData/read",
            "auth_time": 1_795_000_000, "iat": 1_600_000_000, "exp": 4_000_000_000_u64,
            "jti": format!("aaaaaaaa-bbbb-cccc-dddd-{serial:012}"),
        });
        self.keys[key].sign(&claims).expect("randomness")
    }

    fn walk(&self, headers: &HeaderMap, target: &[u8]) -> bool {
        let head = Head { method: &Method::GET, target, headers, wire: None, peer: None, certificate: None };
        self.runtime.block_on(async { self.gate.receive().admit(&head).await.is_ok() })
    }
}

fn bearer(token: &str) -> HeaderMap {
    let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("a token");
    HeaderMap::from_iter([(header::AUTHORIZATION, value)])
}

/// Tokens each used once: signature, claims, nothing remembered. The first argument is the key.
#[divan::bench(args = [0, 1])]
fn verify_cold(bencher: Bencher<'_, '_>, key: usize) {
    let bench = Bench::new();
    let token = bench.token(key, 0);
    bencher.bench(|| {
        let token = RawToken::parse(token.as_bytes()).expect("a token");
        let now = Timestamp::from_seconds(1_795_000_000);
        assert!(bench.runtime.block_on(bench.issuers.verify(black_box(token), now)).is_ok());
    });
}

/// The bare signature check, for comparison.
#[divan::bench(args = [0, 1])]
fn signature_alone(bencher: Bencher<'_, '_>, key: usize) {
    use jsonwebtoken::{Algorithm, DecodingKey, jwk::Jwk};
    let bench = Bench::new();
    let token = bench.token(key, 0);
    let (signed, signature) = token.rsplit_once('.').expect("a token");
    let jwk: Jwk = serde_json::from_value(bench.keys[key].jwk()).expect("a key");
    let public = DecodingKey::from_jwk(&jwk).expect("a key");
    let algorithm = [Algorithm::RS256, Algorithm::ES256][key];
    bencher.bench(|| {
        let verified = jsonwebtoken::crypto::verify(black_box(signature), signed.as_bytes(), &public, algorithm);
        assert!(verified.expect("a signature"));
    });
}

/// Where nothing is remembered of decisions.
const FORGETFUL: &str = "limits: { decisions_cached_max: 0 }\n";

/// The whole walk, record included, with a token that is known: the policies are asked each time, or the decision is
/// remembered too.
#[divan::bench(args = ["asked", "remembered"])]
fn walk_hot_allowed(bencher: Bencher<'_, '_>, how: &str) {
    let bench = Bench::with(|text| if how == "asked" { text + FORGETFUL } else { text });
    let headers = bearer(&bench.token(0, 0));
    bencher.bench(|| assert!(bench.walk(&headers, b"/users/user-1/data")));
}

/// The same with an assertion, bound to method and target, by each key: what is more than `walk_hot_allowed` is what it costs.
#[divan::bench(args = ["ed25519.pem", "p256.pem"])]
fn walk_hot_asserted(bencher: Bencher<'_, '_>, key: &str) {
    let bench = Bench::with(|text| {
        let section = format!(
            "identity: {{ assertion: {{ issuer: gate, signing_key: {{ file: {key} }}, binds: [method, target] }} }}"
        );
        text.replace("  url: http://127.0.0.1:9000\n", "  url: http://127.0.0.1:9000\n  audience: users\n")
            + &section
            + "\n"
    });
    let headers = bearer(&bench.token(0, 0));
    let target = b"/users/user-1/data";
    let head = Head { method: &Method::GET, target, headers: &headers, wire: None, peer: None, certificate: None };
    bencher.bench(|| {
        bench.runtime.block_on(async {
            let mut visit = bench.gate.receive();
            let Ok(Admission::Forward(owed)) = visit.admit(&head).await else { panic!("it is allowed") };
            assert!(visit.assertion(&owed, &Method::GET, None).is_ok_and(|made| made.is_some()));
        });
    });
}

/// The same, denied by policy.
#[divan::bench(args = ["asked", "remembered"])]
fn walk_hot_denied(bencher: Bencher<'_, '_>, how: &str) {
    let bench = Bench::with(|text| if how == "asked" { text + FORGETFUL } else { text });
    let headers = bearer(&bench.token(0, 0));
    bencher.bench(|| assert!(!bench.walk(&headers, b"/users/user-2/data")));
}

/// The walk allowed, whose record nobody writes: what `walk_hot_allowed` is more is the line.
#[divan::bench]
fn walk_hot_unrecorded(bencher: Bencher<'_, '_>) {
    let bench = Bench::writing(|text| text, Arc::new(Unwritten::default()));
    let headers = bearer(&bench.token(0, 0));
    bencher.bench(|| assert!(bench.walk(&headers, b"/users/user-1/data")));
}

/// A visit that begins and ends: its time, id and trace, and all that is done at its end but the line and most of the counting.
#[divan::bench]
fn record_of_nothing(bencher: Bencher<'_, '_>) {
    let bench = Bench::writing(|text| text, Arc::new(Unwritten::default()));
    bencher.bench(|| drop(bench.gate.receive()));
}

/// The record of a request that was allowed, its token known, as after an answer.
fn allowed() -> Record {
    let unwritten = Unwritten::default();
    let bench = Bench::writing(|text| text, Arc::new(unwritten.clone()));
    let headers = bearer(&bench.token(0, 0));
    assert!(bench.walk(&headers, b"/users/user-1/data"));
    unwritten.0.lock().expect("a record").take();
    assert!(bench.walk(&headers, b"/users/user-1/data"));
    let record = unwritten.0.lock().expect("a record").take().expect("a record");
    assert!(record.token_cached && record.code == "allowed");
    Record {
        status: 200,
        server: Some("127.0.0.1:9000".into()),
        upstream_status: Some(200),
        upstream_us: Some(700),
        ..record
    }
}

/// Everything that is done with such a record: it is counted, made a line, and queued for the thread that writes.
#[divan::bench]
fn record_kept(bencher: Bencher<'_, '_>) {
    let (record, metrics) = (allowed(), Metrics::new().expect("metrics"));
    let lines = Lines::new(Stream::to(std::io::sink()), metrics.records("stdout")).expect("a thread");
    bencher.bench(|| {
        metrics.count(black_box(&record));
        lines.write(&record);
    });
    lines.close();
}

/// Of that, the line alone.
#[divan::bench]
fn record_line(bencher: Bencher<'_, '_>) {
    let record = allowed();
    bencher.bench(|| serde_json::to_vec(black_box(&record)));
}

/// Of that, the counting alone.
#[divan::bench]
fn record_counted(bencher: Bencher<'_, '_>) {
    let (record, metrics) = (allowed(), Metrics::new().expect("metrics"));
    bencher.bench(|| metrics.count(black_box(&record)));
}

/// The whole walk with a token never seen before.
#[divan::bench(args = [0, 1], sample_count = 20, sample_size = 10)]
fn walk_cold_allowed(bencher: Bencher<'_, '_>, key: usize) {
    let bench = Bench::new();
    let serial = std::sync::atomic::AtomicU64::new(0);
    let next = || bearer(&bench.token(key, serial.fetch_add(1, std::sync::atomic::Ordering::Relaxed)));
    bencher.with_inputs(next).bench_values(|headers| assert!(bench.walk(&headers, b"/users/user-1/data")));
}

struct Known(VerifiedToken);

impl Remembered for Known {
    fn weight(&self) -> u64 {
        1
    }
    fn lifetime(&self) -> Duration {
        self.0.lifetime()
    }
}

/// A token that is known: read, found again, and seen to hold still and to be its sender's.
#[divan::bench]
fn token_known(bencher: Bencher<'_, '_>) {
    let bench = Bench::new();
    let headers = bearer(&bench.token(0, 0));
    let (method, target) = (&Method::GET, b"/".as_slice());
    let head = Head { method, target, headers: &headers, wire: None, peer: None, certificate: None };
    let inbound = Inbound::parse(&head, &Limits::default()).expect("a request");
    let cache = TokenCache::new(CacheLimits::default());
    let now = Timestamp::from_seconds(1_795_000_000);
    let presented = Presented::of(&inbound).expect("a token");
    let learn = async {
        let verified = bench.issuers.verify(presented.token, now).await;
        verified.map(|token| Arc::new(Known(token)))
    };
    bench.runtime.block_on(cache.get_or_learn(presented.fingerprint, 0, learn)).expect("a good token");
    bencher.bench(|| {
        let presented = Presented::of(black_box(&inbound)).expect("a token");
        let known = futures_now(cache.get(presented.fingerprint, 0)).expect("a known token");
        assert!(bench.issuers.still_holds(&known.0, now));
        assert!(bench.issuers.possession(&known.0, &presented, &inbound, now).is_ok());
    });
}

/// The outcome of a future that does not wait.
fn futures_now<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("it waits"),
    }
}

/// The digest by which a token is known again.
#[divan::bench]
fn fingerprint(bencher: Bencher<'_, '_>) {
    let token = Bench::new().token(0, 0);
    let token = RawToken::parse(token.as_bytes()).expect("a token");
    bencher.bench(|| black_box(token).fingerprint());
}

/// Reading a target in its one way.
#[divan::bench]
fn read_target() -> bool {
    Target::parse(black_box(b"/users/user-identity-4e4c-example-7cede8e609a2/data?a=b")).is_some()
}

/// Reading a head in its one way.
#[divan::bench]
fn read_head(bencher: Bencher<'_, '_>) {
    let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("gate.example"))]);
    let head = Head {
        method: &Method::GET,
        target: b"/users/user-1/data",
        headers: &headers,
        wire: None,
        peer: None,
        certificate: None,
    };
    bencher.bench(|| Inbound::parse(black_box(&head), &Limits::default()).is_ok());
}

/// Finding the last of so many routes, and none of them.
#[divan::bench(args = [(10, "data"), (1_000, "data"), (1_000, "nothing")])]
fn match_route(bencher: Bencher<'_, '_>, (routes, last): (usize, &str)) {
    let mut table = RouteTable::default();
    for number in 0..routes {
        let template = PathTemplate::parse(&format!("/service-{number}/users/{{id}}/data")).expect("a template");
        table.insert(&[], &[Method::GET], &template, number).expect("another route");
    }
    let target = format!("/service-{}/users/user-1/{last}", routes - 1);
    let target = Target::parse(target.as_bytes()).expect("a target");
    let is_there = last == "data";
    bencher
        .bench(|| assert!(table.find(None, &Method::GET, black_box(target)).is_ok_and(|it| it.is_some() == is_there)));
}

/// A believed token and its request, for what comes after.
struct Believed<'a> {
    bench: &'a Bench,
    headers: HeaderMap,
}

impl<'a> Believed<'a> {
    fn of(bench: &'a Bench) -> Self {
        Self { bench, headers: bearer(&bench.token(0, 0)) }
    }

    fn inbound(&self) -> Inbound<'_> {
        let (method, target) = (&Method::GET, b"/users/user-1/data".as_slice());
        let head = Head { method, target, headers: &self.headers, wire: None, peer: None, certificate: None };
        Inbound::parse(&head, &Limits::default()).expect("a request")
    }

    fn token(&self) -> Arc<VerifiedToken> {
        let inbound = self.inbound();
        let presented = Presented::of(&inbound).expect("a token");
        Arc::new(self.bench.runtime.block_on(self.bench.issuers.verify(presented.token, NOW)).expect("a good token"))
    }

    fn subject(&self, token: Arc<VerifiedToken>) -> Subject {
        let mapping = &self.bench.blueprint.mapping;
        let names = mapping.names(&token).expect("a principal");
        mapping.subject(token, names).expect("a subject")
    }
}

const NOW: Timestamp = Timestamp::from_seconds(1_795_000_000);

/// What Cedar needs of a token, once per token.
#[divan::bench]
fn map_subject(bencher: Bencher<'_, '_>) {
    let bench = Bench::new();
    let believed = Believed::of(&bench);
    let token = believed.token();
    bencher.bench(|| believed.subject(black_box(token.clone())));
}

/// The question that a request puts: resource, context and the entities beside it.
#[divan::bench]
fn make_question(bencher: Bencher<'_, '_>) {
    let bench = Bench::new();
    let believed = Believed::of(&bench);
    let (inbound, subject, sources) = (believed.inbound(), believed.subject(believed.token()), Sources::default());
    let presented = Presented::of(&inbound).expect("a token");
    let possession = bench.issuers.possession(subject.token(), &presented, &inbound, NOW).expect("a bearer token");
    let found = bench.blueprint.routes.find(None, inbound.method(), inbound.target()).expect("one reading");
    let found = found.expect("a route");
    let mapping = &bench.blueprint.mapping;
    bencher.bench(|| {
        let question = mapping.question(&sources, &found, &subject, &possession, black_box(&inbound), NOW);
        assert!(futures_now(question).is_ok());
    });
}

/// Answering it, and what is owed to the upstream for an allowance.
#[divan::bench(args = ["decide", "owe"])]
fn answer_question(bencher: Bencher<'_, '_>, what: &str) {
    let bench = Bench::with(|text| text + FORGETFUL);
    let headers = bearer(&bench.token(0, 0));
    let target = b"/users/user-1/data";
    let head = Head { method: &Method::GET, target, headers: &headers, wire: None, peer: None, certificate: None };
    let mut visit = bench.gate.receive();
    assert!(bench.runtime.block_on(visit.admit(&head)).is_ok());
    let question = visit.question().expect("it was asked");
    let policies = &bench.blueprint.stores.named(None).expect("the default store").policies;
    if what == "decide" {
        return bencher.bench(|| assert!(policies.decide(black_box(question)).into_result().is_ok()));
    }
    let allowed = policies.decide(question).into_result().expect("it is allowed");
    let (identity, snapshot) = (Arc::new(bench.blueprint.identity.clone()), bench.current.load());
    let pool = snapshot.pools().of(None).expect("the upstream");
    let told = Told {
        agent: "1example23456789",
        user: Some("user-1"),
        app: Some("ExampleChatApplication"),
        decision_id: visit.decision_id(),
        client: "1example23456789",
        action: "Action::\"readOnly\"",
        resource: "",
        policy_revision: policies.revision(),
    };
    bencher.bench(|| {
        let target = Target::parse(target).and_then(|target| Outbound::of(target, None)).expect("a target");
        identity.obligations(pool, target, black_box(&allowed), &told)
    });
}

/// The record of an allowance as a line.
#[divan::bench]
fn write_record(bencher: Bencher<'_, '_>) {
    let bench = Bench::new();
    let headers = bearer(&bench.token(0, 0));
    let target = b"/users/user-1/data";
    let head = Head { method: &Method::GET, target, headers: &headers, wire: None, peer: None, certificate: None };
    let mut visit = bench.gate.receive();
    assert!(bench.runtime.block_on(visit.admit(&head)).is_ok());
    bencher.bench(|| serde_json::to_vec(black_box(visit.record())).is_ok());
}
