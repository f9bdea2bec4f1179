//! Who is at the other end of a connection, as its listener knows it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::request::certificate::Certificate;

tokio::task_local! {
    /// That of the request which the task serves. The door is called by pingora alone, which hands nothing of ours through.
    static OURS: Arc<Caller>;
}

/// The other end of a connection. Where nothing is known, nobody is there who could be believed.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// Its address.
    pub peer: Option<SocketAddr>,
    /// The load balancer that passed the connection on, and said so.
    pub via: Option<IpAddr>,
    /// The certificate that it was opened with.
    pub certificate: Option<Certificate>,
}

impl Caller {
    /// Runs `serving`, which serves a request of this caller's.
    pub async fn served<T>(self: Arc<Self>, serving: impl Future<Output = T>) -> T {
        OURS.scope(self, serving).await
    }

    /// That of the request which this task serves.
    pub(super) fn ours() -> Arc<Self> {
        OURS.try_with(Arc::clone).unwrap_or_default()
    }
}
