//! The accept loop in front of a door: bounded connections and an exact drain.

use std::{io, net::SocketAddr, os::fd::AsRawFd, sync::Arc, time::Duration};

use pingora_core::{
    apps::ServerApp,
    protocols::{GetSocketDigest, SocketDigest, l4::stream::Stream as L4Stream},
    server::configuration::ServerConf,
};
use pingora_proxy::{HttpProxy, http_proxy};
use prometheus::IntGauge;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{doors::proxy::ProxyDoor, refusal::Refusal};

/// Idle connections kept to the upstream.
const UPSTREAM_IDLE_MAX: usize = 256;

/// A door at work.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    cut_off: CancellationToken,
    task: JoinHandle<()>,
}

impl Listener {
    /// Opens `door` on `listener`.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn start(listener: TcpListener, door: ProxyDoor, connections_max: usize, open: IntGauge) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let configuration = ServerConf {
            // One attempt, and one more when a kept connection turns out to be closed.
            max_retries: 2,
            upstream_keepalive_pool_size: UPSTREAM_IDLE_MAX,
            ..ServerConf::default()
        };
        let proxy = Arc::new(http_proxy(&Arc::new(configuration), door));
        let (stop, stopped) = watch::channel(false);
        let places = Arc::new(Semaphore::new(connections_max));
        let cut_off = CancellationToken::new();
        let task = tokio::spawn(accept(listener, proxy, places, open, stopped, cut_off.clone()));
        Ok(Self { address, stop, cut_off, task })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, closes idle connections, and waits for requests under way, but not longer than `patience`.
    /// When this returns every visit has written its record.
    pub async fn drain(mut self, patience: Duration) {
        let _ = self.stop.send(true);
        if timeout(patience, &mut self.task).await.is_err() {
            tracing::warn!("requests were still under way at the end of the drain and are cut off");
            self.cut_off.cancel();
            let _ = self.task.await;
        }
    }
}

async fn accept(
    listener: TcpListener,
    proxy: Arc<HttpProxy<ProxyDoor>>,
    places: Arc<Semaphore>,
    open: IntGauge,
    mut stopped: watch::Receiver<bool>,
    cut_off: CancellationToken,
) {
    let tracker = TaskTracker::new();
    let shutdown = stopped.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopped.changed() => break,
            accepted = listener.accept() => accepted,
        };
        match (accepted, places.clone().try_acquire_owned()) {
            (Ok((stream, _)), Ok(place)) => {
                open.inc();
                let served = serve(stream, proxy.clone(), shutdown.clone(), place);
                let (open, cut_off) = (open.clone(), cut_off.clone());
                tracker.spawn(async move {
                    tokio::select! { () = served => {}, () = cut_off.cancelled() => {} }
                    open.dec();
                });
            }
            (Ok((stream, _)), Err(_)) => {
                tracker.spawn(turn_away(stream));
            }
            (Err(error), _) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    ServerApp::cleanup(&*proxy).await;
    tracker.close();
    tracker.wait().await;
}

/// Tells a connection beyond the limit that there are too many.
async fn turn_away(mut stream: TcpStream) {
    let refusal = Refusal::Overloaded;
    let after = refusal.retry_after().map_or(0, |after| after.as_secs());
    let status = refusal.status();
    let answer = format!("HTTP/1.1 {status}\r\nretry-after: {after}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let _ = timeout(Duration::from_secs(1), stream.write_all(answer.as_bytes())).await;
}

async fn serve(
    stream: TcpStream,
    proxy: Arc<HttpProxy<ProxyDoor>>,
    shutdown: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    let mut stream: L4Stream = stream.into();
    stream.set_socket_digest(digest);
    let mut next: Option<pingora_core::protocols::Stream> = Some(Box::new(stream));
    while let Some(stream) = next {
        next = proxy.process_new(stream, &shutdown).await;
    }
}
