//! Plain HTTP, by hand.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// An answer.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: String,
}

impl Page {
    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// `GET path`.
pub(crate) async fn get(addr: SocketAddr, path: &str) -> Page {
    ask(addr, format!("GET {path} HTTP/1.1\r\n\r\n")).await
}

/// `POST path` with a JSON body.
pub(crate) async fn post(addr: SocketAddr, path: &str, body: &str) -> Page {
    let request = format!(
        "POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    ask(addr, request).await
}

async fn ask(addr: SocketAddr, request: String) -> Page {
    let request = request.replacen("\r\n", "\r\nHost: node\r\nConnection: close\r\n", 1);
    let asking = move || {
        let mut stream = TcpStream::connect(addr)?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::task::spawn_blocking(asking).await;
    parse(&answer.expect("no panic").expect("an answer"))
}

fn parse(answer: &str) -> Page {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).expect("a status line");
    let content_type = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-type").then_some(value)
    });
    assert!(
        !head.to_ascii_lowercase().contains("transfer-encoding"),
        "the body is not in pieces: {head}"
    );
    Page {
        status: status.parse().expect("a number"),
        content_type: content_type.unwrap_or_default().to_owned(),
        body: body.to_owned(),
    }
}
