//! Regions: ranges, epochs, and the ids that every cluster starts with.

use flotilla_proto::metapb::{Peer, Region, RegionEpoch};
use flotilla_proto::raft::ConfState;

pub use flotilla_engine::META_REGION;
pub use flotilla_raft::{INITIAL_INDEX, INITIAL_TERM};

// The engine knows the birth of a log too, and must not know raft.
const _: () = assert!(
    flotilla_engine::BIRTH.index == INITIAL_INDEX && flotilla_engine::BIRTH.term == INITIAL_TERM
);

/// Whether `key` lies in [start, end) of `region`.
pub fn contains(region: &Region, key: &[u8]) -> bool {
    key >= &region.start_key[..] && (region.end_key.is_empty() || key < &region.end_key[..])
}

/// Whether `key` lies strictly inside: a split there leaves no empty region.
pub fn strictly_inside(region: &Region, key: &[u8]) -> bool {
    key > &region.start_key[..] && contains(region, key)
}

/// Whether two regions share a key.
pub fn overlap(one: &Region, other: &Region) -> bool {
    let before = |a: &Region, b: &Region| !a.end_key.is_empty() && a.end_key <= b.start_key;
    !before(one, other) && !before(other, one)
}

/// The region's epoch.
///
/// # Panics
/// If the descriptor has none; those made here always do.
pub fn epoch(region: &Region) -> RegionEpoch {
    region
        .region_epoch
        .expect("a region descriptor carries an epoch")
}

/// The peer of `region` on `store`.
pub fn peer_on(region: &Region, store: u64) -> Option<&Peer> {
    region.peers.iter().find(|peer| peer.store_id == store)
}

/// The raft configuration that a descriptor's peers and roles stand for.
pub fn conf_state(region: &Region) -> ConfState {
    use flotilla_proto::metapb::PeerRole;
    let mut conf = ConfState::default();
    let joint = region.peers.iter().any(|peer| {
        matches!(
            peer.role(),
            PeerRole::IncomingVoter | PeerRole::DemotingVoter
        )
    });
    // A descriptor does not say how a joint configuration is left: the leader does it by itself.
    conf.auto_leave = joint;
    for peer in &region.peers {
        match peer.role() {
            PeerRole::Voter => {
                conf.voters.push(peer.id);
                if joint {
                    conf.voters_outgoing.push(peer.id);
                }
            }
            PeerRole::Learner => conf.learners.push(peer.id),
            PeerRole::IncomingVoter => conf.voters.push(peer.id),
            PeerRole::DemotingVoter => {
                conf.voters_outgoing.push(peer.id);
                conf.learners_next.push(peer.id);
            }
        }
    }
    conf
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &'static str, end: &'static str) -> Region {
        Region {
            start_key: start.into(),
            end_key: end.into(),
            ..Region::default()
        }
    }

    #[test]
    fn ranges_are_half_open_and_an_empty_end_is_unbounded() {
        for (start, end, key, inside, strictly) in [
            ("", "", "", true, false),
            ("", "", "a", true, true),
            ("b", "d", "a", false, false),
            ("b", "d", "b", true, false),
            ("b", "d", "c", true, true),
            ("b", "d", "d", false, false),
            ("b", "", "z", true, true),
        ] {
            let region = range(start, end);
            assert_eq!(
                contains(&region, key.as_bytes()),
                inside,
                "{key} in [{start},{end})"
            );
            assert_eq!(
                strictly_inside(&region, key.as_bytes()),
                strictly,
                "{key} in ({start},{end})"
            );
        }
        for (a, b, c, d, expected) in [
            ("", "b", "b", "", false),
            ("", "c", "b", "", true),
            ("", "", "x", "y", true),
            ("x", "y", "y", "z", false),
            ("x", "", "a", "b", false),
        ] {
            assert_eq!(
                overlap(&range(a, b), &range(c, d)),
                expected,
                "[{a},{b}) [{c},{d})"
            );
            assert_eq!(
                overlap(&range(c, d), &range(a, b)),
                expected,
                "[{c},{d}) [{a},{b})"
            );
        }
    }
}
