//! A whole cluster that does as planners say.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use flotilla_pd_plan::{
    Balance, Cluster, Flow, Kind, Look, MergeLimits, Operator, Placement, Rate, Region, Regions,
    Rule, Rules, Step, Store, StoreState, balance_hot, balance_leaders, balance_regions,
    check_merge,
};
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Peer, PeerRole, RegionEpoch};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::Rng;

use super::{DOWN_TIME, below, run};

pub const MIB: u64 = 1 << 20;
pub const LABELS: [&str; 3] = ["zone", "rack", "host"];
/// Everything is old enough to merge.
const NOW: Mono = Mono(10_000_000_000_000);

/// Stores and regions.
pub struct Town {
    pub cluster: Cluster,
    pub regions: Regions,
    pub leaders_apart: u64,
    pub weight_apart: u64,
    pub merge_bytes: u64,
    /// Rules keep replicas apart by [`LABELS`].
    pub apart: bool,
    /// Which planners are at work.
    pub plans: Plans,
    /// What planners do wrong.
    pub bug: Option<Bug>,
}

/// A bug of a planner, played by changing what the real ones plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A peer goes to a store that is not up.
    ToStoreThatIsNotUp,
    /// A peer goes to a store without space.
    ToFullStore,
    /// A peer goes to the failure domain of another one.
    IntoSharedDomain,
    /// A peer is removed before its successor votes.
    RemovedBeforeAdded,
    /// The leader is demoted without having handed over.
    LeaderDemoted,
    /// Leaders go where there are as many already.
    LeadersComeBack,
    /// Peers go where there is as much already.
    PeersComeBack,
    /// Regions on different stores merge.
    MergedApart,
    /// An operator is carried out though its region has changed.
    OldEpoch,
    /// A leader goes to a store that is to have none.
    LeaderToEvicted,
}

impl Bug {
    pub const ALL: [Self; 10] = [
        Self::ToStoreThatIsNotUp,
        Self::ToFullStore,
        Self::IntoSharedDomain,
        Self::RemovedBeforeAdded,
        Self::LeaderDemoted,
        Self::LeadersComeBack,
        Self::PeersComeBack,
        Self::MergedApart,
        Self::OldEpoch,
        Self::LeaderToEvicted,
    ];
}

/// Which planners are at work.
#[derive(Clone, Copy)]
pub struct Plans {
    pub leaders: bool,
    pub regions: bool,
    pub hot: bool,
    pub merges: bool,
}

pub const ALL: Plans = Plans {
    leaders: true,
    regions: true,
    hot: true,
    merges: true,
};

/// A rule like PD's own, by these labels.
pub fn default_rule(count: usize, labels: &[&str]) -> Rule {
    Rule {
        group: "pd".to_owned(),
        id: "default".to_owned(),
        index: 0,
        overrides: false,
        start: Bytes::new(),
        end: Bytes::new(),
        role: flotilla_pd_plan::Role::Voter,
        count,
        constraints: Vec::new(),
        location_labels: labels.iter().map(|label| (*label).to_owned()).collect(),
    }
}

/// A store of `zone`, with room.
pub fn labelled(zone: u64, rack: u64, host: u64) -> Store {
    let values = [format!("z{zone}"), format!("r{rack}"), format!("h{host}")];
    let labels = LABELS.iter().map(|label| (*label).to_owned()).zip(values);
    Store {
        capacity: 1 << 50,
        available: 1 << 50,
        labels: labels.collect(),
        ..Store::default()
    }
}

/// Three voters, in key order `nth`.
pub fn region(nth: u64, stores: &[u64], size: u64) -> Region {
    let peer = |store: &u64| Peer {
        id: 10_000_000 + nth * 10 + store % 10 + store * 100_000_000,
        store_id: *store,
        role: PeerRole::Voter as i32,
        is_witness: false,
    };
    Region {
        id: 1_000 + nth,
        epoch: RegionEpoch {
            conf_ver: 1,
            version: 1,
        },
        start: key(nth),
        end: key(nth + 1),
        peers: stores.iter().map(peer).collect(),
        leader: stores.first().copied(),
        size,
        keys: size / 1_024,
        ..Region::default()
    }
}

/// 20 bytes.
pub fn key(nth: u64) -> Bytes {
    Bytes::from(format!("table-{nth:014}"))
}

impl Town {
    pub fn new(stores: BTreeMap<u64, Store>, rules: Vec<Rule>) -> Self {
        let apart = rules.iter().any(|rule| !rule.location_labels.is_empty());
        Self {
            apart,
            cluster: Cluster {
                stores,
                rules: Rules {
                    max_replicas: 3,
                    max_store_down_time: DOWN_TIME,
                },
                placement: Placement::new(rules).into(),
            },
            regions: Regions::default(),
            leaders_apart: 2,
            weight_apart: 4 * MIB,
            merge_bytes: 0,
            plans: ALL,
            bug: None,
        }
    }

    pub fn put(&mut self, region: &Region) {
        self.regions.put(region, NOW);
    }

    /// What PD would count.
    pub fn count(&mut self) {
        for (id, store) in &mut self.cluster.stores {
            let load = self.regions.load(*id);
            (store.regions, store.leaders) = (load.peers, load.leaders);
            (store.leads, store.weight) = (load.leaders, load.weight);
        }
    }

    pub fn balance(&self) -> Balance<'_> {
        Balance {
            cluster: &self.cluster,
            regions: &self.regions,
            leaders_apart: self.leaders_apart,
            weight_apart: self.weight_apart,
        }
    }

    /// What the planners give with the bug that is planted.
    pub fn plan(&self, limit: usize, rng: &mut Xoshiro256PlusPlus) -> Vec<Operator> {
        let mut plans = self.planned(limit, rng);
        let Some(bug) = self.bug else { return plans };
        if plans.is_empty() {
            plans.extend(self.comes_back(bug, rng));
        }
        for plan in &mut plans {
            self.spoil(bug, plan);
        }
        plans
    }

    /// An operator that evens out what is even.
    fn comes_back(&self, bug: Bug, rng: &mut Xoshiro256PlusPlus) -> Vec<Operator> {
        let mut cluster = self.cluster.clone();
        for store in cluster.stores.values_mut() {
            (store.leads, store.weight) = (below(rng, 40), below(rng, 40) << 30);
        }
        let balance = Balance {
            cluster: &cluster,
            ..self.balance()
        };
        match bug {
            Bug::LeadersComeBack => balance_leaders(&balance, &BTreeSet::new(), 1, rng),
            Bug::PeersComeBack => balance_regions(&balance, &BTreeSet::new(), 1, rng),
            _ => Vec::new(),
        }
    }

    fn spoil(&self, bug: Bug, plan: &mut Operator) {
        let region = self.regions.region(plan.region).expect("a known region");
        let stores = &self.cluster.stores;
        let other = |fit: &dyn Fn(&Store) -> bool| {
            let mut all = stores.iter();
            let found = all.find(|(id, store)| region.on(**id).is_none() && fit(store));
            found.map(|(id, _)| *id)
        };
        let to = match bug {
            Bug::ToStoreThatIsNotUp => other(&|store| store.state != StoreState::Up),
            Bug::ToFullStore => other(&|store| store.available == 0),
            Bug::IntoSharedDomain if plan.kind == Kind::Region => other(&|store| {
                if store.state != StoreState::Up || store.available == 0 {
                    return false;
                }
                let stays = |peer: &&Peer| {
                    !plan.steps.contains(&Step::RemovePeer {
                        store: peer.store_id,
                    })
                };
                let mut left = region.peers.iter().filter(stays);
                left.any(|peer| stores[&peer.store_id].labels == store.labels)
            }),
            _ => None,
        };
        for step in &mut plan.steps {
            match (&mut *step, to) {
                (Step::AddLearner { store } | Step::PromoteLearner { store }, Some(to)) => {
                    *store = to;
                }
                (Step::EnterJoint { promote, .. }, Some(to)) => promote.fill(to),
                _ => {}
            }
        }
        let first = |which: &dyn Fn(&Step) -> bool| plan.steps.iter().position(which);
        match bug {
            Bug::RemovedBeforeAdded if plan.kind != Kind::Merge => {
                let gone = first(&|step| matches!(step, Step::RemovePeer { .. }));
                let joint = first(&|step| matches!(step, Step::EnterJoint { .. }));
                let hands = first(&|step| matches!(step, Step::TransferLeader { .. }));
                if let (Some(gone), Some(_), None) = (gone, joint, hands) {
                    let step = plan.steps.remove(gone);
                    plan.steps.insert(0, step);
                }
            }
            Bug::LeaderDemoted => {
                let hands = first(&|step| matches!(step, Step::TransferLeader { .. }));
                if let Some(hands) = hands.filter(|_| plan.steps.len() > 1) {
                    plan.steps.remove(hands);
                }
            }
            Bug::MergedApart if plan.kind == Kind::Merge => {
                plan.steps.retain(|step| matches!(step, Step::Merge { .. }));
            }
            Bug::OldEpoch => plan.epoch.conf_ver -= u64::from(plan.epoch.conf_ver > 1),
            Bug::LeaderToEvicted if plan.steps.len() == 1 => {
                let evicted = |peer: &&Peer| stores[&peer.store_id].evicted;
                let to = region.peers.iter().find(evicted).map(|peer| peer.store_id);
                if let (Some(to), Step::TransferLeader { store }) = (to, &mut plan.steps[0]) {
                    *store = to;
                }
            }
            _ => {}
        }
    }

    /// One round: what PD would begin, with up to `limit` operators of each kind, one per region.
    fn planned(&self, limit: usize, rng: &mut Xoshiro256PlusPlus) -> Vec<Operator> {
        let look = Look::new(&self.cluster, &self.regions);
        let mut plans = look.all(limit, rng, |_| {});
        let mut busy: BTreeSet<u64> = plans.iter().map(|plan| plan.region).collect();
        if self.plans.merges {
            let ids: Vec<u64> = self.regions.ids().collect();
            for id in ids {
                let limits = MergeLimits {
                    bytes_max: self.merge_bytes,
                    keys_max: u64::MAX,
                    rest: Duration::from_secs(3_600),
                    now: NOW,
                    only: None,
                    fence: &|_| false,
                };
                let merge = check_merge(&self.cluster, &self.regions, id, &busy, &limits);
                if let Some(plan) = merge {
                    busy.extend(both(&plan));
                    plans.push(plan);
                }
            }
        }
        let balance = self.balance();
        let mut add = |plans: &mut Vec<Operator>, more: Vec<Operator>| {
            busy.extend(more.iter().map(|plan| plan.region));
            plans.extend(more);
            busy.clone()
        };
        let mut busy = add(&mut plans, Vec::new());
        // One balance at a time, as in PD: what the one does the other sees when it is done.
        if plans.is_empty() && self.plans.regions {
            let more = balance_regions(&balance, &busy, limit, rng);
            busy = add(&mut plans, more);
        }
        if plans.is_empty() && self.plans.leaders {
            let more = balance_leaders(&balance, &busy, limit, rng);
            busy = add(&mut plans, more);
        }
        if plans.is_empty() && self.plans.hot {
            let more = balance_hot(&balance, true, NOW, &busy, limit, rng);
            busy = add(&mut plans, more);
            let more = balance_hot(&balance, false, NOW, &busy, limit, rng);
            add(&mut plans, more);
        }
        plans
    }

    /// Carries a whole operator out; every rule is checked at every step.
    pub fn run(&mut self, plan: &Operator) {
        let mut region = self.regions.region(plan.region).expect("a known region");
        let before = self.sharing(&region);
        run(&self.cluster, &mut region, plan);
        let after = self.sharing(&region);
        // Who loses a store may have to take one that is closer.
        let may = matches!(plan.kind, Kind::Replica | Kind::Merge);
        if matches!(plan.kind, Kind::Region | Kind::Hot | Kind::Merge) {
            let first = self.regions.region(plan.region).expect("a known region");
            let moves = plan.steps.len() > 1;
            let right = first.peers.len() == self.cluster.voters_wanted(&first);
            assert!(right || !moves, "{plan}: it should be repaired first");
        }
        for step in &plan.steps {
            if let (Step::TransferLeader { store }, Kind::Leader | Kind::Hot) = (step, plan.kind) {
                let to = &self.cluster.stores[store];
                let fit = to.state == StoreState::Up && !to.evicted;
                assert!(fit, "{plan}: store {store} should lead nothing");
            }
        }
        assert!(after <= before || may, "{plan}: closer than before");
        let Some(Step::Merge { target }) = plan.steps.last() else {
            self.put(&region);
            return;
        };
        let mut target = self.regions.region(*target).expect("a known region");
        let stores = |region: &Region| {
            let stores = region.peers.iter().map(|peer| peer.store_id);
            stores.collect::<BTreeSet<u64>>()
        };
        assert_eq!(stores(&region), stores(&target), "{plan}: other stores");
        self.regions.remove(region.id);
        self.regions.remove(target.id);
        target.epoch.version = target.epoch.version.max(region.epoch.version) + 1;
        target.start = target.start.min(region.start);
        target.end = target.end.max(region.end);
        (target.size, target.keys) = (target.size + region.size, target.keys + region.keys);
        self.put(&target);
    }

    /// How many pairs of a region's stores share their zone, rack, host.
    pub fn sharing(&self, region: &Region) -> [usize; 3] {
        let mut sharing = [0; 3];
        if !self.apart {
            return sharing;
        }
        let stores: Vec<&Store> = region
            .peers
            .iter()
            .filter_map(|peer| self.cluster.stores.get(&peer.store_id))
            .collect();
        for (nth, a) in stores.iter().enumerate() {
            for b in &stores[..nth] {
                for level in 0..LABELS.len() {
                    let value = |store: &Store| {
                        let values = LABELS[..=level]
                            .iter()
                            .map(|label| store.labels.get(*label));
                        values.map(|value| value.cloned()).collect::<Vec<_>>()
                    };
                    sharing[level] += usize::from(value(a) == value(b));
                }
            }
        }
        sharing
    }

    /// Plans and carries out until nothing is planned. Answers the rounds it took.
    pub fn settle(&mut self, limit: usize, most: usize, rng: &mut Xoshiro256PlusPlus) -> usize {
        for round in 0..=most {
            self.count();
            let plans = self.plan(limit, rng);
            if plans.is_empty() {
                return round;
            }
            assert!(round < most, "no end after {most} rounds: {}", plans[0]);
            for plan in &plans {
                self.run(plan);
                self.count();
            }
        }
        unreachable!("the last round plans nothing or fails")
    }

    /// The largest and the smallest number among stores that are up, and the average.
    pub fn spread(&self, of: impl Fn(&Store) -> u64) -> (u64, u64, u64) {
        let stores = self.cluster.stores.values();
        let up = stores.filter(|store| store.state == StoreState::Up && !store.evicted);
        let all: Vec<u64> = up.map(of).collect();
        let most = all.iter().max().copied().unwrap_or(0);
        let least = all.iter().min().copied().unwrap_or(0);
        (
            most,
            least,
            all.iter().sum::<u64>() / all.len().max(1) as u64,
        )
    }
}

/// The regions of an operator.
pub fn both(plan: &Operator) -> Vec<u64> {
    let mut both = vec![plan.region];
    if let Some(Step::Merge { target }) = plan.steps.last() {
        both.push(*target);
    }
    both
}

/// Stores in zones, racks and hosts, and regions on them, anyhow.
pub fn some_town(rng: &mut Xoshiro256PlusPlus, stores: u64, regions: u64) -> Town {
    let zones = 1 + below(rng, 6);
    let racks = 1 + below(rng, 3);
    let all: BTreeMap<u64, Store> = (1..=stores)
        .map(|id| (id, labelled(below(rng, zones), below(rng, racks), id / 2)))
        .collect();
    let labelled = below(rng, 3) > 0;
    let labels = if labelled { &LABELS[..] } else { &[] };
    let mut town = Town::new(all, vec![default_rule(3, labels)]);
    // Some stores have more than others.
    let liked = 1 + below(rng, stores.max(4) - 2);
    let largest = [1, 4, 96][below(rng, 3) as usize] * MIB;
    for nth in 0..regions {
        let mut on: Vec<u64> = Vec::new();
        // Some have too few or too many peers, to begin with.
        let count = if below(rng, 15) == 0 {
            1 + below(rng, 5)
        } else {
            3
        };
        while on.len() < count.min(stores) as usize {
            let end = if below(rng, 4) > 0 {
                liked.max(3)
            } else {
                stores
            };
            let store = 1 + below(rng, end.min(stores));
            if !on.contains(&store) {
                on.push(store);
            }
        }
        let mut region = region(nth, &on, below(rng, largest));
        if below(rng, 20) == 0 {
            let rate = |rng: &mut Xoshiro256PlusPlus| Rate {
                bytes: (rng.next_u64() % (64 * MIB)) as f32,
                keys: (rng.next_u64() % 10_000) as f32,
                queries: (rng.next_u64() % 10_000) as f32,
            };
            region.flow = Flow {
                read: rate(rng),
                written: rate(rng),
            };
        }
        town.put(&region);
    }
    town.count();
    town
}
