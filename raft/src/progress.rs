//! What a leader knows of one follower, and how fast it sends (thesis 10.2.1, paper 5.3).

use std::collections::VecDeque;

use flotilla_proto::clock::Mono;

use crate::log_view::Ticket;

/// How entries are sent to a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The follower's log is not known: one append at a time, until one is accepted.
    Probe,
    /// The follower's log is known: appends are streamed within the window.
    Replicate,
    /// A snapshot at this index is on its way: no appends.
    Snapshot {
        /// The snapshot's index.
        index: u64,
    },
}

/// Appends that wait for their answer, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// (last index, payload bytes) of each.
    messages: VecDeque<(u64, u64)>,
    /// Invariant: the sum of the bytes in `messages`.
    bytes: u64,
}

impl Window {
    pub(crate) fn push(&mut self, last: u64, bytes: u64) {
        debug_assert!(
            self.messages
                .back()
                .is_none_or(|(earlier, _)| *earlier <= last)
        );
        self.messages.push_back((last, bytes));
        self.bytes += bytes;
    }

    /// Everything up to `index` is answered.
    pub(crate) fn free_to(&mut self, index: u64) {
        while let Some((_, bytes)) = self.messages.pop_front_if(|(last, _)| *last <= index) {
            self.bytes -= bytes;
        }
    }

    pub(crate) fn is_full(&self, messages_max: usize, bytes_max: u64) -> bool {
        self.messages.len() >= messages_max || self.bytes >= bytes_max
    }

    pub(crate) fn clear(&mut self) {
        self.messages.clear();
        self.bytes = 0;
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Gives memory of a burst back; for a quiet moment.
    pub(crate) fn shrink(&mut self) {
        if self.messages.is_empty() && self.messages.capacity() > 0 {
            self.messages = VecDeque::new();
        }
    }
}

/// See the module. The leader keeps one for itself too, whose `matched` is its own durable log.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) id: u64,
    /// Highest index known to be durable at the peer and equal to the leader's log.
    /// Invariant: `matched < next`.
    pub(crate) matched: u64,
    /// The next index to send.
    pub(crate) next: u64,
    pub(crate) pace: Pace,
    /// Probe: an append is out and unanswered.
    pub(crate) paused: bool,
    /// Send one append, empty if need be, to learn whether earlier ones were lost.
    pub(crate) ping: bool,
    /// No earlier than this is the next ping worth it.
    pub(crate) ping_at: Mono,
    /// The highest commit index the peer knows, if nothing was lost.
    pub(crate) commit_sent: u64,
    /// Entries for it are being fetched.
    pub(crate) fetching: Option<Ticket>,
    /// A snapshot for it was asked for and is not there yet.
    pub(crate) snapshot_wanted: bool,
    /// When it was last heard of.
    pub(crate) active: Mono,
    /// The highest confirmation round it answered.
    pub(crate) round: u64,
    pub(crate) window: Window,
}

impl Progress {
    pub(crate) fn new(id: u64, next: u64, now: Mono) -> Self {
        Self {
            id,
            matched: 0,
            next,
            pace: Pace::Probe,
            paused: false,
            ping: false,
            ping_at: Mono::default(),
            commit_sent: 0,
            fetching: None,
            snapshot_wanted: false,
            active: now,
            round: 0,
            window: Window::default(),
        }
    }

    /// Back to asking where the logs agree. After a snapshot: behind it.
    pub(crate) fn become_probe(&mut self) {
        self.next = match self.pace {
            Pace::Snapshot { index } => self.matched.max(index) + 1,
            Pace::Probe | Pace::Replicate => self.matched + 1,
        };
        self.enter(Pace::Probe);
    }

    pub(crate) fn become_replicate(&mut self) {
        self.next = self.matched + 1;
        self.enter(Pace::Replicate);
    }

    pub(crate) fn become_snapshot(&mut self, index: u64) {
        self.enter(Pace::Snapshot { index });
    }

    fn enter(&mut self, pace: Pace) {
        self.pace = pace;
        self.paused = false;
        self.ping = false;
        self.fetching = None;
        self.snapshot_wanted = false;
        self.window.clear();
    }

    /// The index below which the peer needs no log of the leader any more.
    pub(crate) fn needs_after(&self) -> u64 {
        match self.pace {
            Pace::Snapshot { index } => self.matched.max(index),
            Pace::Probe | Pace::Replicate => self.matched,
        }
    }
}
