//! HTTP/2 from clients (RFC 9113): bounded in what a connection may hold, and each stream a visit of its own.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{Reason, server::Connection};
use pingora_core::{
    apps::HttpServerApp,
    protocols::{
        Digest, Stream,
        http::{
            ServerSession,
            v2::server::{self, H2Accept, H2Options, HttpSession},
        },
        l4::{stream::Stream as L4Stream, virt::VirtualSocketStream},
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{sleep, timeout},
};

use super::{
    crowd::Counted,
    leave::leave,
    listener::{Desk, Door, IDLE_MAX, LINGER},
    stall::Impatient,
    tls::Handshake,
};
use crate::{
    doors::{caller::Caller, pace::Pace},
    refusal::ClientError,
};

/// What a client that knows beforehand begins a connection in the clear with, as far as its first empty line (RFC 9113
/// section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// Bytes of bodies that are under way to us: on a stream, and on a connection.
const WINDOWS: (u32, u32) = (64 * 1024, 1024 * 1024);

/// Bytes of an answer that wait for the client, on a stream.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Malformed requests on a connection.
const FAULTS_MAX: usize = 100;

/// Streams on a connection that were reset and are remembered: by us for a second, and by the client before they were taken.
const RESETS_MAX: (usize, usize) = (50, 20);

/// The whole bytes of a header list, where `head` are those of a head: the list counts 32 more for each field, and a head
/// that is a little too large is to be refused by the gate, with a record.
fn header_list_bytes_max(head: usize) -> u32 {
    u32::try_from(head.saturating_mul(2)).unwrap_or(u32::MAX)
}

/// Whether a head begins HTTP/2 instead.
pub(super) fn is_begun_by(head: &[u8]) -> bool {
    head.starts_with(PREFACE)
}

/// Who is at the other end of a connection.
pub(super) struct Client {
    pub(super) caller: Arc<Caller>,
    /// Held until its last stream is served.
    #[expect(dead_code, reason = "held, not read")]
    pub(super) counted: (OwnedSemaphorePermit, Option<Counted>),
}

/// A connection at work.
struct Line<D> {
    desk: Arc<Desk<D>>,
    client: Client,
    /// How many streams are served.
    open: watch::Sender<usize>,
}

/// A stream that is served.
struct Served<D>(Arc<Line<D>>);

impl<D> Drop for Served<D> {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open = open.saturating_sub(1));
    }
}

/// What comes next on a connection.
enum Event {
    /// A request.
    Stream(Box<HttpSession>),
    /// One that has no one reading, refused by the library: two authorities, or none, or an absolute `:path`.
    Refused,
    /// The client is to be told to go.
    Leave,
    /// Nothing more.
    End,
}

impl<D: Door> Line<D> {
    /// What the client does next. The connection is kept going, but no request is taken while as many are served as may be:
    /// those that a client has reset may still be.
    async fn next(&self, connection: &mut Connection<Stream, Bytes>, digest: &Arc<Digest>) -> Event {
        tokio::select! {
            biased;
            () = self.open_is(|open| open < self.desk.streams_max) => {}
            _ = poll_fn(|context| connection.poll_closed(context)) => return Event::End,
        }
        match HttpSession::from_h2_conn(connection, digest.clone()).await {
            Ok(Some(H2Accept::Session(session))) => Event::Stream(Box::new(session)),
            Ok(Some(H2Accept::Rejected)) => Event::Refused,
            Ok(None) => Event::End,
            Err(error) => {
                tracing::debug!(%error, "an HTTP/2 connection failed");
                Event::End
            }
        }
    }

    async fn open_is(&self, wanted: impl Fn(usize) -> bool) {
        drop(self.open.subscribe().wait_for(|open| wanted(*open)).await);
    }

    /// Ends when no stream has been served for as long as `patience`.
    async fn idle(&self, patience: Duration) {
        self.open_is(|open| open == 0).await;
        sleep(patience).await;
    }

    /// Serves a request beside others. Its record is written before the tracker is quiet.
    fn serve(self: &Arc<Self>, session: HttpSession, stopped: &watch::Receiver<bool>) {
        self.open.send_modify(|open| *open = open.saturating_add(1));
        let (served, stopped, caller) = (Served(self.clone()), stopped.clone(), self.client.caller.clone());
        self.desk.tracker.spawn(async move {
            let desk = &served.0.desk;
            let visit = desk.proxy.process_new_http(ServerSession::new_http2(session), &stopped);
            tokio::select! { _ = Pace::keep(caller.served(visit)) => {}, () = desk.cut_off.cancelled() => {} }
        });
    }
}

/// Serves one connection, stream by stream, until it ends, is idle for long, or `stopped` or `handshake` says that it must end:
/// then the client is told so, and what is under way is finished.
pub(super) async fn serve<D: Door>(
    desk: Arc<Desk<D>>,
    stream: L4Stream,
    client: Client,
    mut stopped: watch::Receiver<bool>,
    mut handshake: Handshake,
) {
    let digest = Arc::new(Digest::default());
    let limits = desk.limits();
    let stream = VirtualSocketStream::new(Box::new(Impatient::new(stream, limits.duration_max)));
    let stream: Stream = Box::new(L4Stream::from(stream));
    let shaken = server::handshake(stream, Some(options(limits.bytes_max, desk.streams_max)));
    let shaken = async { timeout(limits.duration_max, shaken).await.ok()?.ok() };
    let connection = tokio::select! { biased; shaken = shaken => shaken, () = leave(&stopped) => None };
    let Some(mut connection) = connection else { return };
    let line = Arc::new(Line { desk, client, open: watch::Sender::new(0) });
    let (mut leaving, mut outdated, mut faults, mut taken) = (false, false, 0_usize, 0_usize);
    loop {
        let event = tokio::select! {
            biased;
            _ = stopped.changed(), if !leaving => Event::Leave,
            () = handshake.changed(), if !outdated => {
                outdated = true;
                Event::Leave
            }
            event = line.next(&mut connection, &digest) => event,
            () = line.idle(if leaving { LINGER } else { IDLE_MAX }) => if leaving { Event::End } else { Event::Leave },
        };
        match event {
            // INVARIANT: no request comes in by a handshake that would now go otherwise; what is refused so may be sent again.
            Event::Stream(mut session) if outdated || handshake.is_old() => {
                session.shutdown_with_reason(Reason::REFUSED_STREAM);
            }
            // Those that come after the last are not begun: whoever sent them may send them elsewhere.
            Event::Stream(mut session) if line.desk.is_last_request(taken) => {
                session.shutdown_with_reason(Reason::REFUSED_STREAM);
            }
            Event::Stream(session) => {
                line.serve(*session, &stopped);
                taken = taken.saturating_add(1);
                if line.desk.is_last_request(taken) && !leaving {
                    connection.graceful_shutdown();
                    leaving = true;
                }
            }
            Event::Refused => {
                line.desk.gate.refuse(line.client.caller.peer, &ClientError::RequestInvalid.into(), false);
                faults = faults.saturating_add(1);
                if faults >= FAULTS_MAX {
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    leaving = true;
                }
            }
            Event::Leave => {
                connection.graceful_shutdown();
                leaving = true;
            }
            Event::End => return,
        }
    }
}

/// Bounds on what a connection holds. Whatever else can flood it (`CONTINUATION`, `SETTINGS`, `PING`, `DATA` without data) the
/// library bounds by itself.
fn options(head_bytes_max: usize, streams_max: usize) -> H2Options {
    let mut options = H2Options::new();
    options
        .max_header_list_size(header_list_bytes_max(head_bytes_max))
        .max_concurrent_streams(u32::try_from(streams_max).unwrap_or(u32::MAX))
        .initial_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_send_buffer_size(ANSWER_BYTES_MAX)
        .max_concurrent_reset_streams(RESETS_MAX.0)
        .max_pending_accept_reset_streams(RESETS_MAX.1)
        .max_local_error_reset_streams(Some(FAULTS_MAX));
    options
}
