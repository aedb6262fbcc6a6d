//! The raft invariants 1 to 12 of the fault model, each checked as soon as it could break.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::raft::{ConfState, Entry, EntryKind, Message, MessageKind};
use flotilla_raft::quorum::{VoteOutcome, joint_vote};
use flotilla_raft::{
    INITIAL_INDEX, INITIAL_TERM, LogView, Raft, ReadGrant, Ready, Role, StepError,
};

use crate::common::{Node, View, conf_of, entry_hash, mix};
use crate::world::{Place, holds_lease};

/// How often the interesting things happened: a model that reaches none of them proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reached {
    pub(crate) steps: u64,
    pub(crate) leaders: u64,
    pub(crate) committed: u64,
    pub(crate) conf_changes: u64,
    pub(crate) joint: u64,
    pub(crate) reads: u64,
    pub(crate) lease_checks: u64,
    pub(crate) snapshots: u64,
    pub(crate) crashes: u64,
    pub(crate) transfers: u64,
}

impl Reached {
    fn fields(&mut self) -> [&mut u64; 10] {
        [
            &mut self.steps,
            &mut self.leaders,
            &mut self.committed,
            &mut self.conf_changes,
            &mut self.joint,
            &mut self.reads,
            &mut self.lease_checks,
            &mut self.snapshots,
            &mut self.crashes,
            &mut self.transfers,
        ]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let mut other = *other;
        for (sum, more) in self.fields().into_iter().zip(other.fields()) {
            *sum += *more;
        }
    }

    /// Everything happened, and not just once in a while.
    pub(crate) fn check(&mut self) {
        let shown = format!("{self:?}");
        assert!(
            self.fields().into_iter().all(|count| *count > 10_000),
            "too rare to prove anything: {shown}"
        );
    }
}

/// What was seen last of a running peer.
#[derive(Clone, Copy, Default)]
struct Seen {
    term: u64,
    commit: u64,
    applied: u64,
    led: u64,
}

pub(crate) struct Checker {
    /// Committed entries from the first on: their terms, the hashes of the chain up to them, and the
    /// configuration after them where it changed.
    terms: Vec<u64>,
    /// The terms of the leaders that committed them; these never fall.
    committed_in: Vec<u64>,
    chains: Vec<u64>,
    confs: BTreeMap<u64, ConfState>,
    /// Entry by (index, term): the term before it, and what it says.
    entries: BTreeMap<(u64, u64), (u64, Entry)>,
    leaders: BTreeMap<u64, u64>,
    /// (voter, term) -> candidate.
    votes: BTreeMap<(u64, u64), u64>,
    seen: BTreeMap<u64, Seen>,
    acknowledged: u64,
    pub(crate) reached: Reached,
}

impl Checker {
    pub(crate) fn new(conf: ConfState) -> Self {
        Self {
            terms: vec![INITIAL_TERM],
            committed_in: vec![INITIAL_TERM],
            chains: vec![0],
            confs: BTreeMap::from([(INITIAL_INDEX, conf)]),
            entries: BTreeMap::new(),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            seen: BTreeMap::new(),
            acknowledged: 0,
            reached: Reached::default(),
        }
    }

    fn committed(&self) -> u64 {
        INITIAL_INDEX + self.terms.len() as u64 - 1
    }

    fn committed_term(&self, index: u64) -> Option<u64> {
        let slot = index.checked_sub(INITIAL_INDEX)?;
        self.terms.get(slot as usize).copied()
    }

    /// The newest write a client was told of.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(crate) fn acknowledge(&mut self, index: u64) {
        self.acknowledged = self.acknowledged.max(index);
    }

    /// Members of the newest committed configuration.
    pub(crate) fn members(&self) -> BTreeSet<u64> {
        let (_, conf) = self.confs.last_key_value().expect("there is always one");
        [&conf.voters, &conf.voters_outgoing, &conf.learners]
            .into_iter()
            .flatten()
            .copied()
            .collect()
    }

    // ---- what a peer says and does ----

    pub(crate) fn delivered(&mut self, outcome: Result<(), StepError>) {
        match outcome {
            Ok(()) | Err(StepError::UnknownPeer { .. } | StepError::NotInSnapshot { .. }) => {}
            Err(error) => panic!("an honest message was refused: {error}"),
        }
    }

    /// 3: entries with one index and term say the same and follow the same.
    pub(crate) fn handed_out(&mut self, node: &Node, ready: &Ready) {
        let raft = node.raft.as_ref().expect("it runs");
        if ready.snapshot.is_some() {
            self.reached.snapshots += 1;
        }
        self.durable_commit(node, raft, ready);
        let Some(first) = ready.entries.first() else {
            return;
        };
        let mut before = raft
            .term_at(first.index - 1)
            .expect("what precedes an append is known");
        for entry in &ready.entries {
            let id = (entry.index, entry.term);
            let known = self
                .entries
                .entry(id)
                .or_insert_with(|| (before, entry.clone()));
            assert_eq!(
                known.0, before,
                "log matching: what precedes {id:?} differs"
            );
            assert_eq!(known.1, *entry, "log matching: {id:?} differs");
            before = entry.term;
        }
    }

    /// C4: nothing is applied that is not durable here, what is more than data not before its commit
    /// is, and new entries carry the newest commit index.
    fn durable_commit(&self, node: &Node, raft: &Raft<View>, ready: &Ready) {
        let disk = &node.disk;
        for Entry { index, kind, .. } in &ready.committed {
            assert!(
                *index <= disk.log.last_index(),
                "{} applies {index} before it is durable",
                node.id
            );
            let data = *kind == EntryKind::Data as i32;
            let durable = data || *index <= disk.hard_state.commit;
            assert!(
                durable,
                "{} applies {index}, which is more than data, before its commit is durable",
                node.id
            );
        }
        if !ready.entries.is_empty() {
            let written = node
                .writes
                .iter()
                .rev()
                .find_map(|write| write.hard_state)
                .unwrap_or(disk.hard_state);
            let newest = ready.hard_state.unwrap_or(written);
            assert!(
                newest.commit >= raft.commit(),
                "{} appends without its newest commit index",
                node.id
            );
        }
    }

    /// 2: one vote per term, as the disk has it.
    pub(crate) fn wrote(&mut self, node: &Node) {
        let state = node.disk.hard_state;
        if state.vote != 0 {
            self.vote(node.id, state.term, state.vote);
        }
    }

    fn vote(&mut self, voter: u64, term: u64, candidate: u64) {
        let first = *self.votes.entry((voter, term)).or_insert(candidate);
        assert_eq!(
            first, candidate,
            "one vote per term: {voter} voted for {first} and {candidate} in term {term}"
        );
    }

    /// 11: what a message claims is durable when it leaves.
    pub(crate) fn leaves(&mut self, node: &Node, message: &Message) {
        let disk = &node.disk;
        let state = disk.hard_state;
        let kind = MessageKind::try_from(message.kind).expect("a known kind");
        let durable_vote =
            |term: u64, vote: u64| state.term > term || (state.term, state.vote) == (term, vote);
        let claim = match kind {
            MessageKind::Vote => durable_vote(message.term, message.from),
            MessageKind::VoteResponse if !message.reject => {
                self.vote(node.id, message.term, message.to);
                durable_vote(message.term, message.to)
            }
            MessageKind::AppendResponse if !message.reject => {
                let held = disk.log.last_index() >= message.index;
                // The log below a snapshot under way is behind its truncation point.
                held && state.term >= message.term
            }
            MessageKind::Append | MessageKind::Snapshot | MessageKind::HeartbeatResponse => {
                state.term >= message.term
            }
            MessageKind::TimeoutNow => {
                self.reached.transfers += 1;
                true
            }
            _ => true,
        };
        assert!(
            claim,
            "{kind:?} of {} left before it was true on disk: {message:?}, {state:?}",
            node.id
        );
    }

    pub(crate) fn crashed(&mut self, node: &Node) {
        self.reached.crashes += 1;
        self.wrote(node);
        self.seen.remove(&node.id);
    }

    /// Replicas that applied the same index are the same.
    pub(crate) fn applied(&self, place: &Place) {
        let machine = &place.node.machine;
        let slot = (machine.applied - INITIAL_INDEX) as usize;
        let chain = self.chains.get(slot);
        assert_eq!(
            chain,
            Some(&machine.chain),
            "{} applied something else at {}",
            place.node.id,
            machine.applied
        );
    }

    /// 12: a read sees every write acknowledged before it.
    pub(crate) fn granted(&mut self, reads: &mut BTreeMap<u64, u64>, grant: ReadGrant) {
        self.reached.reads += 1;
        let floor = reads.remove(&grant.token).expect("a read is answered once");
        assert!(
            grant.index >= floor,
            "stale read: granted at {}, {floor} was acknowledged before",
            grant.index
        );
        assert!(
            grant.index <= self.committed(),
            "read of an uncommitted index {}",
            grant.index
        );
    }

    // ---- after every step ----

    /// Looks at the peer that was touched, and at everybody's lease.
    pub(crate) fn look(&mut self, places: &BTreeMap<u64, Place>, id: u64) {
        self.reached.steps += 1;
        if let Some(raft) = &places[&id].node.raft {
            self.order(raft);
            self.leadership(raft);
            self.commitment(places, raft);
            self.remember(raft);
        }
        self.leases(places);
    }

    /// 6 and 8: nothing falls, and the indexes stand in order.
    fn order(&self, raft: &Raft<View>) {
        let seen = self.seen.get(&raft.id()).copied().unwrap_or_default();
        let before = [seen.term, seen.commit, seen.applied];
        let (term, commit, applied, last) = (
            raft.term(),
            raft.commit(),
            raft.applied_index(),
            raft.last_index(),
        );
        let now = [term, commit, applied];
        assert!(
            before.iter().zip(now).all(|(before, now)| now >= *before),
            "{before:?} fell to {now:?}: {:?}",
            raft.status()
        );
        let first = raft.log().first_index();
        let ordered = applied <= commit
            && commit <= last
            && first <= last + 1
            && raft.persisted_index() <= last;
        assert!(ordered, "{:?}", raft.status());
    }

    /// 1, 4 and 10: one leader per term, elected by a quorum of voters, with all that is committed.
    fn leadership(&mut self, raft: &Raft<View>) {
        let (id, term) = (raft.id(), raft.term());
        if raft.role() != Role::Leader || self.seen.get(&id).is_some_and(|seen| seen.led == term) {
            return;
        }
        self.reached.leaders += 1;
        let first = *self.leaders.entry(term).or_insert(id);
        assert_eq!(first, id, "two leaders in term {term}");
        let conf = raft.conf();
        let granted = |voter: u64| (self.votes.get(&(voter, term)) == Some(&id)).then_some(true);
        let outcome = joint_vote(&conf.voters, &conf.voters_outgoing, granted);
        assert_eq!(
            outcome,
            VoteOutcome::Won,
            "{id} leads term {term} without the votes of a quorum"
        );
        let earlier = self
            .committed_in
            .partition_point(|committed_in| *committed_in < term);
        let index = INITIAL_INDEX + earlier as u64 - 1;
        assert!(
            raft.last_index() >= index,
            "{id} leads term {term} without committed entry {index}"
        );
        let committed = self.committed_term(index);
        assert_eq!(
            raft.term_at(index),
            committed,
            "{id} leads term {term} with another entry at {index}"
        );
    }

    /// 4, 5, 7, 9, 10: what is committed stays, and came about by a quorum's disks.
    fn commitment(&mut self, places: &BTreeMap<u64, Place>, raft: &Raft<View>) {
        let from = self
            .seen
            .get(&raft.id())
            .map_or(INITIAL_INDEX, |seen| seen.commit);
        for index in from + 1..=raft.commit().min(self.committed()) {
            // Below the log's beginning the snapshot speaks, and `applied` compares that.
            if let Some(term) = raft.term_at(index) {
                assert_eq!(
                    Some(term),
                    self.committed_term(index),
                    "{} committed another entry at {index}",
                    raft.id()
                );
            }
        }
        if raft.commit() <= self.committed() {
            return;
        }
        assert_eq!(
            raft.role(),
            Role::Leader,
            "{} follows and commits first",
            raft.id()
        );
        let commit = raft.commit();
        assert_eq!(
            raft.term_at(commit),
            Some(raft.term()),
            "an entry of an older term was committed by count"
        );
        let conf = raft.conf();
        let holds = |id: u64| {
            let log = &places[&id].node.disk.log;
            let held = log.term(commit) == raft.term_at(commit) || log.first_index() > commit;
            held.then_some(true)
        };
        let outcome = joint_vote(&conf.voters, &conf.voters_outgoing, holds);
        assert_eq!(
            outcome,
            VoteOutcome::Won,
            "{commit} was committed and a quorum does not have it on disk"
        );
        for index in self.committed() + 1..=commit {
            let term = raft
                .term_at(index)
                .expect("the leader holds what it commits");
            self.extend(index, term);
            self.committed_in.push(raft.term());
        }
    }

    fn extend(&mut self, index: u64, term: u64) {
        let (_, entry) = self
            .entries
            .get(&(index, term))
            .expect("it was handed out to be written");
        let chain = self.chains.last().copied().unwrap_or_default();
        self.terms.push(term);
        self.chains.push(mix(chain ^ entry_hash(entry)));
        self.reached.committed += 1;
        if entry.kind == EntryKind::ConfChange as i32 {
            let next = conf_of(entry);
            let (_, before) = self.confs.last_key_value().expect("there is always one");
            assert_quorums_meet(before, &next);
            self.reached.conf_changes += 1;
            self.reached.joint += u64::from(!next.voters_outgoing.is_empty());
            self.confs.insert(index, next);
        }
    }

    fn remember(&mut self, raft: &Raft<View>) {
        let led = if raft.role() == Role::Leader {
            raft.term()
        } else {
            0
        };
        let seen = Seen {
            term: raft.term(),
            commit: raft.commit(),
            applied: raft.applied_index(),
            led,
        };
        self.seen.insert(raft.id(), seen);
    }

    /// 12: whoever may answer reads by its lease is the newest leader, and has applied every
    /// acknowledged write.
    fn leases(&mut self, places: &BTreeMap<u64, Place>) {
        for place in places.values() {
            let Some(raft) = place
                .node
                .raft
                .as_ref()
                .filter(|raft| holds_lease(raft, place.clock))
            else {
                continue;
            };
            self.reached.lease_checks += 1;
            let newest = self.leaders.keys().next_back().copied().unwrap_or_default();
            assert_eq!(
                raft.term(),
                newest,
                "{} holds the lease and another leads",
                raft.id()
            );
            let applied = raft.applied_index();
            assert!(
                applied >= self.acknowledged,
                "{} may read at {applied} by its lease, {} was acknowledged",
                raft.id(),
                self.acknowledged
            );
        }
    }
}

/// 9: no quorum of one configuration misses a quorum of the next.
fn assert_quorums_meet(one: &ConfState, next: &ConfState) {
    let members: BTreeSet<u64> = [
        &one.voters,
        &one.voters_outgoing,
        &next.voters,
        &next.voters_outgoing,
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect();
    let members: Vec<u64> = members.into_iter().collect();
    for set in 0..1u32 << members.len() {
        let within = |wanted: bool| {
            let members = &members;
            move |id: u64| {
                let place = members.iter().position(|member| *member == id)?;
                ((set >> place & 1 == 1) == wanted).then_some(true)
            }
        };
        let won = joint_vote(&one.voters, &one.voters_outgoing, within(true)) == VoteOutcome::Won;
        let other =
            joint_vote(&next.voters, &next.voters_outgoing, within(false)) == VoteOutcome::Won;
        assert!(
            !(won && other),
            "a quorum of {one:?} misses one of {next:?}"
        );
    }
}
