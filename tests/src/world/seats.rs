//! Who sits where: the peers of the first regions.

use bytes::Bytes;
use flotilla_proto::metapb::{Peer, PeerRole, Region, RegionEpoch};

use crate::rng::Rng;

/// Stores that hold a first region's peers, at most.
const PEERS_MAX: usize = 5;
/// What sets the peer ids of different stores apart; above every first region's id.
const STORE_SPAN: u64 = 100;

/// A peer of a first region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The store.
    pub store: u64,
    /// It starts as a learner.
    pub learner: bool,
}

/// Seats for `regions` regions on so many stores: all of them up to five, and five of more, chosen
/// per region. Now and then one of them is a learner.
pub(super) fn draw(stores: u64, regions: usize, rng: &mut Rng) -> Vec<Vec<Seat>> {
    let learners = rng.chance(250);
    let region = |_| {
        let mut order: Vec<u64> = (1..=stores).collect();
        while order.len() > PEERS_MAX {
            order.remove(rng.below(order.len() as u64) as usize);
        }
        let mut seats: Vec<Seat> = order
            .into_iter()
            .map(|store| Seat {
                store,
                learner: false,
            })
            .collect();
        if learners && seats.len() > 1 && rng.chance(700) {
            let nth = rng.below(seats.len() as u64) as usize;
            seats[nth].learner = true;
        }
        seats
    };
    (0..regions).map(region).collect()
}

/// The descriptor of a first region. The first store's peers have the ids that every cluster starts
/// with (contracts: C30).
pub(super) fn region(id: u64, start: &[u8], end: &[u8], seats: &[Seat]) -> Region {
    assert!(id + 1 < STORE_SPAN, "the first regions are few");
    let peer = |seat: &Seat| Peer {
        id: match seat.store {
            1 => id + 1,
            store => store * STORE_SPAN + id + 1,
        },
        store_id: seat.store,
        role: match seat.learner {
            true => PeerRole::Learner.into(),
            false => PeerRole::Voter.into(),
        },
        ..Peer::default()
    };
    Region {
        id,
        start_key: Bytes::copy_from_slice(start),
        end_key: Bytes::copy_from_slice(end),
        region_epoch: Some(RegionEpoch {
            conf_ver: 1,
            version: 1,
        }),
        peers: seats.iter().map(peer).collect(),
        ..Region::default()
    }
}
