//! What stores tell PD and ask it, what it answers, and who leads as the simulator sees it.

use flotilla_pd::{Call as _, Response, calls};
use flotilla_pd_client::Route;
use flotilla_proto::metapb::Peer;
use flotilla_proto::pdpb::{
    AskBatchSplitRequest, GetRegionByIdRequest, RegionHeartbeatRequest, ReportBatchSplitRequest,
    StoreHeartbeatRequest, StoreStats,
};
use flotilla_raftstore::PeerInput;
use flotilla_raftstore::effects::{NewIds, PdTask};

use super::Sim;
use super::calls::{Asker, Purpose, Said, header, put_store, told};
use super::reporter::shown;
use crate::store::LifeId;

/// What a store says of its disk: there is room enough.
const DISK_BYTES: u64 = 1 << 40;

impl Sim {
    // ---- PD ----

    /// What a store tells PD or asks it leaves the store.
    pub(super) fn pd_asked(&mut self, id: LifeId, task: PdTask) {
        for region in shown(&task) {
            self.oracle.lock().show(id.store, region);
        }
        let (request, purpose) = match task {
            PdTask::RegionHeartbeat(heartbeat) => {
                let region = heartbeat.region.as_ref().map_or(0, |region| region.id);
                let heartbeat = RegionHeartbeatRequest {
                    header: header(),
                    ..*heartbeat
                };
                return self.report(id, region, heartbeat);
            }
            PdTask::ReportSplit { regions } => {
                let request = calls::ReportBatchSplit::request(ReportBatchSplitRequest {
                    header: header(),
                    regions,
                });
                (request, Purpose::Nothing)
            }
            PdTask::StoreHeartbeat { regions, .. } => {
                let stats = StoreStats {
                    store_id: id.store,
                    region_count: u32::try_from(regions).unwrap_or(u32::MAX),
                    capacity: DISK_BYTES,
                    available: DISK_BYTES,
                    ..StoreStats::default()
                };
                let request = calls::StoreHeartbeat::request(StoreHeartbeatRequest {
                    header: header(),
                    stats: Some(stats),
                    ..StoreHeartbeatRequest::default()
                });
                (request, Purpose::Nothing)
            }
            PdTask::AskRegion { region } => {
                let request = calls::GetRegionByID::request(GetRegionByIdRequest {
                    header: header(),
                    region_id: region,
                    ..GetRegionByIdRequest::default()
                });
                (request, Purpose::Region(region))
            }
            PdTask::AskSplit {
                region,
                epoch,
                keys,
                answer,
            } => {
                let purpose = Purpose::Split {
                    region: region.id,
                    epoch,
                    answer,
                    keys: keys.clone(),
                };
                let request = calls::AskBatchSplit::request(AskBatchSplitRequest {
                    header: header(),
                    region: Some(region),
                    split_count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
                    ..AskBatchSplitRequest::default()
                });
                (request, purpose)
            }
        };
        self.call_pd(Asker::Store(id), request, purpose);
    }

    /// A store that has started makes itself known; then it reports.
    pub(super) fn register(&mut self, id: LifeId) {
        self.call_pd(Asker::Store(id), put_store(id.store), Purpose::Register);
    }

    /// A call is over: with an answer, or without one.
    pub(super) fn pd_told(&mut self, asker: Asker, purpose: Purpose, said: Option<Said>) {
        match purpose {
            Purpose::Nothing => {}
            Purpose::SafePoint => self.safe_point = safe_point(said),
            Purpose::Register => {
                let Asker::Store(id) = asker else { return };
                match told::<calls::PutStore>(said) {
                    Ok(_) => self.open_stream(id),
                    Err(_) => self.register(id),
                }
            }
            Purpose::Split {
                region,
                epoch,
                keys,
                answer,
            } => {
                let ids = told::<calls::AskBatchSplit>(said).map(|answer| {
                    let new = answer.ids.into_iter().map(|ids| NewIds {
                        region: ids.new_region_id,
                        peers: ids.new_peer_ids,
                    });
                    new.collect()
                });
                if ids.is_err() {
                    self.probe("split: PD failed");
                }
                let input = PeerInput::SplitIds {
                    epoch,
                    keys,
                    ids,
                    answer,
                };
                self.tell_peer(asker, region, input);
            }
            Purpose::Region(id) => {
                let answer = told::<calls::GetRegionByID>(said);
                if let Some(region) = answer.ok().and_then(|answer| answer.region) {
                    self.tell_peer(asker, id, PeerInput::Current { region });
                }
            }
            Purpose::Route(client) => self.route_heard(client, routes(said)),
            Purpose::Timestamps(known) => self.timestamps_heard(asker, known, said),
            Purpose::PeerId(wanted) => {
                if let Ok(answer) = told::<calls::AllocID>(said) {
                    self.change_with(wanted, answer.id);
                }
            }
            Purpose::Regions => {
                for route in routes(said) {
                    self.picture.told(&route.region);
                }
            }
        }
    }

    fn tell_peer(&mut self, asker: Asker, region: u64, input: PeerInput) {
        if let Asker::Store(id) = asker
            && let Some(life) = self.life(id.store).filter(|life| life.id == id)
        {
            life.runtime.to_peer(region, input);
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

/// The routes that PD tells of.
fn routes(said: Option<Said>) -> Vec<Route> {
    match &said {
        Some(Said::Call(flotilla_pd::Response::ScanRegions(_))) => {
            let regions = told::<calls::ScanRegions>(said).map_or(Vec::new(), |told| told.regions);
            let routes = regions.into_iter().filter_map(|route| {
                let region = route.region?;
                Some(Route::new(region, route.leader))
            });
            routes.collect()
        }
        _ => {
            let answer = told::<calls::GetRegion>(said).unwrap_or_default();
            let route = answer
                .region
                .map(|region| Route::new(region, answer.leader));
            route.into_iter().collect()
        }
    }
}

/// What PD says that it keeps; 0: it does not say.
fn safe_point(said: Option<Said>) -> u64 {
    match said {
        Some(Said::Call(Response::UpdateGCSafePoint(done))) => done.new_safe_point,
        Some(Said::Call(Response::GetGCSafePoint(found))) => found.safe_point,
        _ => 0,
    }
}
