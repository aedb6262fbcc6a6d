//! Peers end (contracts: C7). A peer that was destroyed is *dying* until its tombstone survives a
//! crash: its region id makes no peer, its range goes to nobody, its log stays. Its data goes with
//! the tombstone, in one state batch, so that a crash takes back both or none.

use flotilla_engine::{LogSpan, SnapshotKey};
use flotilla_proto::metapb::Region;
use flotilla_proto::raft::{Message, MessageKind};
use flotilla_proto::store::PeerMessage;

use super::snapshots::Reserved;
use super::{Store, Written};
use crate::effects::{Outbound, RaftEffects, Retired};
use crate::planted::Planted;
use crate::region::{META_REGION, overlap};
use crate::{PROBE_TARGET, SnapshotTask};

/// A peer on its way out.
#[derive(Debug, Default)]
pub(super) struct Dying {
    /// What it was; `None`: it never knew its range.
    region: Option<Region>,
    /// What a snapshot that may be half in place would have made of it.
    promised: Option<Region>,
    /// The state batch with its tombstone, once that is written.
    cut: Option<u64>,
    /// Its machines that have stopped: raft half, apply half.
    stopped: [bool; 2],
    /// What its log holds.
    span: Option<LogSpan>,
    /// Its log is being cleared.
    clearing: bool,
    /// Of snapshots: an intent in the log may need them until that is cleared.
    files: Vec<SnapshotKey>,
}

impl Dying {
    pub(super) fn overlaps(&self, range: &Region) -> bool {
        let mut own = self.region.iter().chain(&self.promised);
        own.any(|own| overlap(own, range))
    }

    pub(super) fn was(&mut self, region: Region) {
        self.region = Some(region);
    }

    fn may_be_cleared(&self, durable: u64) -> bool {
        !self.clearing && self.stopped == [true, true] && self.cut.is_some_and(|cut| cut <= durable)
    }
}

impl Store {
    pub(super) fn on_dying(&mut self, region: u64) {
        self.blank.remove(&region);
        let promised = self.reserved.remove(&region);
        let live = self.ranges.extract_if(.., |_, live| live.id == region);
        let mut was = live.map(|(_, live)| live).next();
        if region == META_REGION {
            was = self.meta.take();
        }
        let dying = self.dying.entry(region).or_default();
        dying.region = dying.region.take().or(was);
        dying.promised = dying
            .promised
            .take()
            .or(promised.map(Reserved::into_region));
    }

    pub(super) fn on_destroyed(&mut self, region: u64, cut: u64, effects: &mut RaftEffects) {
        self.on_dying(region);
        if let Some(dying) = self.dying.get_mut(&region) {
            dying.cut = Some(cut);
        }
        effects.stop.push(region);
        self.clear_logs(effects);
    }

    pub(super) fn on_retired(&mut self, last: Retired, effects: &mut RaftEffects) {
        let (region, half) = match &last {
            Retired::Peer { region, .. } => (*region, 0),
            Retired::Apply { region } => (*region, 1),
        };
        let Some(dying) = self.dying.get_mut(&region) else {
            return self.on_replaced_retired(last, effects);
        };
        dying.stopped[half] = true;
        if let Retired::Peer { span, files, .. } = last {
            dying.span = Some(span);
            dying.files = files;
        }
        self.clear_logs(effects);
    }

    /// State batches up to `cut` survive a crash: tombstones among them are for good, and the logs
    /// behind them may go.
    pub(super) fn on_durable_cut(&mut self, cut: u64, effects: &mut RaftEffects) {
        self.durable_cut = cut;
        self.clear_logs(effects);
    }

    fn clear_logs(&mut self, effects: &mut RaftEffects) {
        let early = self.shared.plants(Planted::LogClearedEarly);
        let cut = if early { u64::MAX } else { self.durable_cut };
        let ready: Vec<u64> = self
            .dying
            .iter_mut()
            .filter(|(_, dying)| dying.may_be_cleared(cut))
            .map(|(region, dying)| {
                dying.clearing = true;
                *region
            })
            .collect();
        for region in ready {
            let span = self.dying.get(&region).and_then(|dying| dying.span);
            let span = span.unwrap_or(LogSpan { first: 0, last: 0 });
            effects.log.0.clear(region, span);
            self.write(Written::Cleared { region }, effects);
        }
    }

    /// A peer that ended in the replay of a start. Its tombstone is in a state batch before `cut`,
    /// which is not known to be durable.
    /// Its log and the files of its intent are still there.
    pub(crate) fn bury(
        &mut self,
        region: Region,
        (span, files): (Option<LogSpan>, Option<SnapshotKey>),
        cut: u64,
    ) {
        let id = region.id;
        let dying = Dying {
            region: Some(region),
            cut: Some(cut),
            stopped: [true, true],
            span,
            files: files.into_iter().collect(),
            ..Dying::default()
        };
        self.dying.insert(id, dying);
    }

    /// A peer that has ended votes for nobody. But its vote may be asked for by one that does not know
    /// that its removal is committed, and that cannot find out from anybody else: in a group of two
    /// there is nobody else. The answer says what was committed (thesis 4.2.2).
    pub(super) fn speak_for_the_ended(&self, message: &PeerMessage, effects: &mut RaftEffects) {
        let region = message.region_id;
        let (Some(candidate), Some(ended), Some(asked)) =
            (message.from_peer, message.to_peer, &message.message)
        else {
            return;
        };
        // A question before an election is asked in the term after the asker's.
        let (kind, term) = match asked.kind() {
            MessageKind::PreVote => (MessageKind::PreVoteResponse, asked.term.saturating_sub(1)),
            MessageKind::Vote => (MessageKind::VoteResponse, asked.term),
            _ => return,
        };
        let gone =
            ended.store_id == self.shared.store && !self.shared.seen.allows(region, ended.id);
        let Some(known) = self.shared.seen.known_at_the_end(region).filter(|_| gone) else {
            return;
        };
        let answer = Message {
            kind: kind.into(),
            from: ended.id,
            to: candidate.id,
            term,
            reject: true,
            commit: known.index,
            hint_term: known.term,
            ..Message::default()
        };
        effects.send_now.push(Outbound {
            store: candidate.store_id,
            message: PeerMessage {
                region_id: region,
                from_peer: Some(ended),
                to_peer: Some(candidate),
                message: Some(answer),
                ..PeerMessage::default()
            },
        });
    }

    /// Nothing is left of it but the tombstone.
    pub(super) fn on_cleared(&mut self, region: u64, effects: &mut RaftEffects) {
        tracing::trace!(target: PROBE_TARGET, "destroy: the log is cleared");
        let files = self.dying.remove(&region).map(|dying| dying.files);
        let discard = |key| SnapshotTask::Discard { key };
        let discards = files.into_iter().flatten().map(discard);
        effects.snapshots.extend(discards);
    }
}
