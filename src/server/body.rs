//! Looks at the bodies that come in over a connection before the proxy library reads them: where chunks are not what they
//! should be, it reads an error instead.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};

use crate::request::{RequestError, chunks::Chunks, syntax::RawHead, unseen};

/// How much is gathered before it is sent, in bytes: about what a packet takes. The head of an answer and a short body are sent
/// as one.
const GATHERED_BYTES: usize = 1460;

/// The body that is under way on a connection.
#[derive(Clone, Debug, Default)]
pub struct Body(Arc<Mutex<Chunks>>);

impl Body {
    /// Begins with what follows a head, as far as it was read together with it.
    ///
    /// # Errors
    /// [`RequestError`] where that is no head to the letter, no beginning of chunks where it should be, or what a client sends
    /// in another protocol before that has been agreed to.
    pub fn begin(&self, bytes: &[u8]) -> Result<(), RequestError> {
        let head = RawHead::parse(bytes)?;
        unseen::check(&head)?;
        let more = bytes.get(head.bytes()..).unwrap_or_default();
        let protocol = head.field("upgrade");
        if !more.is_empty() && protocol.is_some_and(|it| it.eq_ignore_ascii_case(b"websocket")) {
            return Err(RequestError::UpgradeUnclear);
        }
        let coding = head.field("transfer-encoding");
        if coding.is_some_and(|it| !it.eq_ignore_ascii_case(b"chunked")) {
            return Err(RequestError::FramingConflict);
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = coding.map_or_else(Chunks::default, |_| Chunks::BEGIN);
        self.pass(more)
    }

    fn pass(&self, bytes: &[u8]) -> Result<(), RequestError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pass(bytes)
    }

    /// What is read of `socket`, looked at on its way; what is written is gathered until it is flushed.
    pub fn over<S>(&self, socket: S) -> VirtualSocketStream
    where
        S: AsyncRead + AsyncWrite + std::fmt::Debug + Unpin + Send + Sync + 'static,
    {
        VirtualSocketStream::new(Box::new(Watched { socket: gathering(socket), body: self.clone() }))
    }
}

fn gathering<S: AsyncWrite>(socket: S) -> BufWriter<S> {
    BufWriter::with_capacity(GATHERED_BYTES, socket)
}

#[derive(Debug)]
struct Watched<S> {
    socket: BufWriter<S>,
    body: Body,
}

impl<S: AsyncRead + AsyncWrite + std::fmt::Debug + Unpin + Send + Sync> VirtualSocket for Watched<S> {
    /// They were set when the connection was accepted.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.socket).poll_read(context, buffer))?;
        let conflict = this.body.pass(buffer.filled().get(before..).unwrap_or_default());
        if conflict.is_err() {
            buffer.set_filled(before);
        }
        Poll::Ready(conflict.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Notes each write.
    #[derive(Debug, Default)]
    struct Noting(Vec<Vec<u8>>);

    impl AsyncRead for Noting {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Noting {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.get_mut().0.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_head_and_a_short_body_are_sent_as_one_and_nothing_waits_once_it_is_flushed() {
        let mut watched = Watched { socket: gathering(Noting::default()), body: Body::default() };
        watched.write_all(b"head").await.unwrap();
        watched.write_all(b"body").await.unwrap();
        assert_eq!(watched.socket.get_ref().0, Vec::<Vec<u8>>::new());
        watched.flush().await.unwrap();
        let large = vec![b'a'; 2 * GATHERED_BYTES];
        watched.write_all(&large).await.unwrap();
        assert_eq!(watched.socket.get_ref().0, [b"headbody".to_vec(), large]);
    }
}
