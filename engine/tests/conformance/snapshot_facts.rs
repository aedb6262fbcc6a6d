//! Single facts about snapshots of regions, each run on both engines: one store builds, another
//! receives and installs.

use std::ops::ControlFlow;

use bytes::Bytes;
use flotilla_engine::memory::{MemorySnapshots, MemoryState};
use flotilla_engine::{
    BIRTH, Cf, DATA_CFS, META_REGION, SNAPSHOT_BATCH_BYTES, SnapshotError, SnapshotFiles,
    SnapshotInstall, SnapshotKey, StateBatch, StateOp, StateReader, StateStore, installs_as_batch,
    snapshot_bytes, snapshot_ops,
};
use flotilla_proto::metapb::Region;
use flotilla_proto::store::{ApplyRecord, PeerState, RegionRecord, SnapshotManifest};

use crate::common::state_script::CFS;
use crate::common::transfer::{all_rows, receive, transfer};

/// What a store has to do with snapshots.
pub(crate) struct Store<S, F> {
    pub(crate) state: S,
    pub(crate) files: F,
}

/// Runs a fact about a sender and a receiver on both engines.
macro_rules! snapshot_facts {
    ($($name:ident)*) => {
        mod twin_snapshots {
            $(#[test] fn $name() { super::$name(&super::twin(), &super::twin()); })*
        }
        #[cfg(feature = "rocks")]
        mod rocks_snapshots {
            $(#[test] fn $name() {
                let folders = [crate::rocks::Folder::new(), crate::rocks::Folder::new()];
                let [sender, receiver] = folders.each_ref().map(|folder| super::Store {
                    state: folder.state(),
                    files: folder.snapshots(),
                });
                super::$name(&sender, &receiver);
            })*
        }
    };
}

fn twin() -> Store<MemoryState, MemorySnapshots> {
    Store {
        state: MemoryState::new(),
        files: MemorySnapshots::new(),
    }
}

snapshot_facts! {
    a_snapshot_takes_the_place_of_all_rows_in_the_range
    the_meta_region_s_snapshot_is_pd_s_rows
    what_is_built_is_what_the_frozen_view_held
    a_region_without_rows_of_its_own_is_refused
    a_region_that_applied_nothing_is_at_its_birth
    a_build_is_paced_and_can_be_called_off
    a_snapshot_is_built_and_received_once
    sent_and_received_snapshots_never_meet
    chunks_come_in_order_or_are_refused
    receiving_begins_over
    what_is_too_large_or_no_snapshot_is_refused
    what_is_not_whole_is_never_installed
    rows_of_another_region_are_refused
    an_install_can_be_repeated_and_leaves_frozen_views_alone
    a_small_snapshot_is_a_batch
}

/// The region that the facts are about: keys from "d" up to "p".
const ID: u64 = 7;
const INDEX: u64 = 20;
const ANY_SIZE: u64 = u64::MAX;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn region(id: u64, start: &str, end: &str) -> Region {
    Region {
        id,
        start_key: bytes(start),
        end_key: bytes(end),
        ..Region::default()
    }
}

fn record(region: Region, state: PeerState) -> StateOp {
    let record = RegionRecord {
        state: state.into(),
        region: Some(region),
        highest_peer_id: 70,
        ..RegionRecord::default()
    };
    StateOp::PutRegion { record }
}

fn applied(region: u64, index: u64) -> StateOp {
    let record = ApplyRecord { index, term: 6 };
    StateOp::PutApplied { region, record }
}

fn put(cf: Cf, key: &str, value: &str) -> StateOp {
    StateOp::Put {
        cf,
        key: bytes(key),
        value: bytes(value),
    }
}

fn write(state: &impl StateStore, ops: impl IntoIterator<Item = StateOp>) {
    let ops = ops.into_iter().collect();
    let written = state.write(&StateBatch { ops, admin: false });
    written.expect("written");
}

/// The region with rows inside and outside of its range in every column family.
fn fill(state: &impl StateStore, value: &str) {
    write(
        state,
        [
            record(region(ID, "d", "p"), PeerState::Normal),
            applied(ID, INDEX),
        ],
    );
    for cf in CFS {
        let keys = ["", "c~", "d", "da", "k", "o~", "p", "z"];
        write(state, keys.map(|key| put(cf, key, value)));
    }
}

fn build<S: StateStore, F: SnapshotFiles>(
    store: &Store<S, F>,
    region: u64,
) -> (SnapshotKey, SnapshotManifest) {
    let view = store.state.snapshot();
    let built = store.files.build(&view, region, &mut |_| go_on());
    built.expect("built")
}

fn go_on() -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Rows as text, "key=value", in all column families.
fn rows(reader: &impl StateReader) -> [Vec<String>; 4] {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    CFS.map(|cf| {
        let rows = all_rows(reader, cf).into_iter();
        rows.map(|(key, value)| format!("{}={}", text(&key), text(&value)))
            .collect()
    })
}

#[track_caller]
fn refusal<T>(result: Result<T, SnapshotError>) -> String {
    match result {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    }
}

fn a_snapshot_takes_the_place_of_all_rows_in_the_range<S: SnapshotInstall, F: SnapshotFiles>(
    sender: &Store<S, F>,
    receiver: &Store<S, F>,
) {
    fill(&sender.state, "new");
    // One column family has no rows of the region: there the range is only cleared.
    write(
        &sender.state,
        ["d", "da", "k", "o~"].map(|key| StateOp::Delete {
            cf: Cf::CfLock,
            key: bytes(key),
        }),
    );
    fill(&receiver.state, "old");
    write(
        &receiver.state,
        [put(Cf::CfDefault, "e", "old"), put(Cf::CfLock, "oz", "old")],
    );
    let (from, manifest) = build(sender, ID);
    assert_eq!((manifest.index, manifest.term), (INDEX, 6));
    let of_file = |file: &flotilla_proto::store::SnapshotFile| (file.cf(), file.rows);
    assert_eq!(
        manifest.files.iter().map(of_file).collect::<Vec<_>>(),
        [(Cf::CfDefault, 4), (Cf::CfLock, 0), (Cf::CfWrite, 4)]
    );
    let key = transfer(&sender.files, &receiver.files, &from, &manifest);
    assert!(receiver.files.intact(&key, &manifest).expect("read"));
    let before = receiver.state.regions().expect("read");

    let installed = receiver.state.install(&receiver.files, &key, &manifest);
    installed.expect("installed");
    let full = [
        "=old", "c~=old", "d=new", "da=new", "k=new", "o~=new", "p=old", "z=old",
    ];
    let meta = ["", "c~", "d", "da", "k", "o~", "p", "z"].map(|key| format!("{key}=old"));
    let [default, lock, write_rows, meta_rows] = rows(&receiver.state);
    assert_eq!(default, full);
    assert_eq!(lock, ["=old", "c~=old", "p=old", "z=old"]);
    assert_eq!(write_rows, full);
    assert_eq!(meta_rows, meta, "PD's rows are another region's");
    assert_eq!(
        receiver.state.regions().expect("read"),
        before,
        "the region's records are the caller's to write"
    );
}

fn the_meta_region_s_snapshot_is_pd_s_rows<S: SnapshotInstall, F: SnapshotFiles>(
    sender: &Store<S, F>,
    receiver: &Store<S, F>,
) {
    for (store, value) in [(sender, "new"), (receiver, "old")] {
        fill(&store.state, value);
        write(
            &store.state,
            [
                record(region(META_REGION, "", ""), PeerState::Normal),
                applied(META_REGION, 9),
                put(Cf::CfMeta, value, value),
            ],
        );
    }
    let (from, manifest) = build(sender, META_REGION);
    let [file] = &manifest.files[..] else {
        panic!("one file: {manifest:?}");
    };
    assert_eq!((file.cf(), file.rows), (Cf::CfMeta, 9));
    let key = transfer(&sender.files, &receiver.files, &from, &manifest);
    let before = receiver.state.regions().expect("read");
    let [.., expected] = rows(&sender.state);
    for round in 0..2 {
        let installed = receiver.state.install(&receiver.files, &key, &manifest);
        installed.expect("installed");
        let [default, _, _, meta] = rows(&receiver.state);
        assert_eq!(meta, expected, "round {round}");
        assert!(default.iter().all(|row| row.ends_with("=old")));
        assert_eq!(receiver.state.regions().expect("read"), before);
        // The store's own batch number went on, too.
        write(&receiver.state, [put(Cf::CfMeta, "old", "again")]);
    }
}

fn what_is_built_is_what_the_frozen_view_held<S: SnapshotInstall, F: SnapshotFiles>(
    sender: &Store<S, F>,
    receiver: &Store<S, F>,
) {
    fill(&sender.state, "then");
    let view = sender.state.snapshot();
    write(
        &sender.state,
        [
            put(Cf::CfDefault, "k", "later"),
            record(region(ID, "d", "h"), PeerState::Normal),
            applied(ID, INDEX + 5),
        ],
    );
    let stored = view.stored_region(ID).expect("read").expect("there");
    assert_eq!(stored.applied.map(|record| record.index), Some(INDEX));
    let now = sender.state.stored_region(ID).expect("read");
    let now = now.and_then(|stored| stored.record.region);
    assert_eq!(now, Some(region(ID, "d", "h")));
    assert_eq!(view.stored_region(ID + 1).expect("read"), None);

    let built = sender.files.build(&view, ID, &mut |_| go_on());
    let (from, manifest) = built.expect("built");
    assert_eq!(manifest.index, INDEX);
    assert_eq!(manifest.region, Some(region(ID, "d", "p")));
    let key = transfer(&sender.files, &receiver.files, &from, &manifest);
    let installed = receiver.state.install(&receiver.files, &key, &manifest);
    installed.expect("installed");
    let [default, ..] = rows(&receiver.state);
    assert_eq!(default, ["d=then", "da=then", "k=then", "o~=then"]);
}

fn a_region_without_rows_of_its_own_is_refused<S: SnapshotInstall, F: SnapshotFiles>(
    sender: &Store<S, F>,
    _: &Store<S, F>,
) {
    for (state, says) in [
        (None, "it is not on this store"),
        (Some(PeerState::Tombstone), "its peer was destroyed"),
        (Some(PeerState::Applying), "it waits for a snapshot itself"),
    ] {
        if let Some(state) = state {
            write(&sender.state, [record(region(ID, "d", "p"), state)]);
        }
        let view = sender.state.snapshot();
        let refused = sender.files.build(&view, ID, &mut |_| go_on());
        assert!(
            matches!(&refused, Err(SnapshotError::NotLive { region: ID, state: found }) if *found == state),
            "{refused:?}"
        );
        let text = refusal(refused);
        assert!(text.contains("region 7") && text.ends_with(says), "{text}");
    }
    assert_eq!(sender.files.list().expect("read"), []);
}

fn a_region_that_applied_nothing_is_at_its_birth<S: SnapshotInstall, F: SnapshotFiles>(
    sender: &Store<S, F>,
    _: &Store<S, F>,
) {
    write(
        &sender.state,
        [record(region(ID, "d", "p"), PeerState::Normal)],
    );
    let (key, manifest) = build(sender, ID);
    assert_eq!((key.index, key.term), (BIRTH.index, BIRTH.term));
    assert!(manifest.files.iter().all(|file| file.rows == 0));
}

/// Rows of the region that take several pieces.
fn fill_with_much(state: &impl StateStore) {
    fill(state, "some");
    for row in 0..40 {
        let value = row.to_string().repeat(10_000);
        write(state, [put(Cf::CfWrite, &format!("e{row:02}"), &value)]);
    }
}

fn a_build_is_paced_and_can_be_called_off<S: SnapshotInstall, F: SnapshotFiles>(
    sender: &Store<S, F>,
    _: &Store<S, F>,
) {
    fill_with_much(&sender.state);
    let view = sender.state.snapshot();
    for stop_after in 1..4 {
        let mut pieces = 0;
        let built = sender.files.build(&view, ID, &mut |_| {
            pieces += 1;
            if pieces == stop_after {
                ControlFlow::Break(())
            } else {
                go_on()
            }
        });
        assert!(
            matches!(built, Err(SnapshotError::CalledOff { region: ID })),
            "{built:?}"
        );
        assert_eq!(sender.files.list().expect("read"), [], "nothing is left");
    }
    let mut told = 0;
    let built = sender.files.build(&view, ID, &mut |piece| {
        told += piece;
        go_on()
    });
    let (_, manifest) = built.expect("built");
    assert_eq!(told, snapshot_bytes(&manifest));
    assert!(told > 400_000, "{told} bytes");
}

fn a_snapshot_is_built_and_received_once<S: SnapshotInstall, F: SnapshotFiles>(
    sender: &Store<S, F>,
    receiver: &Store<S, F>,
) {
    fill(&sender.state, "new");
    let (from, manifest) = build(sender, ID);
    let view = sender.state.snapshot();
    let again = refusal(sender.files.build(&view, ID, &mut |_| go_on()));
    assert_eq!(
        again,
        "the outgoing snapshot of region 7 at index 20 term 6 exists already; discard it first"
    );
    let key = transfer(&sender.files, &receiver.files, &from, &manifest);
    let again = receiver.files.receive(&manifest, ANY_SIZE);
    assert!(
        matches!(again, Err(SnapshotError::Exists { key: found }) if found == key),
        "{again:?}"
    );
    sender.files.discard(&from).expect("removed");
    sender.files.discard(&from).expect("nothing to remove");
    assert_eq!(build(sender, ID), (from, manifest), "the same to the byte");
}

fn sent_and_received_snapshots_never_meet<S: SnapshotInstall, F: SnapshotFiles>(
    sender: &Store<S, F>,
    _: &Store<S, F>,
) {
    fill(&sender.state, "new");
    let (from, manifest) = build(sender, ID);
    let key = transfer(&sender.files, &sender.files, &from, &manifest);
    assert_eq!(sender.files.list().expect("read"), [from, key]);
    sender.files.discard(&key).expect("removed");
    assert_eq!(sender.files.list().expect("read"), [from]);
    assert!(sender.files.intact(&from, &manifest).expect("read"));
    assert!(!sender.files.intact(&key, &manifest).expect("read"));
}

fn chunks_come_in_order_or_are_refused<S: SnapshotInstall, F: SnapshotFiles>(
    sender: &Store<S, F>,
    receiver: &Store<S, F>,
) {
    fill(&sender.state, "new");
    let (from, manifest) = build(sender, ID);
    let files = &receiver.files;
    let read = |cf, offset, max| {
        let chunk = sender.files.read_chunk(&from, cf, offset, max);
        chunk.expect("read")
    };
    let length = manifest.files[0].bytes;
    assert_eq!(read(Cf::CfDefault, 0, u64::MAX).len() as u64, length);
    assert_eq!(read(Cf::CfDefault, length - 1, 10).len(), 1);
    assert_eq!(read(Cf::CfDefault, length, 10).len(), 0);
    let key = SnapshotKey::incoming(&manifest);
    let unknown = files.write_chunk(&key, Cf::CfDefault, 0, b"x");
    assert!(
        matches!(unknown, Err(SnapshotError::NotReceiving { .. })),
        "{unknown:?}"
    );

    files.receive(&manifest, ANY_SIZE).expect("begun");
    let send = |cf, offset, data: &[u8]| files.write_chunk(&key, cf, offset, data);
    send(Cf::CfDefault, 0, &read(Cf::CfDefault, 0, 10)).expect("the first");
    let whole = read(Cf::CfDefault, 0, length);
    for (cf, offset, data) in [
        (Cf::CfDefault, 0, &whole[..10]),
        (Cf::CfDefault, 9, &whole[9..]),
        (Cf::CfDefault, 11, &whole[11..]),
        (Cf::CfDefault, 10, &[&whole[10..], b"x"].concat()[..]),
        (Cf::CfMeta, 0, b"x"),
    ] {
        let refused = send(cf, offset, data);
        assert!(
            matches!(&refused, Err(SnapshotError::Chunk { cf: found, .. }) if *found == cf),
            "{refused:?}"
        );
    }
    assert_eq!(
        refusal(send(Cf::CfDefault, 11, &whole[11..13])),
        format!(
            "the incoming snapshot of region 7 at index 20 term 6: 2 bytes at 11 of CfDefault, \
             which has 10 of {length} bytes"
        )
    );
    send(Cf::CfDefault, 10, &whole[10..]).expect("the right one is still taken");
    for cf in [Cf::CfWrite, Cf::CfLock] {
        send(cf, 0, &read(cf, 0, u64::MAX)).expect("files come in any order");
    }
    files.finish_receive(&key).expect("whole");
    let late = files.finish_receive(&key);
    assert!(
        matches!(late, Err(SnapshotError::NotReceiving { .. })),
        "{late:?}"
    );
}

fn receiving_begins_over<S: SnapshotInstall, F: SnapshotFiles>(
    sender: &Store<S, F>,
    receiver: &Store<S, F>,
) {
    fill(&sender.state, "new");
    let (from, manifest) = build(sender, ID);
    let key = receiver.files.receive(&manifest, ANY_SIZE).expect("begun");
    let sent = receiver
        .files
        .write_chunk(&key, Cf::CfDefault, 0, b"rubbish");
    sent.expect("nobody looked at it yet");
    assert_eq!(receiver.files.list().expect("read"), [key]);
    assert!(!receiver.files.intact(&key, &manifest).expect("read"));
    let key = transfer(&sender.files, &receiver.files, &from, &manifest);
    assert!(receiver.files.intact(&key, &manifest).expect("read"));
    assert_eq!(receiver.files.list().expect("read"), [key]);
}

fn what_is_too_large_or_no_snapshot_is_refused<S: SnapshotInstall, F: SnapshotFiles>(
    sender: &Store<S, F>,
    receiver: &Store<S, F>,
) {
    fill(&sender.state, "new");
    let (from, manifest) = build(sender, ID);
    let size = snapshot_bytes(&manifest);
    let refused = receiver.files.receive(&manifest, size - 1);
    assert!(
        matches!(refused, Err(SnapshotError::TooLarge { bytes: found, max, .. })
            if (found, max) == (size, size - 1)),
        "{refused:?}"
    );
    receiver
        .files
        .receive(&manifest, size)
        .expect("at the limit");
    receiver
        .files
        .discard(&SnapshotKey::incoming(&manifest))
        .expect("removed");

    type Change = fn(&mut SnapshotManifest);
    let changes: [(Change, &str); 7] = [
        (|m| m.region = None, "it names no region"),
        (
            |m| m.region.as_mut().expect("there").id = 0,
            "it names no region",
        ),
        (|m| m.index = 0, "index and term begin at 1"),
        (
            |m| m.files.truncate(2),
            "files of column families [0, 1], not [0, 1, 2]",
        ),
        (
            |m| m.region.as_mut().expect("there").id = META_REGION,
            "files of column families [0, 1, 2], not [3]",
        ),
        (
            |m| m.region.as_mut().expect("there").end_key = bytes("d"),
            "its region's range is empty",
        ),
        (|m| m.files[1].bytes = 8, "a file of 8 bytes has no header"),
    ];
    for (change, says) in changes {
        let mut wrong = manifest.clone();
        change(&mut wrong);
        let refused = receiver.files.receive(&wrong, ANY_SIZE);
        assert!(
            matches!(&refused, Err(SnapshotError::Manifest { detail, .. }) if detail == says),
            "{says}: {refused:?}"
        );
    }
    let mut other = manifest.clone();
    other.index += 1;
    let refused = refusal(sender.files.rows(&from, &other, &mut |_, _, _| Ok(())));
    assert!(refused.contains("it describes the outgoing"), "{refused}");
    assert_eq!(receiver.files.list().expect("read"), []);
}

fn what_is_not_whole_is_never_installed<S: SnapshotInstall, F: SnapshotFiles>(
    sender: &Store<S, F>,
    receiver: &Store<S, F>,
) {
    fill(&sender.state, "new");
    fill(&receiver.state, "old");
    let (from, manifest) = build(sender, ID);
    let length = manifest.files[2].bytes;
    let before = rows(&receiver.state);
    let key = SnapshotKey::incoming(&manifest);
    for damage in ["short", "flipped", "missing"] {
        let received = receive(
            &sender.files,
            &receiver.files,
            &from,
            &manifest,
            |cf, chunk| {
                let last = cf == Cf::CfWrite && chunk.len() as u64 == length;
                let mut chunk = chunk.to_vec();
                match damage {
                    "short" if last => drop(chunk.pop()),
                    "flipped" if last => *chunk.last_mut().expect("a byte") ^= 1,
                    "missing" if cf == Cf::CfLock => chunk.clear(),
                    _ => {}
                }
                chunk
            },
        );
        let error = received.and_then(|key| receiver.files.finish_receive(&key));
        let text = refusal(error);
        let says = match damage {
            "short" => format!(
                "write.rows is damaged: it has {} of {length} bytes",
                length - 1
            ),
            "flipped" => "write.rows is damaged: its checksum is ".into(),
            _ => "lock.rows is damaged: it has 0 of ".into(),
        };
        assert!(text.contains(&says), "{damage}: {text}");
        assert!(!receiver.files.intact(&key, &manifest).expect("read"));
        let refused = receiver.state.install(&receiver.files, &key, &manifest);
        assert!(
            matches!(refused, Err(SnapshotError::Damaged { .. })),
            "{refused:?}"
        );
        assert_eq!(rows(&receiver.state), before, "{damage}");
    }
    // The right bytes are taken all the same.
    transfer(&sender.files, &receiver.files, &from, &manifest);
    let installed = receiver.state.install(&receiver.files, &key, &manifest);
    installed.expect("installed");
}

fn rows_of_another_region_are_refused<S: SnapshotInstall, F: SnapshotFiles>(
    sender: &Store<S, F>,
    receiver: &Store<S, F>,
) {
    fill(&sender.state, "new");
    let (from, manifest) = build(sender, ID);
    for (start, end, says) in [
        ("da", "p", "row 1 is not in the region's range"),
        ("d", "o~", "row 4 is not in the region's range"),
    ] {
        let mut wrong = manifest.clone();
        wrong.region = Some(region(ID, start, end));
        let received = receive(&sender.files, &receiver.files, &from, &wrong, |_, chunk| {
            chunk.to_vec()
        });
        let text = refusal(received.and_then(|key| receiver.files.finish_receive(&key)));
        assert!(
            text.contains("default.rows is damaged") && text.ends_with(says),
            "{text}"
        );
    }
    let mut wrong = manifest.clone();
    wrong.files[0].rows += 1;
    let received = receive(&sender.files, &receiver.files, &from, &wrong, |_, chunk| {
        chunk.to_vec()
    });
    let text = refusal(received.and_then(|key| receiver.files.finish_receive(&key)));
    assert!(text.ends_with("it has 4 of 5 rows"), "{text}");
}

fn an_install_can_be_repeated_and_leaves_frozen_views_alone<
    S: SnapshotInstall,
    F: SnapshotFiles,
>(
    sender: &Store<S, F>,
    receiver: &Store<S, F>,
) {
    fill_with_much(&sender.state);
    fill(&receiver.state, "old");
    let (from, manifest) = build(sender, ID);
    let key = transfer(&sender.files, &receiver.files, &from, &manifest);
    let view = receiver.state.snapshot();
    let old = rows(&view);
    let mut after = None;
    for _ in 0..3 {
        let installed = receiver.state.install(&receiver.files, &key, &manifest);
        installed.expect("installed");
        let now = rows(&receiver.state);
        assert_eq!(*after.get_or_insert_with(|| now.clone()), now);
        assert_eq!(rows(&view), old, "what was frozen stays");
        assert!(receiver.files.intact(&key, &manifest).expect("read"));
        // What is written meanwhile goes again.
        write(
            &receiver.state,
            DATA_CFS
                .into_iter()
                .flat_map(|cf| [put(cf, "d", "meanwhile"), put(cf, "nn", "meanwhile")]),
        );
    }
    let [default, lock, write_rows, _] = after.expect("installed");
    assert_eq!(default[2..6], ["d=some", "da=some", "k=some", "o~=some"]);
    assert_eq!((lock.len(), write_rows.len()), (8, 48));
    receiver.files.discard(&key).expect("removed");
    let [default, ..] = rows(&receiver.state);
    assert_eq!(
        default.len(),
        9,
        "what was installed needs the files no more"
    );
}

fn a_small_snapshot_is_a_batch<S: SnapshotInstall, F: SnapshotFiles>(
    sender: &Store<S, F>,
    receiver: &Store<S, F>,
) {
    fill(&sender.state, "new");
    write(
        &sender.state,
        [
            record(region(META_REGION, "", ""), PeerState::Normal),
            put(Cf::CfMeta, "i", "1000"),
        ],
    );
    for id in [ID, META_REGION] {
        fill(&receiver.state, "old");
        let (from, manifest) = build(sender, id);
        assert!(installs_as_batch(&manifest, SNAPSHOT_BATCH_BYTES));
        let key = transfer(&sender.files, &receiver.files, &from, &manifest);
        let ops = snapshot_ops(&receiver.files, &key, &manifest).expect("read");
        write(&receiver.state, ops);
        let as_batch = rows(&receiver.state);
        fill(&receiver.state, "old");
        let installed = receiver.state.install(&receiver.files, &key, &manifest);
        installed.expect("installed");
        assert_eq!(rows(&receiver.state), as_batch, "region {id}");
    }
    let mut manifest = build(receiver, ID).1;
    let rest: u64 = manifest.files[1..].iter().map(|file| file.bytes).sum();
    for (more, small) in [(0, true), (1, false)] {
        manifest.files[0].bytes = SNAPSHOT_BATCH_BYTES - 1 - rest + more;
        assert_eq!(installs_as_batch(&manifest, SNAPSHOT_BATCH_BYTES), small);
    }
}
