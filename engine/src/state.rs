//! The key-value state of a store: what the raft log has been applied to.
//!
//! Written with the write-ahead log off: after a crash it is some earlier prefix of what was
//! applied, a consistent cut over all regions (design, rule 3). [`StateStore::durable_applied`]
//! tells how far a region would survive a crash now.

use bytes::Bytes;
use flotilla_proto::store::{ApplyRecord, ColumnFamily, RegionRecord};

use crate::{EngineError, Result};

/// A column family of the state database.
pub type Cf = ColumnFamily;

/// The column families that hold user data; `meta` is the store's own and PD's.
pub const DATA_CFS: [Cf; 3] = [Cf::CfDefault, Cf::CfLock, Cf::CfWrite];

/// One change. Keys are physical keys; the store keeps data and its own records apart.
#[derive(Clone, Debug, PartialEq)]
pub enum StateOp {
    /// Sets `key`. In `meta` the key is one of PD's (contracts: C30); the store's own records
    /// there have changes of their own below.
    Put {
        /// Where.
        cf: Cf,
        /// May be empty.
        key: Bytes,
        /// The new value.
        value: Bytes,
    },
    /// Removes `key`, present or not.
    Delete {
        /// Where.
        cf: Cf,
        /// May be empty.
        key: Bytes,
    },
    /// Removes the keys in [start, end); nothing if the range is empty or reversed.
    DeleteRange {
        /// Where.
        cf: Cf,
        /// Inclusive; empty is unbounded.
        start: Bytes,
        /// Exclusive; empty is unbounded.
        end: Bytes,
    },
    /// Sets a region's record.
    PutRegion {
        /// The record; it names its region.
        record: RegionRecord,
    },
    /// Sets a region's apply record, in the batch with the data it speaks of.
    PutApplied {
        /// Region id.
        region: u64,
        /// The last entry that was applied.
        record: ApplyRecord,
    },
    /// Removes a region's apply record, when its peer is destroyed; the region's record stays as
    /// the tombstone.
    DeleteApplied {
        /// Region id.
        region: u64,
    },
}

/// Changes of many regions that become visible together, and durable together or not at all.
#[derive(Debug, Default)]
pub struct StateBatch {
    /// In the order they take effect.
    pub ops: Vec<StateOp>,
    /// It holds an admin change (split, membership, destroy): flushed within 30 s (contracts: C2).
    pub admin: bool,
}

impl StateBatch {
    /// Nothing to write.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// A bound of a scan over physical keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange<'a> {
    /// Inclusive; empty is unbounded.
    pub start: &'a [u8],
    /// Exclusive; empty is unbounded.
    pub end: &'a [u8],
}

impl KeyRange<'_> {
    /// No key can lie in it.
    pub fn is_empty(&self) -> bool {
        !self.end.is_empty() && self.start >= self.end
    }

    /// `key` lies in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start <= key && (self.end.is_empty() || key < self.end)
    }
}

/// Reads of the state, all at one moment or (for [`StateStore`] itself) each at the newest.
pub trait StateReader {
    /// The value of `key`. `meta` is read by [`StateReader::get_meta`].
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>>;

    /// Calls `row` with the rows of `range`, ascending or (`reverse`) descending, until it answers
    /// `false`. Empty keys are legal.
    fn scan(
        &self,
        cf: Cf,
        range: KeyRange<'_>,
        reverse: bool,
        row: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()>;

    /// A region as it is stored, tombstones included. What builds a snapshot takes descriptor,
    /// applied index and rows from one frozen view, so nobody has to stop apply.
    ///
    /// # Errors
    /// Always, for a reader that has rows alone (a model, a test's double).
    fn stored_region(&self, region: u64) -> Result<Option<StoredRegion>> {
        let detail = "asked of a reader that keeps no records of regions";
        Err(EngineError::corrupt(format!("region {region}"), detail))
    }

    /// A record of PD, by its key inside the meta region (contracts: C30).
    fn get_meta(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.get(Cf::CfMeta, key)
    }
}

/// How close the store is to refusing writes (contracts: C25).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Bytes in memtables, flushing ones included.
    pub memtable_bytes: u64,
    /// Most level-0 files over the column families.
    pub level0_files: u64,
    /// The next write would block.
    pub stopped: bool,
}

/// Why a flush was asked for; counted by reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FlushReason {
    /// The log kept for replay reached its bound.
    ReplayBound,
    /// An admin change has been undurable for 30 s.
    Admin,
    /// A graceful stop.
    Shutdown,
    /// A test or tool asked.
    Manual,
}

/// A region as the state database holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRegion {
    /// Descriptor and peer state.
    pub record: RegionRecord,
    /// `None`: nothing applied since its birth.
    pub applied: Option<ApplyRecord>,
}

/// A region from its two records; an apply record without its region is a corruption.
pub(crate) fn stored(
    region: u64,
    record: Option<RegionRecord>,
    applied: Option<ApplyRecord>,
) -> Result<Option<StoredRegion>> {
    match (record, applied) {
        (Some(record), applied) => Ok(Some(StoredRegion { record, applied })),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(orphaned(region)),
    }
}

/// The error for an apply record whose region has no record.
pub(crate) fn orphaned(region: u64) -> EngineError {
    EngineError::corrupt(
        format!("region {region} apply record"),
        "the region has no record",
    )
}

/// The state of one store.
///
/// After a failed write or flush later ones fail with [`crate::EngineError::Poisoned`]; reads go on.
pub trait StateStore: StateReader + Send + Sync + 'static {
    /// A frozen view.
    type Snapshot: StateReader + Send + 'static;

    /// Writes a batch, with its store-wide batch number, without a write-ahead log. May block when
    /// the store is under pressure; look at [`StateStore::pressure`] before.
    fn write(&self, batch: &StateBatch) -> Result<u64>;

    /// The state as it is now.
    fn snapshot(&self) -> Self::Snapshot;

    /// The state as it is now, for a reader that goes over much of it once (a split check, a
    /// checksum): what it reads pushes nothing out of the block cache.
    fn background_snapshot(&self) -> Self::Snapshot {
        self.snapshot()
    }

    /// All regions, tombstones included, ascending by id.
    fn regions(&self) -> Result<Vec<StoredRegion>>;

    /// The applied index of `region` that survives a crash now; 0 if none does.
    fn durable_applied(&self, region: u64) -> u64;

    /// Number of the last batch known to survive a crash.
    fn durable_cut(&self) -> u64;

    /// Number of the first batch with an admin change that a crash would lose (contracts: C2).
    fn first_undurable_admin(&self) -> Option<u64>;

    /// Something waits to be flushed or is being flushed.
    fn flush_waiting(&self) -> bool;

    /// Looks up the durable cut again (contracts: C2; every 100 ms and after flushes) and returns
    /// the regions whose durable applied index rose, with the new one. Fails if the database met
    /// an error in the background: it will never flush again.
    fn refresh_durable(&self) -> Result<Vec<(u64, u64)>>;

    /// Writes all memtables of all column families at one cut (contracts: C1).
    fn flush_all(&self, reason: FlushReason) -> Result<()>;

    /// See [`Pressure`].
    fn pressure(&self) -> Pressure;

    /// Roughly how many bytes of data a range holds, all data column families together.
    fn approximate_bytes(&self, range: KeyRange<'_>) -> Result<u64>;
}
