//! Questions for votes that come before the split that makes the peer they are for.
//!
//! A child campaigns where its parent leads as soon as the split is applied there, which is often a
//! sync earlier than elsewhere. If its first question were dropped, it would have to wait an election
//! timeout for the next.

use std::collections::VecDeque;
use std::time::Duration;

use flotilla_proto::clock::Mono;
use flotilla_proto::raft::MessageKind;
use flotilla_proto::store::PeerMessage;

/// Questions that are kept at once; a newer one takes the place of the oldest.
const EARLY_MAX: usize = 256;

/// The newest question of each candidate, oldest first.
#[derive(Debug, Default)]
pub(super) struct Early {
    waiting: VecDeque<(Mono, PeerMessage)>,
}

impl Early {
    /// Keeps `message` if it is such a question.
    pub(super) fn keep(&mut self, now: Mono, message: PeerMessage) {
        let kind = message.message.as_ref().map(|inner| inner.kind());
        if !matches!(kind, Some(MessageKind::PreVote | MessageKind::Vote)) {
            return;
        }
        let same = |other: &PeerMessage| {
            (other.region_id, other.from_peer) == (message.region_id, message.from_peer)
        };
        self.waiting.retain(|(_, other)| !same(other));
        if self.waiting.len() == EARLY_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back((now, message));
    }

    /// Those for `region`, whose peer is there now. Nobody waits any more for the answer to one that
    /// is as old as `age_max`.
    pub(super) fn take(&mut self, now: Mono, region: u64, age_max: Duration) -> Vec<PeerMessage> {
        self.waiting.retain(|(came, _)| now - *came < age_max);
        let (taken, rest) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(_, message)| message.region_id == region);
        self.waiting = rest;
        let taken: VecDeque<(Mono, PeerMessage)> = taken;
        taken.into_iter().map(|(_, message)| message).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_proto::metapb::Peer;
    use flotilla_proto::raft::Message;

    const AGE_MAX: Duration = Duration::from_secs(1);

    fn question(region: u64, from: u64, kind: MessageKind, term: u64) -> PeerMessage {
        PeerMessage {
            region_id: region,
            from_peer: Some(Peer {
                id: from,
                ..Peer::default()
            }),
            message: Some(Message {
                kind: kind.into(),
                term,
                ..Message::default()
            }),
            ..PeerMessage::default()
        }
    }

    #[track_caller]
    fn check(early: &mut Early, at: u64, region: u64, expected: &[(u64, u64)]) {
        let taken = early.take(Mono(at), region, AGE_MAX);
        let shown = taken.iter().map(|message| {
            let from = message.from_peer.map_or(0, |peer| peer.id);
            (from, message.message.as_ref().map_or(0, |inner| inner.term))
        });
        assert_eq!(shown.collect::<Vec<_>>(), expected, "region {region}");
    }

    #[test]
    fn the_newest_question_of_each_candidate_waits_for_a_while() {
        use MessageKind::{Heartbeat, PreVote, Vote};
        let mut early = Early::default();
        for message in [
            question(7, 70, PreVote, 6),
            question(8, 80, PreVote, 6),
            question(7, 71, Heartbeat, 6),
            question(7, 72, PreVote, 6),
            question(7, 70, Vote, 7),
        ] {
            early.keep(Mono(0), message);
        }
        check(&mut early, 1, 9, &[]);
        check(&mut early, 1, 7, &[(72, 6), (70, 7)]);
        check(&mut early, 1, 7, &[]);
        check(&mut early, AGE_MAX.as_nanos() as u64, 8, &[]);
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut early = Early::default();
        for region in 0..=EARLY_MAX as u64 {
            early.keep(Mono(0), question(region, 1, MessageKind::PreVote, 6));
        }
        check(&mut early, 0, 0, &[]);
        check(&mut early, 0, 1, &[(1, 6)]);
        check(&mut early, 0, EARLY_MAX as u64, &[(1, 6)]);
    }
}
