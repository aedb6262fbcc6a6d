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
