//! What can go wrong with a request that was allowed.

/// What can go wrong behind us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// No connection.
    #[error("the upstream cannot be reached")]
    Unreachable,
    /// Each of its servers is unwell, or left alone for a while.
    #[error("no server of the upstream is available")]
    Unavailable,
    /// As many requests are under way to it as may be.
    #[error("the upstream has as many requests as it may have")]
    Busy,
    /// No answer in time.
    #[error("the upstream did not answer in time")]
    TimedOut,
    /// An answer that is not HTTP, or broke off.
    #[error("the upstream's answer is not valid")]
    Invalid,
}

/// What can go wrong before us, once a request has been allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The body did not come in time.
    #[error("the request body did not come in time")]
    BodyTimedOut,
    /// The body is larger than the route lets it be.
    #[error("the request body is too large")]
    BodyTooLarge,
    /// The body is not framed as announced, `Connection` names a field that must stay, or more was sent than one
    /// request.
    #[error("the request is not one that can be sent on")]
    RequestInvalid,
    /// Nothing came for long after a switch of protocols.
    #[error("the client was silent for too long")]
    TunnelIdle,
    /// The client went away.
    #[error("the client went away")]
    Gone,
}
