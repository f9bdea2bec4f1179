//! Every way to say no, and the one table that maps it to a status, a code and what the client is told.
//!
//! Exact inside, coarse outside: the code goes into the record; a client learns no more than RFC 6750 asks for and
//! what a policy's author wrote for it.

mod challenge;
mod every;
mod faults;
mod grpc;
mod problem;
mod refused;
mod stage;

use std::time::Duration;

use http::StatusCode;

pub use self::{
    challenge::{Challenge, Offered},
    faults::{ClientError, UpstreamError},
    grpc::{GRPC, is_grpc},
    problem::Problem,
    refused::Refused,
    stage::Stage,
};

use crate::{
    entities::MappingError,
    limit::LimitError,
    policy::{Denied, DenyReason, PolicyNote},
    request::{RequestError, cors::PreflightError},
    token::{TokenError, nonce::Nonce},
};

/// Why a request is not answered by the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request has no one reading.
    Request(RequestError),
    /// A web page may not have such a request made.
    Preflight(PreflightError),
    /// The token is not believed.
    Token(TokenError),
    /// No route describes the request.
    RouteMissing,
    /// No store of policies decides for the host that the client addresses.
    HostUnknown,
    /// The token does not hold what the route asks for.
    Mapping(MappingError),
    /// The policies say no.
    Denied(Denied),
    /// The upstream did not do its part.
    Upstream(UpstreamError),
    /// The client did not send what it announced.
    Client(ClientError),
    /// Somebody asks too often.
    Limited(LimitError),
    /// No more connections or requests are taken.
    Overloaded,
    /// No more connections are taken from this address.
    PeerOverloaded,
    /// What is decided could not be recorded.
    Unrecorded,
    /// A fault of ours.
    Internal,
}

/// A row of the table.
struct Row {
    status: StatusCode,
    code: &'static str,
    challenge: Option<Challenge>,
}

const fn row(status: StatusCode, code: &'static str) -> Row {
    Row { status, code, challenge: None }
}

/// The code of the one description that all faults of a token share.
const INVALID_TOKEN: &str = "invalid_token";

impl Refusal {
    /// The table. No arm stands for more than it names, so a new error does not compile without a row.
    fn row(&self) -> Row {
        match self {
            Self::Request(error) => request_row(*error),
            Self::Preflight(_) => row(StatusCode::FORBIDDEN, "preflight_refused"),
            Self::Token(error) => token_row(*error),
            Self::RouteMissing => row(StatusCode::NOT_FOUND, "route_missing"),
            Self::Mapping(error) => mapping_row(error),
            Self::Denied(Denied { reason: DenyReason::Failure, .. }) => row(StatusCode::FORBIDDEN, "policy_failed"),
            Self::Denied(_) => self.denied_row(),
            Self::Upstream(UpstreamError::Unreachable) => row(StatusCode::BAD_GATEWAY, "upstream_unreachable"),
            Self::Upstream(UpstreamError::Unavailable) => row(StatusCode::SERVICE_UNAVAILABLE, "upstream_unavailable"),
            Self::Upstream(UpstreamError::Busy) => row(StatusCode::SERVICE_UNAVAILABLE, "upstream_busy"),
            Self::Upstream(UpstreamError::Invalid) => row(StatusCode::BAD_GATEWAY, "upstream_invalid"),
            Self::Upstream(UpstreamError::TimedOut) => row(StatusCode::GATEWAY_TIMEOUT, "upstream_timed_out"),
            Self::Client(ClientError::BodyTimedOut) => row(StatusCode::REQUEST_TIMEOUT, "body_timed_out"),
            Self::Client(ClientError::BodyTooLarge) => row(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::Client(ClientError::TunnelIdle) => row(StatusCode::REQUEST_TIMEOUT, "tunnel_idle"),
            Self::Client(ClientError::RequestInvalid) => row(StatusCode::BAD_REQUEST, "request_invalid"),
            Self::Client(ClientError::Gone) => row(StatusCode::BAD_REQUEST, "client_gone"),
            Self::HostUnknown => row(StatusCode::MISDIRECTED_REQUEST, "host_unknown"),
            Self::Limited(LimitError::PeerLimited(..)) => row(StatusCode::TOO_MANY_REQUESTS, "peer_limited"),
            Self::Limited(LimitError::ClientLimited(..)) => row(StatusCode::TOO_MANY_REQUESTS, "client_limited"),
            Self::Limited(LimitError::Unavailable(_)) => row(StatusCode::SERVICE_UNAVAILABLE, "limit_unavailable"),
            Self::Unrecorded => row(StatusCode::SERVICE_UNAVAILABLE, "records_unavailable"),
            Self::Overloaded => row(StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::PeerOverloaded => row(StatusCode::SERVICE_UNAVAILABLE, "peer_overloaded"),
            Self::Internal => row(StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    /// What a policy's author says that would help: a challenge is an offer to try again otherwise.
    fn denied_row(&self) -> Row {
        let (status, challenge) = match self.author() {
            Some(PolicyNote { step_up: Some(acr), .. }) => {
                (StatusCode::UNAUTHORIZED, Some(Challenge::StepUp(acr.clone())))
            }
            Some(PolicyNote { required_scope: Some(scope), .. }) => {
                (StatusCode::FORBIDDEN, Some(Challenge::InsufficientScope(scope.clone())))
            }
            _ => (StatusCode::FORBIDDEN, None),
        };
        Row { status, code: "access_denied", challenge }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.row().status
    }

    /// The exact code, for records and metrics.
    pub fn code(&self) -> &'static str {
        self.row().code
    }

    /// The code that the client is told.
    pub fn public_code(&self) -> &'static str {
        match self.row() {
            Row { challenge: Some(Challenge::InvalidToken), .. } => INVALID_TOKEN,
            Row { code, .. } => code,
        }
    }

    /// What `WWW-Authenticate` says, where it is due.
    pub fn challenge(&self) -> Option<Challenge> {
        self.row().challenge
    }

    /// The nonce to use in the next DPoP proof, where one is asked for.
    pub const fn nonce(&self) -> Option<&Nonce> {
        match self {
            Self::Token(TokenError::ProofNonceMissing(nonce)) => Some(nonce),
            _ => None,
        }
    }

    /// In how many seconds to try again, where that may help: not before, so a part of one counts as a whole.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::Limited(error) if error.retry_after().is_some() => error.retry_after().map(whole_seconds),
            _ => (self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(5),
        }
    }

    /// The first determining policy whose author says anything to the client.
    fn author(&self) -> Option<&PolicyNote> {
        let Self::Denied(Denied { reason: DenyReason::Policy, determining, .. }) = self else { return None };
        determining.iter().map(|note| &**note).find(|note| note.speaks())
    }

    /// Where the user can give the consent that is missing.
    fn consent_uri(&self) -> Option<&str> {
        match self {
            Self::Mapping(MappingError::ConsentMissing(uri)) => uri.as_deref(),
            _ => None,
        }
    }

    /// What would have allowed it, where the operator lets that be told.
    fn nearest_miss(&self) -> Option<&str> {
        match self {
            Self::Denied(denied) => denied.nearest_miss.as_deref(),
            _ => None,
        }
    }
}

const fn request_row(error: RequestError) -> Row {
    match error {
        RequestError::ForwardedInvalid => row(StatusCode::BAD_REQUEST, "forwarded_invalid"),
        RequestError::AmbiguousPath => row(StatusCode::BAD_REQUEST, "ambiguous_path"),
        RequestError::HeaderRepeated => row(StatusCode::BAD_REQUEST, "header_repeated"),
        RequestError::FramingConflict => row(StatusCode::BAD_REQUEST, "framing_conflict"),
        RequestError::UpgradeUnclear => row(StatusCode::BAD_REQUEST, "upgrade_unclear"),
        RequestError::HostMissing => row(StatusCode::BAD_REQUEST, "host_missing"),
        RequestError::HostInvalid => row(StatusCode::BAD_REQUEST, "host_invalid"),
        RequestError::MethodRefused => row(StatusCode::NOT_IMPLEMENTED, "method_refused"),
        RequestError::ProxyUntrusted => row(StatusCode::FORBIDDEN, "proxy_untrusted"),
        RequestError::ProxyHeaderInvalid => row(StatusCode::BAD_REQUEST, "proxy_header_invalid"),
        RequestError::TargetTooLong => row(StatusCode::URI_TOO_LONG, "target_too_long"),
        RequestError::HeadTimedOut => row(StatusCode::REQUEST_TIMEOUT, "head_timed_out"),
        RequestError::HeadTooLarge => row(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large"),
    }
}

fn token_row(error: TokenError) -> Row {
    let invalid = |code| Row { status: StatusCode::UNAUTHORIZED, code, challenge: Some(Challenge::InvalidToken) };
    let proof = |code, challenge| Row { status: StatusCode::UNAUTHORIZED, code, challenge: Some(challenge) };
    match error {
        TokenError::Missing => {
            Row { status: StatusCode::UNAUTHORIZED, code: "token_missing", challenge: Some(Challenge::Plain) }
        }
        TokenError::Several => {
            Row { status: StatusCode::BAD_REQUEST, code: "several_tokens", challenge: Some(Challenge::InvalidRequest) }
        }
        TokenError::KeysUnavailable => row(StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable"),
        TokenError::Malformed => invalid("token_malformed"),
        TokenError::HeaderRefused => invalid("token_header_refused"),
        TokenError::AlgorithmRefused => invalid("algorithm_refused"),
        TokenError::IssuerUnknown => invalid("issuer_unknown"),
        TokenError::KeyUnknown => invalid("key_unknown"),
        TokenError::SignatureInvalid => invalid("signature_invalid"),
        TokenError::TypeWrong => invalid("token_type_wrong"),
        TokenError::Expired => invalid("token_expired"),
        TokenError::Early => invalid("token_early"),
        TokenError::BindingUnchecked => invalid("binding_unchecked"),
        TokenError::BindingMissing => invalid("binding_missing"),
        TokenError::CertificateMismatch => invalid("certificate_mismatch"),
        TokenError::ProofMissing => proof("proof_missing", Challenge::InvalidProof),
        TokenError::ProofInvalid => proof("proof_invalid", Challenge::InvalidProof),
        TokenError::ProofNonceMissing(_) => proof("proof_nonce_missing", Challenge::ProofNonce),
        TokenError::ProofReplayed => proof("proof_replayed", Challenge::InvalidProof),
        TokenError::ProofsUnchecked => row(StatusCode::SERVICE_UNAVAILABLE, "proofs_unchecked"),
        TokenError::LifetimeExceeded => invalid("lifetime_exceeded"),
        TokenError::DelegationStale => invalid("delegation_stale"),
        TokenError::DelegationConflict => invalid("delegation_conflict"),
        TokenError::UseWrong => invalid("token_use_wrong"),
        TokenError::AudienceWrong => invalid("audience_wrong"),
        TokenError::Inactive => invalid("token_inactive"),
        TokenError::IntrospectionUnavailable => row(StatusCode::SERVICE_UNAVAILABLE, "introspection_unavailable"),
        TokenError::Revoked => invalid("token_revoked"),
        TokenError::ClientRefused => invalid("client_refused"),
    }
}

fn mapping_row(error: &MappingError) -> Row {
    match error {
        MappingError::ScopeMissing(scope) => Row {
            status: StatusCode::FORBIDDEN,
            code: "scope_missing",
            challenge: Some(Challenge::InsufficientScope(scope.clone())),
        },
        MappingError::DelegationMissing => row(StatusCode::FORBIDDEN, "delegation_missing"),
        MappingError::DelegationForbidden => row(StatusCode::FORBIDDEN, "delegation_forbidden"),
        MappingError::DelegationUnclear => row(StatusCode::FORBIDDEN, "delegation_unclear"),
        MappingError::ClientUnlisted => row(StatusCode::FORBIDDEN, "client_unlisted"),
        MappingError::EntitiesTooMany => row(StatusCode::FORBIDDEN, "entities_too_many"),
        MappingError::ConsentMissing(_) => row(StatusCode::FORBIDDEN, "consent_missing"),
        MappingError::SourceUnavailable(_) => row(StatusCode::SERVICE_UNAVAILABLE, "source_unavailable"),
        MappingError::SourceTimedOut(_) => row(StatusCode::GATEWAY_TIMEOUT, "source_timed_out"),
        MappingError::AppRefused => row(StatusCode::FORBIDDEN, "app_refused"),
        MappingError::ClaimMissing(_) => row(StatusCode::FORBIDDEN, "claim_missing"),
    }
}

macro_rules! from {
    ($($error:ty => $variant:ident),*) => {
        $(impl From<$error> for Refusal {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })*
    };
}
from!(RequestError => Request, PreflightError => Preflight, TokenError => Token, LimitError => Limited, MappingError => Mapping, Denied => Denied, UpstreamError => Upstream, ClientError => Client);

/// At least one.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}
