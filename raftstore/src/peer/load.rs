//! Splitting what is asked too much of.

use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::Region;

use super::Peer;
use crate::PROBE_TARGET;
use crate::effects::{Answer, RaftEffects, WriteProposal};
use crate::load::Hot;
use crate::region::META_REGION;

impl Peer {
    pub(super) fn count_write(&mut self, proposal: &WriteProposal, bytes: u64) {
        let mut keys = proposal.mods.iter().map(|change| &change.key);
        self.load.write(bytes, &mut keys);
    }

    /// A region that was hot for long enough is split where its load halves.
    pub(super) fn watch_load(&mut self, now: Mono, effects: &mut RaftEffects) {
        let config = &self.shared.config;
        let hot = Hot {
            queries: config.split_queries,
            bytes: config.split_flow_bytes,
            time: config.split_hot_time,
        };
        let key = self.load.tick(now, self.delegate.load(), hot);
        let free = self.splitting.is_empty() && self.unsettled.is_empty();
        let Some(key) = key.filter(|_| free && self.is_leader()) else {
            return;
        };
        if self.region.id == META_REGION {
            return;
        }
        tracing::trace!(target: PROBE_TARGET, "split: by load");
        let region = self.region.id;
        let answer = Answer::new(move |outcome: Result<Vec<Region>, _>| match outcome {
            Ok(_) => tracing::info!(region, "split by load"),
            Err(error) => tracing::info!(region, %error, "split by load did not happen"),
        });
        self.on_split(None, vec![key], answer, effects);
    }
}
