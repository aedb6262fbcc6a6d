//! The single-threaded driver: a seed decides what runs next, as threads might have.

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::{Choice, Executor, LogSink, LogWriter, Machine, Pick, Poller};

/// Something that takes one step at a time: a poller, a step of the log writer, a network.
///
/// `N` is the time, `F` what ends the run.
pub trait Actor<N, F> {
    /// Whether a step would do something now.
    fn is_ready(&mut self) -> bool;

    /// Takes one step; only called when ready.
    fn step(&mut self, now: N, pick: &mut dyn Pick) -> Result<(), F>;
}

impl<M, X, N, F> Actor<N, F> for Poller<M, X>
where
    M: Machine<Now = N>,
    X: Executor<M::Effects>,
    F: From<X::Fatal>,
{
    fn is_ready(&mut self) -> bool {
        self.router().ready() > 0 && self.may_run()
    }

    fn step(&mut self, now: N, pick: &mut dyn Pick) -> Result<(), F> {
        self.round(now, pick)?;
        Ok(())
    }
}

/// The append step of a log writer.
pub struct LogAppend<S: LogSink, R: Send + 'static>(pub LogWriter<S, R>);

impl<S: LogSink, R: Send + 'static, N, F: From<S::Error>> Actor<N, F> for LogAppend<S, R> {
    fn is_ready(&mut self) -> bool {
        self.0.append_waits()
    }

    fn step(&mut self, _now: N, _pick: &mut dyn Pick) -> Result<(), F> {
        self.0.append_step()?;
        Ok(())
    }
}

/// The sync step of a log writer, and who is told what is durable.
pub struct LogSync<S: LogSink, R: Send + 'static, D: FnMut(Vec<R>)>(pub LogWriter<S, R>, pub D);

impl<S, R, D, N, F> Actor<N, F> for LogSync<S, R, D>
where
    S: LogSink,
    R: Send + 'static,
    D: FnMut(Vec<R>),
    F: From<S::Error>,
{
    fn is_ready(&mut self) -> bool {
        self.0.sync_waits()
    }

    fn step(&mut self, _now: N, _pick: &mut dyn Pick) -> Result<(), F> {
        self.0.sync_step(&mut self.1)?;
        Ok(())
    }
}

/// How a seed answers one kind of choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Temper {
    /// As production does: the oldest, as much as it may.
    Steady,
    /// Anything, with equal chances.
    Even,
    /// Close to the first answer: small rounds, few inputs, nearly in order.
    Small,
}

/// A [`Pick`] that a seed decides. Each seed draws a temper per kind of choice first, so that runs
/// differ in shape and not only in detail.
#[derive(Clone, Debug)]
pub struct SeededPick {
    rng: Xoshiro256PlusPlus,
    tempers: [Temper; Choice::ALL.len()],
    trace: u64,
}

impl SeededPick {
    /// Small answers are below this.
    const SMALL: usize = 4;

    /// The picks of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let tempers = [(); Choice::ALL.len()]
            .map(|()| [Temper::Steady, Temper::Even, Temper::Small][rng.random_range(0..3)]);
        Self {
            rng,
            tempers,
            trace: 0,
        }
    }

    /// A hash of all answers so far: equal for equal runs.
    pub fn trace(&self) -> u64 {
        self.trace
    }
}

impl Pick for SeededPick {
    fn pick(&mut self, choice: Choice, count: usize) -> usize {
        let answer = match self.tempers[choice as usize] {
            // Always the first actor would let the others wait for ever.
            Temper::Steady if choice != Choice::Actor => crate::Fifo.pick(choice, count),
            Temper::Small if choice != Choice::Actor => {
                self.rng.random_range(0..count.min(Self::SMALL))
            }
            _ => self.rng.random_range(0..count),
        };
        for part in [choice as u64, count as u64, answer as u64] {
            // FNV-1a over words: order counts, and nothing needs to be kept.
            self.trace = (self.trace ^ part)
                .wrapping_mul(0x0000_0100_0000_01b3)
                .rotate_left(23);
        }
        answer
    }
}

/// Runs actors one step at a time, in an order that a seed decides.
pub struct Seeded<'a, N, F> {
    pick: SeededPick,
    actors: Vec<Box<dyn Actor<N, F> + 'a>>,
    /// Those that are ready now. Kept for its memory only.
    ready: Vec<usize>,
}

impl<'a, N: Copy, F> Seeded<'a, N, F> {
    /// No actors yet.
    pub fn new(seed: u64) -> Self {
        Self {
            pick: SeededPick::new(seed),
            actors: Vec::new(),
            ready: Vec::new(),
        }
    }

    /// Adds an actor; answers its number, from 0.
    pub fn add(&mut self, actor: impl Actor<N, F> + 'a) -> usize {
        self.actors.push(Box::new(actor));
        self.actors.len() - 1
    }

    /// Lets one of the actors that are ready take a step; answers which. `None`: none is ready.
    pub fn step(&mut self, now: N) -> Result<Option<usize>, F> {
        self.ready.clear();
        for (number, actor) in self.actors.iter_mut().enumerate() {
            if actor.is_ready() {
                self.ready.push(number);
            }
        }
        if self.ready.is_empty() {
            return Ok(None);
        }
        let number = self.ready[self.pick.pick(Choice::Actor, self.ready.len())];
        self.actors[number].step(now, &mut self.pick)?;
        Ok(Some(number))
    }

    /// Steps until no actor is ready; answers how many steps it took.
    ///
    /// # Panics
    /// After `steps_max` steps: the actors keep each other busy.
    pub fn run(&mut self, now: N, steps_max: usize) -> Result<usize, F> {
        for steps in 0..steps_max {
            if self.step(now)?.is_none() {
                return Ok(steps);
            }
        }
        panic!("still busy after {steps_max} steps");
    }

    /// A hash of all decisions so far: equal for equal runs.
    pub fn trace(&self) -> u64 {
        self.pick.trace()
    }
}
