//! Single facts about the traits, each run on both engines.

use bytes::Bytes;
use flotilla_engine::memory::{MemoryLog, MemoryState};
use flotilla_engine::{
    BIRTH, Cf, DATA_CFS, EngineError, FlushReason, KeyRange, LogBatch, LogSpan, RaftLog,
    SplitLimits, StateBatch, StateOp, StateReader, StateStore, split_check,
};
use flotilla_proto::metapb::Region;
use flotilla_proto::raft::{Entry, HardState};
use flotilla_proto::store::{
    ApplyRecord, RaftRecord, RegionRecord, SnapshotIntent, SnapshotManifest, TruncationRecord,
};

/// Runs a fact about a log on both engines.
macro_rules! log_facts {
    ($($name:ident)*) => {
        mod twin_log {
            $(#[test] fn $name() { super::$name(&super::MemoryLog::new()); })*
        }
        #[cfg(feature = "rocks")]
        mod rocks_log {
            $(#[test] fn $name() { super::$name(&crate::rocks::Folder::new().log()); })*
        }
    };
}

/// Runs a fact about a state on both engines.
macro_rules! state_facts {
    ($($name:ident)*) => {
        mod twin_state {
            $(#[test] fn $name() { super::$name(&super::MemoryState::new()); })*
        }
        #[cfg(feature = "rocks")]
        mod rocks_state {
            $(#[test] fn $name() { super::$name(&crate::rocks::Folder::new().state()); })*
        }
    };
}

log_facts! {
    batches_are_numbered_from_one
    a_sync_covers_what_was_appended_before
    an_empty_batch_counts
    entries_are_read_as_they_were_appended
    reads_are_cut_by_bytes_but_never_before_the_first
    a_missing_entry_is_a_corruption_that_names_it
    an_append_replaces_the_tail_behind_it
    truncation_deletes_up_to_its_point
    clearing_a_region_leaves_nothing_of_it
    what_follows_a_clear_in_the_same_batch_stays
    a_merged_batch_is_the_two_in_order
    an_intent_stays_until_it_is_deleted
    a_snapshot_s_batch_is_taken_in_its_order
    the_intents_of_merged_batches_are_taken_in_order
    an_intent_that_does_not_fit_is_a_corruption
    a_peer_that_only_voted_is_whole
    regions_do_not_touch_each_other
}

state_facts! {
    an_empty_key_and_unbounded_ranges_work
    a_reversed_range_holds_nothing
    changes_of_a_batch_take_effect_in_order
    column_families_are_apart
    a_snapshot_stays_as_it_was
    a_scan_stops_when_it_is_told
    records_of_regions_are_no_keys
    nothing_is_durable_before_a_flush
    a_flush_makes_every_region_durable
    an_apply_record_without_its_region_is_a_corruption
    a_split_check_counts_all_data
}

fn entry(index: u64, term: u64, data: &str) -> Entry {
    Entry {
        term,
        index,
        kind: 0,
        data: Bytes::copy_from_slice(data.as_bytes()),
    }
}

fn entries(indexes: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
    indexes
        .map(|index| entry(index, term, &format!("{index}/{term}")))
        .collect()
}

fn appended(region: u64, entries: Vec<Entry>, last_before: u64) -> LogBatch {
    let mut batch = LogBatch::default();
    batch.append(region, entries, last_before);
    batch
}

fn span(log: &impl RaftLog, region: u64) -> Option<(u64, u64)> {
    let regions = log.load().expect("a whole log");
    regions
        .get(&region)
        .and_then(|region| region.span)
        .map(|span| (span.first, span.last))
}

fn batches_are_numbered_from_one(log: &impl RaftLog) {
    for number in 1..=3 {
        let batch = appended(7, entries(number + 5..=number + 5, 5), number + 4);
        assert_eq!(log.append(&batch).expect("appended"), number);
    }
}

fn a_sync_covers_what_was_appended_before(log: &impl RaftLog) {
    assert_eq!(log.sync().expect("nothing to sync"), 0);
    log.append(&appended(7, entries(6..=8, 5), 5))
        .expect("appended");
    assert_eq!(log.sync().expect("synced"), 1);
    assert_eq!(log.sync().expect("nothing new"), 1);
}

fn an_empty_batch_counts(log: &impl RaftLog) {
    assert_eq!(log.append(&LogBatch::default()).expect("appended"), 1);
    assert_eq!((log.sync().expect("synced"), log.appended_bytes()), (1, 0));
    assert!(log.load().expect("whole").is_empty());
}

fn entries_are_read_as_they_were_appended(log: &impl RaftLog) {
    let written = entries(6..=9, 5);
    let batch = appended(7, written.clone(), 5);
    log.append(&batch).expect("appended");
    assert_eq!(log.entries(7, 6, 10, u64::MAX).expect("read"), written);
    assert_eq!(log.entries(7, 7, 9, u64::MAX).expect("read"), written[1..3]);
    assert_eq!(log.entries(7, 7, 7, u64::MAX).expect("nothing asked"), []);
    assert_eq!(log.appended_bytes(), batch.stored_bytes());
    let loaded = &log.load().expect("whole")[&7];
    assert_eq!((loaded.terms.clone(), loaded.bytes), (vec![(6, 5)], 12));
}

fn reads_are_cut_by_bytes_but_never_before_the_first(log: &impl RaftLog) {
    let ten = |index| entry(index, 5, "0123456789");
    log.append(&appended(7, vec![ten(6), ten(7), ten(8)], 5))
        .expect("appended");
    for (bytes_max, count) in [
        (0, 1),
        (9, 1),
        (10, 1),
        (19, 1),
        (20, 2),
        (30, 3),
        (u64::MAX, 3),
    ] {
        let read = log.entries(7, 6, 9, bytes_max).expect("read");
        assert_eq!(read.len(), count, "{bytes_max} bytes");
    }
}

fn a_missing_entry_is_a_corruption_that_names_it(log: &impl RaftLog) {
    log.append(&appended(7, entries(6..=8, 5), 5))
        .expect("appended");
    for (region, low, high, named) in [
        (7, 5, 7, "region 7 index 5"),
        (7, 8, 11, "region 7 index 9"),
        (8, 6, 7, "region 8 index 6"),
    ] {
        let error = log
            .entries(region, low, high, u64::MAX)
            .expect_err("not held");
        assert!(
            matches!(&error, EngineError::Corrupt { place, .. } if place == named),
            "{error}"
        );
    }
}

fn an_append_replaces_the_tail_behind_it(log: &impl RaftLog) {
    log.append(&appended(7, entries(6..=20, 5), 5))
        .expect("appended");
    log.append(&appended(7, entries(9..=10, 6), 20))
        .expect("appended");
    assert_eq!(
        span(log, 7),
        Some((6, 10)),
        "the old tail is gone (contracts: C9)"
    );
    let read = log.entries(7, 8, 11, u64::MAX).expect("read");
    assert_eq!(
        read.iter().map(|entry| entry.term).collect::<Vec<_>>(),
        [5, 6, 6]
    );
}

fn truncation_deletes_up_to_its_point(log: &impl RaftLog) {
    log.append(&appended(7, entries(6..=20, 5), 5))
        .expect("appended");
    let mut batch = LogBatch::default();
    batch.truncate(7, TruncationRecord { index: 12, term: 5 }, 6);
    log.append(&batch).expect("appended");
    assert_eq!(span(log, 7), Some((13, 20)));
    assert!(log.entries(7, 12, 14, u64::MAX).is_err());
    assert_eq!(
        log.load().expect("whole")[&7].truncated(),
        TruncationRecord { index: 12, term: 5 }
    );
}

fn clearing_a_region_leaves_nothing_of_it(log: &impl RaftLog) {
    let mut batch = appended(7, entries(6..=20, 5), 5);
    batch.set_record(
        7,
        RaftRecord {
            peer_id: 70,
            hard_state: None,
        },
    );
    batch.append(8, entries(6..=6, 5), 5);
    log.append(&batch).expect("appended");
    let mut batch = LogBatch::default();
    batch.clear(7, LogSpan { first: 8, last: 9 });
    log.append(&batch).expect("appended");
    let regions = log.load().expect("whole");
    assert_eq!(regions.keys().copied().collect::<Vec<_>>(), [8]);
}

fn what_follows_a_clear_in_the_same_batch_stays(log: &impl RaftLog) {
    log.append(&appended(7, entries(6..=20, 5), 5))
        .expect("appended");
    let mut batch = LogBatch::default();
    batch.clear(7, LogSpan { first: 6, last: 20 });
    batch.truncate(
        7,
        TruncationRecord {
            index: 100,
            term: 8,
        },
        101,
    );
    batch.append(7, entries(101..=102, 8), 100);
    log.append(&batch).expect("appended");
    assert_eq!(span(log, 7), Some((101, 102)));
}

fn a_merged_batch_is_the_two_in_order(log: &impl RaftLog) {
    log.append(&appended(7, entries(6..=20, 5), 5))
        .expect("appended");
    let mut merged = appended(7, entries(10..=12, 6), 20);
    merged.merge(appended(7, entries(11..=11, 7), 12));
    let hard_state = Some(HardState {
        term: 7,
        vote: 0,
        commit: 6,
    });
    let mut later = LogBatch::default();
    later.set_record(
        7,
        RaftRecord {
            peer_id: 70,
            hard_state,
        },
    );
    merged.merge(later);
    log.append(&merged).expect("appended");
    let loaded = &log.load().expect("whole")[&7];
    assert_eq!(loaded.terms, [(6, 5), (10, 6), (11, 7)]);
    assert_eq!(loaded.span, Some(LogSpan { first: 6, last: 11 }));
    assert_eq!(loaded.record.map(|record| record.peer_id), Some(70));
}

/// Of the snapshot at `index`, received by peer 70 of region 7.
fn intent(index: u64) -> SnapshotIntent {
    let region = Region {
        id: 7,
        ..Region::default()
    };
    SnapshotIntent {
        peer_id: 70,
        manifest: Some(SnapshotManifest {
            region: Some(region.clone()),
            index,
            term: 6,
            files: Vec::new(),
            ..SnapshotManifest::default()
        }),
        overlapped: vec![region],
    }
}

/// The batch of a snapshot at `index`, in the order of contracts: C6.
fn restored(index: u64) -> LogBatch {
    let mut batch = LogBatch::default();
    batch.clear(7, LogSpan { first: 1, last: 0 });
    batch.truncate(7, TruncationRecord { index, term: 6 }, index);
    let hard_state = HardState {
        term: 6,
        vote: 0,
        commit: index,
    };
    batch.set_record(
        7,
        RaftRecord {
            peer_id: 70,
            hard_state: Some(hard_state),
        },
    );
    batch.set_intent(7, intent(index));
    batch
}

fn intent_of(log: &impl RaftLog) -> Option<SnapshotIntent> {
    log.load().expect("whole").remove(&7)?.intent
}

fn an_intent_stays_until_it_is_deleted(log: &impl RaftLog) {
    log.append(&restored(20)).expect("appended");
    let mut later = appended(7, entries(21..=23, 6), 20);
    later.truncate(7, TruncationRecord { index: 21, term: 6 }, 21);
    log.append(&later).expect("appended");
    assert_eq!(intent_of(log), Some(intent(20)));
    let found = &log.load().expect("whole")[&7];
    assert_eq!((found.intent_index(), found.truncated().index), (20, 21));

    let mut done = LogBatch::default();
    done.clear_intent(7);
    log.append(&done).expect("appended");
    assert_eq!(intent_of(log), None);
    assert_eq!(span(log, 7), Some((22, 23)), "nothing else went");
    log.append(&done).expect("there is nothing to delete");

    log.append(&restored(40)).expect("appended");
    let mut cleared = LogBatch::default();
    cleared.clear(7, LogSpan { first: 1, last: 0 });
    log.append(&cleared).expect("appended");
    assert!(log.load().expect("whole").is_empty());
}

fn a_snapshot_s_batch_is_taken_in_its_order(log: &impl RaftLog) {
    // A tail that does not match, and an intent of before.
    log.append(&restored(10)).expect("appended");
    log.append(&appended(7, entries(11..=30, 6), 10))
        .expect("appended");
    let mut batch = restored(20);
    batch.append(7, entries(21..=22, 6), 20);
    log.append(&batch).expect("appended");
    let found = log.load().expect("whole").remove(&7).expect("there");
    assert_eq!(
        found.span.map(|span| (span.first, span.last)),
        Some((21, 22))
    );
    assert_eq!(found.terms, [(21, 6)]);
    assert_eq!(found.truncated(), TruncationRecord { index: 20, term: 6 });
    assert_eq!(found.record.map(|record| record.peer_id), Some(70));
    assert_eq!(found.intent, Some(intent(20)));
}

fn the_intents_of_merged_batches_are_taken_in_order(log: &impl RaftLog) {
    #[track_caller]
    fn check(log: &impl RaftLog, batches: Vec<LogBatch>, expected: Option<u64>) {
        let mut merged = LogBatch::default();
        for batch in batches {
            merged.merge(batch);
        }
        log.append(&merged).expect("appended");
        assert_eq!(intent_of(log), expected.map(intent));
    }
    let done = || {
        let mut batch = LogBatch::default();
        batch.clear_intent(7);
        batch
    };
    let more = || appended(7, entries(21..=21, 6), 20);
    check(log, vec![restored(10), restored(20)], Some(20));
    check(log, vec![done(), restored(20)], Some(20));
    check(log, vec![restored(20), more()], Some(20));
    check(log, vec![restored(20), more(), done()], None);
}

fn an_intent_that_does_not_fit_is_a_corruption(log: &impl RaftLog) {
    let mut other_peer = restored(20);
    let record = RaftRecord {
        peer_id: 71,
        hard_state: None,
    };
    other_peer.set_record(7, record);
    let mut not_truncated = restored(20);
    not_truncated.set_intent(7, intent(21));
    for (batch, says) in [
        (other_peer, "it is of peer 70, the hard state is of peer 71"),
        (not_truncated, "its index is 21, the log is truncated at 20"),
    ] {
        log.append(&batch).expect("appended");
        let error = log.load().expect_err("refused");
        assert!(
            matches!(&error, EngineError::Corrupt { place, detail }
                if place == "region 7 snapshot intent" && detail == says),
            "{error}"
        );
    }
}

fn a_peer_that_only_voted_is_whole(log: &impl RaftLog) {
    let mut batch = LogBatch::default();
    let hard_state = HardState {
        term: 9,
        vote: 3,
        commit: 0,
    };
    let record = RaftRecord {
        peer_id: 70,
        hard_state: Some(hard_state),
    };
    batch.set_record(7, record);
    log.append(&batch).expect("appended");
    let found = log.load().expect("whole").remove(&7).expect("there");
    assert_eq!(
        (found.record, found.span, found.truncation),
        (Some(record), None, None)
    );
    // Its first snapshot.
    log.append(&restored(20)).expect("appended");
    let found = log.load().expect("whole").remove(&7).expect("there");
    assert_eq!((found.last_index(), found.intent_index()), (20, 20));
}

fn regions_do_not_touch_each_other(log: &impl RaftLog) {
    for region in [1, 2, u64::MAX] {
        log.append(&appended(region, entries(6..=7, 5), 5))
            .expect("appended");
    }
    let mut batch = LogBatch::default();
    batch.clear(2, LogSpan { first: 6, last: 7 });
    batch.truncate(
        1,
        TruncationRecord {
            index: BIRTH.index + 2,
            term: 5,
        },
        6,
    );
    log.append(&batch).expect("appended");
    assert_eq!(
        [1, 2, u64::MAX].map(|region| span(log, region)),
        [None, None, Some((6, 7))]
    );
}

fn put(cf: Cf, key: &str, value: &str) -> StateOp {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    StateOp::Put {
        cf,
        key: bytes(key),
        value: bytes(value),
    }
}

fn write(state: &impl StateStore, ops: impl IntoIterator<Item = StateOp>) -> u64 {
    let ops = ops.into_iter().collect();
    state
        .write(&StateBatch { ops, admin: false })
        .expect("written")
}

fn scan(reader: &impl StateReader, cf: Cf, start: &str, end: &str, reverse: bool) -> Vec<String> {
    let mut found = Vec::new();
    let range = KeyRange {
        start: start.as_bytes(),
        end: end.as_bytes(),
    };
    let scanned = reader.scan(cf, range, reverse, &mut |key, value| {
        found.push(format!(
            "{}={}",
            String::from_utf8_lossy(key),
            String::from_utf8_lossy(value)
        ));
        true
    });
    scanned.expect("scanned");
    found
}

fn an_empty_key_and_unbounded_ranges_work(state: &impl StateStore) {
    for cf in [Cf::CfDefault, Cf::CfLock, Cf::CfWrite, Cf::CfMeta] {
        write(
            state,
            [
                put(cf, "", "empty"),
                put(cf, "a", "1"),
                put(cf, "\u{10ffff}", "2"),
            ],
        );
        assert_eq!(
            state.get(cf, b"").expect("read").as_deref(),
            Some(&b"empty"[..])
        );
        let mut all = vec!["=empty".to_owned(), "a=1".into(), "\u{10ffff}=2".into()];
        assert_eq!(scan(state, cf, "", "", false), all);
        assert_eq!(scan(state, cf, "", "a", false), ["=empty"]);
        assert_eq!(scan(state, cf, "a", "", false), all[1..]);
        all.reverse();
        assert_eq!(scan(state, cf, "", "", true), all);
        write(
            state,
            [StateOp::DeleteRange {
                cf,
                start: Bytes::new(),
                end: Bytes::new(),
            }],
        );
        assert_eq!(scan(state, cf, "", "", false), [""; 0]);
    }
}

fn a_reversed_range_holds_nothing(state: &impl StateStore) {
    let cf = Cf::CfDefault;
    write(state, [put(cf, "a", "1"), put(cf, "b", "2")]);
    for (start, end) in [("b", "a"), ("a", "a")] {
        let (start, end) = (Bytes::from(start), Bytes::from(end));
        write(
            state,
            [StateOp::DeleteRange {
                cf,
                start: start.clone(),
                end: end.clone(),
            }],
        );
        let range = KeyRange {
            start: &start,
            end: &end,
        };
        let mut rows = 0;
        state
            .scan(cf, range, true, &mut |_, _| {
                rows += 1;
                true
            })
            .expect("scanned");
        assert_eq!(
            (rows, state.approximate_bytes(range).expect("estimated")),
            (0, 0)
        );
    }
    assert_eq!(scan(state, cf, "", "", false), ["a=1", "b=2"]);
}

fn changes_of_a_batch_take_effect_in_order(state: &impl StateStore) {
    let cf = Cf::CfDefault;
    let everything = || StateOp::DeleteRange {
        cf,
        start: Bytes::new(),
        end: Bytes::new(),
    };
    let delete = |key: &'static str| StateOp::Delete {
        cf,
        key: Bytes::from(key),
    };
    write(
        state,
        [
            put(cf, "a", "1"),
            everything(),
            put(cf, "a", "2"),
            put(cf, "b", "3"),
            delete("b"),
            put(cf, "c", "4"),
        ],
    );
    assert_eq!(scan(state, cf, "", "", false), ["a=2", "c=4"]);
}

fn column_families_are_apart(state: &impl StateStore) {
    for cf in DATA_CFS {
        write(state, [put(cf, "k", cf.as_str_name())]);
    }
    write(
        state,
        [StateOp::Delete {
            cf: Cf::CfLock,
            key: Bytes::from("k"),
        }],
    );
    let found = DATA_CFS.map(|cf| state.get(cf, b"k").expect("read"));
    assert_eq!(
        found,
        [
            Some(Bytes::from("CF_DEFAULT")),
            None,
            Some(Bytes::from("CF_WRITE"))
        ]
    );
}

fn a_snapshot_stays_as_it_was(state: &impl StateStore) {
    let cf = Cf::CfDefault;
    write(state, [put(cf, "a", "1")]);
    let snapshot = state.snapshot();
    write(state, [put(cf, "a", "2"), put(cf, "b", "3")]);
    state.flush_all(FlushReason::Manual).expect("flushed");
    assert_eq!(scan(&snapshot, cf, "", "", false), ["a=1"]);
    assert_eq!(snapshot.get(cf, b"b").expect("read"), None);
    assert_eq!(
        scan(&state.background_snapshot(), cf, "", "", false),
        ["a=2", "b=3"]
    );
    assert_eq!(scan(state, cf, "", "", false), ["a=2", "b=3"]);
}

fn a_scan_stops_when_it_is_told(state: &impl StateStore) {
    let cf = Cf::CfDefault;
    write(state, ["a", "b", "c"].map(|key| put(cf, key, "")));
    for (reverse, seen) in [(false, ["a", "b"]), (true, ["c", "b"])] {
        let mut keys = Vec::new();
        let all = KeyRange {
            start: b"",
            end: b"",
        };
        let scanned = state.scan(cf, all, reverse, &mut |key, _| {
            keys.push(String::from_utf8_lossy(key).into_owned());
            keys.len() < 2
        });
        scanned.expect("scanned");
        assert_eq!(keys, seen);
    }
}

fn region(id: u64) -> StateOp {
    let region = Some(Region {
        id,
        ..Region::default()
    });
    StateOp::PutRegion {
        record: RegionRecord {
            region,
            ..RegionRecord::default()
        },
    }
}

fn applied(region: u64, index: u64) -> StateOp {
    StateOp::PutApplied {
        region,
        record: ApplyRecord { index, term: 6 },
    }
}

fn records_of_regions_are_no_keys(state: &impl StateStore) {
    write(
        state,
        [
            region(2),
            region(1),
            applied(1, 7),
            put(Cf::CfMeta, "pd", "1"),
        ],
    );
    let stored = state.regions().expect("read");
    let stored: Vec<_> = stored
        .iter()
        .map(|stored| {
            (
                stored.record.region.as_ref().expect("named").id,
                stored.applied.map(|record| record.index),
            )
        })
        .collect();
    assert_eq!(stored, [(1, Some(7)), (2, None)]);
    assert_eq!(scan(state, Cf::CfMeta, "", "", false), ["pd=1"]);
    assert_eq!(state.get_meta(b"pd").expect("read"), Some(Bytes::from("1")));
    write(
        state,
        [StateOp::DeleteRange {
            cf: Cf::CfMeta,
            start: Bytes::new(),
            end: Bytes::new(),
        }],
    );
    assert_eq!(
        state.regions().expect("read").len(),
        2,
        "PD's keys alone are deleted"
    );
    write(state, [StateOp::DeleteApplied { region: 1 }]);
    assert_eq!(state.regions().expect("read")[0].applied, None);
}

fn nothing_is_durable_before_a_flush(state: &impl StateStore) {
    let number = state
        .write(&StateBatch {
            ops: vec![region(1), applied(1, 7)],
            admin: true,
        })
        .expect("written");
    assert_eq!(state.refresh_durable().expect("looked"), []);
    assert_eq!(
        (state.durable_applied(1), state.durable_cut() < number),
        (0, true)
    );
    assert_eq!(state.first_undurable_admin(), Some(number));
}

fn a_flush_makes_every_region_durable(state: &impl StateStore) {
    write(state, [region(1), region(2), applied(1, 7), applied(2, 9)]);
    let number = write(state, [applied(1, 8), put(Cf::CfDefault, "k", "v")]);
    state.flush_all(FlushReason::ReplayBound).expect("flushed");
    assert_eq!(state.refresh_durable().expect("looked"), [(1, 8), (2, 9)]);
    assert_eq!(
        [1, 2, 3].map(|region| state.durable_applied(region)),
        [8, 9, 0]
    );
    assert_eq!(
        (state.durable_cut(), state.first_undurable_admin()),
        (number, None)
    );
    assert_eq!(state.refresh_durable().expect("looked"), [], "told once");
}

fn an_apply_record_without_its_region_is_a_corruption(state: &impl StateStore) {
    write(state, [applied(9, 7)]);
    let error = state.regions().expect_err("orphaned");
    assert!(
        matches!(&error, EngineError::Corrupt { place, .. } if place == "region 9 apply record"),
        "{error}"
    );
}

fn a_split_check_counts_all_data(state: &impl StateStore) {
    let value = "x".repeat(98);
    for cf in DATA_CFS {
        write(state, (10..60).map(|row| put(cf, &row.to_string(), &value)));
    }
    let limits = SplitLimits {
        size_max: 15_000,
        size_split: 7_500,
        keys_max: 1_000,
    };
    let all = KeyRange {
        start: b"",
        end: b"",
    };
    let check = split_check(&state.snapshot(), all, limits).expect("scanned");
    assert_eq!((check.bytes, check.keys), (15_000, 150));
    let at: u64 = std::str::from_utf8(&check.split_keys[0])
        .expect("text")
        .parse()
        .expect("a number");
    assert!(
        (34..=37).contains(&at) && check.split_keys.len() == 1,
        "{:?}",
        check.split_keys
    );
}
