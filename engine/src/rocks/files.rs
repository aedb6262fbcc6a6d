//! Looks at a database's folder that RocksDB does not take.

use std::fs;
use std::path::Path;

use crate::{EngineError, Result};

/// Refuses a state folder whose WAL holds a record: nothing is ever written to it, and a single
/// logged write would be replayed alone on an older state (contracts: C1).
pub(super) fn refuse_logged_writes(path: &Path) -> Result<()> {
    let list = |error| EngineError::disk(path, "listing the folder", &error);
    for file in fs::read_dir(path).map_err(list)? {
        let file = file.map_err(list)?;
        let bytes = file.metadata().map_err(list)?.len();
        if file
            .path()
            .extension()
            .is_some_and(|extension| extension == "log")
            && bytes > 0
        {
            let detail = format!("{bytes} bytes in a WAL that nothing is ever written to");
            return Err(EngineError::corrupt(
                file.path().display().to_string(),
                detail,
            ));
        }
    }
    Ok(())
}
