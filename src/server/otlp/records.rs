//! Decision records as log records: each whole, as the body, and by name for whoever looks for them.

use std::{io, time::Duration};

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, ArrayValue, KeyValueList, any_value::Value as Said},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
};
use serde_json::Value;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

use super::{
    client::{Failed, Receiver},
    said::{CONVENTIONS, resource, said, scope, text},
    trying::{Trying, left_alone},
};
use crate::{
    audit::lines::Out,
    base::{clock::Timestamp, problem::Problem},
    config::otlp::OtlpSettings,
};

/// Bytes of records that are sent together: receivers take some megabytes.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// How long a receiver that failed may take: it is asked whether it is there again, and at the end of the gate for each batch.
const ASKING: Duration = Duration::from_secs(1);

/// Where records are sent.
#[derive(Debug)]
pub struct OtlpRecords {
    receiver: Receiver,
    runtime: Handle,
    /// Where it failed: how long it is left alone.
    failing: Option<Instant>,
}

impl OtlpRecords {
    /// By `settings`. Must be called on a tokio runtime, and written to from elsewhere.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn of(settings: &OtlpSettings) -> Result<Self, Problem> {
        Ok(Self { receiver: Receiver::of(settings)?, runtime: Handle::current(), failing: None })
    }

    /// Sends `records`; tells how many were not taken, for good.
    async fn send(&self, records: &[LogRecord]) -> Result<u64, Failed> {
        let message = || {
            let scope_logs = vec![ScopeLogs {
                scope: Some(scope()),
                log_records: records.to_vec(),
                schema_url: CONVENTIONS.to_owned(),
            }];
            let resource = Some(resource(&self.receiver));
            let resource_logs = vec![ResourceLogs { resource, scope_logs, ..ResourceLogs::default() }];
            ExportLogsServiceRequest { resource_logs }
        };
        if let Some(until) = self.failing {
            if Instant::now() < until {
                return Err(Failed::left_alone(until));
            }
            return timeout(ASKING, self.receiver.send(message())).await.unwrap_or_else(|_| Err(Failed::late(ASKING)));
        }
        let mut trying = Trying::begin();
        loop {
            let outcome = self.receiver.send(message()).await;
            match outcome.as_ref().err().and_then(|failed| trying.pause(failed)) {
                Some(pause) => sleep(pause).await,
                None => return outcome,
            }
        }
    }

    fn note(&mut self, failed: Option<&Failed>) {
        let now = Instant::now();
        self.failing = failed.map(|failed| now.checked_add(left_alone(failed)).unwrap_or(now));
    }

    /// Sees that it is there again.
    fn ask(&mut self) -> io::Result<()> {
        let outcome = self.runtime.block_on(self.send(&[]));
        self.note(outcome.as_ref().err());
        Ok(outcome.map(drop)?)
    }
}

impl Out for OtlpRecords {
    fn write(&mut self, lines: Vec<Vec<u8>>) -> Result<(), (usize, io::Error)> {
        let mut left = lines.as_slice();
        let (mut refused, mut outcome) = (0_usize, Ok(()));
        while !left.is_empty() && outcome.is_ok() {
            let (now, later) = left.split_at(together(left));
            let records: Vec<_> = now.iter().map(|line| record(line)).collect();
            match self.runtime.block_on(self.send(&records)) {
                Ok(lost) => {
                    refused = refused.saturating_add(usize::try_from(lost).unwrap_or(now.len()).min(now.len()));
                    left = later;
                }
                Err(failed) => outcome = Err(failed),
            }
        }
        self.note(outcome.as_ref().err());
        match outcome {
            Ok(()) if refused == 0 => Ok(()),
            Ok(()) => Err((refused, io::Error::other("the receiver refuses some of them"))),
            Err(failed) => Err((left.len().saturating_add(refused), failed.into())),
        }
    }

    fn rest(&mut self, ends: bool) -> io::Result<bool> {
        let asks = self.failing.is_some() && !ends;
        if asks {
            self.ask()?;
        }
        Ok(asks)
    }
}

/// How many of these lines go together, at least one.
fn together(lines: &[Vec<u8>]) -> usize {
    let mut bytes = 0_usize;
    let fits = |line: &&Vec<u8>| {
        bytes = bytes.saturating_add(line.len());
        bytes <= MESSAGE_BYTES_MAX
    };
    lines.iter().take_while(fits).count().max(1)
}

fn record(line: &[u8]) -> LogRecord {
    let told: Value = serde_json::from_slice(line).unwrap_or_default();
    let of = |name: &str| told.get(name).and_then(Value::as_str);
    let (severity_number, severity_text) = match of("decision") {
        Some("deny") => (SeverityNumber::Warn, "WARN"),
        _ => (SeverityNumber::Info, "INFO"),
    };
    let at = of("time").and_then(Timestamp::parse_rfc3339).map(Timestamp::nanoseconds).unwrap_or_default();
    // INVARIANT: our own `traceparent`, well formed.
    let mut trace = of("traceparent").unwrap_or_default().split('-').skip(1);
    let mut id = |bytes: usize| {
        let number = trace.next().and_then(|text| u128::from_str_radix(text, 16).ok()).unwrap_or_default();
        number.to_be_bytes().into_iter().skip(16_usize.saturating_sub(bytes)).collect::<Vec<u8>>()
    };
    let (trace_id, span_id, flags) = (id(16), id(8), id(1).first().copied().unwrap_or_default());
    let named = ["decision_id", "decision", "code", "route", "agent", "user", "action", "resource"];
    let attributes = named.into_iter().filter_map(|name| Some(said(&format!("portcullis.{name}"), text(of(name)?))));
    LogRecord {
        time_unix_nano: at,
        observed_time_unix_nano: at,
        severity_number: severity_number.into(),
        severity_text: severity_text.to_owned(),
        attributes: attributes.collect(),
        body: Some(any(&told)),
        flags: flags.into(),
        trace_id,
        span_id,
        event_name: "portcullis.decision".to_owned(),
        ..LogRecord::default()
    }
}

/// A value of JSON.
fn any(value: &Value) -> AnyValue {
    let value = match value {
        Value::Null => None,
        Value::Bool(it) => Some(Said::BoolValue(*it)),
        Value::Number(it) => Some(it.as_i64().map_or_else(|| text(it.to_string()), Said::IntValue)),
        Value::String(it) => Some(text(it)),
        Value::Array(all) => Some(Said::ArrayValue(ArrayValue { values: all.iter().map(any).collect() })),
        Value::Object(all) => {
            let values = all.iter().filter_map(|(name, it)| Some(said(name, any(it).value?))).collect();
            Some(Said::KvlistValue(KeyValueList { values }))
        }
    };
    AnyValue { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_told_whole_and_with_its_trace() {
        let line = br#"{"time":"2026-11-18T11:06:40.000Z","decision":"deny","code":"access_denied","path":"/a",
            "traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","policies":["p"],"decision_us":41,
            "decision_id":"D1","route":"GET /a","agent":"a-1","user":"u-1","action":"read","resource":"R"}"#;
        let record = record(line);
        assert_eq!(record.time_unix_nano, 1_795_000_000_000_000_000);
        assert_eq!((record.trace_id[0], record.trace_id.len()), (0x4b, 16));
        assert_eq!((record.span_id[1], record.span_id.len(), record.flags), (0xf0, 8, 1));
        assert_eq!((&*record.severity_text, &*record.event_name), ("WARN", "portcullis.decision"));
        let named: Vec<_> = record
            .attributes
            .iter()
            .map(|it| match it.value.as_ref().and_then(|it| it.value.as_ref()) {
                Some(Said::StringValue(text)) => (it.key.trim_start_matches("portcullis."), text.as_str()),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [
            ("decision_id", "D1"),
            ("decision", "deny"),
            ("code", "access_denied"),
            ("route", "GET /a"),
            ("agent", "a-1"),
            ("user", "u-1"),
            ("action", "read"),
            ("resource", "R"),
        ];
        assert_eq!(named, expected);
        let Some(Said::KvlistValue(body)) = record.body.unwrap().value else { panic!("no map") };
        let names: Vec<_> = body.values.iter().map(|it| it.key.as_str()).collect();
        assert_eq!(names.len(), 13, "{names:?}");
    }

    #[test]
    fn what_is_sent_together_has_a_bound_and_one_at_least_goes() {
        let lines = |sizes: &[usize]| sizes.iter().map(|size| vec![b'x'; *size]).collect::<Vec<_>>();
        assert_eq!(together(&lines(&[1, 2, 3])), 3);
        assert_eq!(together(&lines(&[MESSAGE_BYTES_MAX - 1, 1, 1])), 2);
        assert_eq!(together(&lines(&[MESSAGE_BYTES_MAX + 1, 1])), 1);
    }
}
