//! Planted bugs: does the net catch fish? Each breaks one rule in one place; some seed must notice, and
//! say which invariant broke (fault model, section 4).
//!
//! A bug is of a raft group, of a store, of the in-memory engine, or of what the simulator itself plays:
//! the service in front of a store.

use std::collections::BTreeMap;

use flotilla_engine::memory::Planted as Engine;
use flotilla_raft::Planted as Raft;
use flotilla_raftstore::Planted as Store;

use crate::run::{Failure, run_quietly, world_of};
use crate::world::{Service, World};

/// Raft's own model catches them, where nothing else stands behind the rule. In a store something does, so
/// that no world can show them:
///
/// - `AckOutlivesTerm`: who elects the new term's leader without the entry is not among those who hold it, so
///   that the answer, true or not, makes no quorum;
/// - `SnapshotOfOthers`: a store refuses a snapshot that does not name its peer, and the leader's store builds
///   another where one of an older epoch was refused: a round trip is all that is lost.
pub const GUARDED: [Raft; 2] = [Raft::AckOutlivesTerm, Raft::SnapshotOfOthers];

/// No world can show it, a scenario does, and why.
pub const BY_SCENARIO: [(Store, &str, &str); 2] = [
    (
        Store::RollbackWithoutQuorum,
        "merge-rollback-needs-a-quorum",
        "one peer that has seen the target move on proves as much as a quorum does, as long as a lineage forgets \
     nothing that matters: the quorum is a second guard",
    ),
    (
        Store::PermitOutlivesChange,
        "read-index-and-the-end-of-the-peer",
        "a permit also counts only at the region's epoch, and a read by index may come late: what is left is the \
     moment between the end of a peer's rows and of its door, which is one step of its store",
    ),
];

/// A rule to break, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A store's.
    Store(Store),
    /// A raft group's.
    Raft(Raft),
    /// The engine's.
    Engine(Engine),
    /// The service's.
    Service(Service),
}

impl Bug {
    /// Every one of them that seeds are to show: not those that a second guard makes harmless, nor those of
    /// [`BY_SCENARIO`].
    pub fn all() -> impl Iterator<Item = Self> {
        let shown = |rule: &Store| BY_SCENARIO.iter().all(|(other, ..)| other != rule);
        let store = Store::ALL.into_iter().filter(shown).map(Self::Store);
        let raft = Raft::ALL.into_iter().filter(|rule| !GUARDED.contains(rule));
        let raft = raft.map(Self::Raft);
        let engine = Engine::ALL.into_iter().map(Self::Engine);
        let service = Service::ALL.into_iter().map(Self::Service);
        store.chain(raft).chain(engine).chain(service)
    }

    fn is_of_merges(self) -> bool {
        matches!(
            self,
            Self::Store(
                Store::RollbackOnAbsence
                    | Store::RollbackWithoutQuorum
                    | Store::MergeTruncates
                    | Store::MergeWithoutEntries
                    | Store::MergeOfOldEpoch
                    | Store::SourceDataDeleted
                    | Store::SourceStays
                    | Store::SourceUnheard
                    | Store::MergingServes
                    | Store::MembersOfMerging
                    | Store::OverlapWithoutLineage
            )
        )
    }

    /// `store::NoTombstone` and the like.
    pub fn name(self) -> String {
        match self {
            Self::Store(rule) => format!("store::{rule:?}"),
            Self::Raft(rule) => format!("raft::{rule:?}"),
            Self::Engine(rule) => format!("engine::{rule:?}"),
            Self::Service(rule) => format!("service::{rule:?}"),
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|bug| bug.name() == name)
    }

    /// Breaks it in a world; one of merges in a world that has some.
    pub fn plant(self, world: &mut World) {
        world.merges |= self.is_of_merges();
        match self {
            Self::Store(rule) => world.config.plant.store = Some(rule),
            Self::Raft(rule) => world.config.plant.raft = Some(rule),
            Self::Engine(rule) => world.plants.engine = Some(rule),
            Self::Service(rule) => world.plants.service = Some(rule),
        }
    }

    /// Runs the world of `seed` with the bug. Answers what notices; `None`: nothing does, or something
    /// fails without the bug, too, which proves nothing.
    pub fn try_seed(self, seed: u64) -> Option<String> {
        let mut world = world_of(seed);
        self.plant(&mut world);
        let sound = World {
            merges: world.merges,
            ..world_of(seed)
        };
        let failure = run_quietly(world, 0).err()?;
        run_quietly(sound, 0).ok()?;
        Some(invariant(&failure))
    }

    /// How many seeds from `first` on it takes until something notices, and what does.
    pub fn hunt(self, first: u64, seeds: u64) -> Option<(u64, String)> {
        (0..seeds).find_map(|nth| Some((nth + 1, self.try_seed(first + nth)?)))
    }
}

/// What a hunt from several starting points found.
#[derive(Debug)]
pub struct Hunted {
    /// The bug.
    pub bug: Bug,
    /// Seeds that each starting point took, ascending.
    pub seeds: Vec<u64>,
    /// What noticed, and how often.
    pub by: BTreeMap<String, u64>,
    /// Starting points from which nothing noticed.
    pub missed: u64,
}

impl Hunted {
    /// All rounds of one bug.
    pub fn new(bug: Bug, rounds: impl IntoIterator<Item = Option<(u64, String)>>) -> Self {
        let (mut seeds, mut by, mut missed) = (Vec::new(), BTreeMap::new(), 0);
        for round in rounds {
            match round {
                Some((took, rule)) => {
                    seeds.push(took);
                    *by.entry(rule).or_default() += 1;
                }
                None => missed += 1,
            }
        }
        seeds.sort_unstable();
        Self {
            bug,
            seeds,
            by,
            missed,
        }
    }

    /// The median of the seeds that it took; `None`: half of the starting points or more missed it.
    pub fn median(&self) -> Option<u64> {
        let all = self.seeds.len() + self.missed as usize;
        self.seeds.get(all / 2).copied()
    }

    /// What noticed, the most frequent first.
    pub fn invariants(&self) -> Vec<&str> {
        let mut rules: Vec<_> = self.by.iter().collect();
        rules.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        rules.into_iter().map(|(rule, _)| &**rule).collect()
    }
}

/// The rule that broke, or the assertion of the machines, without its numbers.
fn invariant(failure: &Failure) -> String {
    match failure.rule {
        Some(rule) => format!("{rule:?}"),
        None => {
            let text = failure
                .what
                .strip_prefix("panic: ")
                .unwrap_or(&failure.what);
            let line = text.lines().next().unwrap_or_default();
            let line = line.replace(|letter: char| letter.is_ascii_digit(), "");
            format!(
                "an assertion ({})",
                line.chars().take(80).collect::<String>()
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_counts_what_was_missed_as_late() {
        let bug = Bug::Service(Service::AnsweredTwice);
        let found = |seeds: u64| Some((seeds, "AnsweredOnce".to_owned()));
        let check = |rounds: Vec<Option<(u64, String)>>, median| {
            assert_eq!(Hunted::new(bug, rounds).median(), median);
        };
        check(vec![found(3)], Some(3));
        check(vec![found(9), found(1), found(4)], Some(4));
        check(vec![found(9), None, found(4)], Some(9));
        check(vec![None, None, found(4)], None);
    }

    #[test]
    fn names_differ() {
        let mut names: Vec<String> = Bug::all().map(Bug::name).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
