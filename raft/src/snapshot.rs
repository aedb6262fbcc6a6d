//! Snapshots (paper section 7): a follower that fell behind the log gets the state instead.

use flotilla_proto::clock::Mono;
use flotilla_proto::raft::{Message, MessageKind, Snapshot, SnapshotMeta};

use crate::conf::Conf;
use crate::error::StepError;
use crate::log_view::LogView;
use crate::planted::Planted;
use crate::progress::{Pace, Progress};
use crate::raft::{NUMBER_MAX, Raft, State};

impl<L: LogView> Raft<L> {
    // ---- the leader's side ----

    /// Sends a snapshot to `peer`, or asks the caller for one. Never lets an append follow.
    pub(crate) fn send_snapshot(&mut self, peer: &mut Progress) -> bool {
        if self.now - peer.active >= self.config.election_timeout_max {
            // Too big to be sent on the chance; the peer shows itself by answering a heartbeat.
            peer.paused = true;
            return false;
        }
        // One from before the peer was a member would tell it that it is none.
        let blind = self.plants(Planted::SnapshotOfOthers);
        let names = |snapshot: &Snapshot| {
            let conf = snapshot.meta.as_ref().and_then(|meta| meta.conf.as_ref());
            blind
                || conf
                    .is_some_and(|conf| Conf::parse(conf).is_ok_and(|conf| conf.contains(peer.id)))
        };
        let Some(snapshot) = self.log.view.snapshot().filter(names) else {
            if !peer.snapshot_wanted {
                peer.snapshot_wanted = true;
                self.snapshot_wanted.push(peer.id);
            }
            return false;
        };
        let index = snapshot.meta.as_ref().map_or(0, |meta| meta.index);
        assert!(
            index + 1 >= self.log.first_index(),
            "snapshot at {index} below the log's beginning"
        );
        peer.become_snapshot(index);
        let kind = MessageKind::Snapshot;
        let message = Message {
            snapshot: Some(Box::new(snapshot)),
            ..self.message(kind, peer.id)
        };
        self.send_now.push(message);
        false
    }

    /// A snapshot that was asked for in [`crate::Ready::snapshot_wanted`] is there now. Without this
    /// call it is looked for at the next heartbeat.
    pub fn snapshot_ready(&mut self, now: Mono) {
        self.advance(now);
        if let State::Leader(leader) = &mut self.state {
            for peer in &mut leader.peers {
                leader.replicate |= std::mem::take(&mut peer.snapshot_wanted);
            }
        }
    }

    /// What became of a snapshot message: owed once for each that leaves in a Ready. `ok` when the
    /// peer has taken it in as far as the transport can tell; if that is wrong, the peer refuses the
    /// next append and gets another snapshot.
    pub fn report_snapshot(&mut self, peer: u64, ok: bool) {
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        let Some(peer) = leader.peer_mut(peer) else {
            return;
        };
        if !matches!(peer.pace, Pace::Snapshot { .. }) {
            return;
        }
        if !ok {
            peer.pace = Pace::Probe;
        }
        peer.become_probe();
        // Whatever happened, give it until its next sign of life.
        peer.paused = true;
    }

    // ---- the follower's side ----

    pub(crate) fn on_snapshot(&mut self, message: Message) -> Result<(), StepError> {
        let from = message.from;
        let Some((snapshot, meta, conf)) = parse_snapshot(message.snapshot) else {
            return Ok(());
        };
        if !conf.contains(self.config.id) {
            return Err(StepError::NotInSnapshot { id: self.config.id });
        }
        self.hear_leader(from)?;
        if meta.index > self.log.commit() {
            if self.log.matches(meta.index, meta.term) && !self.conf.is_unknown() {
                // The log has it all already; a state from elsewhere would only cost.
                self.log.commit_to(meta.index);
            } else {
                self.log.restore(snapshot, meta.index, meta.term);
                let half = self.plants(Planted::SnapshotDropsOutgoing);
                self.conf = if half { conf.incoming() } else { conf };
            }
        }
        // Where this snapshot is old, the commit index tells the leader where to go on.
        self.accept_append(from, self.log.commit());
        Ok(())
    }
}

/// A snapshot message's content, if it makes sense.
fn parse_snapshot(snapshot: Option<Box<Snapshot>>) -> Option<(Snapshot, SnapshotMeta, Conf)> {
    let snapshot = *snapshot?;
    let meta = snapshot.meta.clone()?;
    let conf = Conf::parse(meta.conf.as_ref()?).ok()?;
    Some((snapshot, meta, conf))
}

/// A snapshot with a configuration, of a term that its sender can know.
pub(crate) fn check_snapshot(message: &Message) -> Result<(), &'static str> {
    let Some(meta) = message
        .snapshot
        .as_ref()
        .and_then(|snapshot| snapshot.meta.as_ref())
    else {
        return Err("a snapshot message without a snapshot");
    };
    if meta.term > message.term || meta.term == 0 || meta.index > NUMBER_MAX {
        return Err("a snapshot of an impossible term or index");
    }
    match meta.conf.as_ref().map(Conf::parse) {
        Some(Ok(conf)) if !conf.is_unknown() => Ok(()),
        _ => Err("a snapshot with an impossible configuration"),
    }
}
