//! The sections `traces.otlp` and `records.otlp`: to whom telemetry is sent by the OpenTelemetry Protocol.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use crate::base::{
    fetch::Transport,
    files::Files,
    problem::{Problem, Problems, bounded},
    secret::{Secret, SecretSource},
    spanned::Spanned,
};

/// Either section.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OtlpConfig {
    /// The receiver: `http://127.0.0.1:4317`, or `https://` anywhere.
    pub endpoint: Spanned<String>,
    /// How it is spoken to. Default grpc.
    #[serde(default)]
    pub protocol: OtlpProtocol,
    /// Header fields that prove who the gate is there. Default none.
    #[serde(default)]
    pub headers: Vec<OtlpHeaderConfig>,
    /// The authorities that its certificate is from, in PEM. Default: those of the web.
    pub authorities: Option<Spanned<PathBuf>>,
    /// Milliseconds for an answer, connecting included. Default 10000.
    pub timeout_ms: Option<Spanned<u64>>,
    /// What the gate is called there. Default portcullis.
    pub service_name: Option<String>,
    /// What else is said of it: `deployment.environment.name: production`. Default nothing.
    #[serde(default)]
    pub resource: BTreeMap<String, String>,
}

/// How a receiver is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OtlpProtocol {
    /// By gRPC.
    #[default]
    Grpc,
    /// By HTTP/1.1, with messages in Protobuf.
    Http,
}

/// An entry of `headers`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OtlpHeaderConfig {
    /// Its name.
    pub name: Spanned<String>,
    /// Its value.
    pub value: SecretSource,
}

/// To whom telemetry is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpSettings {
    /// The receiver.
    pub endpoint: Url,
    /// How it is spoken to.
    pub protocol: OtlpProtocol,
    /// Header fields; the values are secret.
    pub headers: Vec<(HeaderName, Secret)>,
    /// The authorities that its certificate is from, in PEM, and where that is said; without it those of the web.
    pub authorities: Option<Spanned<String>>,
    /// For an answer.
    pub timeout: Duration,
    /// What is said of the gate.
    pub resource: BTreeMap<String, String>,
}

/// What names a service, by OpenTelemetry's conventions.
const SERVICE_NAME: &str = "service.name";

impl OtlpConfig {
    pub(super) fn compile(&self, files: &Files) -> Result<OtlpSettings, Problems> {
        let mut problems = Problems::default();
        let endpoint = problems.keep(self.endpoint());
        let headers: Vec<_> = self.headers.iter().filter_map(|header| problems.keep(header.compile(files))).collect();
        if let (Some(endpoint), false) = (&endpoint, headers.is_empty())
            && !Transport::Trustworthy.admits(endpoint)
        {
            problems.push(
                Problem::at(&self.endpoint, "`headers` would be told to whoever listens").fix("write `https://`"),
            );
        }
        let authorities = self.authorities.as_ref().map(|path| {
            let pem = files.read(&path.value).map_err(|error| Problem::unreadable(path, &error))?;
            Ok::<_, Problem>(path.leads_to(pem))
        });
        let authorities = problems.keep(authorities.transpose());
        if let (Some(path), Some("http")) = (&self.authorities, endpoint.as_ref().map(Url::scheme)) {
            problems.push(Problem::at(path, "authorities of a certificate that nobody shows").fix("write `https://`"));
        }
        let timeout = problems.keep(bounded(self.timeout_ms.as_ref(), "timeout_ms", 10_000, 1..=60_000));
        let mut resource = self.resource.clone();
        let name = self.service_name.clone().unwrap_or_else(|| "portcullis".to_owned());
        resource.insert(SERVICE_NAME.to_owned(), name);
        let settings = (|| {
            let (timeout, protocol) = (Duration::from_millis(timeout?), self.protocol);
            Some(OtlpSettings { endpoint: endpoint?, protocol, headers, authorities: authorities?, timeout, resource })
        })();
        problems.into_result(settings)
    }

    fn endpoint(&self) -> Result<Url, Problem> {
        let url = Url::parse(&self.endpoint.value).ok().filter(|url| {
            let bare = url.username().is_empty() && url.password().is_none();
            let bare = bare && url.query().is_none() && url.fragment().is_none();
            let is_whole = self.protocol == OtlpProtocol::Http || url.path() == "/";
            Transport::PlainHttp.admits(url) && bare && is_whole
        });
        url.ok_or_else(|| {
            // It may hold a password.
            Problem::at(&self.endpoint, "this is not the address of a receiver")
                .covered()
                .fix("write `http://127.0.0.1:4317`; what stands behind `/v1` is added where the protocol is `http`")
        })
    }
}

impl OtlpHeaderConfig {
    fn compile(&self, files: &Files) -> Result<(HeaderName, Secret), Problem> {
        const OURS: [&str; 6] = ["content-type", "content-length", "host", "te", "connection", "transfer-encoding"];
        let name = self.name.value.parse::<HeaderName>().ok().filter(|name| !OURS.contains(&name.as_str()));
        let name = name.ok_or_else(|| {
            Problem::at(&self.name, format!("`{}` cannot be set", self.name.value)).fix("write `authorization`")
        })?;
        let value = self.value.read_there(files)?;
        match HeaderValue::from_str(value.value.expose()) {
            Ok(_) => Ok((name, value.value)),
            Err(_) => Err(Problem::at(&value, "not the value of a header field").fix("one line of visible ASCII")),
        }
    }
}
