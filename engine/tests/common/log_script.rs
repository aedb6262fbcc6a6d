//! Random changes to a raft log that a correct store could make.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_engine::{BIRTH, LogBatch, LogSpan};
use flotilla_proto::metapb;
use flotilla_proto::raft::{Entry, EntryKind, HardState};
use flotilla_proto::store::{RaftRecord, SnapshotIntent, SnapshotManifest, TruncationRecord};

use super::Dice;

const REGIONS: u64 = 6;

/// Makes batch after batch; the same seed makes the same ones.
#[derive(Clone, Debug)]
pub(crate) struct LogScript {
    dice: Dice,
    regions: BTreeMap<u64, Region>,
}

#[derive(Clone, Debug)]
struct Region {
    truncated: u64,
    truncated_term: u64,
    /// Term of each entry held, by index.
    terms: BTreeMap<u64, u64>,
    term: u64,
    commit: u64,
}

impl LogScript {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            regions: BTreeMap::new(),
        }
    }

    /// Goes on with other dice: what follows a crash need not be what was lost in it.
    pub(crate) fn reseed(&mut self, seed: u64) {
        self.dice = Dice::new(seed);
    }

    /// The next batch.
    pub(crate) fn batch(&mut self) -> LogBatch {
        let mut batch = LogBatch::default();
        for _ in 0..self.dice.within(1, 4) {
            let region = self.dice.within(1, REGIONS);
            // Two batches merge as those of two rounds do.
            let mut part = LogBatch::default();
            self.change(&mut part, region);
            batch.merge(part);
        }
        batch
    }

    /// Regions and spans that the log holds now.
    pub(crate) fn spans(&self) -> Vec<(u64, u64, u64)> {
        let span = |(id, region): (&u64, &Region)| {
            let (first, _) = region.terms.first_key_value()?;
            Some((*id, *first, region.last()))
        };
        self.regions.iter().filter_map(span).collect()
    }

    fn change(&mut self, batch: &mut LogBatch, id: u64) {
        let dice = &mut self.dice;
        let region = self.regions.entry(id).or_insert_with(Region::born);
        match dice.below(20) {
            0 => {
                if let Some((first, _)) = region.terms.first_key_value() {
                    batch.clear(
                        id,
                        LogSpan {
                            first: *first,
                            last: region.last(),
                        },
                    );
                } else {
                    batch.clear(id, LogSpan { first: 1, last: 0 });
                }
                *region = Region::born();
                if dice.chance(50) {
                    region.restore(batch, id, dice);
                }
            }
            1..=4 => region.truncate(batch, id, dice),
            5 => region.vote(batch, id),
            6 => batch.clear_intent(id),
            _ => region.append(batch, id, dice),
        }
    }
}

impl Region {
    fn born() -> Self {
        Self {
            truncated: BIRTH.index,
            truncated_term: BIRTH.term,
            terms: BTreeMap::new(),
            term: BIRTH.term,
            commit: BIRTH.index,
        }
    }

    fn last(&self) -> u64 {
        self.terms
            .last_key_value()
            .map_or(self.truncated, |(index, _)| *index)
    }

    fn record(&self, id: u64) -> RaftRecord {
        let hard_state = HardState {
            term: self.term,
            vote: id,
            commit: self.commit,
        };
        RaftRecord {
            peer_id: id * 10,
            hard_state: Some(hard_state),
        }
    }

    fn vote(&mut self, batch: &mut LogBatch, id: u64) {
        self.term += 1;
        batch.set_record(id, self.record(id));
    }

    /// Entries at the end, or in place of an uncommitted tail.
    fn append(&mut self, batch: &mut LogBatch, id: u64, dice: &mut Dice) {
        let before = self.last();
        let conflict = before > self.commit && dice.chance(30);
        let from = if conflict {
            dice.within(self.commit + 1, before)
        } else {
            before + 1
        };
        if conflict || dice.chance(10) {
            self.term += 1;
        }
        let mut entries = Vec::new();
        self.terms.split_off(&from);
        for index in from..from + dice.within(1, 6) {
            let length = if dice.chance(5) {
                20_000
            } else {
                dice.below(60)
            };
            let kind = *dice.pick(&[EntryKind::Data, EntryKind::Admin, EntryKind::ConfChange]);
            let data = Bytes::from(dice.bytes(length));
            entries.push(Entry {
                term: self.term,
                index,
                kind: kind.into(),
                data,
            });
            self.terms.insert(index, self.term);
        }
        self.commit = dice.within(self.commit, self.last());
        batch.append(id, entries, before);
        batch.set_record(id, self.record(id));
    }

    fn truncate(&mut self, batch: &mut LogBatch, id: u64, dice: &mut Dice) {
        let to = dice.within(self.truncated, self.commit);
        let Some(term) = self.terms.get(&to).copied() else {
            return;
        };
        let first = self.truncated + 1;
        self.terms = self.terms.split_off(&(to + 1));
        (self.truncated, self.truncated_term) = (to, term);
        batch.truncate(id, TruncationRecord { index: to, term }, first);
    }

    /// A snapshot in place of everything that was cleared.
    fn restore(&mut self, batch: &mut LogBatch, id: u64, dice: &mut Dice) {
        let to = dice.within(50, 200);
        self.term = dice.within(6, 9);
        (self.truncated, self.truncated_term, self.commit) = (to, self.term, to);
        batch.truncate(
            id,
            TruncationRecord {
                index: to,
                term: self.term,
            },
            to,
        );
        batch.set_record(id, self.record(id));
        batch.set_intent(id, self.intent(id));
    }

    /// For the snapshot that the log has been truncated at.
    fn intent(&self, id: u64) -> SnapshotIntent {
        let region = |id| metapb::Region {
            id,
            ..metapb::Region::default()
        };
        let manifest = SnapshotManifest {
            region: Some(region(id)),
            index: self.truncated,
            term: self.truncated_term,
            files: Vec::new(),
            ..SnapshotManifest::default()
        };
        SnapshotIntent {
            peer_id: self.record(id).peer_id,
            manifest: Some(manifest),
            overlapped: vec![region(id + 100)],
        }
    }
}
