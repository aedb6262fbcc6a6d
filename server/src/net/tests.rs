//! A listener with a single page, spoken to byte by byte.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::memory::Memory;
use super::{Limits, Server, bind};
use crate::config::{Config, HostPort};
use crate::metrics::Metrics;

/// Longer than any test takes; what must not happen is not waited for.
const LONG: Duration = Duration::from_secs(60);
const PAGE: &str = "GET /page HTTP/1.1\r\nhost: x\r\n\r\n";
const LARGE_PAGE: &str = "GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
/// More than the sockets of both sides hold.
const LARGE_BYTES: usize = 32 << 20;

struct Listener {
    server: Server,
    addr: std::net::SocketAddr,
    metrics: Metrics,
}

async fn listener(change: impl FnOnce(&mut Limits)) -> Listener {
    let mut limits = Limits::of(&Config::default());
    limits.handshake_timeout = LONG;
    change(&mut limits);
    let any = HostPort {
        host: "127.0.0.1".to_owned(),
        port: 0,
    };
    let bound = bind("addr", &any).await.expect("a free port");
    let (addr, metrics) = (bound.addr(), Metrics::new());
    let routes = Router::new()
        .route("/page", get(|| async { "the page" }))
        .route("/large", get(|| async { vec![b'x'; LARGE_BYTES] }));
    let server = Server::start(
        bound,
        routes,
        limits,
        false,
        None,
        Arc::clone(&metrics.network),
    );
    Listener {
        server,
        addr,
        metrics,
    }
}

impl Listener {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.expect("connected")
    }

    fn count(&self, name: &str) -> u64 {
        let text = self.metrics.render();
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or(0)
    }
}

/// What comes until the connection is closed, in order or by a reset.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _reset = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn read_page(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.ends_with("the page") {
        let bytes = stream.read(&mut buffer).await.expect("the page comes");
        assert!(bytes > 0, "closed after {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..bytes]));
    }
    text
}

#[tokio::test]
async fn who_says_nothing_or_not_enough_is_let_go() {
    for said in ["", "P", "PRI * HTTP/2.0\r\n", "GET /pa"] {
        let listener =
            listener(|limits| limits.handshake_timeout = Duration::from_millis(50)).await;
        let mut stream = listener.connect().await;
        stream.write_all(said.as_bytes()).await.expect("sent");
        let answer = read_all(&mut stream).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{said:?}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_connection_too_many_is_closed_at_once_and_the_others_go_on() {
    let listener = listener(|limits| limits.connections_max = 2).await;
    let mut first = listener.connect().await;
    first.write_all(PAGE.as_bytes()).await.expect("sent");
    read_page(&mut first).await;
    let mut second = listener.connect().await;
    second.write_all(PAGE.as_bytes()).await.expect("sent");
    read_page(&mut second).await;

    let mut third = listener.connect().await;
    assert_eq!(read_all(&mut third).await, "");
    assert_eq!(listener.count("flotilla_connections_refused_total"), 1);

    first.write_all(PAGE.as_bytes()).await.expect("sent");
    read_page(&mut first).await;
    // Room again, as soon as the server has seen that one is gone.
    drop(second);
    loop {
        let mut next = listener.connect().await;
        if next.write_all(PAGE.as_bytes()).await.is_ok() {
            let mut one = [0];
            if matches!(next.read(&mut one).await, Ok(1)) {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_large_page_is_refused_while_others_are_not_read() {
    let listener = listener(|limits| {
        // Room for one.
        limits.memory = Arc::new(Memory::new(1 << 20, LARGE_BYTES as u64));
    })
    .await;
    let ask = async || {
        let mut stream = listener.connect().await;
        stream.write_all(LARGE_PAGE.as_bytes()).await.expect("sent");
        stream
    };
    let mut slow = ask().await;
    assert_eq!(slow.read_u8().await.expect("it begins"), b'H');

    let refused = read_all(&mut ask().await).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.ends_with("ask again later"), "{refused}");
    assert_eq!(listener.count("flotilla_answers_no_room_total"), 1);
    let mut small = listener.connect().await;
    small.write_all(PAGE.as_bytes()).await.expect("sent");
    read_page(&mut small).await;

    assert!(read_all(&mut slow).await.len() > LARGE_BYTES);
    let served = read_all(&mut ask().await).await;
    assert!(served.starts_with("HTTP/1.1 200"), "room again");
    assert!(served.len() > LARGE_BYTES);
}

#[tokio::test]
async fn garbage_is_answered_or_closed_and_never_served() {
    for said in [
        "\0\0\0\0\r\n\r\n",
        "SSH-2.0-x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n-------------------",
    ] {
        let listener = listener(|_| ()).await;
        let mut stream = listener.connect().await;
        stream.write_all(said.as_bytes()).await.expect("sent");
        let answer = read_all(&mut stream).await;
        assert!(!answer.contains("the page"), "{said:?}: {answer:?}");
        assert!(!answer.starts_with("HTTP/1.1 2"), "{said:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_stop_closes_what_is_idle_and_takes_nothing_new() {
    let listener = listener(|_| ()).await;
    let mut idle = listener.connect().await;
    idle.write_all(PAGE.as_bytes()).await.expect("sent");
    read_page(&mut idle).await;
    assert_eq!(listener.server.stop(LONG).await, 0, "nothing was cut off");
    assert_eq!(read_all(&mut idle).await, "");
    assert!(
        TcpStream::connect(listener.addr).await.is_err(),
        "nobody listens any more"
    );
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_setting() {
    let first = bind("addr", &"127.0.0.1:0".parse().expect("an address"))
        .await
        .expect("free");
    let taken = HostPort {
        host: "127.0.0.1".to_owned(),
        port: first.addr().port(),
    };
    let message = bind("addr", &taken).await.expect_err("taken").to_string();
    assert!(message.contains("in use by another process"), "{message}");
    assert!(
        message.starts_with(&format!("addr = {taken}: ")),
        "{message}"
    );
    let nowhere = "host.invalid:1".parse().expect("an address");
    let message = bind("status-addr", &nowhere)
        .await
        .expect_err("no such host")
        .to_string();
    assert!(
        message.starts_with("status-addr = host.invalid:1: cannot resolve"),
        "{message}"
    );
}
