//! What the raft group wants done: a Ready becomes effects.

use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::Peer as PeerMeta;
use flotilla_proto::raft::{Entry, EntryKind, HardState, Message};
use flotilla_proto::store::{PeerMessage, RaftRecord};
use flotilla_raft::RoleChange;

use super::Peer;
use crate::effects::{Committed, Outbound, RaftEffects, Release};
use crate::planted::Planted;

impl Peer {
    pub(super) fn carry_out_ready(&mut self, now: Mono, effects: &mut RaftEffects) {
        let region = self.region.id;
        let mut ready = self.raft.ready(now);
        if ready.snapshot.is_some() && self.shared.plants(Planted::AckBeforeIntent) {
            ready.send_now.append(&mut ready.send_after_write);
        }
        let awaits_write = ready.awaits_write();
        if let Some(change) = &ready.role_change {
            self.on_role_change(now, change, effects);
        }
        for message in ready.send_now {
            let kind = message.kind();
            if let Some(outbound) = self.outbound(message) {
                self.count_snapshot(kind);
                effects.send_now.push(outbound);
            }
        }
        if let Some(snapshot) = &ready.snapshot {
            self.on_restored(ready.number, snapshot, effects);
        }
        let ready_entries_empty = ready.entries.is_empty();
        if !ready.entries.is_empty() {
            self.note_appended(&ready.entries);
            let last_before = self.raft.log_mut().take_last_before();
            effects.log.0.append(region, ready.entries, last_before);
        }
        let forgets = !ready_entries_empty && self.forgets_commit(&ready.hard_state);
        if let Some(hard_state) = ready.hard_state.filter(|_| !forgets) {
            let record = RaftRecord {
                peer_id: self.meta.id,
                hard_state: Some(hard_state),
            };
            effects.log.0.set_record(region, record);
        }
        if awaits_write {
            self.note_write(now, ready.number);
            let waiting = ready.send_after_write.into_iter();
            let messages = waiting
                .filter_map(|message| self.outbound(message))
                .collect();
            effects.releases.push(Release {
                region,
                life: self.life,
                number: ready.number,
                cleared: None,
                messages,
            });
        }
        if !ready.snapshot_wanted.is_empty() {
            self.want_snapshot(effects);
        }
        self.hand_to_apply(ready.committed, effects);
        for grant in ready.reads {
            self.on_read_granted(grant.token, grant.index);
        }
        for token in ready.reads_failed {
            self.on_read_failed(token);
        }
    }

    fn on_role_change(&mut self, now: Mono, change: &RoleChange, effects: &mut RaftEffects) {
        tracing::debug!(region = self.region.id, role = ?change.role, term = change.term, "role");
        if self.is_leader() || !self.shared.plants(Planted::LeaseOutlivesLeader) {
            self.publish();
        }
        self.announce_meta(effects);
        self.tell_role(change, effects);
        if self.is_leader() {
            self.report_region(now, effects);
            self.check_size(effects);
        } else {
            self.refuse_waiting();
            self.refuse_reads();
        }
    }

    /// A planted bug: entries are written without the commit index that came with them.
    fn forgets_commit(&mut self, state: &Option<HardState>) -> bool {
        let Some(HardState { term, vote, .. }) = *state else {
            return false;
        };
        let before = std::mem::replace(&mut self.promised, (term, vote));
        before == (term, vote) && self.shared.plants(Planted::CommitNotStored)
    }

    /// Whatever changes the region itself closes the door for reads before the data can change.
    fn hand_to_apply(&mut self, entries: Vec<Entry>, effects: &mut RaftEffects) {
        if entries.is_empty() || self.source.has_stopped() {
            return;
        }
        let mut committed = Vec::with_capacity(entries.len());
        for entry in entries {
            if entry.kind() != EntryKind::Data {
                self.unsettled.push_back(entry.index);
                self.delegate.outdate();
            }
            let mut answers = self.answers_for(&entry);
            if self.shared.plants(Planted::AnsweredBeforeApplied) {
                answers.drain(..).for_each(|answer| answer.give(Ok(())));
            }
            committed.push(Committed { entry, answers });
        }
        if !self.unsettled.is_empty() && !self.shared.plants(Planted::LeaseOverSplit) {
            self.delegate.suspend();
        }
        if let Some(last) = committed.last() {
            self.handed = last.entry.index;
        }
        self.route(committed, effects);
    }

    /// `None` when nobody knows where the peer is: raft will try again.
    fn outbound(&self, message: Message) -> Option<Outbound> {
        let known = self
            .region
            .peers
            .iter()
            .find(|peer| peer.id == message.to)
            .copied();
        let to = known.or_else(|| self.raft.log().address(message.to))?;
        let mut envelope = self.envelope(to);
        envelope.message = Some(message);
        Some(Outbound {
            store: to.store_id,
            message: envelope,
        })
    }

    /// What every message says of its sender.
    pub(super) fn envelope(&self, to: PeerMeta) -> PeerMessage {
        PeerMessage {
            region_id: self.region.id,
            from_peer: Some(self.meta),
            to_peer: Some(to),
            region_epoch: self.region.region_epoch,
            start_key: self.region.start_key.clone(),
            end_key: self.region.end_key.clone(),
            message: None,
            ..PeerMessage::default()
        }
    }
}
