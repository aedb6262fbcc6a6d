//! Read index (thesis 6.4): which applied index a read must wait for.
//!
//! A read gets the commit index of a moment after it came, once a quorum has confirmed that the
//! leader still led at a later moment. Rounds are numbered by the leader; a read's own name never
//! meets an acknowledgement. A follower forwards its reads under request numbers of its own.

use std::time::Duration;

use flotilla_proto::clock::Mono;
use flotilla_proto::raft::{Message, MessageKind};

use crate::config::{Config, READ_ROUNDS_INFLIGHT_MAX, READS_PENDING_MAX};
use crate::error::ReadError;
use crate::leader::{Asked, Leader, Reader, Reads};
use crate::log::Log;
use crate::log_view::LogView;
use crate::planted::Planted;
use crate::raft::{Raft, State};
use crate::ready::ReadGrant;

/// Reads of a follower on their way to the leader.
#[derive(Debug, Default)]
pub(crate) struct Forwarded {
    /// The last request number used. Starts at a random place, so that an answer to a request of
    /// this replica's last life fits none of this one.
    pub(crate) number: u64,
    /// Not sent yet: tokens.
    pub(crate) waiting: Vec<u64>,
    /// Sent and unanswered, by the request's number.
    asked: Vec<Request>,
}

#[derive(Debug)]
struct Request {
    number: u64,
    sent: Mono,
    /// Given up this long after the first try.
    first_sent: Mono,
    tokens: Vec<u64>,
}

impl Forwarded {
    fn len(&self) -> usize {
        self.waiting.len()
            + self
                .asked
                .iter()
                .map(|request| request.tokens.len())
                .sum::<usize>()
    }

    /// When the oldest unanswered request is to be repeated.
    pub(crate) fn deadline(&self, config: &Config) -> Option<Mono> {
        self.asked
            .iter()
            .map(|request| request.sent + config.heartbeat_interval)
            .min()
    }
}

impl<L: LogView> Raft<L> {
    /// Asks for an index at which a read sees every write acknowledged before this call. The answer
    /// comes in [`crate::Ready::reads`], or the token comes back in [`crate::Ready::reads_failed`];
    /// one of both, once.
    ///
    /// # Errors
    /// Refused at once: the token will not come back.
    pub fn read_index(&mut self, now: Mono, token: u64) -> Result<(), ReadError> {
        self.advance(now);
        if matches!(self.state, State::Leader(_)) {
            return self.take_read(Reader::Here(token));
        }
        if self.leader == 0 {
            return Err(ReadError::NoLeader);
        }
        if self.forwarded.len() >= READS_PENDING_MAX {
            return Err(ReadError::TooManyPending);
        }
        self.forwarded.waiting.push(token);
        Ok(())
    }

    /// Every read of a leader comes through here, whoever asks.
    fn take_read(&mut self, reader: Reader) -> Result<(), ReadError> {
        if self.lease_until().is_some_and(|until| self.now < until) {
            self.answer(reader, self.log.commit());
            return Ok(());
        }
        if self.plants(Planted::ReadWithoutRound) {
            self.answer(reader, self.log.commit());
            return Ok(());
        }
        let State::Leader(leader) = &mut self.state else {
            return Err(ReadError::NoLeader);
        };
        if leader.reads.count >= READS_PENDING_MAX {
            return Err(ReadError::TooManyPending);
        }
        leader.reads.count += 1;
        leader.reads.waiting.push(reader);
        Ok(())
    }

    /// Reads wait for a round, and one may begin: the leader has committed in its own term, so its
    /// commit index covers all that earlier leaders acknowledged.
    pub(crate) fn wants_read_round(&self) -> bool {
        matches!(&self.state, State::Leader(leader) if wants_round(leader, &self.log))
    }

    /// Puts the waiting reads into a round of their own.
    pub(crate) fn begin_read_round(&mut self) {
        let index = self.log.commit();
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        if !wants_round(leader, &self.log) {
            return;
        }
        let readers = std::mem::take(&mut leader.reads.waiting);
        let round = leader.rounds.last + 1;
        leader.reads.asked.push_back(Asked {
            round,
            index,
            readers,
        });
        self.begin_round();
    }

    /// Answers the reads of confirmed rounds.
    pub(crate) fn grant_confirmed(&mut self) {
        loop {
            let State::Leader(leader) = &mut self.state else {
                return;
            };
            let confirmed = leader.rounds.confirmed;
            let Some(asked) = leader
                .reads
                .asked
                .pop_front_if(|asked| asked.round <= confirmed)
            else {
                return;
            };
            leader.reads.count -= asked.readers.len();
            for reader in asked.readers {
                self.answer(reader, asked.index);
            }
        }
    }

    fn answer(&mut self, reader: Reader, index: u64) {
        match reader {
            Reader::Here(token) => self.grants.push(ReadGrant { token, index }),
            Reader::There { peer, number } => {
                let kind = MessageKind::ReadIndexResponse;
                let answer = Message {
                    index,
                    round: number,
                    ..self.message(kind, peer)
                };
                self.send_now.push(answer);
            }
        }
    }

    /// The leader that took them steps down: its own readers are told, followers ask again.
    pub(crate) fn fail_reads(&mut self, reads: Reads) {
        let asked = reads.asked.into_iter().flat_map(|asked| asked.readers);
        for reader in reads.waiting.into_iter().chain(asked) {
            if let Reader::Here(token) = reader {
                self.reads_failed.push(token);
            }
        }
    }

    // ---- forwarded ----

    pub(crate) fn on_read_index(&mut self, message: &Message) {
        let reader = Reader::There {
            peer: message.from,
            number: message.round,
        };
        // One that is refused here is repeated by its sender.
        let _ = self.take_read(reader);
    }

    pub(crate) fn on_read_index_response(&mut self, message: &Message) {
        let mine = |request: &Request| request.number == message.round;
        let from_leader = message.from == self.leader;
        let Some(position) = self
            .forwarded
            .asked
            .iter()
            .position(mine)
            .filter(|_| from_leader)
        else {
            return;
        };
        let request = self.forwarded.asked.swap_remove(position);
        self.grants
            .extend(request.tokens.into_iter().map(|token| ReadGrant {
                token,
                index: message.index,
            }));
    }

    /// Sends the waiting reads to the leader, as one request.
    pub(crate) fn forward_reads(&mut self) {
        if self.forwarded.waiting.is_empty() || matches!(self.state, State::Leader(_)) {
            return;
        }
        let tokens = std::mem::take(&mut self.forwarded.waiting);
        self.ask_leader(tokens, self.now);
    }

    fn ask_leader(&mut self, tokens: Vec<u64>, first_sent: Mono) {
        self.forwarded.number += 1;
        let number = self.forwarded.number;
        self.forwarded.asked.push(Request {
            number,
            sent: self.now,
            first_sent,
            tokens,
        });
        let ask = Message {
            round: number,
            ..self.message(MessageKind::ReadIndex, self.leader)
        };
        self.send_now.push(ask);
    }

    /// Repeats what got no answer, under a new number, and gives up after the shortest election
    /// timeout.
    pub(crate) fn retry_forwarded(&mut self) {
        let (now, again) = (self.now, self.config.heartbeat_interval);
        let patience: Duration = self.config.election_timeout_min;
        let due = |request: &mut Request| now >= request.sent + again;
        let due: Vec<Request> = self.forwarded.asked.extract_if(.., due).collect();
        for request in due {
            if now >= request.first_sent + patience {
                self.reads_failed.extend(request.tokens);
            } else {
                self.ask_leader(request.tokens, request.first_sent);
            }
        }
    }

    /// There is another leader, or none: nobody will answer.
    pub(crate) fn fail_forwarded(&mut self) {
        let asked = self
            .forwarded
            .asked
            .drain(..)
            .flat_map(|request| request.tokens);
        self.reads_failed
            .extend(self.forwarded.waiting.drain(..).chain(asked));
    }
}

fn wants_round<L: LogView>(leader: &Leader, log: &Log<L>) -> bool {
    !leader.reads.waiting.is_empty()
        && (log.commit() >= leader.first_index || log.plant.breaks(Planted::ReadBeforeOwnTerm))
        && leader.reads.asked.len() < READ_ROUNDS_INFLIGHT_MAX
}
