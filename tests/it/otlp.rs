//! Telemetry by OTLP: how a receiver is spoken to, and what becomes of what it does not take.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::pending,
    os::unix::net::UnixDatagram,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes};
use futures_util::future::join_all;
use http::{HeaderMap, Request, Response, request::Parts};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse},
        trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
    },
    resource::v1::Resource,
};
use portcullis::{
    audit::{Lines, Record, Sink},
    base::clock::Timestamp,
    config::otlp::{OtlpProtocol, OtlpSettings},
    metrics::Metrics,
    server::otlp::{Exporter, OtlpRecords},
    trace::{Parent, Spans, Trace, Tracing},
};
use prost::Message;
use serde_json::json;
use tokio::{io, net::TcpStream, time::sleep};
use tokio_rustls::TlsAcceptor;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};
use url::Url;

use crate::{
    house::{self, House, ROUTES, bearer, spanned},
    rates::way_to,
    records, reload, tls,
    traces::attributes,
    upstream::acceptor,
    wire,
};

/// Longer than anything takes, but for what is tried again and again.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is answered.
#[derive(Clone, Copy, Debug)]
enum Says {
    Taken,
    /// All but so many are taken.
    AllBut(i64),
    /// This status by HTTP, and this code by gRPC.
    Failed(u16, u16),
    /// To be left alone for so many seconds.
    Later(u64),
    Nothing,
    /// Breaks off.
    Gone,
}

const LATER: Says = Says::Failed(503, 14);
const NEVER: Says = Says::Failed(400, 3);
/// That it has no room, and not that this will pass.
const EXHAUSTED: Says = Says::Failed(507, 8);
const UNKNOWN: Says = Says::Failed(500, 2);

/// A receiver: what it answers first, then always, and what it got.
#[derive(Clone)]
struct Receiver {
    settings: OtlpSettings,
    says: Arc<Mutex<Vec<Says>>>,
    got: Arc<Mutex<Vec<(Parts, Bytes)>>>,
}

impl Receiver {
    async fn start(protocol: OtlpProtocol, says: &[Says]) -> Self {
        Self::with(protocol, says, None).await
    }

    async fn with(protocol: OtlpProtocol, says: &[Says], tls: Option<TlsAcceptor>) -> Self {
        let listener = house::loopback().await;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = Url::parse(&format!("{scheme}://{}", listener.local_addr().unwrap())).unwrap();
        let settings = OtlpSettings {
            endpoint,
            protocol,
            headers: vec![("x-key".parse().unwrap(), "for tests only".to_owned().into())],
            authorities: None,
            timeout: Duration::from_secs(3),
            resource: [("service.name".into(), "the-gate".into())].into(),
        };
        let says = says.iter().copied().rev().collect();
        let receiver = Self { settings, says: Arc::new(Mutex::new(says)), got: Arc::default() };
        let served = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(served.clone().serve(stream, tls.clone()));
            }
        });
        receiver
    }

    async fn serve(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        match tls {
            None => self.speak(stream).await,
            Some(tls) => {
                if let Ok(stream) = tls.accept(stream).await {
                    self.speak(stream).await;
                }
            }
        }
    }

    async fn speak(self, stream: impl io::AsyncRead + io::AsyncWrite + Unpin + Send + 'static) {
        let is_grpc = self.settings.protocol == OtlpProtocol::Grpc;
        let service = service_fn(move |request| self.clone().answer(request));
        let stream = TokioIo::new(stream);
        let _ = match is_grpc {
            true => http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await,
            false => http1::Builder::new().serve_connection(stream, service).await,
        };
    }

    async fn answer(self, request: Request<Incoming>) -> io::Result<Response<UnsyncBoxBody<Bytes, Infallible>>> {
        let (head, body) = request.into_parts();
        let mut body = body.collect().await.unwrap().to_bytes();
        let is_grpc = self.settings.protocol == OtlpProtocol::Grpc;
        if is_grpc {
            body = body.slice(5..);
        }
        let is_of_logs = head.uri.path().to_ascii_lowercase().contains("logs");
        self.got.lock().unwrap().push((head, body));
        let says = {
            let mut says = self.says.lock().unwrap();
            if says.len() > 1 { says.pop().unwrap() } else { says[0] }
        };
        let (mut status, mut code) = (200, 0_u16);
        let mut later = None;
        let mut rejected = 0;
        match says {
            Says::Taken => {}
            Says::AllBut(some) => rejected = some,
            Says::Failed(of_http, of_grpc) => (status, code) = (of_http, of_grpc),
            Says::Later(seconds) => (status, code, later) = (429, 8, Some(seconds)),
            Says::Nothing => pending().await,
            Says::Gone => return Err(io::Error::other("gone")),
        }
        let told = if rejected > 0 { "no".to_owned() } else { String::new() };
        let message = match is_of_logs {
            true => {
                let part = ExportLogsPartialSuccess { rejected_log_records: rejected, error_message: told };
                ExportLogsServiceResponse { partial_success: Some(part) }.encode_to_vec()
            }
            false => {
                let part = ExportTracePartialSuccess { rejected_spans: rejected, error_message: told };
                ExportTraceServiceResponse { partial_success: Some(part) }.encode_to_vec()
            }
        };
        if !is_grpc {
            let mut answer = Response::builder().status(status).body(Full::from(message).boxed_unsync()).unwrap();
            if let Some(seconds) = later {
                answer.headers_mut().insert("retry-after", seconds.into());
            }
            return Ok(answer);
        }
        let mut framed = vec![0];
        framed.put_u32(message.len().try_into().unwrap());
        framed.extend(message);
        let details = ErrorDetails::with_retry_info(later.map(Duration::from_secs));
        let status = match later {
            None => Status::new(i32::from(code).into(), "told"),
            Some(_) => Status::with_error_details(i32::from(code).into(), "told", details),
        };
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers).unwrap();
        let body = Full::from(framed).with_trailers(async { Some(Ok(trailers)) }).boxed_unsync();
        Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
    }

    fn requests(&self) -> usize {
        self.got.lock().unwrap().len()
    }

    /// What it got, each request with what it says of the gate and how much of the visits.
    fn told(&self) -> Vec<(String, BTreeMap<String, String>, usize)> {
        let of = |resource: &Option<Resource>| attributes(&resource.as_ref().expect("says who sends it").attributes);
        let got = self.got.lock().unwrap();
        let told = got.iter().map(|(head, body)| {
            assert_eq!(head.headers["x-key"], "for tests only");
            let path = head.uri.path().to_owned();
            let (resource, number) = if path.to_ascii_lowercase().contains("logs") {
                let all = ExportLogsServiceRequest::decode(&**body).unwrap().resource_logs;
                (of(&all[0].resource), all[0].scope_logs[0].log_records.len())
            } else {
                let all = ExportTraceServiceRequest::decode(&**body).unwrap().resource_spans;
                (of(&all[0].resource), all[0].scope_spans[0].spans.len())
            };
            (path, resource, number)
        });
        told.collect()
    }
}

async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}: never");
        sleep(Duration::from_millis(10)).await;
    }
}

/// What sends, and what is counted of it.
enum Sender {
    Spans(Exporter, Metrics),
    Records(Lines, Metrics),
}

impl Sender {
    fn of_spans(settings: &OtlpSettings) -> Self {
        let metrics = Metrics::new().unwrap();
        let (exported, dropped) = metrics.spans();
        let exporter = Exporter::start(exported, dropped);
        exporter.turn_to(Some(settings)).unwrap();
        Self::Spans(exporter, metrics)
    }

    fn of_records(settings: &OtlpSettings) -> Self {
        let metrics = Metrics::new().unwrap();
        Self::Records(Lines::new(OtlpRecords::of(settings).unwrap(), metrics.records("otlp")).unwrap(), metrics)
    }

    /// Sends what comes of so many visits: a record each, or a span.
    fn send(&self, visits: usize) {
        match self {
            Self::Spans(exporter, _) => (0..visits).for_each(|_| take(exporter)),
            Self::Records(lines, _) => (0..visits).for_each(|_| lines.write(&Record::default())),
        }
    }

    /// How much was taken, and how much was not.
    fn counted(&self) -> (u64, u64) {
        let counts = match self {
            Self::Spans(_, metrics) => metrics.spans(),
            Self::Records(_, metrics) => {
                let counts = metrics.records("otlp");
                (counts.written, counts.dropped)
            }
        };
        (counts.0.get(), counts.1.get())
    }

    async fn counts(&self, expected: (u64, u64)) {
        let began = Instant::now();
        while self.counted() != expected {
            assert!(began.elapsed() < PATIENCE, "{:?} and not {expected:?}", self.counted());
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A visit that ended before its first stage did.
fn take(exporter: &Exporter) {
    let tracing = Tracing { parent: Parent::Never, kept_below: Tracing::bound(1.0), denials: true, exported: true };
    let trace = Trace::begin(tracing, 7, Timestamp::from_seconds(house::NOW), Instant::now());
    exporter.take(&trace, &Record::default());
}

const PROTOCOLS: [OtlpProtocol; 2] = [OtlpProtocol::Grpc, OtlpProtocol::Http];

type Make = fn(&OtlpSettings) -> Sender;

/// Each protocol, with each thing that is sent by it.
fn every() -> [(OtlpProtocol, Make); 4] {
    let [grpc, http] = PROTOCOLS;
    [(grpc, Sender::of_records), (grpc, Sender::of_spans), (http, Sender::of_records), (http, Sender::of_spans)]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_goes_where_the_protocol_says_and_says_whose_it_is() {
    for (protocol, records, spans, content) in [
        (
            OtlpProtocol::Grpc,
            "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            "application/grpc",
        ),
        (OtlpProtocol::Http, "/v1/logs", "/v1/traces", "application/x-protobuf"),
    ] {
        let receiver = Receiver::start(protocol, &[Says::Taken]).await;
        for sender in [Sender::of_records(&receiver.settings), Sender::of_spans(&receiver.settings)] {
            sender.send(1);
            sender.counts((1, 0)).await;
        }
        let resource: BTreeMap<_, _> = [("service.name", "the-gate"), ("service.version", env!("CARGO_PKG_VERSION"))]
            .map(|(a, b)| (a.into(), b.into()))
            .into();
        assert_eq!(receiver.told(), [(records.into(), resource.clone(), 1), (spans.into(), resource, 1)]);
        for (head, _) in receiver.got.lock().unwrap().iter() {
            assert_eq!((head.method.as_str(), &head.headers["content-type"]), ("POST", &content.parse().unwrap()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_taken_now_is_sent_again_and_what_is_refused_is_counted() {
    let mut all = Vec::new();
    for (protocol, make) in every() {
        for (says, visits, counted, sent) in [
            (&[LATER, Says::Taken][..], 1, (1, 0), 2),
            (&[Says::Nothing, Says::Taken], 1, (1, 0), 2),
            (&[Says::Gone, Says::Taken], 1, (1, 0), 2),
            (&[NEVER, Says::Taken], 1, (0, 1), 1),
            (&[EXHAUSTED, Says::Taken], 1, (0, 1), 1),
            (&[UNKNOWN, Says::Taken], 1, (0, 1), 1),
            (&[Says::Later(2), Says::Taken], 1, (1, 0), 2),
            // Longer than it is tried.
            (&[Says::Later(31), Says::Taken], 1, (0, 1), 1),
            // These may go together, or not.
            (&[Says::AllBut(1), Says::Taken], 3, (2, 1), 3),
            (&[Says::AllBut(1000)], 3, (0, 3), 3),
        ] {
            all.push(async move {
                let receiver = Receiver::start(protocol, says).await;
                let sender = make(&receiver.settings);
                let began = Instant::now();
                sender.send(visits);
                sender.counts(counted).await;
                if let [Says::Later(seconds @ ..10), _] = says {
                    assert!(began.elapsed() >= Duration::from_secs(*seconds), "{protocol:?}: {:?}", began.elapsed());
                }
                let told = receiver.told();
                let all: usize = told.iter().map(|(_, _, number)| number).sum();
                assert_eq!(all, sent, "{protocol:?} {says:?} {told:?}");
            });
        }
    }
    join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_are_never_taken_are_given_up_after_a_while() {
    let receiver = Receiver::start(OtlpProtocol::Http, &[LATER]).await;
    let sender = Sender::of_spans(&receiver.settings);
    let began = Instant::now();
    sender.send(3);
    sender.counts((0, 3)).await;
    assert_eq!(receiver.requests(), 6);
    // A half, one, two, four and eight seconds between them; another sixteen would be more than half a minute.
    assert!(began.elapsed() > Duration::from_secs(15), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_spans_are_sent_once_and_what_is_not_taken_is_counted() {
    let receiver = Receiver::start(OtlpProtocol::Http, &[LATER]).await;
    let sender = Sender::of_spans(&receiver.settings);
    sender.send(3);
    let Sender::Spans(exporter, _) = &sender else { unreachable!() };
    exporter.close().await;
    assert_eq!((sender.counted(), receiver.requests()), ((0, 3), 1));
    take(exporter);
    assert_eq!(sender.counted(), (0, 4), "what comes later is counted too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_ends_waits_for_no_receiver_that_wants_to_be_left_alone() {
    let receiver = Receiver::start(OtlpProtocol::Http, &[Says::Later(25)]).await;
    let sender = Sender::of_spans(&receiver.settings);
    sender.send(3);
    wait_until("it is asked", || receiver.requests() == 1).await;
    // So that its answer has come, mostly; what ends before that tries no more.
    sleep(Duration::from_millis(500)).await;
    let Sender::Spans(exporter, _) = &sender else { unreachable!() };
    exporter.close().await;
    assert_eq!(sender.counted(), (0, 3), "counted, and not waited for");
    assert!(receiver.requests() <= 2, "tried once more at most");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_is_left_alone_for_as_long_as_it_asks() {
    join_all(every().map(|(protocol, make)| async move {
        let receiver = Receiver::start(protocol, &[Says::Later(31)]).await;
        let sender = make(&receiver.settings);
        sender.send(1);
        sender.counts((0, 1)).await;
        sender.send(1);
        // Records would be asked for each second, and spans sent after one.
        sleep(Duration::from_secs(3)).await;
        assert_eq!(receiver.requests(), 1, "{protocol:?}");
        if let Sender::Records(lines, _) = &sender {
            assert_eq!(sender.counted(), (0, 2), "lost at once");
            assert!(!lines.has_room(1));
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_fallen_silent_is_another_while_it_is_still_tried() {
    let receiver = Receiver::start(OtlpProtocol::Grpc, &[Says::Taken]).await;
    let mut settings = receiver.settings.clone();
    let (way, lose) = way_to(settings.endpoint.port().unwrap()).await;
    settings.endpoint.set_port(Some(way)).unwrap();
    let sender = Sender::of_records(&settings);
    sender.send(1);
    sender.counts((1, 0)).await;
    lose.send_replace(());
    sender.send(1);
    sender.counts((2, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_spans_than_may_wait_are_dropped_and_counted() {
    let receiver = Receiver::start(OtlpProtocol::Http, &[Says::Nothing]).await;
    let sender = Sender::of_spans(&receiver.settings);
    let Sender::Spans(exporter, _) = &sender else { unreachable!() };
    (0..6000).for_each(|_| take(exporter));
    let dropped = sender.counted().1;
    // 4096 wait, and some are on their way.
    assert!((1000..=6000 - 4096).contains(&dropped), "{dropped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_no_request_without_a_record_is_told_until_the_receiver_is_there_again() {
    join_all(PROTOCOLS.map(|protocol| async move {
        let receiver = Receiver::start(protocol, &[NEVER]).await;
        let sender = Sender::of_records(&receiver.settings);
        let Sender::Records(lines, _) = &sender else { unreachable!() };
        assert!(lines.has_room(1));
        sender.send(3);
        sender.counts((0, 3)).await;
        wait_until("it is asked whether it is there again", || receiver.requests() >= 3).await;
        assert!(!lines.has_room(1), "nobody has taken anything");
        *receiver.says.lock().unwrap() = vec![Says::Taken];
        wait_until("well again", || lines.has_room(1)).await;
        sender.send(3);
        sender.counts((3, 3)).await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_is_believed_by_the_authorities_that_are_named_alone() {
    let folder = tls::folder();
    for protocol in PROTOCOLS {
        for (authority, counted) in [("ca.pem", (3, 0)), ("self.pem", (0, 3))] {
            let spoken = if protocol == OtlpProtocol::Grpc { "h2" } else { "http/1.1" };
            let acceptor = acceptor(folder.path(), "gate", false, &[spoken]);
            let mut receiver = Receiver::with(protocol, &[Says::Taken], Some(acceptor)).await;
            let pem = std::fs::read_to_string(folder.path().join(authority)).unwrap();
            receiver.settings.authorities = Some(spanned(pem));
            let sender = Sender::of_spans(&receiver.settings);
            sender.send(3);
            let Sender::Spans(exporter, _) = &sender else { unreachable!() };
            exporter.close().await;
            assert_eq!(sender.counted(), counted, "{protocol:?} {authority}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_name_nobody_whom_records_give_a_pseudonym() {
    let receiver = Receiver::start(OtlpProtocol::Http, &[Says::Taken]).await;
    let settings = format!(
        "{ROUTES}records: {{ pseudonyms: {{ key: {{ file: key }} }} }}\n\
         traces: {{ otlp: {{ endpoint: '{}', protocol: http, headers: [{{ name: x-key, value: {{ file: nonce-secret }} }}] }} }}\n",
        receiver.settings.endpoint
    );
    let key = ("key".to_owned(), "0123456789abcdef0123456789abcdef".to_owned());
    let mut house = House::build(Some(&settings), &[key], house::NOW).await;
    let record = house.ask(&wire::request("GET", "/users/user-1/data", &[bearer()])).await.1.unwrap();
    house.app.stop(Duration::from_secs(5)).await;
    let got = receiver.got.lock().unwrap();
    let bytes = got.iter().flat_map(|(_, body)| body.to_vec()).collect::<Vec<_>>();
    let tells = |what: &str| bytes.windows(what.len()).any(|part| part == what.as_bytes());
    assert!(tells(record.user.as_deref().unwrap()) && tells(&record.path), "what the record says");
    assert!(!tells("user-1") && !tells("1example23456789"));
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_go_to_whom_the_configuration_in_force_names() {
    let [first, second] = [
        Receiver::start(OtlpProtocol::Http, &[Says::Taken]).await,
        Receiver::start(OtlpProtocol::Http, &[Says::Taken]).await,
    ];
    let folder = tls::folder();
    let traces = |receiver: &Receiver| {
        format!("traces: {{ otlp: {{ endpoint: '{}', protocol: http }} }}\n", receiver.settings.endpoint)
    };
    let mut house = House::following(folder.path(), &(reload::CONFIG.to_owned() + &traces(&first))).await;
    let path = folder.path().join("config.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(&traces(&first), &traces(&second))).unwrap();
    let began = Instant::now();
    while second.requests() == 0 {
        assert!(began.elapsed() < PATIENCE, "never");
        house.ask(&wire::request("GET", "/", &[])).await;
    }
}

#[test]
fn a_gate_sends_its_records_to_each_collector_that_is_named() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let receiver = runtime.block_on(Receiver::start(OtlpProtocol::Http, &[Says::Taken]));
    let socket = tempfile::tempdir().unwrap();
    let collector = UnixDatagram::bind(socket.path().join("log")).unwrap();
    collector.set_read_timeout(Some(PATIENCE)).unwrap();
    let (_folder, file) = records::folder(&format!(
        "claims: [note], syslog: {{ to: 'unix:{}/log', facility: local3, app_name: gate, message_bytes_max: 2048 }}, \
         otlp: {{ endpoint: '{}', protocol: http }}",
        socket.path().display(),
        receiver.settings.endpoint
    ));
    let gate = records::start(&file);
    let token = records::bearer(&json!({ "note": "x".repeat(1000) }));
    // The record of the second is too long for the one, and for the other it is not.
    let long = format!("/{}", "x".repeat(1000));
    for (path, fields) in [("/first", ""), (&*long, &*token), ("/last", "")] {
        records::ask(&gate.address, &format!("GET {path}"), fields, "").unwrap();
    }
    // Of two connections, whichever has ended first is recorded first.
    let mut paths = vec!["/first", &*long, "/last"];
    while !paths.is_empty() {
        let mut message = vec![0; 4096];
        let length = collector.recv(&mut message).unwrap();
        let message = String::from_utf8_lossy(&message[..length]);
        let waiting = paths.len();
        paths.retain(|path| !message.contains(path));
        assert!(message.starts_with("<158>1 ") && paths.len() + 1 == waiting, "{message}");
        assert_eq!(message.ends_with(r#","left_out":["claims"]}"#), message.contains(&long), "{message}");
    }
    let told = |sink: &str, metrics: &str| {
        ["written", "dropped"].map(|what| {
            let name = format!("portcullis_records_{what}_total{{sink=\"{sink}\"}} ");
            metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse::<u64>().unwrap()
        })
    };
    let began = Instant::now();
    loop {
        let metrics = records::ask(&gate.admin, "GET /metrics", "", "").unwrap();
        let counted = (told("syslog", &metrics), told("otlp", &metrics));
        if counted == ([3, 0], [3, 0]) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{counted:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
