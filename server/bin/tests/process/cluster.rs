//! Several nodes: they join by any of them, every one of them is PD for clients, and what does not
//! belong together is refused.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use flotilla_proto::metapb::{PeerRole, Region};
use flotilla_proto::pdpb as p;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::client::{Call, Client, End, cas, put, wait};
use crate::folder::{put_back, snapshot};
use crate::node::{EXIT_FAILED, Node, Process, eventually, flotilla, server_args};

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

pub(crate) fn joining(dir: &Path, join: &str, settings: &[&str]) -> Vec<String> {
    let mut args = server_args(dir, settings);
    args.extend(["--join".to_owned(), join.to_owned()]);
    args
}

pub(crate) fn join(dir: &Path, other: &Node) -> Node {
    Node::of(flotilla(joining(dir, other.addr(), &[])), dir)
}

/// The stores that the PD behind `client` knows: ids and addresses, ascending.
pub(crate) fn stores(client: &Client) -> Vec<(u64, String)> {
    eventually("PD to answer", || try_stores(client))
}

fn try_stores(client: &Client) -> Option<Vec<(u64, String)>> {
    let request = p::GetAllStoresRequest {
        header: client.header(),
        ..p::GetAllStoresRequest::default()
    };
    let found = wait(client.pd().get_all_stores(request)).ok()?;
    let stores = found.into_inner().stores.into_iter();
    let mut stores: Vec<_> = stores.map(|store| (store.id, store.address)).collect();
    stores.sort_unstable();
    Some(stores)
}

/// A timestamp, by a stream of its own.
fn timestamp(client: &Client) -> (i64, i64) {
    let request = p::TsoRequest {
        header: client.header(),
        count: 1,
        ..p::TsoRequest::default()
    };
    let stream = wait(client.pd().tso(tokio_stream::iter([request]))).expect("a stream");
    let answer = wait(stream.into_inner().message()).expect("no error");
    let timestamp = answer.and_then(|answer| answer.timestamp);
    let timestamp = timestamp.expect("a timestamp");
    (timestamp.physical, timestamp.logical)
}

#[test]
fn any_node_is_pd_and_takes_in_others() {
    let dirs = [folder(), folder(), folder()];
    let first = Node::start(dirs[0].path(), &[]);
    let second = join(dirs[1].path(), &first);
    let third = join(dirs[2].path(), &second);
    let nodes = [first, second, third];
    let clients = nodes.each_ref().map(Client::connect);
    let addrs = nodes.each_ref().map(Node::addr);

    let mut last = (0, 0);
    for client in &clients {
        assert_eq!(client.cluster, clients[0].cluster);
        let found = stores(client);
        assert_eq!(
            found.iter().map(|(_, addr)| addr).collect::<Vec<_>>(),
            addrs
        );
        let next = timestamp(client);
        assert!(next > last, "{next:?} after {last:?}");
        last = next;
    }
    // A client of any node finds the regions.
    eventually("a write to be taken", || {
        try_send(&nodes, "row", put("row", "value"))
    });
    let swap = cas("row", Some(Bytes::from_static(b"value")), "value");
    let [first, second, third] = nodes;
    let nodes = [third, second, first];
    eventually("the row to be found", || {
        try_send(&nodes, "row", swap.clone())
    });
}

#[test]
fn a_node_that_joined_finds_its_cluster_again() {
    let dirs = [folder(), folder()];
    let first = Node::start(dirs[0].path(), &[]);
    let second = join(dirs[1].path(), &first);
    let (cluster, before) = {
        let client = Client::connect(&second);
        (client.cluster, stores(&client))
    };

    // Without --join, under another address: the folder says where PD is.
    second.kill9();
    let second = Node::start(dirs[1].path(), &[]);
    let client = Client::connect(&second);
    assert_eq!(client.cluster, cluster);
    let expected = [before[0].clone(), (before[1].0, second.addr().to_owned())];
    assert_eq!(stores(&client), expected);

    // With it, too; it is not needed.
    second.stop();
    let second = join(dirs[1].path(), &first);
    second.logs(&["join is not needed"]);
    assert_eq!(stores(&Client::connect(&second)).len(), 2);

    // PD is away for a while.
    let addr = first.addr().to_owned();
    first.kill9();
    let first = eventually("the port to be free", || {
        let mut args = server_args(dirs[0].path(), &[]);
        args.extend(["--set".to_owned(), format!("advertise-addr={addr}")]);
        args.iter_mut()
            .filter(|arg| *arg == "127.0.0.1:0")
            .for_each(|arg| arg.clone_from(&addr));
        Node::try_of(flotilla(args), dirs[0].path()).ok()
    });
    let answer = eventually("PD to be found again", || {
        let client = Client::connect(&second);
        client.try_route(b"row").ok().flatten()
    });
    assert_eq!(answer.leader.store_id, before[0].0);
    first.stop();
}

/// The node of a store.
fn node_of<'a>(nodes: &'a [Node], client: &Client, store: u64) -> Option<&'a Node> {
    let found = try_stores(client)?.into_iter().find(|(id, _)| *id == store);
    let (_, addr) = found?;
    nodes.iter().find(|node| node.addr() == addr)
}

/// Sends `call` for `key` to whoever leads it, if that is one of `nodes` and takes it.
pub(crate) fn try_send(nodes: &[Node], key: &str, call: Call) -> Option<End> {
    let client = Client::connect(&nodes[0]);
    let route = client.try_route(key.as_bytes()).ok().flatten()?;
    let node = node_of(nodes, &client, route.leader.store_id)?;
    let end = Client::connect(node).send(call, route.context());
    matches!(end, End::Done).then_some(end)
}

/// A cluster of three nodes that has brought every region to three voters.
pub(crate) fn three_voters(dirs: &[TempDir; 3]) -> Vec<Node> {
    let mut nodes = vec![Node::start(dirs[0].path(), &[])];
    for dir in &dirs[1..] {
        nodes.push(join(dir.path(), &nodes[0]));
    }
    let client = Client::connect(&nodes[0]);
    eventually("PD to bring every region to three voters", || {
        let voters = |region: &Region| {
            let peers = region.peers.iter();
            peers.filter(|peer| peer.role() == PeerRole::Voter).count()
        };
        let regions = client.regions();
        (!regions.is_empty() && regions.iter().all(|region| voters(region) == 3)).then_some(())
    });
    // Its own region is not among those that it shows.
    for node in &nodes {
        node.logs(&["PD's own region has voters", "voters=3"]);
    }
    nodes
}

#[test]
fn kill_9_of_a_leader_loses_nothing_and_the_others_go_on() {
    const ROWS: usize = 20;
    let dirs = [folder(), folder(), folder()];
    let nodes = three_voters(&dirs);
    let client = Client::connect(&nodes[0]);
    for row in 0..ROWS {
        let key = format!("row-{row}");
        eventually("a write to be taken", || {
            try_send(&nodes, &key, put(key.clone(), "value"))
        });
    }

    let leader = client.route(b"row-0").leader.store_id;
    let gone = node_of(&nodes, &client, leader)
        .expect("it runs")
        .addr()
        .to_owned();
    let (killed, others): (Vec<_>, Vec<_>) =
        nodes.into_iter().partition(|node| node.addr() == gone);
    let dir = killed[0].dir().to_owned();
    killed.into_iter().for_each(Node::kill9);
    eventually("the others to take a write", || {
        try_send(&others, "row-0", put("row-0", "later"))
    });

    // Back, under another address.
    let back = Node::start(&dir, &[]);
    let nodes: Vec<_> = others.into_iter().chain([back]).collect();
    for row in 0..ROWS {
        let key = format!("row-{row}");
        let before = if row == 0 { "later" } else { "value" };
        // It changes nothing, and is done only if that is the row.
        let swap = cas(key.clone(), Some(before.into()), before);
        eventually("the row to be found", || {
            try_send(&nodes, &key, swap.clone())
        });
    }
}

#[track_caller]
pub(crate) fn refused(args: &[String], parts: &[&str]) {
    Process::spawn(flotilla(args))
        .wait()
        .refused(EXIT_FAILED, parts);
}

#[test]
fn joins_that_cannot_be_meant_are_refused_and_leave_nothing() {
    let (dir, new) = (folder(), folder());
    let new = new.path().join("store");
    let node = Node::start(dir.path(), &[]);

    // Itself: by the address that it would listen on.
    let mut oneself = joining(&new, "127.0.0.1:20999", &[]);
    oneself
        .iter_mut()
        .filter(|arg| *arg == "127.0.0.1:0")
        .for_each(|arg| "127.0.0.1:20999".clone_into(arg));
    refused(&oneself, &["127.0.0.1:20999", "this node's own address"]);

    let advertised = format!("advertise-addr={}", node.addr());
    let taken = joining(&new, node.addr(), &[&advertised]);
    refused(&taken, &["this node's own address"]);

    // Nobody there.
    let nobody = joining(&new, "127.0.0.1:1", &[]);
    refused(&nobody, &["cannot join by 127.0.0.1:1"]);
    assert!(!new.exists(), "nothing was made");
}

#[test]
fn a_store_does_not_go_from_one_cluster_to_another() {
    let (one, other) = (folder(), folder());
    let node = Node::start(one.path(), &[]);
    Node::start(other.path(), &[]).stop();
    let cluster = Client::connect(&node).cluster.to_string();
    let moved = joining(other.path(), node.addr(), &[]);
    refused(&moved, &["belongs to cluster", &cluster, "its own cluster"]);
    // It is what it was.
    Node::start(other.path(), &[]).stop();
}

#[test]
fn an_address_that_another_store_has_is_refused() {
    let (dir, new) = (folder(), folder());
    let first = Node::start(dir.path(), &[]);
    let second = join(new.path(), &first);
    let addr = format!("advertise-addr={}", second.addr());
    let third = folder();
    let taken = joining(third.path(), first.addr(), &[&addr]);
    refused(
        &taken,
        &[
            second.addr(),
            "PD does not take this store",
            "duplicated store address",
        ],
    );
}

/// A second folder like that of a node that has stopped.
fn copy_of(dir: &Path, to: &Path) {
    let moved = |path: PathBuf| to.join(path.strip_prefix(dir).expect("in the folder"));
    let files = snapshot(dir).into_iter();
    let files = files
        .map(|(path, content)| (moved(path), content))
        .collect();
    put_back(to, &files);
}

#[test]
fn a_copied_folder_is_refused_while_the_other_one_runs() {
    let dirs = [folder(), folder(), folder()];
    let first = Node::start(dirs[0].path(), &[]);
    let second = join(dirs[1].path(), &first);
    let known = stores(&Client::connect(&second));
    second.stop();
    copy_of(dirs[1].path(), dirs[2].path());
    let second = Node::start(dirs[1].path(), &[]);
    let copied = format!("store {} runs at {} already", known[1].0, second.addr());
    let args = server_args(dirs[2].path(), &[]);
    refused(&args, &[&copied, "one of them is a copy"]);
    // The one that runs is what it was.
    let expected = [known[0].clone(), (known[1].0, second.addr().to_owned())];
    assert_eq!(stores(&Client::connect(&first)), expected);
    // Without it the other one is as good.
    second.kill9();
    Node::start(dirs[2].path(), &[]).stop();
}

#[test]
fn of_two_copies_that_did_not_see_each_other_one_stops() {
    let dirs = [folder(), folder(), folder()];
    let first = Node::start(dirs[0].path(), &[]);
    let second = join(dirs[1].path(), &first);
    second.stop();
    copy_of(dirs[1].path(), dirs[2].path());
    let often = ["store.heartbeat=100ms"];
    let second = Node::start(dirs[1].path(), &often);
    // It cannot say that it is there while the other one asks.
    second.signal(Signal::STOP);
    let third = Node::start(dirs[2].path(), &often);
    second.signal(Signal::CONT);
    let runs = format!("runs at {} now", third.addr());
    let exit = second.wait();
    assert_eq!(exit.code, Some(EXIT_FAILED), "{exit:?}");
    exit.says(&[&runs, "one of them is a copy"]);
    third.stop();
}
