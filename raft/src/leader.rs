//! What only a leader keeps. A follower pays nothing for it.

use std::collections::VecDeque;

use flotilla_proto::clock::Mono;

use crate::progress::Progress;

/// Rounds remembered with the time they were sent. A new one beyond that takes the newest's place:
/// answers to the replaced one then count for the one before it, which is safe.
const ROUNDS_MAX: usize = 16;

#[derive(Debug)]
pub(crate) struct Leader {
    /// Every member, this peer included; in the order of the configuration.
    pub(crate) peers: Vec<Progress>,
    /// The first entry of the leader's own term.
    pub(crate) first_index: u64,
    /// No change of the configuration is proposed before this index is applied.
    pub(crate) pending_conf: u64,
    /// Payload bytes proposed in this term and not handed out as committed.
    pub(crate) uncommitted: u64,
    /// Something may have to be sent: looked at by the next Ready.
    pub(crate) replicate: bool,
    pub(crate) next_heartbeat: Mono,
    /// Silence before this moment does not count against the leader.
    pub(crate) quorum_since: Mono,
    pub(crate) rounds: Rounds,
    pub(crate) reads: Reads,
    pub(crate) transfer: Option<Transfer>,
    /// Transfers begun in this term, and how many of them were given up.
    pub(crate) attempts: u64,
    pub(crate) voided: u64,
}

impl Leader {
    pub(crate) fn new(peers: Vec<Progress>, first_index: u64, now: Mono) -> Self {
        Self {
            peers,
            first_index,
            pending_conf: first_index,
            uncommitted: 0,
            replicate: true,
            next_heartbeat: now,
            quorum_since: now,
            rounds: Rounds::default(),
            reads: Reads::default(),
            transfer: None,
            attempts: 0,
            voided: 0,
        }
    }

    pub(crate) fn peer(&self, id: u64) -> Option<&Progress> {
        self.peers.iter().find(|peer| peer.id == id)
    }

    pub(crate) fn peer_mut(&mut self, id: u64) -> Option<&mut Progress> {
        self.peers.iter_mut().find(|peer| peer.id == id)
    }
}

/// A transfer under way. While there is one the leader takes no proposals and has no lease.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) to: u64,
    pub(crate) deadline: Mono,
    /// The target was told to campaign.
    pub(crate) told: bool,
}

/// Confirmation rounds, numbered by the leader alone: an acknowledgement counts for the round it
/// names and the earlier ones of this term, whatever a read's origin called itself.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// The newest round begun.
    pub(crate) last: u64,
    /// Unconfirmed rounds and when they were sent, ascending.
    sent: VecDeque<(u64, Mono)>,
    /// The newest round a quorum answered, and when it was sent.
    pub(crate) confirmed: u64,
    confirmed_sent: Mono,
    /// Rounds up to this one say nothing about the lease: a transfer was under way or a barrier was
    /// between commit and apply when they were sent.
    floor: u64,
}

impl Rounds {
    pub(crate) fn begin(&mut self, now: Mono) -> u64 {
        self.last += 1;
        if self.sent.len() == ROUNDS_MAX {
            self.sent.pop_back();
        }
        self.sent.push_back((self.last, now));
        self.last
    }

    /// A quorum answered `round` or a later one each. Returns whether that is news.
    pub(crate) fn confirm(&mut self, round: u64) -> bool {
        let news = round > self.confirmed;
        self.confirmed = self.confirmed.max(round);
        while let Some((_, sent)) = self.sent.pop_front_if(|(number, _)| *number <= round) {
            self.confirmed_sent = sent;
        }
        news
    }

    /// For a planted bug: pretends that all rounds were sent at `now`.
    pub(crate) fn date_newest(&mut self, now: Mono) {
        self.sent.iter_mut().for_each(|(_, sent)| *sent = now);
    }

    /// The lease starts anew: only rounds from now on count for it.
    pub(crate) fn raise_floor(&mut self) {
        self.floor = self.last;
    }

    /// When the newest confirmed round was sent, if it counts for the lease.
    pub(crate) fn lease_from(&self) -> Option<Mono> {
        (self.confirmed > self.floor).then_some(self.confirmed_sent)
    }
}

/// Who asked for a read index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// The caller, by its token.
    Here(u64),
    /// A follower, by its request number.
    There { peer: u64, number: u64 },
}

/// Reads that wait for a round.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// Not in a round yet.
    pub(crate) waiting: Vec<Reader>,
    /// In a round, ascending.
    pub(crate) asked: VecDeque<Asked>,
    /// Invariant: readers in `waiting` and `asked` together.
    pub(crate) count: usize,
}

/// The reads of one round.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) round: u64,
    /// The commit index when the round began.
    pub(crate) index: u64,
    pub(crate) readers: Vec<Reader>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_confirmed_with_the_time_it_was_sent() {
        let mut rounds = Rounds::default();
        for at in [10, 20, 30] {
            rounds.begin(Mono(at));
        }
        assert_eq!(rounds.lease_from(), None);
        assert!(rounds.confirm(2));
        assert_eq!(rounds.lease_from(), Some(Mono(20)));
        assert!(
            !rounds.confirm(1),
            "an older acknowledgement changes nothing"
        );
        assert_eq!(rounds.lease_from(), Some(Mono(20)));
    }

    #[test]
    fn a_raised_floor_asks_for_a_newer_round() {
        let mut rounds = Rounds::default();
        rounds.begin(Mono(10));
        rounds.raise_floor();
        assert!(rounds.confirm(1));
        assert_eq!(rounds.lease_from(), None);
        rounds.begin(Mono(20));
        rounds.confirm(2);
        assert_eq!(rounds.lease_from(), Some(Mono(20)));
    }

    #[test]
    fn a_full_table_never_dates_an_answer_later_than_it_was_sent() {
        let mut rounds = Rounds::default();
        for at in 1..=100 {
            assert_eq!(rounds.begin(Mono(at)), at);
        }
        assert_eq!(rounds.sent.len(), ROUNDS_MAX);
        rounds.confirm(99);
        let from = rounds.lease_from().expect("a round was confirmed");
        assert!(from <= Mono(99), "{from:?}");
        rounds.confirm(100);
        assert_eq!(rounds.lease_from(), Some(Mono(100)));
    }
}
