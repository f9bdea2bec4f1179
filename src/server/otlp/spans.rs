//! A visit as spans: one for the request, below it one for each stage of the decision and each attempt at the upstream. They
//! say what the record says, and nothing else: with pseudonyms where that has them, without a token or a query.

use std::time::Duration;

use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    trace::v1::{Span, Status, span::SpanKind, status::StatusCode::Error},
};

use super::said::{number, said, several, text};
use crate::{
    audit::{Outcome, Record, StageTimes},
    trace::{Attempt, Trace},
};

/// The methods that conventions know.
const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];

/// Bits of a span's flags: whether it is sampled, whether it is known where its parent is, and whether that is elsewhere.
const SAMPLED: u32 = 1;
const PARENT_IS_KNOWN: u32 = 0x100;
const PARENT_IS_REMOTE: u32 = 0x200;

/// The spans of a visit.
pub(super) fn of(trace: &Trace, record: &Record) -> Vec<Span> {
    let mut spans = vec![request(trace, record)];
    spans.extend(stages(trace, record));
    let attempts = trace.attempts();
    let last = attempts.len().saturating_sub(1);
    spans.extend(attempts.iter().enumerate().map(|(at, it)| attempt(trace, record, it, at, at == last)));
    spans
}

/// How many there would be, about.
pub(super) fn number_of(trace: &Trace) -> usize {
    trace.passed().count().saturating_add(trace.attempts().len()).saturating_add(1)
}

/// A span from `began` to `ended` after the visit began, below the visit's own.
fn span(trace: &Trace, id: u64, name: String, kind: SpanKind, (began, ended): (Duration, Duration)) -> Span {
    let after = |by: Duration| trace.began().later(by).nanoseconds();
    Span {
        trace_id: trace.id().to_be_bytes().into(),
        span_id: id.to_be_bytes().into(),
        parent_span_id: trace.span().to_be_bytes().into(),
        trace_state: trace.caller().map(|caller| caller.state.clone()).unwrap_or_default(),
        flags: PARENT_IS_KNOWN | if trace.is_sampled() { SAMPLED } else { 0 },
        name,
        kind: kind.into(),
        start_time_unix_nano: after(began),
        end_time_unix_nano: after(ended),
        ..Span::default()
    }
}

fn request(trace: &Trace, record: &Record) -> Span {
    let whole = (Duration::ZERO, Duration::from_micros(record.duration_us));
    let known = METHODS.contains(&record.method.as_str());
    let method = if known { record.method.as_str() } else { "HTTP" };
    // Hosts, if there are any, stand before the first `/`.
    let route = record.route.as_deref().and_then(|name| name.find('/').and_then(|at| name.get(at..)));
    let name = route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}"));
    let mut span = span(trace, trace.span(), name, SpanKind::Server, whole);
    span.parent_span_id.clear();
    if let Some(caller) = trace.caller() {
        span.parent_span_id = caller.span.to_be_bytes().into();
        span.flags |= PARENT_IS_REMOTE;
    }
    let optional = |name, value: Option<&str>| value.map(|value| said(name, text(value)));
    span.attributes = vec![
        said("http.request.method", text(if known { method } else { "_OTHER" })),
        said("url.path", text(&record.path)),
        said("portcullis.decision_id", text(&record.decision_id)),
        said("portcullis.decision", text(decision(record.decision))),
        said("portcullis.code", text(record.code)),
    ];
    let texts = [
        ("http.route", route),
        ("client.address", record.peer.as_deref()),
        ("portcullis.route", record.route.as_deref()),
        ("portcullis.issuer", record.issuer.as_deref()),
        ("portcullis.agent", record.agent.as_deref()),
        ("portcullis.user", record.user.as_deref()),
        ("portcullis.app", record.app.as_deref()),
        ("portcullis.action", record.action.as_deref()),
        ("portcullis.resource", record.resource.as_deref()),
        ("portcullis.missing", record.missing.as_deref()),
        ("portcullis.limit", record.limit.as_deref()),
        ("portcullis.side", record.side),
        ("portcullis.store", record.store.as_deref()),
        ("portcullis.upstream", record.upstream.as_deref()),
    ];
    span.attributes.extend(texts.into_iter().filter_map(|(name, value)| optional(name, value)));
    span.attributes.extend((!known).then(|| said("http.request.method_original", text(&record.method))));
    span.attributes.extend(status(record.status));
    span.attributes
        .extend((!record.policies.is_empty()).then(|| said("portcullis.policies", several(&record.policies))));
    if failed(record) {
        span.attributes.push(said("error.type", text(record.code)));
        span.status = error(record.code);
    }
    span
}

const fn decision(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Allow => "allow",
        Outcome::Deny => "deny",
        Outcome::Abandoned => "abandoned",
    }
}

/// Whether it did not go as it was to go.
fn failed(record: &Record) -> bool {
    // Where nothing was refused and nothing failed no stage is named.
    record.decision == Outcome::Deny || record.stage.is_some()
}

fn error(code: &str) -> Option<Status> {
    Some(Status { message: code.to_owned(), code: Error.into() })
}

fn status(status: u16) -> Option<KeyValue> {
    (status != 0).then(|| said("http.response.status_code", number(status)))
}

/// One for each stage that was passed, and for the one that was not.
fn stages(trace: &Trace, record: &Record) -> Vec<Span> {
    let decided = Duration::from_micros(record.decision_us);
    let mut began = Duration::ZERO;
    let mut spans = Vec::new();
    for (number, name) in StageTimes::NAMES.iter().enumerate() {
        let passed = trace.passed().nth(number);
        let ended = passed.unwrap_or(decided).max(began);
        if record.decision == Outcome::Abandoned && passed.is_none() {
            break;
        }
        let name = format!("portcullis.{name}");
        let mut span = span(trace, trace.below(number), name, SpanKind::Internal, (began, ended));
        if passed.is_none() && record.decision == Outcome::Deny {
            span.attributes.push(said("error.type", text(record.code)));
            span.status = error(record.code);
        }
        spans.push(span);
        if passed.is_none() {
            break;
        }
        began = ended;
    }
    spans
}

fn attempt(trace: &Trace, record: &Record, attempt: &Attempt, number_of_it: usize, is_last: bool) -> Span {
    let ended = attempt.ended.unwrap_or_else(|| Duration::from_micros(record.duration_us)).max(attempt.began);
    let name = if METHODS.contains(&record.method.as_str()) { record.method.clone() } else { "HTTP".to_owned() };
    let mut span = span(trace, attempt.span, name.clone(), SpanKind::Client, (attempt.began, ended));
    let method = if name == record.method { name.as_str() } else { "_OTHER" };
    let path = record.upstream_path.as_ref().unwrap_or(&record.path);
    span.attributes = vec![said("http.request.method", text(method)), said("url.path", text(path))];
    match attempt.server.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
        Some((host, Ok(port))) => {
            let host = host.trim_matches(['[', ']']);
            span.attributes.extend([said("server.address", text(host)), said("server.port", number(port))]);
        }
        _ => span.attributes.push(said("server.address", text(&*attempt.server))),
    }
    let resent = i64::try_from(number_of_it).unwrap_or(i64::MAX);
    span.attributes.extend((resent > 0).then(|| said("http.request.resend_count", number(resent))));
    span.attributes.extend(attempt.status.and_then(status));
    let code = match attempt.status {
        Some(status) if status >= 400 => Some(status.to_string()),
        _ if is_last => failed(record).then(|| record.code.to_owned()),
        // It was sent again; why, nobody has noted.
        _ => Some("_OTHER".to_owned()),
    };
    if let Some(code) = code {
        span.status = error(&code);
        span.attributes.push(said("error.type", text(code)));
    }
    span
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use super::*;
    use crate::{
        base::clock::Timestamp,
        trace::{Parent, Tracing},
    };

    fn told(span: &Span) -> (Option<String>, Vec<String>) {
        let text =
            |it: &KeyValue| format!("{}={:?}", it.key, it.value.as_ref().and_then(|it| it.value.as_ref()).unwrap());
        let text = |it| text(it).replace("IntValue", "").replace("StringValue", "");
        (span.status.as_ref().map(|it| it.message.clone()), span.attributes.iter().map(text).collect())
    }

    #[test]
    fn each_attempt_says_which_it_is_where_it_went_and_how_it_failed() {
        let tracing = Tracing { parent: Parent::Never, kept_below: Tracing::bound(1.0), denials: true, exported: true };
        let mut trace = Trace::begin(tracing, 7, Timestamp::from_seconds(1), Instant::now());
        for server in ["[::1]:1", "b:2", "/run/c"] {
            trace.goes_to(&Arc::from(server));
        }
        let mut record = Record {
            method: "GET".into(),
            path: "/a".into(),
            upstream_path: Some("/b".into()),
            code: "upstream_timed_out",
            decision: Outcome::Allow,
            stage: Some("upstream"),
            ..Record::default()
        };
        let attempts = |trace: &Trace, record: &Record| {
            let spans = of(trace, record).into_iter().filter(|span| span.kind() == SpanKind::Client);
            spans.map(|span| told(&span)).collect::<Vec<_>>()
        };
        let row = |status: &str, rest: &[&str]| {
            let said = ["http.request.method=(\"GET\")", "url.path=(\"/b\")"].into_iter().chain(rest.iter().copied());
            (Some(status.to_owned()).filter(|it| !it.is_empty()), said.map(str::to_owned).collect::<Vec<_>>())
        };
        let first = row("_OTHER", &["server.address=(\"::1\")", "server.port=(1)", "error.type=(\"_OTHER\")"]);
        let second = &["server.address=(\"b\")", "server.port=(2)", "http.request.resend_count=(1)"][..];
        let second = row("_OTHER", &[second, &["error.type=(\"_OTHER\")"]].concat());
        let third = &["server.address=(\"/run/c\")", "http.request.resend_count=(2)"][..];
        let lost = row("upstream_timed_out", &[third, &["error.type=(\"upstream_timed_out\")"]].concat());
        assert_eq!(attempts(&trace, &record), [first.clone(), second.clone(), lost]);
        trace.is_answered(503);
        record.stage = None;
        let failed = row("503", &[third, &["http.response.status_code=(503)", "error.type=(\"503\")"]].concat());
        assert_eq!(attempts(&trace, &record), [first, second, failed]);
    }
}
