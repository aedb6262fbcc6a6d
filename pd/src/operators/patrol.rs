//! Looking for something to do.

use flotilla_pd_plan::{Cluster, Operator, Step, check_leader, check_replicas};

use crate::genesis::META_REGION;
use crate::leading::Leading;
use crate::limits::PATROL_REGIONS;
use crate::reply::Cx;

impl Leading {
    /// Looks at the meta region and at some others, in turn, and starts what they need.
    pub(crate) fn patrol(&mut self, cx: &mut Cx<'_>) {
        let regions = self.routes.patrol(self.operators.next, PATROL_REGIONS);
        let mut cluster = self.cluster(cx);
        for region in [META_REGION].into_iter().chain(regions) {
            if self.operators.running.len() >= self.settings.schedule.operators_max {
                return;
            }
            if let Some(operator) = self.look_at(&cluster, region) {
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
        let operators = &self.operators;
        if operators.running.contains_key(&region) || operators.resting.contains_key(&region) {
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

    /// Its stores take part in fewer moves than they may.
    fn admits(&self, operator: &Operator) -> bool {
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
