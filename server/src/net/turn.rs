//! One turn of a connection: when it runs, and what happens at its end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use super::socket::Socket;

/// Polls a connection once everything else that could run on this thread has had its turn, and then
/// writes what it left in its socket.
///
/// A connection is woken by the first of its requests that has an answer, and would run at once and
/// hand that one answer to the operating system. A turn later most of its other requests have
/// theirs too, and all of them go out in one system call.
#[derive(Debug)]
pub(super) struct Turn<F, S> {
    connection: F,
    socket: Socket<S>,
    /// The others have had their turn.
    waited: bool,
}

impl<F, S> Turn<F, S> {
    /// `connection` writes to a clone of `socket`.
    pub(super) fn new(connection: F, socket: Socket<S>) -> Self {
        Self {
            connection,
            socket,
            waited: false,
        }
    }

    pub(super) fn connection(&mut self) -> &mut F {
        &mut self.connection
    }
}

impl<F: Future + Unpin, S: AsyncWrite + Unpin> Future for Turn<F, S> {
    /// What the connection ended with, or why the socket can no longer be written.
    type Output = io::Result<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.waited {
            self.waited = true;
            // Woken while it runs, a task goes to the end of the queue.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.waited = false;
        let end = Pin::new(&mut self.connection).poll(cx);
        match self.socket.end_turn(cx) {
            Poll::Ready(Err(error)) if end.is_pending() => Poll::Ready(Err(error)),
            _ => end.map(Ok),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// What it polls comes second, although it is polled first.
    #[tokio::test]
    async fn others_run_first() {
        let (said, (stream, _other)) = (RefCell::new(Vec::new()), duplex(1));
        let connection = Box::pin(async { said.borrow_mut().push("connection") });
        let turn = Turn::new(connection, Socket::new(stream));
        let (end, ()) = tokio::join!(turn, async { said.borrow_mut().push("request") });
        end.expect("nothing to write");
        assert_eq!(said.into_inner(), ["request", "connection"]);
    }

    /// Each poll of the connection writes a byte and wants another turn.
    #[tokio::test]
    async fn every_wake_counts_and_every_turn_is_written() {
        let (stream, mut other) = duplex(16);
        let socket = Socket::new(stream);
        let (mut written, mut left) = (socket.clone(), 3);
        let connection = poll_fn(move |cx| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            let kept = Pin::new(&mut written).poll_write(cx, b"x");
            assert!(kept.is_ready());
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        let turn = Turn::new(connection, socket.clone());
        turn.await.expect("written");
        assert_eq!(socket.bytes_written(), 3);
        let mut found = [0; 3];
        other.read_exact(&mut found).await.expect("there");
    }

    #[tokio::test]
    async fn a_socket_that_breaks_ends_the_turn() {
        let (stream, other) = duplex(16);
        let mut socket = Socket::new(stream);
        socket.write_all(b"answer").await.expect("kept");
        drop(other);
        let turn = Turn::new(std::future::pending::<()>(), socket);
        assert!(turn.await.is_err());
    }
}
