//! RocksDB against the twin: the same operations, the same answers, and after a crash the same
//! data at the point that RocksDB fell back to.
//!
//! Dropping a database is a crash here: it flushes nothing when it is closed, and what the WAL
//! lost is taken from the files by hand.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use flotilla_engine::memory::{MemoryLog, MemoryState};
use flotilla_engine::rocks::{
    self, BlockCache, LogOptions, RocksLog, RocksState, SnapshotFolder, StateOptions,
};
use flotilla_engine::row::{self, Expiry, KeyMode};
use flotilla_engine::{
    Cf, DataDir, FlushReason, RaftLog, SplitLimits, StateBatch, StateOp, StateReader, StateStore,
    StoreIds, split_check,
};
use flotilla_proto::clock::Wall;
use tempfile::TempDir;

use crate::common::log_script::LogScript;
use crate::common::state_script::{CFS, StateScript, key, over, range};
use crate::common::transfer::all_rows;
use crate::common::{Dice, for_seeds};

/// So small that memtables are flushed and WAL files recycled all the time.
const WRITE_BUFFER_BYTES: usize = rocks::WRITE_BUFFER_BYTES_MIN;
const CACHE_BYTES: usize = 1 << 20;

/// A store's folder that is gone with this.
pub(crate) struct Folder {
    temporary: TempDir,
    cache: BlockCache,
    expiry: Arc<Expiry>,
}

impl Folder {
    pub(crate) fn new() -> Self {
        let temporary = tempfile::tempdir().expect("a folder");
        let folder = Self {
            temporary,
            cache: BlockCache::new(CACHE_BYTES),
            expiry: Arc::default(),
        };
        let ids = StoreIds {
            cluster_id: 1,
            store_id: 1,
        };
        let mut dir = DataDir::create(&folder.path(), ids, Wall(1)).expect("created");
        rocks::open_log(&dir, &folder.log_options()).expect("created");
        rocks::open_state(&dir, &folder.state_options()).expect("created");
        dir.finish().expect("finished");
        folder
    }

    pub(crate) fn log(&self) -> RocksLog {
        rocks::open_log(&self.dir(), &self.log_options()).expect("opened")
    }

    pub(crate) fn state(&self) -> RocksState {
        rocks::open_state(&self.dir(), &self.state_options()).expect("opened")
    }

    pub(crate) fn snapshots(&self) -> SnapshotFolder {
        rocks::open_snapshots(&self.dir()).expect("opened")
    }

    fn dir(&self) -> DataDir {
        DataDir::open(&self.path()).expect("a store")
    }

    fn path(&self) -> PathBuf {
        self.temporary.path().join("store")
    }

    fn log_options(&self) -> LogOptions {
        LogOptions {
            write_buffer_bytes: WRITE_BUFFER_BYTES,
            ..LogOptions::new(self.cache.clone())
        }
    }

    fn state_options(&self) -> StateOptions {
        let options = StateOptions::new(self.cache.clone(), Arc::clone(&self.expiry));
        StateOptions {
            write_buffer_bytes: WRITE_BUFFER_BYTES,
            ..options
        }
    }
}

#[test]
fn the_log_answers_like_the_twin_also_after_crashes() {
    let (mut partial, mut recycled) = (0, 0);
    for_seeds(0..4, |seed| {
        let (mut script, mut dice) = (LogScript::new(seed), Dice::new(!seed));
        let folder = Folder::new();
        let (mut log, mut twin) = (folder.log(), MemoryLog::new());
        let mut synced_files = wal_files(&folder.path());
        // The script as it stood behind each batch, to go on from where a crash fell back to.
        let mut scripts = vec![script.clone()];
        for crash in 0..6 {
            for _ in 0..dice.within(1, 150) {
                let batch = script.batch();
                assert_eq!(
                    log.append(&batch).expect("appended"),
                    twin.append(&batch).expect("appended")
                );
                scripts.push(script.clone());
                if dice.chance(10) {
                    assert_eq!(log.sync().expect("synced"), twin.sync().expect("synced"));
                    let files = wal_files(&folder.path());
                    recycled += renamed(&synced_files, &files);
                    synced_files = files;
                }
                compare_entries(&log, &twin, &script, &mut dice);
            }
            compare_logs(&log, &twin);
            drop(log);
            tear(&folder.path(), &synced_files, &mut dice);
            log = folder.log();
            twin = twin.crash(|offered| {
                let synced = twin.synced();
                let kept = log
                    .appended()
                    .checked_sub(synced)
                    .expect("what was synced is there");
                assert!(kept <= offered, "more was recovered than was ever appended");
                partial += u64::from(0 < kept && kept < offered);
                kept
            });
            compare_logs(&log, &twin);
            synced_files = wal_files(&folder.path());
            scripts.truncate(log.appended() as usize + 1);
            script = scripts.last().expect("one per batch").clone();
            script.reseed(seed ^ (crash << 32));
        }
        log.check_background().expect("no failures");
    });
    assert!(
        partial > 0,
        "no crash kept some of the unsynced batches and lost others"
    );
}

fn compare_logs(log: &RocksLog, twin: &MemoryLog) {
    assert_eq!(log.load().expect("whole"), twin.load().expect("whole"));
}

/// Reads a random range, sometimes one that is not held.
fn compare_entries(log: &RocksLog, twin: &MemoryLog, script: &LogScript, dice: &mut Dice) {
    let spans = script.spans();
    if spans.is_empty() {
        return;
    }
    let (region, first, last) = *dice.pick(&spans);
    let low = dice.within(first - 1, last);
    let high = dice.within(low, last + 2);
    let bytes_max = *dice.pick(&[0, 30, 100, 30_000, u64::MAX]);
    let said = [
        log.entries(region, low, high, bytes_max),
        twin.entries(region, low, high, bytes_max),
    ];
    let [one, other] = said.map(|said| said.map_err(|error| error.to_string()));
    assert_eq!(
        one, other,
        "region {region} [{low}, {high}) up to {bytes_max} bytes"
    );
}

/// A WAL file: a recycled one keeps its inode and gets another path.
type Wal = (PathBuf, Vec<u8>);

/// How many files got another path.
fn renamed(before: &BTreeMap<u64, Wal>, now: &BTreeMap<u64, Wal>) -> usize {
    let path = |files: &BTreeMap<u64, Wal>, inode| files.get(inode).map(|(path, _)| path.clone());
    now.keys()
        .filter(|inode| path(before, inode).is_some_and(|was| Some(was) != path(now, inode)))
        .count()
}

/// The log's WAL files by inode.
fn wal_files(store: &Path) -> BTreeMap<u64, Wal> {
    wal_paths(store)
        .into_iter()
        .map(|(path, inode, bytes)| (inode, (path, bytes)))
        .collect()
}

/// The log's WAL files in the order they were written: path, inode, content. One that RocksDB
/// renames or deletes meanwhile holds nothing that is still needed.
fn wal_paths(store: &Path) -> Vec<(PathBuf, u64, Vec<u8>)> {
    let mut paths = Vec::new();
    for file in fs::read_dir(store.join("log")).expect("a log") {
        let path = file.expect("a file").path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let Ok(mut file) = fs::File::open(&path) else {
            continue;
        };
        let inode = file.metadata().expect("an open file").ino();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).expect("an open file");
        paths.push((path, inode, bytes));
    }
    paths.sort();
    paths
}

/// Does to the WAL what a power failure may do: of the bytes written since the last sync some
/// prefix stays, cut at any byte. Files behind the cut stay or go back, as the disk pleases.
fn tear(store: &Path, synced: &BTreeMap<u64, Wal>, dice: &mut Dice) {
    let none = Vec::new();
    let files: Vec<_> = wal_paths(store)
        .into_iter()
        .map(|(path, inode, now)| {
            let before = synced.get(&inode).map_or(&none, |(_, bytes)| bytes);
            let same = before
                .iter()
                .zip(&now)
                .take_while(|(before, now)| before == now)
                .count();
            (path, before, now, same)
        })
        .collect();
    let unsynced = files
        .iter()
        .map(|(_, _, now, same)| (now.len() - same) as u64)
        .sum();
    let mut kept = if dice.chance(20) {
        unsynced
    } else {
        dice.within(0, unsynced)
    } as usize;
    for (path, before, now, same) in files {
        let length = now.len() - same;
        if kept >= length {
            kept -= length;
            continue;
        }
        let cut = same + kept;
        let mut bytes = now[..cut].to_vec();
        bytes.extend_from_slice(before.get(cut..).unwrap_or_default());
        kept = if dice.chance(50) { 0 } else { usize::MAX };
        fs::write(&path, bytes).expect("written");
    }
}

#[test]
fn the_state_answers_like_the_twin_also_after_crashes() {
    for_seeds(0..4, |seed| {
        let (mut script, mut dice) = (StateScript::new(seed), Dice::new(!seed));
        let folder = Folder::new();
        let mut state = folder.state();
        let mut twin = MemoryState::new();
        let mut scripts = vec![script.clone()];
        for crash in 0..6 {
            let mut snapshots = Vec::new();
            for _ in 0..dice.within(1, 150) {
                let batch = script.batch();
                assert_eq!(
                    state.write(&batch).expect("written"),
                    twin.write(&batch).expect("written")
                );
                scripts.push(script.clone());
                // Every moment is one that RocksDB may have chosen to flush at.
                twin.begin_flush();
                match dice.below(20) {
                    0 => state.flush_all(FlushReason::Manual).expect("flushed"),
                    1 => snapshots.push((state.snapshot(), twin.snapshot())),
                    2 => follow_durable(&state, &twin),
                    3 => snapshots.clear(),
                    _ => compare_reads(&state, &twin, &mut dice),
                }
            }
            for (snapshot, twin) in &snapshots {
                compare_readers(snapshot, twin);
            }
            compare_states(&state, &twin);
            follow_durable(&state, &twin);
            drop((snapshots, state));
            state = folder.state();
            let found = state.durable_cut();
            assert!(found >= twin.durable_cut(), "what was durable is there");
            finish_flushes(&twin, found);
            twin = twin.crash();
            compare_states(&state, &twin);
            scripts.truncate(found as usize + 1);
            script = scripts.last().expect("one per batch").clone();
            script.reseed(seed ^ (crash << 32));
        }
    });
}

/// Lets the twin's flushes come as far as those of RocksDB, and compares what became durable.
pub(crate) fn follow_durable(state: &RocksState, twin: &MemoryState) {
    let risen = state.refresh_durable().expect("looked");
    finish_flushes(twin, state.durable_cut());
    assert_eq!(risen, twin.refresh_durable().expect("looked"));
    assert_eq!(state.durable_cut(), twin.durable_cut());
    assert_eq!(state.first_undurable_admin(), twin.first_undurable_admin());
}

/// Finishes the twin's flushes up to the one whose cut is batch `cut`.
pub(crate) fn finish_flushes(twin: &MemoryState, cut: u64) {
    while twin.flushed_cut() < cut {
        assert!(
            twin.finish_flush().expect("no faults"),
            "a flush began behind every batch"
        );
    }
}

fn compare_reads(state: &RocksState, twin: &MemoryState, dice: &mut Dice) {
    let (cf, key, bounds, reverse) = (*dice.pick(&CFS), key(dice), range(dice), dice.chance(50));
    assert_eq!(
        state.get(cf, &key).expect("read"),
        twin.get(cf, &key).expect("read")
    );
    let limit = dice.within(1, 20) as usize;
    let rows = |reader: &dyn StateReader| {
        let mut rows = Vec::new();
        let scanned = reader.scan(cf, over(&bounds), reverse, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            rows.len() < limit
        });
        scanned.expect("scanned");
        rows
    };
    assert_eq!(
        rows(state),
        rows(twin),
        "{cf:?} {bounds:?} reverse {reverse}"
    );
    let limits = SplitLimits {
        size_max: 2_000,
        size_split: 1_000,
        keys_max: 40,
    };
    let splits = [
        split_check(&state.snapshot(), over(&bounds), limits).expect("scanned"),
        split_check(&twin.snapshot(), over(&bounds), limits).expect("scanned"),
    ];
    assert_eq!(splits[0], splits[1]);
}

pub(crate) fn compare_states(state: &RocksState, twin: &MemoryState) {
    let regions = state.regions().expect("read");
    assert_eq!(regions, twin.regions().expect("read"));
    for stored in regions {
        let id = stored.record.region.expect("named").id;
        assert_eq!(
            state.durable_applied(id),
            twin.durable_applied(id),
            "region {id}"
        );
    }
    compare_readers(state, twin);
}

fn compare_readers(one: &impl StateReader, other: &impl StateReader) {
    for cf in CFS {
        assert_eq!(all_rows(one, cf), all_rows(other, cf), "{cf:?}");
    }
}

#[test]
fn a_compaction_drops_the_rows_that_the_twin_drops() {
    for (seed, mode) in [
        (1, None),
        (2, Some(KeyMode::Plain)),
        (3, Some(KeyMode::Encoded)),
    ] {
        let mut script = StateScript::new(seed);
        let folder = Folder::new();
        let (state, twin) = (folder.state(), MemoryState::new());
        for _ in 0..300 {
            let batch = script.batch();
            state.write(&batch).expect("written");
            twin.write(&batch).expect("written");
        }
        // Whatever the script made: rows of each kind that expire.
        for (cf, key) in CFS
            .iter()
            .flat_map(|cf| ["", "a", "ra"].map(|key| (*cf, key)))
        {
            let put = StateOp::Put {
                cf,
                key: key.into(),
                value: row::encode(b"v", Some(9_000)),
            };
            let batch = StateBatch {
                ops: vec![put],
                admin: false,
            };
            state.write(&batch).expect("written");
            twin.write(&batch).expect("written");
        }
        if let Some(mode) = mode {
            folder.expiry.set_mode(mode);
        }
        let rows = || {
            CFS.map(|cf| all_rows(&twin, cf).len())
                .into_iter()
                .sum::<usize>()
        };
        let before = rows();
        for seconds in [3_600, 10_000, 30_000] {
            folder.expiry.advance(seconds);
            state.compact().expect("compacted");
            twin.compact(&folder.expiry);
            compare_readers(&state, &twin);
        }
        assert_eq!(
            rows() < before,
            mode.is_some(),
            "{mode:?}: {before} rows before, {} after",
            rows()
        );
    }
}

#[test]
fn pressure_and_sizes_follow_what_is_written() {
    let folder = Folder::new();
    let mut options = folder.state_options();
    options.write_buffer_bytes = 8 << 20;
    let state = rocks::open_state(&folder.dir(), &options).expect("opened");
    let everything = (Default::default(), Default::default());
    let (before, idle) = (
        state.pressure(),
        state
            .approximate_bytes(over(&everything))
            .expect("estimated"),
    );
    let value = Bytes::from(Dice::new(1).bytes(1 << 20));
    let key = Bytes::from("k");
    let put = StateOp::Put {
        cf: Cf::CfDefault,
        key,
        value,
    };
    let batch = StateBatch {
        ops: vec![put],
        admin: false,
    };
    state.write(&batch).expect("written");
    let filled = state.pressure();
    assert!(
        filled.memtable_bytes >= before.memtable_bytes + (1 << 20),
        "{before:?} {filled:?}"
    );
    state.flush_all(FlushReason::Manual).expect("flushed");
    let flushed = state.pressure();
    assert!(
        flushed.level0_files > 0 && !flushed.stopped && !state.flush_waiting(),
        "{flushed:?}"
    );
    // The memory itself is freed a moment later, when nobody reads it any more.
    assert!(
        state.stats().memtable_bytes < 1 << 20,
        "{:?}",
        state.stats()
    );
    let bytes = state
        .approximate_bytes(over(&everything))
        .expect("estimated");
    assert!(
        bytes - idle >= 1 << 20,
        "{idle} bytes before, {bytes} after"
    );
    let stats = state.stats();
    assert!(
        stats.flush_bytes >= 1 << 20 && stats.wal_bytes == 0,
        "{stats:?}"
    );
    assert_eq!(state.flushes(), BTreeMap::from([(FlushReason::Manual, 1)]));
}
