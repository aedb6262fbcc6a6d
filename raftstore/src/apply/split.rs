//! Applying a split: the parent and all children change in one state batch (contracts: C34).

use flotilla_engine::{DATA_CFS, StateOp};
use flotilla_proto::metapb::{Peer, Region, RegionEpoch};
use flotilla_proto::store::SplitCommand;

use super::Apply;
use crate::PROBE_TARGET;
use crate::effects::{ApplyEffects, ApplyReport, RegionChange};
use crate::planted::Planted;
use crate::region::{epoch, peer_on, strictly_inside};

impl Apply {
    /// Refused when the epoch moved since it was proposed; every replica decides alike.
    pub(super) fn apply_split(
        &mut self,
        index: u64,
        command: SplitCommand,
        report: &mut ApplyReport,
        effects: &mut ApplyEffects,
    ) {
        let mut command = command;
        if self.shared.plants(Planted::SplitOfOldEpoch) {
            command.epoch = self.region.region_epoch;
        }
        let Some((parent, children)) = divide(&self.region, &command) else {
            report.changes.push(RegionChange::SplitRefused { index });
            return;
        };
        let mut stillborn = Vec::new();
        for child in &children {
            let peer = peer_on(child, self.shared.store).map_or(0, |peer| peer.id);
            if !self.shared.seen.allows(child.id, peer) {
                tracing::trace!(target: PROBE_TARGET, "split: a child that had ended here before");
                stillborn.push(child.id);
                effects
                    .batch
                    .ops
                    .extend(DATA_CFS.map(|cf| StateOp::DeleteRange {
                        cf,
                        start: child.start_key.clone(),
                        end: child.end_key.clone(),
                    }));
                continue;
            }
            self.shared.seen.lives(child.id, peer);
            if let Some(lineage) = &self.lineage {
                self.shared.merged.learn(child.id, lineage);
            }
            effects.batch.ops.push(StateOp::PutRegion {
                record: self.shared.born(child.clone()),
            });
        }
        self.region = parent.clone();
        self.siblings.clone_from(&children);
        effects.batch.ops.push(StateOp::PutRegion {
            record: self.record(),
        });
        effects.batch.admin = true;
        report.changes.push(RegionChange::Split {
            index,
            parent,
            children,
            stillborn,
        });
    }
}

/// The parent, which keeps its id and the last range, and the regions before it, in key order.
/// `None` when the command does not fit the region as it is.
pub(crate) fn divide(region: &Region, command: &SplitCommand) -> Option<(Region, Vec<Region>)> {
    let current = epoch(region);
    if command.epoch != Some(current) || command.parts.is_empty() {
        return None;
    }
    let added = command.parts.len() as u64;
    let next = RegionEpoch {
        conf_ver: current.conf_ver,
        version: current.version + added,
    };
    let mut start = region.start_key.clone();
    let mut children = Vec::with_capacity(command.parts.len());
    for part in &command.parts {
        let fits = strictly_inside(region, &part.split_key)
            && part.split_key > start
            && part.peer_ids.len() == region.peers.len();
        if !fits {
            return None;
        }
        let peers = region.peers.iter().zip(&part.peer_ids);
        children.push(Region {
            id: part.region_id,
            start_key: std::mem::replace(&mut start, part.split_key.clone()),
            end_key: part.split_key.clone(),
            region_epoch: Some(next),
            peers: peers.map(|(peer, id)| Peer { id: *id, ..*peer }).collect(),
            ..Region::default()
        });
    }
    let parent = Region {
        start_key: start,
        region_epoch: Some(next),
        ..region.clone()
    };
    Some((parent, children))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_proto::store::SplitPart;

    fn region() -> Region {
        let peers = [(4, 1), (8, 2)].map(|(id, store_id)| Peer {
            id,
            store_id,
            ..Peer::default()
        });
        Region {
            id: 3,
            start_key: "b".into(),
            end_key: "m".into(),
            region_epoch: Some(RegionEpoch {
                conf_ver: 2,
                version: 7,
            }),
            peers: peers.to_vec(),
            ..Region::default()
        }
    }

    fn command(keys: &[&'static str]) -> SplitCommand {
        let parts = (0u64..).zip(keys).map(|(nth, key)| SplitPart {
            split_key: (*key).into(),
            region_id: 100 + nth * 10,
            peer_ids: vec![101 + nth * 10, 102 + nth * 10],
        });
        SplitCommand {
            epoch: region().region_epoch,
            parts: parts.collect(),
        }
    }

    #[test]
    fn the_last_range_keeps_the_id_and_all_parts_share_the_new_epoch() {
        let (parent, children) = divide(&region(), &command(&["d", "g"])).expect("it fits");
        let shape = |r: &Region| {
            let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
            let ids: Vec<u64> = r.peers.iter().map(|peer| peer.id).collect();
            (
                r.id,
                text(&r.start_key),
                text(&r.end_key),
                epoch(r).version,
                epoch(r).conf_ver,
                ids,
            )
        };
        assert_eq!(
            shape(&children[0]),
            (100, "b".into(), "d".into(), 9, 2, vec![101, 102])
        );
        assert_eq!(
            shape(&children[1]),
            (110, "d".into(), "g".into(), 9, 2, vec![111, 112])
        );
        assert_eq!(
            shape(&parent),
            (3, "g".into(), "m".into(), 9, 2, vec![4, 8])
        );
    }

    #[test]
    fn a_command_that_does_not_fit_is_refused() {
        for keys in [&[][..], &["b"], &["m"], &["z"], &["d", "d"], &["g", "d"]] {
            assert_eq!(divide(&region(), &command(keys)), None, "{keys:?}");
        }
        let mut stale = command(&["d"]);
        stale.epoch = Some(RegionEpoch {
            conf_ver: 2,
            version: 6,
        });
        assert_eq!(divide(&region(), &stale), None, "an older epoch");
        let mut short = command(&["d"]);
        short.parts[0].peer_ids.pop();
        assert_eq!(divide(&region(), &short), None, "a peer without an id");
    }
}
