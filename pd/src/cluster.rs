//! The frozen view that planners see.

use flotilla_pd_plan::{self as plan, Cluster, Rules, StoreState};
use flotilla_proto::metapb;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::genesis::{META_REGION, SENTINEL_REGION};
use crate::leading::Leading;
use crate::reply::Cx;
use crate::routes::Route;

impl Leading {
    /// A store's state from its row and its silence. A new PD counts silence from its first moment.
    pub(crate) fn store_state(&self, cx: &Cx<'_>, store: &metapb::Store) -> StoreState {
        let schedule = &self.settings.schedule;
        match metapb::StoreState::try_from(store.state) {
            Ok(metapb::StoreState::Tombstone) => return StoreState::Tombstone,
            Ok(metapb::StoreState::Offline) => return StoreState::Offline,
            _ => {}
        }
        let report = self.reports.get(&store.id);
        let silent = cx.now - report.map_or(self.since, |report| report.at);
        match () {
            () if silent >= schedule.max_store_down_time => StoreState::Down,
            () if report.is_none() || silent >= schedule.store_disconnected_after => {
                StoreState::Disconnected
            }
            () => StoreState::Up,
        }
    }

    /// All stores as they are now, with what running operators do to them.
    pub(crate) fn cluster(&self, cx: &Cx<'_>) -> Cluster {
        let schedule = &self.settings.schedule;
        let moves = self.operators.moves();
        let shifts = self.shifts();
        let store = |store: &metapb::Store| {
            let mut load = self.routes.load(store.id);
            if let Some(meta) = &self.meta {
                load.regions += u64::from(meta.region.peers.iter().any(|p| p.store_id == store.id));
                load.leaders += u64::from(meta.leader.is_some_and(|p| p.store_id == store.id));
            }
            let planned = self.routes.planned().load(store.id);
            let report = self.reports.get(&store.id);
            let stats = report.map(|report| &report.stats);
            let (adding, _) = moves.get(&store.id).copied().unwrap_or_default();
            let snapshots = stats.map_or(0, |stats| {
                stats
                    .receiving_snap_count
                    .saturating_add(stats.applying_snap_count)
            });
            let view = plan::Store {
                state: self.store_state(cx, store),
                capacity: stats.map_or(0, |stats| stats.capacity),
                available: stats.map_or(0, |stats| stats.available),
                regions: load.regions + adding as u64,
                leaders: load.leaders,
                busy: adding >= schedule.adding_max || snapshots >= schedule.snapshots_max,
                evicted: self.leaders_evicted(store.id),
                slow: self
                    .slow
                    .filter(|slow| *slow == store.id)
                    .map_or(0, |_| stats.map_or(1, |stats| stats.slow_score.max(1))),
                leads: shifts.leads(store.id, planned.leaders),
                weight: shifts.weight(store.id, planned.weight),
                labels: store
                    .labels
                    .iter()
                    .map(|label| (label.key.clone(), label.value.clone()))
                    .collect(),
            };
            (store.id, view)
        };
        Cluster {
            stores: self
                .durable
                .stores
                .values()
                .map(store)
                .collect::<BTreeMap<_, _>>(),
            rules: Rules {
                max_replicas: self.durable.cluster.max_peer_count as usize,
                max_store_down_time: schedule.max_store_down_time,
            },
            placement: Arc::clone(&self.placement),
        }
    }

    /// A store that stops, or is drained, is to lead nothing.
    pub(crate) fn leaders_evicted(&self, store: u64) -> bool {
        let report = self.reports.get(&store);
        self.evicted.contains(&store)
            || self.slow == Some(store)
            || report.is_some_and(|report| report.stats.is_stopping)
    }

    /// What is known of a region, the meta region included.
    pub(crate) fn route(&self, id: u64) -> Option<&Route> {
        if id == META_REGION {
            self.meta.as_ref()
        } else {
            self.routes.get(id)
        }
    }
}

impl Route {
    /// The region as planners see it.
    pub(crate) fn for_planning(&self) -> plan::Region {
        let down = self
            .down_peers
            .iter()
            .filter_map(|down| Some((down.peer?.id, Duration::from_secs(down.down_seconds))));
        plan::Region {
            id: self.region.id,
            meta: self.region.id == META_REGION,
            epoch: self.epoch(),
            peers: self.region.peers.clone(),
            leader: self.leader.map(|leader| leader.store_id),
            pending: self.pending_peers.iter().map(|peer| peer.id).collect(),
            down: down.collect(),
            size: self.approximate_size,
            fixed: self.region.id == SENTINEL_REGION,
            start: self.region.start_key.clone(),
            end: self.region.end_key.clone(),
            keys: self.approximate_keys,
            flow: self.flow,
            born: self.born,
        }
    }
}
