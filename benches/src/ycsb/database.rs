//! What a workload needs of a store, and the twin in memory that tests run against.

use std::future::Future;

use crate::measure::Failure;

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// A key-value store as the driver sees it. Cloning is cheap and gives the same store.
pub(crate) trait Database: Clone + Send + Sync + 'static {
    /// The value, or `None` where there is none.
    fn get(&self, key: Vec<u8>) -> impl Future<Output = Result<Option<Vec<u8>>, Failure>> + Send;

    /// Writes one value; `Ok` is an acknowledgement.
    fn put(&self, key: Vec<u8>, value: Vec<u8>)
    -> impl Future<Output = Result<(), Failure>> + Send;

    /// The first `limit` pairs of `[start, end)` in key order.
    fn scan(
        &self,
        start: Vec<u8>,
        end: Vec<u8>,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Pair>, Failure>> + Send;
}

#[cfg(test)]
pub(super) mod memory {
    use std::{
        collections::BTreeMap,
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
    };

    use parking_lot::Mutex;

    use super::*;

    /// What goes wrong with each `n`-th write; 0 is never.
    #[derive(Clone, Copy, Debug, Default)]
    pub(crate) struct Faults {
        /// Answered with an error, and not done.
        pub(crate) refused_every: u64,
        /// Acknowledged, and not done.
        pub(crate) lost_every: u64,
        /// Acknowledged, and a byte of it is wrong.
        pub(crate) damaged_every: u64,
    }

    /// A map behind a lock.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Memory {
        pub(crate) pairs: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
        pub(crate) faults: Faults,
        writes: Arc<AtomicU64>,
    }

    impl Memory {
        pub(crate) fn with(faults: Faults) -> Self {
            Self {
                faults,
                ..Self::default()
            }
        }

        /// The same data from now on with these faults.
        pub(crate) fn but(&self, faults: Faults) -> Self {
            Self {
                faults,
                pairs: Arc::clone(&self.pairs),
                writes: Arc::default(),
            }
        }
    }

    impl Database for Memory {
        async fn get(&self, key: Vec<u8>) -> Result<Option<Vec<u8>>, Failure> {
            tokio::task::yield_now().await;
            Ok(self.pairs.lock().get(&key).cloned())
        }

        async fn put(&self, key: Vec<u8>, mut value: Vec<u8>) -> Result<(), Failure> {
            tokio::task::yield_now().await;
            let write = self.writes.fetch_add(1, Ordering::Relaxed) + 1;
            let hits = |every: u64| every != 0 && write.is_multiple_of(every);
            if hits(self.faults.refused_every) {
                return Err(Failure::new("refused", "as told"));
            }
            if hits(self.faults.lost_every) {
                return Ok(());
            }
            if hits(self.faults.damaged_every) {
                *value
                    .last_mut()
                    .expect("tests use values that are not empty") ^= 1;
            }
            self.pairs.lock().insert(key, value);
            Ok(())
        }

        async fn scan(
            &self,
            start: Vec<u8>,
            end: Vec<u8>,
            limit: u32,
        ) -> Result<Vec<Pair>, Failure> {
            tokio::task::yield_now().await;
            let pairs = self.pairs.lock();
            let found = pairs.range(start..end).take(limit as usize);
            Ok(found
                .map(|(key, value)| Pair {
                    key: key.clone(),
                    value: value.clone(),
                })
                .collect())
        }
    }
}
