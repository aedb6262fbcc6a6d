//! Raft groups over all stores: who voted for whom, who led, what is committed, and what a message
//! claims. The invariants 1 to 5, 7, 10 and 11 of the fault model.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use flotilla_engine::{BIRTH, RegionWrite};
use flotilla_proto::metapb::Region;
use flotilla_proto::raft::{ConfState, Entry, HardState, Message, MessageKind};
use flotilla_proto::store::PeerMessage;
use flotilla_raft::{LogView as _, Role};
use flotilla_raftstore::peer::Peer;

use super::log::Held;
use super::members::conf_of;
use super::quorum::majority;
use super::{Oracle, StoreSeen};
use crate::rules::{Checks, Rule};
use crate::trace::digest;

/// By peer id: its region and store.
type Seats = BTreeMap<u64, (u64, u64)>;

/// All raft groups.
#[derive(Debug, Default)]
pub struct Consensus {
    groups: BTreeMap<u64, Group>,
    /// The configuration of each peer when it was last looked at: it may change in the round in which
    /// the one before it still counted.
    confs: BTreeMap<(u64, u64), ConfState>,
}

/// One of them.
#[derive(Debug, Default)]
struct Group {
    /// By (index, term): the term of the entry before it, and what it says.
    entries: BTreeMap<(u64, u64), (u64, Bytes)>,
    /// From the first after the region's birth on: its term, and the term of the leader that committed
    /// it. Neither falls.
    committed: Vec<(u64, u64)>,
    /// Who led, by term.
    leaders: BTreeMap<u64, Led>,
    /// Who was voted for, by voter and term, as the voter's disk or its word has it.
    votes: BTreeMap<(u64, u64), u64>,
    /// Terms that a transfer asked for.
    transfers: BTreeMap<u64, u64>,
}

/// A leader, as it was first seen in its term.
#[derive(Debug)]
struct Led {
    peer: u64,
    /// Its log then, from the first index on: the first of each run of one term, and that term.
    runs: Vec<(u64, u64)>,
    /// The last index then. What comes behind it is of its own term.
    last: u64,
}

impl Led {
    fn see(peer: &Peer) -> Self {
        let raft = peer.raft();
        let (first, last) = (raft.log().first_index(), raft.last_index());
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for index in first..=last {
            let term = raft.term_at(index).unwrap_or_default();
            if runs.last().is_none_or(|(_, of)| *of != term) {
                runs.push((index, term));
            }
        }
        Self {
            peer: raft.id(),
            runs,
            last,
        }
    }

    /// The term of its entry at `index`, if it had one that is known. It leads in `term`.
    fn term_at(&self, index: u64, term: u64) -> Option<u64> {
        if index > self.last {
            return Some(term);
        }
        let runs = self.runs.partition_point(|(first, _)| *first <= index);
        Some(self.runs[runs.checked_sub(1)?].1)
    }
}

impl Group {
    /// The last index that is known to be committed.
    fn commit(&self) -> u64 {
        BIRTH.index + self.committed.len() as u64
    }

    fn committed_term(&self, index: u64) -> Option<u64> {
        let Some(nth) = index.checked_sub(BIRTH.index + 1) else {
            return Some(BIRTH.term);
        };
        self.committed.get(nth as usize).map(|(term, _)| *term)
    }
}

impl Consensus {
    /// The newest term in which `region` had a leader.
    pub fn newest_term(&self, region: u64) -> u64 {
        let group = self.groups.get(&region);
        let leader = group.and_then(|group| group.leaders.last_key_value());
        leader.map_or(0, |(term, _)| *term)
    }

    /// The first entry of a term, as far as any log had one.
    pub fn first_of_term(&self, region: u64, term: u64) -> Option<u64> {
        let entries = &self.groups.get(&region)?.entries;
        let mut of_term = entries.keys().filter(|(_, of)| *of == term);
        of_term.next().map(|(index, _)| *index)
    }

    /// No quorum of a configuration misses one of the next (faults: 9): not even where everybody of
    /// either is asked in turn.
    pub fn check_quorums(before: &Region, after: &Region, checks: &mut Checks) {
        let (one, next) = (conf_of(before), conf_of(after));
        let halves = [
            &one.voters,
            &one.voters_outgoing,
            &next.voters,
            &next.voters_outgoing,
        ];
        let members: BTreeSet<u64> = halves.into_iter().flatten().copied().collect();
        let members: Vec<u64> = members.into_iter().collect();
        // Each set of members, against all others.
        let apart = (0..1u32 << members.len()).find(|set| {
            let says = |conf: &ConfState, wanted: bool| {
                let yes = |id: u64| {
                    let place = members.iter().position(|member| *member == id);
                    place.is_some_and(|place| (set >> place & 1 == 1) == wanted)
                };
                majority(conf, yes)
            };
            says(&one, true) && says(&next, false)
        });
        checks.check(Rule::QuorumsMeet, apart.is_none(), || {
            format!(
                "region {}: a quorum of {one:?} misses one of {next:?}",
                after.id
            )
        });
    }

    /// The term of the leader that committed an index.
    pub fn committed_in(&self, region: u64, index: u64) -> Option<u64> {
        let nth = index.checked_sub(BIRTH.index + 1)?;
        let committed = self.groups.get(&region)?.committed.get(nth as usize)?;
        Some(committed.1)
    }

    /// The last index of `region` that is known to be committed.
    pub fn commit(&self, region: u64) -> u64 {
        self.groups.get(&region).map_or(BIRTH.index, Group::commit)
    }

    /// Entries go to a log that so far holds `held` (faults: 3): an index and a term name one entry,
    /// and one entry before it.
    pub fn appended(&mut self, region: u64, held: &Held, write: &RegionWrite, checks: &mut Checks) {
        let group = self.groups.entry(region).or_default();
        let mut before: Option<u64> = None;
        for entry in &write.entries {
            let Entry { index, term, .. } = *entry;
            let behind = write.truncation.filter(|to| to.index == index - 1);
            let previous = before
                .or_else(|| behind.map(|to| to.term))
                .or_else(|| held.term(index - 1))
                .unwrap_or(0);
            before = Some(term);
            let says = (previous, entry.data.clone());
            let first = group
                .entries
                .entry((index, term))
                .or_insert_with(|| says.clone());
            checks.check(Rule::LogsMatch, *first == says, || {
                format!(
                    "region {region} index {index} term {term}: follows term {previous} here, {} elsewhere, or says \
                     something else",
                    first.0
                )
            });
        }
    }

    /// A hard state is durable at `peer`, or it said so to another (faults: 2).
    pub fn voted(&mut self, region: u64, peer: u64, term: u64, vote: u64, checks: &mut Checks) {
        if vote == 0 {
            return;
        }
        let group = self.groups.entry(region).or_default();
        let first = *group.votes.entry((peer, term)).or_insert(vote);
        checks.check(Rule::OneVotePerTerm, first == vote, || {
            format!("region {region}: peer {peer} voted in term {term} for {first} and for {vote}")
        });
    }

    /// A peer leads: alone in its term, elected by a quorum of voters, with all that is committed
    /// (faults: 1, 4, 10).
    fn leads(&mut self, peer: &Peer, checks: &mut Checks) {
        let (raft, region) = (peer.raft(), peer.region().id);
        let (id, term) = (raft.id(), raft.term());
        let group = self.groups.entry(region).or_default();
        let led = group.leaders.entry(term);
        let first = led.or_insert_with(|| Led::see(peer)).peer;
        checks.check(Rule::OneLeaderPerTerm, first == id, || {
            format!("region {region}: peers {first} and {id} lead term {term}")
        });
        let conf = raft.conf();
        let granted = |voter: u64| group.votes.get(&(voter, term)) == Some(&id);
        let before = self.confs.get(&(region, id));
        let won =
            majority(&conf, granted) || before.is_some_and(|before| majority(before, granted));
        checks.check(Rule::OneLeaderPerTerm, won, || {
            format!("region {region}: peer {id} leads term {term} without the votes of a quorum of {conf:?}")
        });
        let earlier = group.committed.partition_point(|(_, by)| *by < term);
        let index = BIRTH.index + earlier as u64;
        let (has, is) = (raft.term_at(index), group.committed_term(index));
        // Below the beginning of its log it has applied the entry, which the state is checked for.
        let truncated = raft.applied_index() >= index && has.is_none();
        checks.check(Rule::LeaderHasCommitted, truncated || has == is, || {
            format!(
                "region {region}: peer {id} leads term {term}; index {index} was committed with term {is:?}, it has {has:?}"
            )
        });
    }

    /// A peer's commit index rose: what was known of it stays, and what is new came about by a quorum's
    /// disks (faults: 4, 5, 7, 10).
    fn commits(
        &mut self,
        peer: &Peer,
        (led, from): (u64, u64),
        (stores, seats): (&BTreeMap<u64, StoreSeen>, &Seats),
        checks: &mut Checks,
    ) {
        let (raft, region) = (peer.raft(), peer.region().id);
        let (id, commit) = (raft.id(), raft.commit());
        let group = self.groups.entry(region).or_default();
        for index in from.max(BIRTH.index) + 1..=commit.min(group.commit()) {
            let (has, is) = (raft.term_at(index), group.committed_term(index));
            // What its log does not begin with any more its state is checked for.
            if has.is_some() {
                checks.check(Rule::CommittedStays, has == is, || {
                    format!("region {region}: peer {id} committed index {index} with term {has:?}, it was {is:?}")
                });
            }
        }
        if commit <= group.commit() {
            return;
        }
        // It may have stepped down in the same round.
        let term = if raft.role() == Role::Leader {
            raft.term()
        } else {
            led
        };
        let own = term > 0 && raft.term_at(commit) == Some(term);
        checks.check(Rule::CommitByQuorum, own, || {
            format!(
                "region {region}: peer {id}, a {:?} of term {}, is the first to commit index {commit} of term {:?}",
                raft.role(),
                raft.term(),
                raft.term_at(commit)
            )
        });
        let conf = raft.conf();
        let holds = |member: u64| {
            let place = seats.get(&member);
            let Some(log) = place.and_then(|(_, store)| Some(&stores.get(store)?.log)) else {
                return false;
            };
            // A leader may count the word of a member that has ended since. What the batch that cleared
            // its log had brought before is not in what is kept of it.
            if log.former(region, member).is_some() {
                return true;
            }
            log.durable(region).is_some_and(|held| {
                let own = held.record.is_none_or(|record| record.peer_id == member);
                let same = held.term(commit) == raft.term_at(commit);
                own && (same || held.truncated().index >= commit)
            })
        };
        let before = self.confs.get(&(region, id));
        let won = majority(&conf, holds) || before.is_some_and(|before| majority(before, holds));
        checks.check(Rule::CommitByQuorum, won, || {
            format!("region {region}: peer {id} committed {commit}, which no quorum of {conf:?} has on disk")
        });
        for index in group.commit() + 1..=commit {
            let of = raft.term_at(index).unwrap_or(0);
            group.committed.push((of, term));
        }
    }

    fn leaves(
        &mut self,
        region: u64,
        message: &Message,
        durable: &Held,
        checks: &mut Checks,
    ) -> bool {
        let kind = message.kind();
        let state = durable.hard_state();
        let (term, from) = (message.term, message.from);
        let voted = |vote: u64| state.term > term || (state.term, state.vote) == (term, vote);
        let claim = match kind {
            MessageKind::Vote => voted(from),
            MessageKind::VoteResponse if !message.reject => {
                self.voted(region, from, term, message.to, checks);
                voted(message.to)
            }
            MessageKind::AppendResponse if !message.reject => {
                let index = message.index;
                let leader = self
                    .groups
                    .get(&region)
                    .and_then(|group| group.leaders.get(&term));
                let held = match leader.and_then(|led| led.term_at(index, term)) {
                    Some(wanted) => durable.had(index, wanted),
                    None => durable.last() >= index,
                };
                // What one batch wrote and cut off again was never held. No leader of the earlier term
                // can count on it: those who chose the later leader did not have it either.
                (held || durable.was_cut(index, term)) && state.term >= term
            }
            MessageKind::Append | MessageKind::Snapshot | MessageKind::HeartbeatResponse => {
                state.term >= term
            }
            _ => true,
        };
        checks.check(Rule::DurableBeforeSaid, claim, || {
            let says = Message {
                entries: Vec::new(),
                ..message.clone()
            };
            format!(
                "region {region}: peer {from} says {says:?}, its disk has {state:?} and entries to {}, of term {:?} there",
                durable.last(),
                durable.term(message.index)
            )
        });
        let transfer = kind == MessageKind::Vote && message.transfer;
        if transfer {
            let group = self.groups.entry(region).or_default();
            group.transfers.insert(term, from);
        }
        transfer
    }
}

impl Oracle {
    /// A message leaves a store: what it claims is durable there (faults: 11, contracts: C3).
    pub fn message_leaves(&mut self, store: u64, message: &PeerMessage) {
        let region = message.region_id;
        let Some(inner) = &message.message else {
            return;
        };
        let says = [inner.kind as u64, inner.from, inner.to, inner.term];
        self.trace.mix(says);
        self.trace.mix([
            region,
            inner.index,
            inner.log_term,
            inner.commit,
            u64::from(inner.reject),
            inner.hint_index,
            inner.hint_term,
            inner.round,
            inner.min_matched,
            inner.transfer_attempt,
        ]);
        let entries = inner.entries.iter();
        self.trace
            .mix(entries.flat_map(|entry| [entry.index, entry.term, digest(&entry.data)]));
        self.needed.said(region, inner);
        self.note(format_args!(
            "store {store} sends of region {region}: {}",
            Saying(inner)
        ));
        let nothing = Held::default();
        let seen = self.stores.entry(store).or_default();
        // It may have waited in a queue while its peer ended: that had kept what it promises.
        // What the batch that cleared its log had brought before is not in what is kept of it, so what
        // it says beyond that cannot be judged.
        let former = seen.log.former(region, inner.from);
        let beyond = former.is_some_and(|kept| {
            let HardState { term, vote, .. } = kept.hard_state();
            let votes = matches!(inner.kind(), MessageKind::Vote | MessageKind::VoteResponse);
            let more = inner.index > kept.last() || (votes && vote == 0);
            inner.term > term || (inner.term == term && more)
        });
        let ended = seen.buried.get(&region).is_some_and(|it| *it >= inner.from);
        if beyond || (ended && former.is_none()) {
            return;
        }
        let durable = former.or(seen.log.durable(region)).unwrap_or(&nothing);
        let says = inner.kind() == MessageKind::AppendResponse && !inner.reject;
        let index = inner.index;
        // Who has no such entry has taken a snapshot in its place.
        if says && index > BIRTH.index && !durable.entries.contains_key(&index) {
            let intent = durable.snapshot();
            let covers = intent.is_some_and(|(of, _)| of >= index);
            let survives = seen.survives.get(&region).is_some_and(|it| *it >= index);
            let ended = seen.buried.get(&region).is_some_and(|it| *it >= inner.from);
            let was_cut = durable.was_cut(index, inner.term);
            let holds = covers || survives || ended || was_cut;
            self.checks
                .check(Rule::AckedSnapshotHasIntent, holds, || {
                    format!("store {store} region {region}: what a snapshot at {index} brings is acknowledged, on disk is {intent:?}")
                });
        }
        let transfer = self
            .consensus
            .leaves(region, inner, durable, &mut self.checks);
        self.probes
            .hit_if(transfer, "transfer: the target campaigns");
    }

    /// Hard states have become durable on a store.
    pub fn durable_votes(&mut self, votes: Vec<(u64, u64, HardState)>) {
        for (region, peer, state) in votes {
            self.consensus
                .voted(region, peer, state.term, state.vote, &mut self.checks);
        }
    }

    /// A peer may have become leader, and may have committed since `before`: its term while it led, its
    /// commit index.
    pub(super) fn look_at_group(&mut self, peer: &Peer, led: u64, commit: u64) {
        let (raft, region) = (peer.raft(), peer.region().id);
        if raft.role() == Role::Leader && led != raft.term() {
            self.consensus.leads(peer, &mut self.checks);
            self.leaders_elected += 1;
            let group = self.consensus.groups.entry(region).or_default();
            let asked = group.transfers.get(&raft.term()) == Some(&raft.id());
            self.probes.hit_if(asked, "transfer: done");
        }
        if raft.commit() > commit {
            let stores = &self.stores;
            self.consensus
                .commits(peer, (led, commit), (stores, &self.peers), &mut self.checks);
        }
        let conf = raft.conf();
        let last = self.consensus.confs.entry((region, raft.id())).or_default();
        if *last != conf {
            *last = conf;
        }
    }
}

/// A message in a line.
struct Saying<'a>(&'a Message);

impl fmt::Display for Saying<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Message {
            from,
            to,
            term,
            index,
            log_term,
            commit,
            round,
            ..
        } = *self.0;
        let refused = if self.0.reject { " refused" } else { "" };
        write!(
            f,
            "{:?}{refused} {from} to {to}, term {term}, index {index} of {log_term}, commit {commit}, round {round}, {} entries",
            self.0.kind(),
            self.0.entries.len()
        )
    }
}

#[cfg(test)]
mod tests;
