//! What planners put out: an operator, in steps.

use std::fmt;

use flotilla_proto::metapb::{PeerRole, RegionEpoch};

use crate::view::{Region, StoreState};

/// A planned change of one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The region.
    pub region: u64,
    /// What it was planned for. Whatever else changes the region makes it void.
    pub epoch: RegionEpoch,
    /// In this order; never empty.
    pub steps: Vec<Step>,
    /// What it changes.
    pub kind: Kind,
    /// Why.
    pub reason: Reason,
}

/// What an operator changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Peers, so that there are as many as should be, where they should be.
    Replica,
    /// The leader only.
    Leader,
    /// Where a peer lives, so that stores hold as much as each other.
    Region,
    /// Where a region with much load lives, or leads.
    Hot,
    /// Two regions become one.
    Merge,
    /// What somebody asked for.
    Admin,
}

impl Kind {
    /// As PD names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Replica => "replica",
            Self::Leader => "leader",
            Self::Region => "region",
            Self::Hot => "hot-region",
            Self::Merge => "merge",
            Self::Admin => "admin",
        }
    }
}

/// Why there is an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variant says what its fields are")]
pub enum Reason {
    /// There are too few voters.
    TooFew { voters: usize, wanted: usize },
    /// There are too many voters.
    TooMany { voters: usize, wanted: usize },
    /// A peer's store, or the peer itself, has been silent for too long.
    Down { store: u64 },
    /// A peer's store is to be emptied.
    Offline { store: u64 },
    /// A peer's store is gone for ever.
    Tombstone { store: u64 },
    /// A learner that nothing needs.
    Spare { store: u64 },
    /// A joint configuration was entered and never left.
    Joint,
    /// No leader should be there.
    Evicted { store: u64 },
    /// Its leader's store answers slowly: the score goes to 100.
    Slow { store: u64, score: u64 },
    /// A voter is where no rule wants one.
    Misplaced { store: u64 },
    /// Replicas share a failure domain that they need not share.
    TooClose { store: u64, to: u64 },
    /// A rule wants a learner.
    WantsLearner { store: u64 },
    /// Rules want another leader.
    LeaderRule { store: u64 },
    /// Stores lead too differently many regions.
    Leaders {
        from: u64,
        leads: u64,
        to: u64,
        led: u64,
    },
    /// Stores hold too differently much.
    Fullness {
        from: u64,
        mib: u64,
        to: u64,
        less: u64,
    },
    /// A store has too much of the load; per second.
    Hot {
        writes: bool,
        from: u64,
        load: u64,
        to: u64,
        less: u64,
        part: u64,
    },
    /// The region is small, and so is its neighbour.
    Small { target: u64, bytes: u64, keys: u64 },
    /// Somebody wants it elsewhere, anywhere.
    Scatter { group_peers: u64 },
    /// Somebody wants another leader.
    AskedLeader { store: u64 },
    /// Somebody wants a peer there.
    AskedAdd { store: u64 },
    /// Somebody wants no peer there.
    AskedRemove { store: u64 },
    /// Somebody wants a peer elsewhere.
    AskedMove { from: u64, to: u64 },
    /// Somebody asked for it.
    AskedMerge { target: u64 },
}

impl Reason {
    /// A short name for machines, where PD has one, PD's.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooFew { .. } => "make-up-replica",
            Self::TooMany { .. } => "remove-extra-replica",
            Self::Down { .. } => "replace-down-replica",
            Self::Offline { .. } => "replace-offline-replica",
            Self::Tombstone { .. } => "replace-tombstone-replica",
            Self::Spare { .. } => "remove-orphan-peer",
            Self::Joint => "leave-joint-state",
            Self::Evicted { .. } => "evict-leader",
            Self::Slow { .. } => "evict-slow-store",
            Self::Misplaced { .. } => "fix-misplaced-peer",
            Self::TooClose { .. } => "move-to-better-location",
            Self::WantsLearner { .. } => "add-rule-peer",
            Self::LeaderRule { .. } => "fix-leader-role",
            Self::Leaders { .. } => "balance-leader",
            Self::Fullness { .. } => "balance-region",
            Self::Hot { writes: true, .. } => "move-hot-write-region",
            Self::Hot { writes: false, .. } => "move-hot-read-region",
            Self::Small { .. } => "merge-region",
            Self::Scatter { .. } => "scatter-region",
            Self::AskedLeader { .. } => "admin-transfer-leader",
            Self::AskedAdd { .. } => "admin-add-peer",
            Self::AskedRemove { .. } => "admin-remove-peer",
            Self::AskedMove { .. } => "admin-move-peer",
            Self::AskedMerge { .. } => "admin-merge-region",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooFew { voters, wanted } => {
                write!(f, "it has {voters} of {wanted} replicas")
            }
            Self::TooMany { voters, wanted } => {
                write!(f, "it has {voters} replicas and needs {wanted}")
            }
            Self::Down { store } => write!(f, "its peer on store {store} is down"),
            Self::Offline { store } => write!(f, "store {store} is {}", StoreState::Offline),
            Self::Tombstone { store } => write!(f, "store {store} is {}", StoreState::Tombstone),
            Self::Spare { store } => write!(f, "its learner on store {store} is of no use"),
            Self::Joint => f.write_str("its joint configuration was not left"),
            Self::Evicted { store } => write!(f, "no leader is to be on store {store}"),
            Self::Slow { store, score } => {
                write!(f, "store {store} is slow, its score is {score} of 100")
            }
            Self::Misplaced { store } => write!(f, "no rule wants its peer on store {store}"),
            Self::TooClose { store, to } => write!(
                f,
                "store {store} shares a failure domain with another of its stores, store {to} shares less"
            ),
            Self::WantsLearner { store } => write!(f, "a rule wants a learner on store {store}"),
            Self::LeaderRule { store } => write!(f, "rules want its leader not on store {store}"),
            Self::Leaders {
                from,
                leads,
                to,
                led,
            } => write!(f, "store {from} leads {leads}, store {to} leads {led}"),
            Self::Fullness {
                from,
                mib,
                to,
                less,
            } => write!(
                f,
                "store {from} holds {mib} MiB, store {to} holds {less} MiB, counting 1 MiB for each region"
            ),
            Self::Hot {
                writes,
                from,
                load,
                to,
                less,
                part,
            } => {
                let what = if writes { "written" } else { "read" };
                write!(
                    f,
                    "{load} units per second are {what} on store {from}, {part} of them in it, {less} on store {to}"
                )
            }
            Self::Small {
                target,
                bytes,
                keys,
            } => write!(
                f,
                "it holds {bytes} bytes in {keys} keys, its neighbour {target} has room for them"
            ),
            Self::Scatter { group_peers } => write!(
                f,
                "asked for: scattered over stores that have the fewest of its group, of {group_peers} peers"
            ),
            Self::AskedLeader { store } => write!(f, "asked for: store {store} leads"),
            Self::AskedAdd { store } => write!(f, "asked for: a peer on store {store}"),
            Self::AskedRemove { store } => write!(f, "asked for: no peer on store {store}"),
            Self::AskedMerge { target } => write!(f, "asked for: a part of region {target}"),
            Self::AskedMove { from, to } => {
                write!(f, "asked for: the peer on store {from} to store {to}")
            }
        }
    }
}

/// One instruction to the region's leader. A store names the region's peer there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variant says what its fields are")]
pub enum Step {
    /// A new peer that does not vote, until it has caught up.
    AddLearner { store: u64 },
    /// A learner becomes a voter.
    PromoteLearner { store: u64 },
    /// The peer goes: a learner, or one voter of several.
    RemovePeer { store: u64 },
    /// The leader hands over.
    TransferLeader { store: u64 },
    /// Several voters change at once, through a joint configuration.
    EnterJoint { promote: Vec<u64>, demote: Vec<u64> },
    /// The joint configuration is left; stores do that by themselves. So many peers change their
    /// role once more.
    LeaveJoint { changes: u64 },
    /// The region becomes a part of its neighbour. It is over when the region is gone.
    Merge { target: u64 },
}

impl Step {
    /// `region` is as the step leaves it.
    pub fn is_finished(&self, region: &Region) -> bool {
        let role = |store: u64| region.on(store).map(|peer| peer.role());
        match self {
            Self::AddLearner { store } => region
                .on(*store)
                .is_some_and(|peer| !region.pending.contains(&peer.id)),
            Self::PromoteLearner { store } => role(*store) == Some(PeerRole::Voter),
            Self::RemovePeer { store } => role(*store).is_none(),
            Self::TransferLeader { store } => region.leader == Some(*store),
            Self::EnterJoint { promote, demote } => {
                self.conf_changes(region) == (promote.len() + demote.len()) as u64
            }
            Self::LeaveJoint { .. } => !region.is_joint(),
            Self::Merge { .. } => false,
        }
    }

    /// By how much the step raises the region's `conf_ver` in all.
    pub fn conf_changes_in_all(&self) -> u64 {
        match self {
            Self::AddLearner { .. } | Self::PromoteLearner { .. } | Self::RemovePeer { .. } => 1,
            Self::TransferLeader { .. } | Self::Merge { .. } => 0,
            Self::EnterJoint { promote, demote } => (promote.len() + demote.len()) as u64,
            Self::LeaveJoint { changes } => *changes,
        }
    }

    /// By how much the step has raised the region's `conf_ver`, as far as `region` shows it.
    pub fn conf_changes(&self, region: &Region) -> u64 {
        let role = |store: u64| region.on(store).map(|peer| peer.role());
        match self {
            Self::AddLearner { store } => u64::from(role(*store).is_some()),
            Self::PromoteLearner { store } => u64::from(role(*store) == Some(PeerRole::Voter)),
            Self::RemovePeer { store } => u64::from(role(*store).is_none()),
            Self::TransferLeader { .. } | Self::Merge { .. } => 0,
            Self::EnterJoint { promote, demote } => {
                let promoted = |store: &&u64| {
                    matches!(
                        role(**store),
                        Some(PeerRole::IncomingVoter | PeerRole::Voter)
                    )
                };
                let demoted = |store: &&u64| {
                    matches!(
                        role(**store),
                        Some(PeerRole::DemotingVoter | PeerRole::Learner) | None
                    )
                };
                let both =
                    promote.iter().filter(promoted).count() + demote.iter().filter(demoted).count();
                both as u64
            }
            Self::LeaveJoint { changes } => {
                if region.is_joint() {
                    0
                } else {
                    *changes
                }
            }
        }
    }

    /// Two or more voters change: all of these in one step.
    pub(crate) fn joint(promote: Vec<u64>, demote: Vec<u64>) -> [Self; 2] {
        let changes = (promote.len() + demote.len()) as u64;
        [
            Self::EnterJoint { promote, demote },
            Self::LeaveJoint { changes },
        ]
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddLearner { store } => write!(f, "add a learner on store {store}"),
            Self::PromoteLearner { store } => write!(f, "promote the learner on store {store}"),
            Self::RemovePeer { store } => write!(f, "remove the peer on store {store}"),
            Self::TransferLeader { store } => write!(f, "transfer the leader to store {store}"),
            Self::EnterJoint { promote, demote } => {
                f.write_str("at once:")?;
                for store in promote {
                    write!(f, " promote store {store}")?;
                }
                for store in demote {
                    write!(f, " demote store {store}")?;
                }
                Ok(())
            }
            Self::LeaveJoint { .. } => f.write_str("leave the joint configuration"),
            Self::Merge { target } => write!(f, "merge into region {target}"),
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} region {}: ", self.reason.name(), self.region)?;
        for (nth, step) in self.steps.iter().enumerate() {
            let comma = if nth == 0 { "" } else { ", " };
            write!(f, "{comma}{step}")?;
        }
        write!(f, " ({})", self.reason)
    }
}

impl Region {
    pub(crate) fn operator(&self, kind: Kind, reason: Reason, steps: Vec<Step>) -> Operator {
        Operator {
            region: self.id,
            epoch: self.epoch,
            steps,
            kind,
            reason,
        }
    }
}
