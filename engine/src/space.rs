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
///
/// # Errors
/// [`crate::EngineError::Gone`] if nothing is at `path`, or the file system does not tell.
#[cfg(feature = "rocks")]
pub fn free_bytes(path: &std::path::Path) -> crate::Result<u64> {
    let system = file_system(path, "asking for free space")?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

/// The size of the file system that holds `path`, in bytes, with what others have written there and
/// what is kept for the administrator.
///
/// # Errors
/// As [`free_bytes`].
#[cfg(feature = "rocks")]
pub fn disk_bytes(path: &std::path::Path) -> crate::Result<u64> {
    let system = file_system(path, "asking for the size of the disk")?;
    Ok(system.f_blocks.saturating_mul(system.f_frsize))
}

#[cfg(feature = "rocks")]
fn file_system(
    path: &std::path::Path,
    operation: &'static str,
) -> crate::Result<rustix::fs::StatVfs> {
    rustix::fs::statvfs(path)
        .map_err(|error| crate::EngineError::disk(path, operation, &error.into()))
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
        let free = free_bytes(folder.path()).expect("asked");
        let size = disk_bytes(folder.path()).expect("asked");
        assert!(0 < free && free <= size, "{free} of {size}");
        let missing = folder.path().join("missing");
        for asked in [free_bytes(&missing), disk_bytes(&missing)] {
            let error = asked.expect_err("no such folder");
            assert!(
                matches!(&error, crate::EngineError::Gone { path, .. } if *path == missing),
                "{error}"
            );
        }
    }
}
