//! What stores tell PD and ask it, and who leads as the simulator sees it.

use flotilla_proto::metapb::{Peer, Region};
use flotilla_raftstore::PeerInput;
use flotilla_raftstore::effects::PdTask;

use super::{Event, Phase, Sim};
use crate::net::Place;
use crate::store::LifeId;

impl Sim {
    // ---- PD ----

    pub(super) fn pd_asked(&mut self, id: LifeId, task: PdTask) {
        let way = (Place::Store(id.store), Place::Pd);
        let cut = self.net.is_cut(way) || self.net.is_cut((way.1, way.0));
        match task {
            PdTask::RegionHeartbeat {
                region,
                leader,
                term,
                ..
            } => {
                self.reported(id, std::slice::from_ref(&region), cut);
                if !cut {
                    self.pd.leads(region.id, leader, term);
                }
            }
            PdTask::ReportSplit { regions } => self.reported(id, &regions, cut),
            PdTask::StoreHeartbeat { .. } => {}
            PdTask::AskRegion { region } => {
                let known = self.pd.regions().find(|known| known.id == region);
                if let Some(region) = known.filter(|_| !cut).cloned() {
                    let wait = self.rng.micros(0..=2_000);
                    let (life, id) = (id, region.id);
                    let event = Event::Pd {
                        life,
                        region: id,
                        input: Box::new(PeerInput::Current { region }),
                    };
                    self.events.at(self.now() + wait, event);
                }
            }
            PdTask::AskSplit {
                region,
                epoch,
                keys,
                answer,
            } => {
                let faulty = self.phase == Phase::Run;
                let fails = faulty && self.fault_rng.chance(self.world.faults.pd_fails);
                let ids = if cut || fails {
                    self.probe("split: PD failed");
                    Err("PD has no leader".to_owned())
                } else {
                    Ok(self.pd.new_ids(&region, keys.len()))
                };
                let late = faulty && self.fault_rng.chance(self.world.faults.pd_late);
                let wait = if late || cut {
                    self.rng.micros(0..=2_000_000)
                } else {
                    self.rng.micros(0..=2_000)
                };
                self.note(format_args!(
                    "PD: ids for region {}, {} parts: {ids:?} in {wait:?}",
                    region.id,
                    keys.len()
                ));
                let input = Box::new(PeerInput::SplitIds {
                    epoch,
                    keys,
                    ids,
                    answer,
                });
                let (life, region) = (id, region.id);
                let event = Event::Pd {
                    life,
                    region,
                    input,
                };
                self.events.at(self.now() + wait, event);
            }
        }
    }

    /// What leaves a store was shown, whether or not it arrives.
    fn reported(&mut self, id: LifeId, regions: &[Region], cut: bool) {
        for region in regions {
            self.oracle.lock().show(id.store, region);
            if !cut {
                self.pd.told(region);
            }
        }
    }

    // ---- leaders ----

    /// The peer that leads `region` in the newest term, with the process that runs it.
    pub(super) fn leader_of(&self, region: u64) -> Option<(LifeId, Peer)> {
        let mut newest: Option<(u64, LifeId, Peer)> = None;
        for life in self.nodes.values().filter_map(|node| node.life.as_ref()) {
            life.look_at(region, |peer| {
                let term = peer.raft().term();
                let newer = newest.is_none_or(|(other, ..)| other < term);
                if peer.is_leader() && newer {
                    let own = |member: &&Peer| member.id == peer.raft().id();
                    let member = peer.region().peers.iter().find(own);
                    newest = Some((term, life.id, member.copied().unwrap_or_default()));
                }
            });
        }
        newest.map(|(_, life, peer)| (life, peer))
    }

    /// Where somebody acts who believes to know the leader: mostly there, now and then elsewhere.
    pub(super) fn about_where(&mut self, region: u64) -> Option<LifeId> {
        let leader = self.leader_of(region).map(|(life, _)| life);
        let running: Vec<LifeId> = self
            .nodes
            .values()
            .filter_map(|node| node.life.as_ref().map(|life| life.id))
            .collect();
        let astray = leader.is_none() || self.rng.chance(150);
        let anybody = (!running.is_empty()).then(|| *self.rng.pick(&running));
        if astray { anybody } else { leader }
    }

    /// The process leads some region, and may serve local reads there.
    pub(super) fn leads_with_lease(&self, id: LifeId) -> bool {
        let now = self.nodes[&id.store].clock.mono(self.now());
        let mut leads = false;
        if let Some(life) = self.life(id.store) {
            life.look_at_peers(|peer| {
                leads |= peer.raft().lease_until().is_some_and(|until| now < until);
            });
        }
        leads
    }
}
