//! Operators: whoever splits, writes without a command, asks PD for changes, or meddles.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_engine::row;
use flotilla_pd::{Call as _, calls};
use flotilla_proto::metapb::{Cluster, Region};
use flotilla_proto::pdpb::{
    AllocIdRequest, PutClusterConfigRequest, ScanRegionsRequest, SplitRegionsRequest,
    UpdateGcSafePointRequest,
};
use flotilla_proto::store::{ColumnFamily, Mod, ModKind};
use flotilla_raftstore::region::{META_REGION, strictly_inside};
use flotilla_raftstore::{Answer, PeerInput, ReadContext};

use super::calls::{Asker, Purpose, header};
use super::{Event, Phase, Sim};
use crate::world::World;

/// How often keys are drawn for a split of one region.
const SPLIT_TRIES: usize = 4;

impl Sim {
    pub(super) fn operator_later(&mut self) {
        let wait = self.rng.micros(1_000..=300_000);
        self.events.at(self.now() + wait, Event::Operator);
    }

    pub(super) fn operator(&mut self) {
        // Slow worlds last longer, and must not get more regions than others for it.
        let most = self.world.operations.max(self.world.attempts_min / 4) / 2;
        let enough = self.meddled >= most;
        if self.phase != Phase::Run || enough || !self.world.operators {
            return;
        }
        self.meddled += 1;
        self.operator_later();
        if self.rng.chance(500) {
            self.look_at_regions();
        }
        if self.world.members && self.rng.chance(400) {
            return self.change_members();
        }
        if self.world.merges && self.rng.chance(250) {
            return self.merge_somewhere();
        }
        match self.rng.below(13) {
            0..=2 => self.split_somewhere(),
            3..=4 => self.use_pd(),
            5..=6 => self.write_as_tool(),
            7 => self.meddle(|_, _| PeerInput::Campaign),
            8 => self.meddle(|_, _| PeerInput::Report),
            12 => self.meddle(|_, _| PeerInput::HandOver),
            9..=10 => self.meddle(|sim, region| PeerInput::Transfer {
                to: sim.any_peer(region),
            }),
            _ => self.meddle(|sim, region| PeerInput::Unreachable {
                peer: sim.any_peer(region),
            }),
        }
    }

    /// A peer of the region, or now and then nobody's.
    fn any_peer(&mut self, region: &Region) -> u64 {
        if self.rng.chance(100) || region.peers.is_empty() {
            return 999;
        }
        self.rng.pick(&region.peers).id
    }

    pub(super) fn any_region(&mut self) -> Option<Region> {
        let regions = self.picture.0.values();
        let oracle = self.oracle.lock();
        let regions: Vec<Region> = regions
            .filter(|region| region.id != META_REGION)
            .filter(|region| oracle.model.gone(region.id).is_none())
            .cloned()
            .collect();
        drop(oracle);
        (!regions.is_empty()).then(|| self.rng.pick(&regions).clone())
    }

    /// A region is to become a part of its neighbour, on either side.
    fn merge_somewhere(&mut self) {
        let Some(source) = self.any_region() else {
            return;
        };
        let meets = |left: &Region, right: &Region| {
            !left.end_key.is_empty() && left.end_key == right.start_key
        };
        let targets: Vec<Region> = self
            .picture
            .0
            .values()
            .filter(|target| target.id != META_REGION)
            .filter(|target| meets(&source, target) || meets(target, &source))
            .cloned()
            .collect();
        if targets.is_empty() {
            return;
        }
        let target = self.rng.pick(&targets).clone();
        self.note(format_args!(
            "region {} is to become a part of region {}",
            source.id, target.id
        ));
        let Some(id) = self.about_where(source.id) else {
            return;
        };
        let input = PeerInput::Merge {
            epoch: source.region_epoch.unwrap_or_default(),
            target: Box::new(target),
            answer: Answer::new(|_| {}),
        };
        if let Some(life) = self.life(id.store) {
            life.runtime.to_peer(source.id, input);
        }
    }

    /// A split by request, in up to four parts.
    fn split_somewhere(&mut self) {
        let op = self.op();
        let keys = self.split_keys(op);
        let inside = |region: &Region| keys.iter().any(|key| strictly_inside(region, key));
        let home = self
            .picture
            .0
            .values()
            .find(|region| region.id != META_REGION && inside(region))
            .cloned();
        if let Some(region) = home.or_else(|| self.any_region()) {
            self.split_at(op, &region, keys);
        }
    }

    /// A split of this region, if a few tries find a key inside.
    pub(super) fn split_region(&mut self, region: Region) {
        for _ in 0..SPLIT_TRIES {
            let op = self.op();
            let keys = self.split_keys(op);
            if keys.iter().any(|key| strictly_inside(&region, key)) {
                return self.split_at(op, &region, keys);
            }
        }
    }

    fn split_keys(&mut self, op: u64) -> Vec<Bytes> {
        let count = self.rng.range(1..=3);
        let keys = (0..count).map(|nth| self.world.workload.split_key(op, nth, &mut self.rng));
        let mut keys: Vec<_> = keys.collect();
        keys.sort();
        keys
    }

    fn split_at(&mut self, op: u64, region: &Region, keys: Vec<Bytes>) {
        if self.oracle.lock().model.regions().count() > self.world.regions_max {
            return;
        }
        let context = self.rng.chance(700).then(|| ReadContext {
            region: region.id,
            epoch: region.region_epoch,
            ..ReadContext::default()
        });
        let Some(id) = self.about_where(region.id) else {
            return;
        };
        let around = self.around(id.store);
        let Some(life) = self.life(id.store) else {
            return;
        };
        around.oracle.lock().note(format_args!(
            "operation {op}: split region {} at {keys:?}",
            region.id
        ));
        let waiting = life.requests.len() > 1;
        life.split(op, context, region.id, keys, &around);
        if waiting {
            self.probe("split: while writes waited");
        }
        self.hear_answers(id);
    }

    /// The operator asks PD for all regions.
    pub(super) fn look_at_regions(&mut self) {
        let request = calls::ScanRegions::request(ScanRegionsRequest {
            header: header(),
            ..ScanRegionsRequest::default()
        });
        self.call_pd(Asker::Operator, request, Purpose::Regions);
    }

    /// PD is asked to change what it keeps in the meta region, for many ids, or to split.
    fn use_pd(&mut self) {
        // Where a store is lost the others must be enough for as many replicas.
        let replicas_max = match self.world.loses_a_store {
            true => 5.min(self.world.stores - 1),
            false => 5,
        };
        let request = match self.rng.below(5) {
            0 => calls::UpdateGCSafePoint::request(UpdateGcSafePointRequest {
                header: header(),
                safe_point: self.rng.any() >> 1,
            }),
            1 => calls::PutClusterConfig::request(PutClusterConfigRequest {
                header: header(),
                cluster: Some(Cluster {
                    id: World::CLUSTER,
                    max_peer_count: self.rng.range(1..=replicas_max) as u32,
                }),
            }),
            2..=3 => calls::AllocID::request(AllocIdRequest {
                header: header(),
                count: self.rng.log_range(1..=4_000) as u32,
            }),
            _ => {
                let enough = self.world.regions_max;
                if self.oracle.lock().model.regions().count() > enough {
                    return;
                }
                let op = self.op();
                calls::SplitRegions::request(SplitRegionsRequest {
                    header: header(),
                    split_keys: vec![self.world.workload.split_key(op, 0, &mut self.rng)],
                    retry_limit: self.rng.range(0..=3),
                })
            }
        };
        self.call_pd(Asker::Operator, request, Purpose::Nothing);
    }

    /// A tool writes to a region, with keys that may lie outside of it, all kinds of changes in one
    /// batch. Its column family is one that no compare-and-swap looks at.
    fn write_as_tool(&mut self) {
        let op = self.op();
        let Some(region) = self.any_region() else {
            return;
        };
        let count = self.rng.range(1..=3);
        let mods = (0..count).map(|nth| {
            let key = |sim: &mut Self| {
                sim.world
                    .mode
                    .physical(&sim.world.workload.any_key(&mut sim.rng))
            };
            let (one, other) = (key(self), key(self));
            let stored = row::encode(format!("{op}.{nth}").as_bytes(), None);
            let kind = *self
                .rng
                .pick(&[ModKind::Put, ModKind::Delete, ModKind::DeleteRange]);
            let (key, value) = match kind {
                ModKind::Put => (one, stored),
                ModKind::Delete => (one, Bytes::new()),
                // Also reversed, also unbounded.
                ModKind::DeleteRange if self.rng.chance(200) => (one, Bytes::new()),
                ModKind::DeleteRange => (one, other),
            };
            change(kind, ColumnFamily::CfWrite, key, value)
        });
        let mods = mods.collect();
        self.write_bare(op, &region, mods);
    }

    fn write_bare(&mut self, op: u64, region: &Region, mods: Vec<Mod>) {
        let Some(id) = self.about_where(region.id) else {
            return;
        };
        let around = self.around(id.store);
        let Some(life) = self.life(id.store) else {
            return;
        };
        around.oracle.lock().note(format_args!(
            "operation {op}: bare write to region {}: {mods:?}",
            region.id
        ));
        life.write_bare(op, region, mods, &around);
        self.hear_answers(id);
    }

    fn meddle(&mut self, make: impl FnOnce(&mut Self, &Region) -> PeerInput) {
        let Some(region) = self.any_region() else {
            return;
        };
        let input = make(self, &region);
        let (id, region) = (self.about_where(region.id), region.id);
        if let Some(life) = id.and_then(|id| self.life(id.store)) {
            life.runtime.to_peer(region, input);
        }
    }
}

/// What the operator knows of the regions.
#[derive(Debug, Default)]
pub(super) struct Picture(pub(super) BTreeMap<u64, Region>);

impl Picture {
    /// Somebody tells of a region; older news than known is dropped.
    pub(super) fn told(&mut self, region: &Region) {
        let version = |region: &Region| {
            let epoch = region.region_epoch.unwrap_or_default();
            (epoch.version, epoch.conf_ver)
        };
        let known = self.0.get(&region.id);
        if known.is_none_or(|known| version(known) <= version(region)) {
            self.0.insert(region.id, region.clone());
        }
    }
}

fn change(kind: ModKind, cf: ColumnFamily, key: Bytes, value: Bytes) -> Mod {
    Mod {
        kind: kind.into(),
        cf: cf.into(),
        key,
        value,
    }
}
