//! Region heartbeats in, region look-ups out (wire, sections 3.4 and 3.6).
//!
//! Routes come from heartbeats, so a fresh leader has none, and after a split one half may be known
//! before the other. A look-up that meets such a hole waits for it to close, at most
//! [`PARKED_FOR`]: the stock Rust client gives up on the first "no region" it sees.

use std::collections::BTreeMap;

use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::Region;
use flotilla_proto::pdpb::{
    self, BatchScanRegionsRequest, BatchScanRegionsResponse, Error, ErrorType, GetRegionResponse,
    QueryRegionRequest, QueryRegionResponse, RegionHeartbeatRequest, RegionHeartbeatResponse,
    ResponseHeader, ScanRegionsRequest, ScanRegionsResponse,
};

use crate::call::{Request, Response, calls};
use crate::effect::{Effect, Event, RequestToken, StreamId};
use crate::genesis::META_REGION;
use crate::leading::Leading;
use crate::limits::{PARKED_FOR, PARKED_MAX, PEERS_MAX};
use crate::reply::{Answer, Cx, Refusal};
use crate::routes::{Report, Route, before_end};

/// A look-up that waits for a hole to close.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) token: RequestToken,
    request: Request,
    deadline: Mono,
}

/// What a look-up found.
struct Found<'a> {
    route: Option<&'a Route>,
    /// Nothing was found because part of the routes is missing.
    hole: bool,
}

impl Leading {
    /// A region's leader reports it.
    pub(crate) fn heartbeat(
        &mut self,
        cx: &mut Cx<'_>,
        stream: StreamId,
        heartbeat: RegionHeartbeatRequest,
    ) {
        let region_id = heartbeat.region.as_ref().map_or(0, |region| region.id);
        match self.check_heartbeat(heartbeat) {
            Ok(route) => {
                let store = route.leader.as_ref().map_or(0, |leader| leader.store_id);
                let newest = self.streams.entry(store).or_insert(stream);
                *newest = stream.max(*newest);
                // The meta region lies outside the key space (contracts: C30).
                if region_id != META_REGION {
                    self.reported(cx, route);
                } else if !self
                    .meta
                    .as_ref()
                    .is_some_and(|known| route.is_older(known))
                {
                    self.meta = Some(route);
                }
                self.advance_operator(cx, region_id);
            }
            Err(refusal) => {
                let (kind, message) = match refusal {
                    Refusal::Header(kind, message) => (kind, message),
                    Refusal::Status(status) => (ErrorType::Unknown, status.message),
                };
                let error = Error {
                    r#type: kind as i32,
                    message,
                };
                let instruction = RegionHeartbeatResponse {
                    header: Some(ResponseHeader {
                        cluster_id: cx.config.cluster_id,
                        error: Some(error),
                    }),
                    region_id,
                    ..RegionHeartbeatResponse::default()
                };
                let instruction = Box::new(instruction);
                cx.out.push(Effect::RegionInstruction {
                    stream,
                    instruction,
                });
            }
        }
    }

    /// Takes a route into the view and wakes those who waited for it.
    pub(crate) fn reported(&mut self, cx: &mut Cx<'_>, route: Route) {
        let reported = route.region.id;
        let (start, flows) = (route.region.start_key.clone(), route.flows());
        match self.routes.report(route, cx.now) {
            Report::Stale => {}
            Report::Conflict { known } => cx.event(Event::RegionConflict { reported, known }),
            Report::Taken { moved } => {
                self.heat.add(cx.wall, &start, flows, &self.routes);
                if !moved {
                    return;
                }
                self.serve_parked(cx);
                self.region_moved(cx, reported);
            }
        }
    }

    fn check_heartbeat(&self, heartbeat: RegionHeartbeatRequest) -> Answer<Route> {
        self.check_bootstrapped()?;
        let invalid = |why: &str| Refusal::unknown(format!("invalid region heartbeat: {why}"));
        let region = heartbeat
            .region
            .ok_or_else(|| invalid("it names no region"))?;
        let leader = heartbeat
            .leader
            .ok_or_else(|| invalid("it names no leader"))?;
        if region.id == 0 || region.region_epoch.is_none() {
            return Err(invalid("the region has no id or no epoch"));
        }
        if region.peers.len() > PEERS_MAX {
            return Err(invalid("the region has too many peers"));
        }
        let is_leader = |peer: &&flotilla_proto::metapb::Peer| {
            peer.id == leader.id && peer.store_id == leader.store_id
        };
        let Some(leader) = region.peers.iter().find(is_leader).copied() else {
            return Err(invalid("the leader is no peer of the region"));
        };
        if !before_end(&region.start_key, &region.end_key) {
            return Err(invalid("the region ends before it starts"));
        }
        self.live_store(leader.store_id)?;
        Ok(Route {
            region,
            leader: Some(leader),
            term: heartbeat.term,
            down_peers: heartbeat.down_peers,
            pending_peers: heartbeat.pending_peers,
            bytes_written: heartbeat.bytes_written,
            bytes_read: heartbeat.bytes_read,
            keys_written: heartbeat.keys_written,
            keys_read: heartbeat.keys_read,
            approximate_size: heartbeat.approximate_size,
            approximate_keys: heartbeat.approximate_keys,
            queries: heartbeat.query_stats.as_ref().map_or([0, 0], queries),
            ..Route::default()
        })
    }

    /// `GetRegion`, `GetPrevRegion`, `GetRegionByID`.
    pub(crate) fn look_up(&mut self, cx: &mut Cx<'_>, token: RequestToken, request: Request) {
        let (response, hole) = self.looked_up(cx, &request);
        if hole && self.parked.len() < PARKED_MAX {
            let deadline = cx.now + PARKED_FOR;
            self.parked.push(Parked {
                token,
                request,
                deadline,
            });
        } else {
            cx.answer(token, response);
        }
    }

    /// Answers the look-ups that wait no more.
    pub(crate) fn serve_parked(&mut self, cx: &mut Cx<'_>) {
        let parked = std::mem::take(&mut self.parked);
        for waiting in parked {
            let (response, hole) = self.looked_up(cx, &waiting.request);
            if hole && cx.now < waiting.deadline {
                self.parked.push(waiting);
            } else {
                cx.answer(waiting.token, response);
            }
        }
    }

    fn looked_up(&self, cx: &Cx<'_>, request: &Request) -> (Response, bool) {
        if let Err(refusal) = self.check_bootstrapped() {
            return (region_response(cx, request, Err(refusal)), false);
        }
        let found = match request {
            Request::GetRegion(request) => self.at(&request.region_key),
            Request::GetPrevRegion(request) => self.before(&request.region_key),
            Request::GetRegionByID(request) => self.by_id(request.region_id),
            _ => unreachable!("{} looks up no region", request.name()),
        };
        let hole = found.hole;
        (
            region_response(cx, request, Ok(get_region(found.route))),
            hole,
        )
    }

    fn at(&self, key: &[u8]) -> Found<'_> {
        let route = self.routes.find(key);
        Found {
            route,
            hole: route.is_none(),
        }
    }

    fn before(&self, key: &[u8]) -> Found<'_> {
        let Some(route) = self.routes.find(key) else {
            return Found {
                route: None,
                hole: true,
            };
        };
        let before = self.routes.before(route);
        Found {
            route: before,
            hole: before.is_none() && !route.region.start_key.is_empty(),
        }
    }

    fn by_id(&self, id: u64) -> Found<'_> {
        let route = self.route(id);
        Found {
            route,
            hole: route.is_none() && (id == META_REGION || self.routes.has_holes()),
        }
    }

    pub(crate) fn query_region(&self, request: &QueryRegionRequest) -> Answer<QueryRegionResponse> {
        self.check_bootstrapped()?;
        let mut regions_by_id = BTreeMap::new();
        let mut note = |route: Option<&Route>| {
            let route = route?;
            regions_by_id
                .entry(route.region.id)
                .or_insert_with(|| pdpb::RegionResponse {
                    region: Some(route.region.clone()),
                    leader: route.leader,
                    down_peers: route.down_peers.clone(),
                    pending_peers: route.pending_peers.clone(),
                    buckets: None,
                });
            Some(route.region.id)
        };
        let mut key_id_map = Vec::with_capacity(request.keys.len());
        for key in &request.keys {
            key_id_map.push(note(self.at(key).route).unwrap_or(0));
        }
        let mut prev_key_id_map = Vec::with_capacity(request.prev_keys.len());
        for key in &request.prev_keys {
            prev_key_id_map.push(note(self.before(key).route).unwrap_or(0));
        }
        for id in &request.ids {
            note(self.routes.get(*id));
        }
        Ok(QueryRegionResponse {
            key_id_map,
            prev_key_id_map,
            regions_by_id: regions_by_id.into_iter().collect(),
            ..QueryRegionResponse::default()
        })
    }

    pub(crate) fn scan_regions(&self, request: &ScanRegionsRequest) -> Answer<ScanRegionsResponse> {
        self.check_bootstrapped()?;
        let regions: Vec<pdpb::Region> = self
            .routes
            .scan(&request.start_key, &request.end_key)
            .take(limit(request.limit))
            .map(scanned)
            .collect();
        Ok(ScanRegionsResponse {
            region_metas: regions
                .iter()
                .filter_map(|region| region.region.clone())
                .collect(),
            leaders: regions.iter().filter_map(|region| region.leader).collect(),
            regions,
            ..ScanRegionsResponse::default()
        })
    }

    pub(crate) fn batch_scan_regions(
        &self,
        request: &BatchScanRegionsRequest,
    ) -> Answer<BatchScanRegionsResponse> {
        self.check_bootstrapped()?;
        check_ranges(&request.ranges)?;
        let limit = limit(request.limit);
        let mut regions: Vec<pdpb::Region> = Vec::new();
        for range in &request.ranges {
            let mut reached = Some(&range.start_key);
            for route in self.routes.scan(&range.start_key, &range.end_key) {
                if regions.len() >= limit {
                    break;
                }
                let Region {
                    id,
                    start_key,
                    end_key,
                    ..
                } = &route.region;
                if request.contain_all_key_range
                    && reached.is_none_or(|reached| *start_key > *reached)
                {
                    return Err(hole_in_ranges());
                }
                reached = (!end_key.is_empty()).then_some(end_key);
                // Neighbouring ranges may end and start inside one region.
                let last = regions.last().and_then(|last| last.region.as_ref());
                if last.is_none_or(|last| last.id != *id) {
                    regions.push(scanned(route));
                }
            }
            let covered = reached.is_none_or(|reached| !before_end(reached, &range.end_key));
            if request.contain_all_key_range && !covered && regions.len() < limit {
                return Err(hole_in_ranges());
            }
        }
        Ok(BatchScanRegionsResponse {
            regions,
            ..BatchScanRegionsResponse::default()
        })
    }
}

/// Reads and writes of a heartbeat's counters.
fn queries(stats: &pdpb::QueryStats) -> [u64; 2] {
    let reads = [stats.get, stats.scan, stats.coprocessor];
    let writes = [
        stats.put,
        stats.delete,
        stats.delete_range,
        stats.prewrite,
        stats.commit,
        stats.rollback,
    ];
    [reads.iter().sum(), writes.iter().sum()]
}

fn region_response(cx: &Cx<'_>, request: &Request, result: Answer<GetRegionResponse>) -> Response {
    match request {
        Request::GetPrevRegion(_) => cx.response::<calls::GetPrevRegion>(result),
        Request::GetRegionByID(_) => cx.response::<calls::GetRegionByID>(result),
        _ => cx.response::<calls::GetRegion>(result),
    }
}

fn get_region(route: Option<&Route>) -> GetRegionResponse {
    let Some(route) = route else {
        return GetRegionResponse::default();
    };
    GetRegionResponse {
        region: Some(route.region.clone()),
        leader: route.leader,
        down_peers: route.down_peers.clone(),
        pending_peers: route.pending_peers.clone(),
        ..GetRegionResponse::default()
    }
}

fn scanned(route: &Route) -> pdpb::Region {
    pdpb::Region {
        region: Some(route.region.clone()),
        leader: Some(route.leader.unwrap_or_default()),
        down_peers: route.down_peers.clone(),
        pending_peers: route.pending_peers.clone(),
        buckets: None,
    }
}

fn limit(asked: i32) -> usize {
    match usize::try_from(asked) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(limit) => limit,
    }
}

/// Sorted and not overlapping, each start at or before its end.
fn check_ranges(ranges: &[pdpb::KeyRange]) -> Answer<()> {
    for range in ranges {
        if !range.end_key.is_empty() && range.start_key > range.end_key {
            return Err(Refusal::unknown(
                "invalid key range: its start is behind its end",
            ));
        }
    }
    for pair in ranges.windows(2) {
        let end = &pair[0].end_key;
        if end.is_empty() || *end > pair[1].start_key {
            return Err(Refusal::unknown(
                "invalid key ranges: they overlap or are not in order",
            ));
        }
    }
    Ok(())
}

fn hole_in_ranges() -> Refusal {
    let text = "the regions known do not contain all of the key range".to_owned();
    Refusal::Header(ErrorType::RegionsNotContainAllKeyRange, text)
}
