//! What the log must look like when it is opened: whole, in order, and in step with the state
//! (contracts: C7, C10). Anything else is refused by name.

use flotilla_proto::store::{RaftRecord, RegionRecord, SnapshotIntent, TruncationRecord};

use crate::log::{BIRTH, LogSpan, RegionLog};
use crate::{EngineError, Result};

/// How a region's raft record and its region record belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordMatch {
    /// Both speak of the same peer, or the log has none yet.
    Same,
    /// The raft record is of a newer peer that has received nothing but votes so far: it was made
    /// by a message after the recorded one was destroyed, and starts over.
    NewerUninitialized,
    /// The raft record is of a newer peer whose snapshot intent is open: the region's record
    /// follows when the snapshot is installed.
    NewerInstalling,
}

impl RegionLog {
    /// The truncation point, [`BIRTH`] for a log that was never truncated.
    pub fn truncated(&self) -> TruncationRecord {
        self.truncation.unwrap_or(BIRTH)
    }

    /// The last index: of the entries, or the truncation point if there are none.
    pub fn last_index(&self) -> u64 {
        self.span.map_or(self.truncated().index, |span| span.last)
    }

    /// Index of the snapshot whose intent is open; 0 if none is.
    pub fn intent_index(&self) -> u64 {
        let manifest = self.intent.as_ref().and_then(|i| i.manifest.as_ref());
        manifest.map_or(0, |manifest| manifest.index)
    }

    /// Refuses a state that the log cannot carry on from: applied beyond its end, or behind its
    /// truncation point (contracts: C10). `applied` is the state's applied index. While an intent
    /// is open that reaches the truncation point, the state is behind on purpose: the snapshot is
    /// installed again (contracts: C6).
    pub fn check_applied(&self, region: u64, applied: u64) -> Result<()> {
        let (truncated, last) = (self.truncated().index, self.last_index());
        if applied > last {
            let detail = format!("the state has applied index {applied}, the log ends at {last}");
            return Err(EngineError::corrupt(format!("region {region}"), detail));
        }
        if applied < truncated && self.intent_index() < truncated {
            let detail = format!(
                "the state has applied index {applied}, the log was truncated up to {truncated}: \
                 the entries between are gone"
            );
            return Err(EngineError::corrupt(format!("region {region}"), detail));
        }
        Ok(())
    }

    /// Refuses a hard state of another peer than the region's record names on `store`, unless it
    /// is of a newer one that was never initialized, or whose first snapshot is being installed
    /// (contracts: C6, C7).
    pub fn check_peer(&self, store: u64, stored: &RegionRecord) -> Result<RecordMatch> {
        let Some(record) = self.record else {
            return Ok(RecordMatch::Same);
        };
        let region = stored.region.as_ref();
        let id = region.map_or(0, |region| region.id);
        let peer =
            region.and_then(|region| region.peers.iter().find(|peer| peer.store_id == store));
        let known = peer.map_or(stored.highest_peer_id, |peer| peer.id);
        if record.peer_id == known {
            return Ok(RecordMatch::Same);
        }
        let commit = record.hard_state.map_or(0, |hard_state| hard_state.commit);
        let uninitialized = self.truncation.is_none() && self.span.is_none() && commit == 0;
        if record.peer_id > known && uninitialized {
            return Ok(RecordMatch::NewerUninitialized);
        }
        if record.peer_id > known && self.intent.is_some() {
            return Ok(RecordMatch::NewerInstalling);
        }
        let detail = format!(
            "the log's hard state is of peer {}, the region's record is of peer {known}",
            record.peer_id
        );
        Err(EngineError::corrupt(format!("region {id}"), detail))
    }
}

/// Builds a [`RegionLog`] from records read in key order, and refuses what cannot be.
#[derive(Debug)]
pub(crate) struct RegionLogBuilder {
    region: u64,
    pub(crate) record: Option<RaftRecord>,
    pub(crate) truncation: Option<TruncationRecord>,
    pub(crate) intent: Option<SnapshotIntent>,
    log: RegionLog,
}

impl RegionLogBuilder {
    pub(crate) fn new(region: u64) -> Self {
        Self {
            region,
            record: None,
            truncation: None,
            intent: None,
            log: RegionLog::default(),
        }
    }

    /// Takes the next entry; `bytes` is its payload's length.
    pub(crate) fn entry(&mut self, index: u64, term: u64, bytes: u64) -> Result<()> {
        match &mut self.log.span {
            None => {
                self.log.span = Some(LogSpan {
                    first: index,
                    last: index,
                })
            }
            Some(span) if index == span.last + 1 => span.last = index,
            Some(span) => {
                let last = span.last;
                return Err(self.corrupt(index, format!("a gap: the entry before it is {last}")));
            }
        }
        self.log.bytes += bytes;
        match self.log.terms.last().map(|(_, term)| *term) {
            Some(before) if before == term => {}
            Some(before) if before > term => {
                return Err(self.corrupt(index, format!("term {term} after term {before}")));
            }
            _ => self.log.terms.push((index, term)),
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<RegionLog> {
        self.log.record = self.record;
        self.log.truncation = self.truncation;
        self.log.intent = self.intent.take();
        self.check_start()?;
        self.check_hard_state()?;
        self.check_intent()?;
        Ok(self.log)
    }

    fn check_start(&self) -> Result<()> {
        let truncated = self.log.truncated();
        let Some(LogSpan { first, .. }) = self.log.span else {
            return Ok(());
        };
        if first != truncated.index + 1 {
            let detail = format!(
                "the first entry, but the log is truncated at {}",
                truncated.index
            );
            return Err(self.corrupt(first, detail));
        }
        let (_, term) = self.log.terms[0];
        if term < truncated.term {
            let detail = format!("term {term} after truncation at term {}", truncated.term);
            return Err(self.corrupt(first, detail));
        }
        Ok(())
    }

    fn check_hard_state(&self) -> Result<()> {
        let Some(hard_state) = self.log.record.and_then(|record| record.hard_state) else {
            return Ok(());
        };
        let last = self.log.last_index();
        if hard_state.commit > last {
            let detail = format!(
                "commit {} is beyond the log's end {last}",
                hard_state.commit
            );
            return Err(EngineError::corrupt(
                format!("region {}", self.region),
                detail,
            ));
        }
        match self.log.terms.last() {
            Some((_, term)) if *term > hard_state.term => {
                let detail = format!(
                    "term {term} above the hard state's term {}",
                    hard_state.term
                );
                Err(self.corrupt(last, detail))
            }
            _ => Ok(()),
        }
    }

    /// An intent is written with the hard state of its peer and a truncation at its index; the
    /// log goes on from there, and its truncation point with it.
    fn check_intent(&self) -> Result<()> {
        let Some(intent) = &self.log.intent else {
            return Ok(());
        };
        let peer = self.log.record.map_or(0, |record| record.peer_id);
        let (index, truncated) = (self.log.intent_index(), self.log.truncated().index);
        let detail = if intent.peer_id != peer {
            format!(
                "it is of peer {}, the hard state is of peer {peer}",
                intent.peer_id
            )
        } else if index == 0 || index > truncated {
            format!("its index is {index}, the log is truncated at {truncated}")
        } else {
            return Ok(());
        };
        let place = format!("region {} snapshot intent", self.region);
        Err(EngineError::corrupt(place, detail))
    }

    fn corrupt(&self, index: u64, detail: String) -> EngineError {
        EngineError::corrupt(format!("region {} index {index}", self.region), detail)
    }
}

/// The error for an entry that the log should hold.
pub(crate) fn missing_entry(region: u64, index: u64) -> EngineError {
    EngineError::corrupt(
        format!("region {region} index {index}"),
        "the entry is missing",
    )
}

#[cfg(test)]
mod tests {
    use flotilla_proto::metapb::{Peer, Region};
    use flotilla_proto::raft::HardState;
    use flotilla_proto::store::SnapshotManifest;

    use super::*;

    fn hard_state(peer_id: u64, term: u64, commit: u64) -> RaftRecord {
        RaftRecord {
            peer_id,
            hard_state: Some(HardState {
                term,
                vote: 0,
                commit,
            }),
        }
    }

    /// Builds the log of region 3 from (index, term) pairs and tells what opening says.
    fn check(
        truncation: Option<(u64, u64)>,
        record: Option<RaftRecord>,
        entries: &[(u64, u64)],
        says: &str,
    ) {
        let mut builder = RegionLogBuilder::new(3);
        builder.truncation = truncation.map(|(index, term)| TruncationRecord { index, term });
        builder.record = record;
        let mut result = Ok(());
        for (index, term) in entries {
            result = result.and_then(|()| builder.entry(*index, *term, 1));
        }
        let said = match result.and_then(|()| builder.finish()) {
            Ok(log) => format!("{:?} last {}", log.terms, log.last_index()),
            Err(EngineError::Corrupt { place, detail }) => format!("{place}: {detail}"),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(said, says);
    }

    #[test]
    fn a_whole_log_opens() {
        check(None, None, &[], "[] last 5");
        check(
            None,
            None,
            &[(6, 5), (7, 5), (8, 7)],
            "[(6, 5), (8, 7)] last 8",
        );
        check(
            Some((9, 6)),
            Some(hard_state(1, 8, 10)),
            &[(10, 6), (11, 8)],
            "[(10, 6), (11, 8)] last 11",
        );
        check(Some((9, 6)), Some(hard_state(1, 6, 9)), &[], "[] last 9");
    }

    #[test]
    fn a_broken_log_is_refused_by_name() {
        check(
            None,
            None,
            &[(6, 5), (8, 5)],
            "region 3 index 8: a gap: the entry before it is 6",
        );
        check(
            None,
            None,
            &[(7, 5)],
            "region 3 index 7: the first entry, but the log is truncated at 5",
        );
        check(
            Some((9, 5)),
            None,
            &[(9, 5)],
            "region 3 index 9: the first entry, but the log is truncated at 9",
        );
        check(
            None,
            None,
            &[(6, 7), (7, 6)],
            "region 3 index 7: term 6 after term 7",
        );
        check(
            Some((9, 8)),
            None,
            &[(10, 7)],
            "region 3 index 10: term 7 after truncation at term 8",
        );
        check(
            None,
            Some(hard_state(1, 6, 7)),
            &[(6, 6)],
            "region 3: commit 7 is beyond the log's end 6",
        );
        check(
            None,
            Some(hard_state(1, 5, 6)),
            &[(6, 6)],
            "region 3 index 6: term 6 above the hard state's term 5",
        );
    }

    #[test]
    fn the_state_must_lie_between_truncation_and_end() {
        let log = RegionLog {
            truncation: Some(TruncationRecord { index: 20, term: 6 }),
            span: Some(LogSpan {
                first: 21,
                last: 30,
            }),
            ..RegionLog::default()
        };
        for (applied, fits) in [(19, false), (20, true), (30, true), (31, false)] {
            let result = log.check_applied(3, applied);
            assert_eq!(result.is_ok(), fits, "applied {applied}: {result:?}");
        }
    }

    fn intent(index: u64) -> Option<SnapshotIntent> {
        let manifest = SnapshotManifest {
            index,
            ..SnapshotManifest::default()
        };
        Some(SnapshotIntent {
            manifest: Some(manifest),
            ..SnapshotIntent::default()
        })
    }

    #[test]
    fn the_state_may_be_behind_while_an_intent_is_open() {
        let log = |intent| RegionLog {
            truncation: Some(TruncationRecord { index: 20, term: 6 }),
            intent,
            ..RegionLog::default()
        };
        for (intent, applied, fits) in [
            (intent(20), 0, true),
            (intent(20), 19, true),
            (intent(20), 20, true),
            (intent(20), 21, false),
            (intent(19), 19, false),
            (intent(19), 20, true),
            (None, 0, false),
        ] {
            let result = log(intent).check_applied(3, applied);
            assert_eq!(result.is_ok(), fits, "applied {applied}: {result:?}");
        }
    }

    #[test]
    fn a_hard_state_belongs_to_the_peer_of_the_region_record() {
        let peer = Peer {
            id: 40,
            store_id: 7,
            ..Peer::default()
        };
        let region = Region {
            id: 3,
            peers: vec![peer],
            ..Region::default()
        };
        let stored = RegionRecord {
            region: Some(region),
            highest_peer_id: 40,
            ..RegionRecord::default()
        };
        let log = |record, span| RegionLog {
            record,
            span,
            ..RegionLog::default()
        };
        let span = Some(LogSpan { first: 6, last: 6 });

        let same = log(Some(hard_state(40, 6, 6)), span).check_peer(7, &stored);
        assert_eq!(same.expect("the same peer"), RecordMatch::Same);
        let newer = log(Some(hard_state(41, 6, 0)), None).check_peer(7, &stored);
        assert_eq!(
            newer.expect("made by message"),
            RecordMatch::NewerUninitialized
        );
        let installing = RegionLog {
            intent: intent(6),
            truncation: Some(TruncationRecord { index: 6, term: 6 }),
            ..log(Some(hard_state(41, 6, 6)), None)
        };
        let installing = installing.check_peer(7, &stored);
        assert_eq!(installing.expect("its first"), RecordMatch::NewerInstalling);
        for record in [hard_state(39, 6, 0), hard_state(41, 6, 6)] {
            assert!(
                log(Some(record), span).check_peer(7, &stored).is_err(),
                "{record:?}"
            );
        }
    }
}
