//! What is looked at while a store runs: how far its state is durable, how long flushes take, and
//! how much space is left.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use flotilla_engine::rocks::RocksState;
use flotilla_engine::row::Expiry;
use flotilla_engine::{EngineError, FlushProgress, FlushReason, FlushWatch, RaftLog, StateStore};

use flotilla_raftstore::DurableWatch;

use super::disk::DiskWatch;
use super::fatal::{Fatal, FatalSink};
use super::measured::MeasuredLog;
use super::{RocksRuntime, clock};

/// How often the durable cut is looked up (contracts: C2).
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often the time is told to compactions, in looks.
const SLOW_LOOKS: u64 = 10;

/// Everything the observer looks at.
pub(super) struct Observer {
    pub(super) runtime: RocksRuntime,
    pub(super) log: Arc<MeasuredLog>,
    pub(super) watch: DurableWatch,
    pub(super) disk: Arc<DiskWatch>,
    pub(super) expiry: Arc<Expiry>,
    pub(super) flush_timeout: Duration,
    pub(super) fatal: FatalSink,
}

/// A flush that was asked for.
struct Flush {
    /// Log bytes that had been appended when it was asked for.
    appended_bytes: u64,
    done: Receiver<Result<(), EngineError>>,
}

impl Observer {
    /// Starts the observer and the thread that flushes for it. Both end when the sender of `stop`
    /// is gone.
    ///
    /// # Errors
    /// The operating system starts no more threads.
    pub(super) fn spawn(self, stop: Receiver<()>) -> std::io::Result<[JoinHandle<()>; 2]> {
        let (asks, asked) = bounded(1);
        let state = Arc::clone(&self.runtime.state);
        let flusher = thread::Builder::new()
            .name("state-flush".to_owned())
            .spawn(move || flush_all(&state, &asked))?;
        let observer = thread::Builder::new()
            .name("observer".to_owned())
            .spawn(move || self.run(&asks, &stop))?;
        Ok([observer, flusher])
    }

    fn run(mut self, asks: &Sender<Ask>, stop: &Receiver<()>) {
        let mut flush: Option<Flush> = None;
        let mut stalls = FlushWatch::default();
        for look in 0u64.. {
            if stop.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let state = &*self.runtime.state;
            let waited = stalls.observe(clock::mono(), FlushProgress::of(state));
            if waited > self.flush_timeout {
                let waited = Duration::from_secs(waited.as_secs());
                self.fatal.report(Fatal::FlushHangs { waited });
            }
            flush = flush.take().and_then(|running| self.follow(running));
            flush = self.ask(asks, flush);
            self.publish_durable();
            // A fast disk fills up fast, and asking is cheap.
            self.look_at_disk();
            if look.is_multiple_of(SLOW_LOOKS) {
                self.expiry.advance(clock::wall().seconds());
            }
            if self.fatal.is_reported() {
                return;
            }
        }
    }

    /// Tells the store how far its regions would survive a crash.
    fn publish_durable(&self) {
        if let Err(error) = self.runtime.publish_durable() {
            self.failed("looking up the durable cut", error);
        }
    }

    fn look_at_disk(&self) {
        if let Err(error) = self.disk.look() {
            self.fatal.engine("looking at the data folder", error);
        }
    }

    /// Where the folder was taken away, whatever is done next with its files fails first; that it is
    /// gone says more.
    fn failed(&self, part: &'static str, error: EngineError) {
        self.look_at_disk();
        self.fatal.engine(part, error);
    }

    fn ask(&mut self, asks: &Sender<Ask>, running: Option<Flush>) -> Option<Flush> {
        let appended_bytes = self.log.appended_bytes();
        let may = running.is_none().then_some(appended_bytes);
        let due = self.runtime.flush_due(&mut self.watch, clock::mono(), may);
        let Some(reason) = due else { return running };
        let (tell, done) = bounded(1);
        asks.send((reason, tell)).ok()?;
        Some(Flush {
            appended_bytes,
            done,
        })
    }

    fn follow(&mut self, flush: Flush) -> Option<Flush> {
        match flush.done.try_recv() {
            Ok(Ok(())) => {
                self.watch.flushed(flush.appended_bytes);
                None
            }
            Ok(Err(error)) => {
                self.failed("flushing the state", error);
                None
            }
            Err(_) => Some(flush),
        }
    }
}

type Ask = (FlushReason, Sender<Result<(), EngineError>>);

fn flush_all(state: &RocksState, asked: &Receiver<Ask>) {
    for (reason, tell) in asked {
        // The observer may be gone; the flush has still been done.
        let _ = tell.send(state.flush_all(reason));
    }
}
