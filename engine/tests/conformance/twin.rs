//! The twin's own promises about crashes and faults.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_engine::memory::{Fault, FaultKind, FaultPoint, MemoryLog, MemoryState};
use flotilla_engine::{
    Cf, EngineError, FlushReason, KeyRange, RaftLog, RegionLog, StateBatch, StateOp,
    StateReader as _, StateStore,
};

use crate::common::log_script::LogScript;
use crate::common::state_script::StateScript;
use crate::common::{Dice, for_seeds};

const STEPS: usize = 60;

#[test]
fn a_crash_leaves_a_prefix_of_the_log_with_everything_synced() {
    for_seeds(0..200, |seed| {
        let (mut script, mut dice) = (LogScript::new(seed), Dice::new(!seed));
        let log = MemoryLog::new();
        // What the log held after each batch, by number.
        let mut after: Vec<BTreeMap<u64, RegionLog>> = vec![log.load().expect("whole")];
        for _ in 0..STEPS {
            log.append(&script.batch()).expect("appended");
            after.push(log.load().expect("whole"));
            if dice.chance(20) {
                let upto = dice.within(log.synced(), log.appended());
                assert_eq!(log.sync_up_to(upto).expect("synced"), upto);
            }
            let crashed = log.crash(|offered| dice.within(0, offered));
            assert!((log.synced()..=log.appended()).contains(&crashed.appended()));
            assert_eq!(
                crashed.load().expect("whole"),
                after[crashed.appended() as usize]
            );
        }
        assert_eq!(
            log.crash(|_| 0).appended(),
            log.synced(),
            "the worst crash keeps what was synced"
        );
        assert_eq!(
            log.kill().load().expect("whole"),
            log.load().expect("whole")
        );
    });
}

#[test]
fn a_crash_leaves_the_state_at_a_flushed_cut() {
    for_seeds(0..200, |seed| {
        let (mut script, mut dice) = (StateScript::new(seed), Dice::new(!seed));
        let state = MemoryState::new();
        state.flush_every(dice.chance(50).then(|| dice.within(100, 50_000)));
        let mut after = vec![state.regions().expect("read")];
        let mut begun = Vec::new();
        for _ in 0..STEPS {
            let number = state.write(&script.batch()).expect("written");
            after.push(state.regions().expect("read"));
            match dice.below(10) {
                0 => {
                    state.begin_flush();
                    begun.push(number);
                }
                1 => {
                    state.finish_flush().expect("finished");
                }
                2 => state.flush_all(FlushReason::Manual).expect("flushed"),
                _ => {}
            }
            state.refresh_durable().expect("looked");
            let crashed = state.crash();
            assert_eq!(crashed.durable_cut(), state.durable_cut());
            let cut = crashed.durable_cut() as usize;
            assert_eq!(crashed.regions().expect("read"), after[cut]);
            for stored in &after[cut] {
                let id = stored.record.region.as_ref().expect("named").id;
                let applied = stored.applied.map_or(0, |record| record.index);
                assert_eq!(
                    (state.durable_applied(id), crashed.durable_applied(id)),
                    (applied, applied)
                );
            }
        }
    });
}

#[test]
fn a_flush_under_way_is_lost_in_a_crash() {
    let (mut script, state) = (StateScript::new(1), MemoryState::new());
    state.write(&script.batch()).expect("written");
    state.begin_flush();
    state.write(&script.batch()).expect("written");
    assert!(state.flush_waiting());
    state.refresh_durable().expect("looked");
    assert_eq!((state.durable_cut(), state.crash().durable_cut()), (0, 0));
    assert!(state.finish_flush().expect("finished"));
    state.refresh_durable().expect("looked");
    assert_eq!(state.durable_cut(), 1, "its cut is where it began");
    assert!(!state.flush_waiting() && !state.finish_flush().expect("nothing to finish"));
}

#[test]
fn a_failed_append_or_sync_ends_the_log() {
    for point in [FaultPoint::Append, FaultPoint::Sync] {
        for kind in [FaultKind::Io, FaultKind::NoSpace] {
            let (mut script, log) = (LogScript::new(1), MemoryLog::new());
            log.append(&script.batch()).expect("appended");
            log.sync().expect("synced");
            log.inject(Fault {
                point,
                after: 0,
                kind,
            });
            let failed = log
                .append(&script.batch())
                .and_then(|_| log.sync())
                .expect_err("planned");
            match kind {
                FaultKind::Io => assert!(matches!(failed, EngineError::Disk { .. }), "{failed}"),
                FaultKind::NoSpace => {
                    assert!(matches!(failed, EngineError::NoSpace { .. }), "{failed}")
                }
            }
            let refused = [log.append(&script.batch()), log.sync()];
            for refused in refused {
                assert!(
                    matches!(refused, Err(EngineError::Poisoned { .. })),
                    "{refused:?}"
                );
            }
            assert_eq!(
                (log.synced(), log.crash(|_| 0).appended()),
                (1, 1),
                "nothing became durable"
            );
            assert!(
                (1..=2).contains(&log.crash(|offered| offered).appended()),
                "it may be found all the same"
            );
        }
    }
}

#[test]
fn a_failed_flush_makes_nothing_durable_and_ends_the_state() {
    let (mut script, state) = (StateScript::new(1), MemoryState::new());
    state.inject(Fault {
        point: FaultPoint::Flush,
        after: 1,
        kind: FaultKind::NoSpace,
    });
    state.write(&script.batch()).expect("written");
    state
        .flush_all(FlushReason::Manual)
        .expect("the first flush succeeds");
    state.write(&script.batch()).expect("written");
    let failed = state
        .flush_all(FlushReason::ReplayBound)
        .expect_err("planned");
    assert!(matches!(failed, EngineError::NoSpace { .. }), "{failed}");
    let refused = state.write(&script.batch()).expect_err("poisoned");
    assert!(matches!(refused, EngineError::Poisoned { .. }), "{refused}");
    assert_eq!(state.crash().durable_cut(), 1);
    assert!(state.regions().is_ok(), "reads go on");
    assert_eq!(
        state.flushes(),
        BTreeMap::from([(FlushReason::ReplayBound, 1), (FlushReason::Manual, 1)])
    );
}

#[test]
fn rotten_bytes_are_named_and_never_served() {
    let (mut script, log) = (LogScript::new(1), MemoryLog::new());
    while script.spans().is_empty() {
        log.append(&script.batch()).expect("appended");
    }
    let (region, first, last) = script.spans()[0];
    log.rot(region, first);
    let named = format!("region {region} index {first}");
    for error in [
        log.entries(region, first, last + 1, 0).map(|_| ()),
        log.kill().load().map(|_| ()),
    ] {
        let error = error.expect_err("rotten");
        assert!(
            matches!(&error, EngineError::Corrupt { place, .. } if *place == named),
            "{error}"
        );
    }
}

#[test]
fn a_rotten_row_and_a_view_that_fails_are_errors_to_who_reads_them() {
    let state = MemoryState::new();
    let put = |key: &'static [u8]| StateOp::Put {
        cf: Cf::CfDefault,
        key: Bytes::from_static(key),
        value: Bytes::from_static(b"value"),
    };
    let ops = vec![put(b"a"), put(b"b")];
    state
        .write(&StateBatch { ops, admin: false })
        .and_then(|_| state.flush_all(FlushReason::Manual))
        .expect("written");
    assert!(state.rot(Cf::CfDefault, b"b") && !state.rot(Cf::CfLock, b""));
    let all = KeyRange {
        start: b"",
        end: b"",
    };
    for found in [state.snapshot(), state.crash().snapshot()] {
        let mut seen = 0;
        let scanned = found.scan(Cf::CfDefault, all, false, &mut |_, _| {
            seen += 1;
            true
        });
        assert!(
            matches!(scanned, Err(EngineError::Corrupt { .. })),
            "{scanned:?}"
        );
        assert_eq!(seen, 1, "what comes before it is whole");
        assert!(found.get(Cf::CfDefault, b"a").is_ok());
        assert!(found.get(Cf::CfDefault, b"b").is_err());
    }
    state.restore();
    assert!(state.snapshot().get(Cf::CfDefault, b"b").is_ok());
    state.inject(Fault {
        point: FaultPoint::View,
        after: 0,
        kind: FaultKind::Io,
    });
    let struck = state.snapshot().get(Cf::CfDefault, b"a");
    assert!(
        matches!(struck, Err(EngineError::Disk { .. })),
        "{struck:?}"
    );
    assert!(state.snapshot().get(Cf::CfDefault, b"a").is_ok());
}
