//! The replica checker: as many voters as there should be, on stores that can have them.

use flotilla_proto::metapb::{Peer, PeerRole};
use rand_xoshiro::rand_core::Rng;

use crate::operator::{Kind, Operator, Reason, Step};
use crate::placement::{Fit, Penalty};
use crate::rule::Rule;
use crate::view::{Cluster, Health, Region, largest_odd};

/// The next operator towards the right replicas for `region`; `None` if they are right, or nothing
/// can be done now.
pub fn check_replicas(cluster: &Cluster, region: &Region, rng: &mut impl Rng) -> Option<Operator> {
    region.leader?;
    if region.is_joint() {
        let changes = region.joint_changes();
        let steps = vec![Step::LeaveJoint { changes }];
        return Some(region.operator(Kind::Replica, Reason::Joint, steps));
    }
    let mut check = Check {
        cluster,
        region,
        rng,
        voters: region.with_role(PeerRole::Voter).copied().collect(),
        wanted: cluster.voters_wanted(region),
        fit: cluster.fit(region),
    };
    let (reason, steps) = check.run()?;
    Some(region.operator(Kind::Replica, reason, steps))
}

type Plan = Option<(Reason, Vec<Step>)>;

struct Check<'a, R> {
    cluster: &'a Cluster,
    region: &'a Region,
    rng: &'a mut R,
    voters: Vec<Peer>,
    wanted: usize,
    fit: Fit<'a>,
}

/// Stores for new voters.
enum Targets {
    /// Those that have a caught-up learner, then those that need one.
    Found {
        learners: Vec<u64>,
        new: Vec<u64>,
    },
    /// Learners are catching up: wait for them.
    Wait,
    None,
}

impl<R: Rng> Check<'_, R> {
    fn run(&mut self) -> Plan {
        // First of all: it may hold a place.
        if let Some(learner) = self.learner(Health::is_bad) {
            return self.remove_learner(learner);
        }
        let have = self.voters.len();
        if have < self.wanted
            && let Some(plan) = self.grow()
        {
            return plan;
        }
        if have > self.wanted {
            return self.shrink();
        }
        if let Some(plan) = self.replace() {
            return plan;
        }
        if have != self.wanted {
            return None;
        }
        if let Some(spare) = self.spare() {
            return self.remove_learner(spare);
        }
        if let Some(plan) = self.misplaced().or_else(|| self.too_close()) {
            return Some(plan);
        }
        self.wanted_learner()
    }

    /// A learner that no rule wants.
    fn spare(&self) -> Option<u64> {
        let mut learners = self.region.with_role(PeerRole::Learner);
        let unwanted = |peer: &&Peer| !self.fit.learners.contains_key(&peer.store_id);
        learners.find(unwanted).map(|peer| peer.store_id)
    }

    /// A voter that stands for no rule makes place for one that does.
    fn misplaced(&mut self) -> Plan {
        let stands = |peer: &&Peer| self.fit.of.contains_key(&peer.store_id);
        let store = self.voters.iter().find(|peer| !stands(peer))?.store_id;
        let to = self.fit.free().into_iter().find_map(|slot| {
            let rule = self.fit.slots[slot];
            let with = self.fit.of_rule(rule);
            self.cluster
                .target(self.region, Some(rule), (&[], &with), self.rng)
        })?;
        let steps = replace(self.cluster, self.region, (store, to), self.rng);
        Some((Reason::Misplaced { store }, steps))
    }

    /// The voter that shares a failure domain goes to a store that shares less, if all are well.
    fn too_close(&mut self) -> Plan {
        let fine = |peer: &Peer| self.health(peer) == Health::Fine;
        if !self.voters.iter().all(fine) {
            return None;
        }
        let mut best: Option<(Penalty, u64, u64)> = None;
        for peer in &self.voters {
            let store = peer.store_id;
            let Some(rule) = self.fit.rule(store) else {
                continue;
            };
            let labels = &rule.location_labels;
            let all = self.fit.of_rule(rule);
            let others: Vec<u64> = all.iter().copied().filter(|one| *one != store).collect();
            let now = self.cluster.penalty(labels, &all);
            if now == Penalty::default() {
                continue;
            }
            let sought = (&[][..], &others[..]);
            let to = self
                .cluster
                .target(self.region, Some(rule), sought, self.rng);
            let Some(to) = to else { continue };
            let then = self.cluster.penalty(labels, &[&others[..], &[to]].concat());
            if then < now && best.as_ref().is_none_or(|(least, ..)| then < *least) {
                best = Some((then, store, to));
            }
        }
        let (_, store, to) = best?;
        let steps = replace(self.cluster, self.region, (store, to), self.rng);
        Some((Reason::TooClose { store, to }, steps))
    }

    fn wanted_learner(&mut self) -> Plan {
        let slot = *self.fit.free_learners().first()?;
        let rule = self.fit.learner_slots[slot];
        let store = self
            .cluster
            .target(self.region, Some(rule), (&[], &[]), self.rng)?;
        Some((
            Reason::WantsLearner { store },
            vec![Step::AddLearner { store }],
        ))
    }

    fn health(&self, peer: &Peer) -> Health {
        self.cluster.health(self.region, peer)
    }

    fn learner(&self, which: impl Fn(Health) -> bool) -> Option<u64> {
        let mut learners = self.region.with_role(PeerRole::Learner);
        let found = learners.find(|peer| which(self.health(peer)));
        found.map(|peer| peer.store_id)
    }

    fn remove_learner(&self, store: u64) -> Plan {
        let reason = Reason::Spare { store };
        Some((reason, vec![Step::RemovePeer { store }]))
    }

    /// Stores for `count` more voters: for the rule that `instead` stood for, or for those that
    /// nobody stands for.
    fn targets(&mut self, count: usize, instead: Option<u64>) -> Targets {
        let own = instead.and_then(|store| self.fit.of.get(&store).copied());
        let mut slots: Vec<Option<&Rule>> = match own {
            Some(slot) => vec![Some(self.fit.slots[slot])],
            None => {
                let free = self.fit.free().into_iter();
                free.map(|slot| Some(self.fit.slots[slot])).collect()
            }
        };
        if self.fit.slots.is_empty() {
            slots = vec![None; count];
        }
        let learners = self.region.with_role(PeerRole::Learner);
        let spare = learners.filter(|peer| !self.fit.learners.contains_key(&peer.store_id));
        let mut caught_up: Vec<u64> = Vec::new();
        let mut waits = false;
        for peer in spare {
            match self.health(peer) {
                Health::Fine => caught_up.push(peer.store_id),
                health => waits |= health == Health::CatchingUp,
            }
        }
        let (mut learners, mut new): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
        let stores = &self.cluster.stores;
        slots.retain(|rule| {
            let takes = |store: &u64| rule.is_none_or(|rule| rule.takes(&stores[store]));
            let found = caught_up.iter().position(takes);
            let found = found.filter(|_| learners.len() < count);
            found
                .map(|nth| learners.push(caught_up.remove(nth)))
                .is_none()
        });
        if learners.len() < count && waits {
            return Targets::Wait;
        }
        for rule in slots {
            if learners.len() + new.len() == count {
                break;
            }
            let mut with = rule.map_or_else(Vec::new, |rule| self.fit.of_rule(rule));
            with.retain(|store| Some(*store) != instead);
            with.extend(&new);
            let sought = (&new[..], &with[..]);
            new.extend(self.cluster.target(self.region, rule, sought, self.rng));
        }
        match learners.len() + new.len() == count {
            true => Targets::Found { learners, new },
            false => Targets::None,
        }
    }

    /// Up to the next odd number of voters, all at once: an even number in between would be easier
    /// to stop. The outer `None`: there are no stores for that now.
    fn grow(&mut self) -> Option<Plan> {
        let have = self.voters.len();
        let next = largest_odd(have + 2).min(self.wanted);
        let (learners, new) = match self.targets(next - have, None) {
            Targets::Found { learners, new } => (learners, new),
            Targets::Wait => return Some(None),
            Targets::None => return None,
        };
        let mut steps: Vec<Step> = add(&new).collect();
        match [learners, new].concat()[..] {
            [store] => steps.push(Step::PromoteLearner { store }),
            ref several => steps.extend(Step::joint(several.to_vec(), Vec::new())),
        }
        let (voters, wanted) = (have, self.wanted);
        Some(Some((Reason::TooFew { voters, wanted }, steps)))
    }

    /// Down to the next odd number of voters; the worst go first.
    fn shrink(&mut self) -> Plan {
        let have = self.voters.len();
        let next = largest_odd(have - 1).max(self.wanted).min(have - 1);
        let mut order = self.voters.clone();
        order.sort_by_key(|peer| {
            let store = self.cluster.stores.get(&peer.store_id);
            let leads = self.region.leader == Some(peer.store_id);
            let load = store.map_or(0, |store| store.regions);
            let stands = self.fit.of.contains_key(&peer.store_id);
            // Worst, of no rule, not leading, closest to others, fullest.
            (
                std::cmp::Reverse(self.health(peer)),
                stands,
                leads,
                self.without(peer.store_id),
                std::cmp::Reverse(load),
                peer.id,
            )
        });
        let goes: Vec<u64> = order
            .iter()
            .take(have - next)
            .map(|peer| peer.store_id)
            .collect();
        let mut steps = self.hand_over(&goes)?;
        if goes.len() > 1 {
            steps.extend(Step::joint(Vec::new(), goes.clone()));
        }
        steps.extend(goes.iter().map(|store| Step::RemovePeer { store: *store }));
        let (voters, wanted) = (have, self.wanted);
        Some((Reason::TooMany { voters, wanted }, steps))
    }

    /// How badly voters are apart without the one on `store`.
    fn without(&self, store: u64) -> Penalty {
        let Some(rule) = self.fit.rule(store) else {
            return Penalty::default();
        };
        let mut others = self.fit.of_rule(rule);
        others.retain(|other| *other != store);
        self.cluster.penalty(&rule.location_labels, &others)
    }

    /// One new voter for the worst one that must go.
    fn replace(&mut self) -> Option<Plan> {
        let bad = self.voters.iter().copied();
        let bad = bad.filter(|peer| self.health(peer).is_bad());
        let bad = bad.max_by_key(|peer| (self.health(peer), peer.id))?;
        let store = bad.store_id;
        let reason = match self.health(&bad) {
            Health::Gone => Reason::Tombstone { store },
            Health::Down => Reason::Down { store },
            _ => Reason::Offline { store },
        };
        let (learners, new) = match self.targets(1, Some(store)) {
            Targets::Found { learners, new } => (learners, new),
            Targets::Wait | Targets::None => return Some(None),
        };
        let to = *learners.first().or(new.first())?;
        Some(Some((
            reason,
            replace(self.cluster, self.region, (store, to), self.rng),
        )))
    }

    /// Another leader, if the leader is among those that go.
    fn hand_over(&mut self, goes: &[u64]) -> Option<Vec<Step>> {
        match self.region.leader {
            Some(leader) if goes.contains(&leader) => {
                let store = self.cluster.next_leader(self.region, goes, self.rng)?;
                Some(vec![Step::TransferLeader { store }])
            }
            _ => Some(Vec::new()),
        }
    }
}

fn add(stores: &[u64]) -> impl Iterator<Item = Step> {
    stores
        .iter()
        .map(|store| Step::AddLearner { store: *store })
}

/// The voter on `from` makes place for one on `to`, which may have a learner already.
pub(crate) fn replace(
    cluster: &Cluster,
    region: &Region,
    (from, to): (u64, u64),
    rng: &mut impl Rng,
) -> Vec<Step> {
    let known = region.on(to).is_some();
    let mut steps: Vec<Step> = add(&[to]).filter(|_| !known).collect();
    let leads = region.leader == Some(from);
    match cluster.next_leader(region, &[from], rng) {
        // Nobody else can lead until the new one votes.
        None if leads => {
            steps.push(Step::PromoteLearner { store: to });
            steps.push(Step::TransferLeader { store: to });
        }
        next => {
            if let Some(store) = next.filter(|_| leads) {
                steps.push(Step::TransferLeader { store });
            }
            steps.extend(Step::joint(vec![to], vec![from]));
        }
    }
    steps.push(Step::RemovePeer { store: from });
    steps
}
