//! Evening out what stores hold: peers move from the fullest store to emptier ones.

use std::collections::{BTreeMap, BTreeSet};

use rand_xoshiro::rand_core::Rng;

use crate::StoreState;
use crate::balance::{Balance, Scores, Wanted, pick};
use crate::operator::{Kind, Operator, Reason};
use crate::regions::REGION_WEIGHT;
use crate::replicas::replace;
use crate::view::{Health, Store};

/// Emptiest stores that are asked whether they take a peer.
const TARGETS: usize = 32;

/// Up to `limit` moves, none of a region in `besides`, from stores that are the fullest to stores that
/// are emptier by more than [`Balance::weight_apart`] and a twentieth of the average.
///
/// After a move the store that gave is still no emptier than the one that got: nothing comes back, the
/// sum of the squares falls with each, and planning ends.
pub fn balance_regions(
    balance: &Balance<'_>,
    besides: &BTreeSet<u64>,
    limit: usize,
    rng: &mut impl Rng,
) -> Vec<Operator> {
    let Balance {
        cluster, regions, ..
    } = *balance;
    let gives = |store: &Store| matches!(store.state, StoreState::Up | StoreState::Disconnected);
    let there = cluster.stores.iter().filter(|(_, store)| gives(store));
    let mut scores = Scores::new(there.map(|(id, store)| (*id, fullness(store, store.weight))));
    let apart = balance.weight_apart.max(scores.mean() / 20);
    let wanted = Wanted::new(cluster);
    let (mut plans, mut taken) = (Vec::new(), BTreeSet::new());
    let mut weights: BTreeMap<u64, u64> = cluster
        .stores
        .iter()
        .map(|(id, store)| (*id, store.weight))
        .collect();
    while plans.len() < limit
        && let Some((from, most)) = scores.highest()
    {
        if scores
            .lowest()
            .is_none_or(|(_, least)| most <= least + apart)
        {
            break;
        }
        let peers = regions.held_by(from).map_or(&[][..], |held| &held.peers);
        let best = pick(peers, cluster.stores.len(), rng).find_map(|at| {
            let record = regions.record(at);
            let busy = besides.contains(&record.id) || taken.contains(&record.id);
            if busy || record.has_pending() || !record.is_plain() {
                return None;
            }
            let region = regions.full(record);
            if region.leader.is_none() || !wanted.is_right(&region) {
                return None;
            }
            let fine = |peer| cluster.health(&region, peer) == Health::Fine;
            if !region.peers.iter().all(fine) {
                return None;
            }
            let weight = record.weight();
            let to = scores.rising().take(TARGETS).find(|(store, score)| {
                let (gave, got) = (weights[&from] - weight.min(weights[&from]), weights[store]);
                let stores = &cluster.stores;
                // Afterwards the one is still as full as the other, or fuller.
                let evens = fullness(&stores[&from], gave)
                    >= fullness(&stores[store], got.saturating_add(weight));
                most > score + apart && evens && cluster.may_move(&region, from, *store)
            })?;
            Some((region, weight, to))
        });
        let Some((region, weight, (to, _))) = best else {
            scores.drop(from);
            continue;
        };
        taken.insert(region.id);
        let reason = Reason::Fullness {
            from,
            mib: weights[&from] / REGION_WEIGHT,
            to,
            less: weights[&to] / REGION_WEIGHT,
        };
        let steps = replace(cluster, &region, (from, to), rng);
        for (store, weight_now) in [
            (from, weights[&from] - weight.min(weights[&from])),
            (to, weights[&to].saturating_add(weight)),
        ] {
            weights.insert(store, weight_now);
            scores.set(store, fullness(&cluster.stores[&store], weight_now));
        }
        plans.push(region.operator(Kind::Region, reason, steps));
    }
    plans
}

/// How full a store is with regions of `weight`: the weight itself while there is space, and up to
/// five times that where its disk runs full, so that a small disk is spared in time.
fn fullness(store: &Store, weight: u64) -> u64 {
    // What its regions will take beside what they take now is not free any more.
    let more = weight.saturating_sub(store.weight);
    let free = store.available.saturating_sub(more);
    let free = free.saturating_add(store.weight.saturating_sub(weight));
    let comfortable = store.capacity / 5 * 2;
    if store.capacity == 0 || free >= comfortable {
        return weight;
    }
    let lacking = u128::from(comfortable - free) * 4;
    let factor = lacking * 1_024 / u128::from(comfortable.max(1)) + 1_024;
    u64::try_from(u128::from(weight) * factor / 1_024).unwrap_or(u64::MAX)
}
