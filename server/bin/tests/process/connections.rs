//! Many connections, and clients that take nothing of what they asked for.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::kvrpcpb as k;
use flotilla_proto::pdpb as p;
use flotilla_proto::tikvpb as t;
use prost::Message;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tonic::Code;

use crate::client::{self, Client, wait};
use crate::node::{Node, eventually};
use crate::wire::{self, Deaf};

const MIB: u64 = 1 << 20;

/// Connections that are opened in all.
const CONNECTIONS: usize = 10_000;
/// How many of them the node takes at once.
const CONNECTIONS_MAX: usize = 9_000;
/// Files this process needs for everything else.
const FILES_BESIDE: u64 = 1_000;
/// Memory of a connection that does nothing.
const CONNECTION_MEMORY: u64 = 32 << 10;
/// Memory that a node may keep of what it needed for a while.
const MEMORY_LEFT: u64 = 64 * MIB;
/// Files and sockets that may come and go meanwhile: files of RocksDB, the node's own connections.
const FILES_LEFT: usize = 16;

/// How many connections this process can have open at once.
fn connections_at_once() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("up to the hard limit");
    let allowed = maximum.unwrap_or(u64::MAX).saturating_sub(FILES_BESIDE);
    usize::try_from(allowed).map_or(CONNECTIONS, |allowed| allowed.min(CONNECTIONS))
}

/// A connection that says a part of what it should, by its number.
fn open(addr: &str, number: usize) -> TcpStream {
    let mut stream = TcpStream::connect(addr).expect("somebody listens");
    let settings = wire::frame(wire::SETTINGS, 0, 0, &[]);
    let said = match number % 4 {
        0 => Vec::new(),
        1 => wire::PREFACE[..10].to_vec(),
        2 => b"GET /health HTTP/1.1\r\n".to_vec(),
        _ => [wire::PREFACE, &settings].concat(),
    };
    // It may have been closed already: there are too many.
    let _ = stream.write_all(&said);
    stream
}

#[test]
fn ten_thousand_connections_are_opened_and_dropped() {
    let folder = tempfile::tempdir().expect("a folder");
    let at_most = format!("network.connections-max={CONNECTIONS_MAX}");
    // However long it takes to open them all: those that say too little are kept meanwhile.
    let settings = [
        &at_most,
        "network.handshake-timeout=1h",
        "network.keepalive-interval=1h",
    ];
    let node = Node::start(&folder.path().join("store"), &settings);
    let client = Client::connect(&node);
    client.put("row", "value");
    let at_once = connections_at_once();
    println!("{at_once} connections at once");
    let (accepted, open_now) = (
        "flotilla_connections_accepted_total ",
        "flotilla_connections ",
    );
    let (files, resident) = (node.open_files(), node.resident());
    let before = node.metric(accepted);

    let (mut opened, mut most) = (0, 0);
    while opened < CONNECTIONS {
        let round = at_once.min(CONNECTIONS - opened);
        let connections: Vec<_> = (0..round).map(|n| open(node.addr(), n)).collect();
        opened += round;
        // Those it took are there; the others were closed as soon as they came.
        let held = round.min(CONNECTIONS_MAX);
        eventually("the node to have taken them", || {
            (node.open_files() + FILES_LEFT >= files + held).then_some(())
        });
        most = most.max(node.resident().saturating_sub(resident));
        assert_eq!(client.get("row"), Some("value".into()), "others are served");
        drop(connections);
        eventually("the node to have dropped them", || {
            (node.open_files() <= files + FILES_LEFT).then_some(())
        });
    }
    let allowed = CONNECTION_MEMORY * CONNECTIONS_MAX as u64 + MEMORY_LEFT;
    println!("{} MiB more at most", most / MIB);
    assert!(most <= allowed, "{most} bytes of {allowed}");

    let came = node.metric(accepted) - before;
    assert!(came >= CONNECTIONS as u64, "{came} were accepted");
    if at_once > CONNECTIONS_MAX {
        let refused = node.metric("flotilla_connections_refused_total ");
        assert!(refused > 0, "more came than may be open at once");
    }
    eventually("the node to count its connections down", || {
        (node.metric(open_now) <= 8).then_some(())
    });
    eventually("the node to give its memory back", || {
        client.put("row", "value");
        let more = node.resident().saturating_sub(resident);
        (more <= MEMORY_LEFT).then_some(())
    });
    let late = Client::connect(&node);
    late.put("late", "value");
    assert_eq!(late.content().len(), 2);
    node.stop();
}

/// Answers that waited until they were made.
const DELAYED: &str = "flotilla_answers_delayed_total ";
/// Answers that were not made.
const REFUSED: &str = "flotilla_answers_no_room_total ";
/// Answers that a client asks for and never reads, in all.
const UNREAD: u64 = 1_000 * MIB;
/// Memory they may take: what may be unread, once as rows and once as messages on their way out,
/// and some for everything else.
const UNREAD_MEMORY: u64 = 2 * 64 * MIB + 96 * MIB;

/// A node with a row of 1 MiB under `big`, which gives a client that reads nothing a second. All
/// clients together may leave as much unread as one.
fn node_with_a_big_row(folder: &tempfile::TempDir) -> (Node, Client) {
    let settings = ["network.stall-timeout=1s", "network.answers-max=64MiB"];
    let node = Node::start(&folder.path().join("store"), &settings);
    let client = Client::connect(&node);
    client.put("big", vec![7; MIB as usize]);
    client.put("row", "value");
    (node, client)
}

fn get_big(client: &Client) -> k::RawGetRequest {
    k::RawGetRequest {
        context: Some(client.route(b"big").context()),
        key: "big".into(),
        ..k::RawGetRequest::default()
    }
}

/// Clients ask for much and read nothing: the node's memory stays bounded, others are served, and
/// in the end the connections that hold any are closed. `put_off` counts the answers that had to wait.
#[track_caller]
fn check_unread(
    clients: u64,
    put_off: &str,
    mut ask: impl FnMut(&Client, &mut Deaf) -> std::io::Result<()>,
) {
    let folder = tempfile::tempdir().expect("a folder");
    let (node, client) = node_with_a_big_row(&folder);
    let resident = node.resident();
    let mut deaf: Vec<_> = (0..clients)
        .map(|_| Deaf::connect(node.addr()).expect("connected"))
        .collect();
    for deaf in &mut deaf {
        ask(&client, deaf).expect("the node takes what it is asked");
    }

    // Who comes when the first has taken all the room gets refusals alone, and its socket may hold all of
    // them: it is not stalled.
    let due = if put_off == REFUSED { 1 } else { clients };
    let (mut most, mut served) = (0, 0);
    eventually("the node to close the connections", || {
        most = most.max(node.resident().saturating_sub(resident));
        assert_eq!(client.get("row"), Some("value".into()));
        served += 1;
        let closed = node.metric("flotilla_connections_stalled_total ");
        (closed >= due).then_some(())
    });
    println!("{} MiB more at most, {served} looks", most / MIB);
    assert!(most <= UNREAD_MEMORY, "{most} bytes");
    assert!(
        node.metric(put_off) > 0,
        "nothing was put off: not enough was asked for"
    );
    node.logs(&["closed a connection that did not take its answers"]);
    eventually("the node to give its memory back", || {
        client.put("row", "value");
        let more = node.resident().saturating_sub(resident);
        (more <= MEMORY_LEFT).then_some(())
    });
    assert_eq!(
        Client::connect(&node).get("big").map(|row| row.len()),
        Some(MIB as usize)
    );
    node.stop();
}

#[test]
fn a_client_that_asks_and_never_reads_is_bounded() {
    check_unread(1, DELAYED, |client, deaf| {
        let message = get_big(client).encode_to_vec();
        (0..UNREAD / MIB).try_for_each(|_| deaf.call("/tikvpb.Tikv/RawGet", &message))
    });
}

#[test]
fn clients_that_ask_and_never_read_are_bounded_together() {
    // Each less than it may leave unread by itself, all together more than all may.
    const CLIENTS: u64 = 8;
    const UNREAD_OF_EACH: u64 = 50 * MIB;
    check_unread(CLIENTS, DELAYED, |client, deaf| {
        let message = get_big(client).encode_to_vec();
        (0..UNREAD_OF_EACH / MIB).try_for_each(|_| deaf.call("/tikvpb.Tikv/RawGet", &message))
    });
}

/// Splits off regions with keys so long that telling all regions takes more than 100 KiB.
fn split_widely(client: &Client) {
    const REGIONS: usize = 50;
    let before = client.regions().len();
    let key = |n: usize| Bytes::from(format!("{n:02}{}", "k".repeat(1 << 10)));
    let request = k::SplitRegionRequest {
        context: Some(client.route(b"row").context()),
        split_keys: (0..REGIONS).map(key).collect(),
        is_raw_kv: true,
        ..k::SplitRegionRequest::default()
    };
    let split = wait(client.tikv().split_region(request)).expect("an answer");
    assert_eq!(split.into_inner().region_error, None);
    eventually("PD to know all regions", || {
        (client.regions().len() == before + REGIONS).then_some(())
    });
}

#[test]
fn clients_that_ask_pd_and_never_read_are_bounded() {
    let mut split = false;
    check_unread(2, REFUSED, |client, deaf| {
        if !std::mem::replace(&mut split, true) {
            split_widely(client);
        }
        let message = p::ScanRegionsRequest {
            header: client.header(),
            ..p::ScanRegionsRequest::default()
        };
        let message = message.encode_to_vec();
        (0..1_000).try_for_each(|_| deaf.call("/pdpb.PD/ScanRegions", &message))
    });
}

/// A single small answer that is never taken, by somebody who is alive otherwise.
#[test]
fn a_client_that_takes_nothing_is_let_go_though_it_is_alive() {
    let folder = tempfile::tempdir().expect("a folder");
    let (node, client) = node_with_a_big_row(&folder);
    let message = k::RawGetRequest {
        key: "row".into(),
        ..get_big(&client)
    };
    let mut deaf = Deaf::closed(node.addr()).expect("connected");
    deaf.call("/tikvpb.Tikv/RawGet", &message.encode_to_vec())
        .expect("the node takes what it is asked");
    eventually("the node to close the connection", || {
        // It may be closed just now.
        let _ = deaf.ping();
        let closed = node.metric("flotilla_connections_stalled_total ");
        (closed == 1).then_some(())
    });
    assert_eq!(client.get("row"), Some("value".into()));
    node.stop();
}

#[test]
fn a_stream_that_asks_and_never_reads_is_bounded() {
    check_unread(1, DELAYED, |client, deaf| {
        let ask = t::batch_commands_request::Request {
            cmd: Some(t::batch_commands_request::request::Cmd::RawGet(get_big(
                client,
            ))),
        };
        let stream = deaf.open("/tikvpb.Tikv/BatchCommands")?;
        for id in 0..UNREAD / MIB {
            let message = t::BatchCommandsRequest {
                requests: vec![ask.clone()],
                request_ids: vec![id],
                ..t::BatchCommandsRequest::default()
            };
            deaf.send(stream, &wire::grpc(&message.encode_to_vec()), false)?;
        }
        Ok(())
    });
}

#[test]
fn requests_that_never_end_are_bounded() {
    let folder = tempfile::tempdir().expect("a folder");
    // A quarter of it for each connection.
    let node = Node::start(
        &folder.path().join("store"),
        &["network.requests-max=128MiB"],
    );
    let client = Client::connect(&node);
    client.put("row", "value");
    let resident = node.resident();
    const CALLS: usize = 40;
    const SHARE: u64 = 32 * MIB;
    let begun = Bytes::from(wire::grpc(&vec![0; 15 << 20])).slice(..10 << 20);
    let greedy = Client::connect(&node);
    let calls: Vec<_> = (0..CALLS)
        .map(|_| client::spawn(greedy.begin("/tikvpb.Tikv/RawPut", begun.clone())))
        .collect();
    let mut most = 0;
    eventually("the node to refuse what does not fit", || {
        most = most.max(node.resident().saturating_sub(resident));
        let refused = node.metric("flotilla_requests_no_room_total ");
        let told = calls.iter().filter(|call| call.is_finished()).count();
        (told > 0 && refused >= told as u64).then_some(())
    });
    assert_eq!(client.get("row"), Some("value".into()), "others are served");
    println!("{} MiB more at most", most / MIB);
    assert!(most <= SHARE + UNREAD_MEMORY, "{most} bytes");
    for call in calls {
        if call.is_finished() {
            let refused = wait(call).expect("no panic");
            assert_eq!(refused.code, Some(Code::ResourceExhausted), "{refused:?}");
            assert!(
                refused.message.contains("too many bytes of requests"),
                "{refused:?}"
            );
        } else {
            call.abort();
        }
    }
    drop(greedy);
    eventually("the node to give its memory back", || {
        client.put("row", "value");
        let more = node.resident().saturating_sub(resident);
        (more <= MEMORY_LEFT).then_some(())
    });
    client.put("large", vec![7; 5 << 20]);
    node.stop();
}

#[test]
fn a_flood_of_questions_without_reading_is_bounded() {
    let folder = tempfile::tempdir().expect("a folder");
    let (node, client) = node_with_a_big_row(&folder);
    let resident = node.resident();
    let mut deaf = Deaf::connect(node.addr()).expect("connected");
    deaf.set_patience(Duration::from_millis(500));
    let request = p::TsoRequest {
        header: client.header(),
        count: 1,
        ..p::TsoRequest::default()
    };
    // As much as a stream may send before it is read, and no more: that would be a fault of its own.
    const WINDOW: usize = 4 << 20;
    let question = wire::grpc(&request.encode_to_vec());
    let questions: Bytes = question.repeat(WINDOW / question.len() / 2).into();
    for _ in 0..3 {
        let asked = deaf
            .open("/pdpb.PD/Tso")
            .and_then(|stream| deaf.send(stream, &questions, false));
        asked.expect("within the window");
    }
    for _ in 0..100 {
        assert_eq!(client.get("row"), Some("value".into()), "others are served");
    }
    let more = node.resident().saturating_sub(resident);
    println!("{} MiB more", more / MIB);
    assert!(more <= UNREAD_MEMORY, "{more} bytes");
    drop(deaf);
    node.stop();
}
