//! A socket that is written to once a turn, and tells how much went through it.
//!
//! HTTP/2 hands every answer of more than a few hundred bytes to its socket by itself. Here it is
//! kept until the connection has done all that it could in its turn, and all answers of the turn
//! go out in one system call ([`Socket::end_turn`], called by [`super::turn::Turn`]).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes kept for the end of a turn; with more, the connection waits for the socket.
const KEPT_BYTES_MAX: usize = 64 << 10;
/// Room for kept bytes that an idle connection holds on to.
const IDLE_BYTES_MAX: usize = 4 << 10;

/// One socket. Its clones are the same socket: the connection has one, and its turn another.
#[derive(Debug)]
pub(super) struct Socket<S>(Arc<Shared<S>>);

#[derive(Debug)]
struct Shared<S> {
    /// Both clones belong to one task: nobody ever waits for this.
    wire: Mutex<Wire<S>>,
    read: AtomicU64,
    written: AtomicU64,
    /// The first byte that came in, once there is one.
    first: AtomicU8,
}

#[derive(Debug)]
struct Wire<S> {
    stream: S,
    /// Written by the connection; of these `kept[..gone]` by us too.
    kept: Vec<u8>,
    /// Invariant: less than `kept.len()`, or both are 0.
    gone: usize,
    /// The operating system took nothing when it was last asked: the client does not read.
    held_up: bool,
}

impl<S> Clone for Socket<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> Socket<S> {
    pub(super) fn new(stream: S) -> Self {
        Self(Arc::new(Shared {
            wire: Mutex::new(Wire {
                stream,
                kept: Vec::new(),
                gone: 0,
                held_up: false,
            }),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            first: AtomicU8::new(0),
        }))
    }

    /// Bytes that came in.
    pub(super) fn bytes_read(&self) -> u64 {
        self.0.read.load(Ordering::Relaxed)
    }

    /// The first byte that came in; 0 before there is one.
    pub(super) fn first_byte(&self) -> u8 {
        self.0.first.load(Ordering::Relaxed)
    }

    /// Bytes that the operating system took, or TLS for it.
    pub(super) fn bytes_written(&self) -> u64 {
        self.0.written.load(Ordering::Relaxed)
    }

    /// Whether what is written waits for the client to read.
    pub(super) fn is_held_up(&self) -> bool {
        self.0.wire.lock().held_up
    }

    fn wrote(&self, bytes: usize) {
        self.0.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl<S: AsyncWrite + Unpin> Socket<S> {
    /// Writes what was kept. Pending: the client has to take something first, and the task is woken
    /// once it did.
    pub(super) fn end_turn(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.drain(&mut self.0.wire.lock(), cx)
    }

    fn drain(&self, wire: &mut Wire<S>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Wire {
            stream,
            kept,
            gone,
            held_up,
        } = wire;
        while *gone < kept.len() {
            *held_up = true;
            let bytes = ready!(Pin::new(&mut *stream).poll_write(cx, &kept[*gone..]))?;
            *held_up = false;
            if bytes == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote(bytes);
            *gone += bytes;
        }
        *gone = 0;
        kept.clear();
        kept.shrink_to(IDLE_BYTES_MAX);
        // TLS takes bytes that the operating system does not take yet.
        *held_up = true;
        ready!(Pin::new(stream).poll_flush(cx))?;
        *held_up = false;
        Poll::Ready(Ok(()))
    }

    fn write(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut wire = self.0.wire.lock();
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if wire.kept.len() + total > KEPT_BYTES_MAX {
            ready!(self.drain(&mut wire, cx))?;
        }
        if total > KEPT_BYTES_MAX {
            // Too large to be worth a copy.
            wire.held_up = true;
            let bytes = ready!(Pin::new(&mut wire.stream).poll_write_vectored(cx, bufs))?;
            wire.held_up = false;
            self.wrote(bytes);
            return Poll::Ready(Ok(bytes));
        }
        for buf in bufs {
            wire.kept.extend_from_slice(buf);
        }
        Poll::Ready(Ok(total))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.0.wire.lock().stream).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        if self.0.read.fetch_add(bytes as u64, Ordering::Relaxed) == 0 && bytes > 0 {
            self.0.first.store(buf.filled()[before], Ordering::Relaxed);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: the end of the turn does it.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.0.wire.lock();
        ready!(self.drain(&mut wire, cx))?;
        Pin::new(&mut wire.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// A socket whose other side takes `room` bytes before it must be read.
    fn pair(room: usize) -> (Socket<DuplexStream>, DuplexStream) {
        let (stream, other) = duplex(room);
        (Socket::new(stream), other)
    }

    async fn end_turn(socket: &Socket<DuplexStream>) {
        poll_fn(|cx| socket.end_turn(cx)).await.expect("written");
    }

    #[tokio::test]
    async fn what_a_turn_writes_goes_out_at_its_end() {
        let (mut socket, mut other) = pair(1 << 20);
        for _ in 0..3 {
            socket.write_all(b"answer").await.expect("kept");
            socket.flush().await.expect("nothing to do");
        }
        assert_eq!(socket.bytes_written(), 0);
        end_turn(&socket).await;
        assert_eq!(socket.bytes_written(), 18);
        let mut found = [0; 18];
        other.read_exact(&mut found).await.expect("there");
        assert_eq!(&found, b"answeransweranswer");
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_holds_the_connection_up() {
        let (mut socket, mut other) = pair(16);
        let piece = vec![7; KEPT_BYTES_MAX];
        socket.write_all(&piece).await.expect("kept");
        let held_up = poll_fn(|cx| Poll::Ready(Pin::new(&mut socket).poll_write(cx, b"more")));
        assert!(held_up.await.is_pending());
        assert!(socket.is_held_up());
        let mut found = vec![0; piece.len() + 4];
        let write = async { socket.write_all(b"more").await };
        let (wrote, read) = tokio::join!(write, other.read_exact(&mut found[..piece.len()]));
        wrote.expect("kept");
        read.expect("there");
        let (flushed, read) = tokio::join!(
            poll_fn(|cx| socket.end_turn(cx)),
            other.read_exact(&mut found[piece.len()..])
        );
        flushed.expect("written");
        read.expect("there");
        assert_eq!(found, [piece.as_slice(), b"more"].concat());
        assert!(!socket.is_held_up());
    }

    #[tokio::test]
    async fn large_writes_keep_their_place() {
        let (mut socket, mut other) = pair(1 << 20);
        let large = vec![2; KEPT_BYTES_MAX + 1];
        socket.write_all(&[1; 10]).await.expect("kept");
        socket.write_all(&large).await.expect("written");
        socket.write_all(&[3; 10]).await.expect("kept");
        socket.shutdown().await.expect("closed");
        let mut found = Vec::new();
        other.read_to_end(&mut found).await.expect("all of it");
        assert_eq!(found, [&[1; 10][..], &large, &[3; 10]].concat());
    }

    #[tokio::test]
    async fn a_closed_socket_is_an_error_at_the_end_of_the_turn() {
        let (mut socket, other) = pair(16);
        drop(other);
        socket.write_all(b"answer").await.expect("kept");
        let result = poll_fn(|cx| socket.end_turn(cx)).await;
        assert_eq!(
            result.expect_err("closed").kind(),
            io::ErrorKind::BrokenPipe
        );
    }
}
