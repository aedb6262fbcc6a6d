//! What the core wants done, and what it is told about it.

use flotilla_proto::clock::Mono;
use flotilla_proto::raft::{Entry, HardState, Message, Snapshot};

use crate::log::Writes;
use crate::log_view::LogView;
use crate::raft::{Raft, Role, State};

/// One portion of work. The order of what must happen is in the fields: write, then
/// `send_after_write`; `send_now` and `committed` wait for nothing.
#[must_use = "what a Ready carries is not handed out again"]
#[derive(Debug, Default)]
pub struct Ready {
    /// Counts up from 1.
    pub number: u64,
    /// To be written, in one batch with `snapshot` and `entries`. Present if term or vote moved, if
    /// an entry that is more than data needs its commit durable, or if there are entries and the
    /// commit index moved (contracts: C4).
    pub hard_state: Option<HardState>,
    /// Replaces the whole log and, later, the state (contracts: C6). To be written before `entries`,
    /// and to be installed before anything of a later `committed`.
    pub snapshot: Option<Snapshot>,
    /// To be appended, cutting what stands at the first one's index and after it.
    pub entries: Vec<Entry>,
    /// There is something to write, and it must be durable before [`Raft::persisted`] is told so.
    pub must_sync: bool,
    /// May leave at once, written or not.
    pub send_now: Vec<Message>,
    /// May leave once this Ready and all before it are durable.
    pub send_after_write: Vec<Message>,
    /// To be applied in order: committed, and durable here.
    pub committed: Vec<Entry>,
    /// Reads that got their index.
    pub reads: Vec<ReadGrant>,
    /// Tokens of reads that will get none: the leader changed, or did not answer. To be tried again.
    pub reads_failed: Vec<u64>,
    /// Role, leader or term are not what the last report said.
    pub role_change: Option<RoleChange>,
    /// Followers that need a snapshot while the log view has none.
    pub snapshot_wanted: Vec<u64>,
}

impl Ready {
    /// [`Raft::persisted`] must be told when this Ready is durable: it writes something, or messages
    /// wait for it. Where this is `false` the call changes nothing.
    pub fn awaits_write(&self) -> bool {
        self.must_sync || !self.send_after_write.is_empty()
    }
}

/// A read may be answered once `index` is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadGrant {
    /// As given to [`Raft::read_index`].
    pub token: u64,
    /// The index.
    pub index: u64,
}

/// What a replica is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChange {
    /// Its role.
    pub role: Role,
    /// Who leads, as far as it knows.
    pub leader: Option<u64>,
    /// Its term.
    pub term: u64,
}

impl<L: LogView> Raft<L> {
    /// [`Raft::ready`] has something to say. Now and then it turns out to be nothing.
    pub fn has_ready(&self) -> bool {
        let replicate = matches!(&self.state, State::Leader(leader) if leader.replicate);
        replicate
            || self.log.has_writes(self.term, self.vote)
            || self.log.has_committed()
            || !self.send_now.is_empty()
            || !self.after_write.is_empty()
            || !self.grants.is_empty()
            || !self.reads_failed.is_empty()
            || !self.forwarded.waiting.is_empty()
            || self.wants_read_round()
            || self.role_now() != self.reported
    }

    /// Takes what is to be done. Several Readys may be under way at once; they are to be written, and
    /// their entries applied, in their order.
    pub fn ready(&mut self, now: Mono) -> Ready {
        self.advance(now);
        self.begin_read_round();
        self.forward_reads();
        self.replicate();
        self.ready_number += 1;
        let committed = self.log.take_committed();
        self.count_committed(&committed);
        let writes = self
            .log
            .take_writes(self.ready_number, self.term, self.vote);
        let Writes {
            hard_state,
            snapshot,
            entries,
            must_sync,
        } = writes;
        if !self.log.in_flight() {
            // All that these messages claim is durable already.
            self.send_now.append(&mut self.after_write);
        }
        self.log.check();
        let role = self.role_now();
        Ready {
            number: self.ready_number,
            hard_state,
            snapshot,
            entries,
            must_sync,
            send_now: std::mem::take(&mut self.send_now),
            send_after_write: std::mem::take(&mut self.after_write),
            committed,
            reads: std::mem::take(&mut self.grants),
            reads_failed: std::mem::take(&mut self.reads_failed),
            role_change: (role != std::mem::replace(&mut self.reported, role)).then_some(role),
            snapshot_wanted: std::mem::take(&mut self.snapshot_wanted),
        }
    }

    /// All Readys up to `number` are durable.
    ///
    /// # Panics
    /// If there was no such Ready: the caller claims a write that nobody asked for.
    pub fn persisted(&mut self, now: Mono, number: u64) {
        self.advance(now);
        assert!(
            number <= self.ready_number,
            "Ready {number} persisted, {} handed out",
            self.ready_number
        );
        self.log.written(number);
        self.count_own_vote();
        self.note_own_progress();
    }

    /// Everything up to `index` is applied.
    ///
    /// # Panics
    /// If `index` was not handed out.
    pub fn applied(&mut self, now: Mono, index: u64) {
        self.advance(now);
        if self.log.apply_to(index) {
            self.restart_lease();
        }
        self.leave_joint_when_due();
    }

    /// Bytes that are committed make room for new proposals.
    fn count_committed(&mut self, committed: &[Entry]) {
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        if leader.uncommitted == 0 {
            return;
        }
        let own = committed
            .iter()
            .filter(|entry| entry.index >= leader.first_index);
        let bytes: u64 = own.map(|entry| entry.data.len() as u64).sum();
        leader.uncommitted -= bytes;
    }
}
