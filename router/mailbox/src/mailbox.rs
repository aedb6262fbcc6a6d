//! A bounded queue plus the state of its owner.

use std::collections::VecDeque;

use crate::sync::{AtomicBool, AtomicU8, Mutex, Ordering, lock};

/// Nobody has the machine, and it has nothing to do.
const IDLE: u8 = 0;
/// The machine stands in the ready queue, once.
const QUEUED: u8 = 1;
/// A poller has it.
const RUNNING: u8 = 2;
/// A poller has it, and since it started something came that it may not have seen.
const NOTIFIED: u8 = 3;
/// Its last owner is through with it; final.
const CLOSED: u8 = 4;

/// Slots that an empty queue may keep without being looked at.
const SLOTS_KEPT: usize = 32;
/// Takes between two looks at whether the queue's memory is still used.
const TAKES_PER_SHRINK: u32 = 256;

/// What a machine is sent, and who owns the machine.
///
/// The owner's states and the only edges between them:
///
/// ```text
/// Idle     -> Queued     send, tick, close      the caller puts the machine in the ready queue
/// Queued   -> Running    start                  by the poller that took it from there
/// Running  -> Notified   send, tick, close
/// Running  -> Idle       release, nothing left
/// Running, Notified -> Queued   release         the caller puts it in the ready queue again
/// Running, Notified -> Closed   finish
/// ```
///
/// A method that answers `true` has made the edge to Queued: its caller, and nobody else, owes the
/// machine to the ready queue. That is why a machine is never queued twice, and why an input that
/// was accepted is always followed by a turn.
#[derive(Debug)]
pub struct Mailbox<T> {
    /// Changes by atomic exchange only. Readers need no ordering of it: they come from the queue's
    /// mutex or from the exchange on `tick`, which order their look after the owner's last one.
    owner: AtomicU8,
    /// A tick is due. Set and cleared by exchange, on both sides.
    tick: AtomicBool,
    /// Inputs that [`Mailbox::send`] may leave waiting; at least 1.
    capacity: usize,
    queue: Mutex<Queue<T>>,
}

#[derive(Debug)]
struct Queue<T> {
    inputs: VecDeque<T>,
    /// The sum of the weights of `inputs`.
    weight: u64,
    /// Once `false`, nothing is accepted any more.
    open: bool,
    /// The longest the queue was since the last look at its memory.
    peak: usize,
    /// Takes since then.
    takes: u32,
}

/// Why an input was not accepted; it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused<T> {
    /// The bound is reached; later may work.
    Full(T),
    /// The mailbox is closed for good.
    Closed(T),
}

/// What [`Mailbox::take`] found besides inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Taken {
    /// A tick was due.
    pub tick: bool,
    /// Inputs are left: the machine needs another turn.
    pub more: bool,
    /// The mailbox was closed: this is the machine's last turn, and everything was taken.
    pub closing: bool,
    /// The weight of the inputs taken.
    pub weight: u64,
}

impl<T> Mailbox<T> {
    /// An open, empty mailbox whose machine is idle.
    ///
    /// # Panics
    /// If `capacity` is 0.
    pub fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "a mailbox that accepts nothing");
        let inputs = VecDeque::new();
        Self {
            owner: AtomicU8::new(IDLE),
            tick: AtomicBool::new(false),
            capacity,
            queue: Mutex::new(Queue {
                inputs,
                weight: 0,
                open: true,
                peak: 0,
                takes: 0,
            }),
        }
    }

    /// Leaves an input, within the bounds: at most `capacity` inputs, and a weight of at most
    /// `weight_max` together with what waits already. `true`: the caller queues the machine.
    pub fn send(&self, input: T, weight: u64, weight_max: u64) -> Result<bool, Refused<T>> {
        {
            let mut queue = lock(&self.queue);
            if !queue.open {
                return Err(Refused::Closed(input));
            }
            if queue.inputs.len() >= self.capacity
                || queue.weight.saturating_add(weight) > weight_max
            {
                return Err(Refused::Full(input));
            }
            queue.push(input, weight);
        }
        Ok(self.notify())
    }

    /// Leaves an input that must not be lost, whatever waits already. `true`: the caller queues the
    /// machine. Gives the input back if the mailbox is closed.
    pub fn force_send(&self, input: T, weight: u64) -> Result<bool, T> {
        {
            let mut queue = lock(&self.queue);
            if !queue.open {
                return Err(input);
            }
            queue.push(input, weight);
        }
        Ok(self.notify())
    }

    /// Makes a tick due. One that is due already absorbs it. `true`: the caller queues the machine.
    pub fn send_tick(&self) -> bool {
        !self.tick.swap(true, Ordering::AcqRel) && self.notify()
    }

    /// Refuses everything from now on and gives the machine its last turn. `true`: the caller queues
    /// the machine. Closing twice changes nothing.
    pub fn close(&self) -> bool {
        {
            let mut queue = lock(&self.queue);
            if !queue.open {
                return false;
            }
            queue.open = false;
        }
        self.notify()
    }

    /// Whether inputs are refused for good.
    pub fn is_closed(&self) -> bool {
        !lock(&self.queue).open
    }

    /// Inputs that wait.
    pub fn len(&self) -> usize {
        lock(&self.queue).inputs.len()
    }

    /// Inputs that fit into the memory held for them now.
    pub fn slots(&self) -> usize {
        lock(&self.queue).inputs.capacity()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Queued -> Running, by the poller that took the machine from the ready queue.
    pub fn start(&self) {
        let before = self.owner.swap(RUNNING, Ordering::AcqRel);
        assert_eq!(
            before, QUEUED,
            "a machine was started that does not stand in the ready queue"
        );
    }

    /// Moves up to `inputs_max` inputs to `into`, oldest first; all of them if the mailbox was closed.
    /// `weigh` answers the weight that an input was sent with.
    pub fn take(&self, inputs_max: usize, into: &mut Vec<T>, weigh: impl Fn(&T) -> u64) -> Taken {
        let tick = self.tick.swap(false, Ordering::AcqRel);
        let mut queue = lock(&self.queue);
        let (closing, held) = (!queue.open, into.len());
        let count = if closing { usize::MAX } else { inputs_max }.min(queue.inputs.len());
        into.extend(queue.inputs.drain(..count));
        let weight = if queue.weight > 0 {
            into[held..].iter().map(weigh).sum()
        } else {
            0
        };
        queue.weight = queue
            .weight
            .checked_sub(weight)
            .expect("an input weighs what it was sent with");
        queue.recycle();
        let more = !queue.inputs.is_empty();
        Taken {
            tick,
            more,
            closing,
            weight,
        }
    }

    /// The poller gives the machine back; `more`: it knows that inputs are left. `true`: the caller
    /// queues the machine again.
    pub fn release(&self, more: bool) -> bool {
        let before = if more {
            self.owner.swap(QUEUED, Ordering::AcqRel)
        } else {
            match self
                .owner
                .compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return false,
                Err(_) => self.owner.swap(QUEUED, Ordering::AcqRel),
            }
        };
        assert!(
            before == RUNNING || before == NOTIFIED,
            "a machine was released that nobody ran"
        );
        true
    }

    /// The machine is gone; after the turn in which [`Taken::closing`] was set.
    pub fn finish(&self) {
        assert!(self.is_closed(), "an open mailbox lost its machine");
        let before = self.owner.swap(CLOSED, Ordering::AcqRel);
        assert!(
            before == RUNNING || before == NOTIFIED,
            "a machine ended that nobody ran"
        );
    }

    /// Sees to it that the machine gets a turn after this call. `true`: by the caller.
    ///
    /// An exchange is needed only where the state changes; most sends find the machine queued.
    fn notify(&self) -> bool {
        let mut seen = self.owner.load(Ordering::Relaxed);
        loop {
            let next = match seen {
                IDLE => QUEUED,
                RUNNING => NOTIFIED,
                _ => return false,
            };
            match self
                .owner
                .compare_exchange(seen, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return next == QUEUED,
                Err(other) => seen = other,
            }
        }
    }
}

impl<T> Queue<T> {
    fn push(&mut self, input: T, weight: u64) {
        self.inputs.push_back(input);
        self.weight += weight;
        self.peak = self.peak.max(self.inputs.len());
    }

    /// Gives memory back that a burst took, but not what the steady load uses.
    fn recycle(&mut self) {
        self.takes += 1;
        if self.takes < TAKES_PER_SHRINK {
            return;
        }
        let used = self.peak.max(SLOTS_KEPT);
        if self.inputs.capacity() > used.saturating_mul(4) {
            self.inputs.shrink_to(used);
        }
        self.peak = self.inputs.len();
        self.takes = 0;
    }
}
