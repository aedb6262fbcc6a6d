//! Going on after a majority of a region is lost for good (contracts: C37; design section 8).
//!
//! Three steps over stopped stores. Each survivor is opened, which brings every region up to its durable
//! commit, and says what it holds ([`inventory`]). From all of that one [`plan`] is made, which also says
//! what is lost. Then each survivor carries out its part of the plan ([`settle`], another opening,
//! [`force`]): the chosen replica of a region becomes its only voter, with a new term and an epoch above
//! all that the lost ones can have had. The replicas that were not chosen learn from it that they
//! are members no more.
//!
//! What a survivor's log holds behind its commit index stays, as far as it is data: it may have been
//! acknowledged. Changes of members and splits in there become empty entries: nobody can know whether they
//! happened, and they would bring back the lost ones.
//!
//! Keys that no survivor has belong to the region beside them from then on, empty: a cluster without them
//! would refuse them for ever.

mod force;
mod plan;

pub use force::{ForceError, force, settle};
pub use plan::{Choice, Damage, Plan, PlanError, Survivor, plan};

use flotilla_proto::metapb::{Peer, Region};

use crate::boot::Boot;
use crate::region::peer_on;

/// Where a log ends. Of two logs of a group the greater one holds everything that is committed in either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogEnd {
    /// The last entry's term.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// What a stopped store holds of a region.
#[derive(Clone, Debug, PartialEq)]
pub struct Replica {
    /// The descriptor as of the durable commit.
    pub region: Region,
    /// The store's peer.
    pub peer: Peer,
    /// The newest term that the peer has seen.
    pub term: u64,
    /// Durably committed, and applied.
    pub commit: u64,
    /// Where its log ends.
    pub last: LogEnd,
}

/// Everything that can be recovered from a store that was opened and does not run. Peers without data, and
/// those that have lost a snapshot, are not in it.
pub fn inventory(boot: &Boot, store: u64) -> Vec<Replica> {
    let replicas = boot.regions.iter().filter_map(|spawn| {
        let (region, raft) = (spawn.peer.region(), spawn.peer.raft());
        let peer = *peer_on(region, store).filter(|_| !spawn.peer.is_blank())?;
        let index = raft.last_index();
        Some(Replica {
            region: region.clone(),
            peer,
            term: raft.term(),
            commit: raft.commit(),
            last: LogEnd {
                term: raft.term_at(index).unwrap_or(0),
                index,
            },
        })
    });
    replicas.collect()
}
