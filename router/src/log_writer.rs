//! Many batches, one write; many writes, one sync.
//!
//! Two steps, each with one runner at a time, that may run at the same moment: *append* merges all
//! that was handed in since the last append into one write, *sync* makes everything that was written
//! before it began durable and announces it. Nothing waits for a timer: what one sync covers is what
//! was written while the last one ran, so batches grow exactly as fast as the disk is slow.
//!
//! The threaded driver runs each step in a loop on a thread of its own, a seeded one when it likes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::counters::LogTally;
use crate::{LogCounters, LogSink, Merge};

/// Bytes that one write takes together, unless configured otherwise.
pub const LOG_WRITE_BYTES_MAX: u64 = 16 << 20;
/// Bytes handed in and not yet durable at which pollers wait, unless configured otherwise.
pub const LOG_PENDING_BYTES_MAX: u64 = 64 << 20;

/// Bounds of a log writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A write takes no further batch once it holds this many bytes. One batch always fits.
    pub write_bytes_max: u64,
    /// From this many bytes that are not durable on, [`LogWriter::is_behind`] answers `true`.
    pub pending_bytes_max: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            write_bytes_max: LOG_WRITE_BYTES_MAX,
            pending_bytes_max: LOG_PENDING_BYTES_MAX,
        }
    }
}

/// The log writer takes nothing any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogRefused<E> {
    /// A write or sync failed; the store ends (design, rule 8).
    #[error("the log has failed: {0}")]
    Failed(E),
    /// It was asked to stop, or one of its threads panicked.
    #[error("the log writer has stopped")]
    Stopped,
}

/// Writes the log of a store. `R` is what waits for a batch to be durable: messages, acknowledgements.
///
/// Cheap to clone; all clones are the same writer.
pub struct LogWriter<S: LogSink, R: Send + 'static> {
    pub(crate) shared: Arc<Shared<S, R>>,
}

pub(crate) struct Shared<S: LogSink, R> {
    sink: Arc<S>,
    config: LogConfig,
    pub(crate) state: Mutex<State<S, R>>,
    /// Bytes handed in that are not durable.
    pending_bytes: AtomicU64,
    counters: LogTally,
    /// For the threads that run the steps; without them nobody waits.
    #[cfg(feature = "threads")]
    pub(crate) wake: crate::threads::LogWake,
}

pub(crate) struct State<S: LogSink, R> {
    /// Handed in, in order.
    waiting: VecDeque<Submission<S::Batch, R>>,
    /// Written, in order; numbers never fall.
    written: VecDeque<Written<R>>,
    /// The number of the newest write.
    last: u64,
    /// Writes up to this number are durable. Invariant: durable <= last.
    durable: u64,
    /// One append at a time, one sync at a time.
    appending: bool,
    syncing: bool,
    /// Set once.
    failed: Option<S::Error>,
    /// After a failure or a panic: nothing is written, synced or announced any more.
    halted: bool,
    /// Nothing more is handed in; what was goes its way.
    stopped: bool,
}

struct Submission<B, R> {
    batch: B,
    releases: R,
}

struct Written<R> {
    number: u64,
    bytes: u64,
    releases: R,
}

impl<S: LogSink, R: Send + 'static> Clone for LogWriter<S, R> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<S: LogSink, R: Send + 'static> LogWriter<S, R> {
    /// A writer to `sink`, with nothing under way.
    pub fn new(sink: Arc<S>, config: LogConfig) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            written: VecDeque::new(),
            last: 0,
            durable: 0,
            appending: false,
            syncing: false,
            failed: None,
            halted: false,
            stopped: false,
        };
        let shared = Shared {
            sink,
            config,
            state: Mutex::new(state),
            pending_bytes: AtomicU64::new(0),
            counters: LogTally::default(),
            #[cfg(feature = "threads")]
            wake: crate::threads::LogWake::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Hands in a batch; `releases` is announced once it, and everything handed in before it, is
    /// durable. Never waits: look at [`LogWriter::is_behind`] before starting new work.
    ///
    /// An empty batch is not written: its releases only keep their place in the order.
    pub fn submit(&self, batch: S::Batch, releases: R) -> Result<(), LogRefused<S::Error>> {
        let bytes = batch.bytes();
        {
            let mut state = self.shared.state.lock();
            if let Some(error) = &state.failed {
                return Err(LogRefused::Failed(error.clone()));
            }
            if state.stopped || state.halted {
                return Err(LogRefused::Stopped);
            }
            self.shared
                .pending_bytes
                .fetch_add(bytes, Ordering::Relaxed);
            state.waiting.push_back(Submission { batch, releases });
        }
        self.shared.counters.submissions.add(1);
        #[cfg(feature = "threads")]
        self.shared.wake.append.notify_one();
        Ok(())
    }

    /// Whether an append has something to do.
    pub fn append_waits(&self) -> bool {
        self.shared.state.lock().append_waits()
    }

    /// Whether a sync has something to do.
    pub fn sync_waits(&self) -> bool {
        self.shared.state.lock().sync_waits()
    }

    /// Merges what waits and writes it. `false`: nothing to do.
    ///
    /// # Errors
    /// The sink's, once: afterwards there is nothing to do any more.
    ///
    /// # Panics
    /// If another append is under way, or the sink's numbers do not rise.
    pub fn append_step(&self) -> Result<bool, S::Error> {
        let Some(first) = self.begin_append() else {
            return Ok(false);
        };
        let mut merged = first.batch;
        let mut written = vec![Written {
            number: 0,
            bytes: merged.bytes(),
            releases: first.releases,
        }];
        while merged.bytes() < self.shared.config.write_bytes_max {
            let Some(next) = self.shared.state.lock().waiting.pop_front() else {
                break;
            };
            written.push(Written {
                number: 0,
                bytes: next.batch.bytes(),
                releases: next.releases,
            });
            merged.merge(next.batch);
        }
        let number = if merged.is_empty() {
            None
        } else {
            let number = self
                .shared
                .sink
                .append(&merged)
                .map_err(|error| self.fail(error))?;
            let counters = &self.shared.counters;
            counters.batches.add(1);
            counters.entries.add(merged.entries());
            counters.bytes.add(merged.bytes());
            Some(number)
        };
        self.end_append(number, written);
        Ok(true)
    }

    fn begin_append(&self) -> Option<Submission<S::Batch, R>> {
        let mut state = self.shared.state.lock();
        if !state.append_waits() {
            return None;
        }
        assert!(!state.appending, "two appends at once");
        state.appending = true;
        state.waiting.pop_front()
    }

    fn end_append(&self, number: Option<u64>, written: Vec<Written<R>>) {
        let mut state = self.shared.state.lock();
        state.appending = false;
        if let Some(number) = number {
            assert!(
                number > state.last,
                "write {number} came after write {}",
                state.last
            );
            state.last = number;
        }
        let number = state.last;
        state.written.extend(
            written
                .into_iter()
                .map(|written| Written { number, ..written }),
        );
        drop(state);
        #[cfg(feature = "threads")]
        self.shared.wake.sync.notify_one();
    }

    /// Makes durable what was written before this call, and announces it to `on_durable`, in the order
    /// in which it was handed in. `false`: nothing to do.
    ///
    /// # Errors
    /// The sink's, once: afterwards there is nothing to do any more.
    ///
    /// # Panics
    /// If another sync is under way, or the sink leaves out what was written before.
    pub fn sync_step(&self, on_durable: &mut dyn FnMut(Vec<R>)) -> Result<bool, S::Error> {
        let Some((written, durable)) = self.begin_sync() else {
            return Ok(false);
        };
        let mut reached = durable;
        if written > durable {
            reached = self.shared.sink.sync().map_err(|error| self.fail(error))?;
            assert!(
                reached >= written,
                "a sync reached {reached}, but {written} was written before"
            );
            self.shared.counters.syncs.add(1);
        }
        let releases = self.end_sync(reached);
        if !releases.is_empty() {
            self.shared.counters.durable.add(releases.len() as u64);
            on_durable(releases);
        }
        Ok(true)
    }

    /// The newest number that this sync must reach, and the one reached already.
    fn begin_sync(&self) -> Option<(u64, u64)> {
        let mut state = self.shared.state.lock();
        if !state.sync_waits() {
            return None;
        }
        assert!(!state.syncing, "two syncs at once");
        state.syncing = true;
        Some((state.written.back()?.number, state.durable))
    }

    fn end_sync(&self, reached: u64) -> Vec<R> {
        let mut state = self.shared.state.lock();
        state.syncing = false;
        if state.halted {
            // A write failed meanwhile: the store is ending, and nothing more leaves it.
            return Vec::new();
        }
        // A sync may know of a write whose append has not returned yet: not ours to announce.
        state.durable = state.durable.max(reached.min(state.last));
        let durable = state.durable;
        let count = state
            .written
            .partition_point(|written| written.number <= durable);
        let mut bytes = 0;
        let releases = state.written.drain(..count).map(|written| {
            bytes += written.bytes;
            written.releases
        });
        let releases = releases.collect();
        self.shared
            .pending_bytes
            .fetch_sub(bytes, Ordering::Relaxed);
        releases
    }

    fn fail(&self, error: S::Error) -> S::Error {
        let mut state = self.shared.state.lock();
        state.failed.get_or_insert_with(|| error.clone());
        drop(state);
        self.halt();
        error
    }

    /// Nothing goes on.
    pub(crate) fn halt(&self) {
        self.shared.state.lock().halted = true;
        #[cfg(feature = "threads")]
        self.shared.wake.all();
    }

    /// So much is not durable that no new work should start.
    pub fn is_behind(&self) -> bool {
        self.pending_bytes() >= self.shared.config.pending_bytes_max
    }

    /// Bytes handed in that are not durable.
    pub fn pending_bytes(&self) -> u64 {
        self.shared.pending_bytes.load(Ordering::Relaxed)
    }

    /// The failure that ended the writer.
    pub fn failure(&self) -> Option<S::Error> {
        self.shared.state.lock().failed.clone()
    }

    /// Takes nothing more in; what was handed in goes its way.
    pub fn stop(&self) {
        self.shared.state.lock().stopped = true;
        #[cfg(feature = "threads")]
        self.shared.wake.all();
    }

    /// Where it writes.
    pub fn sink(&self) -> &Arc<S> {
        &self.shared.sink
    }

    /// What happened so far. `submissions` above `durable` with a `syncs` that stands still is a disk
    /// that stalls (contracts: C14).
    pub fn counters(&self) -> LogCounters {
        self.shared.counters.snapshot()
    }
}

impl<S: LogSink, R> State<S, R> {
    pub(crate) fn append_waits(&self) -> bool {
        !self.halted && !self.waiting.is_empty()
    }

    pub(crate) fn sync_waits(&self) -> bool {
        !self.halted && !self.written.is_empty()
    }

    /// Nothing will ever be there to append.
    #[cfg(feature = "threads")]
    pub(crate) fn append_ends(&self) -> bool {
        self.halted || (self.stopped && self.waiting.is_empty())
    }

    /// Nothing will ever be there to sync.
    #[cfg(feature = "threads")]
    pub(crate) fn sync_ends(&self) -> bool {
        self.halted
            || (self.stopped
                && self.waiting.is_empty()
                && !self.appending
                && self.written.is_empty())
    }
}
