//! The replica checker: as many voters as there should be, on stores that can have them.

use flotilla_proto::metapb::{Peer, PeerRole};
use rand_xoshiro::rand_core::Rng;

use crate::operator::{Kind, Operator, Reason, Step};
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
        if have == self.wanted {
            let spare = self.learner(|_| true)?;
            return self.remove_learner(spare);
        }
        None
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

    /// Stores for `count` more voters.
    fn targets(&mut self, count: usize) -> Targets {
        let learners = self.region.with_role(PeerRole::Learner);
        let learners = learners.map(|peer| (peer.store_id, self.health(peer)));
        let (fine, others): (Vec<_>, Vec<_>) =
            learners.partition(|(_, health)| *health == Health::Fine);
        let learners: Vec<u64> = fine.iter().map(|(store, _)| *store).take(count).collect();
        let catching_up = |(_, health): &(u64, Health)| *health == Health::CatchingUp;
        if learners.len() < count && others.iter().any(catching_up) {
            return Targets::Wait;
        }
        let mut new = Vec::new();
        while learners.len() + new.len() < count {
            match self.cluster.target(self.region, &new, self.rng) {
                Some(store) => new.push(store),
                None => return Targets::None,
            }
        }
        Targets::Found { learners, new }
    }

    /// Up to the next odd number of voters, all at once: an even number in between would be easier
    /// to stop. The outer `None`: there are no stores for that now.
    fn grow(&mut self) -> Option<Plan> {
        let have = self.voters.len();
        let next = largest_odd(have + 2).min(self.wanted);
        let (learners, new) = match self.targets(next - have) {
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
            // Worst, not leading, fullest.
            (
                std::cmp::Reverse(self.health(peer)),
                leads,
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
        let (learners, new) = match self.targets(1) {
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
