//! What happens to regions, for whoever watches a store: told after the fact, and never waited for.

use std::time::Duration;

use flotilla_proto::metapb::Peer;

/// Something that happened to the peer of a region on this store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RegionEvent {
    /// The region.
    pub region: u64,
    /// What.
    pub what: Happened,
}

/// What happened, as the peer here sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variant says what its fields are")]
pub enum Happened {
    /// Another peer leads, or none is known to any more.
    LeaderChanged { leader: Option<Peer>, term: u64 },
    /// The term rose.
    TermChanged { term: u64 },
    /// The group has one more member.
    PeerAdded { peer: Peer },
    /// The group has one member less.
    PeerRemoved { peer: Peer },
    /// A snapshot for the peer with this id left, and was taken or not.
    SnapshotSent { peer: u64, taken: bool },
    /// A snapshot took the place of all that was here; the region is as of this index.
    SnapshotApplied { index: u64 },
    /// The leader was not heard of for half the shortest election time-out or longer, and then again.
    /// Were it twice as late, somebody else would campaign.
    HeartbeatLate { leader: Peer, silent: Duration },
}
