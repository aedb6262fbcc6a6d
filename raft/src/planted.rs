//! Planted bugs: each breaks one rule in one place, so that the network model can prove that it would
//! notice (fault model, section 4). Behind the feature `planted`, which a release build cannot have;
//! without it every question here is answered `false` at compile time.

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("the feature `planted` breaks raft on purpose; it is for tests only");

/// Whether this build can break rules. What serves users asserts that it cannot.
pub const PLANTED: bool = cfg!(feature = "planted");

/// A rule to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "planted"),
    expect(dead_code, unreachable_pub, reason = "only tests plant bugs")
)]
pub enum Planted {
    /// A vote leaves before it is durable.
    VoteNotPersisted,
    /// A candidate asks for votes before its own is durable.
    VoteRequestNotPersisted,
    /// A candidate counts its own vote before it is durable.
    OwnVoteNotPersisted,
    /// An append is acknowledged before it is durable.
    AckNotPersisted,
    /// A vote is given without comparing the logs.
    VoteWithoutLogCheck,
    /// An append is accepted without the check of the entry before it.
    AppendWithoutPrevCheck,
    /// Entries of older terms are committed by count.
    OldTermByCount,
    /// Only the incoming half of a joint configuration is asked.
    OneQuorumInJoint,
    /// A snapshot's configuration loses its outgoing half.
    SnapshotDropsOutgoing,
    /// Learners count like voters.
    LearnersCount,
    /// A second change of members is proposed before the first is applied.
    SecondConfChange,
    /// A change that is committed and not applied does not keep from campaigning.
    CampaignUnsettled,
    /// When a tail is cut, writes under way still count for the entries they held.
    StaleWriteCounts,
    /// Entries are handed out to apply before they are durable here.
    ApplyNotPersisted,
    /// An entry that is more than data is handed out before its commit is durable.
    AdminNotDurable,
    /// A read is answered without a confirmation round.
    ReadWithoutRound,
    /// A read is answered before the leader committed in its own term.
    ReadBeforeOwnTerm,
    /// An acknowledgement counts for the newest round, not for the one it names.
    AckOfAnyRound,
    /// The lease is counted from when a round was confirmed, not from when it was sent.
    LeaseFromReceipt,
    /// The lease is kept while leadership is handed over.
    LeaseInTransfer,
    /// A transfer that was given up is not declared void.
    TransferNotVoided,
    /// Votes are given to others right after a leader was heard of.
    NoLoyalty,
    /// A restart forgets that a vote was promised to a leader.
    RestartForgetsPromise,
    /// An acknowledgement outlives the term it was given in.
    AckOutlivesTerm,
    /// Votes do not say what their sender knows to be committed.
    VoteHidesCommit,
    /// A heartbeat's commit index goes beyond what the follower is known to hold.
    HeartbeatCommitUnmatched,
    /// After a restart a replica numbers its forwarded reads from the beginning.
    ReadNumbersRestart,
    /// A snapshot is sent to a peer that its configuration does not name.
    SnapshotOfOthers,
    /// A refused append counts for what was refused.
    RefusalCounts,
}

#[cfg(feature = "planted")]
impl Planted {
    /// Every one of them.
    pub const ALL: [Self; 29] = [
        Self::VoteNotPersisted,
        Self::VoteRequestNotPersisted,
        Self::OwnVoteNotPersisted,
        Self::AckNotPersisted,
        Self::VoteWithoutLogCheck,
        Self::AppendWithoutPrevCheck,
        Self::OldTermByCount,
        Self::OneQuorumInJoint,
        Self::SnapshotDropsOutgoing,
        Self::LearnersCount,
        Self::SecondConfChange,
        Self::CampaignUnsettled,
        Self::StaleWriteCounts,
        Self::ApplyNotPersisted,
        Self::AdminNotDurable,
        Self::ReadWithoutRound,
        Self::ReadBeforeOwnTerm,
        Self::AckOfAnyRound,
        Self::LeaseFromReceipt,
        Self::LeaseInTransfer,
        Self::TransferNotVoided,
        Self::NoLoyalty,
        Self::RestartForgetsPromise,
        Self::AckOutlivesTerm,
        Self::VoteHidesCommit,
        Self::HeartbeatCommitUnmatched,
        Self::ReadNumbersRestart,
        Self::SnapshotOfOthers,
        Self::RefusalCounts,
    ];
}

/// Which rule is broken in one replica, if any.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plant {
    #[cfg(feature = "planted")]
    pub(crate) rule: Option<Planted>,
}

impl Plant {
    /// Whether `rule` is to be broken.
    #[inline]
    pub(crate) fn breaks(self, rule: Planted) -> bool {
        #[cfg(feature = "planted")]
        return self.rule == Some(rule);
        #[cfg(not(feature = "planted"))]
        {
            let _ = rule;
            false
        }
    }
}
