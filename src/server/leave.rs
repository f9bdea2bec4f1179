//! How the gate stops without losing what is on its way to it.

use std::{io, net::SocketAddr, ops::Range};

use futures_util::FutureExt;
use tokio::{sync::watch, time::sleep};

use super::{
    listener::LINGER,
    socket::{Listening, Socket},
};

/// Connections that the system may have taken before the gate stopped.
pub(super) const BACKLOG: Range<usize> = 0..1024;

/// The next connection. Once the gate has `stopped`, of those in the `backlog`: they would be reset with the socket.
pub(super) async fn next(
    listening: &Listening,
    stopped: &mut watch::Receiver<bool>,
    backlog: &mut Range<usize>,
) -> Option<io::Result<(Socket, Option<SocketAddr>)>> {
    if !*stopped.borrow() {
        tokio::select! {
            biased;
            _ = stopped.changed() => {}
            accepted = listening.accept() => return Some(accepted),
        }
    }
    backlog.next()?;
    listening.accept().now_or_never().filter(Result::is_ok)
}

/// Ends a while after the gate has `stopped`: a connection that is idle then may still begin a request, its last. One may be on its
/// way, and would be lost with the connection.
pub(super) async fn leave(stopped: &watch::Receiver<bool>) {
    let _ = stopped.clone().wait_for(|stopped| *stopped).await;
    sleep(LINGER).await;
}
