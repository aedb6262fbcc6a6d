//! Splitting: ids from PD, one admin entry, children on the same store.

use bytes::Bytes;
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Region, RegionEpoch};
use flotilla_proto::store::{SplitCommand, SplitPart};

use super::Peer;
use crate::effects::{
    Answer, NewIds, PdTask, RaftEffects, RaftInput, RegionSize, SizeCheck, StoreInput,
};
use crate::region::META_REGION;
use crate::{ReadContext, RequestError, STORE_ADDRESS};

/// A region is measured again when it has grown by this share of the size it is split at.
const MEASURE_SHARE: u64 = 16;

impl Peer {
    pub(super) fn on_split(
        &mut self,
        context: Option<ReadContext>,
        keys: Vec<Bytes>,
        answer: Answer<Vec<Region>>,
        effects: &mut RaftEffects,
    ) {
        let checked = match context {
            Some(context) => self.check(&context),
            None if self.is_leader() => Ok(()),
            None => Err(self.not_leader()),
        };
        let keys = self.split_keys_inside(keys);
        let refused = match checked {
            Err(error) => Some(error),
            Ok(()) if self.region.id == META_REGION => Some(RequestError::Split {
                reason: "the meta region is never split".into(),
            }),
            Ok(()) if keys.is_empty() => {
                let reason = format!("no key lies strictly inside region {}", self.region.id);
                Some(RequestError::Split { reason })
            }
            Ok(()) => None,
        };
        match (refused, self.region.region_epoch) {
            (Some(error), _) => answer.give(Err(error)),
            (None, None) => answer.give(Err(RequestError::EpochMissing)),
            (None, Some(epoch)) => {
                let region = self.region.clone();
                effects.pd.push(PdTask::AskSplit {
                    region,
                    epoch,
                    keys,
                    answer,
                });
            }
        }
    }

    pub(super) fn on_split_ids(
        &mut self,
        now: Mono,
        epoch: RegionEpoch,
        keys: Vec<Bytes>,
        ids: Result<Vec<NewIds>, String>,
        answer: Answer<Vec<Region>>,
    ) {
        let failed = |reason: String| Err(RequestError::Split { reason });
        let ids = match ids {
            Ok(ids) if ids.len() == keys.len() => ids,
            Ok(ids) => {
                let reason = format!("PD gave {} ids for {} regions", ids.len(), keys.len());
                return answer.give(failed(reason));
            }
            Err(reason) => return answer.give(failed(reason)),
        };
        if !self.is_leader() {
            return answer.give(Err(self.not_leader()));
        }
        if self.region.region_epoch != Some(epoch) {
            return answer.give(Err(self.delegate.serving().epoch_not_match()));
        }
        let parts = keys.into_iter().zip(ids).map(|(split_key, ids)| SplitPart {
            split_key,
            region_id: ids.region,
            peer_ids: ids.peers,
        });
        let command = SplitCommand {
            epoch: Some(epoch),
            parts: parts.collect(),
        };
        self.propose_split(now, &command, answer);
    }

    pub(super) fn on_split_applied(
        &mut self,
        now: Mono,
        index: u64,
        parent: Region,
        children: Vec<Region>,
        effects: &mut RaftEffects,
    ) {
        let leading = self.is_leader();
        self.region = parent.clone();
        self.siblings.clone_from(&children);
        // What the parent held is now spread; measured again when it grows.
        let parts = children.len() as u64 + 1;
        self.size = RegionSize {
            bytes: (self.size.bytes + self.growth.bytes) / parts,
            keys: (self.size.keys + self.growth.keys) / parts,
        };
        self.growth = RegionSize::default();
        let input = StoreInput::Split {
            children: children.clone(),
            parent: parent.clone(),
            leading,
        };
        effects
            .to_raft
            .push((STORE_ADDRESS, RaftInput::Store(input)));
        self.publish();
        let regions: Vec<_> = children.into_iter().chain([parent]).collect();
        if leading {
            self.report_region(now, effects);
            effects.pd.push(PdTask::ReportSplit {
                regions: regions.clone(),
            });
        }
        if let Some(answer) = self.splitting.remove(&index) {
            answer.give(Ok(regions));
        }
    }

    pub(super) fn on_split_refused(&mut self, index: u64) {
        if let Some(answer) = self.splitting.remove(&index) {
            answer.give(Err(self.delegate.serving().epoch_not_match()));
        }
    }

    /// Asks for a measurement when the region may have grown too large.
    pub(super) fn check_size(&mut self, effects: &mut RaftEffects) {
        let grown = self.growth.bytes >= self.shared.config.split_bytes.div_ceil(MEASURE_SHARE)
            || self.growth.keys >= self.shared.config.split_keys.div_ceil(MEASURE_SHARE);
        let unknown = self.size == RegionSize::default();
        let due = (grown || unknown) && !self.size_check_running && self.unsettled.is_empty();
        if self.is_leader() && due && self.region.id != META_REGION {
            self.size_check_running = true;
            effects.size_checks.push(SizeCheck {
                region: self.region.clone(),
            });
        }
    }

    pub(super) fn on_size_checked(
        &mut self,
        epoch: RegionEpoch,
        keys: Vec<Bytes>,
        size: RegionSize,
        effects: &mut RaftEffects,
    ) {
        self.size_check_running = false;
        if self.region.region_epoch != Some(epoch) {
            return;
        }
        // An empty region still counts as measured.
        self.size = RegionSize {
            bytes: size.bytes.max(1),
            keys: size.keys,
        };
        self.growth = RegionSize::default();
        if !keys.is_empty() && self.is_leader() {
            let region = self.region.id;
            let answer = Answer::new(move |outcome: Result<Vec<Region>, _>| match outcome {
                Ok(regions) => tracing::info!(region, parts = regions.len(), "split by size"),
                Err(error) => tracing::info!(region, %error, "split by size did not happen"),
            });
            self.on_split(None, keys, answer, effects);
        }
    }
}
