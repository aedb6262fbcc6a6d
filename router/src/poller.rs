//! Rounds: many machines, one execution of what they asked for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::router::Slot;
use crate::{Executor, Machine, Router};

/// Bounds one round, so that a hot machine cannot starve its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Machines of the normal lane in one round.
    pub machines_max: usize,
    /// Machines of the low-priority lane in one round, however many others are ready: they neither
    /// starve nor starve anybody.
    pub heavy_machines_max: usize,
    /// Inputs of one machine in one round.
    pub inputs_per_machine_max: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            machines_max: 256,
            heavy_machines_max: 1,
            inputs_per_machine_max: 256,
        }
    }
}

/// What a [`Pick`] is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Choice {
    /// Machines in this round, less one.
    Machines,
    /// Which machine of a lane is next; 0 has waited longest.
    Next,
    /// Inputs of the next machine, less one.
    Inputs,
    /// Which of the actors that can go on does.
    Actor,
}

impl Choice {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Machines, Self::Next, Self::Inputs, Self::Actor];
}

/// Decides where the order is open: production always takes the oldest and as much as it may, a
/// seed takes anything that could have happened.
pub trait Pick {
    /// A number below `count`, which is at least 1.
    fn pick(&mut self, choice: Choice, count: usize) -> usize;
}

/// The oldest first, and as much as the budget allows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fifo;

impl Pick for Fifo {
    fn pick(&mut self, choice: Choice, count: usize) -> usize {
        match choice {
            Choice::Machines | Choice::Inputs => count - 1,
            Choice::Next | Choice::Actor => 0,
        }
    }
}

/// Runs the machines of a router in rounds. A router may have several.
pub struct Poller<M: Machine, X: Executor<M::Effects>> {
    router: Router<M>,
    executor: X,
    budget: Budget,
    effects: M::Effects,
    inputs: Vec<M::Input>,
    /// The machines of this round. Empty between rounds.
    round: Vec<Arc<Slot<M>>>,
    /// Those of them that go back, and whether inputs are left. Empty between rounds.
    served: Vec<(Arc<Slot<M>>, bool)>,
    /// The addresses of the last round.
    touched: Vec<u64>,
    /// The executor has failed: its machines are never given back.
    failed: bool,
}

/// What the turns of one round added up to.
#[derive(Default)]
struct Sums {
    inputs: u64,
    ticks: u64,
    heavy: u64,
    dropped: u64,
    bytes: u64,
}

impl<M: Machine, X: Executor<M::Effects>> Poller<M, X> {
    /// A poller of `router`'s machines.
    ///
    /// # Panics
    /// If the budget allows no machine or no input.
    pub fn new(router: Router<M>, executor: X, budget: Budget) -> Self {
        assert!(
            budget.machines_max > 0 && budget.heavy_machines_max > 0,
            "a round without machines"
        );
        assert!(budget.inputs_per_machine_max > 0, "a turn without inputs");
        Self {
            router,
            executor,
            budget,
            effects: M::Effects::default(),
            inputs: Vec::new(),
            round: Vec::new(),
            served: Vec::new(),
            touched: Vec::new(),
            failed: false,
        }
    }

    /// The router whose machines it runs.
    pub fn router(&self) -> &Router<M> {
        &self.router
    }

    /// The addresses that the last round served, in its order.
    pub fn touched(&self) -> &[u64] {
        &self.touched
    }

    /// Who carries the effects out.
    pub fn executor(&mut self) -> &mut X {
        &mut self.executor
    }

    /// Whether the executor lets a round start now.
    pub fn may_run(&mut self) -> bool {
        self.executor.may_run()
    }

    /// Serves up to a budget of ready machines, then carries out what they asked for, then gives them
    /// back. Answers how many it served; 0 if nothing was ready.
    ///
    /// # Panics
    /// If an earlier round failed.
    pub fn round(
        &mut self,
        now: M::Now,
        pick: &mut (impl Pick + ?Sized),
    ) -> Result<usize, X::Fatal> {
        assert!(!self.failed, "a round after a fatal error");
        assert!(
            self.round.is_empty() && self.served.is_empty(),
            "a round left machines behind"
        );
        self.gather(pick);
        let count = self.round.len();
        if count == 0 {
            return Ok(0);
        }
        let mut round = std::mem::take(&mut self.round);
        self.touched.clear();
        self.touched.extend(round.iter().map(|slot| slot.addr));
        let mut sums = Sums::default();
        for slot in round.drain(..) {
            self.turn(now, slot, pick, &mut sums);
        }
        self.round = round;
        if let Err(fatal) = self.executor.execute(&mut self.effects) {
            self.failed = true;
            return Err(fatal);
        }
        self.give_back();
        self.count(count, &sums);
        Ok(count)
    }

    fn gather(&mut self, pick: &mut (impl Pick + ?Sized)) {
        let normal = pick.pick(Choice::Machines, self.budget.machines_max) + 1;
        let heavy = self.budget.heavy_machines_max;
        let ready = &self.router.core().ready;
        ready.take(
            normal,
            heavy,
            |count| pick.pick(Choice::Next, count),
            &mut self.round,
        );
    }

    /// One machine's part of a round.
    fn turn(
        &mut self,
        now: M::Now,
        slot: Arc<Slot<M>>,
        pick: &mut (impl Pick + ?Sized),
        sums: &mut Sums,
    ) {
        let inputs_max = pick.pick(Choice::Inputs, self.budget.inputs_per_machine_max) + 1;
        slot.mailbox.start();
        let mut guard = slot.machine.lock();
        let machine = guard
            .as_mut()
            .expect("a machine that is started has not retired");
        let taken = slot
            .mailbox
            .take(inputs_max, &mut self.inputs, M::input_bytes);
        sums.bytes += taken.weight;
        sums.heavy += u64::from(machine.is_heavy());
        if taken.closing {
            sums.dropped += self.inputs.len() as u64;
            self.inputs.clear();
            machine.retire(now, &mut self.effects);
            *guard = None;
            slot.mailbox.finish();
            // Before the effects are carried out: they may give the address to a new machine.
            self.router.core().remove(slot.addr);
            return;
        }
        let idle = self.inputs.is_empty() && !taken.tick;
        sums.inputs += self.inputs.len() as u64;
        sums.ticks += u64::from(taken.tick);
        for input in self.inputs.drain(..) {
            machine.handle(now, input, &mut self.effects);
        }
        if taken.tick {
            machine.tick(now, &mut self.effects);
        }
        if !idle {
            machine.end_round(now, &mut self.effects);
        }
        slot.heavy.store(machine.is_heavy(), Ordering::Relaxed);
        drop(guard);
        self.served.push((slot, taken.more));
    }

    fn give_back(&mut self) {
        let again = self
            .served
            .drain(..)
            .filter_map(|(slot, more)| slot.mailbox.release(more).then_some(slot));
        self.router.core().queue_all(again);
    }

    fn count(&self, turns: usize, sums: &Sums) {
        let core = self.router.core();
        core.uncount(sums.bytes);
        let counters = &core.counters;
        counters.rounds.add(1);
        counters.turns.add(turns as u64);
        for (counter, count) in [
            (&counters.heavy_turns, sums.heavy),
            (&counters.inputs, sums.inputs),
            (&counters.ticks, sums.ticks),
            (&counters.dropped, sums.dropped),
        ] {
            if count > 0 {
                counter.add(count);
            }
        }
    }
}
