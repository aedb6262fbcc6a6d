//! Writes: waiting, merged into entries, and in the log until their fate is known.

use std::collections::VecDeque;

use bytes::Bytes;
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::Region;
use flotilla_proto::raft::{Entry, EntryKind};
use flotilla_proto::store::{ColumnFamily, Mod, ModKind, WriteCommand, WritePart};
use flotilla_raft::{LogId, ProposeError};

use super::Peer;
use crate::effects::{Answer, WriteProposal};
use crate::entry::{encode_split, encode_write};
use crate::planted::Planted;
use crate::region::{self, META_REGION};
use crate::{PROBE_TARGET, ReadContext, RequestError};

/// What this peer owes to those who wrote.
#[derive(Default)]
pub(super) struct Proposals {
    /// Not in the log yet, in the order they came.
    waiting: VecDeque<(Mono, WriteProposal)>,
    waiting_bytes: u64,
    /// In the log; ascending by term and index. A log that was cut while another led may give an
    /// index a second time. Kept over a step-down until decided (contracts: C22).
    appended: VecDeque<Appended>,
}

struct Appended {
    id: LogId,
    since: Mono,
    owed: Owed,
}

/// Who waits for an entry.
pub(super) enum Owed {
    Writes(Vec<Answer<()>>),
    Split(Answer<Vec<Region>>),
    Members(Answer<Region>),
}

/// Proposals that become one entry.
struct Merged {
    /// When the oldest came in.
    since: Mono,
    command: WriteCommand,
    answers: Vec<Answer<()>>,
    bytes: u64,
}

impl Merged {
    fn new(since: Mono) -> Self {
        Self {
            since,
            command: WriteCommand::default(),
            answers: Vec::new(),
            bytes: 0,
        }
    }
}

/// Bytes of framing per part and per entry that the limits allow for.
const FRAMING_BYTES: u64 = 64;

impl Proposals {
    /// Whoever waits for the committed `entry`. Terms never fall along a log, so whatever was
    /// appended before it and is not it was replaced: it is answered as not applied.
    fn take(&mut self, entry: &Entry) -> Option<Owed> {
        let decided = LogId {
            term: entry.term,
            index: entry.index,
        };
        while let Some(first) = self.appended.pop_front_if(|first| first.id <= decided) {
            if first.id == decided {
                return Some(first.owed);
            }
            first.owed.refuse(&RequestError::StaleCommand);
        }
        None
    }

    /// A snapshot takes the place of the log up to `index`. What waits there may be in it or not.
    pub(super) fn overtaken(&mut self, index: u64) {
        let reason = "a snapshot came instead of the log that would have told the outcome";
        let appended = std::mem::take(&mut self.appended);
        for one in appended {
            if one.id.index > index {
                self.appended.push_back(one);
                continue;
            }
            tracing::trace!(target: PROBE_TARGET, "snapshot: in the place of entries that somebody waits for");
            one.owed.refuse(&RequestError::Undetermined { reason });
        }
    }
}

impl Proposals {
    /// All that the log will ever decide is decided: what still waits was not applied, and will not be.
    pub(super) fn none_will_come(&mut self) {
        for one in std::mem::take(&mut self.appended) {
            one.owed.refuse(&RequestError::StaleCommand);
        }
    }
}

impl Owed {
    fn appended(mut self) -> Self {
        match &mut self {
            Self::Writes(answers) => answers.iter_mut().for_each(Answer::appended),
            Self::Split(answer) => answer.appended(),
            Self::Members(answer) => answer.appended(),
        }
        self
    }

    fn refuse(self, error: &RequestError) {
        match self {
            Self::Writes(answers) => answers.into_iter().for_each(|a| a.give(Err(error.clone()))),
            Self::Split(answer) => answer.give(Err(error.clone())),
            Self::Members(answer) => answer.give(Err(error.clone())),
        }
    }
}

impl Peer {
    pub(super) fn on_write(&mut self, now: Mono, proposal: WriteProposal) {
        let bytes = proposal.bytes();
        if let Err(error) = self.check_write(&proposal, bytes) {
            proposal.answer.give(Err(error));
        } else if self.too_large()
            && proposal
                .mods
                .iter()
                .any(|change| change.kind() == ModKind::Put)
        {
            let reason = "the region is too large, and is about to be split";
            proposal.answer.give(Err(RequestError::Busy { reason }));
        } else if self.proposals.waiting_bytes + bytes > self.shared.config.waiting_bytes_max {
            let reason = "too many writes wait for the region";
            proposal.answer.give(Err(RequestError::Busy { reason }));
        } else {
            self.count_write(&proposal, bytes);
            self.proposals.waiting_bytes += bytes;
            self.proposals.waiting.push_back((now, proposal));
        }
    }

    fn check_write(&self, proposal: &WriteProposal, bytes: u64) -> Result<(), RequestError> {
        self.check(&proposal.context)?;
        if self.source.is_under_way() {
            let region = self.region.id;
            return Err(RequestError::Merging { region });
        }
        if proposal
            .read_term
            .is_some_and(|term| term != self.raft.term())
        {
            return Err(RequestError::StaleCommand);
        }
        let limit = self.shared.config.entry_bytes_max;
        if bytes + FRAMING_BYTES > limit {
            return Err(RequestError::EntryTooLarge {
                region: self.region.id,
                bytes,
                limit,
            });
        }
        proposal
            .mods
            .iter()
            .try_for_each(|change| self.check_key(change))
    }

    /// Range deletions are clamped to the region at apply; single keys must be inside it.
    fn check_key(&self, change: &Mod) -> Result<(), RequestError> {
        let meta = change.cf() == ColumnFamily::CfMeta;
        let inside = match (self.region.id == META_REGION, meta) {
            (true, true) => true,
            (false, false) if change.kind() == ModKind::DeleteRange => true,
            (false, false) => region::contains(&self.region, &change.key),
            _ => false,
        };
        if inside {
            return Ok(());
        }
        Err(RequestError::KeyNotInRegion {
            key: change.key.clone(),
            region: Box::new(self.region.clone()),
        })
    }

    /// Merges what waits into entries, until a limit of the raft group is reached.
    pub(super) fn propose_waiting(&mut self, now: Mono) {
        while !self.proposals.waiting.is_empty() {
            let Some(merged) = self.take_merged() else {
                continue;
            };
            let payload = encode_write(&merged.command);
            match self.raft.propose(now, EntryKind::Data, payload) {
                Ok(id) => self.remember(now, id, Owed::Writes(merged.answers)),
                Err(ProposeError::TooManyUncommitted { .. }) => return self.put_back(merged),
                Err(error) => {
                    let error = self.refusal(&error);
                    Owed::Writes(merged.answers).refuse(&error);
                }
            }
        }
    }

    /// The next proposals that fit one entry; those that may not be proposed any more are answered.
    fn take_merged(&mut self) -> Option<Merged> {
        let mut merged: Option<Merged> = None;
        while let Some((since, next)) = self.proposals.waiting.front() {
            let (since, size) = (*since, next.bytes());
            if merged
                .as_ref()
                .is_some_and(|m| m.bytes + size > self.shared.config.merge_bytes_max)
            {
                break;
            }
            let Some((_, proposal)) = self.proposals.waiting.pop_front() else {
                break;
            };
            self.proposals.waiting_bytes -= size;
            // Checked when it came in; leadership or the range may have changed since.
            if let Err(error) = self.check_write(&proposal, size) {
                proposal.answer.give(Err(error));
                continue;
            }
            let merged = merged.get_or_insert_with(|| Merged::new(since));
            let epoch_version = region::epoch(&self.region).version;
            merged.command.parts.push(WritePart {
                epoch_version,
                mods: proposal.mods,
            });
            merged.answers.push(proposal.answer);
            merged.bytes += size;
        }
        merged
    }

    /// They wait for room in the log; in their old order, before everything that came later.
    fn put_back(&mut self, merged: Merged) {
        tracing::trace!(target: PROBE_TARGET, "propose: put back, too much is uncommitted");
        let Merged {
            since,
            command,
            answers,
            bytes,
        } = merged;
        self.proposals.waiting_bytes += bytes;
        let context = ReadContext {
            region: self.region.id,
            peer: self.meta.id,
            epoch: self.region.region_epoch,
            term: 0,
            replica: false,
        };
        // Those computed from a read passed their check in this term, and for the others a change
        // of term is no reason to go on either: a new leader empties the queue.
        let read_term = Some(self.raft.term());
        for (part, answer) in command.parts.into_iter().zip(answers).rev() {
            let proposal = WriteProposal {
                context,
                read_term,
                mods: part.mods,
                answer,
            };
            self.proposals.waiting.push_front((since, proposal));
        }
    }

    pub(super) fn propose_split(
        &mut self,
        now: Mono,
        command: &flotilla_proto::store::SplitCommand,
        answer: Answer<Vec<Region>>,
    ) {
        match self
            .raft
            .propose(now, EntryKind::Admin, encode_split(command))
        {
            Ok(id) => self.remember(now, id, Owed::Split(answer)),
            Err(error) => answer.give(Err(self.refusal(&error))),
        }
    }

    pub(super) fn remember_members(&mut self, now: Mono, id: LogId, answer: Answer<Region>) {
        self.remember(now, id, Owed::Members(answer));
    }

    fn remember(&mut self, now: Mono, id: LogId, owed: Owed) {
        let last = self.proposals.appended.back();
        assert!(
            last.is_none_or(|last| last.id < id),
            "proposals are in log order"
        );
        let owed = if self.shared.plants(Planted::UnknownAsRefused) {
            owed
        } else {
            owed.appended()
        };
        self.proposals.appended.push_back(Appended {
            id,
            since: now,
            owed,
        });
    }

    /// Nothing was appended: the request is definitely not applied.
    pub(super) fn refusal(&self, error: &ProposeError) -> RequestError {
        match error {
            ProposeError::TooManyUncommitted { .. } => RequestError::Busy {
                reason: "too many writes are not committed yet",
            },
            // Neither this peer nor the next: each would send the client to the other at once, and
            // use up its attempts. Without a name it waits a little.
            ProposeError::Transferring { .. } => self.ask_instead(None),
            _ => self.not_leader(),
        }
    }

    /// The answers that travel with a committed data entry.
    pub(super) fn answers_for(&mut self, entry: &Entry) -> Vec<Answer<()>> {
        match self.proposals.take(entry) {
            Some(Owed::Writes(answers)) => answers,
            Some(Owed::Split(answer)) => {
                self.splitting.insert(entry.index, answer);
                Vec::new()
            }
            Some(Owed::Members(answer)) => {
                self.changing.insert(entry.index, answer);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// Waiting too long is refused, and so is not knowing for too long.
    pub(super) fn expire_proposals(&mut self, now: Mono) {
        let waited = |since: Mono| now - since >= self.shared.config.waiting_time_max;
        while self
            .proposals
            .waiting
            .front()
            .is_some_and(|(since, _)| waited(*since))
        {
            let Some((_, proposal)) = self.proposals.waiting.pop_front() else {
                break;
            };
            self.proposals.waiting_bytes -= proposal.bytes();
            let reason = "the write waited too long for the raft log";
            proposal.answer.give(Err(RequestError::Busy { reason }));
        }
        if self.is_leader() {
            return;
        }
        let undecided = |since: Mono| now - since >= self.shared.config.undecided_time_max;
        while self
            .proposals
            .appended
            .front()
            .is_some_and(|first| undecided(first.since))
        {
            let Some(first) = self.proposals.appended.pop_front() else {
                break;
            };
            if self.shared.plants(Planted::UndecidedForgotten) {
                std::mem::forget(first.owed);
                continue;
            }
            let reason = "leadership was lost before the write was committed";
            first.owed.refuse(&RequestError::Undetermined { reason });
        }
    }

    /// What is not in the log will not get there through this peer.
    pub(super) fn refuse_waiting(&mut self) {
        let error = self.not_leader();
        for (_, proposal) in std::mem::take(&mut self.proposals.waiting) {
            proposal.answer.give(Err(error.clone()));
        }
        self.proposals.waiting_bytes = 0;
    }

    /// Keys outside the region, or twice, do not split it.
    pub(super) fn split_keys_inside(&self, mut keys: Vec<Bytes>) -> Vec<Bytes> {
        keys.retain(|key| region::strictly_inside(&self.region, key));
        keys.sort();
        keys.dedup();
        keys
    }
}
