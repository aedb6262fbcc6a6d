//! The closed loop that all drivers share: many clients, each with one operation in flight.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;

use crate::{
    counters,
    measure::{Failure, Shards, Tally},
    progress::Progress,
    report::{Kind, PhaseReport, ServerReport, SilenceReport, TIMELINE_POINTS_MAX, TimelinePoint},
};

/// Between two points of the timeline; doubled whenever the timeline is full.
const TIMELINE_INTERVAL: Duration = Duration::from_millis(250);

/// After a failure a client waits this long, times the failures in a row up to the limit:
/// a server that refuses is not helped by being asked at once.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);
const FAILURE_PAUSES_MAX: u32 = 20;

/// A phase in which nothing succeeds for this long, while something fails, is given up.
const NO_SUCCESS_MAX: Duration = Duration::from_secs(30);

/// One client of a driver.
pub(crate) trait Client: Send + 'static {
    /// An operation ready to go, made outside the measured time.
    type Operation: Send;

    /// The next operation; `None` when the client has nothing left to do.
    fn prepare(&mut self) -> Option<(Kind, Self::Operation)>;

    /// Carries it out; the measured part.
    fn execute(
        &mut self,
        operation: Self::Operation,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// When a phase is over. Shared by all of its clients.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Operations not claimed yet.
    left: AtomicU64,
    duration: Option<Duration>,
    stopped: AtomicBool,
    reason: Mutex<Option<String>>,
}

impl Budget {
    fn new(left: u64, duration: Option<Duration>) -> Arc<Self> {
        let stopped = AtomicBool::new(false);
        Arc::new(Self {
            left: AtomicU64::new(left),
            duration,
            stopped,
            reason: Mutex::new(None),
        })
    }

    /// This many operations, successful or not.
    pub(crate) fn operations(operations: u64) -> Arc<Self> {
        Self::new(operations, None)
    }

    /// As many as fit into this time.
    pub(crate) fn duration(duration: Duration) -> Arc<Self> {
        Self::new(u64::MAX, Some(duration))
    }

    /// Until the clients have nothing left to do.
    pub(crate) fn unlimited() -> Arc<Self> {
        Self::new(u64::MAX, None)
    }

    /// Ends the phase early. The first reason stays.
    pub(crate) fn stop(&self, reason: impl Into<String>) {
        self.reason.lock().get_or_insert_with(|| reason.into());
        self.stopped.store(true, Ordering::Release);
    }

    /// Takes one operation out of the budget; false when the phase is over.
    fn claim(&self, elapsed: Duration) -> bool {
        if self.stopped.load(Ordering::Acquire) || self.duration.is_some_and(|all| elapsed >= all) {
            return false;
        }
        let take = |left: u64| left.checked_sub(1);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

/// What a phase measured, before it is rendered; outcomes of several turns can be merged.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) elapsed: Duration,
    pub(crate) driver_cpu: Duration,
    pub(crate) stopped: Option<String>,
    pub(crate) timeline: Vec<TimelinePoint>,
    pub(crate) silence: Silence,
    pub(crate) server: counters::Difference,
}

/// The longest time in which no write was acknowledged, the phase's own ends included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Silence {
    /// When the last write was acknowledged, from the start of the phase.
    last: Option<Duration>,
    from: Duration,
    longest: Duration,
}

impl Silence {
    fn ends(&mut self, now: Duration) {
        let from = self.last.unwrap_or_default();
        // Whoever looked at the clock first may come last.
        let silent = now.saturating_sub(from);
        self.last = Some(from.max(now));
        if silent > self.longest {
            (self.from, self.longest) = (from, silent);
        }
    }

    /// As figures; none where nothing was written.
    fn report(self, elapsed: Duration) -> Option<SilenceReport> {
        self.last?;
        let mut whole = self;
        whole.ends(elapsed);
        Some(SilenceReport {
            from_s: whole.from.as_secs_f64(),
            ms: whole.longest.as_secs_f64() * 1e3,
        })
    }

    /// Adds a later turn, `offset` after the first.
    fn merge(&mut self, later: Self, offset: Duration) {
        if later.longest > self.longest {
            (self.from, self.longest) = (offset + later.from, later.longest);
        }
        self.last = later.last.map(|last| offset + last).or(self.last);
    }
}

impl Outcome {
    pub(crate) fn report(&self) -> PhaseReport {
        let operations = self.tally.operations();
        let seconds = self.elapsed.as_secs_f64();
        let per_s = if seconds > 0.0 {
            operations as f64 / seconds
        } else {
            0.0
        };
        let cpu = self.driver_cpu.as_secs_f64() * 1e6 / operations as f64;
        PhaseReport {
            elapsed_s: seconds,
            operations,
            failed: self.tally.failures(),
            throughput_per_s: per_s,
            driver_cpu_us_per_operation: (operations > 0).then_some(cpu),
            stopped: self.stopped.clone(),
            kinds: self.tally.report(),
            timeline: self.timeline.clone(),
            without_writes: self.silence.report(self.elapsed),
            server: ServerReport::new(&self.server, operations, self.tally.writes()),
        }
    }

    /// Adds a later turn of the same thing. The timelines are put end to end.
    pub(crate) fn merge(&mut self, later: &Outcome) {
        let offset = self.elapsed.as_secs_f64();
        self.silence.merge(later.silence, self.elapsed);
        self.timeline
            .extend(later.timeline.iter().map(|point| TimelinePoint {
                at_s: offset + point.at_s,
                ..*point
            }));
        self.tally.merge(&later.tally);
        self.elapsed += later.elapsed;
        self.driver_cpu += later.driver_cpu;
        self.stopped = self.stopped.take().or_else(|| later.stopped.clone());
        self.server.merge(&later.server);
    }
}

/// State that clients and the watcher share during a phase.
struct Running {
    begun: Instant,
    budget: Arc<Budget>,
    shards: Shards,
    succeeded: AtomicU64,
    failed: AtomicU64,
    silence: Mutex<Silence>,
    last_failure: Mutex<Option<Failure>>,
}

/// Runs all clients until the budget is spent or they are done, and returns the clients too.
///
/// The server's counters are scraped before the first and after the last operation.
pub(crate) async fn drive<C: Client>(
    clients: Vec<C>,
    budget: Arc<Budget>,
    scraper: &counters::Scraper,
    mut progress: Progress,
) -> (Outcome, Vec<C>) {
    let before = scraper.scrape().await;
    let cpu_before = driver_cpu();
    let running = Arc::new(Running {
        begun: Instant::now(),
        budget,
        shards: Shards::new(),
        succeeded: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        silence: Mutex::default(),
        last_failure: Mutex::new(None),
    });
    let mut tasks = JoinSet::new();
    for (number, client) in clients.into_iter().enumerate() {
        let running = Arc::clone(&running);
        tasks.spawn(async move { work(number, client, &running).await });
    }
    let mut watcher = Watcher::new();
    let mut clients = Vec::with_capacity(tasks.len());
    let mut ticks = tokio::time::interval(TIMELINE_INTERVAL);
    ticks.tick().await; // the first is immediate
    loop {
        tokio::select! {
            joined = tasks.join_next() => match joined {
                Some(Ok(client)) => clients.push(client),
                Some(Err(error)) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(error) => unreachable!("nobody cancels a client: {error}"),
                },
                None => break,
            },
            _ = ticks.tick() => watcher.observe(&running, &mut progress),
        }
    }
    let elapsed = running.begun.elapsed();
    watcher.close(&running, elapsed);
    let driver_cpu = driver_cpu().saturating_sub(cpu_before);
    let after = scraper.scrape().await;
    let tally = running.shards.merged();
    progress.finish(elapsed, tally.operations(), tally.failures());
    let stopped = running.budget.reason.lock().clone();
    let server = counters::Difference::between(&before, &after);
    let timeline = watcher.timeline;
    let silence = *running.silence.lock();
    (
        Outcome {
            tally,
            elapsed,
            driver_cpu,
            stopped,
            timeline,
            silence,
            server,
        },
        clients,
    )
}

async fn work<C: Client>(number: usize, mut client: C, running: &Running) -> C {
    let mut failures_in_a_row = 0;
    while running.budget.claim(running.begun.elapsed()) {
        let Some((kind, operation)) = client.prepare() else {
            break;
        };
        let started = Instant::now();
        let result = client.execute(operation).await;
        let took = started.elapsed();
        match result {
            Ok(()) => {
                failures_in_a_row = 0;
                running.shards.of(number).lock().succeeded(kind, took);
                running.succeeded.fetch_add(1, Ordering::Relaxed);
                if kind.writes() {
                    let now = running.begun.elapsed();
                    running.silence.lock().ends(now);
                }
            }
            Err(failure) => {
                failures_in_a_row = FAILURE_PAUSES_MAX.min(failures_in_a_row + 1);
                *running.last_failure.lock() = Some(failure.clone());
                running.shards.of(number).lock().failed(kind, failure);
                running.failed.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(FAILURE_PAUSE * failures_in_a_row).await;
            }
        }
    }
    client
}

/// Watches a phase from outside: timeline, progress, and whether anything succeeds at all.
struct Watcher {
    timeline: Vec<TimelinePoint>,
    interval: Duration,
    /// What the last point ended with.
    at: Duration,
    succeeded: u64,
    failed: u64,
    last_success: Duration,
}

impl Watcher {
    fn new() -> Self {
        Self {
            timeline: Vec::new(),
            interval: TIMELINE_INTERVAL,
            at: Duration::ZERO,
            succeeded: 0,
            failed: 0,
            last_success: Duration::ZERO,
        }
    }

    fn observe(&mut self, running: &Running, progress: &mut Progress) {
        let elapsed = running.begun.elapsed();
        // A tick can come a little early or, on a busy machine, late: half an interval decides.
        if elapsed.saturating_sub(self.at) >= self.interval.mul_f64(0.5) {
            let per_s = self.point(running, elapsed);
            progress.update(elapsed, self.succeeded, self.failed, per_s);
        }
        let silence = elapsed.saturating_sub(self.last_success);
        if silence >= NO_SUCCESS_MAX
            && let Some(failure) = running.last_failure.lock().as_ref()
        {
            let seconds = NO_SUCCESS_MAX.as_secs();
            running.budget.stop(format!(
                "nothing succeeded for {seconds} s; last: {failure}"
            ));
        }
    }

    /// The last, usually shorter, interval.
    fn close(&mut self, running: &Running, elapsed: Duration) {
        if elapsed > self.at {
            self.point(running, elapsed);
        }
    }

    fn point(&mut self, running: &Running, elapsed: Duration) -> f64 {
        let succeeded = running.succeeded.load(Ordering::Relaxed);
        let failed = running.failed.load(Ordering::Relaxed);
        if succeeded > self.succeeded {
            self.last_success = elapsed;
        }
        let seconds = (elapsed - self.at).as_secs_f64();
        let per_s = (succeeded - self.succeeded) as f64 / seconds;
        let failed_per_s = (failed - self.failed) as f64 / seconds;
        self.timeline.push(TimelinePoint {
            at_s: elapsed.as_secs_f64(),
            per_s,
            failed_per_s,
        });
        (self.at, self.succeeded, self.failed) = (elapsed, succeeded, failed);
        if self.timeline.len() >= TIMELINE_POINTS_MAX {
            self.timeline = thinned(&self.timeline);
            self.interval *= 2;
        }
        per_s
    }
}

/// Half as many points: each pair becomes one, weighted by the time each covers.
fn thinned(timeline: &[TimelinePoint]) -> Vec<TimelinePoint> {
    let mut before = 0.0;
    timeline
        .chunks(2)
        .map(|pair| {
            let (mut done, mut failed, start) = (0.0, 0.0, before);
            for point in pair {
                let seconds = point.at_s - before;
                done += point.per_s * seconds;
                failed += point.failed_per_s * seconds;
                before = point.at_s;
            }
            let seconds = before - start;
            TimelinePoint {
                at_s: before,
                per_s: done / seconds,
                failed_per_s: failed / seconds,
            }
        })
        .collect()
}

/// Processor time of this process so far.
fn driver_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).expect("processor time is not negative"),
        u32::try_from(time.tv_nsec).expect("nanoseconds are below a billion"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Goal, Verbosity};

    /// Succeeds, except for every `fails_every`-th operation of a client; stops after `has`.
    struct Scripted {
        has: u64,
        done: u64,
        fails_every: u64,
    }

    impl Client for Scripted {
        type Operation = u64;

        fn prepare(&mut self) -> Option<(Kind, u64)> {
            if self.done == self.has {
                return None;
            }
            self.done += 1;
            Some((Kind::Read, self.done))
        }

        async fn execute(&mut self, operation: u64) -> Result<(), Failure> {
            tokio::task::yield_now().await;
            if operation.is_multiple_of(self.fails_every) {
                return Err(Failure::new("scripted", "as told"));
            }
            Ok(())
        }
    }

    fn clients(count: usize, has: u64, fails_every: u64) -> Vec<Scripted> {
        (0..count)
            .map(|_| Scripted {
                has,
                done: 0,
                fails_every,
            })
            .collect()
    }

    async fn run(clients: Vec<Scripted>, budget: Arc<Budget>) -> Outcome {
        let progress = Progress::new("test", Goal::Operations(1), Verbosity::Quiet);
        drive(clients, budget, &counters::Scraper::off("off"), progress)
            .await
            .0
    }

    #[tokio::test]
    async fn a_budget_of_operations_is_spent_exactly() {
        let outcome = run(clients(7, u64::MAX, 10), Budget::operations(1_000)).await;
        assert_eq!(outcome.tally.operations() + outcome.tally.failures(), 1_000);
        assert!(
            outcome.tally.failures() >= 90,
            "{}",
            outcome.tally.failures()
        );
        assert_eq!(outcome.stopped, None);
    }

    #[tokio::test]
    async fn clients_can_end_a_phase_by_having_nothing_left() {
        let outcome = run(clients(5, 20, u64::MAX), Budget::unlimited()).await;
        assert_eq!(outcome.tally.operations(), 100);
    }

    #[tokio::test]
    async fn a_duration_ends_a_phase() {
        let all = Duration::from_millis(30);
        let outcome = run(clients(2, u64::MAX, u64::MAX), Budget::duration(all)).await;
        assert!(outcome.elapsed >= all && outcome.tally.operations() > 0);
        let counted: f64 = outcome.timeline.iter().map(|point| point.per_s).sum();
        assert!(counted > 0.0, "{:?}", outcome.timeline);
    }

    #[tokio::test]
    async fn a_stop_ends_a_phase_and_its_first_reason_stays() {
        let budget = Budget::operations(u64::MAX);
        budget.stop("enough");
        budget.stop("more");
        let outcome = run(clients(2, u64::MAX, u64::MAX), budget).await;
        assert_eq!(outcome.stopped.as_deref(), Some("enough"));
        assert_eq!(outcome.tally.operations(), 0);
    }

    #[test]
    fn the_longest_silence_is_found_wherever_it_is() {
        let ms = Duration::from_millis;
        #[track_caller]
        fn check(writes: &[u64], expected: Option<(f64, f64)>) {
            let mut silence = Silence::default();
            for at in writes {
                silence.ends(Duration::from_millis(*at));
            }
            let found = silence.report(Duration::from_millis(100));
            let found = found.map(|found| (found.from_s * 1e3, found.ms));
            assert_eq!(found, expected, "{writes:?}");
        }
        check(&[], None);
        check(&[10, 20, 60, 90], Some((20.0, 40.0)));
        check(&[60, 90], Some((0.0, 60.0)));
        check(&[10, 20], Some((20.0, 80.0)));
        check(&[30, 60, 50, 95], Some((60.0, 35.0)));

        let (mut first, mut later) = (Silence::default(), Silence::default());
        first.ends(ms(40));
        later.ends(ms(10));
        later.ends(ms(70));
        first.merge(later, ms(100));
        assert_eq!((first.from, first.longest), (ms(110), ms(60)));
    }

    #[test]
    fn thinning_keeps_the_number_of_operations() {
        let timeline: Vec<_> = [(0.25, 4.0), (0.5, 8.0), (1.5, 2.0), (2.0, 6.0), (3.0, 1.0)]
            .map(|(at_s, per_s)| TimelinePoint {
                at_s,
                per_s,
                failed_per_s: per_s / 2.0,
            })
            .into();
        let count = |timeline: &[TimelinePoint]| {
            let mut before = 0.0;
            timeline.iter().fold(0.0, |sum, point| {
                let seconds = point.at_s - std::mem::replace(&mut before, point.at_s);
                sum + point.per_s * seconds
            })
        };
        let thin = thinned(&timeline);
        assert_eq!(thin.len(), 3);
        assert_eq!(thin.last().unwrap().at_s, 3.0);
        assert!((count(&thin) - count(&timeline)).abs() < 1e-9);
    }

    #[tokio::test]
    async fn turns_add_up_when_merged() {
        let mut sum = run(clients(2, 10, u64::MAX), Budget::unlimited()).await;
        let later = run(clients(2, 15, u64::MAX), Budget::unlimited()).await;
        let elapsed = sum.elapsed;
        sum.merge(&later);
        assert_eq!(sum.tally.operations(), 50);
        assert_eq!(sum.elapsed, elapsed + later.elapsed);
        assert!(sum.timeline.is_sorted_by(|a, b| a.at_s < b.at_s));
    }
}
