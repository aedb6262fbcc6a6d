//! Free space: writes stop before it runs out (contracts: C13).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flotilla_engine::{EngineError, Result, disk_bytes, free_bytes};

use crate::config::ByteSize;
use crate::metrics::StoreMetrics;

/// Watches the free space of one folder.
#[derive(Debug)]
pub struct DiskWatch {
    path: PathBuf,
    reserve: u64,
    full: AtomicBool,
    free: AtomicU64,
    size: AtomicU64,
    /// The last look failed, and that has been told.
    blind: AtomicBool,
    metrics: Arc<StoreMetrics>,
}

impl DiskWatch {
    /// A watch that has looked once.
    ///
    /// # Errors
    /// The file system does not tell.
    pub fn new(path: &Path, reserve: u64, metrics: Arc<StoreMetrics>) -> Result<Self> {
        let watch = Self {
            path: path.to_owned(),
            reserve,
            full: AtomicBool::new(false),
            free: AtomicU64::new(0),
            size: AtomicU64::new(0),
            blind: AtomicBool::new(false),
            metrics,
        };
        let (free, size) = watch.ask()?;
        watch.saw(free, size);
        Ok(watch)
    }

    /// Looks again. When the file system does not tell, what was seen before still counts; that is
    /// told once, until it tells again.
    ///
    /// # Errors
    /// [`EngineError::Gone`]: the folder is not there any more, and no file in it can be made. The
    /// store must not go on.
    pub fn look(&self) -> Result<()> {
        self.looked(self.ask())
    }

    /// Free bytes, and the size of the file system.
    fn ask(&self) -> Result<(u64, u64)> {
        Ok((free_bytes(&self.path)?, disk_bytes(&self.path)?))
    }

    fn looked(&self, answer: Result<(u64, u64)>) -> Result<()> {
        match answer {
            Ok((free, size)) => {
                if self.blind.swap(false, Ordering::Relaxed) {
                    tracing::info!("the free disk space can be looked up again");
                }
                self.saw(free, size);
            }
            Err(error @ EngineError::Gone { .. }) => return Err(error),
            Err(error) => {
                if !self.blind.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "cannot look up the free disk space; going on with what was seen before");
                }
            }
        }
        Ok(())
    }

    fn saw(&self, free: u64, size: u64) {
        self.free.store(free, Ordering::Relaxed);
        self.size.store(size, Ordering::Relaxed);
        let full = free < self.reserve;
        if self.full.swap(full, Ordering::Relaxed) != full {
            let (free_mib, reserve_mib) = (free >> 20, self.reserve >> 20);
            if full {
                tracing::error!(
                    free_mib,
                    reserve_mib,
                    "the disk is nearly full: only reads and deletes are served"
                );
            } else {
                tracing::info!(
                    free_mib,
                    reserve_mib,
                    "there is room on the disk again: writes are served"
                );
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        self.metrics.disk_free.set(free as f64);
        self.metrics.disk_full.set(f64::from(u8::from(full)));
    }

    /// Whether only reads and deletes are served. The text says why, for clients.
    pub fn refusal(&self) -> Option<String> {
        self.full.load(Ordering::Relaxed).then(|| {
            let (free, reserve) = (ByteSize(self.free()), ByteSize(self.reserve));
            let (free, reserve) = (free.rounded(), reserve.rounded());
            format!("{free} are free, {reserve} are kept in reserve; reads and deletes are served")
        })
    }

    /// Free bytes when it last looked.
    pub fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Bytes of the whole file system when it last looked.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_stop_below_the_reserve_and_go_on_above_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let watch =
            DiskWatch::new(folder.path(), 100 << 20, Arc::default()).expect("a file system");
        assert!(watch.free() > 0);
        for (free_mib, full) in [
            (101, false),
            (100, false),
            (99, true),
            (0, true),
            (100, false),
        ] {
            watch.saw(free_mib << 20, 1 << 40);
            assert_eq!(watch.refusal().is_some(), full, "{free_mib} MiB");
        }
        watch.saw(7 << 20, 1 << 40);
        assert!(
            watch
                .refusal()
                .expect("full")
                .starts_with("7MiB are free, 100MiB are kept")
        );
    }

    #[test]
    fn a_folder_that_is_gone_is_an_error_and_a_look_that_failed_is_not() {
        assert!(DiskWatch::new(Path::new("/nonexistent/x"), 1, Arc::default()).is_err());
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store");
        std::fs::create_dir(&path).expect("a folder");
        let watch = DiskWatch::new(&path, 1, Arc::default()).expect("a file system");
        assert!(watch.size() >= watch.free());

        let failed = || {
            let cause = std::io::Error::other("no answer");
            Err(EngineError::disk(&path, "asking for free space", &cause))
        };
        let blind = || watch.blind.load(Ordering::Relaxed);
        watch.looked(Ok((7, 9))).expect("it tells");
        assert!(!blind());
        for _ in 0..3 {
            watch.looked(failed()).expect("the store goes on");
            assert!(blind(), "told once, at the first");
            let seen = (watch.free(), watch.size());
            assert_eq!(seen, (7, 9), "what was seen before counts");
        }
        watch.look().expect("it tells again");
        assert!(!blind(), "the next failure is told");

        std::fs::remove_dir(&path).expect("removed");
        let error = watch.look().expect_err("the folder is gone");
        assert!(matches!(error, EngineError::Gone { .. }), "{error}");
    }
}
