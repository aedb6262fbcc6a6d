//! Planted bugs: each breaks one rule in one place, so that the simulator can prove that it would
//! notice (fault model, section 4). Behind the feature `planted`, which a release build cannot have;
//! without it every question here is answered `false` at compile time.

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("the feature `planted` breaks the store on purpose; it is for tests only");

/// Whether this build can break rules. What serves users asserts that it cannot.
pub const PLANTED: bool = cfg!(feature = "planted") || flotilla_raft::PLANTED;

/// A rule to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "planted"),
    expect(unreachable_pub, reason = "only tests plant bugs")
)]
pub enum Planted {
    /// A snapshot is acknowledged before its intent is durable (contracts: C6).
    AckBeforeIntent,
    /// A snapshot's intent goes before its state survives a crash (contracts: C6).
    IntentRemovedEarly,
    /// A start does not install again what a crash has undone (contracts: C6).
    IntentIgnoredAtStart,
    /// Rows of a snapshot come on top of those that were there.
    InstallKeepsOldRows,
    /// What was committed behind a snapshot is applied before it is in place.
    InstallBehindCommitted,
    /// A snapshot is taken for a range that another region has (contracts: C35).
    OverlapUnchecked,
    /// A region id makes a peer again before the tombstone of the last one is durable (contracts: C7).
    ReusedWhileDying,
    /// A peer that has ended is made again by a message (contracts: C33).
    EndedPeerReturns,
    /// A peer that ends leaves no tombstone (contracts: C7).
    NoTombstone,
    /// The log of a peer that ended goes before its tombstone survives a crash (contracts: C7).
    LogClearedEarly,
    /// A child forgets what its peer had voted before it was born (contracts: C34).
    BlankForgetsVote,
    /// A replayed split gives a child an empty log again (contracts: C34).
    ChildForgetsLog,
    /// Entries are written without the commit index that came with them (contracts: C4 i).
    CommitNotStored,
    /// The applied index is written before what it covers (design, rule 3).
    AppliedBeforeData,
    /// The log is truncated up to what is applied, durable or not (contracts: C11).
    TruncateUndurable,
    /// The log is truncated whoever still needs it (contracts: C11).
    TruncateUnasked,
    /// Who follows truncates nothing (contracts: C11).
    FollowersKeepLogs,
    /// A write is applied though its range has changed (design, rule 4).
    EpochUncheckedAtApply,
    /// A request is taken whatever its epoch says (contracts: C21).
    EpochUncheckedAtPropose,
    /// The lease goes on while a committed split is on its way through apply (contracts: C16).
    LeaseOverSplit,
    /// A door stays open with its lease when its peer steps down (contracts: C17).
    LeaseOutlivesLeader,
    /// A local read is not held against the door again (contracts: C17).
    ReadUnconfirmed,
    /// A read is answered before its index is applied.
    ReadBeforeApplied,
    /// What is in the log and not decided is answered as not applied (contracts: C22).
    UnknownAsRefused,
    /// What stays undecided for too long is never answered (contracts: C22).
    UndecidedForgotten,
    /// A write is acknowledged when it is committed, applied or not.
    AnsweredBeforeApplied,
    /// A split is applied though the region was split since it was proposed.
    SplitOfOldEpoch,
    /// A peer that is ending goes on with what it hears (contracts: C7).
    EndingPeerActs,
    /// A change of the members is applied to the region and not to the raft group.
    MembersUncounted,
    /// A snapshot takes the place of a log that alone remembers a split (contracts: C5, C6).
    SnapshotOverSplit,
    /// The files of an installed snapshot go before the intent of the next one is durable (contracts: C6).
    FilesGoneBeforeIntent,
    /// The files of a snapshot that was received and not wanted stay.
    UnwantedFilesStay,
    /// A permit to read counts though the region has changed since it was given (contracts: C17).
    PermitOutlivesChange,
    /// A peer is added though its region has one with a higher id (contracts: C33).
    LowerPeerId,
    /// Who was PD is not told that its store's peer of the meta region has ended (contracts: C20).
    EndedPdGoesOn,
    /// Whoever leads on a store whose log disk stands still goes on with its lease (contracts: C14).
    StallUnnoticed,
    /// A merge is rolled back because the target has no peer here (contracts: C12).
    RollbackOnAbsence,
    /// A merge is rolled back though few have seen the target move on (contracts: C12).
    RollbackWithoutQuorum,
    /// The log of a merging region is cut beyond what its merge may need (contracts: C12).
    MergeTruncates,
    /// A region is taken in without the entries that its peers may lack (contracts: C12).
    MergeWithoutEntries,
    /// A region is taken in though the target has moved on (contracts: C12, C21).
    MergeOfOldEpoch,
    /// The rows of a region go when it becomes a part of another (contracts: C8).
    SourceDataDeleted,
    /// The target has the new range before the source has its tombstone (contracts: C12).
    SourceStays,
    /// A region is taken in before its own log is applied (contracts: C12).
    SourceUnheard,
    /// A merging region goes on serving reads (contracts: C16).
    MergingServes,
    /// The members of a merging region change (contracts: C12).
    MembersOfMerging,
    /// A snapshot ends whatever region has its range, merged or not (contracts: C35).
    OverlapWithoutLineage,
}

#[cfg(feature = "planted")]
impl Planted {
    /// Every one of them.
    pub const ALL: [Self; 47] = [
        Self::AckBeforeIntent,
        Self::IntentRemovedEarly,
        Self::IntentIgnoredAtStart,
        Self::InstallKeepsOldRows,
        Self::InstallBehindCommitted,
        Self::OverlapUnchecked,
        Self::ReusedWhileDying,
        Self::EndedPeerReturns,
        Self::NoTombstone,
        Self::LogClearedEarly,
        Self::BlankForgetsVote,
        Self::ChildForgetsLog,
        Self::CommitNotStored,
        Self::AppliedBeforeData,
        Self::TruncateUndurable,
        Self::TruncateUnasked,
        Self::FollowersKeepLogs,
        Self::EpochUncheckedAtApply,
        Self::EpochUncheckedAtPropose,
        Self::LeaseOverSplit,
        Self::LeaseOutlivesLeader,
        Self::ReadUnconfirmed,
        Self::ReadBeforeApplied,
        Self::UnknownAsRefused,
        Self::UndecidedForgotten,
        Self::AnsweredBeforeApplied,
        Self::SplitOfOldEpoch,
        Self::EndingPeerActs,
        Self::MembersUncounted,
        Self::SnapshotOverSplit,
        Self::FilesGoneBeforeIntent,
        Self::UnwantedFilesStay,
        Self::PermitOutlivesChange,
        Self::LowerPeerId,
        Self::EndedPdGoesOn,
        Self::StallUnnoticed,
        Self::RollbackOnAbsence,
        Self::RollbackWithoutQuorum,
        Self::MergeTruncates,
        Self::MergeWithoutEntries,
        Self::MergeOfOldEpoch,
        Self::SourceDataDeleted,
        Self::SourceStays,
        Self::SourceUnheard,
        Self::MergingServes,
        Self::MembersOfMerging,
        Self::OverlapWithoutLineage,
    ];
}

/// Which rules are broken in a store, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plant {
    /// One of the store's.
    #[cfg(feature = "planted")]
    pub store: Option<Planted>,
    /// One of the raft groups'.
    #[cfg(feature = "planted")]
    pub raft: Option<flotilla_raft::Planted>,
}

impl Plant {
    /// Whether `rule` is to be broken.
    #[inline]
    pub(crate) fn breaks(self, rule: Planted) -> bool {
        #[cfg(feature = "planted")]
        return self.store == Some(rule);
        #[cfg(not(feature = "planted"))]
        {
            let _ = rule;
            false
        }
    }
}
