//! The one write of both databases. It never waits inside RocksDB: a writer that is held up there
//! while a flush fails keeps RocksDB from recovering, and both wait for ever.

use std::path::Path;
use std::thread;
use std::time::Duration;

use rocksdb::{DB, WriteBatch, WriteOptions};

use super::failure;
use crate::Result;

/// How RocksDB refuses a write that it would hold up.
const STALLED: &str = "Result incomplete: Write stall";
/// Pause before a refused write is tried again at first; each is twice as long as the one before ...
const STALL_PAUSE_MIN: Duration = Duration::from_millis(1);
/// ... up to this.
const STALL_PAUSE_MAX: Duration = Duration::from_millis(16);

/// How a database writes.
pub(super) fn options(logged: bool) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(!logged);
    options.set_no_slowdown(true);
    options
}

/// Writes what `batch` makes. While RocksDB would hold it up it waits for flushes and compactions, and
/// fails as soon as they do; one that hangs is the business of [`crate::FlushWatch`].
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
    let mut pause = STALL_PAUSE_MIN;
    loop {
        match db.write_opt(batch(), options) {
            Err(error) if error.as_ref() == STALLED => thread::sleep(pause),
            result => return result.map_err(|error| failure(path, operation, &error)),
        }
        pause = (pause * 2).min(STALL_PAUSE_MAX);
    }
}
