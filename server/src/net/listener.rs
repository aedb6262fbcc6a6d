//! Listening and accepting.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use super::access::{Access, Service};
use super::connection::{self, End};
use super::memory::{Client, Memory};
use super::security::{Caller, Security};
use super::seldom::Seldom;
use super::stream::{self, Failed, Stream};
use crate::config::{Config, HostPort};
use crate::metrics::NetworkMetrics;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4_096;
/// One in so many connections may be in its TLS handshake.
const HANDSHAKES_SHARE: usize = 4;
/// Pause after an accept that failed for want of something, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The limits of a listener; see the settings `network.*`.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "named as the settings they come from")]
pub struct Limits {
    pub connections_max: usize,
    pub streams_max: u32,
    pub stream_window: u32,
    pub connection_window: u32,
    pub unsent_max: u64,
    /// Shared by all listeners that have these limits.
    pub(super) memory: Arc<Memory>,
    pub handshake_timeout: Duration,
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    pub stall_timeout: Duration,
}

impl Limits {
    /// The share of a valid configuration.
    pub fn of(config: &Config) -> Self {
        let window = |size: u64| u32::try_from(size).expect("checked against the largest window");
        Self {
            connections_max: config.connections_max,
            streams_max: config.streams_max,
            stream_window: window(config.stream_window.0),
            connection_window: window(config.connection_window.0),
            unsent_max: config.unsent_max.0,
            memory: Arc::new(Memory::new(config.requests_max.0, config.answers_max.0)),
            handshake_timeout: config.handshake_timeout,
            keepalive_interval: config.keepalive_interval,
            keepalive_timeout: config.keepalive_timeout,
            stall_timeout: config.stall_timeout,
        }
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The name has no address.
    #[error("{key} = {addr}: cannot resolve the host: {source}")]
    Resolve {
        /// The setting.
        key: &'static str,
        /// Its value.
        addr: HostPort,
        /// Why.
        source: io::Error,
    },
    /// Another process listens there.
    #[error(
        "{key} = {addr}: the port is in use by another process; stop that one or choose another port"
    )]
    InUse {
        /// The setting.
        key: &'static str,
        /// Its value.
        addr: HostPort,
    },
    /// Something else.
    #[error("{key} = {addr}: cannot listen: {source}")]
    Other {
        /// The setting.
        key: &'static str,
        /// Its value.
        addr: HostPort,
        /// Why.
        source: io::Error,
    },
}

/// A port that is taken; nobody is served on it yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Bound {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Takes the port of the setting `key`.
///
/// # Errors
/// See [`BindError`].
pub async fn bind(key: &'static str, addr: &HostPort) -> Result<Bound, BindError> {
    let resolve = |source| BindError::Resolve {
        key,
        addr: addr.clone(),
        source,
    };
    let mut found = tokio::net::lookup_host(addr.to_string())
        .await
        .map_err(resolve)?;
    let first = found
        .next()
        .ok_or_else(|| resolve(io::ErrorKind::NotFound.into()))?;
    listen(first).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse {
            key,
            addr: addr.clone(),
        },
        _ => BindError::Other {
            key,
            addr: addr.clone(),
            source,
        },
    })
}

fn listen(addr: SocketAddr) -> io::Result<Bound> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A restart must not wait for connections of the last run to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.set_keepalive(true)?;
    socket.bind(addr)?;
    let listener = socket.listen(BACKLOG)?;
    let addr = listener.local_addr()?;
    Ok(Bound { listener, addr })
}

/// A listener that serves. Dropping it stops accepting, and its connections once they are idle.
#[derive(Debug)]
pub struct Server {
    stopping: watch::Sender<bool>,
    slots: Arc<Semaphore>,
    connections_max: usize,
    accepting: Accepting,
}

/// The task that accepts; it ends with its listener.
#[derive(Debug)]
struct Accepting(JoinHandle<()>);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What every connection of a listener shares.
struct Shared {
    limits: Limits,
    builder: Builder<TokioExecutor>,
    routes: axum::Router,
    http_moved: bool,
    /// Without it nothing is encrypted.
    security: Option<Arc<Security>>,
    /// Handshakes at once, so that those who only begin one leave room to others.
    handshakes: Semaphore,
    metrics: Arc<NetworkMetrics>,
}

impl Server {
    /// Serves `routes` on `bound`. `http_moved`: HTTP has a listener of its own. With `security` by TLS
    /// only.
    pub fn start(
        bound: Bound,
        routes: axum::Router,
        limits: Limits,
        http_moved: bool,
        security: Option<Arc<Security>>,
        metrics: Arc<NetworkMetrics>,
    ) -> Self {
        let (stopping, stopped) = watch::channel(false);
        let connections_max = limits.connections_max.min(Semaphore::MAX_PERMITS);
        let slots = Arc::new(Semaphore::new(connections_max));
        let shared = Arc::new(Shared {
            builder: connection::builder(&limits),
            limits,
            routes,
            http_moved,
            security,
            handshakes: Semaphore::new((connections_max / HANDSHAKES_SHARE).max(1)),
            metrics,
        });
        let accepting = tokio::spawn(accept(bound.listener, shared, Arc::clone(&slots), stopped));
        Self {
            stopping,
            slots,
            connections_max,
            accepting: Accepting(accepting),
        }
    }

    /// Takes no more connections, lets the requests under way finish, and waits for that at most
    /// `grace`. Answers to how many connections were cut off.
    pub async fn stop(self, grace: Duration) -> usize {
        self.stopping.send_replace(true);
        drop(self.accepting);
        let all = u32::try_from(self.connections_max).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(grace, self.slots.acquire_many(all)).await;
        self.connections_max - self.slots.available_permits().min(self.connections_max)
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    slots: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
) {
    loop {
        let (stream, addr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        shared.metrics.connections_accepted.increment(1);
        match Arc::clone(&slots).try_acquire_owned() {
            Ok(slot) => {
                tokio::spawn(run(
                    stream,
                    addr,
                    Arc::clone(&shared),
                    slot,
                    stopped.clone(),
                ));
            }
            // Closed before a byte is read: the client sees at once that it must go elsewhere.
            Err(_) => shared.metrics.connections_refused.increment(1),
        }
    }
}

/// The other side was gone before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::Interrupted
    )
}

async fn run(
    stream: TcpStream,
    addr: SocketAddr,
    shared: Arc<Shared>,
    slot: OwnedSemaphorePermit,
    stopped: watch::Receiver<bool>,
) {
    shared.metrics.connections_open.increment(1);
    let end = begin_and_serve(stream, addr, &shared, stopped).await;
    shared.metrics.connections_open.decrement(1);
    report(end, addr, &shared);
    drop(slot);
}

async fn begin_and_serve(
    stream: TcpStream,
    addr: SocketAddr,
    shared: &Shared,
    mut stopped: watch::Receiver<bool>,
) -> End {
    // Answers are small and each is waited for.
    if stream.set_nodelay(true).is_err() {
        return End::Broken;
    }
    let (stream, access) = match &shared.security {
        None => {
            let access = match (shared.http_moved, addr.ip().to_canonical().is_loopback()) {
                (true, _) => Access::MovedHttp,
                (false, true) => Access::All,
                (false, false) => Access::RemoteGrpc,
            };
            (Stream::Plain(stream), access)
        }
        Some(security) => {
            let shaking = stream::handshake(stream, security, &shared.handshakes);
            let accepted = tokio::select! {
                accepted = tokio::time::timeout(shared.limits.handshake_timeout, shaking) => accepted,
                _ = stopped.wait_for(|stop| *stop) => return End::Closed,
            };
            let accepted = match accepted {
                Ok(Ok(accepted)) => accepted,
                Ok(Err(Failed::Plaintext)) => return End::Plaintext,
                Ok(Err(Failed::Broken(error))) => return End::NoHandshake(error),
                Err(_) => return End::NoHello,
            };
            let caller = Caller::new(addr, accepted.caller, &security.allowed);
            let access = Access::Certified {
                caller: Arc::new(caller),
                moved_http: shared.http_moved,
            };
            (Stream::Tls(Box::new(accepted.stream)), access)
        }
    };
    let client = Client::new(
        addr,
        &shared.limits.memory,
        shared.limits.unsent_max,
        &shared.metrics,
    );
    let service = Service::new(shared.routes.clone(), access, client.clone());
    connection::serve(
        stream,
        &shared.builder,
        &shared.limits,
        service,
        client,
        stopped,
    )
    .await
}

/// Of all listeners of the process.
static MISMATCHED: Seldom = Seldom::new();
static NOT_SHAKEN: Seldom = Seldom::new();

/// Counts how a connection ended, and says what its user cannot know.
fn report(end: End, client: SocketAddr, shared: &Shared) {
    let metrics = &shared.metrics;
    match end {
        End::Closed => {}
        End::Broken => metrics.connections_broken.increment(1),
        End::Plaintext => {
            metrics.connections_plaintext.increment(1);
            MISMATCHED.tell(|missed| {
                tracing::warn!(%client, missed, "closed a connection without TLS: this port speaks nothing else");
            });
        }
        End::Encrypted => {
            metrics.connections_plaintext.increment(1);
            MISMATCHED.tell(|missed| {
                tracing::warn!(%client, missed, "closed a connection with TLS: this port speaks plaintext, as \
                                                 security.cert is not set");
            });
        }
        End::NoHandshake(error) => {
            metrics.handshakes_failed.increment(1);
            NOT_SHAKEN.tell(|missed| {
                tracing::warn!(%client, %error, missed, "a TLS handshake failed");
            });
        }
        End::NoHello => metrics.connections_silent.increment(1),
        End::Stalled => {
            metrics.connections_stalled.increment(1);
            tracing::warn!(%client, "closed a connection that did not take its answers");
        }
    }
}
