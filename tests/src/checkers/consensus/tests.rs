//! Messages that claim too much: each breaks one rule, and its truthful neighbour none.

use std::collections::BTreeMap;

use flotilla_engine::{LogBatch, LogSpan};
use flotilla_proto::metapb::{Peer, RegionEpoch};
use flotilla_proto::store::{RaftRecord, SnapshotIntent, SnapshotManifest, TruncationRecord};

use super::*;
use crate::checkers::log::LogContext;

const REGION: u64 = 3;
const STORE: u64 = 2;
/// The peer of the store, and the leader that it answers to.
const OWN: u64 = 4;
const LEADER: u64 = 8;
/// The leader's term, and an earlier one.
const TERM: u64 = BIRTH.term + 2;
const EARLIER: u64 = BIRTH.term + 1;
const FIRST: u64 = BIRTH.index + 1;

/// What a store's disk holds, and what is known of its leader.
struct Forged {
    oracle: Oracle,
    batches: u64,
}

impl Forged {
    /// The leader of [`TERM`] was elected with an entry of its own at [`FIRST`].
    fn new() -> Self {
        let mut oracle = Oracle::default();
        let led = Led {
            peer: LEADER,
            runs: vec![(FIRST, TERM)],
            last: FIRST,
        };
        let group = oracle.consensus.groups.entry(REGION).or_default();
        group.leaders.insert(TERM, led);
        Self { oracle, batches: 0 }
    }

    /// Written and synced.
    fn disk(&mut self, fill: impl FnOnce(&mut LogBatch)) -> &mut Self {
        let mut batch = LogBatch::default();
        fill(&mut batch);
        self.batches += 1;
        let Oracle {
            stores,
            consensus,
            checks,
            ..
        } = &mut self.oracle;
        let seen = stores.entry(STORE).or_default();
        let (log, survives) = (&mut seen.log, &seen.survives);
        let nothing = BTreeMap::new();
        let buried = [(REGION, OWN)].into();
        let context = LogContext {
            survives,
            applied: &nothing,
            buried: &buried,
            committed: &|_, _| None,
        };
        log.appended(self.batches, &batch, &context, consensus, checks);
        log.synced(self.batches);
        self
    }

    fn state(&mut self, peer: u64, term: u64, vote: u64) -> &mut Self {
        let hard_state = HardState {
            term,
            vote,
            commit: BIRTH.index,
        };
        let record = RaftRecord {
            peer_id: peer,
            hard_state: Some(hard_state),
        };
        self.disk(|batch| batch.set_record(REGION, record))
    }

    fn entry(&mut self, index: u64, term: u64, last: u64) -> &mut Self {
        let entry = Entry {
            index,
            term,
            ..Entry::default()
        };
        self.disk(|batch| batch.append(REGION, vec![entry], last))
    }

    #[track_caller]
    fn says(&mut self, message: Message, broken: Option<Rule>) {
        assert_eq!(self.oracle.violation(), None, "before");
        let message = PeerMessage {
            region_id: REGION,
            message: Some(message),
            ..PeerMessage::default()
        };
        self.oracle.message_leaves(STORE, &message);
        let found = self.oracle.violation().map(|violation| violation.rule);
        assert_eq!(found, broken, "{:?}", self.oracle.violation());
    }
}

fn ack(index: u64) -> Message {
    Message {
        kind: MessageKind::AppendResponse.into(),
        from: OWN,
        to: LEADER,
        term: TERM,
        index,
        ..Message::default()
    }
}

fn vote(term: u64) -> Message {
    Message {
        kind: MessageKind::VoteResponse.into(),
        from: OWN,
        to: LEADER,
        term,
        ..Message::default()
    }
}

#[test]
fn an_entry_is_acknowledged_only_where_the_disk_has_that_one() {
    let disk = |term| {
        let mut forged = Forged::new();
        forged.state(OWN, TERM, 0).entry(FIRST, term, 0);
        forged
    };
    disk(TERM).says(ack(FIRST), None);
    disk(EARLIER).says(ack(FIRST), Some(Rule::DurableBeforeSaid));
    disk(TERM).says(ack(FIRST + 1), Some(Rule::AckedSnapshotHasIntent));
    // What it had when it said so counts, though a later leader has cut it off since.
    let mut late = disk(TERM);
    late.state(OWN, TERM + 1, 0)
        .entry(FIRST, TERM + 1, FIRST)
        .says(ack(FIRST), None);
}

#[test]
fn a_snapshot_is_acknowledged_only_behind_its_intent() {
    let index = BIRTH.index + 20;
    let intent = |index| SnapshotIntent {
        peer_id: OWN,
        manifest: Some(SnapshotManifest {
            index,
            term: EARLIER,
            ..SnapshotManifest::default()
        }),
        overlapped: Vec::new(),
    };
    let disk = |taken: Option<u64>| {
        let mut forged = Forged::new();
        forged.state(OWN, TERM, 0);
        if let Some(index) = taken {
            forged.disk(|batch| {
                let term = EARLIER;
                batch.set_intent(REGION, intent(index));
                batch.truncate(REGION, TruncationRecord { index, term }, FIRST);
            });
        }
        forged
    };
    disk(None).says(ack(index), Some(Rule::AckedSnapshotHasIntent));
    disk(Some(index - 1)).says(ack(index), Some(Rule::AckedSnapshotHasIntent));
    disk(Some(index)).says(ack(index), None);
    // It is in place, and durable in the state.
    let mut placed = disk(Some(index));
    placed.oracle.store(STORE).survives.insert(REGION, index);
    placed.disk(|batch| batch.clear_intent(REGION));
    placed.says(ack(index), None);
}

#[test]
fn what_an_ended_peer_had_promised_it_keeps() {
    let ended = |voted_for| {
        let mut forged = Forged::new();
        forged
            .state(OWN, TERM, voted_for)
            .disk(|batch| batch.clear(REGION, LogSpan { first: 0, last: 0 }))
            .state(OWN + 1, TERM, 0);
        forged
    };
    ended(LEADER).says(vote(TERM), None);
    ended(OWN).says(vote(TERM), Some(Rule::DurableBeforeSaid));
    // The batch that cleared its log may have brought this before.
    ended(LEADER).says(vote(TERM + 1), None);
    ended(0).says(vote(TERM), None);
}

#[test]
fn a_peer_votes_once_in_a_term() {
    let check = |votes: [(u64, u64); 2], rule: Option<Rule>| {
        let mut forged = Forged::new();
        let Oracle {
            consensus, checks, ..
        } = &mut forged.oracle;
        for (term, vote) in votes {
            consensus.voted(REGION, OWN, term, vote, checks);
        }
        let found = forged.oracle.violation().map(|violation| violation.rule);
        assert_eq!(found, rule, "{votes:?}");
    };
    check([(TERM, LEADER), (TERM, LEADER)], None);
    check([(TERM, LEADER), (TERM + 1, OWN)], None);
    check([(TERM, LEADER), (TERM, 0)], None);
    check([(TERM, LEADER), (TERM, OWN)], Some(Rule::OneVotePerTerm));
}

#[test]
fn a_start_has_applied_what_was_durably_committed() {
    let check = |applied, rule: Option<Rule>| {
        let mut forged = Forged::new();
        forged.state(OWN, TERM, 0);
        let oracle = &mut forged.oracle;
        oracle.store(STORE).applied.insert(REGION, applied);
        oracle.check_barrier(STORE);
        assert_eq!(oracle.violation().map(|violation| violation.rule), rule);
    };
    check(BIRTH.index, None);
    check(BIRTH.index - 1, Some(Rule::ReplayBarrier));
}

#[test]
fn nobody_is_elected_over_keys_that_another_may_read() {
    let region = |id, version, keys: (&'static str, &'static str)| Region {
        id,
        start_key: keys.0.into(),
        end_key: keys.1.into(),
        region_epoch: Some(RegionEpoch {
            version,
            conf_ver: 1,
        }),
        peers: vec![Peer::default()],
        ..Region::default()
    };
    let check = |elected: Region, leased: Region, alone: bool| {
        let mut oracle = Oracle::default();
        oracle.check_elected_alone(1, &elected, &[(2, leased)]);
        assert_eq!(oracle.violation().is_none(), alone);
    };
    check(region(3, 1, ("a", "z")), region(3, 1, ("a", "z")), false);
    check(region(3, 1, ("a", "m")), region(5, 1, ("m", "z")), true);
    // A child of a split that the elected one has not applied.
    check(region(3, 1, ("a", "z")), region(5, 2, ("m", "z")), true);
    // The elected one is the child: its parent's old range is over.
    check(region(5, 2, ("m", "z")), region(3, 1, ("a", "z")), false);
}
