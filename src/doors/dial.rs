//! How pingora is told to connect to a server.

use std::{sync::Arc, time::Duration};

use pingora_core::{Error, ErrorType, Result, protocols::ALPN, upstreams::peer::HttpPeer};

use super::trust::Trusts;
use crate::{
    base::address::Address,
    forward::{Pool, upstream::Http2},
};

/// Requests at once on a connection in HTTP/2.
const STREAMS_MAX: usize = 100;

/// Bytes of an answer that are under way on a stream before the client has taken them. All streams of a connection together
/// fit in [`CONNECTION_WINDOW`], so that a client that reads slowly holds up no other.
const STREAM_WINDOW: u32 = 128 * 1024;

/// Bytes of answers that are under way on a connection.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// How much longer than the client a server may be silent in a tunnel.
const TUNNEL_GRACE: Duration = Duration::from_secs(1);

/// How often an upstream is asked on a connection in HTTP/2 whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(30);

/// The server of `pool` at `address`. Where the request may open a `tunnel`, the server may be silent in it for so long.
pub(super) fn peer(
    pool: &Arc<Pool>,
    address: &Address,
    trusts: &Trusts,
    tunnel: Option<Duration>,
) -> Result<Box<HttpPeer>> {
    let upstream = pool.upstream();
    let server_name = upstream.tls.as_ref().map_or_else(String::new, |tls| tls.server_name.clone());
    let tls = upstream.tls.is_some();
    let mut peer = match address {
        Address::Tcp(address) => HttpPeer::new(address, tls, server_name),
        Address::Unix(path) => HttpPeer::new_uds(&path.to_string_lossy(), tls, server_name)?,
    };
    let trust = trusts.of(pool).map_err(|error| Error::explain(ErrorType::InternalError, error))?;
    if let Some(trust) = trust {
        peer.options.ca.clone_from(&trust.authorities);
        peer.client_cert_key.clone_from(&trust.shown);
    }
    peer.group_key = pool.group();
    let options = &mut peer.options;
    options.total_connection_timeout = Some(upstream.connect_timeout);
    options.connection_timeout = Some(upstream.connect_timeout);
    // Who is silent in a tunnel is the client, before it is the server.
    let in_tunnel = |idle: Duration| idle.saturating_add(TUNNEL_GRACE).max(upstream.read_timeout);
    options.read_timeout = Some(tunnel.map_or(upstream.read_timeout, in_tunnel));
    options.write_timeout = Some(upstream.write_timeout);
    options.idle_timeout = Some(upstream.idle_timeout);
    // An upgrade is one of HTTP/1.1 alone (RFC 9113 section 8.6).
    options.alpn = match upstream.http2 {
        Http2::Off => ALPN::H1,
        Http2::Offered if tunnel.is_some() => ALPN::H1,
        Http2::Offered => ALPN::H2H1,
        Http2::Only => ALPN::H2,
    };
    options.max_h2_streams = STREAMS_MAX;
    options.h2_stream_window_size = Some(STREAM_WINDOW);
    options.h2_connection_window_size = Some(CONNECTION_WINDOW);
    options.h2_ping_interval = Some(PING_EVERY);
    Ok(Box::new(peer))
}
