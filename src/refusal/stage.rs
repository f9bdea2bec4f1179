//! Where on its way a request is refused, and why, in words for operators.

use std::fmt;

use serde::Serialize;

use super::Refusal;
use crate::limit::LimitError;

/// A stage of the walk, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The request has one reading.
    Request,
    /// The token is believed, and its sender may use it.
    Token,
    /// A route describes the request, and a store decides about it.
    Route,
    /// Token, path, files and sources make a question.
    Mapping,
    /// The policies answer it.
    Policy,
    /// The upstream gets it, and its client the answer.
    Upstream,
}

impl Stage {
    /// Each of them, in order.
    pub const ALL: [Self; 6] = [Self::Request, Self::Token, Self::Route, Self::Mapping, Self::Policy, Self::Upstream];

    /// As it is told.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Token => "token",
            Self::Route => "route",
            Self::Mapping => "mapping",
            Self::Policy => "policy",
            Self::Upstream => "upstream",
        }
    }

    /// That of a refusal with this code; none for what is no code, and for `allowed`.
    pub fn of_code(code: &str) -> Option<Self> {
        Refusal::every().iter().find(|refusal| refusal.code() == code).map(Refusal::stage)
    }
}

impl Refusal {
    /// Where it is refused.
    pub const fn stage(&self) -> Stage {
        match self {
            Self::Request(_)
            | Self::Preflight(_)
            | Self::Overloaded
            | Self::PeerOverloaded
            | Self::Unrecorded
            | Self::Limited(LimitError::PeerLimited(..)) => Stage::Request,
            Self::Token(_) | Self::Limited(LimitError::ClientLimited(..) | LimitError::Unavailable(_)) => Stage::Token,
            Self::RouteMissing | Self::HostUnknown => Stage::Route,
            Self::Mapping(_) => Stage::Mapping,
            Self::Denied(_) => Stage::Policy,
            Self::Upstream(_) | Self::Client(_) | Self::Internal => Stage::Upstream,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(error) => error.fmt(f),
            Self::Preflight(error) => error.fmt(f),
            Self::Token(error) => error.fmt(f),
            Self::RouteMissing => f.write_str("no route describes the request"),
            Self::HostUnknown => f.write_str("no route, or no store of policies, is for this host"),
            Self::Mapping(error) => error.fmt(f),
            Self::Denied(denied) => denied.fmt(f),
            Self::Upstream(error) => error.fmt(f),
            Self::Client(error) => error.fmt(f),
            Self::Limited(error) => error.fmt(f),
            Self::Overloaded => f.write_str("no more connections or requests are taken"),
            Self::PeerOverloaded => f.write_str("no more connections are taken from this address"),
            Self::Unrecorded => f.write_str("what is decided could not be recorded"),
            Self::Internal => f.write_str("a fault of the gate"),
        }
    }
}
