//! The arithmetic of majorities, alone and joint (paper section 6, thesis 4.3).
//!
//! A half without voters agrees with everything: that is what the outgoing half is outside a joint
//! configuration.

use crate::config::MEMBERS_MAX;

/// How a vote stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteOutcome {
    /// A quorum granted.
    Won,
    /// A quorum can no longer be reached.
    Lost,
    /// Open.
    Pending,
}

/// Voters needed out of `voters`.
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The highest value that a majority of `voters` has reached. `u64::MAX` for no voters.
pub fn majority_reached(voters: &[u64], value: impl Fn(u64) -> u64) -> u64 {
    match *voters {
        [] => u64::MAX,
        [only] => value(only),
        [first, second] => value(first).min(value(second)),
        [first, second, third] => {
            let (a, b, c) = (value(first), value(second), value(third));
            a.max(b).min(a.min(b).max(c))
        }
        _ => {
            let mut values = [0; MEMBERS_MAX];
            let values = &mut values[..voters.len()];
            for (slot, voter) in values.iter_mut().zip(voters) {
                *slot = value(*voter);
            }
            values.sort_unstable();
            values[voters.len() - majority(voters.len())]
        }
    }
}

/// The highest value that a majority of each half has reached.
pub fn joint_reached(voters: &[u64], outgoing: &[u64], value: impl Fn(u64) -> u64) -> u64 {
    majority_reached(voters, &value).min(majority_reached(outgoing, &value))
}

/// How a vote of one half stands; `answer` tells what a voter said, if anything.
pub fn majority_vote(voters: &[u64], answer: impl Fn(u64) -> Option<bool>) -> VoteOutcome {
    if voters.is_empty() {
        return VoteOutcome::Won;
    }
    let granted = voters
        .iter()
        .filter(|voter| answer(**voter) == Some(true))
        .count();
    let open = voters
        .iter()
        .filter(|voter| answer(**voter).is_none())
        .count();
    let needed = majority(voters.len());
    if granted >= needed {
        VoteOutcome::Won
    } else if granted + open < needed {
        VoteOutcome::Lost
    } else {
        VoteOutcome::Pending
    }
}

/// How a vote of both halves stands.
pub fn joint_vote(
    voters: &[u64],
    outgoing: &[u64],
    answer: impl Fn(u64) -> Option<bool>,
) -> VoteOutcome {
    match (
        majority_vote(voters, &answer),
        majority_vote(outgoing, &answer),
    ) {
        (VoteOutcome::Won, VoteOutcome::Won) => VoteOutcome::Won,
        (VoteOutcome::Lost, _) | (_, VoteOutcome::Lost) => VoteOutcome::Lost,
        _ => VoteOutcome::Pending,
    }
}

#[cfg(test)]
mod tests {
    use rand_xoshiro::SplitMix64;
    use rand_xoshiro::rand_core::{Rng, SeedableRng};

    use super::*;

    /// Voters 1, 2, .. with the values given, in order.
    fn reached(values: &[u64]) -> u64 {
        let voters: Vec<u64> = (1..=values.len() as u64).collect();
        majority_reached(&voters, |voter| values[voter as usize - 1])
    }

    /// By definition: the largest value that at least a majority has.
    fn reached_by_counting(values: &[u64]) -> u64 {
        let enough = |value: &&u64| {
            values.iter().filter(|other| other >= value).count() >= majority(values.len())
        };
        values
            .iter()
            .filter(enough)
            .max()
            .copied()
            .unwrap_or(u64::MAX)
    }

    #[test]
    fn a_majority_reaches_what_counting_says() {
        // Every combination of four values over up to six voters, then larger groups at random.
        for voters in 0..=6u32 {
            for code in 0..4u64.pow(voters) {
                let values: Vec<u64> = (0..voters)
                    .map(|voter| code / 4u64.pow(voter) % 4)
                    .collect();
                assert_eq!(reached(&values), reached_by_counting(&values), "{values:?}");
            }
        }
        let mut rng = SplitMix64::seed_from_u64(1);
        for voters in 1..=MEMBERS_MAX {
            for _ in 0..100 {
                let values: Vec<u64> = (0..voters).map(|_| rng.next_u64() % 10).collect();
                assert_eq!(reached(&values), reached_by_counting(&values), "{values:?}");
            }
        }
    }

    #[test]
    fn a_vote_is_won_lost_or_open_as_its_completions_say() {
        // Three answers each over up to six voters: won if every completion wins, lost if none does.
        for voters in 0..=6u32 {
            let ids: Vec<u64> = (1..=u64::from(voters)).collect();
            for code in 0..3u64.pow(voters) {
                let answer = |voter: u64| match code / 3u64.pow(voter as u32 - 1) % 3 {
                    0 => None,
                    other => Some(other == 1),
                };
                let granted = ids
                    .iter()
                    .filter(|voter| answer(**voter) == Some(true))
                    .count();
                let open = ids.iter().filter(|voter| answer(**voter).is_none()).count();
                let wins = |granted: usize| ids.is_empty() || granted * 2 > ids.len();
                let expected = match (wins(granted), wins(granted + open)) {
                    (true, _) => VoteOutcome::Won,
                    (false, true) => VoteOutcome::Pending,
                    (false, false) => VoteOutcome::Lost,
                };
                assert_eq!(
                    majority_vote(&ids, answer),
                    expected,
                    "{voters} voters, answers {code} in base 3"
                );
            }
        }
    }

    #[test]
    fn a_joint_configuration_takes_the_slower_half_and_both_votes() {
        let values = |voter: u64| voter * 10;
        assert_eq!(joint_reached(&[1, 2, 3], &[], values), 20);
        assert_eq!(joint_reached(&[1, 2, 3], &[3, 4, 5], values), 20);
        assert_eq!(joint_reached(&[7], &[1, 2, 3], values), 20);
        assert_eq!(joint_reached(&[], &[], values), u64::MAX);
        let all = |granted: &'static [u64], refused: &'static [u64]| {
            move |voter: u64| match voter {
                _ if granted.contains(&voter) => Some(true),
                _ if refused.contains(&voter) => Some(false),
                _ => None,
            }
        };
        let vote = |granted, refused| joint_vote(&[1, 2, 3], &[3, 4, 5], all(granted, refused));
        assert_eq!(vote(&[1, 2, 3, 4], &[]), VoteOutcome::Won);
        assert_eq!(vote(&[1, 2, 3], &[]), VoteOutcome::Pending);
        assert_eq!(vote(&[1, 2, 3], &[4, 5]), VoteOutcome::Lost);
        assert_eq!(vote(&[4, 5, 3], &[1, 2]), VoteOutcome::Lost);
    }

    #[test]
    fn two_majorities_always_meet() {
        for voters in 1..=9usize {
            let sets =
                || (0..1u32 << voters).filter(|set| set.count_ones() as usize >= majority(voters));
            assert!(
                sets().all(|one| sets().all(|other| one & other != 0)),
                "{voters} voters"
            );
            let fewer = majority(voters) - 1;
            assert!(2 * fewer <= voters, "one less of {voters} need not meet");
        }
    }
}
