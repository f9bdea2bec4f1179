//! No token, and no part of one, is in anything that the gate writes or tells, not even where it breaks.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use portcullis::{
    app::App,
    audit::{Record, Sink},
    base::clock::{Clock, Timestamp},
    config::log::LogConfig,
    logs,
    metrics::Metrics,
};

use crate::{
    cli::text,
    h2,
    house::{self, Gate, House, NOW, anywhere, bearer, good_token, spanned},
    wire,
};

/// What is in each query.
const QUERY: &str = "canary-in-the-query";

/// Names the file in which the process that is looked at leaves the token it was asked with.
const TOKEN_FILE: &str = "CANARY_TOKEN_FILE";

/// What operators show.
const ADMIN: &str = "for tests only";

/// Counts down, and panics at 0.
#[derive(Debug)]
struct Mine(AtomicI64);

impl Mine {
    const fn new() -> Self {
        Self(AtomicI64::new(-1))
    }

    /// To go off at the step after `steps` more.
    fn lay(&self, steps: i64) {
        self.0.store(steps, Ordering::SeqCst);
    }

    fn step(&self, what: &str) {
        assert!(self.0.fetch_sub(1, Ordering::SeqCst) != 0, "{what} breaks");
    }
}

#[derive(Debug)]
struct Breaking(Mine);

impl Clock for Breaking {
    fn now(&self) -> Timestamp {
        self.0.step("the clock");
        Timestamp::from_seconds(NOW)
    }
}

#[expect(clippy::print_stdout, reason = "somebody looks for canaries in it")]
impl Sink for Breaking {
    fn write(&self, record: &Record) {
        println!("{}", serde_json::to_string(record).unwrap());
        self.0.step("the sink");
    }

    fn has_room(&self, _: usize) -> bool {
        true
    }
}

/// A gate that logs all it can, gets tokens, breaks, and tells all it has to tell. It runs in a process of its own, for what that writes
/// is looked through.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is run, and looked at, by the test below"]
async fn a_gate_that_breaks() {
    logs::install(&LogConfig::default(), Some("trace".parse().unwrap()));
    std::fs::write(std::env::var_os(TOKEN_FILE).unwrap(), good_token()).unwrap();
    let service = House::build(None, &[], NOW).await.service;
    let settings =
        "admin_token: { file: nonce-secret }\nlog: { level: trace }\nrecords: { questions: true, claims: [scope] }\n";
    let mut loaded = House::load(Some(&(house::repository("config.yaml") + settings)), &[]);
    loaded.config.upstream.url = spanned(format!("http://{}", service.address()));
    loaded.config.listen = anywhere();
    loaded.config.admin = Some(anywhere());
    let [clock, sink] = [(); 2].map(|()| Arc::new(Breaking(Mine::new())));
    let metrics = Arc::new(Metrics::new().unwrap());
    let gate = Gate(App::start(&loaded, clock.clone(), sink.clone(), metrics).await.unwrap());
    let target = format!("/users/user-1/data?{QUERY}");
    let ask = |token: String| {
        let request = wire::request("GET", &target, &[("authorization".into(), format!("Bearer {token}"))]);
        let address = gate.address();
        async move { text(&wire::send(address, &request).await) }
    };
    let forged = format!("{}AAAA", good_token());
    assert!(ask(good_token()).await.contains(" 200 ") && ask(forged).await.contains(" 401 "));
    // At each step that there is, and with what is known of the token by then.
    for steps in 0..3 {
        clock.0.lay(steps);
        assert!(steps > 1 || !ask(good_token()).await.contains(" 200 "), "the clock did not break");
        clock.0.lay(-1);
    }
    sink.0.lay(0);
    ask(good_token()).await;
    clock.0.lay(1);
    let mut client = h2::Client::to(gate.address()).await;
    let _ = client.ask(h2::request("GET", &target, &[bearer()]).unwrap()).await;
    clock.0.lay(-1);
    assert!(ask(good_token()).await.contains(" 200 "), "it goes on");
    let shown = [("authorization".to_owned(), format!("Bearer {ADMIN}"))];
    for page in ["livez", "readyz", "metrics", "keys", "jwks", "upstreams", "config", "log", "deny-list", "none"] {
        for fields in [&shown[..], &[bearer()]] {
            let request = wire::request("GET", &format!("/{page}"), fields);
            println!("/{page}: {}", text(&wire::send(gate.admin_address(), &request).await));
        }
    }
    gate.stop(Duration::from_secs(5)).await;
}

#[test]
fn whatever_breaks_no_token_is_in_what_the_gate_writes_or_tells() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "canary::a_gate_that_breaks", "--ignored", "--nocapture", "--test-threads=1"])
        .env("RUST_BACKTRACE", "full")
        .env(TOKEN_FILE, &token)
        .output()
        .unwrap();
    let [out, errors] = [text(&child.stdout), text(&child.stderr)];
    assert!(child.status.success(), "{out}{errors}");
    // It did break, and did tell.
    for (said, times, of) in [
        ("the clock breaks", 3, &errors),
        ("the sink breaks", 1, &errors),
        ("stack backtrace", 4, &errors),
        ("\"code\":\"allowed\"", 3, &out),
        ("\"code\":\"signature_invalid\"", 1, &out),
        ("portcullis_build_info", 2, &out),
        ("cognito_access", 1, &out),
        ("\"level\":\"trace\"", 1, &out),
    ] {
        assert!(of.matches(said).count() >= times, "{said}: {out}{errors}");
    }
    let token = std::fs::read_to_string(token).unwrap();
    // Wherever it was cut.
    let parts = token.split('.').flat_map(|part| [&part[..20], &part[part.len() - 20..]]);
    for part in parts.chain([QUERY, ADMIN]) {
        for (place, of) in [("stdout", &out), ("stderr", &errors)] {
            let found = of.lines().find(|line| line.contains(part));
            assert!(found.is_none(), "{place} holds {part}: {found:?}");
        }
    }
}
