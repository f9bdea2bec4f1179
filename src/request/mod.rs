//! ROOM 1: what arrived, in one reading, trusted by nobody. Knows nothing of tokens or policies.
//!
//! A door fills in a [`Head`]; [`Inbound::parse`] is the only way onward. Ambiguous input is refused, never
//! repaired, so what is authorised is byte for byte what is forwarded.

pub mod certificate;
pub mod chunks;
pub mod cors;
pub mod forwarded;
pub mod framing;
pub mod headers;
pub mod path;
pub mod query;
pub mod rewrite;
pub mod route;
pub mod syntax;
pub mod trace_context;
pub mod unseen;
pub mod upgrade;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http::{HeaderMap, Method, header, uri::Authority};

use self::{certificate::Certificate, headers::only, path::Target, route::AmbiguousRoute};
use crate::base::{
    problem::{Problem, bounded},
    spanned::Spanned,
};

/// A request head as a door read it from the wire.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// The request target (RFC 9112 section 3.2), byte for byte what the door would send on.
    pub target: &'a [u8],
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// The raw bytes of an HTTP/1.x head, request line included; `None` for protocols with framing of their own.
    pub wire: Option<&'a [u8]>,
    /// The other end of the connection.
    pub peer: Option<SocketAddr>,
    /// The client certificate that the connection was made with.
    pub certificate: Option<&'a Certificate>,
}

/// A request head in its one reading.
#[derive(Clone, Debug)]
pub struct Inbound<'a> {
    method: &'a Method,
    target: Target<'a>,
    authority: Option<Authority>,
    headers: &'a HeaderMap,
    peer: Option<IpAddr>,
    certificate: Option<&'a Certificate>,
}

/// Bounds on a request.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the whole head, request line included.
    pub head_bytes_max: usize,
    /// Header fields.
    pub fields_max: usize,
    /// Bytes of the request target.
    pub target_bytes_max: usize,
    /// Requests under way at once, of all clients.
    pub requests_max: usize,
    /// Bytes of a request body, for routes that say nothing of that.
    pub body_bytes_max: Option<u64>,
    /// Open connections of one address, or of one /64.
    pub connections_per_peer_max: Option<usize>,
    /// Requests on one connection.
    pub requests_per_connection_max: Option<usize>,
    /// From the first byte of a head to its last, between two reads of a body, and between two writes.
    pub client_timeout: Duration,
    /// How long a client may send nothing after a switch of protocols.
    pub tunnel_idle: Duration,
}

/// A bound on the bytes of a request body, as configured.
///
/// # Errors
/// A [`Problem`] where it is none.
pub fn body_bytes_max(value: Option<&Spanned<u64>>) -> Result<Option<u64>, Problem> {
    value.map(|_| bounded(value, "body_bytes_max", 0, 0..=1 << 50)).transpose()
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes_max: 32 * 1024,
            fields_max: 96,
            target_bytes_max: 4 * 1024,
            requests_max: 10_000,
            connections_per_peer_max: None,
            requests_per_connection_max: None,
            body_bytes_max: None,
            client_timeout: Duration::from_secs(30),
            tunnel_idle: Duration::from_secs(300),
        }
    }
}

/// Why a request head has no one reading, or is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The target can be read in more than one way, or has a form that is not forwarded.
    #[error("the request target has more than one reading")]
    AmbiguousPath,
    /// A field that must stand once stands several times.
    #[error("a header field that must stand once is repeated")]
    HeaderRepeated,
    /// Message length or line endings can be read in more than one way.
    #[error("the message framing has more than one reading")]
    FramingConflict,
    /// A trusted proxy does not say where the request comes from.
    #[error("a proxy does not say which address the request comes from")]
    ForwardedInvalid,
    /// Some servers would see an upgrade, and some would not.
    #[error("the request to upgrade the connection has more than one reading")]
    UpgradeUnclear,
    /// A method that is for proxies of another kind.
    #[error("the method is not one that is forwarded")]
    MethodRefused,
    /// `Host` names no host.
    #[error("`Host` names no host")]
    HostInvalid,
    /// HTTP/1.1 without `Host`.
    #[error("`Host` is missing")]
    HostMissing,
    /// The target is longer than [`Limits::target_bytes_max`].
    #[error("the request target is too long")]
    TargetTooLong,
    /// Whoever connected is not trusted to say whom a connection is from.
    #[error("the peer is not trusted to pass connections on")]
    ProxyUntrusted,
    /// A connection does not begin as the PROXY protocol has it.
    #[error("the connection does not begin with a header of the PROXY protocol")]
    ProxyHeaderInvalid,
    /// The head did not come whole in time.
    #[error("the request head did not come in time")]
    HeadTimedOut,
    /// The head is larger than [`Limits::head_bytes_max`], or has more fields than [`Limits::fields_max`].
    #[error("the request head is too large")]
    HeadTooLarge,
}

impl From<AmbiguousRoute> for RequestError {
    fn from(_: AmbiguousRoute) -> Self {
        Self::AmbiguousPath
    }
}

impl Head<'_> {
    /// How large it is: as it came, or as it would be in HTTP/1.1.
    fn bytes(&self) -> usize {
        let Some(wire) = self.wire else {
            let fields = self.headers.iter().map(|(name, value)| [name.as_str().len(), value.len(), 4]);
            let line = [self.method.as_str().len(), self.target.len(), 14];
            return fields.chain([line]).flatten().fold(0, usize::saturating_add);
        };
        wire.len()
    }
}

impl<'a> Inbound<'a> {
    /// Reads `head` in the one way it can be read.
    ///
    /// # Errors
    /// [`RequestError`] where there is a second way, or a limit is passed.
    pub fn parse(head: &Head<'a>, limits: &Limits) -> Result<Self, RequestError> {
        if head.target.len() > limits.target_bytes_max {
            return Err(RequestError::TargetTooLong);
        }
        if head.bytes() > limits.head_bytes_max || head.headers.len() > limits.fields_max {
            return Err(RequestError::HeadTooLarge);
        }
        match head.wire {
            Some(wire) => {
                framing::check(wire, head.target, head.headers)?;
                upgrade::check(head.method, head.headers)?;
            }
            None => framing::check_values(head.headers)?,
        }
        let authority = match only(head.headers, &header::HOST)? {
            None if head.wire.is_some() => return Err(RequestError::HostMissing),
            None => None,
            Some(host) => Some(unseen::authority(host.as_bytes()).ok_or(RequestError::HostInvalid)?),
        };
        only(head.headers, &header::CONTENT_LENGTH)?;
        let target = Target::parse(head.target).ok_or(RequestError::AmbiguousPath)?;
        let peer = head.peer.map(|peer| peer.ip());
        Ok(Self { method: head.method, target, authority, headers: head.headers, peer, certificate: head.certificate })
    }

    /// The method.
    pub const fn method(&self) -> &'a Method {
        self.method
    }
    /// The target: path and query.
    pub const fn target(&self) -> Target<'a> {
        self.target
    }
    /// The header fields.
    pub const fn headers(&self) -> &'a HeaderMap {
        self.headers
    }
    /// Bytes of the body that the head announces.
    pub fn content_length(&self) -> Option<u64> {
        self.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }
    /// The host that the client addresses: lower case, without port and without a dot at its end.
    pub fn host(&self) -> Option<String> {
        let authority = self.authority.as_ref()?;
        Some(authority.host().trim_end_matches('.').to_ascii_lowercase())
    }
    /// The address of the other end of the connection.
    pub const fn peer(&self) -> Option<IpAddr> {
        self.peer
    }
    /// The client certificate that the connection was made with.
    pub const fn certificate(&self) -> Option<&Certificate> {
        self.certificate
    }
}
