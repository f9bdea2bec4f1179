//! A body that is read whole before anything of its request goes on, for its digest stands in the head. pingora keeps what
//! was read, for another try, and sends it from there.

use aws_lc_rs::digest::{Context, SHA256};
use http::{Version, header};
use pingora_core::{
    Error,
    ErrorType::{InternalError, InvalidHTTPHeader},
    Result,
};
use pingora_proxy::Session;

use crate::{pipeline::Visit, refusal::ClientError};

/// Reads it, and gives its SHA-256; `due` is called while more of it is to come.
pub(super) async fn read(session: &mut Session, visit: &Visit, due: impl Fn(bool)) -> Result<[u8; 32]> {
    session.as_mut().enable_retry_buffering();
    let waits = session.req_header().headers.contains_key(header::EXPECT);
    if waits && session.req_header().version == Version::HTTP_11 && !session.is_body_done() {
        session.as_mut().write_continue_response().await?;
    }
    let (mut digest, mut bytes) = (Context::new(&SHA256), 0_u64);
    while !session.is_body_done() {
        due(true);
        let part = session.as_mut().read_request_body().await.map_err(|error| error.into_down())?;
        let Some(part) = part else { break };
        bytes = bytes.saturating_add(part.len().try_into().unwrap_or(u64::MAX));
        if !visit.may_hold(bytes) {
            return Err(Error::because(InvalidHTTPHeader, "reading a body", ClientError::BodyTooLarge).into_down());
        }
        digest.update(&part);
    }
    due(false);
    // INVARIANT: what was read is what is sent.
    if session.as_ref().retry_buffer_truncated() {
        return Error::e_explain(InternalError, "a body was not kept whole");
    }
    let mut whole = [0; 32];
    whole.copy_from_slice(digest.finish().as_ref());
    Ok(whole)
}
