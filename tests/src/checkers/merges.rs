//! What merges of regions make of the world, derived a second time, and what must hold of them
//! (contracts: C12, C21).

use flotilla_proto::metapb::{Region, RegionEpoch};
use flotilla_proto::store::{CommitMergeCommand, PrepareMergeCommand, RollbackMergeCommand};

use super::Oracle;
use super::model::{Applied, Line, Model};
use super::state::Touched;
use crate::rules::{Checks, Rule};

/// What a step of a merge did.
#[derive(Clone, Debug)]
pub enum Step {
    /// The region merges.
    Prepared {
        /// What it is now.
        region: Region,
        /// The index that every peer had.
        min_index: u64,
    },
    /// It stays what it is.
    RolledBack(Region),
    /// It has taken another one in.
    TookIn {
        /// What it is now.
        region: Region,
        /// What the other one was.
        source: Region,
    },
    /// It did not fit any more.
    Refused,
}

impl Oracle {
    /// A step of a merge is applied for the first time anywhere.
    pub(super) fn merge_applied(
        &mut self,
        region: u64,
        index: u64,
        step: Step,
        touched: &mut Touched,
    ) {
        touched.regions = true;
        match step {
            Step::Prepared { region: now, .. } => {
                self.note(format_args!(
                    "region {region} index {index}: merges, now {now:?}"
                ));
            }
            Step::RolledBack(now) => {
                self.note(format_args!(
                    "region {region} index {index}: its merge is rolled back, now {now:?}"
                ));
            }
            Step::TookIn {
                region: now,
                source,
            } => {
                self.note(format_args!(
                    "region {region} index {index}: takes in {source:?}, now {now:?}"
                ));
                touched.rows.extend(self.model.rows_of(&now));
            }
            Step::Refused => {
                self.note(format_args!(
                    "region {region} index {index}: a step of a merge is refused"
                ));
            }
        }
    }
}

impl Model {
    /// `region` with so much applied, and all that it was made of.
    pub(super) fn line(&self, region: u64, index: u64) -> Line {
        let mut line = Line::new();
        let mut links = vec![(region, index)];
        while let Some((region, index)) = links.pop() {
            let known = line.entry(region).or_insert(0);
            if index <= *known {
                continue;
            }
            *known = index;
            let Some(life) = self.regions.get(&region) else {
                continue;
            };
            links.extend(self.born(region));
            let took = life.took.iter().filter(|(at, ..)| *at <= index);
            links.extend(took.map(|(_, source, end)| (*source, *end)));
        }
        line
    }

    /// The region is a part of another by now: the entry that made it one.
    pub fn gone(&self, region: u64) -> Option<(u64, u64)> {
        self.regions.get(&region)?.gone
    }

    /// A region that is there though the one that has taken it in is there, too, and brought here by its
    /// log alone: `arrived` says up to where a snapshot has brought it.
    pub fn twice(&self, applied: &Applied, arrived: impl Fn(u64) -> u64) -> Option<String> {
        applied.keys().find_map(|id| {
            let (target, index) = self.gone(*id)?;
            let reached = *applied.get(&target)?;
            let twice = reached >= index && arrived(target) < index;
            twice.then(|| {
                format!("region {id} is there, region {target} is at {reached} and took it in at {index}")
            })
        })
    }

    pub(super) fn prepare(
        &mut self,
        shape: &Region,
        index: u64,
        command: &PrepareMergeCommand,
    ) -> Step {
        let target = command.target.clone().unwrap_or_default();
        let Some(life) = self.regions.get_mut(&shape.id) else {
            return Step::Refused;
        };
        let current = command.epoch == shape.region_epoch && life.merging.is_none();
        if !current || !beside(shape, &target) {
            return Step::Refused;
        }
        let epoch = shape.region_epoch.unwrap_or_default();
        let region = at(shape, epoch.version + 1, epoch.conf_ver + 1);
        life.merging = Some(index);
        life.shapes.push((index, region.clone()));
        Step::Prepared {
            region,
            min_index: command.min_index,
        }
    }

    pub(super) fn roll_back(
        &mut self,
        shape: &Region,
        index: u64,
        command: &RollbackMergeCommand,
        checks: &mut Checks,
    ) -> Step {
        let Some(life) = self.regions.get_mut(&shape.id) else {
            return Step::Refused;
        };
        let gone = life.gone;
        if life.merging.take_if(|at| *at == command.commit).is_none() {
            return Step::Refused;
        }
        checks.check(Rule::MergedOnce, gone.is_none(), || {
            format!(
                "region {} is rolled back and is a part of {gone:?}",
                shape.id
            )
        });
        let epoch = shape.region_epoch.unwrap_or_default();
        let region = at(shape, epoch.version + 1, epoch.conf_ver);
        life.shapes.push((index, region.clone()));
        Step::RolledBack(region)
    }

    pub(super) fn take_in(
        &mut self,
        shape: &Region,
        index: u64,
        command: &CommitMergeCommand,
        checks: &mut Checks,
    ) -> Step {
        let source = command.source.clone().unwrap_or_default();
        if command.epoch != shape.region_epoch || !beside(&source, shape) {
            return Step::Refused;
        }
        let known = self.regions.get(&source.id);
        let merging = known.is_some_and(|life| {
            life.merging == Some(command.commit)
                && life.gone.is_none()
                && life.shapes.last().map(|(_, shape)| shape) == Some(&source)
        });
        checks.check(Rule::MergedOnce, merging, || {
            format!(
                "region {} index {index} takes in {source:?} at {}, which is {known:?}",
                shape.id, command.commit
            )
        });
        let (own, other) = (
            shape.region_epoch.unwrap_or_default(),
            source.region_epoch.unwrap_or_default(),
        );
        let mut region = at(shape, own.version.max(other.version) + 1, own.conf_ver);
        if source.start_key < shape.start_key {
            region.start_key = source.start_key.clone();
        } else {
            region.end_key = source.end_key.clone();
        }
        if let Some(life) = self.regions.get_mut(&source.id) {
            life.gone = Some((shape.id, index));
        }
        if let Some(life) = self.regions.get_mut(&shape.id) {
            life.took.push((index, source.id, command.commit));
            life.shapes.push((index, region.clone()));
        }
        Step::TookIn { region, source }
    }
}

fn at(region: &Region, version: u64, conf_ver: u64) -> Region {
    Region {
        region_epoch: Some(RegionEpoch { version, conf_ver }),
        ..region.clone()
    }
}

/// Neighbours with peers on the same stores, all of them voters.
fn beside(one: &Region, other: &Region) -> bool {
    let stores = |region: &Region| {
        let mut stores: Vec<(u64, i32)> = region
            .peers
            .iter()
            .map(|peer| (peer.store_id, peer.role))
            .collect();
        stores.sort_unstable();
        stores
    };
    let meets =
        |left: &Region, right: &Region| !left.end_key.is_empty() && left.end_key == right.start_key;
    let voters = stores(one).iter().all(|(_, role)| *role == 0);
    (meets(one, other) || meets(other, one)) && voters && stores(one) == stores(other)
}
