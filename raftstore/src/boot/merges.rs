//! Merges in the replay of a start: a region that takes another in waits until that one has replayed its
//! own log to the end (contracts: C5).

use std::collections::BTreeMap;

use flotilla_engine::{FlushReason, LogBatch, RaftLog, RegionLog, SnapshotInstall, StoredRegion};
use flotilla_proto::metapb::Region;
use flotilla_proto::raft::{Entry, HardState};
use flotilla_proto::store::{CommitMergeCommand, RaftRecord};

use super::Replay;
use crate::apply::{Apply, takes_in};
use crate::effects::ApplyEffects;
use crate::entry::{Command, commits_merge, decode_command, prepares_merge};
use crate::peer::Proposed;
use crate::planted::Planted;
use crate::region::{overlap, peer_on};
use crate::{PROBE_TARGET, StartError};

/// A region whose next entry takes another in.
pub(super) struct Waiting {
    apply: Apply,
    command: CommitMergeCommand,
}

impl Waiting {
    fn source(&self) -> u64 {
        self.command.source.as_ref().map_or(0, |source| source.id)
    }
}

/// A region that was taken in: what it was, and where its log ends.
pub(super) struct TakenIn {
    pub(super) region: Region,
    pub(super) last: u64,
}

/// The entries before the first commit-merge, and the rest.
pub(super) fn up_to_merge(entries: Vec<Entry>) -> (Vec<Entry>, Option<Entry>) {
    let mut entries = entries;
    let first = entries.iter().position(commits_merge);
    let merge = first.and_then(|first| entries.drain(first..).next());
    (entries, merge)
}

impl<L: RaftLog, S: SnapshotInstall> Replay<'_, L, S> {
    /// Whether `apply` takes in what `entry` says: then it waits. Otherwise the entry changes nothing.
    pub(super) fn wait_for_source(&mut self, apply: Apply, entry: &Entry) -> Option<Apply> {
        let blind = self.shared.plants(Planted::MergeOfOldEpoch);
        match decode_command(entry) {
            Ok(Command::CommitMerge(command))
                if takes_in(apply.region(), &command, blind).is_some() =>
            {
                let id = apply.region().id;
                self.waiting.insert(id, Waiting { apply, command });
                None
            }
            _ => Some(apply),
        }
    }

    /// Goes on with those whose source is through, or lost; returns the children that this makes.
    /// `None`: nobody could go on.
    pub(super) fn take_in(
        &mut self,
        logs: &BTreeMap<u64, RegionLog>,
    ) -> Result<Option<Vec<StoredRegion>>, StartError> {
        let ready = |waiting: &Waiting| {
            let source = waiting.command.source.clone().unwrap_or_default();
            let own = peer_on(&source, self.shared.store).map_or(0, |peer| peer.id);
            self.done.contains_key(&source.id) || !self.shared.seen.allows(source.id, own)
        };
        let ready = self.waiting.iter().find(|(_, waiting)| ready(waiting));
        let Some(region) = ready.map(|(region, _)| *region) else {
            return Ok(None);
        };
        let Some(waiting) = self.waiting.remove(&region) else {
            return Ok(None);
        };
        let birth = RegionLog::default();
        let lost = self.done.get(&waiting.source()).is_none_or(Apply::ended);
        if lost {
            return self.lose(waiting).map(|()| Some(Vec::new()));
        }
        let mut source = self.done.remove(&waiting.source());
        if let Some(behind) = source.take_if(|source| source.applied() < waiting.command.commit) {
            tracing::trace!(target: PROBE_TARGET, "merge: a source catches up in a replay");
            let found = logs.get(&waiting.source()).unwrap_or(&birth);
            self.write_carried(&behind, found, &waiting.command)?;
            // Comes back here when it is through: it may have taken in another one itself.
            self.ends.insert(waiting.source(), waiting.command.commit);
            self.waiting.insert(region, waiting);
            return self.forward(behind, found).map(Some);
        }
        let mut apply = waiting.apply;
        if let Some(source) = source {
            let found = logs.get(&source.region().id).unwrap_or(&birth);
            let end = self.ends.get(&source.region().id).copied().unwrap_or(0);
            self.taken_in.push(TakenIn {
                region: source.region().clone(),
                last: found.last_index().max(end),
            });
        }
        let index = apply.applied() + 1;
        let entry = self.log.entries(region, index, index + 1, u64::MAX)?;
        tracing::trace!(target: PROBE_TARGET, "merge: in a replay");
        self.apply(&mut apply, entry)?;
        self.splits.insert(region, apply.applied());
        let found = logs.get(&region).unwrap_or(&birth);
        self.forward(apply, found).map(Some)
    }

    /// The rows of the source are lost here, and so is the replica that was to have them.
    fn lose(&mut self, waiting: Waiting) -> Result<(), StartError> {
        let Waiting { mut apply, .. } = waiting;
        let region = apply.region().id;
        tracing::error!(
            region,
            "a region that it takes in is lost here: its peer ends, too"
        );
        let mut effects = ApplyEffects::default();
        apply.destroy(&mut effects);
        self.finish(&mut apply, effects)?;
        self.state.flush_all(FlushReason::Admin)?;
        self.done.insert(region, apply);
        Ok(())
    }

    /// What the source lacks goes to its log before it is applied, as everywhere (contracts: C4).
    fn write_carried(
        &self,
        source: &Apply,
        found: &RegionLog,
        command: &CommitMergeCommand,
    ) -> Result<(), StartError> {
        let region = source.region().id;
        let applied = source.applied();
        let lacking = command.entries.iter().filter(|entry| entry.index > applied);
        let lacking: Vec<Entry> = lacking.cloned().collect();
        // What comes before the first of them is in its own log: every peer had it.
        let held = found.last_index().max(applied);
        let whole = lacking.first().is_some_and(|first| first.index <= held + 1)
            && lacking
                .last()
                .is_some_and(|last| last.index == command.commit);
        if !whole {
            let detail = format!(
                "it has applied {applied}, was merged at {}, and what is between is not in the log of its target",
                command.commit
            );
            return Err(StartError::Inconsistent { region, detail });
        }
        let term = lacking.last().map_or(0, |last| last.term);
        let known = found.record.and_then(|record| record.hard_state);
        let known = known.unwrap_or_default();
        let hard_state = HardState {
            term: term.max(known.term),
            vote: if term > known.term { 0 } else { known.vote },
            commit: command.commit,
        };
        let peer = peer_on(source.region(), self.shared.store).map_or(0, |peer| peer.id);
        let mut batch = LogBatch::default();
        batch.append(region, lacking, found.last_index());
        batch.set_record(
            region,
            RaftRecord {
                peer_id: peer,
                hard_state: Some(hard_state),
            },
        );
        self.log.append(&batch)?;
        self.log.sync()?;
        Ok(())
    }

    /// A region that waits, and is a part of `region` by now: it will not take anybody in.
    pub(super) fn forget_waiting(&mut self, id: u64, region: &Region) -> Option<Region> {
        let ends = |waiting: &Waiting| overlap(waiting.apply.region(), region);
        if !self.waiting.get(&id).is_some_and(ends) {
            return None;
        }
        let waiting = self.waiting.remove(&id)?;
        Some(waiting.apply.region().clone())
    }

    /// Nobody is left that waits.
    pub(super) fn check_waiting(&self) -> Result<(), StartError> {
        let Some((region, waiting)) = self.waiting.iter().next() else {
            return Ok(());
        };
        let source = waiting.source();
        let detail = format!("it takes in region {source}, which has no peer on this store");
        Err(StartError::Inconsistent {
            region: *region,
            detail,
        })
    }

    /// A prepare-merge in the log of `apply` behind what is applied.
    pub(super) fn proposed_merge(
        &self,
        apply: &Apply,
        found: Option<&RegionLog>,
    ) -> Result<Option<Proposed>, StartError> {
        let (region, last) = (apply.region().id, found.map_or(0, RegionLog::last_index));
        let mut low = apply.applied() + 1;
        let mut proposed = None;
        while low <= last {
            let page = self.log.entries(region, low, last + 1, self.page_bytes)?;
            low += page.len() as u64;
            proposed = page.iter().filter_map(prepares_merge).last().or(proposed);
        }
        Ok(proposed)
    }
}
