//! The threaded drivers: pollers, and the two threads of the log writer.
//!
//! The only module that starts or parks a thread. A thread ends when it is asked to, when its work
//! fails, or when it panics; the last two are reported once per group, and end the group.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use flotilla_mailbox::Woken;
use parking_lot::{Condvar, Mutex};

use crate::{Budget, Executor, Fifo, LogSink, LogWriter, Machine, Poller, Router};

/// How long a poller whose executor is under pressure waits before it asks again, if nobody calls
/// [`Router::resume`] earlier.
const PAUSE: Duration = Duration::from_millis(1);

/// Why a group of threads ended by itself. The store must stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal<F> {
    /// Its work failed.
    #[error("{0}")]
    Failed(F),
    /// It panicked: a defect.
    #[error("thread {thread} panicked: {message}")]
    Panicked {
        /// The thread's name.
        thread: String,
        /// The panic's message.
        message: String,
    },
}

/// Where a group reports to, at most once.
struct Report<F>(Mutex<Option<OnFatal<F>>>);

type OnFatal<F> = Box<dyn FnOnce(Fatal<F>) + Send>;

impl<F> Report<F> {
    fn new(on_fatal: impl FnOnce(Fatal<F>) + Send + 'static) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(Box::new(on_fatal)))))
    }

    fn fatal(&self, fatal: Fatal<F>) {
        let on_fatal = self.0.lock().take();
        if let Some(on_fatal) = on_fatal {
            on_fatal(fatal);
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that starts threads"
)]
/// Starts a named thread that runs `work`. When it is over, `end` is told whether it ended well,
/// before anything is reported.
fn spawn<F: Send + 'static>(
    name: String,
    report: Arc<Report<F>>,
    work: impl FnOnce() -> Result<(), F> + Send + 'static,
    end: impl FnOnce(bool) + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let thread = name.clone();
    thread::Builder::new().name(name).spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(work));
        end(matches!(result, Ok(Ok(()))));
        match result {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => report.fatal(Fatal::Failed(failure)),
            Err(panic) => report.fatal(Fatal::Panicked {
                thread,
                message: message(&*panic),
            }),
        }
    })
}

fn message(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "a panic without a message".to_owned(),
    }
}

/// Joins all threads but the calling one, which may be one of them when the group is dropped there.
fn join(threads: &mut Vec<JoinHandle<()>>) {
    for thread in threads.drain(..) {
        if thread.thread().id() != thread::current().id() {
            // It catches its panics itself; one in a report has nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// Threads that run the machines of a router. Dropping it stops them.
pub struct Pollers<M: Machine> {
    router: Router<M>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Starts `count` threads that run `router`'s machines in rounds, named `name-0`, `name-1`, ….
///
/// They end after [`Pollers::stop`], once the router is shut down and its last machine has retired,
/// or when one of them fails or panics: then `on_fatal` is called once, on the failing thread.
///
/// # Errors
/// If the operating system starts no more threads; those started before are stopped.
pub fn spawn_pollers<M, X>(
    name: &str,
    count: usize,
    router: &Router<M>,
    budget: Budget,
    mut make_executor: impl FnMut(usize) -> X,
    clock: impl Fn() -> M::Now + Clone + Send + 'static,
    on_fatal: impl FnOnce(Fatal<X::Fatal>) + Send + 'static,
) -> std::io::Result<Pollers<M>>
where
    M: Machine,
    X: Executor<M::Effects> + Send + 'static,
{
    let report = Report::new(on_fatal);
    let stop = Arc::new(AtomicBool::new(false));
    let mut pollers = Pollers {
        router: router.clone(),
        stop,
        threads: Vec::with_capacity(count),
    };
    for index in 0..count {
        let poller = Poller::new(router.clone(), make_executor(index), budget);
        let (clock, stop, report) = (
            clock.clone(),
            Arc::clone(&pollers.stop),
            Arc::clone(&report),
        );
        let (ended, flag) = (router.clone(), Arc::clone(&pollers.stop));
        let end = move |_well| {
            flag.store(true, Ordering::SeqCst);
            ended.core().ready.stop();
        };
        let work = move || poll(poller, &clock, &stop);
        pollers
            .threads
            .push(spawn(format!("{name}-{index}"), report, work, end)?);
    }
    Ok(pollers)
}

fn poll<M: Machine, X: Executor<M::Effects>>(
    mut poller: Poller<M, X>,
    clock: &impl Fn() -> M::Now,
    stop: &AtomicBool,
) -> Result<(), X::Fatal> {
    let router = poller.router().clone();
    let core = router.core();
    while !stop.load(Ordering::SeqCst) {
        if !poller.may_run() {
            core.counters.pauses.add(1);
            core.ready.pause(PAUSE);
        } else if poller.round(clock(), &mut Fifo)? == 0 && core.ready.park() == Woken::Stopped {
            break;
        }
    }
    Ok(())
}

impl<M: Machine> Pollers<M> {
    /// Ends the threads after their current round and waits for them. What is ready then stays
    /// undone; [`Router::shutdown`] and [`Pollers::join`] end in order.
    pub fn stop(mut self) {
        self.request_stop();
        join(&mut self.threads);
    }

    /// Waits until the threads have ended by themselves.
    pub fn join(mut self) {
        join(&mut self.threads);
    }

    /// Whether all threads have ended.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    fn request_stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.router.core().ready.stop();
    }
}

impl<M: Machine> Drop for Pollers<M> {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.request_stop();
            join(&mut self.threads);
        }
    }
}

/// What the log writer's threads wait on.
#[derive(Default)]
pub(crate) struct LogWake {
    pub(crate) append: Condvar,
    pub(crate) sync: Condvar,
}

impl LogWake {
    pub(crate) fn all(&self) {
        self.append.notify_all();
        self.sync.notify_all();
    }
}

/// The two threads of a log writer. Dropping it stops them, after what was handed in is durable.
pub struct LogThreads {
    stop: Box<dyn Fn() + Send + Sync>,
    threads: Vec<JoinHandle<()>>,
}

/// Starts the threads `name-append` and `name-sync` of `writer`. `on_durable` is called on the
/// second one, in order; the next sync begins when it returns. `on_fatal` is called once, on the
/// thread that failed; nothing is announced after that.
///
/// # Errors
/// If the operating system starts no more threads.
pub fn spawn_log_writer<S: LogSink, R: Send + 'static>(
    name: &str,
    writer: &LogWriter<S, R>,
    mut on_durable: impl FnMut(Vec<R>) + Send + 'static,
    on_fatal: impl FnOnce(Fatal<S::Error>) + Send + 'static,
) -> std::io::Result<LogThreads> {
    let report = Report::new(on_fatal);
    let stopper = writer.clone();
    let mut group = LogThreads {
        stop: Box::new(move || stopper.stop()),
        threads: Vec::new(),
    };

    let (appender, ender) = (writer.clone(), writer.clone());
    let work = move || {
        while appender.wait_append() {
            appender.append_step()?;
        }
        Ok(())
    };
    let end = move |well| ender.end(well);
    group.threads.push(spawn(
        format!("{name}-append"),
        Arc::clone(&report),
        work,
        end,
    )?);

    let (syncer, ender) = (writer.clone(), writer.clone());
    let work = move || {
        while syncer.wait_sync() {
            syncer.sync_step(&mut on_durable)?;
        }
        Ok(())
    };
    let end = move |well| ender.end(well);
    group
        .threads
        .push(spawn(format!("{name}-sync"), report, work, end)?);
    Ok(group)
}

impl<S: LogSink, R: Send + 'static> LogWriter<S, R> {
    /// `false`: there will be nothing to append any more.
    fn wait_append(&self) -> bool {
        let mut state = self.shared.state.lock();
        while !state.append_waits() && !state.append_ends() {
            self.shared.wake.append.wait(&mut state);
        }
        state.append_waits()
    }

    /// `false`: there will be nothing to sync any more.
    fn wait_sync(&self) -> bool {
        let mut state = self.shared.state.lock();
        while !state.sync_waits() && !state.sync_ends() {
            self.shared.wake.sync.wait(&mut state);
        }
        state.sync_waits()
    }

    /// One of the threads is over: nothing more is handed in, and unless it ended well, nothing goes on.
    fn end(&self, well: bool) {
        self.stop();
        if !well {
            self.halt();
        }
    }
}

impl LogThreads {
    /// Takes nothing more in, waits until what was handed in is durable (or the log has failed) and
    /// the threads have ended.
    pub fn stop(mut self) {
        (self.stop)();
        join(&mut self.threads);
    }
}

impl Drop for LogThreads {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            (self.stop)();
            join(&mut self.threads);
        }
    }
}
