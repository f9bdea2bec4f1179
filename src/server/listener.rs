//! The accept loop in front of a door: bounded connections, bounded request heads, and an exact drain.

use std::{io, net::SocketAddr, os::fd::AsRawFd, sync::Arc, time::Duration};

use pingora_core::{
    apps::HttpServerApp,
    protocols::{GetSocketDigest, SocketDigest, http::ServerSession, l4::stream::Stream as L4Stream, tls::SslDigest},
    server::configuration::ServerConf,
};
use pingora_proxy::{HttpProxy, http_proxy};
use prometheus::IntGauge;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    body::Body,
    head::{self, HeadLimits, NoHead},
    tls::{self, Accepting, CertificateDigest, Tls},
};
use crate::{
    doors::proxy::ProxyDoor,
    pipeline::Gate,
    refusal::{Refusal, Refused},
    request::RequestError,
};

/// How long a connection may stay open without a request.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Idle connections kept to the upstream.
const UPSTREAM_IDLE_MAX: usize = 256;

/// What serving a connection takes.
struct Desk {
    proxy: Arc<HttpProxy<ProxyDoor>>,
    gate: Gate,
    tls: Arc<Tls>,
}

impl Desk {
    fn limits(&self) -> HeadLimits {
        let limits = self.gate.limits();
        HeadLimits { bytes_max: limits.head_bytes_max, duration_max: limits.client_timeout, idle_max: IDLE_MAX }
    }

    /// The connection as the proxy takes it, and the client's certificate, if it has shown one. Whoever does not speak TLS
    /// where that is due is not answered.
    async fn open(
        &self,
        stream: TcpStream,
        accepting: Option<Arc<Accepting>>,
        body: &Body,
    ) -> Option<(L4Stream, Option<Arc<SslDigest>>)> {
        let Some(accepting) = accepting else { return Some((body.over(stream).into(), None)) };
        match timeout(self.limits().duration_max, tls::accept(&accepting, stream)).await {
            Ok(Ok((stream, certificate))) => {
                let known = |digest: CertificateDigest| Arc::new(SslDigest::new("", "", None, None, digest.into()));
                Some((body.over(stream).into(), certificate.map(known)))
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "no TLS handshake");
                None
            }
            Err(_) => None,
        }
    }
}

/// A door at work.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    cut_off: CancellationToken,
    task: JoinHandle<()>,
}

impl Listener {
    /// Opens `door` on `listener`, behind `tls` where there is that.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn start(
        listener: TcpListener,
        tls: Arc<Tls>,
        door: ProxyDoor,
        connections_max: usize,
        open: IntGauge,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let configuration = ServerConf {
            // One attempt, and one more when a kept connection turns out to be closed.
            max_retries: 2,
            upstream_keepalive_pool_size: UPSTREAM_IDLE_MAX,
            ..ServerConf::default()
        };
        let gate = door.gate().clone();
        let proxy = Arc::new(http_proxy(&Arc::new(configuration), door));
        let desk = Arc::new(Desk { proxy, gate, tls });
        let (stop, stopped) = watch::channel(false);
        let places = Arc::new(Semaphore::new(connections_max));
        let cut_off = CancellationToken::new();
        let task = tokio::spawn(accept(listener, desk, places, open, stopped, cut_off.clone()));
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
    desk: Arc<Desk>,
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
                let served = serve(stream, desk.clone(), shutdown.clone(), place);
                let (open, cut_off) = (open.clone(), cut_off.clone());
                tracker.spawn(async move {
                    tokio::select! { () = served => {}, () = cut_off.cancelled() => {} }
                    open.dec();
                });
            }
            (Ok((stream, _)), Err(_)) => {
                let refused = desk.gate.refuse(stream.peer_addr().ok(), &Refusal::Overloaded);
                tracker.spawn(turn_away(stream, refused));
            }
            (Err(error), _) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    HttpServerApp::http_cleanup(&*desk.proxy).await;
    tracker.close();
    tracker.wait().await;
}

/// Serves one connection, request by request. Each head is read here before the proxy parses it.
async fn serve(stream: TcpStream, desk: Arc<Desk>, mut stopped: watch::Receiver<bool>, _place: OwnedSemaphorePermit) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let peer = stream.peer_addr().ok();
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    let (mut tls, body) = (desk.tls.subscribe(), Body::default());
    let accepting = tls.borrow_and_update().clone();
    let opened = tokio::select! {
        biased;
        opened = desk.open(stream, accepting, &body) => opened,
        _ = stopped.changed() => return,
    };
    let Some((mut stream, certificate)) = opened else { return };
    stream.set_socket_digest(digest);
    loop {
        let head = tokio::select! {
            biased;
            head = head::read(&mut stream, desk.limits()) => head,
            _ = stopped.changed() => return,
            _ = tls.changed() => return,
        };
        // INVARIANT: no request comes in by a handshake that would now go otherwise.
        if tls.has_changed().unwrap_or(true) {
            return;
        }
        match head {
            Ok(head) => match body.begin(&head) {
                Ok(()) => stream.rewind(&head),
                Err(error) => return turn_away(stream, desk.gate.refuse(peer, &error.into())).await,
            },
            Err(NoHead::Nothing) => return,
            Err(NoHead::TimedOut) => {
                return turn_away(stream, desk.gate.refuse(peer, &RequestError::HeadTimedOut.into())).await;
            }
            Err(NoHead::TooLarge) => {
                return turn_away(stream, desk.gate.refuse(peer, &RequestError::HeadTooLarge.into())).await;
            }
        }
        let mut session = ServerSession::new_http1(Box::new(stream));
        if let (Some(certificate), Some(digest)) = (&certificate, session.digest_mut()) {
            digest.ssl_digest = Some(certificate.clone());
        }
        let keepalive = if *stopped.borrow() { None } else { Some(IDLE_MAX.as_secs()) };
        session.set_keepalive(keepalive);
        let Some(reused) = desk.proxy.process_new_http(session, &stopped).await else { return };
        match reused.consume().0.into_any().downcast::<L4Stream>() {
            Ok(kept) => stream = *kept,
            Err(_) => return,
        }
    }
}

/// Answers, with what the door would say, a connection from which no request is read.
async fn turn_away(mut stream: impl AsyncWrite + Unpin, refused: Refused) {
    let answer = refused.http1();
    let _ = timeout(Duration::from_secs(1), stream.write_all(answer.as_bytes())).await;
    let _ = stream.shutdown().await;
}
