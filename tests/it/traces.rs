//! Traces: which one a request belongs to, what the upstream is told of it, and what a receiver gets.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::StatusCode;
use http_body_util::BodyExt;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind},
};
use portcullis::server::http1::{Http1Server, answer};
use prost::Message;

use crate::{
    house::{self, House, ROUTES, bearer, good_token},
    wire::{self, Answer},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

async fn gate(settings: &str) -> House {
    House::build(Some(&format!("{ROUTES}{settings}")), &[], house::NOW).await
}

fn call(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut all = vec![bearer()];
    all.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    wire::request("GET", "/users/user-1/data?canary-in-the-query", &all)
}

/// What the upstream got under this name.
fn got(answer: &Answer, name: &str) -> Vec<String> {
    let values = answer.json()["headers"][name].as_array().cloned().unwrap_or_default();
    values.iter().map(|value| value.as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_chooses_its_trace_only_where_the_configuration_lets_it() {
    let parent = format!("00-{TRACE}-{CALLER}-00");
    let fields = [("traceparent", parent.as_str()), ("tracestate", "a=1"), ("baggage", "k=v"), ("TRACESTATE", "b=2")];
    for (settings, continued) in [
        ("", false),
        ("trusted_proxies: { addresses: [127.0.0.0/8] }\n", true),
        ("trusted_proxies: { addresses: [10.0.0.0/8] }\n", false),
        ("traces: { parent: always }\n", true),
        ("traces: { parent: never }\ntrusted_proxies: { addresses: [127.0.0.0/8] }\n", false),
    ] {
        let mut house = gate(settings).await;
        let (answer, record) = house.ask(&call(&fields)).await;
        assert_eq!(answer.status, 200, "{settings}");
        let told = got(&answer, "traceparent");
        let named = record.unwrap().traceparent;
        assert_eq!((told.len(), told[0].len(), &told[0][..35]), (1, 55, &named[..35]), "{settings}");
        if continued {
            // Nobody here tells of a span of our own, so the upstream's parent is the caller's.
            assert_eq!(told[0], parent, "{settings}");
            assert_eq!(
                (got(&answer, "tracestate"), got(&answer, "baggage")),
                (vec!["a=1,b=2".into()], vec!["k=v".into()])
            );
        } else {
            assert!(!told[0].contains(TRACE) && !told[0].contains(CALLER) && told[0].ends_with("-01"), "{told:?}");
            assert!(got(&answer, "tracestate").is_empty() && got(&answer, "baggage").is_empty(), "{settings}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_trace_begins_a_new_one() {
    let mut house = gate("traces: { parent: always, ratio: 0 }\n").await;
    let parent = format!("00-{TRACE}-{CALLER}-01");
    for fields in [
        &[][..],
        &[("traceparent", "00-0-0-0")],
        &[("traceparent", &parent), ("traceparent", &parent)],
        &[("traceparent", &parent[1..])],
    ] {
        let (answer, record) = house.ask(&call(fields)).await;
        let told = got(&answer, "traceparent");
        assert!(told.len() == 1 && told[0].ends_with("-00") && !told[0].contains(TRACE), "{fields:?} {told:?}");
        // The decision names the trace that begins with it.
        let id = u128::from(ulid::Ulid::from_string(&record.unwrap().decision_id).unwrap());
        assert_eq!(told[0][3..35], format!("{id:032x}"));
    }
}

/// A receiver, and what it has received.
struct Receiver {
    server: Http1Server,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Receiver {
    async fn start(status: StatusCode) -> Self {
        let received: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let kept = received.clone();
        let server = Http1Server::start(house::loopback().await, move |request| {
            let kept = kept.clone();
            async move {
                assert_eq!(
                    (request.uri().path(), request.headers()["x-key"].to_str().unwrap()),
                    ("/otlp/v1/traces", "for tests only")
                );
                let body = request.into_body().collect().await.unwrap().to_bytes();
                kept.lock().unwrap().push(body.into());
                answer(status, "application/x-protobuf", Vec::new())
            }
        });
        Self { server: server.unwrap(), received }
    }

    fn settings(&self, more: &str) -> String {
        format!(
            "traces:\n  otlp:\n    endpoint: http://{}/otlp\n    protocol: http\n    service_name: the-gate\n    \
             resource: {{ deployment.environment.name: test }}\n    \
             headers: [{{ name: x-key, value: {{ file: nonce-secret }} }}]\n{more}",
            self.server.address()
        )
    }

    fn bytes(&self) -> Vec<u8> {
        self.received.lock().unwrap().concat()
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.received.lock().unwrap();
        let decoded = requests.iter().map(|body| ExportTraceServiceRequest::decode(&**body).unwrap());
        decoded
            .flat_map(|request| request.resource_spans)
            .inspect(|spans| {
                let said = attributes(&spans.resource.as_ref().unwrap().attributes);
                assert_eq!((&*said["service.name"], &*said["deployment.environment.name"]), ("the-gate", "test"));
            })
            .flat_map(|spans| spans.scope_spans)
            .flat_map(|spans| spans.spans)
            .collect()
    }
}

pub(crate) fn attributes(all: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::ArrayValue(all) => format!("{} values", all.values.len()),
        other => panic!("{other:?}"),
    };
    all.iter().map(|it| (it.key.clone(), text(it.value.as_ref().unwrap().value.as_ref().unwrap()))).collect()
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let names = || spans.iter().map(|span| &span.name).collect::<Vec<_>>();
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no `{name}` in {:?}", names()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_with_one_below_it_for_each_stage_and_attempt() {
    let receiver = Receiver::start(StatusCode::OK).await;
    let mut house = gate(&receiver.settings("  parent: always\n")).await;
    let (answer, record) =
        house.ask(&call(&[("traceparent", &format!("00-{TRACE}-{CALLER}-01")), ("tracestate", "a=1")])).await;
    let told = got(&answer, "traceparent").remove(0);
    let record = record.unwrap();
    house.app.stop(Duration::from_secs(5)).await;
    let spans = receiver.spans();
    assert_eq!(spans.len(), 6, "{spans:#?}");
    let server = named(&spans, "GET /users/{id}/data");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!((server.kind(), hex(&server.parent_span_id).as_str()), (SpanKind::Server, CALLER));
    assert_eq!(record.traceparent, format!("00-{TRACE}-{}-01", hex(&server.span_id)));
    let ids: std::collections::BTreeSet<_> = spans.iter().map(|span| &span.span_id).collect();
    assert_eq!(ids.len(), spans.len(), "each has a name of its own");
    for span in &spans {
        assert_eq!((hex(&span.trace_id).as_str(), span.trace_state.as_str()), (TRACE, "a=1"));
        assert!(span.status.is_none() && span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
        assert!(span.name == server.name || span.parent_span_id == server.span_id, "{span:?}");
        assert!(span.start_time_unix_nano >= server.start_time_unix_nano, "{span:?}");
        assert!(span.end_time_unix_nano <= server.end_time_unix_nano + 1_000, "{span:?}");
        // Sampled, and its parent is known to be here, or of the request's own to be elsewhere.
        assert_eq!(span.flags, if span.name == server.name { 0x301 } else { 0x101 }, "{span:?}");
    }
    for stage in ["request", "token", "entities", "policy"] {
        assert_eq!(named(&spans, &format!("portcullis.{stage}")).kind(), SpanKind::Internal);
    }
    let client = named(&spans, "GET");
    assert_eq!(client.kind(), SpanKind::Client);
    assert_eq!(told, format!("00-{TRACE}-{}-01", hex(&client.span_id)), "the upstream's parent is the attempt");
    let said = attributes(&client.attributes);
    assert_eq!((&*said["server.address"], &*said["http.response.status_code"]), ("127.0.0.1", "200"));
    let said = attributes(&server.attributes);
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/users/{id}/data"),
        ("url.path", "/users/user-1/data"),
        ("http.response.status_code", "200"),
        ("client.address", "127.0.0.1"),
        ("portcullis.code", "allowed"),
        ("portcullis.agent", "1example23456789"),
        ("portcullis.user", "user-1"),
        ("portcullis.policies", "1 values"),
        ("portcullis.decision_id", &record.decision_id),
    ] {
        assert_eq!(said.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!said.contains_key("error.type"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_a_span_with_its_code_whatever_the_share_that_is_kept() {
    let receiver = Receiver::start(StatusCode::OK).await;
    let mut house = gate(&receiver.settings("  ratio: 0\n")).await;
    let forged = format!("{}x", good_token());
    house.ask(&call(&[])).await;
    house.ask(&wire::request("GET", "/users/user-2/data", &[bearer()])).await;
    house.ask(&wire::request("BREW", "/nowhere", &[])).await;
    house
        .ask(&wire::request("GET", "/users/user-1/data", &[("authorization".into(), format!("Bearer {forged}"))]))
        .await;
    house.app.stop(Duration::from_secs(5)).await;
    let spans = receiver.spans();
    let servers: Vec<_> = spans.iter().filter(|span| span.kind() == SpanKind::Server).collect();
    let told: Vec<_> = servers
        .iter()
        .map(|span| {
            let said = attributes(&span.attributes);
            let status = span.status.as_ref().unwrap();
            assert_eq!((status.code, &status.message), (2, &said["portcullis.code"]));
            assert_eq!((span.flags, span.parent_span_id.len()), (0x100, 0), "nobody's share, and nobody's child");
            assert_eq!(said["error.type"], said["portcullis.code"]);
            let below = spans.iter().filter(|it| it.parent_span_id == span.span_id);
            let stages: Vec<_> = below.clone().map(|it| it.name.trim_start_matches("portcullis.")).collect();
            let failed = below.filter(|it| it.status.as_ref().is_some_and(|it| it.code == 2)).count();
            assert_eq!(failed, 1, "the stage that said no");
            (span.name.clone(), said["portcullis.code"].clone(), stages.join(" "))
        })
        .collect();
    let row = |name: &str, code: &str, stages: &str| (name.to_owned(), code.to_owned(), stages.to_owned());
    assert_eq!(
        told,
        [
            row("GET /users/{id}/data", "access_denied", "request token entities policy"),
            row("HTTP", "token_missing", "request token"),
            row("GET /users/{id}/data", "token_malformed", "request token"),
        ]
    );
    assert_eq!(attributes(&servers[1].attributes)["http.request.method_original"], "BREW");
    // No secret and no query is in anything that was sent.
    let bytes = receiver.bytes();
    let (token, key) = (good_token(), "for tests only");
    let parts = token.split('.').chain([key, "canary-in-the-query"]);
    for part in parts {
        assert!(!bytes.windows(part.len()).any(|window| window == part.as_bytes()), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_holds_up_no_request_and_what_it_misses_is_counted() {
    let receiver = Receiver::start(StatusCode::BAD_REQUEST).await;
    let mut house = gate(&receiver.settings("")).await;
    for _ in 0..3 {
        assert_eq!(house.ask(&call(&[])).await.0.status, 200);
    }
    let metric = |text: &str, name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let text = house.operators("/metrics").await.body;
        if metric(&text, "portcullis_spans_dropped_total") == 18 {
            assert_eq!(metric(&text, "portcullis_spans_exported_total"), 0);
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn what_is_wrong_with_the_section_is_told() {
    for (settings, told) in [
        ("traces: { ratio: 1.5 }\n", "`ratio` is out of range"),
        ("traces: { parent: sometimes }\n", "sometimes"),
        ("traces: { otlp: { endpoint: 'ftp://a' } }\n", "not the address of a receiver"),
        ("traces: { otlp: { endpoint: 'http://a:4317/path' } }\n", "not the address of a receiver"),
        ("traces: { otlp: { endpoint: 'http://u:p@a:4317' } }\n", "not the address of a receiver"),
        ("traces: { otlp: { endpoint: 'http://a:4317', authorities: nonce-secret } }\n", "that nobody shows"),
        (
            "traces: { otlp: { endpoint: 'http://a:4317', headers: [{ name: x-key, value: { file: nonce-secret } }] } }\n",
            "would be told to whoever listens",
        ),
        (
            "traces: { otlp: { endpoint: 'https://a', headers: [{ name: te, value: { file: nonce-secret } }] } }\n",
            "`te` cannot be set",
        ),
        ("traces: { otlp: { endpoint: 'https://a', timeout_ms: 0 } }\n", "`timeout_ms` is out of range"),
    ] {
        let files = portcullis::base::files::Files::memory([("nonce-secret", "x")]);
        let parsed = portcullis::config::parse("config.yaml".into(), format!("{ROUTES}{settings}"), files);
        let problems = parsed.and_then(|loaded| loaded.compile().map(drop)).unwrap_err().to_string();
        assert!(problems.contains(told), "{settings}: {problems}");
    }
}
