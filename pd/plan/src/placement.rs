//! Which rules hold where, and how far apart stores are.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_proto::metapb::{Peer, PeerRole};

use crate::rule::{Constraint, Op, Role, Rule};
use crate::view::{Cluster, Health, Region, Store};

/// Wider labels than these many say nothing more.
const LEVELS_MAX: usize = 8;
/// Bits of one level of a [`Penalty`]: pairs of at most 64 peers.
const LEVEL_BITS: usize = 12;

/// Placement rules, and where which of them hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    rules: Vec<Rule>,
    /// From each of these keys to the next: the rules that hold there. The first key is empty.
    segments: Vec<(Bytes, Vec<usize>)>,
}

impl Placement {
    /// Of all rules. None at all: so many voters as [`crate::Rules`] says, anywhere.
    pub fn new(mut rules: Vec<Rule>) -> Self {
        rules.sort_by(|a, b| (&a.group, a.index, &a.id).cmp(&(&b.group, b.index, &b.id)));
        let mut keys: Vec<Bytes> = vec![Bytes::new()];
        keys.extend(rules.iter().map(|rule| rule.start.clone()));
        keys.extend(rules.iter().map(|rule| rule.end.clone()));
        keys.sort();
        keys.dedup();
        let holds = |rule: &Rule, key: &Bytes| {
            rule.start <= *key && (rule.end.is_empty() || *key < rule.end)
        };
        let at = |key: &Bytes| {
            let here: Vec<usize> = (0..rules.len())
                .filter(|nth| holds(&rules[*nth], key))
                .collect();
            let overridden = |nth: &usize| {
                let later = here.iter().filter(|other| *other > nth);
                let group = &rules[*nth].group;
                let mut later = later.map(|other| &rules[*other]);
                later.any(|rule| rule.overrides && rule.group == *group)
            };
            let kept = here.iter().filter(|nth| !overridden(nth));
            kept.copied().collect::<Vec<_>>()
        };
        let mut segments: Vec<(Bytes, Vec<usize>)> = Vec::new();
        for key in keys {
            let rules = at(&key);
            if segments.last().is_none_or(|(_, last)| *last != rules) {
                segments.push((key, rules));
            }
        }
        Self { rules, segments }
    }

    /// The rules that hold at `key`.
    pub(crate) fn at(&self, key: &[u8]) -> impl Iterator<Item = &Rule> {
        let after = self.segments.partition_point(|(start, _)| start <= key);
        let here = after.checked_sub(1).map(|nth| &self.segments[nth].1);
        let here = here.map_or(&[][..], |rules| rules);
        here.iter().map(|nth| &self.rules[*nth])
    }

    /// A key inside [start, end) behind which other rules hold: the region should be split there.
    pub fn boundary(&self, start: &[u8], end: &[u8]) -> Option<&Bytes> {
        let after = self.segments.partition_point(|(key, _)| key <= start);
        let (key, _) = self.segments.get(after)?;
        (end.is_empty() || **key < *end).then_some(key)
    }

    /// The same rules hold on both sides of `key`.
    pub(crate) fn is_even_at(&self, key: &Bytes) -> bool {
        let place = self.segments.binary_search_by(|(start, _)| start.cmp(key));
        place.is_err()
    }

    /// The one rule that holds everywhere, if it is for voters on any store.
    pub(crate) fn single(&self) -> Option<&Rule> {
        let [(_, rules)] = &self.segments[..] else {
            return None;
        };
        let [nth] = rules[..] else { return None };
        let rule = &self.rules[nth];
        (rule.role == Role::Voter && rule.constraints.is_empty()).then_some(rule)
    }
}

impl Constraint {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.op {
            Op::In => value.is_some_and(|value| self.values.contains(value)),
            Op::NotIn => !value.is_some_and(|value| self.values.contains(value)),
            Op::Exists => value.is_some(),
            Op::NotExists => value.is_none(),
        }
    }
}

impl Rule {
    /// A store may have one of its peers.
    pub(crate) fn takes(&self, store: &Store) -> bool {
        let holds = |constraint: &Constraint| constraint.holds(&store.labels);
        self.constraints.iter().all(holds)
    }
}

/// How many pairs of replicas share a failure domain, the widest first: less is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Penalty(u128);

impl Penalty {
    /// Of a pair that shares its first `shared` of `levels` labels.
    pub(crate) fn of_pair(shared: usize, levels: usize) -> Self {
        let levels = levels.min(LEVELS_MAX);
        let bit = |level: usize| 1_u128 << (LEVEL_BITS * (levels - 1 - level));
        Self((0..shared.min(levels)).map(bit).sum())
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

/// How many of `labels` two stores share, from the widest on.
fn shared(labels: &[String], a: &Store, b: &Store) -> usize {
    let same = |label: &&String| a.labels.get(*label) == b.labels.get(*label);
    labels.iter().take(LEVELS_MAX).take_while(same).count()
}

/// Which voter stands for which rule.
#[derive(Debug)]
pub(crate) struct Fit<'a> {
    /// One for each voter that should be.
    pub(crate) slots: Vec<&'a Rule>,
    /// The slot of each voter that has one, by store.
    pub(crate) of: BTreeMap<u64, usize>,
    /// The same for learners that should be.
    pub(crate) learner_slots: Vec<&'a Rule>,
    pub(crate) learners: BTreeMap<u64, usize>,
}

impl<'a> Fit<'a> {
    /// Slots without a voter.
    pub(crate) fn free(&self) -> Vec<usize> {
        let taken = |nth: &usize| self.of.values().any(|slot| slot == nth);
        (0..self.slots.len()).filter(|nth| !taken(nth)).collect()
    }

    pub(crate) fn free_learners(&self) -> Vec<usize> {
        let taken = |nth: &usize| self.learners.values().any(|slot| slot == nth);
        (0..self.learner_slots.len())
            .filter(|nth| !taken(nth))
            .collect()
    }

    /// The rule that `store`'s voter stands for.
    pub(crate) fn rule(&self, store: u64) -> Option<&'a Rule> {
        self.of.get(&store).map(|slot| self.slots[*slot])
    }

    /// Stores of the voters that stand for `rule`.
    pub(crate) fn of_rule(&self, rule: &Rule) -> Vec<u64> {
        let same = self.of.iter();
        let same = same.filter(|(_, slot)| std::ptr::eq(self.slots[**slot], rule));
        same.map(|(store, _)| *store).collect()
    }
}

impl Cluster {
    /// Which peers of `region` stand for which rules: as many as can be, the healthy ones before.
    pub(crate) fn fit(&self, region: &Region) -> Fit<'_> {
        let (mut slots, mut learner_slots) = (Vec::new(), Vec::new());
        if !region.meta {
            for rule in self.placement.at(&region.start) {
                let all = match rule.role.votes() {
                    true => &mut slots,
                    false => &mut learner_slots,
                };
                all.extend(std::iter::repeat_n(rule, rule.count));
            }
        }
        let mut peers: Vec<&Peer> = region.peers.iter().collect();
        let leads = |peer: &&Peer| region.leader == Some(peer.store_id);
        peers.sort_by_key(|peer| (self.health(region, peer), !leads(peer), peer.id));
        let with = |role: PeerRole| {
            let all = peers.iter().filter(move |peer| peer.role() == role);
            all.map(|peer| peer.store_id).collect::<Vec<u64>>()
        };
        let of = self.matched(&slots, &with(PeerRole::Voter));
        let learners = self.matched(&learner_slots, &with(PeerRole::Learner));
        Fit {
            slots,
            of,
            learner_slots,
            learners,
        }
    }

    /// Gives as many stores as can be a slot, the first ones before.
    fn matched(&self, slots: &[&Rule], stores: &[u64]) -> BTreeMap<u64, usize> {
        let mut holder: Vec<Option<u64>> = vec![None; slots.len()];
        for store in stores {
            let mut tried = vec![false; slots.len()];
            self.augment(slots, *store, &mut holder, &mut tried);
        }
        let held = holder.iter().enumerate();
        held.filter_map(|(slot, store)| Some(((*store)?, slot)))
            .collect()
    }

    /// A slot for `store`, for which another may have to move on.
    fn augment(
        &self,
        slots: &[&Rule],
        store: u64,
        holder: &mut [Option<u64>],
        tried: &mut [bool],
    ) -> bool {
        let Some(view) = self.stores.get(&store) else {
            return false;
        };
        for slot in 0..slots.len() {
            if tried[slot] || !slots[slot].takes(view) {
                continue;
            }
            tried[slot] = true;
            let free = match holder[slot] {
                None => true,
                Some(other) => self.augment(slots, other, holder, tried),
            };
            if free {
                holder[slot] = Some(store);
                return true;
            }
        }
        false
    }

    /// How badly `stores` are apart by `labels`.
    pub(crate) fn penalty(&self, labels: &[String], stores: &[u64]) -> Penalty {
        let levels = labels.len();
        if levels == 0 {
            return Penalty::default();
        }
        let known = stores.iter().filter_map(|store| self.stores.get(store));
        let known: Vec<&Store> = known.collect();
        let mut sum = Penalty::default();
        for (nth, a) in known.iter().enumerate() {
            for b in &known[..nth] {
                sum = sum.plus(Penalty::of_pair(shared(labels, a, b), levels));
            }
        }
        sum
    }

    /// The voter on `from` may make place for one on `to`: `to` is fit, the same rule is kept, and
    /// replicas are no closer to each other than before.
    pub(crate) fn may_move(&self, region: &Region, from: u64, to: u64) -> bool {
        if self.takes_peer(to, region).is_err() {
            return false;
        }
        // Somebody has to lead afterwards.
        let heir = |peer: &&Peer| {
            peer.role() == PeerRole::Voter
                && peer.store_id != from
                && self.health(region, peer) == Health::Fine
                && self
                    .stores
                    .get(&peer.store_id)
                    .is_some_and(|at| !at.evicted)
        };
        let leads = region.leader == Some(from);
        if leads && !region.peers.iter().any(|peer| heir(&peer)) && !self.may_lead(region, to) {
            return false;
        }
        let fit = self.fit(region);
        if fit.slots.is_empty() {
            return true;
        }
        let Some(rule) = fit.rule(from) else {
            return false;
        };
        if !rule.takes(&self.stores[&to]) {
            return false;
        }
        let labels = &rule.location_labels;
        let before = fit.of_rule(rule);
        let moved = |store: &u64| if *store == from { to } else { *store };
        let after: Vec<u64> = before.iter().map(moved).collect();
        self.penalty(labels, &after) <= self.penalty(labels, &before)
    }

    /// After all of `pairs` have moved, replicas are no closer to each other than before.
    pub(crate) fn are_apart(&self, region: &Region, pairs: &[(u64, u64)]) -> bool {
        let fit = self.fit(region);
        let moved = |store: &u64| {
            let pair = pairs.iter().find(|(from, _)| from == store);
            pair.map_or(*store, |(_, to)| *to)
        };
        fit.slots.iter().all(|rule| {
            let before = fit.of_rule(rule);
            let after: Vec<u64> = before.iter().map(moved).collect();
            let labels = &rule.location_labels;
            self.penalty(labels, &after) <= self.penalty(labels, &before)
        })
    }

    /// Rules let the voter on `store` lead, and nobody has asked for no leaders there.
    pub(crate) fn may_lead(&self, region: &Region, store: u64) -> bool {
        let Some(view) = self.stores.get(&store) else {
            return false;
        };
        !view.evicted && self.rules_let_lead(region, view)
    }

    pub(crate) fn rules_let_lead(&self, region: &Region, store: &Store) -> bool {
        if region.meta {
            return true;
        }
        let takes = |role: Role| {
            let mut rules = self.placement.at(&region.start);
            rules.any(|rule| rule.role == role && rule.takes(store))
        };
        let mut rules = self.placement.at(&region.start);
        match rules.any(|rule| rule.role == Role::Leader) {
            true => takes(Role::Leader),
            // Rules that name no voters say nothing.
            false => takes(Role::Voter) || !takes(Role::Follower),
        }
    }

    /// Voters that rules ask for at `region`, as far as there are stores.
    pub(crate) fn voters_by_rules(&self, region: &Region) -> Option<usize> {
        let (mut wanted, mut can) = (0, 0);
        let stays = |store: &&Store| store.state.stays();
        for rule in self.placement.at(&region.start) {
            if rule.role.votes() {
                let stores = self.stores.values().filter(stays);
                let stores = stores.filter(|store| rule.takes(store)).take(rule.count);
                (wanted, can) = (wanted + rule.count, can + stores.count());
            }
        }
        let stores = self.stores.values().filter(stays).count();
        let can: usize = can.min(stores);
        (wanted > 0).then(|| match can < wanted {
            true => crate::view::largest_odd(can),
            false => wanted,
        })
    }
}
