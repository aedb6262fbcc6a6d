//! Reads without a lease: many of them share one read index.

use std::collections::{BTreeMap, VecDeque};

use flotilla_proto::clock::Mono;

use super::Peer;
use crate::effects::{Answer, ReadPermit};
use crate::planted::Planted;
use crate::{ReadContext, RequestError};

type Waiting = (ReadContext, Answer<ReadPermit>);

/// What this peer owes to those who read.
#[derive(Default)]
pub(super) struct Reads {
    /// Came in since the last read index was asked for.
    fresh: Vec<Waiting>,
    /// Asked for, by token.
    asked: BTreeMap<u64, Vec<Waiting>>,
    /// Granted, waiting until their index is applied; indexes never fall (bugs: 6).
    granted: VecDeque<(u64, Vec<Waiting>)>,
    next_token: u64,
}

impl Peer {
    pub(super) fn on_read(&mut self, context: ReadContext, answer: Answer<ReadPermit>) {
        match self.check_read(&context) {
            Ok(()) => self.reads.fresh.push((context, answer)),
            Err(error) => answer.give(Err(error)),
        }
    }

    /// One read index for all the reads of a round.
    pub(super) fn start_reads(&mut self, now: Mono) {
        if self.reads.fresh.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.reads.fresh);
        let token = self.reads.next_token;
        self.reads.next_token += 1;
        match self.raft.read_index(now, token) {
            Ok(()) => {
                self.reads.asked.insert(token, waiting);
            }
            Err(_) => self.refuse(waiting),
        }
    }

    pub(super) fn on_read_granted(&mut self, token: u64, index: u64) {
        let Some(waiting) = self.reads.asked.remove(&token) else {
            return;
        };
        let last = self.reads.granted.back().map_or(0, |(last, _)| *last);
        self.reads.granted.push_back((index.max(last), waiting));
    }

    /// Nobody confirmed it: the client looks for the leader again.
    pub(super) fn on_read_failed(&mut self, token: u64) {
        if let Some(waiting) = self.reads.asked.remove(&token) {
            self.refuse(waiting);
        }
    }

    /// Permits whose index is applied; none while an admin entry is on its way through apply.
    pub(super) fn answer_reads(&mut self) {
        if !self.unsettled.is_empty() || self.snapshots.installing() {
            return;
        }
        let applied = self.raft.applied_index();
        let early = self.shared.plants(Planted::ReadBeforeApplied);
        while self
            .reads
            .granted
            .front()
            .is_some_and(|(index, _)| *index <= applied || early)
        {
            let Some((_, waiting)) = self.reads.granted.pop_front() else {
                break;
            };
            for (context, answer) in waiting {
                // The region may have been split, or leadership lost, since it was asked for.
                let permit = self.check_read(&context).map(|()| ReadPermit {
                    region: self.region.clone(),
                    term: self.raft.term(),
                    generation: self.delegate.generation(),
                });
                answer.give(permit);
            }
        }
    }

    /// Reads that a peer which does not lead any more will not serve. Those that any replica may serve
    /// go on: the raft group answers for each of them.
    pub(super) fn refuse_reads(&mut self) {
        let mut refused = Vec::new();
        let mut take = |waiting: &mut Vec<Waiting>| {
            refused.extend(waiting.extract_if(.., |(context, _)| !context.replica));
        };
        self.reads.asked.values_mut().for_each(&mut take);
        self.reads
            .granted
            .iter_mut()
            .for_each(|(_, waiting)| take(waiting));
        self.refuse(refused);
    }

    fn refuse(&self, waiting: Vec<Waiting>) {
        let error: RequestError = self.not_leader();
        for (_, answer) in waiting {
            answer.give(Err(error.clone()));
        }
    }
}
