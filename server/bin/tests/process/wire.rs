//! Bytes on a socket: plain HTTP, and HTTP/2 frames written by hand, for what no client library
//! would send.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long a read or a write of these may take.
const SOCKET_PATIENCE: Duration = Duration::from_secs(30);

/// What every HTTP/2 connection begins with.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags of frames.
pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// The largest flow-control window.
const WINDOW_MAX: u32 = (1 << 31) - 1;
/// The window that every connection begins with.
const WINDOW_FIRST: u32 = 65_535;

pub(crate) fn connect(addr: &str) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("somebody listens");
    stream
        .set_read_timeout(Some(SOCKET_PATIENCE))
        .expect("a time");
    stream
        .set_write_timeout(Some(SOCKET_PATIENCE))
        .expect("a time");
    stream
}

/// Reads until the other side ends the connection. What breaks the connection ends it too.
#[track_caller]
pub(crate) fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), [0; 4 << 10]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return all,
            Ok(count) => all.extend_from_slice(&piece[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the connection was still open after {SOCKET_PATIENCE:?}: {all:?}")
            }
            Err(_) => return all,
        }
    }
}

/// Sends `bytes` on a connection of its own, and returns what comes back until the node ends it.
#[track_caller]
pub(crate) fn exchange(addr: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(addr);
    // The node may end it before it has read everything.
    let _ = stream.write_all(bytes);
    read_to_end(&mut stream)
}

/// An answer over HTTP/1.1.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// `GET path`, on a connection of its own.
#[track_caller]
pub(crate) fn get(addr: &str, path: &str) -> Page {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    page(&exchange(addr, request.as_bytes()))
}

/// Takes an answer apart whose body goes to the end.
#[track_caller]
pub(crate) fn page(bytes: &[u8]) -> Page {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer over HTTP/1.1: {text:?}"));
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok());
    Page {
        status: status.unwrap_or_else(|| panic!("no status: {head:?}")),
        body: body.to_owned(),
    }
}

/// The value of a metric on its page, 0 if it is not there.
pub(crate) fn metric(page: &str, name: &str) -> u64 {
    let value = page.lines().find_map(|line| line.strip_prefix(name));
    let value: f64 = value.map_or(0.0, |value| value.trim().parse().expect("a number"));
    value as u64
}

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame's length");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The headers of a gRPC call, as HPACK without any table or compression.
pub(crate) fn call_headers(path: &str) -> Vec<u8> {
    // Indexed: `:method: POST`, `:scheme: http`.
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        block.extend(name);
        block.push(u8::try_from(value.len()).expect("a short value"));
        block.extend(value.as_bytes());
    };
    // Literals with an indexed name: `:path`, `:authority`, `content-type`.
    literal(&[0x04], path);
    literal(&[0x01], "node");
    literal(&[0x0f, 0x10], "application/grpc");
    literal(b"\x00\x02te", "trailers");
    block
}

/// A message of gRPC: not compressed, with its length.
pub(crate) fn grpc(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a message's length");
    [&[0][..], &length.to_be_bytes(), message].concat()
}

/// Reads a frame, and tells its kind.
fn skip_frame(stream: &mut TcpStream) -> io::Result<u8> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    stream.read_exact(&mut vec![0; length as usize])?;
    Ok(head[3])
}

/// A client of HTTP/2 that reads none of what the node sends.
pub(crate) struct Deaf {
    stream: TcpStream,
    next: u32,
}

impl Deaf {
    /// It asks for as much as the node wants to send.
    pub(crate) fn connect(addr: &str) -> io::Result<Self> {
        Self::with_windows(addr, WINDOW_MAX, WINDOW_MAX - WINDOW_FIRST)
    }

    /// It takes no byte of an answer.
    pub(crate) fn closed(addr: &str) -> io::Result<Self> {
        Self::with_windows(addr, 0, 1)
    }

    fn with_windows(addr: &str, of_stream: u32, more: u32) -> io::Result<Self> {
        let mut stream = connect(addr);
        const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
        let settings = [&INITIAL_WINDOW_SIZE[..], &of_stream.to_be_bytes()].concat();
        let hello = [
            PREFACE.to_vec(),
            frame(SETTINGS, 0, 0, &settings),
            frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes()),
        ];
        stream.write_all(&hello.concat())?;
        // The last that is read: how much the node takes at once.
        let mut missing = vec![SETTINGS, WINDOW_UPDATE];
        while !missing.is_empty() {
            let kind = skip_frame(&mut stream)?;
            missing.retain(|missing| *missing != kind);
        }
        stream.write_all(&frame(SETTINGS, ACK, 0, &[]))?;
        Ok(Self { stream, next: 1 })
    }

    /// Begins a call; returns its stream.
    pub(crate) fn open(&mut self, path: &str) -> io::Result<u32> {
        let id = self.next;
        self.next += 2;
        let headers = frame(HEADERS, END_HEADERS, id, &call_headers(path));
        self.stream.write_all(&headers)?;
        Ok(id)
    }

    /// Sends a part of a call.
    pub(crate) fn send(&mut self, stream: u32, bytes: &[u8], last: bool) -> io::Result<()> {
        // No frame above what every node must take.
        const FRAME_BYTES: usize = 16 << 10;
        let pieces = bytes.len().div_ceil(FRAME_BYTES).max(1);
        for piece in 0..pieces {
            let from = piece * FRAME_BYTES;
            let to = bytes.len().min(from + FRAME_BYTES);
            let flags = if last && piece + 1 == pieces {
                END_STREAM
            } else {
                0
            };
            let data = frame(DATA, flags, stream, &bytes[from..to]);
            self.stream.write_all(&data)?;
        }
        Ok(())
    }

    /// A whole call.
    pub(crate) fn call(&mut self, path: &str, message: &[u8]) -> io::Result<()> {
        let stream = self.open(path)?;
        self.send(stream, &grpc(message), true)
    }

    /// Asks for a sign of life, and gives one.
    pub(crate) fn ping(&mut self) -> io::Result<()> {
        self.stream.write_all(&frame(PING, 0, 0, &[0; 8]))
    }

    /// How long a write may take before it counts as not taken.
    pub(crate) fn set_patience(&self, time: Duration) {
        self.stream.set_write_timeout(Some(time)).expect("a time");
    }
}
