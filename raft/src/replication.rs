//! Log replication (paper 5.3, 5.4.2; thesis 10.2.1): what a follower does with appends, what a
//! leader learns from the answers, and what it sends next.

use flotilla_proto::clock::Mono;
use flotilla_proto::raft::{Entry, Message, MessageKind};

use crate::config::Config;
use crate::error::StepError;
use crate::log::Log;
use crate::log_view::{FetchFor, LogView, Lookup};
use crate::planted::Planted;
use crate::progress::{Pace, Progress};
use crate::raft::{Raft, State};

impl<L: LogView> Raft<L> {
    // ---- the follower's side ----

    pub(crate) fn on_append(&mut self, mut message: Message) -> Result<(), StepError> {
        self.hear_leader(message.from)?;
        let (to, commit) = (message.from, self.log.commit());
        if self.conf.is_unknown() {
            // Knows nothing, not even where its log begins: only a snapshot helps (contracts: C33).
            self.refuse_append(to, message.index, 0, 0);
            return Ok(());
        }
        if message.index < commit {
            if message
                .entries
                .iter()
                .any(|entry| entry.index == commit && !self.log.matches(commit, entry.term))
            {
                return Err(StepError::Safety {
                    from: to,
                    what: "an append contradicts a committed entry",
                });
            }
            self.accept_append(to, commit);
            return Ok(());
        }
        let blind =
            self.plants(Planted::AppendWithoutPrevCheck) && message.index <= self.log.last_index();
        if !blind && !self.log.matches(message.index, message.log_term) {
            let (hint, term) = self.log.agreement_hint(message.index, message.log_term);
            self.refuse_append(to, message.index, hint, term.unwrap_or_default());
            return Ok(());
        }
        let last_new = self
            .log
            .append_after(message.index, std::mem::take(&mut message.entries));
        self.log.commit_to(message.commit.min(last_new));
        self.accept_append(to, last_new);
        Ok(())
    }

    /// Takes in entries that are known to be committed, from somebody who is no member of the group: of a
    /// group that ends, a replica that lags must still get to the same last entry as the others. Whatever
    /// contradicts them goes, and a replica that leads or campaigns does not any more.
    ///
    /// # Errors
    /// The entries do not go on where the log agrees with every other one: who sends them is wrong.
    pub fn catch_up(&mut self, now: Mono, mut entries: Vec<Entry>) -> Result<(), StepError> {
        self.advance(now);
        let commit = self.log.commit();
        entries.retain(|entry| entry.index > commit);
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(());
        };
        let (prev, index, term) = (first.index - 1, last.index, last.term);
        if prev > self.log.last_index() {
            let what = "committed entries from outside leave a gap in the log";
            return Err(StepError::Safety { from: 0, what });
        }
        self.become_follower(term.max(self.term), 0);
        self.log.append_after(prev, entries);
        self.log.commit_to(index);
        Ok(())
    }

    /// Says that the log equals the leader's up to `index`: true once it is durable. Answers to
    /// appends of one round become one.
    pub(crate) fn accept_append(&mut self, to: u64, index: u64) {
        let kind = MessageKind::AppendResponse;
        if let Some(last) = self.after_write.last_mut()
            && (last.kind, last.to, last.term, last.reject) == (kind as i32, to, self.term, false)
        {
            last.index = last.index.max(index);
            return;
        }
        let answer = Message {
            index,
            ..self.message(kind, to)
        };
        if self.plants(Planted::AckNotPersisted) {
            self.send_now.push(answer);
        } else {
            self.after_write.push(answer);
        }
    }

    fn refuse_append(&mut self, to: u64, index: u64, hint_index: u64, hint_term: u64) {
        let kind = MessageKind::AppendResponse;
        let answer = Message {
            index,
            reject: true,
            hint_index,
            hint_term,
            ..self.message(kind, to)
        };
        self.after_write.push(answer);
    }

    // ---- the leader's side ----

    pub(crate) fn on_append_response(&mut self, message: &Message) -> Result<(), StepError> {
        let (now, last) = (self.now, self.log.last_index());
        let refused = message.reject && !self.plants(Planted::RefusalCounts);
        let State::Leader(leader) = &mut self.state else {
            return Ok(());
        };
        let Some(peer) = leader.peers.iter_mut().find(|peer| peer.id == message.from) else {
            return Err(StepError::UnknownPeer { from: message.from });
        };
        if message.index > last {
            let what = "an answer to an append beyond the end of the log";
            return Err(StepError::Malformed {
                from: message.from,
                what,
            });
        }
        peer.active = now;
        peer.ping_at = now + self.config.heartbeat_interval;
        if refused {
            if step_back(peer, &self.log, message) {
                leader.replicate = true;
            }
            return Ok(());
        }
        let news = message.index > peer.matched;
        if news {
            peer.matched = message.index;
            peer.next = peer.next.max(message.index + 1);
        }
        match peer.pace {
            // An answer to a probe, or news: the logs agree here.
            Pace::Probe if news || message.index == peer.matched => peer.become_replicate(),
            Pace::Probe => {}
            Pace::Replicate => peer.window.free_to(message.index),
            // Whatever it now holds, the log can follow on from there.
            Pace::Snapshot { .. } if peer.matched + 1 >= self.log.first_index() => {
                peer.become_replicate()
            }
            Pace::Snapshot { .. } => {}
        }
        leader.replicate |= peer.next <= last || peer.commit_sent < self.log.commit();
        if news {
            self.advance_commit();
            self.hand_over_when_caught_up();
        }
        Ok(())
    }

    /// This replica's own log as far as it is durable counts like a follower's.
    pub(crate) fn note_own_progress(&mut self) {
        let (id, persisted, last) = (self.config.id, self.log.persisted(), self.log.last_index());
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        if let Some(own) = leader.peer_mut(id) {
            own.matched = persisted;
            own.next = last + 1;
            self.advance_commit();
        }
    }

    /// Commits what a quorum has made durable, if it is of the leader's own term (paper 5.4.2): older
    /// entries are committed by what follows them.
    pub(crate) fn advance_commit(&mut self) {
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        let plant = self.log.plant;
        let matched = |id| leader.peer(id).map_or(0, |peer| peer.matched);
        let reached = match plant {
            _ if plant.breaks(Planted::OneQuorumInJoint) => self.conf.incoming().reached(matched),
            _ if plant.breaks(Planted::LearnersCount) => self.conf.all_voting().reached(matched),
            _ => self.conf.reached(matched),
        };
        let own_term = reached >= leader.first_index || plant.breaks(Planted::OldTermByCount);
        if own_term && self.log.commit_to(reached) {
            leader.replicate = true;
        }
    }

    /// What the caller's transport lost: what was streamed on trust is asked about again.
    pub fn report_unreachable(&mut self, peer: u64) {
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        let Some(peer) = leader.peer_mut(peer) else {
            return;
        };
        if peer.pace == Pace::Replicate {
            peer.become_probe();
            // The next heartbeat that gets through starts the probing.
            peer.paused = true;
        }
    }

    /// Sends to every follower what it may be sent now.
    pub(crate) fn replicate(&mut self) {
        let mut state = std::mem::replace(&mut self.state, State::Follower);
        if let State::Leader(leader) = &mut state
            && std::mem::take(&mut leader.replicate)
        {
            let own = self.config.id;
            let round = leader.rounds.last;
            let open = |peer: &Progress| peer.id != own && peer.round < round;
            let min_matched = if leader.peers.iter().any(open) {
                self.min_matched_of(leader)
            } else {
                0
            };
            let ask = Message {
                round,
                min_matched,
                transfer_attempt: leader.voided,
                ..Message::default()
            };
            for peer in leader.peers.iter_mut().filter(|peer| peer.id != own) {
                self.send_appends(peer);
                self.send_commit(peer, &ask);
            }
        }
        self.state = state;
    }

    fn send_appends(&mut self, peer: &mut Progress) {
        while may_send(peer, &self.config, self.log.last_index()) {
            if !self.send_append(peer) {
                break;
            }
        }
    }

    /// Tells a follower that has it all how far that is committed. Where it has not answered the newest
    /// round, `ask`, the message asks again: on a slow way it may take the place of the one that asked.
    fn send_commit(&mut self, peer: &mut Progress, ask: &Message) {
        let commit = peer.matched.min(self.log.commit());
        if peer.pace != Pace::Replicate || commit <= peer.commit_sent {
            return;
        }
        peer.commit_sent = commit;
        let open = peer.round < ask.round;
        let (round, min_matched, transfer_attempt) = if open {
            (ask.round, ask.min_matched, ask.transfer_attempt)
        } else {
            (0, 0, 0)
        };
        let kind = MessageKind::Heartbeat;
        let notice = Message {
            commit,
            round,
            min_matched,
            transfer_attempt,
            ..self.message(kind, peer.id)
        };
        self.send_now.push(notice);
    }

    /// One append. Returns whether it was sent.
    fn send_append(&mut self, peer: &mut Progress) -> bool {
        let prev = peer.next - 1;
        // A missing term is no term: the entries before `next` are gone, and a snapshot replaces them.
        let Some(log_term) = self.log.term(prev) else {
            return self.send_snapshot(peer);
        };
        let (low, high) = (peer.next, self.log.last_index() + 1);
        let mut entries = Vec::new();
        // A ping through a full window asks, and carries nothing.
        if low < high && !is_full(peer, &self.config) {
            let why = FetchFor::Send { to: peer.id };
            match self
                .log
                .entries(low, high, self.config.append_bytes_max, why)
            {
                Lookup::Ready(found) => entries = found,
                Lookup::Pending(ticket) => {
                    peer.fetching = Some(ticket);
                    return false;
                }
                Lookup::Compacted => return self.send_snapshot(peer),
            }
        }
        let last = prev + entries.len() as u64;
        let bytes = entries.iter().map(|entry| entry.data.len() as u64).sum();
        peer.ping = false;
        match peer.pace {
            Pace::Probe => peer.paused = true,
            Pace::Replicate if !entries.is_empty() => {
                peer.next = last + 1;
                peer.window.push(last, bytes);
            }
            Pace::Replicate | Pace::Snapshot { .. } => {}
        }
        let commit = self.log.commit();
        peer.commit_sent = peer.commit_sent.max(commit.min(last));
        let kind = MessageKind::Append;
        let append = Message {
            index: prev,
            log_term,
            entries,
            commit,
            ..self.message(kind, peer.id)
        };
        self.send_now.push(append);
        true
    }
}

/// There is something to send, and it may be sent.
fn may_send(peer: &Progress, config: &Config, last: u64) -> bool {
    let more = peer.next <= last;
    peer.fetching.is_none()
        && match peer.pace {
            // Also with nothing to send: the answer tells whether the logs agree.
            Pace::Probe => !peer.paused,
            Pace::Replicate => peer.ping || (more && !is_full(peer, config)),
            Pace::Snapshot { .. } => false,
        }
}

fn is_full(peer: &Progress, config: &Config) -> bool {
    peer.window
        .is_full(config.inflight_messages_max, config.inflight_bytes_max)
}

/// A refusal: moves `next` to where the logs may agree. Returns whether it was not stale.
///
/// The follower hints at the last index whose term is at most that of the refused entry; from there
/// this leader looks for its own last entry that is not newer than the hint. Each refusal so skips a
/// whole term on one side or the other (paper 5.3).
fn step_back<L: LogView>(peer: &mut Progress, log: &Log<L>, message: &Message) -> bool {
    let refused = message.index;
    match peer.pace {
        // Anything at or below `matched` was accepted since.
        Pace::Replicate if refused <= peer.matched => return false,
        Pace::Replicate => {
            peer.become_probe();
            return true;
        }
        Pace::Probe if peer.next != refused + 1 => return false,
        Pace::Probe => {}
        Pace::Snapshot { .. } => return false,
    }
    let hint = message.hint_index.min(refused.saturating_sub(1));
    let (agree, _) = log.agreement_hint(hint, message.hint_term);
    peer.next = (agree + 1).max(peer.matched + 1);
    peer.paused = false;
    true
}

/// Contiguous, terms never fall, nothing newer than the message.
pub(crate) fn check_entries(message: &Message) -> Result<(), &'static str> {
    let (mut index, mut term) = (message.index, message.log_term);
    for Entry {
        index: at,
        term: of,
        ..
    } in &message.entries
    {
        if *at != index + 1 {
            return Err("entries with a gap");
        }
        if *of < term || *of > message.term {
            return Err("entries whose terms are out of order");
        }
        (index, term) = (*at, *of);
    }
    Ok(())
}
