//! Probes: rare paths by name, and how often a run reached them. A simulator that never gets there
//! proves nothing about them.
//!
//! Paths inside the machines cannot be seen from here; they say themselves that they were reached,
//! as an event of `tracing` with the target [`PROBE_TARGET`](TARGET) and the probe's name as its message.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;

use flotilla_raftstore::PROBE_TARGET as TARGET;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

/// How often each probe was hit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    hits: BTreeMap<&'static str, u64>,
    /// Of probes inside the machines that are not in the list.
    unlisted: BTreeMap<String, u64>,
}

/// Every probe there is: those of the simulator itself, then those inside the machines.
pub const ALL: &[&str] = &[
    "crash: between append and sync",
    "crash: the unsynced log was lost in part",
    "crash: the state fell behind a split",
    "crash: while a snapshot is built",
    "crash: of a snapshot's sender",
    "crash: while a snapshot comes",
    "crash: behind a received snapshot",
    "crash: behind an intent",
    "crash: rows of a snapshot came without their records",
    "crash: before an intent goes",
    "members: nobody is taken away while too few are here",
    "end: a minority stays away",
    "run: the last attempts are made in calm",
    "snapshot: to a new peer",
    "snapshot: to a lagging voter",
    "snapshot: to a lagging learner",
    "snapshot: a second one of the region travels",
    "snapshot: another leads when it arrives",
    "snapshot: its region was split on the way",
    "fault: a snapshot's build failed",
    "fault: a snapshot's install failed",
    "fault: a chunk of a snapshot is damaged",
    "crash: unsynced files of a snapshot were lost in part",
    "crash: in a replay",
    "crash: again before it served",
    "replay: of a split",
    "replay: of a split whose child had moved on",
    "split: applied",
    "split: in three or more",
    "split: by size",
    "split: while writes waited",
    "split: refused, its epoch had passed",
    "split: ids came too late",
    "split: PD failed",
    "split: by load",
    "write: skipped at apply, its epoch had passed",
    "write: several in one entry",
    "write: mailbox full",
    "write: waited too long",
    "write: too large for an entry",
    "write: lost by a crash and applied later",
    "write: lost by a crash for ever",
    "read: local",
    "read: by index, not confirmed",
    "read: local, not confirmed",
    "read: by index",
    "read: by a replica",
    "read: by a learner",
    "read: of an expired row",
    "client: its user sees an error",
    "latch: waited",
    "latch: kept until the fate of a write was decided",
    "swap: succeeded",
    "swap: refused",
    "log: truncated",
    "flush: for the replay bound",
    "flush: for an admin change",
    "flush: by itself",
    "fault: append failed",
    "fault: sync failed",
    "fault: state write failed",
    "fault: flush failed",
    "fault: log read failed",
    "fault: disk full",
    "fault: paused beyond the lease",
    "fault: apply held back",
    "fault: compaction dropped a row",
    "stop: in order",
    "client: a request is lost",
    "client: a reply is lost",
    "client: waits no longer",
    "clock: runs at another rate",
    "net: a bulk is lost",
    "net: a bulk arrives twice",
    "net: a bulk may overtake others",
    "net: a vote is lost",
    "net: an append arrives twice",
    "net: a message of an earlier life arrives",
    "net: a way is cut under a bulk",
    "net: a crash takes along what was under way",
    "net: the sender hears of a loss",
    "partition: one way",
    "partition: one link",
    "partition: a deaf store",
    "partition: a mute store",
    "partition: a store alone",
    "partition: halves",
    "partition: a ring",
    "partition: a bridge",
    "partition: of clients",
    "partition: during an election",
    "pause: of a leader with a lease, beyond an election",
    "client: is sent on to the leader",
    "leader: elected while ways are cut",
    "log: a tail is cut off",
    "net: a queue is full",
    "net: a rare message is late",
    "snapshot: its offer is late",
    "snapshot: accepted when its sender was gone",
    "worst: an order to take over comes when it was given up",
    "worst: a replica restarts before it is answered",
    "worst: a snapshot is offered behind the child of its region",
    "worst: a voter restarts between a leader and who lost it",
    "worst: the leader of the meta region is taken away",
    "read: asked of a deposed leader",
    "read: by index, while ways are cut",
    "split: committed by a later leader",
    "write: committed by a later leader",
    "write: proposed to a deposed leader",
    "transfer: the target campaigns",
    "transfer: done",
    "history: too many orders to look at",
    "fault: a store is lost for good",
    "fault: a lost store is found again",
    "pd: a deposed leader answers",
    "pd: a heartbeat stream breaks",
    "pd: a proposal is refused",
    "pd: a replica is replaced",
    "pd: a timestamp is dropped, the lease is over",
    "pd: a leader moves to even out",
    "pd: a peer moves for what is written",
    "pd: a peer moves to even out",
    "pd: an operator ends with its work done",
    "pd: an operator gives up",
    "pd: ends a heartbeat stream",
    "pd: ids are dropped, the lease is over",
    "pd: reads its rows again",
    "pd: somebody asks elsewhere",
    "pd: tells a region to be led elsewhere",
    "pd: tells a region to change its members",
    "pd: tells a region to split",
    "pd: the leader goes while ids are asked for",
    "pd: the leader goes while requests wait",
    "pd: the outcome of a proposal is unknown",
    "pd: timestamps after another leader's",
    "pd: timestamps need more room",
    "pd: timestamps while the time of day is behind them",
    // Inside the machines.
    "propose: put back, too much is uncommitted",
    "log view: fetch, not in the cache",
    "replay: in several pages",
    "fault: the log disk stands still",
    "fault: a read of the state failed",
    "fault: bytes of the log rot",
    "fault: bytes of the state rot",
    "fault: the files of an intent are gone",
    "stall: a leader gives up its lease",
    "stall: a leader hands over",
    "creation: a message for nobody here",
    "creation: by a message",
    "creation: refused, a live region has the range",
    "creation: refused, the peer has ended",
    "destroy: PD is asked about a peer without a leader",
    "destroy: a stranger is told",
    "destroy: the log is cleared",
    "destroy: told by a member",
    "members: a quorum would not answer",
    "members: changed",
    "snapshot: refused, another one is on its way",
    "snapshot: lost on the way",
    "snapshot: installed again at the start",
    "snapshot: an orphan is removed at the start",
    "replay: of the removal of a peer",
    "destroy: a message for a later peer",
    "destroy: the log is cleared at the start",
    "creation: refused, a dying region has the range",
    "creation: refused while the region is dying",
    "creation: an answer makes no peer",
    "creation: of a peer that had voted before",
    "snapshot: an end is gone",
    "snapshot: installed",
    "snapshot: waits until a split is durable",
    "snapshot: received",
    "snapshot: refused",
    "snapshot: files of one that is not wanted stay",
    "creation: refused, a snapshot has the range",
    "snapshot: a chunk failed",
    "snapshot: built too late",
    "snapshot: committed behind it meanwhile",
    "snapshot: received and not wanted any more",
    "snapshot: receiving failed",
    "snapshot: refused, the range is taken",
    // Inside the machines, and hardly ever.
    "snapshot: files of an earlier one are in the way",
    "destroy: PD knows newer members",
    "destroy: rows of no region are removed at the start",
    "peer: progress of an earlier life",
    "snapshot: a message without its files",
    "snapshot: received for a peer that has ended",
    "snapshot: refused, it does not name the peer here",
    "snapshot: refused, it is of another region",
    "snapshot: refused, the peer may not be made here",
    "snapshot: refused, too many at once",
    "snapshot: the files of an intent are lost",
    "split: a blank peer makes room for the child",
    "split: a child that had ended here before",
    "snapshot: in the place of entries that somebody waits for",
    "merge: prepared",
    "merge: a step is refused at apply",
    "merge: rolled back",
    "merge: done",
    "merge: the target is a part of another region",
    "merge: carried entries are fetched",
    "merge: carried entries are on another store",
    "merge: a source catches up from its target",
    "merge: a source that was left behind ends",
    "merge: the source is lost on this store",
    "merge: the target ends while its source stops",
    "merge: a peer of a merged region is told",
    "merge: a snapshot stops a region that it has taken in",
    "merge: a source catches up in a replay",
    "merge: in a replay",
];

impl Probes {
    /// Counts a hit.
    ///
    /// # Panics
    /// If there is no probe of that name.
    pub fn hit(&mut self, name: &str) {
        let known = self.hit_known(name);
        assert!(known, "no probe is called {name:?}");
    }

    /// Counts a hit of a probe that is in the list; `false`: it is not.
    fn hit_known(&mut self, name: &str) -> bool {
        if let Some(hits) = self.hits.get_mut(name) {
            *hits += 1;
            return true;
        }
        // The list is long, and this comes once per probe and run.
        let known = ALL.iter().find(|probe| **probe == name);
        known.is_some_and(|known| self.hits.insert(known, 1).is_none())
    }

    /// Counts a hit of a probe inside the machines.
    pub fn reached(&mut self, name: String) {
        if !self.hit_known(&name) {
            *self.unlisted.entry(name).or_default() += 1;
        }
    }

    /// Probes inside the machines that are not in the list, and their hits.
    pub fn unlisted(&self) -> &BTreeMap<String, u64> {
        &self.unlisted
    }

    /// Counts a hit if `reached`.
    pub fn hit_if(&mut self, reached: bool, name: &str) {
        if reached {
            self.hit(name);
        }
    }

    /// How often `name` was hit.
    pub fn count(&self, name: &str) -> u64 {
        self.hits.get(name).copied().unwrap_or(0)
    }

    /// Adds the hits of another run.
    pub fn add(&mut self, other: &Self) {
        for (name, count) in &other.hits {
            *self.hits.entry(name).or_default() += count;
        }
        for (name, count) in &other.unlisted {
            *self.unlisted.entry(name.clone()).or_default() += count;
        }
    }
}

thread_local! {
    static REACHED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Takes the probes that the machines have reached on this thread since the last call.
pub fn take_reached() -> Vec<String> {
    REACHED.with_borrow_mut(std::mem::take)
}

/// The subscriber that collects probes and nothing else.
#[derive(Debug)]
pub struct Collector;

struct Message<'a>(&'a mut Vec<String>);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0.push(format!("{value:?}"));
        }
    }
}

impl Subscriber for Collector {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.target() == TARGET {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        REACHED.with_borrow_mut(|reached| event.record(&mut Message(reached)));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_with_the_target_are_collected_and_others_are_not() {
        tracing::subscriber::with_default(Collector, || {
            tracing::trace!(target: TARGET, "log view: fetch, not in the cache");
            tracing::error!("something else");
        });
        assert_eq!(take_reached(), ["log view: fetch, not in the cache"]);
        assert_eq!(take_reached(), [""; 0]);
    }

    #[test]
    fn names_are_unique() {
        let mut names = ALL.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
