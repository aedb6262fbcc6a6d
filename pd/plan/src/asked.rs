//! Operators that somebody asks for. They are held to the same rules as all others.

use flotilla_proto::metapb::PeerRole;
use rand_xoshiro::rand_core::Rng;

use crate::operator::{Kind, Operator, Reason, Step};
use crate::replicas::replace;
use crate::view::{Cluster, Health, Region, Unfit};

/// What somebody wants done to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variant says what its fields are")]
pub enum Asked {
    /// The peer on `to` leads.
    TransferLeader { to: u64 },
    /// One more voter.
    AddPeer { store: u64 },
    /// One peer less.
    RemovePeer { store: u64 },
    /// A voter goes elsewhere.
    MovePeer { from: u64, to: u64 },
    /// It becomes part of its neighbour: see [`crate::check_merge`], which sees both.
    Merge { target: u64 },
}

/// Why it is not done. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the text says what the fields are")]
pub enum Refusal {
    /// The region's leader reports every few seconds: try again.
    #[error("nobody is known to lead the region; try again when it has a leader")]
    NoLeader,
    /// It ends by itself: try again.
    #[error("a change of the region's members is under way; try again when it is through")]
    Joint,
    /// The caller's fault.
    #[error("the region has no {what} on store {store}")]
    NoPeer { what: &'static str, store: u64 },
    /// The caller's fault.
    #[error("the peer on store {store} leads already")]
    Leads { store: u64 },
    /// Try again, or choose another.
    #[error(
        "the peer on store {store} cannot lead now: it does not answer, lags behind, or its store is to have no leaders"
    )]
    CannotLead { store: u64 },
    /// Choose another store.
    #[error("store {store} gets no peer of the region: {why}")]
    Unfit { store: u64, why: Unfit },
    /// Choose another, or try again.
    #[error(
        "it does not merge into region {target}: both must be neighbours, no keyspace or rule may begin between them, all their replicas must be well, and no operator run on either"
    )]
    NoMerge { target: u64 },
    /// One more would be removed at once.
    #[error("the region has {voters} of {wanted} replicas: move one instead of adding one")]
    Enough { voters: usize, wanted: usize },
    /// One less would be added again at once, and the region be less safe meanwhile.
    #[error(
        "the region has {voters} replicas and needs {wanted}: move the one on store {store} instead of removing it"
    )]
    Needed {
        voters: usize,
        wanted: usize,
        store: u64,
    },
}

/// The operator for what somebody wants.
///
/// # Errors
/// See [`Refusal`].
pub fn asked(
    cluster: &Cluster,
    region: &Region,
    asked: Asked,
    rng: &mut impl Rng,
) -> Result<Operator, Refusal> {
    let leader = region.leader.ok_or(Refusal::NoLeader)?;
    if region.is_joint() {
        return Err(Refusal::Joint);
    }
    let voters = region.with_role(PeerRole::Voter).count();
    let wanted = cluster.voters_wanted(region);
    let role = |store: u64| region.on(store).map(|peer| peer.role());
    let voter = |store: u64| match role(store) {
        Some(PeerRole::Voter) => Ok(()),
        _ => Err(Refusal::NoPeer {
            what: "voter",
            store,
        }),
    };
    let fit = |store: u64| {
        let unfit = |why| Refusal::Unfit { store, why };
        cluster.takes_peer(store, region).map_err(unfit)
    };
    let (reason, steps) = match asked {
        Asked::TransferLeader { to: store } => {
            voter(store)?;
            let healthy = |peer| cluster.health(region, peer) == Health::Fine;
            let evicted = cluster.stores.get(&store).is_none_or(|at| at.evicted);
            if store == leader {
                return Err(Refusal::Leads { store });
            }
            if evicted || !region.on(store).is_some_and(healthy) {
                return Err(Refusal::CannotLead { store });
            }
            let steps = vec![Step::TransferLeader { store }];
            (Reason::AskedLeader { store }, steps)
        }
        Asked::AddPeer { .. } if voters >= wanted => {
            return Err(Refusal::Enough { voters, wanted });
        }
        Asked::AddPeer { store } => {
            fit(store)?;
            let steps = vec![Step::AddLearner { store }, Step::PromoteLearner { store }];
            (Reason::AskedAdd { store }, steps)
        }
        Asked::RemovePeer { store } => {
            let what = "peer";
            let role = role(store).ok_or(Refusal::NoPeer { what, store })?;
            let mut steps = Vec::new();
            if role == PeerRole::Voter {
                if voters <= wanted {
                    return Err(Refusal::Needed {
                        voters,
                        wanted,
                        store,
                    });
                }
                if store == leader {
                    let next = cluster.next_leader(region, &[store], rng);
                    let store = next.ok_or(Refusal::NoLeader)?;
                    steps.push(Step::TransferLeader { store });
                }
            }
            steps.push(Step::RemovePeer { store });
            (Reason::AskedRemove { store }, steps)
        }
        Asked::Merge { target } => return Err(Refusal::NoMerge { target }),
        Asked::MovePeer { from, to } => {
            voter(from)?;
            fit(to)?;
            let steps = replace(cluster, region, (from, to), rng);
            (Reason::AskedMove { from, to }, steps)
        }
    };
    Ok(region.operator(Kind::Admin, reason, steps))
}
