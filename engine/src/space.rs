//! Disk space is looked at before it runs out (contracts: C13).

/// Kept free beside twice the write buffers, in bytes.
pub const DISK_RESERVE_EXTRA_BYTES: u64 = 512 << 20;

/// Free bytes below which a store refuses what makes it grow: every memtable can still be flushed,
/// with as much again for compactions, and the log can go on for a while.
pub const fn disk_reserve_bytes(log_write_buffer_bytes: u64, state_write_buffer_bytes: u64) -> u64 {
    let buffers = log_write_buffer_bytes.saturating_add(state_write_buffer_bytes);
    buffers
        .saturating_mul(2)
        .saturating_add(DISK_RESERVE_EXTRA_BYTES)
}

/// Bytes that this process may still write to the file system that holds `path`.
#[cfg(feature = "rocks")]
pub fn free_bytes(path: &std::path::Path) -> crate::Result<u64> {
    let system = rustix::fs::statvfs(path);
    let system = system
        .map_err(|error| crate::EngineError::disk(path, "asking for free space", &error.into()))?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_covers_the_write_buffers_twice() {
        let mib = 1 << 20;
        assert_eq!(disk_reserve_bytes(128 * mib, 128 * mib), 1024 * mib);
        assert_eq!(disk_reserve_bytes(u64::MAX, 1), u64::MAX);
    }

    #[cfg(feature = "rocks")]
    #[test]
    fn free_space_is_asked_of_the_right_file_system() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(free_bytes(folder.path()).expect("asked") > 0);
        let error = free_bytes(&folder.path().join("missing")).expect_err("no such folder");
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
