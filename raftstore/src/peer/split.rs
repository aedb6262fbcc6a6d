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

/// A region is measured again when this share of the size it is split at was written to it: what
/// is overwritten makes the estimate too large ...
const MEASURE_SHARE: u64 = 2;
/// ... and after this share once it may have reached that size.
const MEASURE_SHARE_LARGE: u64 = 16;

/// Whether a region that had `size` when it was measured, and had `growth` written to it since, is
/// to be measured again; `split` is the size it is split at.
fn worth_measuring(size: u64, growth: u64, split: u64) -> bool {
    // Nothing grows by more than what is written to it.
    let share = if size.saturating_add(growth) >= split {
        MEASURE_SHARE_LARGE
    } else {
        MEASURE_SHARE
    };
    growth >= split.div_ceil(share)
}

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
            Ok(()) if self.source.is_under_way() => Some(RequestError::Merging {
                region: self.region.id,
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
        (children, stillborn): (Vec<Region>, Vec<u64>),
        effects: &mut RaftEffects,
    ) {
        let leading = self.is_leader();
        self.region = parent.clone();
        self.siblings.clone_from(&children);
        // What the parent held is now spread; measured again when it grows.
        let parts = children.len() as u64 + 1;
        let all = self.size_at_most();
        self.size = RegionSize {
            bytes: all.bytes / parts,
            keys: all.keys / parts,
        };
        self.measure_again = true;
        self.growth = RegionSize::default();
        self.load.cool();
        let input = StoreInput::Split {
            children: children
                .iter()
                .filter(|child| !stillborn.contains(&child.id))
                .cloned()
                .collect(),
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
        let config = &self.shared.config;
        let grown = worth_measuring(self.size.bytes, self.growth.bytes, config.split_bytes)
            || worth_measuring(self.size.keys, self.growth.keys, config.split_keys);
        let unknown = self.size == RegionSize::default();
        if grown || unknown {
            self.measure(effects);
        }
    }

    /// What it holds is at most this: what is overwritten counts until it is measured again.
    pub(super) fn size_at_most(&self) -> RegionSize {
        RegionSize {
            bytes: self.size.bytes.saturating_add(self.growth.bytes),
            keys: self.size.keys.saturating_add(self.growth.keys),
        }
    }

    pub(super) fn too_large(&self) -> bool {
        self.region.id != META_REGION
            && self.size_at_most().bytes > self.shared.config.region_bytes_max
    }

    /// A region that takes no writes is not left to the next heartbeat.
    pub(super) fn check_too_large(&mut self, effects: &mut RaftEffects) {
        if self.too_large() && self.splitting.is_empty() {
            self.measure(effects);
        }
    }

    /// Asks for the measurement that was put off.
    pub(super) fn check_size_again(&mut self, effects: &mut RaftEffects) {
        if self.measure_again {
            self.measure(effects);
        }
    }

    fn measure(&mut self, effects: &mut RaftEffects) {
        let free = !self.size_check_running && self.unsettled.is_empty();
        if self.is_leader() && free && self.region.id != META_REGION {
            self.size_check_running = true;
            self.growth_asked = self.growth;
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
            self.measure_again = true;
            return;
        }
        // An empty region still counts as measured.
        self.size = RegionSize {
            bytes: size.bytes.max(1),
            keys: size.keys,
        };
        self.growth.bytes = self.growth.bytes.saturating_sub(self.growth_asked.bytes);
        self.growth.keys = self.growth.keys.saturating_sub(self.growth_asked.keys);
        self.measure_again = !keys.is_empty();
        if keys.is_empty() {
            // It may have grown while it was measured.
            self.check_size(effects);
        } else if self.is_leader() {
            let region = self.region.id;
            let answer = Answer::new(move |outcome: Result<Vec<Region>, _>| match outcome {
                Ok(regions) => tracing::info!(region, parts = regions.len(), "split by size"),
                Err(error) => tracing::info!(region, %error, "split by size did not happen"),
            });
            self.on_split(None, keys, answer, effects);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::worth_measuring;

    #[test]
    fn a_region_is_measured_when_it_may_be_too_large_and_seldom_before() {
        for (size, growth, expected) in [
            (1, 799, false),
            (1, 800, true),
            (799, 799, false),
            (799, 800, true),
            (1500, 99, false),
            (1500, 100, true),
            (1600, 99, false),
            (1600, 100, true),
            (u64::MAX, 99, false),
            (u64::MAX, u64::MAX, true),
        ] {
            let found = worth_measuring(size, growth, 1600);
            assert_eq!(found, expected, "{growth} since it had {size}");
        }
    }
}
