//! What is no request at all: the sender is told, or loses its connection; nobody else notices.

use std::io::Write;

use bytes::Bytes;
use flotilla_proto::kvrpcpb as k;
use prost::Message;
use tempfile::TempDir;
use tonic::Code;

use crate::client::{Client, put};
use crate::dice::Dice;
use crate::node::{Node, eventually};
use crate::wire::{self, frame};

/// Memory that a node may have beyond what it had before, once whoever misbehaved is gone.
const MEMORY_LEFT: u64 = 96 << 20;

/// A node with a row, and a client that was there before the trouble began.
struct World {
    node: Node,
    client: Client,
    _folder: TempDir,
    resident: u64,
}

impl World {
    fn new(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let node = Node::start(&folder.path().join("store"), settings);
        let client = Client::connect(&node);
        client.put("row", "value");
        let resident = node.resident();
        Self {
            node,
            client,
            _folder: folder,
            resident,
        }
    }

    /// The client of before and one of now are served, and the node holds no more than it did.
    #[track_caller]
    fn unharmed(self) {
        assert_eq!(self.client.get("row"), Some("value".into()));
        let late = Client::connect(&self.node);
        late.put("late", "value");
        assert_eq!(late.content().len(), 2);
        assert_eq!(wire::get(self.node.addr(), "/health").status, 200);
        eventually("the node to give its memory back", || {
            let more = self.node.resident().saturating_sub(self.resident);
            (more <= MEMORY_LEFT).then_some(())
        });
        let log = self.node.log();
        assert!(!log.contains("ERROR"), "{log}");
        self.node.stop();
    }
}

const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc"), ("te", "trailers")];
const RAW_PUT: &str = "/tikvpb.Tikv/RawPut";

#[test]
fn a_malformed_grpc_message_ends_its_call_only() {
    let world = World::new(&[]);
    let whole = k::RawPutRequest {
        context: Some(world.client.route(b"row").context()),
        key: "never stored".into(),
        value: "x".into(),
        ..k::RawPutRequest::default()
    };
    let whole = whole.encode_to_vec();
    let with_flag = |flag: u8| {
        let mut message = wire::grpc(&whole);
        message[0] = flag;
        message
    };
    let claims = |bytes: u32| [&[0][..], &bytes.to_be_bytes(), &whole].concat();
    const MIB: u32 = 1 << 20;
    let refused: &[(&str, Vec<u8>, &[Code])] = &[
        (
            "no message at all",
            vec![],
            &[Code::Internal, Code::Unimplemented, Code::InvalidArgument],
        ),
        ("half a header", vec![0, 0, 0], &[Code::Internal]),
        (
            "half a message",
            wire::grpc(&whole)[..whole.len()].to_vec(),
            &[Code::Internal],
        ),
        (
            "an empty context",
            wire::grpc(&[]),
            &[Code::InvalidArgument],
        ),
        (
            "a field that is cut off",
            wire::grpc(&[0x12, 0x7f, b'k']),
            &[Code::Internal],
        ),
        (
            "a varint that never ends",
            wire::grpc(&[0xff; 11]),
            &[Code::Internal],
        ),
        (
            "a key where a message belongs",
            wire::grpc(&[0x0a, 0x02, 0xff, 0xff]),
            &[Code::Internal],
        ),
        (
            "text that is no text",
            wire::grpc(&[0x22, 0x01, 0xff]),
            &[Code::Internal],
        ),
        ("compressed, unasked", with_flag(1), &[Code::Internal]),
        ("an unknown flag", with_flag(7), &[Code::Internal]),
        (
            "one byte above the limit",
            claims(16 * MIB + 1),
            &[Code::OutOfRange],
        ),
        ("four gibibytes", claims(u32::MAX), &[Code::OutOfRange]),
        (
            "two messages in one call",
            [wire::grpc(&[0xff]), wire::grpc(&whole)].concat(),
            &[Code::Internal],
        ),
    ];
    for (what, body, codes) in refused {
        let answer = world
            .client
            .post(RAW_PUT, GRPC, Bytes::copy_from_slice(body));
        assert!(
            answer.code.is_some_and(|code| codes.contains(&code)),
            "{what}: {answer:?}"
        );
        assert!(!answer.message.is_empty(), "{what}: {answer:?}");
    }
    for path in ["/tikvpb.Tikv/Nonsense", "/nonsense.Service/RawPut"] {
        let answer = world.client.post(path, GRPC, wire::grpc(&whole).into());
        assert_eq!(answer.code, Some(Code::Unimplemented), "{path}: {answer:?}");
    }
    world.unharmed();
}

#[test]
fn an_oversized_request_is_refused_and_takes_no_memory() {
    let world = World::new(&[]);
    let context = world.client.route(b"row").context();
    for (mib, served) in [(15, "value too large"), (16, "16777216"), (200, "16777216")] {
        let value = Bytes::from(vec![7; mib << 20]);
        let end = world
            .client
            .send(put("never stored", value), context.clone());
        assert!(end.text().contains(served), "{mib} MiB: {end:?}");
    }
    world.unharmed();
}

#[test]
fn random_bytes_as_requests_are_survived() {
    let world = World::new(&[]);
    let mut dice = Dice::from_env("random_bytes_as_requests_are_survived");
    let right = k::RawPutRequest {
        context: Some(world.client.route(b"row").context()),
        key: "row".into(),
        value: "value".into(),
        ..k::RawPutRequest::default()
    };
    let right = right.encode_to_vec();
    const PATHS: [&str; 8] = [
        "/tikvpb.Tikv/RawGet",
        "/tikvpb.Tikv/RawScan",
        "/tikvpb.Tikv/RawBatchScan",
        "/tikvpb.Tikv/BatchCommands",
        "/tikvpb.Tikv/KvPrewrite",
        "/pdpb.PD/GetRegion",
        "/pdpb.PD/Tso",
        "/keyspacepb.Keyspace/LoadKeyspace",
    ];
    for _ in 0..400 {
        let path = PATHS[dice.below(PATHS.len() as u64) as usize];
        let mut message = match dice.below(2) {
            0 => right.clone(),
            _ => (0..dice.below(64)).map(|_| dice.any() as u8).collect(),
        };
        for _ in 0..dice.below(4) {
            if !message.is_empty() {
                let at = dice.below(message.len() as u64) as usize;
                message[at] = dice.any() as u8;
            }
        }
        let answer = world.client.post(path, GRPC, wire::grpc(&message).into());
        assert_eq!(answer.http, 200, "{path} {message:?}: {answer:?}");
        assert!(answer.code.is_some(), "{path} {message:?}: {answer:?}");
    }
    world.unharmed();
}

/// A connection of HTTP/2 that says `frames` after its settings.
fn http2(frames: &[Vec<u8>]) -> Vec<u8> {
    let hello = [wire::PREFACE.to_vec(), frame(wire::SETTINGS, 0, 0, &[])];
    [hello.concat(), frames.concat()].concat()
}

/// Whether the node said goodbye in the words of HTTP/2.
fn says_goodbye(answer: &[u8]) -> bool {
    let mut rest = answer;
    while rest.len() >= 9 {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        if rest[3] == wire::GOAWAY {
            return true;
        }
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    false
}

#[test]
fn a_connection_that_breaks_the_protocol_is_closed() {
    // Those that break it by saying nothing are waited for; not for long.
    let world = World::new(&["network.handshake-timeout=500ms"]);
    let addr = world.node.addr();
    let headers = wire::call_headers(RAW_PUT);
    let opening = frame(wire::HEADERS, wire::END_HEADERS, 1, &headers);
    let broken: &[(&str, Vec<Vec<u8>>)] = &[
        (
            "a frame above the limit",
            vec![frame(wire::DATA, 0, 1, &vec![0; (64 << 10) + 1])],
        ),
        ("data on no stream", vec![frame(wire::DATA, 0, 0, &[1])]),
        (
            "data on a stream that was never opened",
            vec![frame(wire::DATA, 0, 77, &[1])],
        ),
        (
            "a stream with an even number",
            vec![frame(wire::HEADERS, wire::END_HEADERS, 2, &headers)],
        ),
        (
            "headers that are no HPACK",
            vec![frame(wire::HEADERS, wire::END_HEADERS, 1, &[0xff; 64])],
        ),
        (
            "another frame between headers",
            vec![
                frame(wire::HEADERS, 0, 1, &headers),
                frame(wire::PING, 0, 0, &[0; 8]),
            ],
        ),
        (
            "a continuation of nothing",
            vec![frame(wire::CONTINUATION, wire::END_HEADERS, 1, &headers)],
        ),
        (
            "a ping of three bytes",
            vec![frame(wire::PING, 0, 0, &[0; 3])],
        ),
        (
            "settings of seven bytes",
            vec![frame(wire::SETTINGS, 0, 0, &[0; 7])],
        ),
        (
            "a window that overflows",
            vec![frame(wire::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])],
        ),
        (
            "a push promise",
            vec![
                opening.clone(),
                frame(wire::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2]),
            ],
        ),
        (
            "more than the window of the connection",
            [
                vec![opening.clone()],
                vec![frame(wire::DATA, 0, 1, &[0; 16 << 10]); 1_100],
            ]
            .concat(),
        ),
    ];
    for (what, frames) in broken {
        let answer = wire::exchange(addr, &http2(frames));
        assert!(says_goodbye(&answer), "{what}: {answer:?}");
    }

    // Calls opened and given up, over and over.
    let mut resets = Vec::new();
    for call in 0..20_000 {
        let stream = 2 * call + 1;
        resets.push(frame(wire::HEADERS, wire::END_HEADERS, stream, &headers));
        resets.push(frame(wire::RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    let mut stream = wire::connect(addr);
    // The node may close it in the middle.
    let _ = stream.write_all(&http2(&resets));
    drop(stream);
    world.unharmed();
}

#[test]
fn garbage_on_the_port_is_answered_or_closed() {
    let world = World::new(&["network.handshake-timeout=500ms"]);
    let addr = world.node.addr();
    let mut dice = Dice::from_env("garbage_on_the_port_is_answered_or_closed");
    let garbage: Vec<u8> = (0..64 << 10).map(|_| dice.any() as u8).collect();
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let endless = [&b"GET / HTTP/1.1\r\nX: "[..], &vec![b'x'; 1 << 20]].concat();
    for (what, bytes) in [
        ("nothing", &b""[..]),
        ("one byte", b"\0"),
        ("random bytes", &garbage),
        ("zeros", &[0; 4 << 10]),
        ("the hello of TLS", hello),
        ("half of HTTP/2's hello", &wire::PREFACE[..12]),
        (
            "HTTP/2's hello and no settings",
            &[wire::PREFACE, &garbage].concat(),
        ),
        ("a header without an end", &endless),
        ("half a request", b"GET /health HTTP/1.1\r\nHo"),
    ] {
        let answer = wire::exchange(addr, bytes);
        println!("{what}: {} bytes came back", answer.len());
    }
    for (what, bytes, status) in [
        ("no method", &b"/ HTTP/1.1\r\n\r\n"[..], 400),
        ("no such version", b"GET / HTTP/9.9\r\n\r\n", 400),
        ("a name with a space", b"GET / HTTP/1.1\r\nA B: c\r\n\r\n", 400),
        (
            "a negative length",
            b"POST /pd/api/v2/keyspaces HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            400,
        ),
        (
            "two lengths",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
        ),
        (
            "no such page",
            b"GET /nonsense HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            404,
        ),
        (
            "a page that is not written to",
            b"POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            405,
        ),
        (
            "a keyspace that is no JSON",
            b"POST /pd/api/v2/keyspaces HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
              Content-Type: application/json\r\nContent-Length: 4\r\n\r\n{\"a:",
            400,
        ),
        (
            "a keyspace with a field nobody knows",
            b"POST /pd/api/v2/keyspaces HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
              Content-Type: application/json\r\nContent-Length: 21\r\n\r\n{\"name\":\"k\",\"more\":1}",
            400,
        ),
    ] {
        let page = wire::page(&wire::exchange(addr, bytes));
        assert_eq!(page.status, status, "{what}: {page:?}");
    }
    assert!(world.node.metric("flotilla_connections_silent_total ") > 0);
    world.unharmed();
}
