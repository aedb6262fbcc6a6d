//! Whole clusters by seeds: every planner at work, until nothing is left to do.

mod common;

use common::town::{ALL, MIB, Plans, Town, default_rule, some_town};
use common::{below, rng, seeds};
use flotilla_pd_plan::{Placement, StoreState};

/// Rounds until nothing is planned, with as many operators of a kind in a round as there are regions.
/// Rounds are many where each store's last excess goes step by step.
const ROUNDS_MAX: usize = 32;

#[test]
fn planners_end_keep_every_rule_at_every_step_and_leave_nothing_to_do() {
    let (mut rounds, mut longest) = (0, 0);
    seeds(300, |rng| {
        let stores = 1 + below(rng, 24);
        let regions = 1 + below(rng, 200);
        let mut town = some_town(rng, stores, regions);
        if below(rng, 2) == 0 {
            town.merge_bytes = below(rng, 4) * MIB;
        }
        for store in town.cluster.stores.values_mut() {
            match below(rng, 20) {
                0 => store.state = StoreState::Offline,
                1 => store.evicted = true,
                2 => store.state = StoreState::Disconnected,
                3 => store.busy = true,
                4 => store.available = 0,
                _ => {}
            }
        }
        let took = town.settle(usize::MAX, ROUNDS_MAX, rng);
        (rounds, longest) = (rounds + took, longest.max(took));
        town.regions.check();
        // Another draw finds nothing either.
        for _ in 0..3 {
            assert_eq!(town.plan(usize::MAX, rng), Vec::new());
        }
    });
    println!("{rounds} rounds, at most {longest} for one cluster");
}

/// All stores up and free, enough regions that a twentieth of the average is more than one.
#[test]
fn stores_differ_by_less_than_a_tenth_in_the_end() {
    seeds(12, |rng| {
        let stores = 4 + below(rng, 30);
        let mut town = some_town(rng, stores, stores * 40);
        town.plans = Plans {
            hot: false,
            merges: false,
            ..ALL
        };
        // Zones of different sizes cannot hold the same and stay apart.
        town.apart = false;
        town.cluster.placement = Placement::new(vec![default_rule(3, &[])]).into();
        town.settle(usize::MAX, ROUNDS_MAX, rng);
        let (most, least, mean) = town.spread(|store| store.leads);
        assert!(
            10 * (most - least) < mean,
            "leaders: {least} to {most}, {mean}"
        );
        let (most, least, mean) = town.spread(|store| store.weight);
        assert!(
            10 * (most - least) < mean,
            "weight: {least} to {most}, {mean}"
        );
    });
}

#[test]
fn the_same_cluster_and_the_same_seed_give_the_same_plan() {
    seeds(30, |rng_of_town| {
        let (stores, regions) = (1 + below(rng_of_town, 20), below(rng_of_town, 100));
        let mut town = some_town(rng_of_town, stores, regions);
        town.merge_bytes = 2 * MIB;
        let plan = |town: &Town| town.plan(16, &mut rng(7));
        assert_eq!(plan(&town), plan(&town));
    });
}

/// A tenth of the size of the largest cluster that is promised; that one is an example, in the release
/// profile.
#[test]
fn a_large_cluster_settles_with_bounded_rounds() {
    seeds(1, |rng| {
        let mut town = some_town(rng, 100, 10_000);
        town.plans.merges = false;
        let took = town.settle(usize::MAX, ROUNDS_MAX, rng);
        println!("{took} rounds");
        town.regions.check();
    });
}
