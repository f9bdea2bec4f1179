//! The reverse proxy: an HTTP door on pingora. What is allowed goes to the upstream, byte for byte the target that
//! was made of it when it was authorised; what is not is answered here.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, StatusCode, Version, header};
use pingora_core::{
    Error, ErrorSource,
    ErrorType::{ConnectNoRoute, InternalError, InvalidHTTPHeader, ReadTimedout, WriteTimedout},
    Result,
    upstreams::peer::HttpPeer,
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use crate::{
    doors::{
        answer::{answer, answer_page, answer_preflight, final_response, is_interim, tell_pages},
        attempts::Attempts,
        caller::Caller,
        failure::refusal_of,
        incoming::{as_in_http1, head, is_upgrade, left, named},
        pace::Pace,
        tunnel::Tunnel,
        upkeep::Upkeep,
        whole,
    },
    forward::{Obligations, upstream::Http2},
    pipeline::{Admission, Gate, Visit},
    refusal::{ClientError, Refusal, UpstreamError},
    request::{
        RequestError,
        cors::speaks_to_pages,
        headers::{is_for_one_hop, nominates},
        upgrade::names_websocket,
    },
};

pub use crate::doors::attempts::ATTEMPTS_MAX;

/// The door.
#[derive(Debug)]
pub struct ProxyDoor {
    gate: Gate,
    upkeep: Upkeep,
}

/// One request at the door.
#[derive(Debug)]
pub struct Passage {
    visit: Visit,
    caller: Arc<Caller>,
    /// Present from admission on: without it nothing is forwarded.
    obligations: Option<Obligations>,
    attempts: Attempts,
    tunnel: Tunnel,
    /// Of its body, so far, in this attempt.
    body_bytes: u64,
    /// The SHA-256 of its body, where that was read before anything went on.
    digest: Option<[u8; 32]>,
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
    /// A door that asks `gate`, and forwards where that says, to what `upkeep` looks after.
    pub const fn new(gate: Gate, upkeep: Upkeep) -> Self {
        Self { gate, upkeep }
    }
}

#[async_trait]
impl ProxyHttp for ProxyDoor {
    /// In a box: pingora moves it from future to future.
    type CTX = Box<Passage>;

    fn new_ctx(&self) -> Self::CTX {
        let mut passage = Box::new(Passage {
            visit: self.gate.receive(),
            caller: Caller::ours(),
            obligations: None,
            attempts: Attempts::default(),
            tunnel: Tunnel::default(),
            body_bytes: 0,
            digest: None,
            pace: Pace::ours(),
        });
        passage.visit.came_through(passage.caller.via);
        passage
    }

    async fn early_request_filter(&self, session: &mut Session, passage: &mut Self::CTX) -> Result<()> {
        let timeout = passage.visit.limits().client_timeout;
        session.set_read_timeout(Some(timeout));
        session.set_write_timeout(Some(timeout));
        passage.visit.came_by(session.req_header().version);
        if session.is_http2() {
            return as_in_http1(session.req_header_mut());
        }
        // pingora looks for it in the first `Connection` alone.
        if nominates(&session.req_header().headers, &HeaderName::from_static("close")) {
            session.set_keepalive(None);
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, passage: &mut Self::CTX) -> Result<bool> {
        let outcome = if session.is_http2() {
            let request = session.req_header().clone();
            let head = head(&request, None, &passage.caller);
            tokio::select! {
                biased;
                outcome = passage.visit.admit(&head) => outcome,
                () = left(session) => return Ok(true),
            }
        } else {
            let wire = session.as_downstream().as_http1().map(|h1| h1.get_headers_raw_bytes());
            let head = head(session.req_header(), wire.as_deref(), &passage.caller);
            passage.visit.admit(&head).await
        };
        match outcome {
            Ok(Admission::Forward(obligations))
                if is_upgrade(session) && obligations.pool().upstream().http2 == Http2::Only =>
            {
                // HTTP/2 has none, and without it this would be another request.
                let refusal = RequestError::UpgradeUnclear.into();
                passage.visit.fail(&refusal);
                answer(session, &refusal, &passage.visit).await?;
                Ok(true)
            }
            Ok(Admission::Preflight(fields)) => {
                answer_preflight(session, &fields).await?;
                Ok(true)
            }
            Ok(Admission::Page(page)) => {
                answer_page(session, &page).await?;
                Ok(true)
            }
            Ok(Admission::Forward(obligations)) => {
                if obligations.binds_body() {
                    let due = |is_due: bool| passage.expect_body(!is_due);
                    passage.digest = Some(whole::read(session, &passage.visit, due).await?);
                }
                passage.obligations = Some(obligations);
                Ok(false)
            }
            Err(refusal) => {
                answer(session, &refusal, &passage.visit).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, session: &mut Session, passage: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        let Passage { attempts, visit, obligations: Some(obligations), .. } = &mut **passage else {
            return Error::e_explain(InternalError, "not admitted");
        };
        let retries = attempts.retries();
        let turn = attempts.next(obligations);
        let server = turn.map_err(|error| Error::because(ConnectNoRoute, "choosing a server", error))?.server();
        visit.goes_to(server.name(), retries);
        let tunnel = is_upgrade(session).then(|| visit.limits().tunnel_idle);
        self.upkeep.peer(obligations.pool(), server.address(), tunnel)
    }

    /// Nothing of the request was sent: it may be tried at another server, whatever it is.
    fn fail_to_connect(
        &self,
        session: &mut Session,
        _: &HttpPeer,
        passage: &mut Self::CTX,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let Passage { attempts, obligations: Some(obligations), .. } = &mut **passage else { return error };
        let again = attempts.failed(obligations.pool(), !session.as_ref().retry_buffer_truncated());
        error.set_retry(again);
        error
    }

    /// Something of the request may have been sent: it is tried again only where twice is as good as once (RFC 9110 section
    /// 9.2.2), nothing of an answer has gone on, and all of its body is still at hand.
    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        passage: &mut Self::CTX,
        reused: bool,
    ) -> Box<Error> {
        let Passage { attempts, obligations: Some(obligations), .. } = &mut **passage else { return error };
        error.retry.decide_reuse(reused);
        let is_safe = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated()
            && final_response(session).is_none();
        let again = match error.esource() {
            ErrorSource::Upstream if reused && error.retry() => is_safe && attempts.was_stale(),
            ErrorSource::Upstream => {
                let waited = matches!(error.etype(), ReadTimedout | WriteTimedout);
                attempts.failed(obligations.pool(), is_safe && !waited)
            }
            _ => false,
        };
        error.set_retry(again);
        error
    }

    /// Runs after pingora has removed what the client's `Connection` nominates, so ours cannot be nominated away.
    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        passage: &mut Self::CTX,
    ) -> Result<()> {
        // What was kept of its body is sent again with each attempt.
        passage.body_bytes = 0;
        let Some(obligations) = &passage.obligations else { return Error::e_explain(InternalError, "not admitted") };
        // INVARIANT: the target sent is byte for byte the one that was made of the target that was authorised.
        let (target, is_as_read) =
            (obligations.target().as_bytes(), request.raw_path() == session.req_header().raw_path());
        if is_as_read && request.raw_path() != target {
            request.set_raw_path(target)?;
        }
        if !is_as_read || request.raw_path() != target {
            return Error::e_explain(InternalError, "the target changed after it was authorised");
        }
        // Of these pingora leaves some where both sides speak HTTP/2; gRPC's servers want `te`.
        let in_http2 = session.is_http2();
        let is_for_us = |name: &HeaderName| in_http2 && is_for_one_hop(name) && name != header::TE;
        let is_left = |name: &HeaderName| obligations.removes(name) || passage.visit.leaves(name) || is_for_us(name);
        for name in named(&request.headers, is_left) {
            request.remove_header(&name);
        }
        let upstream = obligations.pool().upstream();
        // pingora takes an upstream that chooses nothing in the handshake for one of HTTP/1.1.
        if upstream.http2 == Http2::Only && request.version != Version::HTTP_2 {
            let error = UpstreamError::Invalid;
            return Err(Error::because(InvalidHTTPHeader, "choosing HTTP/2", error).into_up());
        }
        if !upstream.sees_host {
            request.insert_header(header::HOST, upstream.host.clone())?;
        }
        let assertion = passage.visit.assertion(obligations, &request.method, passage.digest.as_ref());
        let Ok(assertion) = assertion else { return Error::e_explain(InternalError, "no assertion could be made") };
        for (name, value) in obligations.set().iter().chain(&assertion).chain(&passage.visit.trace_fields()) {
            request.insert_header(name.clone(), value.clone())?;
        }
        if passage.digest.is_some() {
            // The body is here already.
            request.remove_header(&header::EXPECT);
        }
        passage.expect_body(session.is_body_done());
        Ok(())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        part: &mut Option<Bytes>,
        is_last: bool,
        passage: &mut Self::CTX,
    ) -> Result<()> {
        // INVARIANT: a body ends once. pingora writes a part with nothing in it as the chunk that ends the body, and the end
        // after it a second time, into what the upstream takes for the next request.
        if is_last && part.as_ref().is_some_and(Bytes::is_empty) {
            *part = None;
        }
        passage.expect_body(is_last);
        let more = part.as_ref().map_or(0, Bytes::len).try_into().unwrap_or(u64::MAX);
        passage.body_bytes = passage.body_bytes.saturating_add(more);
        if session.was_upgraded() {
            return passage.tunnel.pass(session, &passage.visit);
        }
        if passage.visit.may_hold(passage.body_bytes) {
            return Ok(());
        }
        Err(Error::because(InvalidHTTPHeader, "reading a body", ClientError::BodyTooLarge).into_down())
    }

    /// Leaves the client nothing of an answer that was for this hop alone, or that only the upstream is told. pingora frames
    /// what it sends by the length or coding that stays.
    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        passage: &mut Self::CTX,
    ) -> Result<()> {
        let Some(obligations) = &passage.obligations else { return Error::e_explain(InternalError, "not admitted") };
        if !is_interim(response.status) {
            passage.attempts.answered(obligations.pool(), response.status.as_u16());
            passage.visit.answered_by_upstream(response.status.as_u16());
        }
        let switches = response.status == StatusCode::SWITCHING_PROTOCOLS;
        if switches && !(is_upgrade(session) && names_websocket(&response.headers)) {
            return Error::e_explain(InvalidHTTPHeader, "another protocol than was asked for").map_err(|e| e.into_up());
        }
        let headers = &response.headers;
        let is_for_us = |name: &HeaderName| {
            let frames = name == header::TRANSFER_ENCODING || name == header::CONTENT_LENGTH;
            !frames && (nominates(headers, name) || is_for_one_hop(name)) || passage.hides(obligations, name)
        };
        let removed: Vec<HeaderName> = headers.keys().filter(|name| is_for_us(name)).cloned().collect();
        for name in removed {
            response.remove_header(&name);
        }
        if switches {
            response.insert_header(header::CONNECTION, "Upgrade")?;
            response.insert_header(header::UPGRADE, "websocket")?;
            passage.tunnel.open();
        }
        if let Some(fields) = passage.visit.cors() {
            tell_pages(response, fields)?;
        }
        passage.tunnel.pass(session, &passage.visit)
    }

    fn upstream_response_body_filter(
        &self,
        session: &mut Session,
        _: &mut Option<Bytes>,
        _: bool,
        passage: &mut Self::CTX,
    ) -> Result<Option<Duration>> {
        passage.tunnel.pass(session, &passage.visit)?;
        Ok(None)
    }

    /// What is hidden in the head of an answer is hidden behind its body too.
    fn upstream_response_trailer_filter(
        &self,
        _: &mut Session,
        trailers: &mut http::HeaderMap,
        passage: &mut Self::CTX,
    ) -> Result<()> {
        let Some(obligations) = &passage.obligations else { return Error::e_explain(InternalError, "not admitted") };
        for name in named(trailers, |name| passage.hides(obligations, name)) {
            trailers.remove(&name);
        }
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, passage: &mut Self::CTX) -> FailToProxy {
        let refusal = passage.tunnel.ended(&passage.visit, refusal_of(error));
        passage.visit.fail(&refusal);
        if refusal == Refusal::Internal {
            tracing::error!(%error, decision_id = passage.visit.decision_id(), "a request failed inside");
        }
        let answered = final_response(session).is_none() && refusal != Refusal::Client(ClientError::Gone);
        if answered && let Err(error) = answer(session, &refusal, &passage.visit).await {
            tracing::debug!(%error, "a refusal could not be sent");
        }
        FailToProxy { error_code: if answered { refusal.status().as_u16() } else { 0 }, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, passage: &mut Self::CTX) {
        if let Some(response) = final_response(session) {
            passage.visit.answered(response.status.as_u16());
        }
        passage.visit.carried(session.as_ref().body_bytes_read(), session.as_ref().body_bytes_sent());
    }

    /// Every outcome has its decision record; pingora's own lines would repeat it, with the query.
    fn suppress_error_log(&self, _: &Session, _: &Self::CTX, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Self::CTX, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}

impl Passage {
    /// Whether the client is not to see a field of this name of an answer: it is between the upstream and us, or for us to
    /// say.
    fn hides(&self, obligations: &Obligations, name: &HeaderName) -> bool {
        obligations.hides(name) || self.visit.cors().is_some() && speaks_to_pages(name)
    }

    /// More of the body is due, unless it is done.
    fn expect_body(&self, is_done: bool) {
        if let Some(pace) = &self.pace {
            pace.expect((!is_done).then_some(self.visit.limits().client_timeout));
        }
    }
}
