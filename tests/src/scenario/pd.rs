//! PD as a scenario wants it: it gives ids in order, and remembers what leaders showed it.

use std::collections::BTreeMap;

use flotilla_proto::metapb::Region;
use flotilla_raftstore::PeerInput;
use flotilla_raftstore::effects::{NewIds, PdTask};

use super::show;

/// The first id that is given out.
const FIRST_ID: u64 = 100;

/// PD, and what it has not answered yet.
#[derive(Debug)]
pub(super) struct Pd {
    next_id: u64,
    away: bool,
    known: BTreeMap<u64, Region>,
    waiting: Vec<(u64, PdTask)>,
}

impl Default for Pd {
    fn default() -> Self {
        Self {
            next_id: FIRST_ID,
            away: false,
            known: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }
}

/// What PD says to a peer, and how that is told.
pub(super) struct Reply {
    pub(super) store: u64,
    pub(super) region: u64,
    pub(super) input: PeerInput,
    pub(super) told: String,
}

impl Pd {
    pub(super) fn set_away(&mut self, away: bool) {
        self.away = away;
    }

    /// What a store says. Answers what is worth telling.
    pub(super) fn hear(&mut self, store: u64, task: PdTask) -> Option<String> {
        match task {
            PdTask::RegionHeartbeat(_) | PdTask::ReportSplit { .. } if self.away => None,
            PdTask::RegionHeartbeat(heartbeat) => {
                heartbeat
                    .region
                    .into_iter()
                    .for_each(|region| self.learn(region));
                None
            }
            PdTask::ReportSplit { regions } => {
                regions.into_iter().for_each(|region| self.learn(region));
                None
            }
            PdTask::AskSplit { ref region, .. } => {
                let told = format!("asks PD for ids to split region {}", region.id);
                self.waiting.push((store, task));
                Some(told)
            }
            PdTask::AskRegion { region } => {
                self.waiting.push((store, task));
                Some(format!("asks PD about region {region}"))
            }
            PdTask::StoreHeartbeat { .. } => None,
        }
    }

    /// Regions are known by their newest epoch.
    fn learn(&mut self, region: Region) {
        let age = |region: &Region| {
            let epoch = region.region_epoch.unwrap_or_default();
            (epoch.version, epoch.conf_ver)
        };
        let known = self.known.entry(region.id).or_default();
        if age(known) <= age(&region) {
            *known = region;
        }
    }

    pub(super) fn forget(&mut self, region: u64) {
        self.known.remove(&region);
    }

    pub(super) fn known(&self, region: u64) -> Option<&Region> {
        self.known.get(&region)
    }

    /// What it says of a region without being asked.
    pub(super) fn reply_about(&self, region: u64) -> Option<PeerInput> {
        let region = self.known.get(&region)?.clone();
        Some(PeerInput::Current { region })
    }

    /// Answers what waits.
    pub(super) fn answer(&mut self) -> Vec<Reply> {
        if self.away {
            return Vec::new();
        }
        let waiting = std::mem::take(&mut self.waiting);
        waiting
            .into_iter()
            .filter_map(|(store, task)| self.reply(store, task))
            .collect()
    }

    fn reply(&mut self, store: u64, task: PdTask) -> Option<Reply> {
        match task {
            PdTask::AskSplit {
                region,
                epoch,
                keys,
                answer,
            } => {
                let ids: Vec<NewIds> = keys.iter().map(|_| self.ids(region.peers.len())).collect();
                let told = show::list(&ids, |ids| {
                    let peers = show::list(&ids.peers, u64::to_string);
                    format!("region {} with peers {peers}", ids.region)
                });
                Some(Reply {
                    store,
                    region: region.id,
                    input: PeerInput::SplitIds {
                        epoch,
                        keys,
                        ids: Ok(ids),
                        answer,
                    },
                    told: format!("PD gives {told}"),
                })
            }
            PdTask::AskRegion { region } => {
                let current = self.known.get(&region)?.clone();
                let told = format!("PD knows region {region}: {}", show::region(&current));
                Some(Reply {
                    store,
                    region,
                    input: PeerInput::Current { region: current },
                    told,
                })
            }
            PdTask::RegionHeartbeat { .. }
            | PdTask::ReportSplit { .. }
            | PdTask::StoreHeartbeat { .. } => None,
        }
    }

    fn ids(&mut self, peers: usize) -> NewIds {
        let region = self.id();
        NewIds {
            region,
            peers: (0..peers).map(|_| self.id()).collect(),
        }
    }

    fn id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }
}
