//! What the core asks of whoever keeps the log.

use flotilla_proto::raft::{Entry, Snapshot};

/// Names a fetch that a [`LogView`] has begun. Given back by [`crate::Raft::fetched`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What entries are wanted for: a hint for caches and queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchFor {
    /// To be handed out as committed.
    Apply,
    /// To be sent to this peer.
    Send {
        /// The follower.
        to: u64,
    },
}

/// The answer of a look-up that must not block (contracts: C41).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup<T> {
    /// Here it is.
    Ready(T),
    /// Not in memory; on its way. The caller of the core owes one [`crate::Raft::fetched`] with this
    /// ticket, after which the same look-up is repeated.
    Pending(Ticket),
    /// Truncated away.
    Compacted,
}

/// The log as the layer below keeps it: everything that has left the core in a
/// [`crate::Ready`], durable or still on its way to the disk.
///
/// The core itself holds only what it has not handed out yet. A view never fails: a storage error
/// ends the store that met it.
///
/// A view is contiguous: entries `first_index()..=last_index()`, and the term of
/// `first_index() - 1` (the truncation point) is known. A fresh region starts at index 5, term 5
/// (contracts: C33): `first_index()` 6, `last_index()` 5. A replica that knows nothing yet answers
/// 1 and 0, and the term of index 0 is 0.
pub trait LogView {
    /// The first index present; one past the truncation point.
    fn first_index(&self) -> u64;

    /// The last index present; `first_index() - 1` when there are no entries.
    fn last_index(&self) -> u64;

    /// The term at `index`: of an entry, or of the truncation point. `None` for any other index. An
    /// answer of 0 for a missing entry would let a follower match what it does not have.
    fn term(&self, index: u64) -> Option<u64>;

    /// Entries `[low, high)`, cut where their payload would pass `bytes_max`, but never before the
    /// first. The core asks only within what the view holds, or below it.
    fn entries(&self, low: u64, high: u64, bytes_max: u64, why: FetchFor) -> Lookup<Vec<Entry>>;

    /// Takes over `entries` as they leave in a [`crate::Ready`]; contiguous, and cutting whatever
    /// stood at their first index and after it.
    fn append(&mut self, entries: &[Entry]);

    /// Drops the whole log in favour of a snapshot that leaves in a [`crate::Ready`]: from now on
    /// the truncation point is (`index`, `term`) and there are no entries.
    fn restore(&mut self, index: u64, term: u64);

    /// A snapshot to send to a follower, at or above the truncation point. `None`: not there yet;
    /// [`crate::Ready::snapshot_wanted`] asks for one, also when the one at hand is from before the
    /// follower became a member.
    fn snapshot(&self) -> Option<Snapshot>;
}
