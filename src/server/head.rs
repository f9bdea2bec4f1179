//! Reads a whole HTTP/1.x request head before the proxy library sees a byte of it: bounded in size and in time, from
//! its first byte to its last. The library itself would take a megabyte, a byte a minute.

use std::time::Duration;

use memchr::memchr_iter;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

/// Bounds on a head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of the head.
    pub bytes_max: usize,
    /// From its first byte to its last.
    pub duration_max: Duration,
    /// How long a connection may stay without a first byte.
    pub idle_max: Duration,
}

/// Why there is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHead {
    /// The connection ended, or nothing came at all.
    Nothing,
    /// It began and did not end in time.
    TimedOut,
    /// It is larger than it may be.
    TooLarge,
}

/// How much is read at once, in bytes.
const READ_BYTES: usize = 4096;

/// Waits for the first bytes of a head; nothing is lost where that is given up.
///
/// # Errors
/// [`NoHead::Nothing`].
pub async fn begin(
    stream: &mut (impl AsyncRead + Unpin),
    head: &mut Vec<u8>,
    limits: HeadLimits,
) -> Result<(), NoHead> {
    head.reserve(READ_BYTES);
    match timeout(limits.idle_max, stream.read_buf(head)).await {
        Ok(Ok(1..)) => Ok(()),
        _ => Err(NoHead::Nothing),
    }
}

/// Reads on until `head` is whole. What was read may go on beyond its end.
///
/// # Errors
/// [`NoHead`].
pub async fn finish(
    stream: &mut (impl AsyncRead + Unpin),
    head: &mut Vec<u8>,
    limits: HeadLimits,
) -> Result<(), NoHead> {
    let rest = async {
        let (mut begin, mut searched) = (0_usize, 0_usize);
        loop {
            // Line breaks may come before a request. No byte is searched over and over, however small the pieces are.
            let breaks = head.iter().skip(begin).take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            begin = begin.saturating_add(breaks);
            if ends(head.get(searched.max(begin)..).unwrap_or_default()) {
                return Ok(());
            }
            // An empty line may begin in the last two bytes.
            searched = head.len().saturating_sub(2);
            if head.len() > limits.bytes_max {
                return Err(NoHead::TooLarge);
            }
            head.reserve(READ_BYTES);
            match stream.read_buf(head).await {
                Ok(1..) => {}
                _ => return Err(NoHead::Nothing),
            }
        }
    };
    timeout(limits.duration_max, rest).await.unwrap_or(Err(NoHead::TimedOut))
}

/// Whether an empty line stands in `head`. A line feed alone ends a line here, as it does for the library; the gate
/// refuses it later.
fn ends(head: &[u8]) -> bool {
    memchr_iter(b'\n', head).any(|feed| {
        let after = head.get(feed.saturating_add(1)..).unwrap_or_default();
        after.starts_with(b"\n") || after.starts_with(b"\r\n")
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const LIMITS: HeadLimits =
        HeadLimits { bytes_max: 64, duration_max: Duration::from_millis(200), idle_max: Duration::from_millis(100) };

    async fn read(stream: &mut (impl AsyncRead + Unpin), limits: HeadLimits) -> Result<Vec<u8>, NoHead> {
        let mut head = Vec::new();
        begin(stream, &mut head, limits).await?;
        finish(stream, &mut head, limits).await?;
        Ok(head)
    }

    /// What is read of `parts`, sent 20 ms apart, the connection then kept open.
    async fn read_of(parts: &[&[u8]]) -> Result<usize, NoHead> {
        let (mut client, mut server) = tokio::io::duplex(4096);
        let sending = async {
            for part in parts {
                client.write_all(part).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! { head = read(&mut server, LIMITS) => head.map(|head| head.len()), () = sending => unreachable!() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_read_whole_and_in_time() {
        assert_eq!(read_of(&[b"GET / HTTP/1.1\r\n\r\n"]).await, Ok(18));
        assert_eq!(read_of(&[b"\r\n\r\nGET / HT", b"TP/1.1\r\n\r", b"\nmore"]).await, Ok(26));
        assert_eq!(read_of(&[b"GET / HTTP/1.1\n\n"]).await, Ok(16));
        assert_eq!(read_of(&[b"\r", b"\n\r\n", b"G / H\r", b"\n", b"\r", b"\n"]).await, Ok(13));
        assert_eq!(read_of(&[b"G / H\n", b"\n"]).await, Ok(7));
        assert_eq!(read_of(&[]).await, Err(NoHead::Nothing));
        assert_eq!(read_of(&[b"\r\n\r\n"]).await, Err(NoHead::TimedOut));
        assert_eq!(read_of(&[b"GET / HTTP/1.1\r\n"]).await, Err(NoHead::TimedOut));
        assert_eq!(read_of(&[&b"G"[..]; 30]).await, Err(NoHead::TimedOut), "drop by drop");
        assert_eq!(read_of(&[&[b'G'; 65]]).await, Err(NoHead::TooLarge));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_ends_has_no_head() {
        let (mut client, mut server) = tokio::io::duplex(4096);
        client.write_all(b"GET /").await.unwrap();
        drop(client);
        assert_eq!(read(&mut server, LIMITS).await, Err(NoHead::Nothing));
    }
}
