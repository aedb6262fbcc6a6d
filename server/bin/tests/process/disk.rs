//! A full disk: refused in time, reads and deletes go on, and nothing is lost when it is too late
//! (contracts: C13).

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use flotilla_proto::kvrpcpb as k;

use crate::client::{
    Call, Client, End, batch_delete, batch_put, cas, delete, delete_range, get, put, scan,
};
use crate::node::{EXIT_FAILED, Node, not_shown_here, refused_start};
use crate::small_disk::{DISK_BYTES, SmallDisk};

/// More than any disk has free.
const NEVER_FREE: &str = "storage.disk-reserve=100000TiB";

#[test]
fn a_first_start_needs_room_for_its_reserve() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("deep/store");
    let named = path.to_str().expect("a readable path");
    refused_start(
        &path,
        &[NEVER_FREE],
        &[
            named,
            "are free",
            "100000TiB are to be kept in reserve",
            "storage.disk-reserve",
        ],
    );
    assert!(!folder.path().join("deep").exists());
    Node::start(&path, &[]).stop();
}

#[test]
fn below_the_reserve_reads_and_deletes_are_served_and_writes_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    let node = Node::start(&path, &[]);
    let client = Client::connect(&node);
    for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        client.put(key, "value");
    }
    node.stop();

    // A restart works on a full disk too: otherwise nobody could free any space.
    let node = Node::start(&path, &[NEVER_FREE]);
    node.logs(&["the disk is nearly full: only reads and deletes are served"]);
    assert_eq!(node.metric("flotilla_disk_full "), 1);
    let client = Client::connect(&node);
    let context = client.route(b"a").context();
    let value = || Some(Bytes::from("value"));
    for call in [
        put("a", "new"),
        batch_put([("a".into(), "new".into())]),
        cas("a", value(), "new"),
        cas("z", None, "new"),
    ] {
        let name = format!("{call:?}");
        let end = client.send(call, context.clone());
        let text = end.text();
        let detail = end.detail(|error| error.disk_full);
        assert_eq!(detail.store_id, [1], "{name}");
        assert!(text.contains("are kept in reserve"), "{name}: {text}");
    }
    for call in [
        get("a"),
        scan("a", "z", 10),
        delete("b"),
        batch_delete(["c".into()]),
        delete_range("d", "e"),
        Call::Cas(k::RawCasRequest {
            key: "e".into(),
            previous_value: "value".into(),
            delete: true,
            ..k::RawCasRequest::default()
        }),
    ] {
        let name = format!("{call:?}");
        let end = client.send(call, context.clone());
        assert!(matches!(end, End::Done), "{name}: {end:?}");
    }
    client.split("g");
    let left = BTreeMap::from(["a", "f", "g", "h"].map(|key| (Bytes::from(key), "value".into())));
    assert_eq!(client.content(), left);
    node.kill9();

    let node = Node::start(&path, &[]);
    let client = Client::connect(&node);
    assert_eq!(client.content(), left);
    client.put("z", "there is room again");
    assert_eq!(node.metric("flotilla_disk_full "), 0);
}

/// In memory everything is fast: between two looks at the free space a hundred MiB may be written, and
/// a compaction may write all rows a second time.
const RESERVE: &str = "storage.disk-reserve=256MiB";
/// Settings of a node that is small beside its disk.
const SMALL: &[&str] = &[
    RESERVE,
    "raft.replay-max=8MiB",
    "storage.log-write-buffer=16MiB",
    "storage.state-write-buffer=16MiB",
];

#[test]
fn a_disk_that_fills_up_loses_nothing() {
    let Some(disk) = SmallDisk::new() else {
        not_shown_here(
            "a disk that fills up",
            "the system gives no file system of its own to a test (unshare --map-root-user --mount, mount -t tmpfs)",
        );
        return;
    };
    let path = disk.path.join("store");
    let node = Node::start(&path, SMALL);
    let client = Client::connect(&node);
    let context = client.route(b"row").context();

    // Written until it is refused.
    let mut rows: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    let refused = (0..DISK_BYTES >> 20).find_map(|row| {
        let (key, value) = (format!("row {row:03}"), vec![row as u8; 1 << 20]);
        match client.send(put(key.clone(), value.clone()), context.clone()) {
            End::Done => {
                rows.insert(key.into(), value.into());
                None
            }
            end => Some(end),
        }
    });
    let detail = refused.expect("the disk is full before that");
    detail.detail(|error| error.disk_full);
    println!("{} MiB were written", rows.len());
    assert!(rows.len() > 10, "{} rows", rows.len());
    for row in rows.keys().step_by(7) {
        assert_eq!(client.get(row.clone()).as_ref(), rows.get(row));
    }

    let every_second: Vec<_> = rows.keys().step_by(2).cloned().collect();
    for row in every_second {
        client.send(delete(row.clone()), context.clone()).done();
        rows.remove(&row);
    }

    // Somebody else takes the reserve: soon even deletes have no room, and the node ends, by name.
    let reserve = disk.fill("reserve");
    // None of these is there; asking for them needs room all the same.
    let long = |key: u32| [&key.to_be_bytes()[..], &[b'k'; 8_000]].concat().into();
    let last = (0..DISK_BYTES >> 20).find_map(|_| {
        let call = batch_delete((0..500).map(long));
        let end = client.send(call, context.clone());
        (!matches!(end, End::Done)).then_some(end)
    });
    println!("the last answer: {:?}", last.expect("it ended"));
    let exit = node.wait();
    println!("{}", exit.err);
    assert_eq!(exit.code, Some(EXIT_FAILED), "{exit:?}");
    // A failed compaction RocksDB only counts, and keeps to itself why.
    let named = if exit.err.contains("no space left") {
        "no space left on the device that holds"
    } else {
        "told in the file LOG there"
    };
    exit.says(&[named, disk.path.to_str().expect("a readable path")]);

    // Its end has freed a little. Without any room it does not start; with room again, everything
    // acknowledged is there.
    let rest = disk.fill("rest");
    for _ in 0..2 {
        refused_start(
            &path,
            SMALL,
            &["no space left on the device that holds", "store"],
        );
    }
    for filler in [reserve, rest] {
        fs::remove_file(filler).expect("removed");
    }
    let node = Node::start(&path, SMALL);
    let client = Client::connect(&node);
    assert_eq!(client.content(), rows);
    client.send(delete_range("row", "rox"), context).done();
    assert_eq!(client.content().len(), 0);
    node.stop();
}
