//! What the router runs: machines with effects, and whoever carries the effects out.

/// A deterministic state machine with a mailbox.
///
/// Same state and same inputs give the same effects in the same order. A machine never blocks and
/// never looks at a clock: `now` is the time of the round.
pub trait Machine: Send + 'static {
    /// What it is sent.
    type Input: Send + 'static;
    /// What a round of machines asks to be done, collected in one place so that it can be merged.
    type Effects: Default + Send + 'static;
    /// The router's clock reading, handed through.
    type Now: Copy + Send + 'static;

    /// Takes one input.
    fn handle(&mut self, now: Self::Now, input: Self::Input, effects: &mut Self::Effects);

    /// Time has passed; after the inputs of the round. Ticks that came since the last one count once,
    /// so nothing may be derived from how many there were (contracts: C15).
    fn tick(&mut self, now: Self::Now, effects: &mut Self::Effects) {
        let _ = (now, effects);
    }

    /// Its inputs of this round are through: hands over what came together (a raft Ready, merged
    /// proposals). Called once per round in which it had input or a tick.
    fn end_round(&mut self, now: Self::Now, effects: &mut Self::Effects);

    /// It will never be called again: its mailbox was closed. Whatever it still owes is owed now.
    fn retire(&mut self, now: Self::Now, effects: &mut Self::Effects);

    /// Heavy work goes to the low-priority lane, so that it cannot starve its neighbours.
    ///
    /// Asked at the end of each round; the answer counts for the next one.
    fn is_heavy(&self) -> bool {
        false
    }

    /// The memory an input holds while it waits, in bytes; the same answer each time it is asked. The
    /// router bounds the sum over all mailboxes, beside the count in each.
    fn input_bytes(input: &Self::Input) -> u64 {
        let _ = input;
        0
    }
}

/// Carries out the effects of a round.
pub trait Executor<E> {
    /// Why the store must stop.
    type Fatal: Send + 'static;

    /// Whether a round may start now; `false` makes the poller wait a moment (backpressure).
    fn may_run(&mut self) -> bool {
        true
    }

    /// Carries out everything in `effects` and leaves it empty, ready for the next round.
    fn execute(&mut self, effects: &mut E) -> Result<(), Self::Fatal>;
}

/// Batches that merge: `self` first, then `later`.
pub trait Merge: Send + 'static {
    /// Adds a batch that was made after this one.
    fn merge(&mut self, later: Self);
    /// Nothing in it.
    fn is_empty(&self) -> bool;
    /// Its size, for limits.
    fn bytes(&self) -> u64;
    /// Entries in it, for the counters.
    fn entries(&self) -> u64;
}

/// Where the log writer writes.
pub trait LogSink: Send + Sync + 'static {
    /// What is written at once.
    type Batch: Merge;
    /// Ends the store.
    type Error: Clone + Send + std::fmt::Display + 'static;

    /// One write, not yet durable. Returns its store-wide number.
    fn append(&self, batch: &Self::Batch) -> Result<u64, Self::Error>;
    /// One fsync. Returns the number up to which batches are durable.
    fn sync(&self) -> Result<u64, Self::Error>;
}

/// A message for another store (contracts: C27).
pub trait Routed: Send + 'static {
    /// The store it goes to.
    fn store(&self) -> u64;
    /// The queue it waits in.
    fn lane(&self) -> Lane;
    /// Its size on the wire, for limits.
    fn bytes(&self) -> u64;
    /// Messages with an equal key replace each other while they wait (heartbeats of one group);
    /// `None` never does.
    fn coalesce_key(&self) -> Option<u64>;
}

/// The queues to one store; a full one never holds up another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Votes, heartbeats and their answers: small, and elections depend on them.
    Control,
    /// Appends and their answers.
    Append,
    /// Snapshot chunks.
    Snapshot,
}

impl Lane {
    /// All lanes, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Control, Self::Append, Self::Snapshot];
}
