//! One connection, from its first byte to its last.

use std::io;
use std::pin::pin;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::sync::watch;
use tokio::time::Instant;

use super::access::Service;
use super::listener::Limits;
use super::memory::Client;
use super::socket::Socket;
use super::stream::{Stream, TLS_HANDSHAKE};
use super::turn::Turn;

/// Bytes by which a client has said which protocol it speaks: the length of the HTTP/2 preface.
const HELLO_BYTES: u64 = 24;
/// Bytes of one HTTP/2 frame that clients may send.
const FRAME_BYTES: u32 = 64 << 10;
/// Bytes of one answer that HTTP/2 buffers ahead of the socket.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// Bytes of a request's headers.
const HEADER_BYTES: u32 = 16 << 10;
/// Bytes that HTTP/1.1 buffers.
const HTTP1_BUFFER_BYTES: usize = 64 << 10;

/// Both protocols, with the limits of this node.
pub(super) fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.handshake_timeout)
        .max_buf_size(HTTP1_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(FRAME_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(HEADER_BYTES)
        // A client whose requests time out resets all of them at once; that is no attack.
        .max_pending_accept_reset_streams(limits.streams_max as usize)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    builder
}

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// Either side closed it.
    Closed,
    /// It broke, or did not keep to the protocol.
    Broken,
    /// It speaks TLS, and this side does not.
    Encrypted,
    /// It does not speak TLS, and this side does.
    Plaintext,
    /// Its TLS handshake failed.
    NoHandshake(io::Error),
    /// It did not say what it speaks.
    NoHello,
    /// It did not take its answers.
    Stalled,
}

/// Serves `stream` until it ends. Once `stopping` turns true, requests under way are finished and no
/// new ones taken.
pub(super) async fn serve(
    stream: Stream,
    builder: &Builder<TokioExecutor>,
    limits: &Limits,
    service: Service,
    client: Client,
    mut stopping: watch::Receiver<bool>,
) -> End {
    let socket = Socket::new(stream);
    let mut patience = Patience::new(socket.clone(), client, limits);
    let connection = pin!(builder.serve_connection(TokioIo::new(socket.clone()), service));
    let mut turn = Turn::new(connection, socket.clone());
    loop {
        tokio::select! {
            end = &mut turn => return match end {
                Ok(Ok(())) => End::Closed,
                _ if socket.first_byte() == TLS_HANDSHAKE => End::Encrypted,
                _ => End::Broken,
            },
            changed = stopping.wait_for(|stop| *stop), if !patience.stopping => {
                // A listener that is gone stops its connections too.
                let _ = changed;
                patience.stopping = true;
                turn.connection().as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep_until(patience.next) => {
                if let Some(end) = patience.look() {
                    return end;
                }
            }
        }
    }
}

/// Looks now and then whether a connection still gets anywhere.
struct Patience {
    socket: Socket<Stream>,
    client: Client,
    stall: Duration,
    next: Instant,
    greeted: bool,
    stopping: bool,
    /// Of the socket: bytes written.
    written: Progress,
    /// Of the answers.
    sent: Progress,
}

/// A count that rises, and when it was last seen to.
struct Progress {
    count: u64,
    at: Instant,
}

impl Progress {
    /// How long the count has stood still, if it should rise: because something is `waiting`.
    fn stalled(&mut self, count: u64, waiting: bool, now: Instant) -> Duration {
        if count != self.count || !waiting {
            *self = Self { count, at: now };
        }
        now - self.at
    }
}

impl Patience {
    fn new(socket: Socket<Stream>, client: Client, limits: &Limits) -> Self {
        let now = Instant::now();
        Self {
            socket,
            client,
            stall: limits.stall_timeout,
            next: now + limits.handshake_timeout,
            greeted: false,
            stopping: false,
            written: Progress { count: 0, at: now },
            sent: Progress { count: 0, at: now },
        }
    }

    fn look(&mut self) -> Option<End> {
        let now = Instant::now();
        if !self.greeted && self.socket.bytes_read() < HELLO_BYTES {
            return Some(End::NoHello);
        }
        self.greeted = true;
        // A client may stop reading its socket, or go on and take nothing but signs of life: then
        // the socket is fine, and the windows of its answers stay closed.
        let (socket, client) = (&self.socket, &self.client);
        let written = self
            .written
            .stalled(socket.bytes_written(), socket.is_held_up(), now);
        let sent = self
            .sent
            .stalled(client.progress(), client.has_unsent(), now);
        if written.max(sent) >= self.stall {
            return Some(End::Stalled);
        }
        self.next = now + self.stall / 2;
        None
    }
}
