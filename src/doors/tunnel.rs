//! What passes once the upstream has agreed to another protocol: bytes both ways, of which nobody knows what they ask for. They
//! pass for as long as the request could still be made: its token has not expired, and is not denied.

use pingora_core::{Error, ErrorType::ConnectionClosed, Result};
use pingora_proxy::Session;

use crate::{
    pipeline::Visit,
    refusal::{ClientError, Refusal},
};

/// A switch of protocols.
#[derive(Debug, Default)]
pub(super) struct Tunnel {
    is_open: bool,
    /// Why it was closed.
    closed: Option<Refusal>,
}

impl Tunnel {
    /// The upstream has agreed.
    pub(super) const fn open(&mut self) {
        self.is_open = true;
    }

    /// Something passes, or may from now on.
    ///
    /// # Errors
    /// Where nothing more may: the connection is closed.
    pub(super) fn pass(&mut self, session: &mut Session, visit: &Visit) -> Result<()> {
        if !self.is_open {
            return Ok(());
        }
        match visit.holds_for() {
            // The client is waited for until then, and not longer than it may be silent.
            Ok(left) => session.set_read_timeout(Some(left.min(visit.limits().tunnel_idle))),
            Err(refusal) => {
                self.closed = Some(refusal);
                return Err(Error::explain(ConnectionClosed, "the token holds no longer").into_down());
            }
        }
        Ok(())
    }

    /// What an error comes to, where it ends a tunnel.
    pub(super) fn ended(&self, visit: &Visit, refusal: Refusal) -> Refusal {
        match (&self.closed, refusal) {
            (Some(why), _) => why.clone(),
            (None, Refusal::Client(ClientError::BodyTimedOut)) if self.is_open => {
                visit.holds_for().err().unwrap_or_else(|| ClientError::TunnelIdle.into())
            }
            (None, refusal) => refusal,
        }
    }
}
