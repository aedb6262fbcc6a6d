//! The rules that are checked, how often each was, and the first that was broken.

use std::collections::BTreeMap;
use std::fmt;

/// A rule. Each has one function that checks it and one counter; a rule whose counter stays 0 over
/// the seeds of the test is itself a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A write that was acknowledged is in the log and applied, within its call (faults: 22).
    AcknowledgedIsApplied,
    /// A write that was answered *definitely not applied* never is, and none twice (faults: 40).
    DefinitelyNotApplied,
    /// A proposal is answered at most once (faults: 21).
    AnsweredOnce,
    /// Every proposal is answered while its store lives (faults: 21, 45).
    AnsweredAtAll,
    /// Nothing is acknowledged after a write or sync of the log failed (design, rule 8).
    NothingAfterFailure,
    /// A read shows the state of one moment within its call (faults: 12, 39).
    LinearizableRead,
    /// A write comes behind all that was known when it was proposed (faults: 39).
    LinearizableWrite,
    /// A read by index, at whatever replica, misses nothing that an earlier one has shown.
    IndexedReads,
    /// A client sees its own writes, and never less than it has seen (faults: 41).
    Sessions,
    /// A proposal on a store that runs is answered within its time (faults: 45).
    AnsweredInTime,
    /// A call of a client ends, with an answer or an error, within what its habits allow (faults: 45).
    CallsEnd,
    /// A connected majority serves while the others are still away (faults: 44).
    MajorityServes,
    /// What clients heard has an order, whatever the log says (faults: 39).
    SecondOpinion,
    /// A compare-and-swap wrote over exactly what it compared (contracts: C18).
    AtomicSwap,
    /// The state is what the committed log makes of it; whole batches (faults: 14, 18).
    StateIsLog,
    /// A write changes only keys of its region, and only at its epoch (contracts: C21).
    OwnKeys,
    /// A request is served at the epoch it was made for, and at no other (contracts: C21).
    ServedAtItsEpoch,
    /// Nothing is applied beyond what is durable in the log here (contracts: C4 ii).
    AppliedIsPersisted,
    /// What changes the topology is applied only once its commit is durable (contracts: C4 iii).
    AdminCommitDurable,
    /// The log is truncated only up to what a crash leaves in the state (contracts: C11).
    TruncatedIsDurable,
    /// The log is truncated only up to what a live follower needs, or up to the lag that is kept (contracts: C11).
    LaggardsAreSpared,
    /// With nobody who lags nothing is kept of the log that survives in the state (contracts: C11).
    LogIsTrimmed,
    /// What is reported as durable survives a crash (contracts: C2).
    DurableSurvives,
    /// The state after a crash is one cut over all regions (design, rule 3).
    CrashIsPrefix,
    /// A region's log has no gap, no leftover tail, and terms that rise (faults: 8; contracts: C9).
    LogIsWhole,
    /// A hard state never falls, and a term has one vote (faults: 2, 6).
    HardStateRises,
    /// A committed entry is never replaced (faults: 5).
    CommittedStays,
    /// Term, commit and applied never fall; first - 1 <= applied <= commit <= last (faults: 6, 8).
    IndexesInOrder,
    /// A merge is committed or rolled back, never both, and its source is nowhere beside its target (contracts: C12).
    MergedOnce,
    /// The newest epochs of all regions tile the key space (faults: 13).
    RegionsTile,
    /// What was shown of the topology was real, and is not older after a restart (faults: 49).
    TopologyStays,
    /// A term has one leader, elected by a quorum of voters (faults: 1, 10).
    OneLeaderPerTerm,
    /// A peer votes once per term, also across crashes (faults: 2).
    OneVotePerTerm,
    /// Logs agree up to every index and term that they share (faults: 3).
    LogsMatch,
    /// A committed entry is in every later leader's log (faults: 4).
    LeaderHasCommitted,
    /// A leader commits entries of its own term, by a quorum's disks (faults: 7, 10).
    CommitByQuorum,
    /// No quorum of a configuration misses one of the next (faults: 9).
    QuorumsMeet,
    /// Nobody campaigns with a committed change of the members unapplied (faults: 9).
    CampaignsSettled,
    /// A message leaves only after what it claims is durable (faults: 11; contracts: C3).
    DurableBeforeSaid,
    /// At no moment may two stores serve local reads of one key, and nobody is elected in the
    /// newest term while another may (contracts: C16).
    OneLease,
    /// Replicas that have applied the same hold the same (faults: 20).
    ReplicasAgree,
    /// A snapshot is acknowledged only once its intent is durable (contracts: C6).
    AckedSnapshotHasIntent,
    /// A snapshot's intent goes only once what it brought survives a crash (contracts: C6).
    IntentCoversState,
    /// The files of a snapshot stay as long as a crash would leave its intent without what it brought:
    /// the next start installs them (contracts: C6).
    IntentHasFiles,
    /// A peer that has ended never acts again (faults: 16; contracts: C7).
    TombstoneStays,
    /// A peer that is ending moves no more, and one that has ended has nothing left (faults: 17).
    EndedIsSilent,
    /// A peer counts by the members that what it has applied has made (faults: 9, 10).
    ConfIsApplied,
    /// While a peer is dying its region id makes no peer, and its range goes to nobody (contracts: C7).
    DyingStaysAlone,
    /// A store has at most one peer of a region, the last that was made (faults: 16).
    OneLivePeer,
    /// A peer id is used once (faults: 16).
    PeerIdsUnique,
    /// A region id is used once (faults: 16, 28).
    RegionIdsUnique,
    /// After the start everything committed durably is applied (contracts: C5).
    ReplayBarrier,
    /// A restart replays no more than what came after the durable cut (contracts: C2).
    ReplayIsBounded,
    /// A flush comes in time: for the replay bound, for an admin change (contracts: C2).
    FlushInTime,
    /// No local read without a lease of the raft group (contracts: C16, C17).
    LeaseIsBacked,
    /// A store ends, or does not start, for bytes that rot, and answers nothing from them (faults: 26).
    RotIsRefused,
    /// On a store whose log disk stands still nobody serves by a lease (contracts: C14).
    StalledHasNoLease,
    /// A store that says it is PD has applied all that earlier leaders wrote (contracts: C20).
    PdHasCaughtUp,
    /// Timestamps rise strictly, over failovers, restarts and jumps of clocks, in the order in which
    /// they are given and in which they are asked for (faults: 27).
    TimestampsRise,
    /// A new PD opens its window of timestamps above everything given before (contracts: C20).
    WindowOpensAbove,
    /// PD gives an id once, and only below the bound that is committed (faults: 28; contracts: C20).
    IdsUnique,
    /// Ids rise from the PD of one term to that of the next, and from a region's peers to a new one: a peer
    /// with a lower id than its store has had could never be made (faults: 16; contracts: C33).
    IdsRise,
    /// A region that PD shows was real, and one PD shows no older one later (faults: 31).
    RoutesReal,
    /// No operator of PD takes a region below its number of replicas, puts two on one store, or takes
    /// its leader away (faults: 29).
    OperatorsKeepReplicas,
    /// Where nobody else meddles, PD's operators end, and with them every region has the replicas that
    /// it should have (faults: 30).
    PlanningConverges,
    /// A queue keeps within its limit (faults: 42).
    QueuesBounded,
    /// Nothing but a failing disk ends a store, or keeps it from starting.
    EndsByDiskOnly,
    /// When faults stop every region serves (faults: 44).
    ServesAgain,
    /// A latch is free once nobody uses it (contracts: C18).
    LatchesFree,
    /// At rest there are no files of received snapshots but those of open intents (contracts: C6).
    FilesInUse,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 70] = [
        Self::AcknowledgedIsApplied,
        Self::DefinitelyNotApplied,
        Self::AnsweredOnce,
        Self::AnsweredAtAll,
        Self::NothingAfterFailure,
        Self::LinearizableRead,
        Self::LinearizableWrite,
        Self::IndexedReads,
        Self::Sessions,
        Self::AnsweredInTime,
        Self::CallsEnd,
        Self::MajorityServes,
        Self::SecondOpinion,
        Self::AtomicSwap,
        Self::StateIsLog,
        Self::OwnKeys,
        Self::ServedAtItsEpoch,
        Self::AppliedIsPersisted,
        Self::AdminCommitDurable,
        Self::TruncatedIsDurable,
        Self::LaggardsAreSpared,
        Self::LogIsTrimmed,
        Self::DurableSurvives,
        Self::CrashIsPrefix,
        Self::LogIsWhole,
        Self::HardStateRises,
        Self::CommittedStays,
        Self::IndexesInOrder,
        Self::MergedOnce,
        Self::RegionsTile,
        Self::TopologyStays,
        Self::OneLeaderPerTerm,
        Self::OneVotePerTerm,
        Self::LogsMatch,
        Self::LeaderHasCommitted,
        Self::CommitByQuorum,
        Self::QuorumsMeet,
        Self::CampaignsSettled,
        Self::DurableBeforeSaid,
        Self::OneLease,
        Self::ReplicasAgree,
        Self::AckedSnapshotHasIntent,
        Self::IntentCoversState,
        Self::IntentHasFiles,
        Self::TombstoneStays,
        Self::EndedIsSilent,
        Self::ConfIsApplied,
        Self::DyingStaysAlone,
        Self::OneLivePeer,
        Self::PeerIdsUnique,
        Self::RegionIdsUnique,
        Self::ReplayBarrier,
        Self::ReplayIsBounded,
        Self::FlushInTime,
        Self::LeaseIsBacked,
        Self::RotIsRefused,
        Self::StalledHasNoLease,
        Self::PdHasCaughtUp,
        Self::TimestampsRise,
        Self::WindowOpensAbove,
        Self::IdsUnique,
        Self::IdsRise,
        Self::RoutesReal,
        Self::OperatorsKeepReplicas,
        Self::PlanningConverges,
        Self::QueuesBounded,
        Self::EndsByDiskOnly,
        Self::ServesAgain,
        Self::LatchesFree,
        Self::FilesInUse,
    ];
}

/// A rule that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.detail)
    }
}

/// Counters of all rules, and the first violation.
#[derive(Debug)]
pub struct Checks {
    /// By the rule's number: they are counted often.
    counts: [u64; Rule::ALL.len()],
    first: Option<Violation>,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            counts: [0; Rule::ALL.len()],
            first: None,
        }
    }
}

impl Checks {
    /// Counts a check of `rule`; the first that does not hold is kept with its detail.
    pub fn check(&mut self, rule: Rule, holds: bool, detail: impl FnOnce() -> String) {
        self.counts[rule as usize] += 1;
        if !holds && self.first.is_none() {
            self.first = Some(Violation {
                rule,
                detail: detail(),
            });
        }
    }

    /// The first violation.
    pub fn violation(&self) -> Option<&Violation> {
        self.first.as_ref()
    }

    /// How often each rule was checked, of those that were.
    pub fn counts(&self) -> BTreeMap<Rule, u64> {
        let counts = Rule::ALL
            .iter()
            .map(|rule| (*rule, self.counts[*rule as usize]));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_explained() {
        let docs = include_str!("../../docs/simulation.md");
        for rule in Rule::ALL {
            assert!(docs.contains(&format!("`{rule:?}`")), "{rule:?}");
        }
    }

    #[test]
    fn every_rule_is_in_the_list_once() {
        let mut numbers: Vec<usize> = Rule::ALL.iter().map(|rule| *rule as usize).collect();
        numbers.sort_unstable();
        let all: Vec<usize> = (0..Rule::ALL.len()).collect();
        assert_eq!(numbers, all);
    }
}
