//! The threads of a store as actors that take their time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use flotilla_proto::clock::Mono;
use flotilla_raftstore::runtime::StoreFatal;
use flotilla_router::{Actor, Executor, Machine, Pick, Poller};
use parking_lot::Mutex;

use crate::rng::Rng;
use crate::world::Pace;

/// Virtual time, shared by everything that must know it.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<AtomicU64>);

impl Clock {
    /// Now.
    pub fn now(&self) -> Mono {
        Mono(self.0.load(Ordering::Relaxed))
    }

    /// Moves on to `now`; never back.
    pub fn advance(&self, now: Mono) {
        self.0.fetch_max(now.0, Ordering::Relaxed);
    }
}

/// Whether a store's threads still take their time, and whether its log disk answers. Shared by all of
/// one store's lives.
#[derive(Clone, Debug)]
pub struct Calm {
    calm: Arc<AtomicBool>,
    /// The log is neither written nor synced before then.
    stalled_until: Arc<AtomicU64>,
    /// Since when something waits for a log disk that stands still; `u64::MAX`: nothing does.
    waits_since: Arc<AtomicU64>,
}

impl Default for Calm {
    fn default() -> Self {
        Self {
            calm: Arc::default(),
            stalled_until: Arc::default(),
            waits_since: Arc::new(AtomicU64::new(Wake::NEVER)),
        }
    }
}

impl Calm {
    /// Nobody stalls any more.
    pub fn calm(&self) {
        self.calm.store(true, Ordering::Relaxed);
        self.stalled_until.store(0, Ordering::Relaxed);
    }

    /// The log disk does not answer before then.
    pub fn stall(&self, until: Mono) {
        self.stalled_until.fetch_max(until.0, Ordering::Relaxed);
    }

    /// The end of a stall of the log disk at `now`.
    fn stalled(&self, now: Mono) -> Option<Mono> {
        let until = Mono(self.stalled_until.load(Ordering::Relaxed));
        (until > now).then_some(until)
    }

    /// For how long something has waited for a log disk that stands still.
    pub fn waited(&self, now: Mono) -> Option<Duration> {
        let since = self.waits_since.load(Ordering::Relaxed);
        (since != Wake::NEVER).then(|| now - Mono(since))
    }

    /// What waited does so no more, or the process could not know how long.
    pub fn waits_anew(&self) {
        self.waits_since.store(Wake::NEVER, Ordering::Relaxed);
    }

    /// How long to wait at `pace`.
    pub fn wait(&self, pace: Pace, rng: &mut Rng) -> Duration {
        match pace {
            Pace::Slow | Pace::Stalling if self.calm.load(Ordering::Relaxed) => {
                Pace::Short.wait(rng)
            }
            pace => pace.wait(rng),
        }
    }
}

/// What an actor works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    /// Memory, or the state.
    Memory,
    /// The log disk, which may stall.
    Log,
}

/// When an actor that has something to do will do it; `u64::MAX`: it has nothing to do.
#[derive(Clone, Debug)]
pub struct Wake(Arc<AtomicU64>);

impl Wake {
    const NEVER: u64 = u64::MAX;

    /// The time, if there is one.
    pub fn at(&self) -> Option<Mono> {
        let at = self.0.load(Ordering::Relaxed);
        (at != Self::NEVER).then_some(Mono(at))
    }
}

/// An actor that waits at a pace before each of its steps.
pub(super) struct Paced<A> {
    inner: A,
    on: On,
    pace: Pace,
    rng: Rng,
    clock: Clock,
    calm: Calm,
    wake: Wake,
    /// It sleeps until the log disk answers again.
    stalls: bool,
}

impl<A> Paced<A> {
    /// `inner` at `pace`, and when it wakes.
    pub(super) fn new(
        (inner, on): (A, On),
        pace: Pace,
        rng: Rng,
        clock: Clock,
        calm: Calm,
    ) -> (Self, Wake) {
        let wake = Wake(Arc::new(AtomicU64::new(Wake::NEVER)));
        let paced = Self {
            inner,
            on,
            pace,
            rng,
            clock,
            calm,
            wake: wake.clone(),
            stalls: false,
        };
        (paced, wake)
    }
}

/// Addresses that a poller has served since somebody looked.
pub(super) type Touched = Arc<Mutex<Vec<u64>>>;

/// A poller that says whom it serves.
pub(super) struct Rounds<M: Machine, X: Executor<M::Effects>> {
    poller: Poller<M, X>,
    touched: Touched,
}

impl<M: Machine, X: Executor<M::Effects>> Rounds<M, X> {
    pub(super) fn new(poller: Poller<M, X>) -> (Self, Touched) {
        let touched = Touched::default();
        let rounds = Self {
            poller,
            touched: Arc::clone(&touched),
        };
        (rounds, touched)
    }
}

impl<M, X> Actor<Mono, StoreFatal> for Rounds<M, X>
where
    M: Machine<Now = Mono>,
    X: Executor<M::Effects>,
    StoreFatal: From<X::Fatal>,
{
    fn is_ready(&mut self) -> bool {
        Actor::<Mono, StoreFatal>::is_ready(&mut self.poller)
    }

    fn step(&mut self, now: Mono, pick: &mut dyn Pick) -> Result<(), StoreFatal> {
        self.poller.round(now, pick)?;
        self.touched.lock().extend_from_slice(self.poller.touched());
        Ok(())
    }
}

impl<A: Actor<Mono, StoreFatal>> Actor<Mono, StoreFatal> for Paced<A> {
    fn is_ready(&mut self) -> bool {
        if !self.inner.is_ready() {
            self.wake.0.store(Wake::NEVER, Ordering::Relaxed);
            return false;
        }
        let now = self.clock.now();
        let stalled = self.calm.stalled(now).filter(|_| self.on == On::Log);
        if stalled.is_none() && std::mem::take(&mut self.stalls) {
            // The end of all stalls wakes it at the next look.
            self.wake.0.fetch_min(now.0, Ordering::Relaxed);
        }
        let at = match self.wake.at() {
            Some(at) => at,
            None => {
                let at = now + self.calm.wait(self.pace, &mut self.rng);
                self.wake.0.store(at.0, Ordering::Relaxed);
                at
            }
        };
        if let Some(until) = stalled.filter(|_| at <= now) {
            self.stalls = true;
            self.wake.0.store(until.0, Ordering::Relaxed);
            self.calm.waits_since.fetch_min(now.0, Ordering::Relaxed);
            return false;
        }
        at <= now
    }

    fn step(&mut self, now: Mono, pick: &mut dyn Pick) -> Result<(), StoreFatal> {
        self.wake.0.store(Wake::NEVER, Ordering::Relaxed);
        if self.on == On::Log {
            self.calm.waits_anew();
        }
        self.inner.step(now, pick)
    }
}
