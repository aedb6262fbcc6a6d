//! Evening out leaders: whoever leads hands over to a voter whose store leads less.

use std::collections::BTreeSet;

use flotilla_proto::metapb::PeerRole;
use rand_xoshiro::rand_core::Rng;

use crate::balance::{Balance, Scores, pick};
use crate::operator::{Kind, Operator, Reason, Step};
use crate::view::Health;

/// Up to `limit` transfers, none of a region in `besides`, from stores that lead the most to stores
/// that lead at least [`Balance::leaders_apart`] and a twentieth of the average less.
///
/// Carried out, each makes the larger of the two numbers smaller: nothing comes back, and planning
/// ends after at most as many transfers as there are regions.
pub fn balance_leaders(
    balance: &Balance<'_>,
    besides: &BTreeSet<u64>,
    limit: usize,
    rng: &mut impl Rng,
) -> Vec<Operator> {
    let Balance {
        cluster, regions, ..
    } = *balance;
    let takes = |id: &u64| {
        let store = &cluster.stores[id];
        store.state == crate::StoreState::Up && !store.evicted
    };
    let held = cluster.stores.iter().filter(|(id, _)| takes(id));
    let mut scores = Scores::new(held.map(|(id, store)| (*id, store.leads)));
    // One more is never too many: it would come back.
    let apart = balance.leaders_apart.max(1).max(scores.mean() / 20);
    let (mut plans, mut taken) = (Vec::new(), BTreeSet::new());
    while plans.len() < limit
        && let Some((from, most)) = scores.highest()
    {
        // Nobody leads so few that this store would hand over.
        if scores
            .lowest()
            .is_none_or(|(_, least)| most <= least + apart)
        {
            break;
        }
        let leaders = regions.held_by(from).map_or(&[][..], |held| &held.leaders);
        let best = pick(leaders, cluster.stores.len(), rng).find_map(|at| {
            let record = regions.record(at);
            if besides.contains(&record.id) || taken.contains(&record.id) || record.has_pending() {
                return None;
            }
            let region = regions.full(record);
            if region.is_joint() {
                return None;
            }
            let fit = |store: &u64| {
                let peer = region.on(*store).expect("a peer's store");
                cluster.health(&region, peer) == Health::Fine && cluster.may_lead(&region, *store)
            };
            let voters = region.with_role(PeerRole::Voter).map(|peer| peer.store_id);
            let others = voters.filter(|store| *store != from).filter(fit);
            let scored = others.filter_map(|store| Some((scores.of(store)?, store)));
            let (least, to) = scored.min()?;
            (most > least + apart).then_some((region, to, least))
        });
        let Some((region, to, least)) = best else {
            // Whatever it leads has to stay, or has nowhere to go.
            scores.drop(from);
            continue;
        };
        taken.insert(region.id);
        let reason = Reason::Leaders {
            from,
            leads: most,
            to,
            led: least,
        };
        scores.set(from, most - 1);
        scores.set(to, least + 1);
        let steps = vec![Step::TransferLeader { store: to }];
        plans.push(region.operator(Kind::Leader, reason, steps));
    }
    plans
}
