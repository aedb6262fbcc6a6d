//! The state machine of a region: committed entries become changes of the state database.
//!
//! Invariants: entries are applied in index order without a gap; the applied index and what it
//! covers are in one batch (design, rule 3); an entry that cannot be understood stops the store
//! and changes nothing (contracts: C36).

mod destroy;
mod install;
mod membership;
mod merge;
mod split;

use std::sync::Arc;

use bytes::Bytes;
use flotilla_engine::StateOp;
use flotilla_proto::metapb::Region;
use flotilla_proto::raft::{Entry, EntryKind};
use flotilla_proto::store::{
    ApplyRecord, Lineage, Merging, Mod, ModKind, PeerState, RegionRecord, WriteCommand,
};
use flotilla_router::Machine;

use crate::effects::{Answer, ApplyEffects, ApplyInput, ApplyReport, Committed, Now};
use crate::entry::{Command, decode_command};
use crate::planted::Planted;
use crate::region::epoch;
use crate::store::Shared;
use crate::{EntryError, RequestError, StartError};

pub(crate) use merge::takes_in;

/// One region's apply machine.
#[derive(Debug)]
pub struct Apply {
    shared: Arc<Shared>,
    /// Which of the region's machines this is one of.
    life: u64,
    /// As of `applied`.
    region: Region,
    /// The highest peer id this store has seen for the region.
    highest_peer_id: u64,
    /// Never falls; the next entry has this index plus one.
    applied: u64,
    /// The term of `applied`.
    term: u64,
    /// Between a prepare-merge and its end: the next entry that means anything is a rollback.
    merging: Option<Box<Merging>>,
    /// What the region has taken in.
    lineage: Option<Box<Lineage>>,
    /// Regions that the last split made, for answers to requests with an older epoch.
    siblings: Vec<Region>,
    /// The tombstone is written, or will be with this round: nothing is applied any more.
    ended: bool,
    /// For a planted bug: what the round before should have written.
    withheld: Vec<StateOp>,
    /// What this round did; told to the peer when it is written.
    report: Option<ApplyReport>,
}

impl Apply {
    /// The machine of a region whose state is as of `applied`.
    pub(crate) fn new(
        shared: Arc<Shared>,
        life: u64,
        record: &RegionRecord,
        applied: ApplyRecord,
    ) -> Self {
        let region = record.region.clone().unwrap_or_default();
        if let Some(lineage) = &record.lineage {
            shared.merged.learn(region.id, lineage);
        }
        Self {
            shared,
            life,
            region,
            merging: record.merging.clone(),
            lineage: record.lineage.clone(),
            highest_peer_id: record.highest_peer_id,
            applied: applied.index,
            term: applied.term,
            siblings: Vec::new(),
            ended: false,
            withheld: Vec::new(),
            report: None,
        }
    }

    /// The last index applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The region as of [`Apply::applied`].
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Between a prepare-merge and its end.
    pub(crate) fn merging(&self) -> Option<&Merging> {
        self.merging.as_deref()
    }

    /// The peer has ended: it was removed, or destroyed.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn set_life(&mut self, life: u64) {
        self.life = life;
    }

    fn apply(&mut self, committed: Committed, effects: &mut ApplyEffects) {
        let Committed { entry, answers } = committed;
        if self.ended {
            return;
        }
        assert_eq!(
            entry.index,
            self.applied + 1,
            "region {}: a gap in apply",
            self.region.id
        );
        assert!(
            entry.term >= self.term,
            "region {}: terms fall in apply",
            self.region.id
        );
        let mut report = self.report.take().unwrap_or_default();
        report.bytes += entry.data.len() as u64;
        match self.execute(&entry, answers, &mut report, effects) {
            Ok(()) => {
                self.applied = entry.index;
                self.term = entry.term;
                report.index = entry.index;
                report.term = entry.term;
            }
            Err(source) => {
                let (region, index) = (self.region.id, entry.index);
                effects.fatal.get_or_insert(StartError::Entry {
                    region,
                    index,
                    source,
                });
            }
        }
        self.report = Some(report);
    }

    fn execute(
        &mut self,
        entry: &Entry,
        answers: Vec<Answer<()>>,
        report: &mut ApplyReport,
        effects: &mut ApplyEffects,
    ) -> Result<(), EntryError> {
        if entry.kind() == EntryKind::ConfChange {
            return self.apply_members(entry, report, effects);
        }
        match decode_command(entry)? {
            Command::Empty => {}
            Command::Write(command) => self.apply_write(command, answers, report, effects),
            Command::Split(command) => self.apply_split(entry.index, command, report, effects),
            Command::PrepareMerge(command) => {
                self.apply_prepare_merge(entry, command, report, effects);
            }
            Command::CommitMerge(command) => {
                self.apply_commit_merge(entry, command, report, effects);
            }
            Command::RollbackMerge(command) => {
                self.apply_rollback_merge(entry.index, &command, report, effects);
            }
        }
        Ok(())
    }

    /// Each part stands alone: one whose epoch has moved is skipped and answered so (C23).
    fn apply_write(
        &self,
        command: WriteCommand,
        answers: Vec<Answer<()>>,
        report: &mut ApplyReport,
        effects: &mut ApplyEffects,
    ) {
        assert!(
            answers.is_empty() || answers.len() == command.parts.len(),
            "one answer a part"
        );
        let version = epoch(&self.region).version;
        let blind = self.shared.plants(Planted::EpochUncheckedAtApply);
        let mut answers = answers.into_iter();
        for part in command.parts {
            let result = if part.epoch_version == version || blind {
                for change in part.mods {
                    report.written_keys += 1;
                    report.written_bytes += (change.key.len() + change.value.len()) as u64;
                    effects.batch.ops.push(self.state_op(change));
                }
                Ok(())
            } else {
                Err(self.epoch_not_match())
            };
            if let Some(answer) = answers.next() {
                effects.answers.push((answer, result));
            }
        }
    }

    fn state_op(&self, change: Mod) -> StateOp {
        let (kind, cf) = (change.kind(), change.cf());
        let Mod { key, value, .. } = change;
        match kind {
            ModKind::Put => StateOp::Put { cf, key, value },
            ModKind::Delete => StateOp::Delete { cf, key },
            ModKind::DeleteRange => {
                let (start, end) = self.clamp(key, value);
                StateOp::DeleteRange { cf, start, end }
            }
        }
    }

    /// A range ends where the region does, whatever was asked.
    fn clamp(&self, start: Bytes, end: Bytes) -> (Bytes, Bytes) {
        let start = start.max(self.region.start_key.clone());
        let region_end = &self.region.end_key;
        let end = match (end.is_empty(), region_end.is_empty()) {
            (true, _) => region_end.clone(),
            (false, true) => end,
            (false, false) => end.min(region_end.clone()),
        };
        (start, end)
    }

    fn epoch_not_match(&self) -> RequestError {
        let current = std::iter::once(&self.region)
            .chain(&self.siblings)
            .cloned()
            .collect();
        RequestError::EpochNotMatch { current }
    }

    fn record(&self) -> RegionRecord {
        RegionRecord {
            state: PeerState::Normal.into(),
            region: Some(self.region.clone()),
            highest_peer_id: self.highest_peer_id,
            merging: self.merging.clone(),
            lineage: self.lineage.clone(),
        }
    }
}

impl Machine for Apply {
    type Input = ApplyInput;
    type Effects = ApplyEffects;
    type Now = Now;

    fn input_bytes(input: &ApplyInput) -> u64 {
        let ApplyInput::Committed(entries) = input else {
            return 0;
        };
        entries
            .iter()
            .map(|committed| committed.entry.data.len() as u64)
            .sum()
    }

    fn handle(&mut self, _now: Now, input: ApplyInput, effects: &mut ApplyEffects) {
        match input {
            ApplyInput::Committed(entries) => {
                for committed in entries {
                    if effects.fatal.is_some() {
                        return;
                    }
                    self.apply(committed, effects);
                }
            }
            ApplyInput::Install {
                manifest,
                ops,
                died,
            } => self.install(manifest, ops, died, effects),
            ApplyInput::Destroy => self.destroy(effects),
        }
    }

    fn end_round(&mut self, _now: Now, effects: &mut ApplyEffects) {
        let Some(mut report) = self.report.take() else {
            return;
        };
        report.life = self.life;
        if self.shared.plants(Planted::AppliedBeforeData) && !self.ended {
            let data =
                |op: &mut StateOp| matches!(op, StateOp::Put { .. } | StateOp::Delete { .. });
            let later: Vec<StateOp> = effects.batch.ops.extract_if(.., data).collect();
            effects.batch.ops.append(&mut self.withheld);
            self.withheld = later;
        }
        if self.ended {
            effects.reports.push((self.region.id, report));
            return;
        }
        let record = ApplyRecord {
            index: self.applied,
            term: self.term,
        };
        effects.batch.ops.push(StateOp::PutApplied {
            region: self.region.id,
            record,
        });
        effects.reports.push((self.region.id, report));
    }

    fn retire(&mut self, _now: Now, effects: &mut ApplyEffects) {
        effects.retired.push(self.region.id);
    }
}
