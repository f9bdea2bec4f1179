//! What pingora's errors come to.

use std::io;

use pingora_core::{
    Error, ErrorSource,
    ErrorType::{
        ConnectError, ConnectNoRoute, ConnectRefused, ConnectTimedout, ConnectionClosed, H2Error, InvalidCert,
        ReadError, ReadTimedout, SocketError, TLSHandshakeFailure, TLSHandshakeTimedout, WriteError, WriteTimedout,
    },
};

use crate::refusal::{ClientError, Refusal, UpstreamError};

/// Whether the body was stopped for how it is framed.
fn is_misframed(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::InvalidData)
}

/// What an error between admission and the end of the answer comes to.
pub(super) fn refusal_of(error: &Error) -> Refusal {
    let cause = error.root_cause();
    let ours = cause.downcast_ref::<UpstreamError>().map(|error| Refusal::from(*error));
    if let Some(refusal) = ours.or_else(|| cause.downcast_ref::<ClientError>().map(|error| Refusal::from(*error))) {
        return refusal;
    }
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
