//! What ends a store while it runs: the first cause is kept, whoever looks sees it.

use std::sync::Arc;
use std::time::Duration;

use flotilla_engine::EngineError;
use flotilla_raftstore::runtime::StoreFatal;
use tokio::sync::watch;

/// Why the node must end. Acknowledged writes are in the log and are replayed at the next start.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fatal {
    /// The machines or their storage.
    #[error("{part}: {cause}")]
    Store {
        /// Which threads met it.
        part: &'static str,
        /// What it was.
        cause: flotilla_router::Fatal<StoreFatal>,
    },
    /// The storage, met outside the machines.
    #[error("{part}: {cause}")]
    Engine {
        /// Who met it.
        part: &'static str,
        /// What it was.
        cause: Arc<EngineError>,
    },
    /// A flush does not end (contracts: C13).
    #[error(
        "a flush of the state makes no progress since {}: the disk hangs; check it, then start the node again",
        humantime::format_duration(*.waited)
    )]
    FlushHangs {
        /// How long it has been running.
        waited: Duration,
    },
    /// The store was removed from its cluster.
    #[error(
        "store {store} was removed from its cluster, for ever: its regions have their replicas elsewhere; \
         delete its data folder, and start with an empty one to join again"
    )]
    Removed {
        /// Which.
        store: u64,
    },
    /// Another node has taken over this store's identity, and runs.
    #[error(
        "store {store} runs at {address} now, from another data folder: one of them is a copy; stop both, and start the \
         one whose data are right"
    )]
    Twin {
        /// The store.
        store: u64,
        /// Where the other one runs.
        address: String,
    },
    /// PD's own rows are not what they should be.
    #[error("the placement driver cannot read its records: {cause}")]
    Pd {
        /// What is wrong.
        cause: String,
    },
}

/// Takes the first cause and wakes who waits for it.
#[derive(Clone, Debug)]
pub struct FatalSink(watch::Sender<Option<Fatal>>);

impl Default for FatalSink {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl FatalSink {
    /// The node must end. Only the first cause counts: later ones follow from it.
    pub fn report(&self, fatal: Fatal) {
        self.0.send_if_modified(|first| {
            let news = first.is_none();
            if news {
                tracing::error!(cause = %fatal, "the store cannot go on");
                *first = Some(fatal);
            }
            news
        });
    }

    /// An error of the storage, met by `part`.
    pub fn engine(&self, part: &'static str, cause: EngineError) {
        self.report(Fatal::Engine {
            part,
            cause: Arc::new(cause),
        });
    }

    /// Whether there is a cause to end.
    pub fn is_reported(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits for a cause to end.
    ///
    /// # Panics
    /// Never: the sender is `self`.
    pub async fn reported(&self) -> Fatal {
        let mut receiver = self.0.subscribe();
        let found = receiver
            .wait_for(Option::is_some)
            .await
            .expect("the sender is alive");
        found.clone().expect("waited for it")
    }
}
