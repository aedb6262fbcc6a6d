//! Snapshots of regions: files that are built from a frozen view, sent in chunks, verified, and put
//! in place of what a store has of the region (contracts: C6).
//!
//! A snapshot has one file per column family of its region, in Flotilla's own row format
//! (`docs/format.md`), and a [`SnapshotManifest`] with their lengths and checksums. The files never
//! change once they are whole: an install reads them, so it can be repeated any number of times.

mod disk;
mod files;
mod format;

use std::fmt;
use std::ops::ControlFlow;

use bytes::Bytes;
use flotilla_proto::metapb::Region;
use flotilla_proto::store::{PeerState, SnapshotFile, SnapshotManifest};

pub(crate) use disk::Disk;
pub(crate) use files::Snapshots;
pub(crate) use format::HEADER_BYTES;

use crate::{Cf, DATA_CFS, EngineError, KeyRange, StateOp, StateReader, StateStore};

/// The region that keeps PD's records: they are rows of `meta`, outside the key space
/// (contracts: C30).
pub const META_REGION: u64 = 1;

/// A snapshot below this many bytes is installed as an ordinary state batch, not by ingest
/// (contracts: C6), unless a store is told otherwise.
pub const SNAPSHOT_BATCH_BYTES: u64 = 1 << 20;

/// The column families that a snapshot of `region` has a file for.
pub fn snapshot_cfs(region: u64) -> &'static [Cf] {
    if region == META_REGION {
        &[Cf::CfMeta]
    } else {
        &DATA_CFS
    }
}

/// The keys that are `region`'s: all of PD's for the meta region, its range for any other.
pub fn snapshot_range(region: &Region) -> KeyRange<'_> {
    if region.id == META_REGION {
        KeyRange {
            start: b"",
            end: b"",
        }
    } else {
        KeyRange {
            start: &region.start_key,
            end: &region.end_key,
        }
    }
}

/// Which snapshot it is. One that is sent and one that is received never meet, though they be of
/// the same region at the same index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotKey {
    /// Region id.
    pub region: u64,
    /// Term of the entry at `index`.
    pub term: u64,
    /// The last entry that its rows contain.
    pub index: u64,
    /// Received; otherwise built here.
    pub incoming: bool,
}

impl SnapshotKey {
    /// The key under which a snapshot is built and sent.
    pub fn outgoing(manifest: &SnapshotManifest) -> Self {
        Self {
            region: manifest.region.as_ref().map_or(0, |region| region.id),
            term: manifest.term,
            index: manifest.index,
            incoming: false,
        }
    }

    /// The key under which a snapshot is received and installed.
    pub fn incoming(manifest: &SnapshotManifest) -> Self {
        Self {
            incoming: true,
            ..Self::outgoing(manifest)
        }
    }
}

impl fmt::Display for SnapshotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            region,
            term,
            index,
            incoming,
        } = self;
        let way = if *incoming { "incoming" } else { "outgoing" };
        write!(
            f,
            "the {way} snapshot of region {region} at index {index} term {term}"
        )
    }
}

/// Why a snapshot was not built, received or installed. Only what [`SnapshotError::Engine`] holds
/// may be the store's own trouble; everything else ends the snapshot and nothing more.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The region is not here, was destroyed, or is itself waiting for a snapshot.
    #[error("region {region} has no rows to take a snapshot of: {}", absent(.state))]
    NotLive {
        /// Region id.
        region: u64,
        /// What the store's record says; `None`: there is none.
        state: Option<PeerState>,
    },
    /// A snapshot of that key is there or being made: it has its manifest already.
    #[error("{key} exists already; discard it first")]
    Exists {
        /// Which.
        key: SnapshotKey,
    },
    /// The caller's pace said stop.
    #[error("region {region}: the snapshot was called off")]
    CalledOff {
        /// Region id.
        region: u64,
    },
    /// More bytes than the caller takes.
    #[error("{key} has {bytes} bytes, at most {max} are taken")]
    TooLarge {
        /// Which.
        key: SnapshotKey,
        /// What its manifest says.
        bytes: u64,
        /// What the caller said.
        max: u64,
    },
    /// No build makes such a manifest.
    #[error("the manifest of {key} is refused: {detail}")]
    Manifest {
        /// Which.
        key: SnapshotKey,
        /// What is wrong with it.
        detail: String,
    },
    /// Not being received, or no more after an error.
    #[error("{key} is not being received")]
    NotReceiving {
        /// Which.
        key: SnapshotKey,
    },
    /// A chunk that does not go on where the file ends, or that goes beyond its length. Nothing was
    /// written; the right chunk is still taken.
    #[error("{key}: {length} bytes at {offset} of {cf:?}, which has {held} of {bytes} bytes")]
    Chunk {
        /// Which.
        key: SnapshotKey,
        /// Which file.
        cf: Cf,
        /// Where the chunk begins.
        offset: u64,
        /// How long it is.
        length: u64,
        /// Bytes received so far.
        held: u64,
        /// Length of the file.
        bytes: u64,
    },
    /// The bytes are not what was built: cut short, flipped, or rows that are not the region's.
    #[error("{key}: {file} is damaged: {detail}")]
    Damaged {
        /// Which.
        key: SnapshotKey,
        /// The file, with its path.
        file: String,
        /// What was expected and what was found.
        detail: String,
    },
    /// The disk or the database failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

fn absent(state: &Option<PeerState>) -> &'static str {
    match state {
        None => "it is not on this store",
        Some(PeerState::Tombstone) => "its peer was destroyed",
        Some(PeerState::Applying) => "it waits for a snapshot itself",
        Some(PeerState::Normal) => "it lives",
    }
}

/// Is told the bytes of each piece of a build, may wait, and says whether to go on.
pub type Pace<'a> = dyn FnMut(u64) -> ControlFlow<()> + 'a;

/// Takes the rows of a snapshot.
pub type RowSink<'a> = dyn FnMut(Cf, &[u8], &[u8]) -> SnapshotResult<()> + 'a;

/// What calls about snapshots return.
pub type SnapshotResult<T> = std::result::Result<T, SnapshotError>;

/// The files of region snapshots of one store. Every call may block on the disk.
///
/// Calls for different keys may go on at the same time.
pub trait SnapshotFiles: Send + Sync + 'static {
    /// Writes the rows of `region` as `view` has them, with the descriptor and the applied index of
    /// the same view. `pace` is told the bytes of every piece that was written; it may wait, and
    /// ends the build by [`ControlFlow::Break`]. What fails leaves nothing behind.
    fn build(
        &self,
        view: &dyn StateReader,
        region: u64,
        pace: &mut Pace<'_>,
    ) -> SnapshotResult<(SnapshotKey, SnapshotManifest)>;

    /// Bytes of a whole file from `offset` on: `max` of them, fewer only at its end.
    fn read_chunk(&self, key: &SnapshotKey, cf: Cf, offset: u64, max: u64)
    -> SnapshotResult<Bytes>;

    /// Begins to receive the snapshot that `manifest` describes, from the first byte, also if a part
    /// of it had been received. Refuses one of more than `bytes_max` bytes, and one that is there
    /// whole ([`SnapshotError::Exists`]).
    fn receive(&self, manifest: &SnapshotManifest, bytes_max: u64) -> SnapshotResult<SnapshotKey>;

    /// Takes the next bytes of a file. Files may come in any order, each from its first byte on.
    /// Any error but [`SnapshotError::Chunk`] ends the receiving.
    fn write_chunk(
        &self,
        key: &SnapshotKey,
        cf: Cf,
        offset: u64,
        data: &[u8],
    ) -> SnapshotResult<()>;

    /// Verifies length, checksum and rows of all files, then makes them durable: files, then folder.
    /// Afterwards the snapshot is whole and may be acknowledged by an intent (contracts: C6). An
    /// error ends the receiving, and what was received goes: a failed sync is never tried again.
    fn finish_receive(&self, key: &SnapshotKey) -> SnapshotResult<()>;

    /// Removes what there is of a snapshot, whole or not; ends its receiving. A crash may bring it
    /// back. Nobody may be reading it.
    fn discard(&self, key: &SnapshotKey) -> SnapshotResult<()>;

    /// What there is, whole or half received, ascending: at start all but those of open intents are
    /// to be discarded.
    fn list(&self) -> SnapshotResult<Vec<SnapshotKey>>;

    /// The snapshot is whole, every byte of it as `manifest` says. An open intent whose files are
    /// not intact means that the replica is lost (contracts: C6).
    fn intact(&self, key: &SnapshotKey, manifest: &SnapshotManifest) -> SnapshotResult<bool>;

    /// Calls `row` with every row of a whole snapshot, by column family, ascending, after all
    /// checksums were found right; until it answers an error.
    fn rows(
        &self,
        key: &SnapshotKey,
        manifest: &SnapshotManifest,
        row: &mut RowSink<'_>,
    ) -> SnapshotResult<()>;
}

/// A state that takes snapshots by ingest.
pub trait SnapshotInstall: StateStore {
    /// Puts the rows of a whole snapshot in place of all that the state holds in the region's range,
    /// one column family after the other. Each becomes durable at once and for itself, whatever a
    /// crash does to the batches around it (contracts: C32); after a crash in between, install again.
    /// Frozen views stay as they are. The caller keeps everybody else from writing in the range, and
    /// writes the region's records afterwards.
    ///
    /// [`SnapshotError::Damaged`]: nothing was changed. [`SnapshotError::Engine`]: unknown how far
    /// it came.
    fn install(
        &self,
        files: &impl SnapshotFiles,
        key: &SnapshotKey,
        manifest: &SnapshotManifest,
    ) -> SnapshotResult<()>;
}

/// Whether a snapshot has fewer bytes than `batch_bytes`, so that [`snapshot_ops`] installs it.
pub fn installs_as_batch(manifest: &SnapshotManifest, batch_bytes: u64) -> bool {
    snapshot_bytes(manifest) < batch_bytes
}

/// Bytes of all files.
pub fn snapshot_bytes(manifest: &SnapshotManifest) -> u64 {
    let sum = |sum: u64, file: &SnapshotFile| sum.saturating_add(file.bytes);
    manifest.files.iter().fold(0, sum)
}

/// What an install of a small snapshot changes: the range is cleared, then filled. The caller adds
/// the region's records and writes it all as one batch.
///
/// # Errors
/// As [`SnapshotFiles::rows`].
pub fn snapshot_ops(
    files: &impl SnapshotFiles,
    key: &SnapshotKey,
    manifest: &SnapshotManifest,
) -> SnapshotResult<Vec<StateOp>> {
    let region = checked_region(key, manifest)?;
    let range = if region.id == META_REGION {
        (Bytes::new(), Bytes::new())
    } else {
        (region.start_key.clone(), region.end_key.clone())
    };
    let clear = |cf: &Cf| StateOp::DeleteRange {
        cf: *cf,
        start: range.0.clone(),
        end: range.1.clone(),
    };
    let mut ops: Vec<StateOp> = snapshot_cfs(region.id).iter().map(clear).collect();
    files.rows(key, manifest, &mut |cf, key, value| {
        ops.push(StateOp::Put {
            cf,
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
        });
        Ok(())
    })?;
    Ok(ops)
}

/// The region that a manifest describes; refuses a manifest that no build makes.
pub(crate) fn checked_region<'a>(
    key: &SnapshotKey,
    manifest: &'a SnapshotManifest,
) -> SnapshotResult<&'a Region> {
    let refuse = |detail: String| SnapshotError::Manifest { key: *key, detail };
    let region = manifest.region.as_ref().filter(|region| region.id != 0);
    let region = region.ok_or_else(|| refuse("it names no region".into()))?;
    let named = SnapshotKey {
        incoming: key.incoming,
        ..SnapshotKey::outgoing(manifest)
    };
    if named != *key {
        return Err(refuse(format!("it describes {named}")));
    }
    if manifest.index == 0 || manifest.term == 0 {
        return Err(refuse("index and term begin at 1".into()));
    }
    if snapshot_range(region).is_empty() {
        return Err(refuse("its region's range is empty".into()));
    }
    let found: Vec<_> = manifest.files.iter().map(|file| file.cf).collect();
    let expected: Vec<_> = snapshot_cfs(region.id)
        .iter()
        .map(|cf| *cf as i32)
        .collect();
    if found != expected {
        return Err(refuse(format!(
            "files of column families {found:?}, not {expected:?}"
        )));
    }
    if let Some(file) = manifest.files.iter().find(|file| file.bytes < HEADER_BYTES) {
        return Err(refuse(format!(
            "a file of {} bytes has no header",
            file.bytes
        )));
    }
    Ok(region)
}
