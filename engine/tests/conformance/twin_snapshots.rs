//! The twin's own promises about snapshots under crashes and faults (contracts: C6, C32).

use std::ops::ControlFlow;

use flotilla_engine::memory::{Fault, FaultKind, FaultPoint, MemorySnapshots, MemoryState};
use flotilla_engine::{
    Cf, DATA_CFS, EngineError, FlushReason, SnapshotError, SnapshotFiles, SnapshotInstall,
    SnapshotKey, SnapshotResult, StateBatch, StateOp, StateReader, StateStore,
};
use flotilla_proto::metapb::Region;
use flotilla_proto::store::{ApplyRecord, PeerState, RegionRecord, SnapshotManifest};

use crate::common::transfer::{all_rows, receive, transfer};
use crate::common::{Dice, for_seeds};

const ID: u64 = 7;

/// A store in memory, with a region that has `value` in each of its rows, all of it flushed.
fn filled(value: &str) -> MemoryState {
    let state = MemoryState::new();
    let record = RegionRecord {
        state: PeerState::Normal.into(),
        region: Some(Region {
            id: ID,
            start_key: "d".into(),
            end_key: "p".into(),
            ..Region::default()
        }),
        highest_peer_id: 70,
        ..RegionRecord::default()
    };
    let mut ops = vec![StateOp::PutRegion { record }, applied(9)];
    for cf in DATA_CFS {
        ops.extend(["d", "k"].map(|key| put(cf, key, value)));
    }
    write(&state, ops);
    state.flush_all(FlushReason::Manual).expect("flushed");
    state
}

fn applied(index: u64) -> StateOp {
    StateOp::PutApplied {
        region: ID,
        record: ApplyRecord { index, term: 6 },
    }
}

fn put(cf: Cf, key: &str, value: &str) -> StateOp {
    StateOp::Put {
        cf,
        key: key.to_owned().into(),
        value: value.to_owned().into(),
    }
}

fn write(state: &MemoryState, ops: Vec<StateOp>) {
    let written = state.write(&StateBatch { ops, admin: false });
    written.expect("written");
}

fn build(
    files: &MemorySnapshots,
    state: &MemoryState,
) -> SnapshotResult<(SnapshotKey, SnapshotManifest)> {
    let go_on = &mut |_| ControlFlow::Continue(());
    files.build(&state.snapshot(), ID, go_on)
}

/// The value of the region's rows by data column family; they must all be the same.
fn values(state: &impl StateReader) -> [String; 3] {
    DATA_CFS.map(|cf| {
        let rows = all_rows(state, cf);
        let values: Vec<_> = rows.iter().map(|(_, value)| value.clone()).collect();
        assert!(values.windows(2).all(|two| two[0] == two[1]), "{rows:?}");
        String::from_utf8(values[0].clone()).expect("text")
    })
}

#[test]
fn a_whole_snapshot_survives_every_crash_and_a_half_one_is_never_intact() {
    let (mut lost, mut torn, mut undone) = (0, 0, 0);
    for_seeds(0..300, |seed| {
        let mut dice = Dice::new(seed);
        let sender = MemorySnapshots::new();
        let (from, manifest) = build(&sender, &filled("new")).expect("built");
        let files = MemorySnapshots::new();
        let key = SnapshotKey::incoming(&manifest);
        let mut crash = |files: &MemorySnapshots| files.crash(|offered| dice.within(0, offered));

        receive(&sender, &files, &from, &manifest, |_, chunk| {
            let found = crash(&files);
            assert!(!found.intact(&key, &manifest).expect("read"));
            chunk.to_vec()
        })
        .expect("received");
        let found = crash(&files);
        assert!(!found.intact(&key, &manifest).expect("read"), "not whole");
        lost += u64::from(found.list().expect("read").is_empty());
        let again = transfer(&sender, &found, &from, &manifest);
        assert!(found.intact(&again, &manifest).expect("read"));

        files.finish_receive(&key).expect("whole");
        let found = crash(&files);
        assert!(
            found.intact(&key, &manifest).expect("read"),
            "it was synced"
        );
        assert!(files.kill().intact(&key, &manifest).expect("read"));

        files.discard(&key).expect("removed");
        assert_eq!(
            files.kill().list().expect("read"),
            [],
            "a kill undoes nothing"
        );
        let found = crash(&files);
        let back = found.list().expect("read");
        undone += u64::from(back == [key]);
        for key in back {
            found.discard(&key).expect("removed");
            assert_eq!(found.list().expect("read"), []);
        }

        // One that is built is never synced: it does not outlive its process.
        let found = crash(&sender);
        torn += u64::from(!found.intact(&from, &manifest).expect("read"));
    });
    assert!(
        lost > 0 && torn > 0 && undone > 0,
        "{lost} lost, {torn} torn, {undone} undone"
    );
}

#[test]
fn what_was_ingested_stays_though_the_batches_around_it_are_lost() {
    let (sender, files) = (MemorySnapshots::new(), MemorySnapshots::new());
    let (from, manifest) = build(&sender, &filled("new")).expect("built");
    let key = transfer(&sender, &files, &from, &manifest);
    let state = filled("old");
    write(&state, vec![applied(12), put(Cf::CfLock, "a", "before")]);
    state.begin_flush();
    state.install(&files, &key, &manifest).expect("installed");
    write(&state, vec![applied(20), put(Cf::CfLock, "a", "after")]);

    let crashed = state.crash();
    assert_eq!(crashed.get(Cf::CfLock, b"a").expect("read"), None);
    assert_eq!(crashed.durable_applied(ID), 9, "the batch was lost");
    for cf in DATA_CFS {
        let value = crashed.get(cf, b"k").expect("read");
        assert_eq!(value.as_deref(), Some(&b"new"[..]), "the rows were not");
    }
    // A flush whose cut was before the install has its rows all the same.
    assert!(state.finish_flush().expect("finished"));
    let crashed = state.crash();
    assert_eq!(crashed.durable_applied(ID), 12);
    let lock = crashed.get(Cf::CfLock, b"k").expect("read");
    assert_eq!(lock.as_deref(), Some(&b"new"[..]));
}

#[test]
fn an_install_that_failed_half_way_is_repeated_after_the_crash() {
    for after in 0..3 {
        let (sender, files) = (MemorySnapshots::new(), MemorySnapshots::new());
        let (from, manifest) = build(&sender, &filled("new")).expect("built");
        let key = transfer(&sender, &files, &from, &manifest);
        let state = filled("old");
        state.inject(Fault {
            point: FaultPoint::Ingest,
            after,
            kind: FaultKind::NoSpace,
        });
        let failed = state.install(&files, &key, &manifest);
        assert!(
            matches!(
                failed,
                Err(SnapshotError::Engine(EngineError::NoSpace { .. }))
            ),
            "{failed:?}"
        );
        let refused = state.install(&files, &key, &manifest);
        assert!(
            matches!(
                refused,
                Err(SnapshotError::Engine(EngineError::Poisoned { .. }))
            ),
            "{refused:?}"
        );
        let (state, files) = (state.crash(), files.crash(|_| 0));
        let mut expected = ["new"; 3];
        expected[after as usize..].fill("old");
        assert_eq!(
            values(&state),
            expected,
            "one column family after the other"
        );
        assert!(files.intact(&key, &manifest).expect("read"));
        state.install(&files, &key, &manifest).expect("installed");
        assert_eq!(values(&state), ["new"; 3]);
    }
}

/// Every fault that may strike a build or a receiving: at each call to the disk, reading or writing.
fn faults() -> impl Iterator<Item = Fault> {
    let points = [FaultPoint::SnapshotWrite, FaultPoint::SnapshotRead];
    points.into_iter().flat_map(|point| {
        (0..40).map(move |after| Fault {
            point,
            after,
            kind: FaultKind::Io,
        })
    })
}

#[test]
fn a_failing_disk_ends_a_build_and_nothing_else() {
    let mut failed = 0;
    for fault in faults() {
        let (files, source) = (MemorySnapshots::new(), filled("new"));
        files.inject(fault);
        let first = build(&files, &source);
        failed += u64::from(first.is_err());
        if let Ok((key, _)) = first {
            // The fault waits for whoever is next.
            while files.discard(&key).is_err() {}
        }
        // What the failed build left, if that could not be removed either, is built over.
        let again = build(&files, &source).or_else(|_| build(&files, &source));
        let (key, manifest) = again.expect("one fault strikes once");
        let intact = files.intact(&key, &manifest);
        let intact = intact.or_else(|_| files.intact(&key, &manifest));
        assert!(intact.expect("read"), "{fault:?}");
    }
    assert!(failed >= 10, "{failed} builds failed");
}

#[test]
fn a_failing_disk_ends_a_receiving_and_nothing_else() {
    let mut failed = 0;
    for fault in faults() {
        let (sender, files) = (MemorySnapshots::new(), MemorySnapshots::new());
        let (from, manifest) = build(&sender, &filled("new")).expect("built");
        files.inject(fault);
        let key = SnapshotKey::incoming(&manifest);
        let received = receive(&sender, &files, &from, &manifest, |_, chunk| chunk.to_vec())
            .and_then(|key| files.finish_receive(&key));
        if received.is_err() {
            failed += 1;
            // A failed sync is never tried again: begin over.
            let late = files.finish_receive(&key);
            assert!(
                matches!(late, Err(SnapshotError::NotReceiving { .. })),
                "{fault:?}: {late:?}"
            );
            files.discard(&key).expect("removed");
            transfer(&sender, &files, &from, &manifest);
        }
        let intact = files.intact(&key, &manifest);
        let intact = intact.or_else(|_| files.intact(&key, &manifest));
        assert!(intact.expect("read"), "{fault:?}");
    }
    assert!(failed > 20, "{failed} receivings failed");
}

#[test]
fn a_flipped_bit_is_noticed_wherever_it_is() {
    let sender = MemorySnapshots::new();
    let (from, manifest) = build(&sender, &filled("new")).expect("built");
    let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    for at in 0..bytes {
        assert!(sender.rot(at));
        assert!(!sender.intact(&from, &manifest).expect("read"), "byte {at}");
        let state = filled("old");
        let refused = state.install(&sender, &from, &manifest);
        assert!(
            matches!(refused, Err(SnapshotError::Damaged { .. })),
            "{refused:?}"
        );
        assert_eq!(values(&state), ["old"; 3], "byte {at}");
        assert!(sender.rot(at));
    }
    assert!(sender.intact(&from, &manifest).expect("read"));
    assert!(!MemorySnapshots::new().rot(0), "there is nothing to rot");
}
