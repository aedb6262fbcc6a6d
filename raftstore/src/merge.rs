//! Two regions become one: what may, and what comes out (contracts: C12, C21, C30).

use flotilla_proto::keys::SENTINEL_BOUNDARY;
use flotilla_proto::metapb::{Peer, PeerRole, Region, RegionEpoch};
use flotilla_proto::store::{Lineage, MergedRegion};

use crate::region::{META_REGION, epoch, peer_on};

/// A peer that lacks more entries than this keeps its region from merging: they travel in one entry of
/// the target's log.
pub const MERGE_LAG_ENTRIES_MAX: u64 = 1_024;

/// The same in payload bytes, roughly.
pub const MERGE_LAG_BYTES_MAX: u64 = 4 << 20;

/// Merges that a region remembers by name, its own and those of what went into it. They kill peers that
/// were away then; a peer that is away for longer asks.
pub(crate) const MERGES_KEPT_MAX: usize = 64;

/// Whether `source` may become a part of `target`, as both are. If not, why.
pub fn may_merge(source: &Region, target: &Region) -> Result<(), String> {
    for region in [source, target] {
        if region.id == META_REGION || region.start_key >= SENTINEL_BOUNDARY[..] {
            return Err(format!("region {} is never merged", region.id));
        }
        let voter = |peer: &Peer| peer.role() == PeerRole::Voter;
        if region.peers.is_empty() || !region.peers.iter().all(voter) {
            return Err(format!("region {} has peers that are no voters", region.id));
        }
    }
    let meets =
        |left: &Region, right: &Region| !left.end_key.is_empty() && left.end_key == right.start_key;
    let (one, other) = (source.id, target.id);
    if one == other || !(meets(source, target) || meets(target, source)) {
        return Err(format!("regions {one} and {other} are no neighbours"));
    }
    let together = |peer: &Peer| peer_on(target, peer.store_id).is_some();
    if source.peers.len() != target.peers.len() || !source.peers.iter().all(together) {
        return Err(format!("regions {one} and {other} are on different stores"));
    }
    Ok(())
}

/// The source from its prepare-merge on.
pub fn prepared(source: &Region) -> Region {
    with_epoch(source, |epoch| RegionEpoch {
        version: epoch.version + 1,
        conf_ver: epoch.conf_ver + 1,
    })
}

/// The source when its merge will not happen.
pub fn rolled_back(source: &Region) -> Region {
    with_epoch(source, |epoch| RegionEpoch {
        version: epoch.version + 1,
        ..epoch
    })
}

/// The target when it has taken the source in.
pub fn united(target: &Region, source: &Region) -> Region {
    let version = epoch(source).version.max(epoch(target).version) + 1;
    let before = source.start_key < target.start_key;
    let (first, last) = if before {
        (source, target)
    } else {
        (target, source)
    };
    Region {
        start_key: first.start_key.clone(),
        end_key: last.end_key.clone(),
        ..with_epoch(target, |epoch| RegionEpoch { version, ..epoch })
    }
}

fn with_epoch(region: &Region, change: impl FnOnce(RegionEpoch) -> RegionEpoch) -> Region {
    Region {
        region_epoch: Some(change(epoch(region))),
        ..region.clone()
    }
}

/// The epoch has moved beyond `named`: whatever was to happen at exactly that one will not.
pub(crate) fn is_beyond(current: RegionEpoch, named: RegionEpoch) -> bool {
    current.version > named.version || current.conf_ver > named.conf_ver
}

/// What `target` has taken in once it is `united` with `source`.
pub(crate) fn lineage(
    target: Option<&Lineage>,
    source: Option<&Lineage>,
    source_id: u64,
    united: &Region,
) -> Lineage {
    let both = target.into_iter().chain(source);
    let mut forgotten = both.clone().map(|lineage| lineage.forgotten).max();
    let mut merged: Vec<MergedRegion> = Vec::new();
    for entry in both.flat_map(|lineage| &lineage.merged) {
        if merged
            .iter()
            .all(|known| known.region_id != entry.region_id)
        {
            merged.push(entry.clone());
        }
    }
    merged.push(MergedRegion {
        region_id: source_id,
        into: united.id,
        into_version: epoch(united).version,
        into_peers: united.peers.clone(),
    });
    let extra = merged.len().saturating_sub(MERGES_KEPT_MAX);
    for gone in merged.drain(..extra) {
        forgotten = forgotten.max(Some(gone.into_version));
    }
    let forgotten = forgotten.unwrap_or(0);
    Lineage { merged, forgotten }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(id: u64, start: &'static str, end: &'static str, epoch: (u64, u64)) -> Region {
        let peer = |store_id| Peer {
            id: id * 10 + store_id,
            store_id,
            ..Peer::default()
        };
        Region {
            id,
            start_key: start.into(),
            end_key: end.into(),
            region_epoch: Some(RegionEpoch {
                version: epoch.0,
                conf_ver: epoch.1,
            }),
            peers: [1, 2, 3].map(peer).to_vec(),
            ..Region::default()
        }
    }

    #[test]
    fn neighbours_on_the_same_stores_merge() {
        let check = |change: &dyn Fn(&mut Region, &mut Region), expected: &str| {
            let (mut source, mut target) =
                (region(7, "b", "d", (1, 1)), region(9, "d", "f", (1, 1)));
            change(&mut source, &mut target);
            let found = may_merge(&source, &target).err().unwrap_or_default();
            assert!(
                found.contains(expected) && found.is_empty() == expected.is_empty(),
                "{found}"
            );
            let found = may_merge(&target, &source).err().unwrap_or_default();
            assert!(
                found.contains(expected) && found.is_empty() == expected.is_empty(),
                "{found}"
            );
        };
        check(&|_, _| {}, "");
        check(&|source, _| source.peers.reverse(), "");
        check(&|source, _| source.end_key = "c".into(), "no neighbours");
        check(&|source, _| source.id = 9, "no neighbours");
        check(&|source, _| source.id = META_REGION, "never merged");
        check(
            &|_, target| target.start_key = SENTINEL_BOUNDARY.to_vec().into(),
            "never merged",
        );
        check(&|source, _| source.peers.truncate(2), "different stores");
        check(
            &|_, target| target.peers[2].store_id = 4,
            "different stores",
        );
        let learner = PeerRole::Learner as i32;
        check(&|_, target| target.peers[2].role = learner, "no voters");
        // The ends of the key space do not meet.
        let ends = |source: &mut Region, target: &mut Region| {
            (source.start_key, target.end_key) = ("".into(), "".into());
            source.end_key = "c".into();
        };
        check(&ends, "no neighbours");
    }

    #[test]
    fn epochs_rise_and_ranges_add_up() {
        let (source, target) = (region(7, "b", "d", (8, 2)), region(9, "d", "f", (3, 5)));
        let shape = |region: &Region| {
            let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
            let (start, end) = (text(&region.start_key), text(&region.end_key));
            let epoch = epoch(region);
            format!(
                "{} {start}..{end} {}/{}",
                region.id, epoch.version, epoch.conf_ver
            )
        };
        let merging = prepared(&source);
        assert_eq!(shape(&merging), "7 b..d 9/3");
        assert_eq!(shape(&rolled_back(&merging)), "7 b..d 10/3");
        assert_eq!(shape(&united(&target, &merging)), "9 b..f 10/5");
        assert_eq!(shape(&united(&merging, &target)), "7 b..f 10/3");
    }

    #[test]
    fn a_lineage_holds_what_both_had_and_forgets_the_oldest_with_its_version() {
        let source = Lineage {
            merged: vec![MergedRegion {
                region_id: 4,
                into: 7,
                into_version: 5,
                ..MergedRegion::default()
            }],
            forgotten: 2,
        };
        let united = region(9, "b", "f", (10, 5));
        let after = lineage(None, Some(&source), 7, &united);
        let ids: Vec<u64> = after.merged.iter().map(|entry| entry.region_id).collect();
        assert_eq!((ids, after.forgotten), (vec![4, 7], 2));
        let mut long = after;
        for id in 0..MERGES_KEPT_MAX as u64 {
            long = lineage(Some(&long), None, 100 + id, &united);
        }
        assert_eq!(long.merged.len(), MERGES_KEPT_MAX);
        assert_eq!((long.merged[0].region_id, long.forgotten), (100, 10));
    }
}
