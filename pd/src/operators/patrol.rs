//! Looking for something to do.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use flotilla_pd_plan::{
    Cluster, Kind, Look, MergeLimits, Operator, Reason, Step, check_leader, check_merge,
    check_replicas,
};
use flotilla_proto::keys::{KeyMode, keyspace_boundaries, leading_encoding};

use super::balance::evens_out;
use crate::genesis::META_REGION;
use crate::leading::Leading;
use crate::limits::{PATROL_REGIONS, SPLIT_ATTEMPTS};
use crate::reply::Cx;
use crate::splits::Wanted;

impl Leading {
    /// Looks at the meta region and at some others, in turn, and starts what they need.
    pub(crate) fn patrol(&mut self, cx: &mut Cx<'_>) {
        let regions = self.routes.patrol(self.operators.next, PATROL_REGIONS);
        let mut cluster = self.cluster(cx);
        self.split_by_rules(cx, &regions);
        let right: BTreeSet<u64> = {
            let look = Look::new(&cluster, self.routes.planned());
            let regions = regions.iter().copied();
            regions.filter(|region| look.is_right(*region)).collect()
        };
        for region in [META_REGION].into_iter().chain(regions) {
            let repairs = self.operators.count(|one| !evens_out(one));
            if repairs >= self.settings.schedule.operators_max {
                return;
            }
            let found = match right.contains(&region) {
                true => self.merge_of(cx, &cluster, region),
                false => self.look_at(&cluster, region),
            };
            if let Some(operator) = found {
                if !self.start_operator(cx, operator) {
                    return;
                }
                cluster = self.cluster(cx);
            }
            if region != META_REGION {
                self.operators.next = region + 1;
            }
        }
    }

    fn look_at(&mut self, cluster: &Cluster, region: u64) -> Option<Operator> {
        if self.operators.is_taken(region) {
            return None;
        }
        let view = self.route(region)?.for_planning();
        let rng = &mut self.operators.rng;
        let leads = |store: u64| cluster.stores.get(&store).map_or(0, |store| store.leaders);
        // PD moves with the leader of the meta region, and forgets what was to be done.
        let last = !view.meta || view.leader.map_or(0, leads) <= 1;
        let operator = check_replicas(cluster, &view, rng).or_else(|| {
            let leader = check_leader(cluster, &view, rng);
            leader.filter(|_| last)
        })?;
        self.admits(&operator).then_some(operator)
    }

    /// The merge of a region that needs nothing else.
    fn merge_of(&self, cx: &Cx<'_>, cluster: &Cluster, region: u64) -> Option<Operator> {
        let schedule = &self.settings.schedule;
        if schedule.merges_max == 0 || self.operators.is_taken(region) {
            return None;
        }
        let running = self.operators.count(|one| one.kind == Kind::Merge);
        if running >= schedule.merges_max {
            return None;
        }
        let limits = MergeLimits {
            bytes_max: schedule.merge_bytes_max,
            keys_max: schedule.merge_keys_max,
            rest: schedule.split_rest,
            now: cx.now,
            only: None,
            fence: &|key| self.is_fence(key),
        };
        // Neighbours that nobody merges need not be asked who is taken.
        check_merge(
            cluster,
            self.routes.planned(),
            region,
            &BTreeSet::new(),
            &limits,
        )?;
        let taken = self.operators.taken();
        let merge = check_merge(cluster, self.routes.planned(), region, &taken, &limits)?;
        self.admits(&merge).then_some(merge)
    }

    /// Region `id` into its neighbour `target`, because somebody wants it: whatever they weigh.
    pub(super) fn merge_asked(
        &self,
        cx: &Cx<'_>,
        cluster: &Cluster,
        id: u64,
        target: u64,
    ) -> Option<Operator> {
        let limits = MergeLimits {
            bytes_max: u64::MAX,
            keys_max: u64::MAX,
            rest: Duration::ZERO,
            now: cx.now,
            only: Some(target),
            fence: &|key| self.is_fence(key),
        };
        let taken = self.operators.taken();
        let merge = check_merge(cluster, self.routes.planned(), id, &taken, &limits)?;
        let reason = Reason::AskedMerge { target };
        Some(Operator { reason, ..merge })
    }

    /// A keyspace begins or ends at `key`.
    fn is_fence(&self, key: &Bytes) -> bool {
        let encoded = self.durable.cluster.mode() == Some(KeyMode::Encoded);
        let mut ids = self.durable.keyspaces.keys();
        encoded && ids.any(|id| keyspace_boundaries(*id).contains(key))
    }

    /// One of `regions` has keys for which different rules hold: it is split there.
    fn split_by_rules(&mut self, cx: &mut Cx<'_>, regions: &[u64]) {
        if self.splits.runs_for_rules() || self.splits.full() {
            return;
        }
        let mode = self.durable.cluster.mode();
        let can = |key: &&Bytes| match mode {
            None => false,
            Some(KeyMode::Plain) => true,
            Some(KeyMode::Encoded) => leading_encoding(key) == Some(key.len()),
        };
        let key = regions.iter().find_map(|region| {
            let region = &self.routes.get(*region)?.region;
            let key = self.placement.boundary(&region.start_key, &region.end_key);
            key.filter(can).cloned()
        });
        if let Some(key) = key {
            let attempts = Some(SPLIT_ATTEMPTS);
            self.start_split(cx, Wanted::Rules, BTreeSet::from([key]), attempts);
        }
    }

    /// Its stores take part in fewer moves than they may.
    pub(super) fn admits(&self, operator: &Operator) -> bool {
        let schedule = &self.settings.schedule;
        let moves = self.operators.moves();
        operator.steps.iter().all(|step| match step {
            Step::AddLearner { store } => moves
                .get(store)
                .is_none_or(|(adding, _)| *adding < schedule.adding_max),
            Step::RemovePeer { store } => moves
                .get(store)
                .is_none_or(|(_, removing)| *removing < schedule.removing_max),
            _ => true,
        })
    }
}
