//! The checkers: they see what goes to the disks and to other stores, what is answered and what is
//! shown, and hold it against the rules after every step. What they share with what they check
//! is said in docs/simulation.md: decoding, the command logic, whether ranges meet.

pub mod answers;
pub mod calls;
pub mod consensus;
mod dying;
#[cfg(test)]
mod forged;
pub mod leases;
pub mod log;
pub mod machines;
pub mod members;
mod merges;
pub mod model;
pub mod placement;
pub mod quorum;
pub mod replicas;
pub mod state;
pub mod topology;
mod truncation;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::Region;
use parking_lot::Mutex;

use crate::probe::Probes;
use crate::rules::{Checks, Violation};
use crate::trace::Trace;

use answers::Answers;
use consensus::Consensus;
use dying::Dying;
use leases::Leases;
use log::LogModel;
use machines::PeerSeen;
use model::{Applied, Model};
use placement::PlacementSeen;
use replicas::Digests;
use state::Undurable;
use truncation::Needed;

/// All checkers of a run, shared by everything that is watched.
pub type Shared = Arc<Mutex<Oracle>>;

/// A step of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotStep {
    /// Its build has begun.
    Begun,
    /// A part of it has come.
    Came,
    /// All of it has come, and is on the disk.
    Received,
    /// The intent is written, and perhaps not durable.
    IntentWritten,
    /// The intent is durable.
    IntentDurable,
    /// Its rows are in place, or at hand.
    Placed,
    /// The region's records say so.
    Recorded,
    /// The intent is removed, perhaps not for good.
    IntentGone,
}

/// What is known of one store from outside.
#[derive(Debug, Default)]
pub struct StoreSeen {
    /// Its raft log.
    pub log: LogModel,
    /// Applied by its state as it is now.
    pub applied: Applied,
    /// Applied by its state as a crash now would leave it.
    pub survives: Applied,
    /// What is applied and not durable.
    pub undurable: Undurable,
    /// Regions that ended here, each with the highest peer it ever had.
    pub tombstones: BTreeMap<u64, u64>,
    /// Those of them that survive a crash.
    pub buried: BTreeMap<u64, u64>,
    /// Peers whose tombstones a crash would take back, by region.
    pub dying: BTreeMap<u64, Dying>,
    /// Regions that came as snapshots, and the newest index of one.
    pub arrived: BTreeMap<u64, u64>,
    /// Regions whose rows are being replaced by those of a snapshot, step by step, and its index.
    pub replacing: BTreeMap<(u64, u64), Region>,
    /// Regions whose rows came so: a crash may take back all of it but them. Of one region there may be
    /// several, with the ranges that it had.
    pub came: BTreeMap<(u64, u64), Region>,
    /// Steps of snapshots, by region, since somebody looked.
    pub snapshot_steps: Vec<(u64, SnapshotStep)>,
    /// The newest descriptor of each region that left the store.
    pub shown: BTreeMap<u64, Region>,
    /// Its peers, as last looked at in this life.
    pub peers: BTreeMap<u64, PeerSeen>,
    /// Peers that are ending, by region and id.
    pub ending: BTreeSet<(u64, u64)>,
    /// The newest term that each region has applied an entry of.
    pub terms: BTreeMap<u64, u64>,
    /// Regions whose newest term rose since somebody looked.
    pub terms_risen: Vec<(u64, u64)>,
    /// The index beyond which the logs of merging regions stay, as far as they have applied it.
    pub keeps_log: BTreeMap<u64, u64>,
    /// A write or sync of its log failed in this life.
    pub failed: bool,
}

/// Everything that is known of a run from outside.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Steps so far: the clock of linearization points. One step does one thing.
    pub step: u64,
    /// Virtual time.
    pub now: Mono,
    /// Counters, and the first violation.
    pub checks: Checks,
    /// Rare paths reached.
    pub probes: Probes,
    /// What happened.
    pub trace: Trace,
    /// What the committed log makes of the world.
    pub model: Model,
    /// Proposals and answers.
    pub answers: Answers,
    /// Raft groups: who voted for whom, who led, what is committed.
    pub consensus: Consensus,
    /// What leaders have said of the logs that others need.
    pub needed: Needed,
    /// Terms in which somebody led, of all regions.
    pub leaders_elected: u64,
    /// Who may serve local reads.
    pub leases: Leases,
    /// What PD has given and shown.
    pub placement: PlacementSeen,
    /// By peer id: its region and store.
    pub peers: BTreeMap<u64, (u64, u64)>,
    /// What replicas held where they were compared.
    pub digests: Digests,
    /// By store id.
    pub stores: BTreeMap<u64, StoreSeen>,
}

impl Oracle {
    /// Notes an event in the trace.
    pub fn note(&mut self, event: fmt::Arguments<'_>) {
        self.trace
            .note(self.step, self.now - Mono::default(), event);
    }

    /// The first rule that was broken.
    pub fn violation(&self) -> Option<&Violation> {
        self.checks.violation()
    }

    /// What is known of `store`.
    pub fn store(&mut self, store: u64) -> &mut StoreSeen {
        self.stores.entry(store).or_default()
    }

    /// Virtual time since the run began.
    pub fn elapsed(&self) -> Duration {
        self.now - Mono::default()
    }
}
