//! `portcullis demo --cost`: what the gate itself makes of a request costs, in this process: the walk and the record, nothing
//! of the network. `.ci/instructions` counts the same by instruction.

use std::{
    hint::black_box,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::json;

use super::{EXAMPLE, EXAMPLE_CONFIG, Failure};
use crate::{
    audit::{Record, Sink},
    authoring::keys::SigningKey,
    base::{clock::SystemClock, files::Files, outside::Outside, spanned::Spanned},
    config,
    metrics::Metrics,
    pipeline::Gate,
    request::Head,
    server::fetch::HttpFetch,
    snapshot::Current,
};

/// Rounds, of which the quickest is told: the machine has other things to do meanwhile.
const ROUNDS: u32 = 10;

/// What a gate makes of each request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It asks its policies.
    Asking,
    /// It asks them once.
    Remembering,
    /// It asks them, and they read what each request says anew.
    Reading,
}

/// What is walked: a name, the path asked for, whether it is allowed, and by which gate.
const ROWS: [(&str, &str, bool, Kind); 5] = [
    ("allowed", "/users/user-1/data", true, Kind::Asking),
    ("allowed, as remembered", "/users/user-1/data", true, Kind::Remembering),
    ("allowed, by what the request says", "/users/user-1/data", true, Kind::Reading),
    ("denied", "/users/user-2/data", false, Kind::Asking),
    ("denied, as remembered", "/users/user-2/data", false, Kind::Remembering),
];

/// What policies may read of a request where they read it, and one that does.
const READ: &str = "consent?: Consent, request: { headers: { tier: Set<String> } },";
const READS: &str =
    r#"@id("asks") forbid (principal, action, resource) when { context.request.headers.tier.contains("none") };"#;

/// Takes a record as those do that write it.
struct Written;

impl Sink for Written {
    fn write(&self, record: &Record) {
        let _ = black_box(serde_json::to_vec(record));
    }

    fn has_room(&self, _: usize) -> bool {
        true
    }
}

/// Tells what each row costs, or this one alone, by so many walks.
///
/// # Errors
/// When the built-in example cannot be put to work, or a walk ends otherwise than it should.
pub(super) async fn tell(walks: u32, only: Option<&str>) -> Result<(), Failure> {
    let key = SigningKey::rs256("cost")?;
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, bearer(&key)?)]);
    let each = (walks / ROUNDS).max(1);
    for (name, path, is_allowed, kind) in ROWS.into_iter().filter(|(name, ..)| only.is_none_or(|only| only == *name)) {
        let gate = &gate(&key, kind).await?;
        let (method, target, headers) = (&Method::GET, path.as_bytes(), &headers);
        let head = Head { method, target, headers, wire: None, peer: None, certificate: None };
        // From the third time on everything is known that is ever remembered.
        for _ in 0..3 {
            if gate.receive().admit(&head).await.is_ok() != is_allowed {
                return Err(format!("{name}: it ends otherwise").into());
            }
        }
        let mut quickest = Duration::MAX;
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            if hot(gate, &head, each) != (if is_allowed { each } else { 0 }) {
                return Err(format!("{name}: it ends otherwise").into());
            }
            quickest = quickest.min(begin.elapsed());
        }
        let micros = quickest.as_secs_f64() * 1e6 / f64::from(each);
        writeln!(std::io::stdout(), "{name}: {micros:.2} µs")?;
    }
    Ok(())
}

/// Walks so often with a token that is known; how often that was allowed. Not inlined, so that a profiler finds it.
#[inline(never)]
fn hot(gate: &Gate, head: &Head<'_>, walks: u32) -> u32 {
    let mut allowed = 0_u32;
    for _ in 0..walks {
        // What is known is not waited for.
        let outcome = gate.receive().admit(head).now_or_never();
        allowed = allowed.saturating_add(u32::from(matches!(black_box(outcome), Some(Ok(_)))));
    }
    allowed
}

/// A gate of the built-in example that knows `key`.
async fn gate(key: &SigningKey, kind: Kind) -> Result<Gate, Failure> {
    let keys = json!({ "keys": [key.jwk()] }).to_string();
    let schema = EXAMPLE.first().map_or("", |(_, text)| text);
    let reading = schema.replace("consent?: Consent,", READ);
    let more = [("policies/schema.cedarschema", reading.as_str()), ("policies/reading.cedar", READS)];
    let more = more.into_iter().filter(|_| kind == Kind::Reading);
    let files = Files::memory(EXAMPLE.into_iter().chain([("cost.json", keys.as_str())]).chain(more));
    let mut loaded = config::parse("config.yaml".into(), EXAMPLE_CONFIG.into(), files.clone())?.unserved();
    if let Some(issuer) = loaded.config.issuers.value.first_mut() {
        issuer.settings_mut().jwks_uri = None;
        issuer.settings_mut().jwks_file = Some(Spanned::nowhere("cost.json".into()));
    }
    let mut blueprint = loaded.compile()?.blueprint;
    if kind != Kind::Remembering {
        blueprint.decisions_cached_max = 0;
    }
    let outside = Outside::without_databases(Arc::new(SystemClock), Arc::new(HttpFetch::new()?), files);
    let snapshot = blueprint.start(&outside, None);
    snapshot.issuers().first_attempts().await;
    Ok(Gate::new(Arc::new(Current::new(snapshot)), Arc::new(SystemClock), Arc::new(Written), Arc::new(Metrics::new()?)))
}

/// The token of the flow.
fn bearer(key: &SigningKey) -> Result<HeaderValue, Failure> {
    let token = key.sign(&json!({
        "iss": "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_agents", "sub": "1example23456789",
        "client_id": "1example23456789", "version": 2, "token_use": "access", "callerApp": "ExampleChatApplication",
        "scope": "crossDomainService/read userData/read", "auth_time": 1_795_000_000, "iat": 1_600_000_000,
        "exp": 4_000_000_000_u64, "jti": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
        "onBehalfOf": { "sub": "user-1", "username": "my-example-username", "groups": ["readaccess"] },
    }))?;
    Ok(HeaderValue::from_str(&format!("Bearer {token}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_request_brings_along_room_for_what_few_need() {
        let key = SigningKey::rs256("cost").unwrap();
        let (gate, headers) = (gate(&key, Kind::Asking).await.unwrap(), HeaderMap::new());
        let head =
            Head { method: &Method::GET, target: b"/", headers: &headers, wire: None, peer: None, certificate: None };
        let mut visit = gate.receive();
        let bytes = size_of_val(&visit.admit(&head));
        assert!(bytes <= 3 * 1024, "{bytes} bytes, which are moved for each");
    }
}
