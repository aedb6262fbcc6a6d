//! A look at every region: most of them are as they should be, and that is seen at once.

use rand_xoshiro::rand_core::Rng;

use crate::leaders::check_leader;
use crate::operator::Operator;
use crate::placement::Penalty;
use crate::regions::{Record, Regions};
use crate::replicas::check_replicas;
use crate::view::{Cluster, StoreState};

/// Wider labels than these many are not looked at here.
const LEVELS: usize = 4;

/// What is made once for many regions. It is right as long as stores and rules stay as they are.
#[derive(Debug)]
pub struct Look<'a> {
    cluster: &'a Cluster,
    regions: &'a Regions,
    /// By the index of a store.
    stores: Vec<Seen>,
    /// Voters that every region should have, and how far apart they can be at best; `None`: rules
    /// differ, and every region is looked at closely.
    wanted: Option<(usize, Penalty)>,
    levels: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    up: bool,
    evicted: bool,
    /// Stores with the same number share all labels up to that level.
    domains: [u32; LEVELS],
}

impl<'a> Look<'a> {
    /// Of all regions in `regions`.
    pub fn new(cluster: &'a Cluster, regions: &'a Regions) -> Self {
        let rule = cluster.placement.single();
        let labels = rule.map_or(&[][..], |rule| &rule.location_labels);
        let mut stores = Vec::with_capacity(regions.held().len());
        let mut numbers: Vec<std::collections::BTreeMap<(u32, &str), u32>> =
            vec![std::collections::BTreeMap::new(); LEVELS];
        for held in regions.held() {
            let Some(store) = cluster.stores.get(&held.store) else {
                stores.push(Seen::default());
                continue;
            };
            let mut seen = Seen {
                up: store.state == StoreState::Up,
                evicted: store.evicted,
                domains: [0; LEVELS],
            };
            let mut above = 0;
            for (level, label) in labels.iter().take(LEVELS).enumerate() {
                let value = store.labels.get(label).map_or("", |value| value);
                let next = numbers[level].len() as u32;
                above = *numbers[level].entry((above, value)).or_insert(next);
                seen.domains[level] = above;
            }
            stores.push(seen);
        }
        let wanted = rule.filter(|_| labels.len() <= LEVELS).map(|_| {
            let any = crate::Region::default();
            let wanted = cluster.voters_wanted(&any);
            (wanted, best(cluster, labels, wanted))
        });
        Self {
            cluster,
            regions,
            stores,
            wanted,
            levels: labels.len(),
        }
    }

    /// Region `id` is known, and nothing has to be done about it.
    pub fn is_right(&self, id: u64) -> bool {
        let record = self.regions.by_id(id);
        record.is_some_and(|record| self.is_fine(record))
    }

    /// What region `id` needs, if anything.
    pub fn at(&self, id: u64, rng: &mut impl Rng) -> Option<Operator> {
        let record = self.regions.by_id(id)?;
        if self.is_fine(record) {
            return None;
        }
        let region = self.regions.full(record);
        check_replicas(self.cluster, &region, rng)
            .or_else(|| check_leader(self.cluster, &region, rng))
    }

    /// What all regions need, up to `limit` operators. `each` is called with every region that needs
    /// nothing.
    pub fn all(
        &self,
        limit: usize,
        rng: &mut impl Rng,
        mut each: impl FnMut(u64),
    ) -> Vec<Operator> {
        let mut plans = Vec::new();
        for record in self.regions.records() {
            if self.is_fine(record) {
                each(record.id);
            } else if plans.len() < limit {
                plans.extend(self.at(record.id, rng));
            }
        }
        plans
    }

    /// Nothing has to be done. It may be that nothing has to be done otherwise, too.
    fn is_fine(&self, record: &Record) -> bool {
        let Some((wanted, best)) = self.wanted else {
            return false;
        };
        if record.members.len() != wanted || !record.is_plain() {
            return false;
        }
        let Some(leader) = self.stores.get(record.leader as usize) else {
            return false;
        };
        let store = |nth: usize| self.stores[record.members[nth].store as usize];
        if leader.evicted || !(0..wanted).all(|nth| store(nth).up) {
            return false;
        }
        if self.levels == 0 {
            return true;
        }
        let mut penalty = Penalty::default();
        for nth in 1..wanted {
            for other in 0..nth {
                let (a, b) = (store(nth).domains, store(other).domains);
                let shared = (0..self.levels).take_while(|level| a[*level] == b[*level]);
                penalty = penalty.plus(Penalty::of_pair(shared.count(), self.levels));
            }
        }
        penalty <= best
    }
}

/// How far apart `wanted` peers can be on stores that stay: one after the other to the farthest.
fn best(cluster: &Cluster, labels: &[String], wanted: usize) -> Penalty {
    let stays = cluster
        .stores
        .iter()
        .filter(|(_, store)| store.state.stays());
    let mut left: Vec<u64> = stays.map(|(id, _)| *id).collect();
    let mut taken = Vec::new();
    if labels.is_empty() {
        return Penalty::default();
    }
    while taken.len() < wanted && !left.is_empty() {
        let with = |store: &u64| cluster.penalty(labels, &[&taken[..], &[*store]].concat());
        let nth = (0..left.len()).min_by_key(|nth| with(&left[*nth]));
        taken.push(left.swap_remove(nth.unwrap_or(0)));
    }
    cluster.penalty(labels, &taken)
}
