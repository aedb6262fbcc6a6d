//! Planted bugs: do the properties of whole clusters notice a planner that breaks its rules?

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::town::{Bug, MIB, Town, some_town};
use common::{below, rng};
use flotilla_pd_plan::StoreState;

/// Seeds until one must have noticed.
const SEEDS: u64 = 100;

/// A cluster in which each of the bugs can show.
fn town(seed: u64) -> Town {
    let rng = &mut rng(seed);
    let (stores, regions) = (5 + below(rng, 8), 20 + below(rng, 40));
    let mut town = some_town(rng, stores, regions);
    town.merge_bytes = 2 * MIB;
    let pick = |rng: &mut _, town: &Town| 1 + below(rng, town.cluster.stores.len() as u64);
    let (down, full, evicted) = (pick(rng, &town), pick(rng, &town), pick(rng, &town));
    let stores = &mut town.cluster.stores;
    stores.get_mut(&down).expect("one of them").state = StoreState::Disconnected;
    stores.get_mut(&full).expect("one of them").available = 0;
    stores.get_mut(&evicted).expect("one of them").evicted = true;
    town
}

/// The cluster settles, and nothing is left to do.
fn settles(seed: u64, bug: Option<Bug>) -> bool {
    let run = || {
        let mut town = town(seed);
        town.bug = bug;
        let rng = &mut rng(seed + 1);
        town.settle(usize::MAX, 32, rng);
        assert_eq!(town.plan(usize::MAX, rng), Vec::new());
    };
    catch_unwind(AssertUnwindSafe(run)).is_ok()
}

#[test]
fn every_planted_bug_is_noticed_and_without_one_nothing_is() {
    for seed in 0..SEEDS {
        println!("seed={seed}");
        assert!(settles(seed, None), "seed {seed} fails without a bug");
    }
    for bug in Bug::ALL {
        let found = (0..SEEDS).find(|seed| !settles(*seed, Some(bug)));
        println!("{bug:?}: noticed by seed {found:?}");
        assert!(found.is_some(), "{bug:?} is not noticed in {SEEDS} seeds");
    }
}
