//! Dropping log entries that nobody needs any more (contracts: C11).

use flotilla_proto::store::TruncationRecord;

use super::Peer;
use crate::effects::RaftEffects;
use crate::planted::Planted;

impl Peer {
    /// Never beyond what survives a crash in the state database, nor beyond what a recently active
    /// follower still needs, within the lag that is kept for one.
    pub(super) fn truncate_log(&mut self, effects: &mut RaftEffects) {
        let log = self.raft.log();
        let first = log.first();
        let applied = self.raft.applied_index();
        let mut durable = self.durable_applied.min(applied);
        if self.shared.plants(Planted::TruncateUndurable) {
            durable = applied;
        }
        let kept_for_lag = applied.saturating_sub(self.shared.config.lag_entries_max);
        let mut needed = self.raft.min_matched().max(kept_for_lag);
        if self.shared.plants(Planted::TruncateUnasked) {
            needed = durable;
        }
        if self.shared.plants(Planted::FollowersKeepLogs) && !self.is_leader() {
            return;
        }
        let mut to = durable.min(needed);
        if !self.shared.plants(Planted::MergeTruncates) {
            to = self.source.kept_behind().map_or(to, |kept| to.min(kept));
        }
        if to < first {
            return;
        }
        let entries = to + 1 - first;
        let worth = entries >= self.shared.config.truncate_entries_min
            || log.bytes_up_to(to) >= self.shared.config.truncate_bytes_min;
        if !worth {
            return;
        }
        let Some(term) = log.term_of(to) else { return };
        let record = TruncationRecord { index: to, term };
        effects.log.0.truncate(self.region.id, record, first);
        if self
            .raft
            .log()
            .snapshot_index()
            .is_some_and(|index| index < to)
        {
            // What follows it is gone.
            self.forget_built(effects);
        }
        self.raft.log_mut().truncate(to, term);
    }
}
