//! Identity headers: who asks, told to the upstream by us alone.
//!
//! Every header that a client sends under one of these names is removed first, in any spelling that a server may
//! take for the name (upper or lower case; `_`, `.` or another mark for `-`).

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Pool,
    assertion::{AssertionConfig, Assertions, BODY_BYTES_MAX, Draft, Unsigned},
    balance::{Balance, seed},
};
use crate::{
    base::{
        clock::Timestamp,
        files::Files,
        names::same,
        problem::{Problem, Problems},
        spanned::Spanned,
    },
    policy::Allowed,
    request::{
        rewrite::Outbound,
        trace_context::{BAGGAGE, TRACEPARENT, TRACESTATE},
    },
};

/// The section `identity`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityConfig {
    /// Header for the agent's id. Default `x-portcullis-agent`.
    pub agent_header: Option<Spanned<String>>,
    /// Header for the user acted for. Default `x-portcullis-user`.
    pub user_header: Option<Spanned<String>>,
    /// Header for the calling app. Default `x-portcullis-app`.
    pub app_header: Option<Spanned<String>>,
    /// Header for the decision id. Default `x-portcullis-decision`.
    pub decision_header: Option<Spanned<String>>,
    /// Header for a signed assertion of all that. Default `x-portcullis-assertion`.
    pub assertion_header: Option<Spanned<String>>,
    /// How it is signed. Default: there is none.
    pub assertion: Option<AssertionConfig>,
    /// Whether the upstream gets the agent's token too. Default false.
    pub forward_token: bool,
    /// Whether the upstream gets the agent's cookies. Default false: by one it could take the agent for somebody else.
    pub forward_cookies: bool,
}

/// What every name of ours starts with; clients may send nothing under it.
const OURS: &str = "x-portcullis-";

/// Bytes of an identity that are percent-encoded: all that is not visible ASCII, and `%` itself, so that the
/// encoding has one reading.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// Fields by which a client could have the upstream read another request than the one that was authorised (another target
/// or method, another origin), or speak of its connection or its key, of which only we know (RFC 9440, RFC 9449).
const MISLEADING: [&str; 27] = [
    "cf-connecting-ip",
    "client-cert",
    "client-cert-chain",
    "client-ip",
    "dpop",
    "fastly-client-ip",
    "forwarded",
    // Programs that get fields as environment variables read where their own proxy is (httpoxy, CVE-2016-5385).
    "proxy",
    "true-client-ip",
    "x-client-cert",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-envoy-original-path",
    "x-forwarded",
    "x-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-method",
    "x-original-uri",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
    // What the upstream gets of these the gate has read.
    "traceparent",
    "tracestate",
];

/// What the names of fields that speak of earlier hops start with.
const EARLIER_HOPS: [&str; 3] = ["x-forwarded-", "x-ssl-", "ssl-client-"];

/// Fields that frame or steer a message: none can carry an identity.
const RESERVED: [HeaderName; 17] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::DATE,
    header::EXPECT,
    header::HOST,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::VIA,
    TRACEPARENT,
    TRACESTATE,
    BAGGAGE,
];

/// What the upstream is told of an allowed request.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The agent's Cedar id.
    pub agent: &'a str,
    /// The Cedar id of the user acted for.
    pub user: Option<&'a str>,
    /// The calling app.
    pub app: Option<&'a str>,
    /// Names the decision.
    pub decision_id: &'a str,
    /// The client, as its issuer calls it.
    pub client: &'a str,
    /// The Cedar action.
    pub action: &'a str,
    /// The Cedar resource.
    pub resource: &'a str,
    /// What tells the policies that decided from others.
    pub policy_revision: &'a Arc<str>,
}

/// Which headers tell the upstream who asks; compiled.
#[derive(Clone, Debug)]
pub struct Identity {
    agent: HeaderName,
    user: HeaderName,
    app: HeaderName,
    decision: HeaderName,
    assertion: HeaderName,
    assertions: Option<Arc<Assertions>>,
    forward_token: bool,
    forward_cookies: bool,
}

/// What a door must do to a request before it goes on: remove some fields, then set others.
#[derive(Clone, Debug)]
pub struct Obligations {
    pool: Arc<Pool>,
    /// Whom the request is for, where that decides which server gets it.
    key: u64,
    target: Outbound,
    identity: Arc<Identity>,
    set: Vec<(HeaderName, HeaderValue)>,
    assertion: Option<Draft>,
}

impl Identity {
    /// Compiles the section.
    ///
    /// # Errors
    /// A [`Problem`] for each name that cannot be used, and with what signs.
    pub fn compile(config: &IdentityConfig, files: &Files) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut name = |value: &Option<Spanned<String>>, default: &'static str| {
            problems.keep(header_name(value.as_ref(), default))
        };
        let agent = name(&config.agent_header, "x-portcullis-agent");
        let user = name(&config.user_header, "x-portcullis-user");
        let app = name(&config.app_header, "x-portcullis-app");
        let decision = name(&config.decision_header, "x-portcullis-decision");
        let assertion = name(&config.assertion_header, "x-portcullis-assertion");
        let assertions = problems.keep(config.assertion.as_ref().map(|config| config.compile(files)).transpose());
        let identity = (|| {
            Some(Self {
                agent: agent?,
                user: user?,
                app: app?,
                decision: decision?,
                assertion: assertion?,
                assertions: assertions?.map(Arc::new),
                forward_token: config.forward_token,
                forward_cookies: config.forward_cookies,
            })
        })();
        if let Some(identity) = &identity {
            let names = identity.names();
            let twice = names.iter().enumerate().any(|(index, name)| {
                names.iter().skip(index.saturating_add(1)).any(|other| same(other.as_str().bytes(), name.as_str()))
            });
            if twice {
                problems.push(Problem::new("two identity headers have one name").fix("give each a name of its own"));
            }
        }
        problems.into_result(identity)
    }

    const fn names(&self) -> [&HeaderName; 5] {
        [&self.agent, &self.user, &self.app, &self.decision, &self.assertion]
    }

    /// What a body may have in bytes, where it must be read before anything goes on.
    pub fn body_bytes_max(&self) -> Option<u64> {
        self.assertions().filter(|assertions| assertions.binds_body()).map(|_| BODY_BYTES_MAX)
    }

    /// How assertions are made, if they are.
    pub fn assertions(&self) -> Option<&Assertions> {
        self.assertions.as_deref()
    }

    /// Whether a field of this name that the client sent must be removed.
    pub fn removes(&self, name: &HeaderName) -> bool {
        if name == header::AUTHORIZATION {
            return !self.forward_token;
        }
        if name == header::COOKIE {
            return !self.forward_cookies;
        }
        self.is_ours(name)
            || EARLIER_HOPS.iter().any(|hop| starts_like(name, hop))
            || MISLEADING.iter().any(|misleading| same(name.as_str().bytes(), misleading))
    }

    fn is_ours(&self, name: &HeaderName) -> bool {
        starts_like(name, OURS) || self.names().iter().any(|ours| same(name.as_str().bytes(), ours.as_str()))
    }

    /// What is owed for an allowed request that goes to `pool`, for `target` there.
    pub fn obligations(
        self: &Arc<Self>,
        pool: &Arc<Pool>,
        target: Outbound,
        _allowed: &Allowed,
        told: &Told<'_>,
    ) -> Obligations {
        let is_asked = pool.upstream().balance == Balance::UserHash;
        let key = if is_asked { seed(told.user.unwrap_or(told.agent)) } else { 0 };
        let upstream = pool.upstream();
        let audience = upstream.audience.as_deref().unwrap_or_else(|| pool.name());
        let assertion = self.assertions.as_ref().map(|assertions| assertions.draft(audience, told));
        let is_plain = self.assertions.as_ref().is_none_or(|assertions| assertions.plain_headers);
        let told = [
            (&self.agent, Some(told.agent)),
            (&self.user, told.user),
            (&self.app, told.app),
            (&self.decision, Some(told.decision_id)),
        ];
        let plain = told.into_iter().filter(|_| is_plain);
        let set = plain.filter_map(|(name, value)| Some((name.clone(), header_value(value?)?))).collect();
        Obligations { pool: pool.clone(), key, target, identity: self.clone(), set, assertion }
    }
}

impl Obligations {
    /// Where the request goes.
    pub const fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// What stands for whom the request is for, where that decides which server gets it.
    pub const fn key(&self) -> u64 {
        self.key
    }

    /// The target that it gets, byte for byte.
    pub const fn target(&self) -> &str {
        self.target.as_str()
    }

    /// Whether a field of this name that the client sent must be removed.
    pub fn removes(&self, name: &HeaderName) -> bool {
        self.identity.removes(name)
    }

    /// Whether a field of this name is between the upstream and us: the client is not to see it in an answer.
    pub fn hides(&self, name: &HeaderName) -> bool {
        self.identity.is_ours(name)
    }

    /// Whether the body must be read before anything goes on.
    pub fn binds_body(&self) -> bool {
        self.assertion.as_ref().is_some_and(Draft::binds_body)
    }

    /// The assertion to set beside [`Self::set`], if any is due, for a request by `method` with a body of this digest that is
    /// sent `now`.
    ///
    /// # Errors
    /// [`Unsigned`]: then nothing may go on.
    pub fn assertion(
        &self,
        method: &Method,
        body: Option<&[u8; 32]>,
        now: Timestamp,
    ) -> Result<Option<(HeaderName, HeaderValue)>, Unsigned> {
        let Some(draft) = &self.assertion else { return Ok(None) };
        Ok(Some((self.identity.assertion.clone(), draft.sign(method, &self.target, body, now)?)))
    }

    /// The fields to set afterwards.
    pub fn set(&self) -> &[(HeaderName, HeaderValue)] {
        &self.set
    }
}

fn starts_like(name: &HeaderName, prefix: &str) -> bool {
    name.as_str().len() >= prefix.len() && same(name.as_str().bytes().take(prefix.len()), prefix)
}

fn header_value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&utf8_percent_encode(text, ENCODED).to_string()).ok()
}

fn header_name(value: Option<&Spanned<String>>, default: &'static str) -> Result<HeaderName, Problem> {
    let Some(value) = value else { return Ok(HeaderName::from_static(default)) };
    let is_reserved = |name: &HeaderName| RESERVED.iter().any(|it| same(it.as_str().bytes(), name.as_str()));
    value.value.parse().ok().filter(|name| !is_reserved(name)).ok_or_else(|| {
        Problem::at(value, format!("`{}` cannot carry an identity", value.value))
            .fix("choose a name such as `x-agent-id`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let config = IdentityConfig::default();
        Identity {
            agent: HeaderName::from_static("x-agent-id"),
            ..Identity::compile(&config, &Files::memory([])).unwrap()
        }
    }

    #[test]
    fn every_spelling_of_our_names_is_removed() {
        let obligations = identity();
        for name in [
            "x-agent-id",
            "X-Agent-Id",
            "x_agent_id",
            "x-agent.id",
            "X_PORTCULLIS-user",
            "x-portcullis-anything",
            "authorization",
            "Forwarded",
            "X_Forwarded_For",
            "x-original-url",
            "X-HTTP-Method-Override",
            "True_Client_IP",
            "Client-IP",
            "x-forwarded",
            "Proxy",
        ] {
            assert!(obligations.removes(&name.parse().unwrap()), "{name}");
        }
        for name in ["x-agent-ids", "agent-id", "x-portcullis", "accept"] {
            assert!(!obligations.removes(&name.parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn token_and_cookies_stay_only_where_configured() {
        let stays = |identity: Identity, name| !identity.removes(&HeaderName::from_static(name));
        for (name, token, cookies) in [("authorization", true, false), ("dpop", false, false), ("cookie", false, true)]
        {
            assert!(!stays(identity(), name), "{name}");
            assert_eq!(stays(Identity { forward_token: true, ..identity() }, name), token, "{name}");
            assert_eq!(stays(Identity { forward_cookies: true, ..identity() }, name), cookies, "{name}");
        }
    }

    #[test]
    fn values_have_one_reading_in_visible_ascii() {
        assert_eq!(header_value("a b%é\u{1f}").unwrap(), "a%20b%25%C3%A9%1F");
        assert_eq!(header_value("us-east-1_x|a@b").unwrap(), "us-east-1_x|a@b");
    }
}
