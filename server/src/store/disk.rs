//! Free space: writes stop before it runs out (contracts: C13).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flotilla_engine::{Result, free_bytes};

use crate::metrics::StoreMetrics;

/// Watches the free space of one folder.
#[derive(Debug)]
pub struct DiskWatch {
    path: PathBuf,
    reserve: u64,
    full: AtomicBool,
    free: AtomicU64,
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
            metrics,
        };
        watch.look()?;
        Ok(watch)
    }

    /// Looks again.
    ///
    /// # Errors
    /// The file system does not tell; what was seen before still counts.
    pub fn look(&self) -> Result<()> {
        self.saw(free_bytes(&self.path)?);
        Ok(())
    }

    fn saw(&self, free: u64) {
        self.free.store(free, Ordering::Relaxed);
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
            let (free, reserve) = (self.free.load(Ordering::Relaxed) >> 20, self.reserve >> 20);
            format!("{free} MiB are free, {reserve} MiB are kept in reserve; reads and deletes are served")
        })
    }

    /// Free bytes when it last looked.
    pub fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
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
            watch.saw(free_mib << 20);
            assert_eq!(watch.refusal().is_some(), full, "{free_mib} MiB");
        }
        watch.saw(7 << 20);
        assert!(
            watch
                .refusal()
                .expect("full")
                .starts_with("7 MiB are free, 100 MiB are kept")
        );
    }

    #[test]
    fn a_folder_that_is_gone_is_an_error() {
        assert!(DiskWatch::new(Path::new("/nonexistent/x"), 1, Arc::default()).is_err());
    }
}
