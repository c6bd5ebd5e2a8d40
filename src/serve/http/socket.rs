//! A socket that notices when its client has gone away while a request is at work.
//!
//! A client may close its own side and still wait for the answer (`nc -N`), which looks like one that has gone away. So
//! such a client is sent `100 Continue` from time to time: where that cannot be delivered, nobody is there.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::connection::{ConnectionState, Phase};

/// Between two looks at a connection whose client has closed its side.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// When such a client is sent something for the first time, and then again.
const FIRST_PROBE: Duration = Duration::from_secs(2);
const NEXT_PROBE: Duration = Duration::from_secs(10);
/// An interim answer, which every client must take and leave aside (RFC 9110, 15.2).
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A socket that can be watched while it is used.
#[derive(Debug, Clone)]
pub struct WatchedSocket {
    stream: Arc<TcpStream>,
    /// Whether the server has begun to write something that is not out yet.
    unsent: Arc<AtomicBool>,
}

impl WatchedSocket {
    /// Watches `stream`, on which nothing is unsent yet.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream: Arc::new(stream), unsent: Arc::default() }
    }

    /// Waits until it is certain that the client of a request at work has gone away.
    pub async fn client_gone(&self, connection: &ConnectionState) {
        loop {
            if !matches!(connection.phase(), Phase::Working | Phase::Answering) {
                connection.changed().await;
                continue;
            }
            match self.stream.peek(&mut [0]).await {
                Err(_) => return,
                // The next request is here already.
                Ok(1..) => tokio::time::sleep(POLL_INTERVAL).await,
                Ok(0) => return self.half_closed(connection).await,
            }
        }
    }

    /// The client has closed its side: waits until nothing reaches it any more.
    async fn half_closed(&self, connection: &ConnectionState) {
        let mut probe = Instant::now() + FIRST_PROBE;
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            if !matches!(self.stream.take_error(), Ok(None)) {
                return;
            }
            let can_probe = connection.phase() == Phase::Working
                && connection.takes_continue()
                && !self.unsent.load(Ordering::SeqCst);
            if can_probe && Instant::now() >= probe {
                probe = Instant::now() + NEXT_PROBE;
                // All of it or nothing: a part would spoil the answer.
                match self.stream.try_write(PROBE) {
                    Ok(sent) if sent < PROBE.len() => return,
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                    _ => {}
                }
            }
        }
    }
}

impl AsyncRead for WatchedSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl WatchedSocket {
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.unsent.store(true, Ordering::SeqCst);
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match send(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncWrite for WatchedSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |stream| stream.try_write_vectored(parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper flushes when all that it has was written.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unsent.store(false, Ordering::SeqCst);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Half of a socket cannot be shut behind a shared handle; dropping it closes both.
        Poll::Ready(Ok(()))
    }
}
