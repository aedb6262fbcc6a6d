//! Evening out leaders, peers and load, at intervals.

use std::collections::BTreeMap;

use flotilla_pd_plan::{
    Balance, Cluster, Kind, Operator, Reason, Step, balance_hot, balance_leaders, balance_regions,
};

use crate::leading::Leading;
use crate::reply::Cx;
use crate::schedulers::Scheduler;

/// What running operators will change of leaders and weight, as far as regions do not show it yet.
#[derive(Debug, Default)]
pub(crate) struct Shifts {
    leads: BTreeMap<u64, i64>,
    weight: BTreeMap<u64, i64>,
}

impl Shifts {
    pub(crate) fn leads(&self, store: u64, now: u64) -> u64 {
        now.saturating_add_signed(self.leads.get(&store).copied().unwrap_or(0))
    }

    pub(crate) fn weight(&self, store: u64, now: u64) -> u64 {
        now.saturating_add_signed(self.weight.get(&store).copied().unwrap_or(0))
    }
}

/// It evens out, and repairs nothing.
pub(super) fn evens_out(operator: &Operator) -> bool {
    let leader = matches!(operator.reason, Reason::Leaders { .. });
    leader || matches!(operator.kind, Kind::Region | Kind::Hot | Kind::Merge)
}

impl Leading {
    pub(crate) fn shifts(&self) -> Shifts {
        let mut shifts = Shifts::default();
        for (id, running) in &self.operators.running {
            let planned = self.routes.planned();
            let Some(region) = planned.region(*id).filter(|region| !region.fixed) else {
                continue;
            };
            let weight = region.size.saturating_add(flotilla_pd_plan::REGION_WEIGHT);
            let weight = i64::try_from(weight).unwrap_or(i64::MAX);
            let mut leader = None;
            for step in running.steps_left() {
                match step {
                    Step::AddLearner { store } if region.on(*store).is_none() => {
                        *shifts.weight.entry(*store).or_default() += weight;
                    }
                    Step::RemovePeer { store } if region.on(*store).is_some() => {
                        *shifts.weight.entry(*store).or_default() -= weight;
                    }
                    Step::TransferLeader { store } => leader = Some(*store),
                    _ => {}
                }
            }
            if let (Some(to), Some(from)) = (leader, region.leader) {
                *shifts.leads.entry(to).or_default() += 1;
                *shifts.leads.entry(from).or_default() -= 1;
            }
        }
        shifts
    }

    /// Starts what evens out the cluster, once all of its regions are known.
    pub(crate) fn balance(&mut self, cx: &mut Cx<'_>) {
        let schedule = self.settings.schedule;
        if cx.now < self.operators.balance_at || self.routes.has_holes() {
            return;
        }
        self.operators.balance_at = cx.now + schedule.balance_every;
        let left = |most: usize, which: fn(&Operator) -> bool, all: &Self| {
            most.saturating_sub(all.operators.count(which))
        };
        let moves = left(
            schedule.region_moves_max,
            |one| one.kind == Kind::Region,
            self,
        );
        let moved = self.balance_by(cx, Scheduler::Regions, moves);
        let evens = |one: &Operator| matches!(one.reason, Reason::Leaders { .. });
        let transfers = left(schedule.leader_moves_max, evens, self);
        let led = self.balance_by(cx, Scheduler::Leaders, transfers);
        // Load is looked at when nothing else is on its way, so that neither undoes the other.
        let still = self.operators.count(evens_out) == 0 && !moved && !led;
        if still && cx.now >= self.operators.hot_at {
            self.operators.hot_at = cx.now + schedule.hot_every;
            self.balance_by(cx, Scheduler::Hot, schedule.hot_moves_max);
        }
    }

    /// Up to `limit` operators of one planner. Answers whether it wants anything done.
    fn balance_by(&mut self, cx: &mut Cx<'_>, planner: Scheduler, limit: usize) -> bool {
        if limit == 0 || !self.schedules(cx.now, planner) {
            return false;
        }
        let cluster = self.cluster(cx);
        let taken = self.operators.taken();
        let Self {
            routes,
            operators,
            settings,
            ..
        } = self;
        let rng = &mut operators.rng;
        let balance = Balance {
            cluster: &cluster,
            regions: routes.planned(),
            leaders_apart: settings.schedule.leaders_apart,
            weight_apart: settings.schedule.bytes_apart,
        };
        let plans = match planner {
            Scheduler::Regions => balance_regions(&balance, &taken, limit, rng),
            Scheduler::Leaders => balance_leaders(&balance, &taken, limit, rng),
            Scheduler::Hot => {
                let writes = balance_hot(&balance, true, cx.now, &taken, limit, rng);
                match writes.is_empty() {
                    true => balance_hot(&balance, false, cx.now, &taken, limit, rng),
                    false => writes,
                }
            }
            Scheduler::SlowStore => Vec::new(),
        };
        let wants = !plans.is_empty();
        for plan in plans {
            let hot = plan.kind == Kind::Hot;
            let region = plan.region;
            if !self.admits(&plan) {
                continue;
            }
            if !self.start_operator(cx, plan) {
                break;
            }
            if hot {
                // Averages need a while to show what it did.
                let until = cx.now + self.settings.schedule.asked_rest;
                self.operators.pinned.insert(region, until);
            }
        }
        wants
    }

    /// For pages: what balancing goes by.
    pub(crate) fn with_balance<R>(
        &self,
        cluster: &Cluster,
        look: impl FnOnce(&Balance<'_>) -> R,
    ) -> R {
        look(&Balance {
            cluster,
            regions: self.routes.planned(),
            leaders_apart: self.settings.schedule.leaders_apart,
            weight_apart: self.settings.schedule.bytes_apart,
        })
    }
}
