//! `flotilla recover`: two of three nodes are lost for good, and the third goes on.

use std::net::TcpListener;
use std::path::Path;

use bytes::Bytes;
use flotilla_proto::kvrpcpb as k;

use crate::client::{Client, End, cas, get, put};
use crate::cluster::{folder, stores, three_voters, try_send};
use crate::node::{EXIT_FAILED, Exit, Node, Process, eventually, flotilla, refused_start};

const ROWS: usize = 20;

fn key(row: usize) -> String {
    format!("row-{row}")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a readable path")
}

fn recover(args: &[&str]) -> Exit {
    Process::spawn(flotilla([&["recover"], args].concat())).wait()
}

#[track_caller]
fn done(exit: &Exit, parts: &[&str]) {
    assert_eq!(exit.code, Some(0), "{exit:?}");
    for part in parts {
        assert!(exit.out.contains(part), "{part:?} is not in {exit:?}");
    }
}

/// Waits until the replica on `node` serves a read of the row: it has applied what was acknowledged before.
fn served_by(node: &Node, row: usize) {
    let client = Client::connect(node);
    let own = stores(&client)
        .into_iter()
        .find(|(_, addr)| addr == node.addr());
    let (own, _) = own.expect("it is registered");
    eventually("the replica to serve a read", || {
        let route = client.try_route(key(row).as_bytes()).ok().flatten()?;
        let mut peers = route.region.peers.iter();
        let context = k::Context {
            replica_read: true,
            peer: peers.find(|peer| peer.store_id == own).copied(),
            ..route.context()
        };
        matches!(client.send(get(key(row)), context), End::Done).then_some(())
    });
}

#[test]
fn the_node_that_is_left_goes_on_alone() {
    let dirs = [folder(), folder(), folder()];
    let nodes = three_voters(&dirs);
    for row in 0..ROWS {
        eventually("a write to be taken", || {
            try_send(&nodes, &key(row), put(key(row), "value"))
        });
    }
    let left = dirs[2].path();
    for row in 0..ROWS {
        served_by(&nodes[2], row);
    }
    let cluster = Client::connect(&nodes[2]).cluster.to_string();
    let files = folder();
    let (report, plan) = (
        files.path().join("report.json"),
        files.path().join("plan.json"),
    );
    let (report, plan) = (text(&report), text(&plan));

    let inspect = ["inspect", "--data-dir", text(left), "--out", report];
    recover(&inspect).refused(EXIT_FAILED, &["in use by another process"]);
    let mut nodes = nodes;
    let third = nodes.pop().expect("there are three");
    third.kill9();
    done(&recover(&inspect), &[&cluster]);
    recover(&["plan", report, "--out", plan]).refused(EXIT_FAILED, &["answers at", "not lost"]);
    let lost = nodes[0].addr().to_owned();
    nodes.into_iter().for_each(Node::kill9);
    // Who does not tell what it is may be the store.
    let silent = TcpListener::bind(&lost).expect("nobody listens there any more");
    recover(&["plan", report, "--out", plan]).refused(EXIT_FAILED, &["somebody listens", "--ca"]);
    drop(silent);

    let planned = recover(&["plan", report, "--out", plan]);
    done(
        &planned,
        &["have lost their majority", "What may be lost", &cluster],
    );
    let apply = |id: &str| recover(&["apply", plan, "--data-dir", text(left), "--cluster-id", id]);
    apply("7").refused(EXIT_FAILED, &["not 7", "nothing was changed"]);
    done(&apply(&cluster), &["go on with its replicas alone"]);
    apply(&cluster).refused(EXIT_FAILED, &["carried out on this store before"]);
    done(&recover(&inspect), &[&cluster]);
    recover(&["plan", report]).refused(EXIT_FAILED, &["nothing to recover"]);

    let node = [Node::start(left, &[])];
    for row in 0..ROWS {
        let swap = cas(key(row), Some(Bytes::from_static(b"value")), "value");
        eventually("the row to be found", || {
            try_send(&node, &key(row), swap.clone())
        });
    }
    // PD knows that the others are gone for good.
    let join = format!("join={}", node[0].addr());
    refused_start(dirs[0].path(), &[&join], &["was removed from its cluster"]);
}
