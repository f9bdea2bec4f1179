//! Who sends messages of OTLP: by gRPC, or by HTTP with Protobuf. Both go over hyper and rustls, as all that dials out.

use std::{error::Error, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse},
    trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
};
use prost::Message;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body, client::Grpc, metadata::MetadataMap};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

use crate::{
    base::problem::{Problem, causes},
    config::otlp::{OtlpProtocol, OtlpSettings},
};

/// The largest answer that is taken, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long a connection of HTTP/2 may be silent, while an answer is waited for, until it is asked whether its other end is there.
const SILENT_MAX: Duration = Duration::from_secs(10);

/// How long that may take. That nobody is there the system may find out a quarter of an hour later.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A message that receivers take, and their answer.
pub(super) trait Export: Message + Clone + 'static {
    /// What is answered.
    type Answer: Message + Default + 'static;
    /// Where it goes by HTTP, behind the receiver's address.
    const PATH: &'static str;
    /// By gRPC.
    const METHOD: &'static str;
    /// How much of it the receiver did not take, for good.
    fn rejected(answer: &Self::Answer) -> u64;
}

impl Export for ExportTraceServiceRequest {
    type Answer = ExportTraceServiceResponse;
    const PATH: &'static str = "/v1/traces";
    const METHOD: &'static str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

    fn rejected(answer: &Self::Answer) -> u64 {
        answer.partial_success.as_ref().map_or(0, |part| u64::try_from(part.rejected_spans).unwrap_or_default())
    }
}

impl Export for ExportLogsServiceRequest {
    type Answer = ExportLogsServiceResponse;
    const PATH: &'static str = "/v1/logs";
    const METHOD: &'static str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

    fn rejected(answer: &Self::Answer) -> u64 {
        answer.partial_success.as_ref().map_or(0, |part| u64::try_from(part.rejected_log_records).unwrap_or_default())
    }
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(super) struct Failed {
    why: String,
    /// How long after that it may be taken, zero where the receiver does not say; none where it never will be (OTLP, sections on
    /// failures and throttling).
    pub(super) again_after: Option<Duration>,
}

impl Failed {
    pub(super) fn late(after: Duration) -> Self {
        Self { why: format!("no answer within {} ms", after.as_millis()), again_after: Some(Duration::ZERO) }
    }

    pub(super) fn left_alone(until: Instant) -> Self {
        let again_after = until.saturating_duration_since(Instant::now());
        Self { why: "the receiver asks to be left alone for a while".to_owned(), again_after: Some(again_after) }
    }

    fn passing(error: &(dyn Error + 'static)) -> Self {
        Self { why: causes(error), again_after: Some(Duration::ZERO) }
    }
}

impl From<Failed> for io::Error {
    fn from(failed: Failed) -> Self {
        Self::other(failed)
    }
}

/// Knows one receiver.
#[derive(Clone, Debug)]
pub(super) struct Receiver {
    client: Client<HttpsConnector<HttpConnector>, Body>,
    settings: OtlpSettings,
    fields: HeaderMap,
}

impl Receiver {
    /// That of `settings`. Connects when something is sent.
    ///
    /// # Errors
    /// What is wrong with its authorities, or a header field.
    pub(super) fn of(settings: &OtlpSettings) -> Result<Self, Problem> {
        let tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Problem::new(format!("no TLS: {error}")))?;
        let tls = match &settings.authorities {
            None => tls.with_webpki_roots(),
            Some(pem) => {
                let wrong = |error: String| Problem::at(pem, format!("`authorities`: {error}"));
                let mut roots = RootCertStore::empty();
                for authority in CertificateDer::pem_slice_iter(pem.value.as_bytes()) {
                    let authority = authority.map_err(|error| wrong(error.to_string()))?;
                    roots.add(authority).map_err(|error| wrong(error.to_string()))?;
                }
                if roots.is_empty() {
                    return Err(wrong("holds no certificate in PEM".into()));
                }
                tls.with_root_certificates(roots)
            }
        };
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls.with_no_client_auth()).https_or_http();
        let is_grpc = settings.protocol == OtlpProtocol::Grpc;
        let connector = if is_grpc { connector.enable_http2().build() } else { connector.enable_http1().build() };
        let client = Client::builder(TokioExecutor::new())
            .http2_only(is_grpc)
            .timer(TokioTimer::new())
            .http2_keep_alive_interval(SILENT_MAX)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .build(connector);
        let mut fields = HeaderMap::new();
        for (name, secret) in &settings.headers {
            let mut value = HeaderValue::from_str(secret.expose())
                .map_err(|_| Problem::new(format!("`{name}` cannot have this value")))?;
            value.set_sensitive(true);
            fields.insert(name.clone(), value);
        }
        Ok(Self { client, settings: settings.clone(), fields })
    }

    /// What is said of the gate.
    pub(super) fn resource(&self) -> impl Iterator<Item = (&String, &String)> {
        self.settings.resource.iter()
    }

    /// Sends `message`; tells how much of it was not taken.
    ///
    /// # Errors
    /// Why none of it was.
    pub(super) async fn send<E: Export>(&self, message: E) -> Result<u64, Failed> {
        let answer = async {
            match self.settings.protocol {
                OtlpProtocol::Grpc => self.call(message).await,
                OtlpProtocol::Http => self.post(&message).await,
            }
        };
        let within = tokio::time::timeout(self.settings.timeout, answer).await;
        let answer = within.unwrap_or_else(|_| Err(Failed::late(self.settings.timeout)))?;
        Ok(E::rejected(&answer))
    }

    async fn call<E: Export>(&self, message: E) -> Result<E::Answer, Failed> {
        let origin: Uri = self.settings.endpoint.as_str().parse().map_err(|error| Failed::passing(&error))?;
        let mut client = Grpc::with_origin(self.client.clone(), origin).max_decoding_message_size(ANSWER_BYTES_MAX);
        client.ready().await.map_err(|error| Failed::passing(&error))?;
        let fields = MetadataMap::from_headers(self.fields.clone());
        let request = tonic::Request::from_parts(fields, tonic::Extensions::new(), message);
        let codec = ProstCodec::<E, E::Answer>::default();
        let answer = client.unary(request, PathAndQuery::from_static(E::METHOD), codec).await;
        answer.map(tonic::Response::into_inner).map_err(|status| {
            let why = status.source().map(|source| format!(": {}", causes(source))).unwrap_or_default();
            Failed { why: format!("{:?}{why}", status.code()), again_after: again_after_status(&status) }
        })
    }

    async fn post<E: Export>(&self, message: &E) -> Result<E::Answer, Failed> {
        let uri = format!("{}{}", self.settings.endpoint.as_str().trim_end_matches('/'), E::PATH);
        let body = Body::new(Full::new(Bytes::from(message.encode_to_vec())));
        let mut request = Request::post(uri).body(body).map_err(|error| Failed::passing(&error))?;
        *request.headers_mut() = self.fields.clone();
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let answer = self.client.request(request).await.map_err(|error| Failed::passing(&error))?;
        let status = answer.status();
        let again_after = again_after_fields(answer.headers()).unwrap_or_default();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Failed::passing(&*error))?.to_bytes();
        if status != StatusCode::OK {
            let is_passing = matches!(status.as_u16(), 429 | 502 | 503 | 504);
            let why = format!("status {status} instead of 200");
            return Err(Failed { why, again_after: is_passing.then_some(again_after) });
        }
        // It was taken, whatever is said of it.
        Ok(E::Answer::decode(body).unwrap_or_default())
    }
}

/// What gRPC says of when to send again. Where no answer came at all, tonic's code says little, and there is a source.
fn again_after_status(status: &Status) -> Option<Duration> {
    let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let is_passing = matches!(
        status.code(),
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    ) || status.source().is_some();
    match status.code() {
        Code::ResourceExhausted => asked,
        _ => is_passing.then(|| asked.unwrap_or_default()),
    }
}

/// `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date, which is later than the answer's own.
fn again_after_fields(fields: &HeaderMap) -> Option<Duration> {
    let text = fields.get(header::RETRY_AFTER)?.to_str().ok()?;
    let date = |text: &str| chrono::DateTime::parse_from_rfc2822(text).ok();
    text.parse().map(Duration::from_secs).ok().or_else(|| {
        let answered = date(fields.get(header::DATE)?.to_str().ok()?)?;
        date(text)?.signed_duration_since(answered).to_std().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_says_by_http_how_long_to_leave_it_alone() {
        let after = |field: &str| {
            let date = (header::DATE, "Sat, 28 Nov 2026 15:00:00 GMT");
            let fields = [date, (header::RETRY_AFTER, field)];
            again_after_fields(&fields.into_iter().map(|(name, text)| (name, text.parse().unwrap())).collect())
        };
        assert_eq!(after("120").map(|it| it.as_secs()), Some(120));
        assert_eq!(after("Sat, 28 Nov 2026 15:02:00 GMT").map(|it| it.as_secs()), Some(120));
        for nothing in ["", "-1", "soon", "1.5", "Sat, 28 Nov 2026 14:00:00 GMT"] {
            assert_eq!(after(nothing), None, "{nothing}");
        }
        assert_eq!(again_after_fields(&HeaderMap::new()), None);
    }
}
