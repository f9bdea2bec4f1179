//! The accept loops in front of a door: bounded connections, bounded request heads, and an exact drain.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use pingora_core::{
    apps::HttpServerApp,
    protocols::{
        GetSocketDigest, SocketDigest,
        http::ServerSession,
        l4::{socket::SocketAddr as PeerAddress, stream::Stream as L4Stream},
        tls::SslDigest,
    },
    server::configuration::ServerConf,
};
use pingora_proxy::{HttpProxy, http_proxy};
use prometheus::IntGauge;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    body::Body,
    head::{self, HeadLimits, NoHead},
    http2::{self, Client},
    socket::{Listening, Socket, descriptor},
    tls::{self, Accepting, CertificateDigest, Tls},
};
use crate::{
    config::Servers,
    doors::proxy::{ATTEMPTS_MAX, ProxyDoor},
    pipeline::Gate,
    refusal::{Refusal, Refused},
    request::RequestError,
};

/// How long a connection may stay open without a request.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(60);

/// Idle connections kept to the upstream.
const UPSTREAM_IDLE_MAX: usize = 256;

/// A place to listen at, and how.
#[derive(Debug)]
pub struct Place {
    /// The socket.
    pub listening: Listening,
    /// TLS, where there is that.
    pub tls: Arc<Tls>,
    /// Whether clients may speak HTTP/2.
    pub http2: bool,
}

/// What serving a connection takes.
pub(super) struct Desk {
    pub(super) proxy: Arc<HttpProxy<ProxyDoor>>,
    pub(super) gate: Gate,
    /// How many requests are served at once on a connection in HTTP/2.
    pub(super) streams_max: usize,
    /// How many connections may be open, wherever they come in.
    places: Arc<Semaphore>,
    open: IntGauge,
    /// Everything that serves.
    pub(super) tracker: TaskTracker,
    pub(super) cut_off: CancellationToken,
}

/// A connection that was accepted.
struct Accepted {
    socket: Socket,
    peer: Option<SocketAddr>,
    tls: Arc<Tls>,
    http2: bool,
    place: OwnedSemaphorePermit,
}

/// A connection on which a request may come.
struct Opened {
    stream: L4Stream,
    /// The client's certificate, if it has shown one.
    certificate: Option<Arc<SslDigest>>,
    version: Version,
}

/// The version of HTTP on a connection.
enum Version {
    One,
    Two,
    /// What it begins with tells.
    Told,
}

impl Desk {
    pub(super) fn limits(&self) -> HeadLimits {
        let limits = self.gate.limits();
        HeadLimits { bytes_max: limits.head_bytes_max, duration_max: limits.client_timeout, idle_max: IDLE_MAX }
    }

    /// The connection as the proxy takes it. Whoever does not speak TLS where that is due is not answered.
    async fn open(
        &self,
        socket: Socket,
        accepting: Option<Arc<Accepting>>,
        http2: bool,
        body: &Body,
    ) -> Option<Opened> {
        let Some(accepting) = accepting else {
            let version = if http2 { Version::Told } else { Version::One };
            return Some(Opened { stream: body.over(socket).into(), certificate: None, version });
        };
        match timeout(self.limits().duration_max, tls::accept(&accepting, socket)).await {
            Ok(Ok(shaken)) => {
                let known = |digest: CertificateDigest| Arc::new(SslDigest::new("", "", None, None, digest.into()));
                let version = if shaken.http2 { Version::Two } else { Version::One };
                let stream = body.over(shaken.stream).into();
                Some(Opened { stream, certificate: shaken.certificate.map(known), version })
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "no TLS handshake");
                None
            }
            Err(_) => None,
        }
    }
}

/// A door at work, wherever it listens.
#[derive(Debug)]
pub struct Listener {
    stop: watch::Sender<bool>,
    cut_off: CancellationToken,
    task: JoinHandle<()>,
}

impl Listener {
    /// Opens `door` at `places` as `servers` say.
    pub fn start(places: Vec<Place>, door: ProxyDoor, servers: &Servers, open: IntGauge) -> Self {
        let configuration = ServerConf {
            max_retries: ATTEMPTS_MAX,
            upstream_keepalive_pool_size: UPSTREAM_IDLE_MAX,
            ..ServerConf::default()
        };
        let gate = door.gate().clone();
        let proxy = Arc::new(http_proxy(&Arc::new(configuration), door));
        let (tracker, cut_off) = (TaskTracker::new(), CancellationToken::new());
        let (stop, stopped) = watch::channel(false);
        let desk = Arc::new(Desk {
            proxy,
            gate,
            streams_max: servers.streams_max,
            places: Arc::new(Semaphore::new(servers.connections_max)),
            open,
            tracker,
            cut_off: cut_off.clone(),
        });
        let task = tokio::spawn(async move {
            let mut accepting = JoinSet::new();
            for place in places {
                accepting.spawn(accept(place, desk.clone(), stopped.clone()));
            }
            accepting.join_all().await;
            HttpServerApp::http_cleanup(&*desk.proxy).await;
            desk.tracker.close();
            desk.tracker.wait().await;
        });
        Self { stop, cut_off, task }
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

/// Accepts connections at `place` until `stopped` says no more.
async fn accept(place: Place, desk: Arc<Desk>, mut stopped: watch::Receiver<bool>) {
    let Place { listening, tls, http2 } = place;
    let shutdown = stopped.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopped.changed() => break,
            accepted = listening.accept() => accepted,
        };
        match (accepted, desk.places.clone().try_acquire_owned()) {
            (Ok((socket, peer)), Ok(place)) => {
                desk.open.inc();
                let accepted = Accepted { socket, peer, tls: tls.clone(), http2, place };
                let served = serve(accepted, desk.clone(), shutdown.clone());
                let (open, cut_off) = (desk.open.clone(), desk.cut_off.clone());
                desk.tracker.spawn(async move {
                    tokio::select! { () = served => {}, () = cut_off.cancelled() => {} }
                    open.dec();
                });
            }
            (Ok((socket, peer)), Err(_)) => {
                let refused = desk.gate.refuse(peer, &Refusal::Overloaded);
                desk.tracker.spawn(turn_away(socket, refused));
            }
            (Err(error), _) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves one connection.
async fn serve(accepted: Accepted, desk: Arc<Desk>, mut stopped: watch::Receiver<bool>) {
    let Accepted { socket, peer, tls, http2, place } = accepted;
    let digest = SocketDigest::from_raw_fd(descriptor(&socket));
    // INVARIANT: the peer is who is known here, and not what the library finds out about the socket.
    let _ = digest.peer_addr.set(peer.map(PeerAddress::Inet));
    let (mut tls, body) = (tls.subscribe(), Body::default());
    let accepting = tls.borrow_and_update().clone();
    let opened = tokio::select! {
        biased;
        opened = desk.open(socket, accepting, http2, &body) => opened,
        _ = stopped.changed() => return,
    };
    let Some(Opened { mut stream, certificate, version }) = opened else { return };
    stream.set_socket_digest(digest);
    let client = Client { peer, certificate, place };
    if matches!(version, Version::Two) {
        return http2::serve(desk, stream, client, stopped, tls).await;
    }
    let may_be_http2 = matches!(version, Version::Told);
    if let Some(stream) = serve_http1(&desk, stream, &body, &client, may_be_http2, &mut stopped, &mut tls).await {
        http2::serve(desk, stream, client, stopped, tls).await;
    }
}

/// Serves one connection, request by request. Each head is read here before the proxy parses it. Where the first begins
/// HTTP/2 instead, the connection is given back with it.
async fn serve_http1(
    desk: &Desk,
    mut stream: L4Stream,
    body: &Body,
    client: &Client,
    mut may_be_http2: bool,
    stopped: &mut watch::Receiver<bool>,
    tls: &mut watch::Receiver<Option<Arc<Accepting>>>,
) -> Option<L4Stream> {
    loop {
        let head = tokio::select! {
            biased;
            head = head::read(&mut stream, desk.limits()) => head,
            _ = stopped.changed() => return None,
            _ = tls.changed() => return None,
        };
        // INVARIANT: no request comes in by a handshake that would now go otherwise.
        if tls.has_changed().unwrap_or(true) {
            return None;
        }
        let refused = |error: RequestError| desk.gate.refuse(client.peer, &error.into());
        match head {
            Ok(head) => {
                if std::mem::take(&mut may_be_http2) && http2::is_begun_by(&head) {
                    stream.rewind(&head);
                    return Some(stream);
                }
                if let Err(error) = body.begin(&head) {
                    turn_away(stream, refused(error)).await;
                    return None;
                }
                stream.rewind(&head);
            }
            Err(NoHead::Nothing) => return None,
            Err(NoHead::TimedOut) => {
                turn_away(stream, refused(RequestError::HeadTimedOut)).await;
                return None;
            }
            Err(NoHead::TooLarge) => {
                turn_away(stream, refused(RequestError::HeadTooLarge)).await;
                return None;
            }
        }
        let mut session = ServerSession::new_http1(Box::new(stream));
        if let (Some(certificate), Some(digest)) = (&client.certificate, session.digest_mut()) {
            digest.ssl_digest = Some(certificate.clone());
        }
        let keepalive = if *stopped.borrow() { None } else { Some(IDLE_MAX.as_secs()) };
        session.set_keepalive(keepalive);
        let reused = desk.proxy.process_new_http(session, stopped).await?;
        stream = *reused.consume().0.into_any().downcast::<L4Stream>().ok()?;
    }
}

/// Answers, with what the door would say, a connection from which no request is read.
async fn turn_away(mut stream: impl AsyncWrite + Unpin, refused: Refused) {
    let answer = refused.http1();
    let _ = timeout(Duration::from_secs(1), stream.write_all(answer.as_bytes())).await;
    let _ = stream.shutdown().await;
}
