//! One record per visit: who asked what, what was answered and why. A record never holds a token, and of its claims
//! only the identifiers named here.

mod abridged;
pub mod chain;
pub mod file;
pub mod heir;
pub mod lines;
pub mod syslog;

use std::{collections::BTreeMap, sync::Arc};

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::Serialize;
use serde_json::{Map, Value, value::RawValue};

pub use self::lines::Lines;
use crate::base::{
    origin::Origin,
    pseudonym::{Kind, Pseudonyms},
};

/// How a visit was decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Let through.
    Allow,
    /// Refused.
    Deny,
    /// The client left before there was a decision.
    #[default]
    Abandoned,
}

/// What a request came in by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    /// The reverse proxy.
    #[default]
    Proxy,
}

/// The protocol that a request came by, as ALPN (RFC 7301) names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum Protocol {
    /// HTTP/1.0.
    #[serde(rename = "http/1.0")]
    Http10,
    /// HTTP/1.1.
    #[serde(rename = "http/1.1")]
    Http11,
    /// HTTP/2.
    #[serde(rename = "h2")]
    Http2,
}

/// How a candidate's decision compares with the one in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ShadowOutcome {
    /// The same, by the same policies.
    Same,
    /// It would allow what was denied.
    Wider,
    /// It would deny what was allowed.
    Narrower,
    /// The same, by other policies.
    Policies,
    /// It was not asked.
    Skipped,
}

impl ShadowOutcome {
    /// Each of them.
    pub const ALL: [Self; 5] = [Self::Same, Self::Wider, Self::Narrower, Self::Policies, Self::Skipped];

    /// As a label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Wider => "wider",
            Self::Narrower => "narrower",
            Self::Policies => "policies",
            Self::Skipped => "skipped",
        }
    }
}

/// What candidate policies would have decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ShadowRecord {
    /// How that compares with what was decided.
    pub outcome: ShadowOutcome,
    /// Allow or deny; none where they were not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Outcome>,
    /// Names the candidate's version.
    pub policy_revision: Arc<str>,
    /// Ids of the policies that would have decided.
    pub policies: Vec<String>,
}

/// What a web page asks that its browser asks about beforehand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PreflightRecord {
    /// The page's origin, cut to 256 bytes.
    pub origin: String,
    /// The method that it would use, cut to 16 bytes.
    pub method: String,
}

/// How long each stage took that was passed, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct StageTimes {
    /// Reading head, route and the peer's limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<u64>,
    /// Believing the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// The client's limits, and making the question; sources included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entities: Option<u64>,
    /// Answering it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<u64>,
}

impl StageTimes {
    /// The stages, in their order.
    pub const NAMES: [&str; 4] = ["request", "token", "entities", "policy"];

    /// That of each, in the same order.
    pub const fn each(self) -> [Option<u64>; Self::NAMES.len()] {
        [self.request, self.token, self.entities, self.policy]
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The code of a preflight that is answered.
pub const PREFLIGHT: &str = "preflight";

/// A decision record: one JSON line.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Record {
    /// When the request arrived: RFC 3339, UTC, milliseconds.
    pub time: String,
    /// Names the decision; also told to client and upstream. A ULID.
    pub decision_id: String,
    /// Names the trace and this visit's span in it, as `traceparent` does.
    pub traceparent: String,
    /// How it was decided.
    pub decision: Outcome,
    /// `allowed`, `preflight`, that of a page of the gate's own, or the exact reason of the refusal (`docs/errors.md`).
    pub code: &'static str,
    /// The status answered; 0 when nothing was.
    pub status: u16,
    /// What it came in by.
    pub door: Door,
    /// The protocol that it came by, once a request was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The method, cut to 16 bytes.
    pub method: String,
    /// The path as received, cut to 1024 bytes; the query is left out.
    pub path: String,
    /// The peer's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The trusted proxy that it came through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// What a preflight asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preflight: Option<PreflightRecord>,
    /// The route's methods and path template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Arc<str>>,
    /// The token's issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Arc<str>>,
    /// The agent's Cedar id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Arc<str>>,
    /// The Cedar id of the user acted for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Arc<str>>,
    /// The issuer of that user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_issuer: Option<Arc<str>>,
    /// Who acts for that user, the latest first: `sub` of each `act`, or else the client.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub actors: Arc<[String]>,
    /// The calling app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<Arc<str>>,
    /// The Cedar action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Arc<str>>,
    /// The Cedar resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<Arc<str>>,
    /// Where the attributes of agent, user and resource came from that the policies could see.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub attributes: Arc<[Origin]>,
    /// The claim or attribute that was missing, for `claim_missing`; the scope, for `scope_missing`; what is not as the
    /// route's `cors` has it, for `preflight_refused`; the source that gave no answer, for `source_unavailable` and `source_timed_out`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// The upstream that it is for, where that is not the usual one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Arc<str>>,
    /// The path that it gets, cut to 1024 bytes, where that is another than the client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_path: Option<String>,
    /// The template of that.
    #[serde(skip)]
    pub upstream_template: Option<Arc<str>>,
    /// The server of the upstream that it was sent to last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Arc<str>>,
    /// How often it was tried again.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// The limit that is used up, or cannot be counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Arc<str>>,
    /// Whom the policies denied it to: `agent` or `user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<&'static str>,
    /// The store of the policies, where it is not `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Arc<str>>,
    /// Names the version of that store's policies, once it was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_revision: Option<Arc<str>>,
    /// Names the version of the schema.
    pub schema_revision: Arc<str>,
    /// Names the version of the configuration.
    pub config_revision: Arc<str>,
    /// Ids of the policies that decided.
    pub policies: Vec<String>,
    /// What those say of themselves, as configured: by policy, the text of each annotation, cut to 1024 bytes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, BTreeMap<String, String>>,
    /// What the believed token claims, as configured; null for what is longer than 1024 bytes in JSON.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub claims: Map<String, Value>,
    /// Ids of the policies that erred and were passed over, in a store that takes them so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
    /// What the candidate policies would have decided, where that differs, or is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowRecord>,
    /// The question put to the policies, as configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Map<String, Value>>")]
    pub question: Option<Box<RawValue>>,
    /// The thumbprint (RFC 7638) of the key that signed the token, in base64url.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Arc<str>>,
    /// Where it was refused, or failed: `request`, `token`, `route`, `mapping`, `policy` or `upstream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<&'static str>,
    /// The status that the upstream answered with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_status: Option<u16>,
    /// From sending the request on, the last time, to the head of the upstream's answer, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_us: Option<u64>,
    /// Bytes of its body that were read, or that the client sent through a tunnel.
    #[serde(skip_serializing_if = "is_zero")]
    pub body_bytes: u64,
    /// Bytes of the body of the answer that were sent, or that went to the client through a tunnel.
    #[serde(skip_serializing_if = "is_zero")]
    pub answer_bytes: u64,
    /// How long each stage took that was passed, in microseconds.
    #[serde(skip_serializing_if = "StageTimes::is_empty")]
    pub stages_us: StageTimes,
    /// Whether the token was already known.
    pub token_cached: bool,
    /// Whether the policies had said so before, of the same token, method and path.
    #[serde(skip_serializing_if = "is_false")]
    pub decision_cached: bool,
    /// From arrival to decision, in microseconds.
    pub decision_us: u64,
    /// From arrival to the end of the answer, in microseconds.
    pub duration_us: u64,
    /// What it is without, because it would have been longer than its way takes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<&'static str>,
}

fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Record {
    /// Puts pseudonyms in place of agent, user, actors, peer and of what stands in the path where the route has a parameter.
    /// Of a request whose token is not believed the path says nothing: whoever sent it may have chosen it to learn a
    /// pseudonym.
    pub fn hide(&mut self, pseudonyms: &Pseudonyms) {
        let hide = |name: &mut Option<Arc<str>>| {
            if let Some(name) = name {
                *name = pseudonyms.of(Kind::Id, name).into();
            }
        };
        let is_believed = self.agent.is_some();
        hide(&mut self.agent);
        hide(&mut self.user);
        self.actors = self.actors.iter().map(|actor| pseudonyms.of(Kind::Id, actor)).collect();
        self.peer = self.peer.take().map(|peer| pseudonyms.of(Kind::Peer, &peer));
        let hide_path = |path: &str, template: Option<&str>| {
            // Hosts, if there are any, stand before the first `/`.
            let template = template.and_then(|template| template.split_once('/')).map(|(_, template)| template);
            let mut literals = std::iter::once("").chain(template.into_iter().flat_map(|template| template.split('/')));
            let segments = path.split('/').map(|segment| match literals.next() == Some(segment) {
                true => segment.to_owned(),
                false if is_believed => pseudonyms.of(Kind::Segment, segment),
                false => "~".to_owned(),
            });
            segments.collect::<Vec<_>>().join("/")
        };
        self.path = hide_path(&self.path, self.route.as_deref());
        let template = self.upstream_template.as_deref();
        self.upstream_path = self.upstream_path.as_deref().map(|path| hide_path(path, template));
    }
}

/// The version of the schema: another where a field goes, or means another thing. Fields may be added within one.
pub const SCHEMA_VERSION: u32 = 1;

/// The JSON Schema (2020-12) of a record.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut schema = settings.into_generator().into_root_schema_for::<Record>();
    schema.insert("$id".to_owned(), format!("urn:portcullis:decision-record:{SCHEMA_VERSION}").into());
    schema.to_value()
}

/// Where records go.
pub trait Sink: Send + Sync + 'static {
    /// Takes one record; must not block.
    fn write(&self, record: &Record);

    /// Whether it can take `several` more records, as far as can be said now.
    fn has_room(&self, several: usize) -> bool;
}

impl Sink for Vec<Arc<Lines>> {
    fn write(&self, record: &Record) {
        self.iter().for_each(|lines| Sink::write(&**lines, record));
    }

    fn has_room(&self, several: usize) -> bool {
        self.iter().all(|lines| lines.has_room(several))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upstreams_path_is_hidden_as_the_clients_is() {
        let secret = crate::base::secret::Secret::from("a key of sixteen bytes or more".to_owned());
        let pseudonyms = Pseudonyms::new(&secret).unwrap();
        let mut record = Record {
            agent: Some("a".into()),
            route: Some("GET api.example/api/users/{id}".into()),
            path: "/api/users/jane".into(),
            upstream_path: Some("/v1/jane".into()),
            upstream_template: Some("/v1/{id}".into()),
            ..Record::default()
        };
        record.hide(&pseudonyms);
        let jane = pseudonyms.of(Kind::Segment, "jane");
        assert_eq!(record.path, format!("/api/users/{jane}"));
        assert_eq!(record.upstream_path, Some(format!("/v1/{jane}")));
    }
}
