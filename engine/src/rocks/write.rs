//! The one write of both databases. It never waits inside RocksDB: a writer that is held up there
//! while a flush fails keeps RocksDB from recovering, and both wait for ever.

use std::path::Path;
use std::thread;
use std::time::Duration;

use rocksdb::{DB, WriteBatch, WriteOptions};

use super::failure;
use crate::flush_watch::FLUSH_STALL_MAX;
use crate::{EngineError, Result};

/// How RocksDB refuses a write that it would hold up.
const STALLED: &str = "Result incomplete: Write stall";
/// Pause before a refused write is tried again.
const STALL_PAUSE: Duration = Duration::from_millis(1);
/// Tries before a write gives up: as long as a flush may take.
const STALL_TRIES: u128 = FLUSH_STALL_MAX.as_millis() / STALL_PAUSE.as_millis();

/// How a database writes.
pub(super) fn options(logged: bool) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(!logged);
    options.set_no_slowdown(true);
    options
}

/// Writes what `batch` makes. While all memtables are full it waits for a flush, and fails as soon
/// as the flush does.
#[expect(
    clippy::disallowed_methods,
    reason = "the one write; and what it waits for cannot wake it"
)]
pub(super) fn write(
    db: &DB,
    path: &Path,
    options: &WriteOptions,
    operation: &'static str,
    mut batch: impl FnMut() -> WriteBatch,
) -> Result<()> {
    for _ in 0..STALL_TRIES {
        match db.write_opt(batch(), options) {
            Err(error) if error.as_ref() == STALLED => thread::sleep(STALL_PAUSE),
            result => return result.map_err(|error| failure(path, operation, &error)),
        }
    }
    let detail = format!("no flush made room for {} s", FLUSH_STALL_MAX.as_secs());
    Err(EngineError::Disk {
        path: path.to_owned(),
        operation,
        detail,
    })
}
