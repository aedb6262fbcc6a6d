//! The raft log of all regions of a store: one batch, one write, one sync for everybody.

use std::collections::BTreeMap;

use flotilla_proto::raft::Entry;
use flotilla_proto::store::{RaftRecord, SnapshotIntent, TruncationRecord};

use crate::Result;

/// Where the log of a bootstrapped or split region starts: index and term of the entry before its
/// first. A constant, not a record (contracts: C33).
pub const BIRTH: TruncationRecord = TruncationRecord { index: 5, term: 5 };

/// Bytes that an entry takes in the log beside its payload: key, term and kind.
pub const ENTRY_OVERHEAD_BYTES: u64 = 26;

/// The changes of many regions to the shared log, in the order they were made per region.
///
/// Batches of one round, and of several pollers, merge into one (design section 3, step 4).
#[derive(Debug, Default)]
pub struct LogBatch {
    regions: BTreeMap<u64, RegionWrite>,
    bytes: u64,
    entries: u64,
}

/// What one region changes within a batch.
///
/// Applied in this order: `clear`, `entries` (after cutting the tail), `record`, `truncation`,
/// `intent`.
#[derive(Clone, Debug, Default)]
pub struct RegionWrite {
    /// Deletes all that the log holds of the region first: entries, record, truncation point,
    /// snapshot intent. The span tells what the caller knows of; nothing is left outside of it
    /// either.
    pub clear: Option<LogSpan>,
    /// Contiguous indexes, ascending.
    pub entries: Vec<Entry>,
    /// The last index the log held before this batch, when higher than the new last: the indexes
    /// (new last, cut_to] are deleted (contracts: C9).
    pub cut_to: u64,
    /// The hard state and the peer it belongs to.
    pub record: Option<RaftRecord>,
    /// The new truncation point; entries from `truncated_from` up to it are deleted.
    pub truncation: Option<TruncationRecord>,
    /// The first index the log held before the truncation.
    pub truncated_from: u64,
    /// `Some(Some(_))` opens a snapshot intent, `Some(None)` deletes the one there is.
    pub intent: Option<Option<SnapshotIntent>>,
}

/// Indexes [first, last] that a region may hold in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSpan {
    /// The first index, inclusive.
    pub first: u64,
    /// The last index, inclusive.
    pub last: u64,
}

impl RegionWrite {
    /// The indexes (first, last), both inclusive, that an append cuts off behind its new last
    /// entry (contracts: C9).
    pub fn cut(&self) -> Option<(u64, u64)> {
        let entry = self.entries.last().map(|entry| entry.index);
        let last = entry.or(self.truncation.map(|truncation| truncation.index))?;
        (last < self.cut_to).then_some((last + 1, self.cut_to))
    }
}

impl LogBatch {
    /// Appends `entries`, replacing what stands at their indexes and everything after them up to
    /// `last_before`, the last index the log held so far.
    ///
    /// # Panics
    /// If the indexes are not contiguous, or leave a gap behind the entries of this batch.
    pub fn append(&mut self, region: u64, entries: Vec<Entry>, last_before: u64) {
        let Some(first) = entries.first().map(|entry| entry.index) else {
            return;
        };
        for (offset, entry) in (0u64..).zip(&entries) {
            assert_eq!(
                entry.index,
                first + offset,
                "region {region}: a gap inside an append"
            );
            self.bytes += entry.data.len() as u64;
        }
        self.entries += entries.len() as u64;
        let write = self.regions.entry(region).or_default();
        write.cut_to = write.cut_to.max(last_before);
        if let Some(held) = write.entries.first().map(|entry| entry.index) {
            let last = held + write.entries.len() as u64 - 1;
            assert!(
                first <= last + 1,
                "region {region}: a gap between appends of one batch"
            );
            write.cut_to = write.cut_to.max(last);
            if first <= held {
                write.entries.clear();
            } else {
                write.entries.truncate((first - held) as usize);
            }
        }
        write.entries.extend(entries);
    }

    /// Sets the hard state of `region`'s peer.
    pub fn set_record(&mut self, region: u64, record: RaftRecord) {
        self.regions.entry(region).or_default().record = Some(record);
    }

    /// Moves the truncation point; entries from `first_before` up to it go.
    pub fn truncate(&mut self, region: u64, to: TruncationRecord, first_before: u64) {
        let write = self.regions.entry(region).or_default();
        let first = if write.truncation.is_some() {
            write.truncated_from
        } else {
            first_before
        };
        write.truncated_from = first.min(first_before);
        write.entries.retain(|entry| entry.index > to.index);
        write.truncation = Some(to);
    }

    /// Opens a snapshot intent, in the batch that also sets the hard state, truncates at the
    /// snapshot's index and deletes or clears what the log held (contracts: C6).
    pub fn set_intent(&mut self, region: u64, intent: SnapshotIntent) {
        self.regions.entry(region).or_default().intent = Some(Some(intent));
    }

    /// Deletes the snapshot intent of `region`: what the snapshot brought is durable in the state.
    pub fn clear_intent(&mut self, region: u64) {
        self.regions.entry(region).or_default().intent = Some(None);
    }

    /// Deletes everything the log holds of `region`, also what lies outside of `held`. What is
    /// added to the batch later stays.
    pub fn clear(&mut self, region: u64, held: LogSpan) {
        let write = self.regions.entry(region).or_default();
        *write = RegionWrite {
            clear: Some(held),
            ..RegionWrite::default()
        };
    }

    /// Adds a batch that was made after this one.
    pub fn merge(&mut self, later: Self) {
        if self.regions.is_empty() {
            *self = later;
            return;
        }
        for (region, write) in later.regions {
            if write.clear.is_some() {
                self.entries += write.entries.len() as u64;
                self.bytes += write
                    .entries
                    .iter()
                    .map(|entry| entry.data.len() as u64)
                    .sum::<u64>();
                self.regions.insert(region, write);
                continue;
            }
            let RegionWrite {
                clear: _,
                entries,
                cut_to,
                record,
                truncation,
                truncated_from,
                intent,
            } = write;
            if !entries.is_empty() {
                self.append(region, entries, cut_to);
            }
            if let Some(record) = record {
                self.set_record(region, record);
            }
            if let Some(truncation) = truncation {
                self.truncate(region, truncation, truncated_from);
            }
            if intent.is_some() {
                self.regions.entry(region).or_default().intent = intent;
            }
        }
    }

    /// Nothing to write.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Entries added, replaced ones included.
    pub fn entry_count(&self) -> u64 {
        self.entries
    }

    /// Payload bytes added, replaced ones included.
    pub fn payload_bytes(&self) -> u64 {
        self.bytes
    }

    /// Payload, key and header bytes of the entries added, replaced ones included.
    pub fn stored_bytes(&self) -> u64 {
        self.bytes + self.entries * ENTRY_OVERHEAD_BYTES
    }

    /// The changes by region, ascending.
    pub fn regions(&self) -> impl ExactSizeIterator<Item = (u64, &RegionWrite)> {
        self.regions.iter().map(|(region, write)| (*region, write))
    }
}

/// What the log holds of one region, as read when the store is opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegionLog {
    /// The hard state. `None` for a region that never wrote one.
    pub record: Option<RaftRecord>,
    /// The truncation point. `None`: never truncated, the log starts behind the region's birth.
    pub truncation: Option<TruncationRecord>,
    /// First and last index held. `None`: no entries.
    pub span: Option<LogSpan>,
    /// Terms by run: (first index of the run, its term), ascending.
    pub terms: Vec<(u64, u64)>,
    /// Payload bytes of the entries held.
    pub bytes: u64,
    /// The snapshot intent that is open.
    pub intent: Option<SnapshotIntent>,
}

/// The log of one store.
///
/// Appending and syncing may go on at the same time on two threads. After a failed append or sync
/// every later one fails with [`crate::EngineError::Poisoned`]; reads go on.
pub trait RaftLog: Send + Sync + 'static {
    /// Writes a batch, not yet durable, with one write; returns its store-wide number (from 1,
    /// by one). A reader in this process sees it at once.
    fn append(&self, batch: &LogBatch) -> Result<u64>;

    /// One fsync. Returns the number up to which all batches are durable: at least every batch
    /// whose `append` had returned when this call began.
    fn sync(&self) -> Result<u64>;

    /// Everything held, by region. Refuses gaps and misplaced entries by name (contracts: C10).
    fn load(&self) -> Result<BTreeMap<u64, RegionLog>>;

    /// Entries [low, high) of a region, cut where their payload would pass `bytes_max`, but never
    /// before the first. An absent index is a corruption: the caller knows what the log holds.
    fn entries(&self, region: u64, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>>;

    /// Payload and key bytes appended since the store was opened, for the replay bound.
    fn appended_bytes(&self) -> u64;
}
