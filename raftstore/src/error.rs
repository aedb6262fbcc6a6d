//! Why a request was not served, and why a store could not be opened.

use flotilla_engine::{EngineError, SnapshotError};
use flotilla_proto::metapb;

/// Why a peer did not do what it was asked.
///
/// Every variant but [`RequestError::Undetermined`] means *definitely not applied* (contracts: C22).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "the variant says what its fields are")]
pub enum RequestError {
    /// Another peer leads, or none does as far as this one knows.
    #[error("peer is not leader for region {region}")]
    NotLeader {
        region: u64,
        leader: Option<metapb::Peer>,
    },
    /// The store has no peer of this region.
    #[error("region {region} not found")]
    RegionNotFound { region: u64 },
    /// The request was made for another peer of the region.
    #[error("request names peer {requested}, this store has peer {actual}")]
    PeerMismatch { requested: u64, actual: u64 },
    /// The region was split or merged since the client looked it up.
    #[error("epoch not match: the region's range changed")]
    EpochNotMatch { current: Vec<metapb::Region> },
    /// A request without an epoch.
    #[error("the request names no region epoch")]
    EpochMissing,
    /// The request's term is too old, or leadership was lost before anything was appended.
    #[error("stale command")]
    StaleCommand,
    /// The key lies outside the region.
    #[error("key {} is not in region {}", hex(key), region.id)]
    KeyNotInRegion {
        key: bytes::Bytes,
        region: Box<metapb::Region>,
    },
    /// The entry would be larger than `limit`.
    #[error(
        "raft entry of {bytes} bytes is larger than the limit of {limit} bytes in region {region}"
    )]
    EntryTooLarge { region: u64, bytes: u64, limit: u64 },
    /// Too much is waiting; the request has waited as long as it may.
    #[error("server is busy: {reason}")]
    Busy { reason: &'static str },
    /// The peer has no data yet.
    #[error("region {region} is not initialized on this store")]
    NotInitialized { region: u64 },
    /// The split cannot be done as asked.
    #[error("failed to split: {reason}")]
    Split { reason: String },
    /// The members cannot be changed as asked.
    #[error("cannot change the members: {reason}")]
    Members { reason: String },
    /// The region cannot be merged as asked.
    #[error("cannot merge: {reason}")]
    Merge { reason: String },
    /// The region is about to become a part of its neighbour: nothing is read or written until it has, or
    /// stays what it is.
    #[error("region {region} is merging")]
    Merging { region: u64 },
    /// It was appended, and whether it will be applied is not known.
    #[error("the outcome is unknown: {reason}")]
    Undetermined { reason: &'static str },
}

fn hex(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why a store could not be opened; the process ends with this message.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the variant says what its fields are")]
pub enum StartError {
    /// The storage.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A snapshot that must be installed again cannot be.
    #[error(transparent)]
    Snapshot(SnapshotError),
    /// The log and the state do not belong together.
    #[error(
        "region {region}: {detail}; the data folder is damaged, restore this store from its replicas"
    )]
    Inconsistent { region: u64, detail: String },
    /// An entry that this build cannot apply (contracts: C36).
    #[error("region {region}, index {index}: {source}")]
    Entry {
        region: u64,
        index: u64,
        source: crate::EntryError,
    },
    /// Settings that contradict each other.
    #[error(transparent)]
    Config(#[from] crate::ConfigError),
}

impl From<SnapshotError> for StartError {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Engine(error) => Self::Engine(error),
            error => Self::Snapshot(error),
        }
    }
}
