//! Stores to damage, kill and fill up.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use flotilla_engine::memory::{MemoryLog, MemoryState};
use flotilla_engine::rocks::{self, BlockCache, LogOptions, RocksLog, RocksState, StateOptions};
use flotilla_engine::{
    DataDir, EngineError, KeyRange, RaftLog, RegionLog, Result, StateStore, StoreIds, StoredRegion,
};
use flotilla_proto::clock::Wall;
use flotilla_proto::raft::Entry;

use super::state_script::CFS;

pub(crate) const IDS: StoreIds = StoreIds {
    cluster_id: 7,
    store_id: 3,
};
const CACHE_BYTES: usize = 1 << 20;

/// So small that the folder holds files of every kind.
pub(crate) fn log_options() -> LogOptions {
    let options = LogOptions::new(BlockCache::new(CACHE_BYTES));
    LogOptions {
        write_buffer_bytes: rocks::WRITE_BUFFER_BYTES_MIN,
        ..options
    }
}

pub(crate) fn state_options() -> StateOptions {
    let options = StateOptions::new(BlockCache::new(CACHE_BYTES), Arc::default());
    StateOptions {
        write_buffer_bytes: rocks::WRITE_BUFFER_BYTES_MIN,
        ..options
    }
}

/// An empty store.
pub(crate) fn create(path: &Path, ids: StoreIds) {
    let mut dir = DataDir::create(path, ids, Wall(1)).expect("created");
    rocks::open_log(&dir, &log_options()).expect("created");
    rocks::open_state(&dir, &state_options()).expect("created");
    dir.finish().expect("finished");
}

pub(crate) fn open(path: &Path) -> (DataDir, RocksLog, RocksState) {
    let dir = DataDir::open(path).expect("a store");
    let log = rocks::open_log(&dir, &log_options()).expect("a log");
    let state = rocks::open_state(&dir, &state_options()).expect("a state");
    (dir, log, state)
}

/// Everything that a log holds.
#[derive(Debug, PartialEq)]
pub(crate) struct LogContent(BTreeMap<u64, RegionLog>, BTreeMap<u64, Vec<Entry>>);

pub(crate) fn log_content(log: &impl RaftLog) -> Result<LogContent> {
    let regions = log.load()?;
    let mut entries = BTreeMap::new();
    for (region, found) in &regions {
        if let Some(span) = found.span {
            entries.insert(
                *region,
                log.entries(*region, span.first, span.last + 1, u64::MAX)?,
            );
        }
    }
    Ok(LogContent(regions, entries))
}

type Row = (Vec<u8>, Vec<u8>);

/// Everything that a state holds.
#[derive(Debug, PartialEq)]
pub(crate) struct StateContent(Vec<StoredRegion>, Vec<Vec<Row>>);

pub(crate) fn state_content(state: &impl StateStore) -> Result<StateContent> {
    let rows = |cf| -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        let everything = KeyRange {
            start: b"",
            end: b"",
        };
        state.scan(cf, everything, false, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            true
        })?;
        Ok(rows)
    };
    let rows: Result<Vec<_>> = CFS.into_iter().map(rows).collect();
    Ok(StateContent(state.regions()?, rows?))
}

/// The twins after `batches` of the scripts with `seed`.
pub(crate) fn twin_log(seed: u64, batches: u64) -> MemoryLog {
    let mut script = super::log_script::LogScript::new(seed);
    let log = MemoryLog::new();
    for _ in 0..batches {
        log.append(&script.batch()).expect("appended");
    }
    log
}

pub(crate) fn twin_state(seed: u64, batches: u64) -> MemoryState {
    let mut script = super::state_script::StateScript::new(seed);
    let state = MemoryState::new();
    for _ in 0..batches {
        state.write(&script.batch()).expect("written");
    }
    state
}

/// Copies a folder with everything in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// This test binary again, with one of its tests that plays a part of its own: it does so only
/// where `variable` is set.
pub(crate) fn as_child(test: &str, variable: &str, value: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(variable, value);
    command
}

/// The message of a refusal.
pub(crate) fn refusal<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => "accepted".into(),
        Err(error @ EngineError::Corrupt { .. }) => format!("corrupt: {error}"),
        Err(error @ EngineError::Foreign { .. }) => format!("foreign: {error}"),
        Err(error @ EngineError::Newer { .. }) => format!("newer: {error}"),
        Err(error) => format!("other: {error}"),
    }
}
