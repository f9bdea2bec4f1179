//! What clients are answered, and what they are answered here.

use bytes::Bytes;
use http::{StatusCode, header};
use pingora_core::{Result, protocols::http::ServerSession};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::{
    pages::Page,
    pipeline::Visit,
    refusal::{GRPC, Refusal, is_grpc},
    request::cors::CorsFields,
};

/// The answer that was begun, if any: 100 Continue and its like are none. After 101 there is no other.
pub(super) fn final_response(session: &Session) -> Option<&ResponseHeader> {
    session.response_written().filter(|response| !is_interim(response.status))
}

/// Whether another answer follows one of this status.
pub(super) fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

/// Answers with a refusal. A request body that was not read closes the connection, which pingora sees to.
pub(super) async fn answer(session: &mut Session, refusal: &Refusal, visit: &Visit) -> Result<()> {
    let body = Bytes::from(refusal.problem(visit.decision_id()).to_json());
    let mut response = ResponseHeader::build(refusal.status(), Some(8))?;
    response.insert_header(header::CONTENT_TYPE, "application/problem+json")?;
    response.insert_header(header::CONTENT_LENGTH, body.len())?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    if let Some(challenge) = visit.challenge(refusal) {
        response.insert_header(header::WWW_AUTHENTICATE, challenge)?;
    }
    if let Some(nonce) = refusal.nonce() {
        response.insert_header("dpop-nonce", nonce.as_str())?;
    }
    if let Some(after) = refusal.retry_after_s() {
        response.insert_header(header::RETRY_AFTER, after)?;
    }
    if let Some(fields) = visit.cors() {
        tell_pages(&mut response, fields)?;
    }
    if matches!(refusal, Refusal::Request(_)) {
        // Where the head has two readings, nobody can say where the next request begins.
        session.set_keepalive(None);
    }
    let is_grpc = is_grpc(&session.req_header().headers);
    if let (true, ServerSession::H2(stream)) = (is_grpc, session.as_downstream_mut()) {
        // Its clients read the status in the only head, and take a body behind it for a fault of the connection.
        response.remove_header(&header::CONTENT_LENGTH);
        response.insert_header(header::CONTENT_TYPE, GRPC)?;
        response.insert_header("grpc-status", u32::from(refusal.grpc_status()))?;
        response.insert_header("grpc-message", refusal.grpc_message(visit.decision_id()))?;
        return stream.write_response_header(Box::new(response), true);
    }
    let bodiless = session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(response), bodiless).await?;
    if !bodiless {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

/// Tells a browser that a page may have a request made.
pub(super) async fn answer_preflight(session: &mut Session, fields: &CorsFields) -> Result<()> {
    let mut response = ResponseHeader::build(StatusCode::NO_CONTENT, Some(6))?;
    tell_pages(&mut response, fields)?;
    session.write_response_header(Box::new(response), true).await
}

/// Answers with a page of the gate's own.
pub(super) async fn answer_page(session: &mut Session, page: &Page) -> Result<()> {
    let mut response = ResponseHeader::build(StatusCode::OK, Some(6))?;
    for (name, value) in page.fields() {
        response.insert_header(name.clone(), value.clone())?;
    }
    let bodiless = session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(response), bodiless).await?;
    if !bodiless {
        session.write_response_body(Some(Bytes::copy_from_slice(page.body().as_bytes())), true).await?;
    }
    Ok(())
}

/// Adds `fields` to an answer.
pub(super) fn tell_pages(response: &mut ResponseHeader, fields: &CorsFields) -> Result<()> {
    for (name, value) in fields.iter() {
        response.append_header(name.clone(), value.clone())?;
    }
    Ok(())
}
