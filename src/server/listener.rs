//! The accept loops in front of a door: bounded connections, bounded request heads, and an exact drain.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use pingora_core::{
    apps::HttpServerApp,
    protocols::{http::ServerSession, l4::stream::Stream as L4Stream},
    server::configuration::ServerConf,
};
use pingora_proxy::{HttpProxy, ProxyHttp, http_proxy};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    body::Body,
    crowd::{Counted, Crowd},
    head::{self, HeadLimits, NoHead},
    http2::{self, Client},
    leave::{self, BACKLOG, leave},
    proxy_protocol::{self, NoHeader, Source},
    socket::{Listening, Socket},
    tls::{self, Accepting, Handshake, Tls},
};
use crate::{
    config::Servers,
    doors::{caller::Caller, proxy::ATTEMPTS_MAX},
    metrics::Metrics,
    pipeline::Gate,
    refusal::{Refusal, Refused},
    request::RequestError,
};

/// How long a connection may stay open without a request.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(60);

/// How long a client that was told to go, or should be, may stay without a request.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// Why nothing may be read of a connection.
const REFUSALS: [Refusal; 4] = [
    Refusal::Overloaded,
    Refusal::PeerOverloaded,
    Refusal::Request(RequestError::ProxyUntrusted),
    Refusal::Request(RequestError::ProxyHeaderInvalid),
];

/// Idle connections kept to the upstream.
const UPSTREAM_IDLE_MAX: usize = 256;

/// A place to listen at.
#[derive(Debug)]
pub struct Place {
    /// The socket.
    pub listening: Listening,
    /// How connections come in there.
    pub way: Way,
}

/// How connections come in.
#[derive(Clone, Debug)]
pub struct Way {
    /// TLS, where there is that.
    pub tls: Arc<Tls>,
    /// Whether clients may speak HTTP/2.
    pub http2: bool,
    /// Whether they begin with a header of the PROXY protocol.
    pub proxied: bool,
}

/// What requests are served by.
pub trait Door: ProxyHttp<CTX: Send + Sync> + Send + Sync + 'static {}

impl<D: ProxyHttp<CTX: Send + Sync> + Send + Sync + 'static> Door for D {}

/// What serving a connection takes.
pub(super) struct Desk<D> {
    pub(super) proxy: Arc<HttpProxy<D>>,
    pub(super) gate: Gate,
    /// How many requests are served at once on a connection in HTTP/2.
    pub(super) streams_max: usize,
    /// How many connections may be open, wherever they come in.
    places: Arc<Semaphore>,
    crowd: Crowd,
    metrics: Arc<Metrics>,
    /// Everything that serves.
    pub(super) tracker: TaskTracker,
    pub(super) cut_off: CancellationToken,
}

/// A connection on which a request may come.
struct Opened {
    stream: L4Stream,
    caller: Caller,
    counted: Option<Counted>,
    version: Version,
}

/// The version of HTTP on a connection.
enum Version {
    One,
    Two,
    /// What it begins with tells.
    Told,
}

impl<D> Desk<D> {
    pub(super) fn limits(&self) -> HeadLimits {
        let limits = self.gate.limits();
        HeadLimits { bytes_max: limits.head_bytes_max, duration_max: limits.client_timeout, idle_max: IDLE_MAX }
    }

    /// Whether after so many requests on a connection no other is taken.
    pub(super) fn is_last_request(&self, taken: usize) -> bool {
        self.gate.limits().requests_per_connection_max.is_some_and(|max| taken >= max)
    }

    /// The connection as the proxy takes it, and who is at its other end. Whoever does not speak TLS where that is due is not answered.
    async fn open(
        &self,
        mut socket: Socket,
        peer: Option<SocketAddr>,
        (way, accepting): (&Way, Option<&Arc<Accepting>>),
        body: &Body,
    ) -> Option<Opened> {
        let mut caller = Caller { peer, ..Caller::default() };
        if way.proxied {
            caller = self.introduced(&mut socket, peer).await?;
        }
        let peer = caller.peer;
        // What comes from a proxy itself is from many.
        let is_proxy = peer.is_some_and(|peer| self.gate.trusts(peer.ip()));
        let counted = if is_proxy {
            None
        } else {
            let max = self.gate.limits().connections_per_peer_max.unwrap_or(usize::MAX);
            let Some(counted) = self.crowd.admit(peer.map(|peer| peer.ip()), max) else {
                self.turn_away(socket, peer, accepting.is_some(), &Refusal::PeerOverloaded).await;
                return None;
            };
            Some(counted)
        };
        let Some(accepting) = accepting else {
            let version = if way.http2 { Version::Told } else { Version::One };
            return Some(Opened { stream: body.over(socket).into(), caller, counted, version });
        };
        match timeout(self.limits().duration_max, tls::accept(accepting, socket)).await {
            Ok(Ok(shaken)) => {
                let version = if shaken.http2 { Version::Two } else { Version::One };
                let stream = body.over(shaken.stream).into();
                caller.certificate = shaken.certificate;
                Some(Opened { stream, caller, counted, version })
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "no TLS handshake");
                None
            }
            Err(_) => None,
        }
    }

    /// Whom a connection is from, as the load balancer says that has passed it on; nobody else may say so, or say nothing.
    async fn introduced(&self, socket: &mut Socket, balancer: Option<SocketAddr>) -> Option<Caller> {
        let close = |error: RequestError| {
            let refusal = Refusal::from(error);
            self.metrics.connections_refused(refusal.code()).inc();
            self.gate.refuse(balancer, &refusal, true);
        };
        let Some(address) = balancer.filter(|peer| self.gate.trusts(peer.ip())) else {
            close(RequestError::ProxyUntrusted);
            return None;
        };
        let via = Some(address.ip().to_canonical());
        match timeout(self.limits().duration_max, proxy_protocol::read(socket)).await {
            Ok(Ok(Source::Client(client))) => Some(Caller { peer: Some(client), via, ..Caller::default() }),
            Ok(Ok(Source::Unknown)) => Some(Caller { peer: None, via, ..Caller::default() }),
            Ok(Ok(Source::Itself)) => Some(Caller { peer: balancer, ..Caller::default() }),
            Ok(Err(NoHeader::Nothing)) => None,
            Ok(Err(NoHeader::Malformed)) | Err(_) => {
                close(RequestError::ProxyHeaderInvalid);
                None
            }
        }
    }

    /// Refuses a connection of which nothing is read. Where an answer would have to be in TLS there is none.
    async fn turn_away(&self, socket: Socket, peer: Option<SocketAddr>, in_tls: bool, refusal: &Refusal) {
        self.metrics.connections_refused(refusal.code()).inc();
        let refused = self.gate.refuse(peer, refusal, in_tls);
        if !in_tls {
            answer(socket, refused).await;
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
    /// Opens `door` at `places` as `servers` say. Connections and heads that do not reach it are refused by `gate`.
    pub fn start<D: Door>(places: Vec<Place>, door: D, gate: Gate, servers: &Servers, metrics: Arc<Metrics>) -> Self {
        for code in REFUSALS.map(|refusal| refusal.code()) {
            metrics.connections_refused(code).inc_by(0);
        }
        let configuration = ServerConf {
            max_retries: ATTEMPTS_MAX,
            upstream_keepalive_pool_size: UPSTREAM_IDLE_MAX,
            ..ServerConf::default()
        };
        let proxy = Arc::new(http_proxy(&Arc::new(configuration), door));
        let (tracker, cut_off) = (TaskTracker::new(), CancellationToken::new());
        let (stop, stopped) = watch::channel(false);
        let desk = Arc::new(Desk {
            proxy,
            gate,
            streams_max: servers.streams_max,
            places: Arc::new(Semaphore::new(servers.connections_max)),
            crowd: Crowd::default(),
            metrics,
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

    /// Stops accepting, closes connections that stay idle, and waits for requests under way, but not longer than `patience`.
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
async fn accept<D: Door>(place: Place, desk: Arc<Desk<D>>, mut stopped: watch::Receiver<bool>) {
    let Place { listening, way } = place;
    let shutdown = stopped.clone();
    let mut backlog = BACKLOG;
    while let Some(accepted) = leave::next(&listening, &mut stopped, &mut backlog).await {
        let desk = desk.clone();
        match (accepted, desk.places.clone().try_acquire_owned()) {
            (Ok((socket, peer)), Ok(place)) => {
                desk.metrics.connections().inc();
                let served = serve(socket, peer, way.clone(), place, desk.clone(), shutdown.clone());
                desk.tracker.clone().spawn(async move {
                    tokio::select! { () = served => {}, () = desk.cut_off.cancelled() => {} }
                    desk.metrics.connections().dec();
                });
            }
            (Ok((socket, peer)), Err(_)) => {
                let in_tls = way.tls.handshake().accepting().is_some();
                desk.tracker.clone().spawn(async move {
                    desk.turn_away(socket, peer, in_tls, &Refusal::Overloaded).await;
                });
            }
            (Err(error), _) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves one connection.
async fn serve<D: Door>(
    socket: Socket,
    peer: Option<SocketAddr>,
    way: Way,
    place: OwnedSemaphorePermit,
    desk: Arc<Desk<D>>,
    stopped: watch::Receiver<bool>,
) {
    let (mut handshake, body) = (way.tls.handshake(), Body::default());
    let opened = tokio::select! {
        biased;
        opened = desk.open(socket, peer, (&way, handshake.accepting()), &body) => opened,
        () = leave(&stopped) => return,
    };
    let Some(Opened { stream, caller, counted, version }) = opened else { return };
    let client = Client { caller: Arc::new(caller), counted: (place, counted) };
    if matches!(version, Version::Two) {
        return http2::serve(desk, stream, client, stopped, handshake).await;
    }
    let may_be_http2 = matches!(version, Version::Told);
    if let Some(stream) = serve_http1(&desk, stream, &body, &client, may_be_http2, &stopped, &mut handshake).await {
        http2::serve(desk, stream, client, stopped, handshake).await;
    }
}

/// Serves one connection, request by request. Each head is read here before the proxy parses it. Where the first begins
/// HTTP/2 instead, the connection is given back with it.
async fn serve_http1<D: Door>(
    desk: &Desk<D>,
    mut stream: L4Stream,
    body: &Body,
    client: &Client,
    mut may_be_http2: bool,
    stopped: &watch::Receiver<bool>,
    handshake: &mut Handshake,
) -> Option<L4Stream> {
    let mut taken = 0_usize;
    loop {
        let mut head = Vec::new();
        let begun = tokio::select! {
            biased;
            begun = head::begin(&mut stream, &mut head, desk.limits()) => begun,
            () = leave(stopped) => return None,
            () = handshake.closes(LINGER) => return None,
        };
        let read = async {
            begun?;
            head::finish(&mut stream, &mut head, desk.limits()).await
        };
        let read = tokio::select! {
            biased;
            read = read => read,
            () = leave(stopped) => return None,
            () = handshake.voided() => return None,
        };
        // INVARIANT: no request comes in by a handshake in which the client would now have to show something else.
        if handshake.is_void() {
            return None;
        }
        let refused = |error: RequestError| desk.gate.refuse(client.caller.peer, &error.into(), false);
        match read {
            Ok(()) => {
                if std::mem::take(&mut may_be_http2) && http2::is_begun_by(&head) {
                    stream.rewind(&head);
                    return Some(stream);
                }
                if let Err(error) = body.begin(&head) {
                    answer(stream, refused(error)).await;
                    return None;
                }
                stream.rewind(&head);
            }
            Err(NoHead::Nothing) => return None,
            Err(NoHead::TimedOut) => {
                answer(stream, refused(RequestError::HeadTimedOut)).await;
                return None;
            }
            Err(NoHead::TooLarge) => {
                answer(stream, refused(RequestError::HeadTooLarge)).await;
                return None;
            }
        }
        let mut session = ServerSession::new_http1(Box::new(stream));
        taken = taken.saturating_add(1);
        if desk.is_last_request(taken) || handshake.is_old() {
            session.set_keepalive_reuses_remaining(Some(0));
        }
        let keepalive = if *stopped.borrow() { None } else { Some(IDLE_MAX.as_secs()) };
        session.set_keepalive(keepalive);
        let reused = client.caller.clone().served(desk.proxy.process_new_http(session, stopped)).await?;
        stream = *reused.consume().0.into_any().downcast::<L4Stream>().ok()?;
    }
}

/// Answers, with what the door would say, a connection from which no request is read.
async fn answer(mut stream: impl AsyncWrite + Unpin, refused: Refused) {
    let answer = refused.http1();
    // What is written may wait in a buffer, and be sent only by what ends it.
    let answering = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    let _ = timeout(Duration::from_secs(1), answering).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::BufWriter;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_read_why_nothing_is_read_of_him_is_not_waited_for() {
        let (_client, server) = tokio::io::duplex(1);
        let refused = Refused::new(RequestError::HeadTooLarge.into(), "D1".to_owned());
        let answered = timeout(Duration::from_secs(60), answer(BufWriter::new(server), refused)).await;
        assert!(answered.is_ok(), "it hangs");
    }
}
