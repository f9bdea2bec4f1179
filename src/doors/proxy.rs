//! The reverse proxy: an HTTP door on pingora. What is allowed goes to the upstream, byte for byte the target that
//! was authorised; what is not is answered here.

use std::{io, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, StatusCode, header};
use pingora_core::{
    Error, ErrorSource,
    ErrorType::{
        ConnectError, ConnectNoRoute, ConnectRefused, ConnectTimedout, ConnectionClosed, H2Error, InternalError,
        InvalidCert, InvalidHTTPHeader, ReadError, ReadTimedout, SocketError, TLSHandshakeFailure,
        TLSHandshakeTimedout, WriteError, WriteTimedout,
    },
    Result,
    upstreams::peer::HttpPeer,
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use crate::{
    doors::{pace::Pace, resolve::Resolver},
    forward::Obligations,
    pipeline::{Gate, Visit},
    refusal::{ClientError, Refusal, UpstreamError},
    request::{
        Head,
        headers::{is_for_one_hop, nominates},
        upgrade::names_websocket,
    },
};

/// The door.
#[derive(Debug)]
pub struct ProxyDoor {
    gate: Gate,
    resolver: Resolver,
}

/// One request at the door.
#[derive(Debug)]
pub struct Passage {
    visit: Visit,
    /// Present from admission on: without it nothing is forwarded.
    obligations: Option<Obligations>,
    /// How its body comes in, where pingora sets no bound on that.
    pace: Option<Arc<Pace>>,
}

impl Drop for Passage {
    fn drop(&mut self) {
        if self.pace.as_ref().is_some_and(|pace| pace.is_broken()) {
            self.visit.fail(&ClientError::BodyTimedOut.into());
        }
    }
}

impl ProxyDoor {
    /// Whom it asks.
    pub const fn gate(&self) -> &Gate {
        &self.gate
    }

    /// A door that asks `gate`, and forwards where that says.
    pub fn new(gate: Gate) -> Self {
        Self { gate, resolver: Resolver::default() }
    }
}

#[async_trait]
impl ProxyHttp for ProxyDoor {
    type CTX = Passage;

    fn new_ctx(&self) -> Passage {
        Passage { visit: self.gate.receive(), obligations: None, pace: Pace::ours() }
    }

    async fn early_request_filter(&self, session: &mut Session, passage: &mut Passage) -> Result<()> {
        let timeout = passage.visit.limits().client_timeout;
        session.set_read_timeout(Some(timeout));
        session.set_write_timeout(Some(timeout));
        if session.is_http2() {
            return as_in_http1(session.req_header_mut());
        }
        // pingora looks for it in the first `Connection` alone.
        if nominates(&session.req_header().headers, &HeaderName::from_static("close")) {
            session.set_keepalive(None);
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, passage: &mut Passage) -> Result<bool> {
        let outcome = if session.is_http2() {
            let request = session.req_header().clone();
            let (peer, certificate) = (peer(session), certificate(session));
            let head = Head { peer, certificate, ..head(&request, None) };
            tokio::select! {
                biased;
                outcome = passage.visit.admit(&head) => outcome,
                () = left(session) => return Ok(true),
            }
        } else {
            let wire = session.as_downstream().as_http1().map(|h1| h1.get_headers_raw_bytes());
            let (peer, certificate) = (peer(session), certificate(session));
            let head = Head { peer, certificate, ..head(session.req_header(), wire.as_deref()) };
            passage.visit.admit(&head).await
        };
        match outcome {
            Ok(obligations) => {
                passage.obligations = Some(obligations);
                Ok(false)
            }
            Err(refusal) => {
                answer(session, &refusal, passage).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, _: &mut Session, passage: &mut Passage) -> Result<Box<HttpPeer>> {
        let Some(obligations) = &passage.obligations else { return Error::e_explain(InternalError, "not admitted") };
        let upstream = obligations.upstream();
        let server_name = if upstream.tls { upstream.host.clone() } else { String::new() };
        let mut peer = match &upstream.socket {
            Some(path) => HttpPeer::new_uds(&path.to_string_lossy(), false, server_name)?,
            None => {
                let address = self.resolver.address(upstream).await;
                let address = address.map_err(|error| Error::because(ConnectNoRoute, "resolving", error))?;
                HttpPeer::new(address, upstream.tls, server_name)
            }
        };
        peer.options.total_connection_timeout = Some(upstream.connect_timeout);
        peer.options.connection_timeout = Some(upstream.connect_timeout);
        peer.options.read_timeout = Some(upstream.read_timeout);
        peer.options.write_timeout = Some(upstream.write_timeout);
        Ok(Box::new(peer))
    }

    /// Runs after pingora has removed what the client's `Connection` nominates, so ours cannot be nominated away.
    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        passage: &mut Passage,
    ) -> Result<()> {
        let Some(obligations) = &passage.obligations else { return Error::e_explain(InternalError, "not admitted") };
        // INVARIANT: the target sent is byte for byte the target that was authorised.
        if request.raw_path() != session.req_header().raw_path() {
            return Error::e_explain(InternalError, "the target changed after it was authorised");
        }
        let removed: Vec<HeaderName> =
            request.headers.keys().filter(|name| obligations.removes(name)).cloned().collect();
        for name in removed {
            request.remove_header(&name);
        }
        if let Some(authority) = &obligations.upstream().authority {
            request.insert_header(header::HOST, authority.clone())?;
        }
        for (name, value) in obligations.set() {
            request.insert_header(name.clone(), value.clone())?;
        }
        passage.expect_body(session.is_body_done());
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        _: &mut Option<Bytes>,
        is_last: bool,
        passage: &mut Passage,
    ) -> Result<()> {
        passage.expect_body(is_last);
        Ok(())
    }

    /// Leaves the client nothing of an answer that was for this hop alone, or that only the upstream is told. pingora frames
    /// what it sends by the length or coding that stays.
    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        passage: &mut Passage,
    ) -> Result<()> {
        let Some(obligations) = &passage.obligations else { return Error::e_explain(InternalError, "not admitted") };
        let switches = response.status == StatusCode::SWITCHING_PROTOCOLS;
        let asked = session.as_downstream().as_http1().is_some_and(|h1| h1.is_upgrade_req());
        if switches && !(asked && names_websocket(&session.req_header().headers) && names_websocket(&response.headers))
        {
            return Error::e_explain(InvalidHTTPHeader, "another protocol than was asked for").map_err(|e| e.into_up());
        }
        let headers = &response.headers;
        let is_for_us = |name: &HeaderName| {
            let frames = name == header::TRANSFER_ENCODING || name == header::CONTENT_LENGTH;
            !frames && (nominates(headers, name) || is_for_one_hop(name)) || obligations.hides(name)
        };
        let removed: Vec<HeaderName> = headers.keys().filter(|name| is_for_us(name)).cloned().collect();
        for name in removed {
            response.remove_header(&name);
        }
        if switches {
            response.insert_header(header::CONNECTION, "Upgrade")?;
            response.insert_header(header::UPGRADE, "websocket")?;
        }
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, passage: &mut Passage) -> FailToProxy {
        let refusal = refusal_of(error);
        passage.visit.fail(&refusal);
        if refusal == Refusal::Internal {
            tracing::error!(%error, decision_id = passage.visit.decision_id(), "a request failed inside");
        }
        let answered = final_response(session).is_none() && refusal != Refusal::Client(ClientError::Gone);
        if answered && let Err(error) = answer(session, &refusal, passage).await {
            tracing::debug!(%error, "a refusal could not be sent");
        }
        FailToProxy { error_code: if answered { refusal.status().as_u16() } else { 0 }, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, passage: &mut Passage) {
        if let Some(response) = final_response(session) {
            passage.visit.answered(response.status.as_u16());
        }
    }

    /// Every outcome has its decision record; pingora's own lines would repeat it, with the query.
    fn suppress_error_log(&self, _: &Session, _: &Passage, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Passage, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}

impl Passage {
    /// More of the body is due, unless it is done.
    fn expect_body(&self, is_done: bool) {
        if let Some(pace) = &self.pace {
            pace.expect((!is_done).then_some(self.visit.limits().client_timeout));
        }
    }
}

/// Has a request say in HTTP/1's words what it says otherwise in HTTP/2: its host (RFC 9113 section 8.3.1; the library has
/// seen to it that there are not two), and its cookies, which may come in crumbs (section 8.2.3).
fn as_in_http1(request: &mut RequestHeader) -> Result<()> {
    if let Some(authority) = request.uri.authority().map(|it| it.as_str().to_owned()) {
        request.insert_header(header::HOST, authority)?;
    }
    let crumbs: Vec<_> = request.headers.get_all(header::COOKIE).iter().map(|crumb| crumb.as_bytes()).collect();
    if crumbs.len() > 1 {
        let cookies = crumbs.join(&b"; "[..]);
        request.insert_header(header::COOKIE, cookies)?;
    }
    Ok(())
}

/// A request's head as far as the message tells it.
fn head<'a>(request: &'a RequestHeader, wire: Option<&'a [u8]>) -> Head<'a> {
    Head {
        method: &request.method,
        target: request.raw_path(),
        headers: &request.headers,
        wire,
        peer: None,
        certificate: None,
    }
}

/// The other end of the client's connection.
fn peer(session: &Session) -> Option<SocketAddr> {
    session.client_addr().and_then(|peer| peer.as_inet()).copied()
}

/// Ends when the client has taken its request back, in HTTP/2.
async fn left(session: &mut Session) {
    match session.as_downstream_mut().watch_h2_stream_close() {
        Some(close) => drop(close.await),
        None => std::future::pending().await,
    }
}

/// SHA-256 of the certificate that the client's connection was made with.
fn certificate(session: &Session) -> Option<[u8; 32]> {
    session.digest()?.ssl_digest.as_ref()?.cert_digest.as_slice().try_into().ok()
}

/// The answer that was begun, if any: 100 Continue and its like are none. After 101 there is no other.
fn final_response(session: &Session) -> Option<&ResponseHeader> {
    let is_final = |status: StatusCode| !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS;
    session.response_written().filter(|response| is_final(response.status))
}

/// Answers with a refusal. A request body that was not read closes the connection, which pingora sees to.
async fn answer(session: &mut Session, refusal: &Refusal, passage: &Passage) -> Result<()> {
    let body = Bytes::from(refusal.problem(passage.visit.decision_id()).to_string());
    let mut response = ResponseHeader::build(refusal.status(), Some(6))?;
    response.insert_header(header::CONTENT_TYPE, "application/problem+json")?;
    response.insert_header(header::CONTENT_LENGTH, body.len())?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    if let Some(challenge) = passage.visit.challenge(refusal) {
        response.insert_header(header::WWW_AUTHENTICATE, challenge)?;
    }
    if let Some(nonce) = refusal.nonce() {
        response.insert_header("dpop-nonce", nonce.as_str())?;
    }
    if let Some(after) = refusal.retry_after() {
        response.insert_header(header::RETRY_AFTER, after.as_secs())?;
    }
    if matches!(refusal, Refusal::Request(_)) {
        // Where the head has two readings, nobody can say where the next request begins.
        session.set_keepalive(None);
    }
    let bodiless = session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(response), bodiless).await?;
    if !bodiless {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

/// Whether the body was stopped for how it is framed.
fn is_misframed(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::InvalidData)
}

/// What an error between admission and the end of the answer comes to.
fn refusal_of(error: &Error) -> Refusal {
    let kind = error.etype();
    match error.esource() {
        ErrorSource::Downstream => match kind {
            ReadTimedout => ClientError::BodyTimedOut.into(),
            ReadError if is_misframed(error) => ClientError::RequestInvalid.into(),
            WriteError | ReadError | ConnectionClosed | WriteTimedout | H2Error => ClientError::Gone.into(),
            _ => ClientError::RequestInvalid.into(),
        },
        source => match kind {
            ConnectTimedout | TLSHandshakeTimedout => UpstreamError::TimedOut.into(),
            ReadTimedout | WriteTimedout if *source == ErrorSource::Upstream => UpstreamError::TimedOut.into(),
            // pingora does not name the source of a downstream read that times out while the body is awaited.
            ReadTimedout => ClientError::BodyTimedOut.into(),
            ConnectRefused | ConnectNoRoute | ConnectError | SocketError | TLSHandshakeFailure | InvalidCert => {
                UpstreamError::Unreachable.into()
            }
            _ if *source == ErrorSource::Upstream => UpstreamError::Invalid.into(),
            _ => Refusal::Internal,
        },
    }
}
