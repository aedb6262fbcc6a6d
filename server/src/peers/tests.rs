//! Two stores and more over loopback, in one process. Their machines are stubs that note down what
//! they are told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_engine::memory::{MemorySnapshots, MemoryState};
use flotilla_engine::{Cf, SnapshotFiles, SnapshotKey, StateOp, StateStore, StoreIds};
use flotilla_proto::metapb::{Peer, Region, RegionEpoch};
use flotilla_proto::raft::peers_client::PeersClient;
use flotilla_proto::raft::peers_server::PeersServer;
use flotilla_proto::raft::{
    Entry, Hello, Message, MessageKind, MessagesRequest, Snapshot, SnapshotChunk, SnapshotRequest,
};
use flotilla_proto::store::{PeerMessage, SnapshotManifest};
use flotilla_raftstore::effects::{Outbound, StoreInput};
use flotilla_raftstore::{PeerInput, RequestError, boot};
use flotilla_router::{Outgoing, OutgoingConfig};
use flotilla_tls::Dial;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

use super::book::{Ask, Book, Found};
use super::{Machines, Parts, Receiver, Transport, VERSION};
use crate::config::{Config, HostPort};
use crate::metrics::Metrics;
use crate::net::{Limits, Server, bind};
use crate::rpc::StopStreams;

const CLUSTER: u64 = 77;
/// Far longer than anything here takes: only a transport that hangs gets there.
const PATIENCE: Duration = Duration::from_secs(60);
/// A region of the snapshots that are sent, and its rows: more than a chunk.
const REGION: u64 = 30;
const ROWS: u64 = 40;
const ROW_BYTES: usize = 100 << 10;

/// What a store's machines were told.
#[derive(Debug)]
enum Told {
    Message(Box<PeerMessage>),
    Unreachable(u64, u64),
    Sent { peer: u64, ok: bool },
    Received(u64),
    Unused(u64, bool),
}

/// Machines that note down, and answer to offers as they are set to.
struct Stub {
    outgoing: Outgoing<Outbound>,
    told: mpsc::UnboundedSender<Told>,
    refuses: Mutex<Option<&'static str>>,
}

impl Stub {
    fn note(&self, told: Told) {
        // The test may be over.
        let _ = self.told.send(told);
    }
}

impl Machines for Stub {
    fn outgoing(&self) -> &Outgoing<Outbound> {
        &self.outgoing
    }

    fn receive(&self, message: PeerMessage) {
        self.note(Told::Message(Box::new(message)));
    }

    fn to_peer(&self, region: u64, input: PeerInput) {
        match input {
            PeerInput::Unreachable { peer } => self.note(Told::Unreachable(region, peer)),
            PeerInput::SnapshotSent { peer, ok } => self.note(Told::Sent { peer, ok }),
            other => unreachable!("{other:?}"),
        }
    }

    fn to_store(&self, input: StoreInput) {
        match input {
            StoreInput::SnapshotOffer { answer, .. } => answer.give(match *self.refuses.lock() {
                None => Ok(()),
                Some(reason) => Err(RequestError::Busy { reason }),
            }),
            StoreInput::SnapshotReceived { message } => {
                self.note(Told::Received(message.region_id))
            }
            StoreInput::SnapshotUnused { key, gone } => self.note(Told::Unused(key.region, gone)),
            other => unreachable!("{other:?}"),
        }
    }
}

/// What PD would say; the stores share it.
#[derive(Clone, Default)]
struct Directory(Arc<Mutex<BTreeMap<u64, Found>>>);

impl Directory {
    fn set(&self, store: u64, address: &str) {
        self.0.lock().insert(store, Found::At(address.to_owned()));
    }

    fn ask(&self) -> Ask {
        let directory = self.clone();
        Arc::new(move |store| -> BoxFuture<'static, _> {
            let found = directory.0.lock().get(&store).cloned();
            Box::pin(std::future::ready(Ok(found.unwrap_or(Found::NoMember))))
        })
    }
}

/// A store's transport that runs.
struct End {
    store: u64,
    stub: Arc<Stub>,
    told: mpsc::UnboundedReceiver<Told>,
    files: Arc<MemorySnapshots>,
    metrics: Metrics,
    addr: String,
    running: JoinHandle<()>,
    _server: Server,
    _streams: StopStreams,
}

impl Drop for End {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn start(directory: &Directory, store: u64) -> End {
    start_with(directory, store, |_| {}).await
}

async fn start_with(directory: &Directory, store: u64, change: impl FnOnce(&mut Parts)) -> End {
    let (tell, told) = mpsc::unbounded_channel();
    let stub = Arc::new(Stub {
        outgoing: Outgoing::new(OutgoingConfig::default()),
        told: tell,
        refuses: Mutex::new(None),
    });
    let (files, metrics) = (Arc::new(MemorySnapshots::new()), Metrics::new());
    let machines: Arc<dyn Machines> = stub.clone();
    let mut parts = Parts {
        ids: StoreIds {
            cluster_id: CLUSTER,
            store_id: store,
        },
        address: String::new(),
        machines,
        files: files.clone(),
        book: Arc::new(Book::new(directory.ask())),
        dial: Dial::PLAIN,
        room: Arc::new(|_| None),
        metrics: Arc::clone(&metrics.peers),
        snapshot_bandwidth: u64::MAX,
        snapshots_max: 2,
        snapshot_counts: Arc::default(),
    };
    change(&mut parts);
    let transport = Transport::new(parts);
    let (streams, stopping) = StopStreams::new();
    let service = PeersServer::new(Receiver::new(&transport, stopping));
    let routes = tonic::service::Routes::new(service.max_decoding_message_size(16 << 20));
    let any = HostPort {
        host: "127.0.0.1".to_owned(),
        port: 0,
    };
    let bound = bind("addr", &any).await.expect("a free port");
    let addr = bound.addr().to_string();
    let limits = Limits::of(&Config::default());
    let routes = routes.prepare().into_axum_router();
    let server = Server::start(
        bound,
        routes,
        limits,
        false,
        None,
        Arc::clone(&metrics.network),
    );
    directory.set(store, &addr);
    End {
        store,
        stub,
        told,
        files,
        metrics,
        addr,
        running: tokio::spawn(transport.run()),
        _server: server,
        _streams: streams,
    }
}

impl End {
    fn send(&self, outbound: Outbound) {
        self.stub.outgoing.push(outbound).expect("there is room");
    }

    async fn next(&mut self) -> Told {
        let told = tokio::time::timeout(PATIENCE, self.told.recv()).await;
        told.expect("told in time").expect("the stub is there")
    }

    async fn message(&mut self) -> PeerMessage {
        match self.next().await {
            Told::Message(message) => *message,
            other => panic!("no message: {other:?}"),
        }
    }

    /// A connection of somebody who says what a test wants.
    async fn stranger(&self) -> PeersClient<tonic::transport::Channel> {
        let endpoint = super::endpoint(&self.addr, &Dial::PLAIN).expect("an address");
        PeersClient::new(endpoint.connect().await.expect("it listens"))
    }

    fn count(&self, name: &str) -> u64 {
        let text = self.metrics.render();
        let of_it = |line: &&str| line.starts_with(&format!("{name} "));
        let line = text.lines().find(of_it);
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or(0)
    }
}

fn peer(id: u64, store_id: u64) -> Option<Peer> {
    Some(Peer {
        id,
        store_id,
        ..Peer::default()
    })
}

/// From the peer of `region` on one store to that on another: their ids are `region * 100 + store`.
fn message(region: u64, from: u64, to: u64, kind: MessageKind, bytes: usize) -> Outbound {
    let entries = (bytes > 0).then(|| Entry {
        data: vec![b'x'; bytes].into(),
        ..Entry::default()
    });
    let message = Message {
        kind: kind.into(),
        entries: entries.into_iter().collect(),
        ..Message::default()
    };
    Outbound {
        store: to,
        message: PeerMessage {
            region_id: region,
            from_peer: peer(region * 100 + from, from),
            to_peer: peer(region * 100 + to, to),
            message: Some(message),
            ..PeerMessage::default()
        },
    }
}

fn hello(from_store: u64, to_store: u64) -> Option<Hello> {
    Some(Hello {
        version: VERSION,
        cluster_id: CLUSTER,
        from_store,
        to_store,
        address: String::new(),
    })
}

// ---- messages ----

#[tokio::test]
async fn messages_arrive_in_order_and_in_bulks() {
    let directory = Directory::default();
    let (one, mut two) = (start(&directory, 1).await, start(&directory, 2).await);
    let count = 3_000;
    for region in 1..=count {
        one.send(message(region, 1, 2, MessageKind::Append, 1_000));
    }
    for region in 1..=count {
        let found = two.message().await;
        let expected = message(region, 1, 2, MessageKind::Append, 1_000).message;
        assert_eq!(found, expected);
    }
    assert_eq!(two.count("flotilla_peers_received_total"), count);
    let bulks = one.count("flotilla_peers_bulk_size_count");
    assert!(bulks < count / 8, "{bulks} bulk messages");
}

#[tokio::test]
async fn an_entry_larger_than_a_bulk_goes_alone() {
    let directory = Directory::default();
    let (one, mut two) = (start(&directory, 1).await, start(&directory, 2).await);
    for (region, bytes) in [(1, 8 << 20), (2, 10), (3, 8 << 20)] {
        one.send(message(region, 1, 2, MessageKind::Append, bytes));
    }
    for region in 1..=3 {
        assert_eq!(two.message().await.region_id, region);
    }
}

#[tokio::test]
async fn a_store_that_is_away_loses_what_waits_and_is_found_again_elsewhere() {
    let directory = Directory::default();
    let mut one = start(&directory, 1).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let nobody_s = nobody.local_addr().expect("bound").to_string();
    drop(nobody);
    directory.set(2, &nobody_s);
    one.send(message(5, 1, 2, MessageKind::Append, 10));
    one.send(message(6, 1, 2, MessageKind::Vote, 0));
    let mut unreachable = Vec::new();
    while unreachable.len() < 2 {
        match one.next().await {
            Told::Unreachable(region, peer) => unreachable.push((region, peer)),
            other => panic!("{other:?}"),
        }
    }
    unreachable.sort_unstable();
    assert_eq!(unreachable, [(5, 502), (6, 602)]);

    // It comes back under another address, which PD knows.
    let mut two = start(&directory, 2).await;
    let found = loop {
        one.send(message(7, 1, 2, MessageKind::Append, 10));
        tokio::select! {
            found = two.message() => break found,
            told = one.next() => assert!(matches!(told, Told::Unreachable(7, 702)), "{told:?}"),
        }
    };
    assert_eq!(found.region_id, 7);
}

#[tokio::test]
async fn a_store_that_does_not_answer_holds_up_nobody_else() {
    let directory = Directory::default();
    let (one, mut three) = (start(&directory, 1).await, start(&directory, 3).await);
    // It takes connections, and then nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent_s = silent.local_addr().expect("bound").to_string();
    directory.set(2, &silent_s);
    for region in 1..=200 {
        one.send(message(region, 1, 2, MessageKind::Append, 100 << 10));
        one.send(message(region, 1, 3, MessageKind::Append, 100 << 10));
    }
    for region in 1..=200 {
        assert_eq!(three.message().await.region_id, region);
    }
}

#[tokio::test]
async fn a_message_in_another_s_name_is_dropped() {
    let directory = Directory::default();
    let mut two = start(&directory, 2).await;
    directory.set(1, "127.0.0.1:1");
    let foreign = [
        message(8, 3, 2, MessageKind::Append, 1),
        message(8, 1, 3, MessageKind::Append, 1),
    ];
    let own = message(9, 1, 2, MessageKind::Append, 1);
    let bulk = foreign.into_iter().chain([own]).map(|sent| sent.message);
    let requests = [
        MessagesRequest {
            hello: hello(1, 2),
            messages: Vec::new(),
        },
        MessagesRequest {
            hello: None,
            messages: bulk.collect(),
        },
    ];
    let requests = tokio_stream::iter(requests).chain(tokio_stream::pending());
    let _open = two.stranger().await.messages(requests).await;
    assert_eq!(two.message().await.region_id, 9);
    assert_eq!(two.count("flotilla_peers_misattributed_total"), 2);
}

#[tokio::test]
async fn a_stream_that_does_not_belong_here_is_refused_with_the_reason() {
    let directory = Directory::default();
    let two = start(&directory, 2).await;
    directory.set(1, "127.0.0.1:1");
    let check = async |change: fn(&mut Hello), code: Code, word: &str| {
        let mut hello = hello(1, 2);
        hello.iter_mut().for_each(change);
        let first = MessagesRequest {
            hello,
            messages: Vec::new(),
        };
        let requests = tokio_stream::once(first).chain(tokio_stream::pending());
        let answer = two.stranger().await.messages(requests).await;
        let status = answer.err().unwrap_or_else(|| Status::ok("taken"));
        assert_eq!(status.code(), code, "{word}: {status}");
        assert!(status.message().contains(word), "{word}: {status}");
    };
    let refused = Code::FailedPrecondition;
    check(|_| {}, Code::Ok, "taken").await;
    let cluster = "belongs to cluster 77, not to cluster 78";
    check(|hello| hello.cluster_id += 1, refused, cluster).await;
    let target = "store 2 lives here, not store 9";
    check(|hello| hello.to_store = 9, refused, target).await;
    check(|hello| hello.from_store = 4, refused, "knows no store 4").await;
    let same = super::twin::SAME_STORE;
    check(|hello| hello.from_store = 2, same, "copied").await;
    check(|hello| hello.version = 0, refused, "update that node").await;
    check(
        |hello| hello.version = VERSION + 1,
        refused,
        "update this node",
    )
    .await;
    assert_eq!(two.count("flotilla_peers_refused_total"), 6);

    // A node that starts with the same identity finds out by itself.
    let ids = |store_id| StoreIds {
        cluster_id: CLUSTER,
        store_id,
    };
    assert!(super::twin::lives_at(&two.addr, ids(2), &Dial::PLAIN).await);
    assert!(!super::twin::lives_at(&two.addr, ids(3), &Dial::PLAIN).await);
    assert!(!super::twin::lives_at("127.0.0.1:1", ids(2), &Dial::PLAIN).await);
}

// ---- snapshots ----

/// A region with rows, built by store 1 for store 2.
fn build(files: &MemorySnapshots) -> SnapshotManifest {
    build_of(files, ROWS)
}

fn build_of(files: &MemorySnapshots, rows: u64) -> SnapshotManifest {
    let region = Region {
        id: REGION,
        start_key: "a".into(),
        end_key: "z".into(),
        region_epoch: Some(RegionEpoch {
            conf_ver: 2,
            version: 3,
        }),
        peers: [1, 2]
            .iter()
            .filter_map(|store| peer(REGION * 100 + store, *store))
            .collect(),
        ..Region::default()
    };
    let state = MemoryState::new();
    let mut batch = boot::first_state(1, vec![region], Vec::new());
    batch.ops.extend((0..rows).map(|row| StateOp::Put {
        cf: Cf::CfDefault,
        key: format!("k{row:04}").into(),
        value: vec![row as u8; ROW_BYTES].into(),
    }));
    state.write(&batch).expect("written");
    let mut pace = |_| std::ops::ControlFlow::Continue(());
    let built = files.build(&state.snapshot(), REGION, &mut pace);
    built.expect("built").1
}

fn offer(manifest: &SnapshotManifest) -> Outbound {
    let mut outbound = message(REGION, 1, 2, MessageKind::Snapshot, 0);
    if let Some(inner) = &mut outbound.message.message {
        inner.snapshot = Some(Box::new(Snapshot {
            meta: None,
            manifest: manifest.encode_to_vec().into(),
        }));
    }
    outbound
}

#[tokio::test]
async fn a_snapshot_arrives_whole_and_both_ends_are_told() {
    let directory = Directory::default();
    let (mut one, mut two) = (start(&directory, 1).await, start(&directory, 2).await);
    let manifest = build(&one.files);
    one.send(offer(&manifest));
    let told = two.next().await;
    assert!(matches!(told, Told::Received(REGION)), "{told:?}");
    let told = one.next().await;
    let expected = REGION * 100 + 2;
    assert!(
        matches!(told, Told::Sent { peer, ok: true } if peer == expected),
        "{told:?}"
    );
    let key = SnapshotKey::incoming(&manifest);
    assert!(two.files.intact(&key, &manifest).expect("readable"));
    let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    assert_eq!(one.count("flotilla_snapshot_sent_bytes_total"), bytes);
}

/// A way to `to` whose first connection breaks after so many bytes.
async fn breaking_way(to: String, bytes: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        let mut left = Some(bytes);
        while let Ok((from, _)) = listener.accept().await {
            let (to, most) = (to.clone(), left.take().unwrap_or(u64::MAX));
            tokio::spawn(async move {
                let to = TcpStream::connect(to).await.expect("it listens");
                let ((from, mut back), (mut answers, mut on)) =
                    (from.into_split(), to.into_split());
                let (mut asked, answered) = (
                    from.take(most),
                    tokio::spawn(async move { copy(&mut answers, &mut back).await }),
                );
                // Both directions end with this one.
                let _ = copy(&mut asked, &mut on).await;
                answered.abort();
            });
        }
    });
    addr
}

#[tokio::test]
async fn a_snapshot_whose_connection_breaks_goes_on_where_it_was() {
    let directory = Directory::default();
    let mut one = start(&directory, 1).await;
    let mut two = start(&directory, 2).await;
    // Far more than what sockets hold.
    let manifest = build_of(&one.files, 10 * ROWS);
    let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    directory.set(2, &breaking_way(two.addr.clone(), bytes * 3 / 4).await);
    one.send(offer(&manifest));
    let told = two.next().await;
    assert!(matches!(told, Told::Received(REGION)), "{told:?}");
    let told = one.next().await;
    assert!(matches!(told, Told::Sent { ok: true, .. }), "{told:?}");
    let key = SnapshotKey::incoming(&manifest);
    assert!(two.files.intact(&key, &manifest).expect("readable"));
    assert!(one.count("flotilla_snapshots_resumed_total") > 0);
    assert_eq!(two.count("flotilla_snapshots_received_total"), 1);
    let sent = one.count("flotilla_snapshot_sent_bytes_total");
    let again = sent - bytes;
    assert!(
        again < bytes / 2,
        "{again} of {bytes} bytes were sent again"
    );
    assert!(two.told.try_recv().is_err(), "nothing was given up");
}

#[tokio::test]
async fn a_snapshot_that_is_refused_leaves_nothing_and_owes_nothing() {
    let check = async |word: &str, change: fn(&mut Parts), refuses: Option<&'static str>| {
        let directory = Directory::default();
        let mut one = start(&directory, 1).await;
        let mut two = start_with(&directory, 2, change).await;
        *two.stub.refuses.lock() = refuses;
        one.send(offer(&build(&one.files)));
        let told = one.next().await;
        assert!(
            matches!(told, Told::Sent { ok: false, .. }),
            "{word}: {told:?}"
        );
        assert_eq!(two.files.list().expect("readable"), [], "{word}");
        assert!(two.told.try_recv().is_err(), "{word}");
    };
    check("by the machines", |_| {}, Some("the range is taken")).await;
    check(
        "a full disk",
        |parts| parts.room = Arc::new(|_| Some("full".into())),
        None,
    )
    .await;
    check("too many", |parts| parts.snapshots_max = 0, None).await;
}

#[tokio::test]
async fn a_snapshot_that_breaks_is_abandoned_and_its_files_go() {
    let directory = Directory::default();
    let mut two = start(&directory, 2).await;
    directory.set(1, "127.0.0.1:1");
    let manifest = build(&MemorySnapshots::new());
    let first = SnapshotRequest {
        hello: hello(1, 2),
        message: Some(offer(&manifest).message),
        chunk: None,
    };
    let chunk = |data: &'static [u8], crc: u32| SnapshotRequest {
        chunk: Some(SnapshotChunk {
            cf: Cf::CfDefault.into(),
            offset: 0,
            data: Bytes::from_static(data),
            crc,
        }),
        ..SnapshotRequest::default()
    };
    let good = chunk(b"abc", crc32c::crc32c(b"abc"));
    let mut check = async |word: &str, code: Code, parts: Vec<SnapshotRequest>| {
        let mut stub = two.stranger().await;
        let requests = [first.clone()].into_iter().chain(parts);
        let answers = stub.snapshot(tokio_stream::iter(requests)).await;
        let mut answers = answers.expect("it answers").into_inner();
        let status = loop {
            match answers.message().await {
                Ok(Some(answer)) => assert!(!answer.received, "{word}"),
                Ok(None) => panic!("{word}: it ended without a word"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), code, "{word}: {status}");
        let told = two.next().await;
        assert!(
            matches!(told, Told::Unused(REGION, true)),
            "{word}: {told:?}"
        );
        assert_eq!(two.files.list().expect("readable"), [], "{word}");
    };
    check("flipped", Code::DataLoss, vec![chunk(b"abc", 1)]).await;
    check("a gap", Code::Aborted, vec![good.clone(), good.clone()]).await;
    check("cut short", Code::Aborted, vec![good]).await;
    check(
        "no chunk",
        Code::InvalidArgument,
        vec![SnapshotRequest::default()],
    )
    .await;
}

#[tokio::test]
async fn a_snapshot_for_a_store_that_is_away_is_reported() {
    let directory = Directory::default();
    let mut one = start(&directory, 1).await;
    one.send(offer(&build(&one.files)));
    let told = one.next().await;
    assert!(matches!(told, Told::Sent { ok: false, .. }), "{told:?}");
    assert_eq!(one.store, 1);
}
