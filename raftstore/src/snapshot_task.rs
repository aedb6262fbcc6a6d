//! Work on snapshots that blocks on the disk: done off the pollers, like [`crate::effects::Fetch`].

use std::ops::ControlFlow;
use std::sync::Arc;

use flotilla_engine::{
    Pace, SnapshotFiles, SnapshotInstall, SnapshotKey, SnapshotResult, StateOp, StateReader,
    installs_as_batch, snapshot_ops,
};
use flotilla_proto::store::SnapshotManifest;

use crate::STORE_ADDRESS;
use crate::effects::{PeerInput, RaftInput, StoreInput};

/// Something to do with the files of a snapshot.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variant says what its fields are")]
pub enum SnapshotTask {
    /// Build one of the region as it is now; comes back as [`PeerInput::SnapshotBuilt`].
    Build { region: u64, life: u64 },
    /// Put a received one in place of the region's rows; comes back as [`PeerInput::Ingested`].
    Install {
        region: u64,
        life: u64,
        manifest: Box<SnapshotManifest>,
        /// One of fewer bytes goes with the region's records.
        batch_bytes: u64,
    },
    /// Nobody needs it any more.
    Discard { key: SnapshotKey },
    /// It was received, and nobody wants it; comes back as [`StoreInput::SnapshotUnused`].
    Refuse { key: SnapshotKey },
}

impl SnapshotTask {
    /// Does it, and says what to tell at which address. `pace` is told the bytes that a build writes; it
    /// may wait.
    pub fn run<S: SnapshotInstall>(
        self,
        state: &S,
        files: &impl SnapshotFiles,
        mut pace: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Option<(u64, RaftInput)> {
        let to_peer = |region, input| Some((region, RaftInput::Peer(input)));
        match self {
            Self::Build { region, life } => {
                let view = state.background_snapshot();
                to_peer(region, Self::build(&view, files, region, life, &mut pace))
            }
            Self::Install {
                region,
                life,
                manifest,
                batch_bytes,
            } => {
                let key = SnapshotKey::incoming(&manifest);
                let input = match install(state, files, &key, &manifest, batch_bytes) {
                    Ok(ops) => PeerInput::Ingested { life, key, ops },
                    Err(error) => PeerInput::IngestFailed {
                        error: Arc::new(error),
                    },
                };
                to_peer(region, input)
            }
            Self::Discard { key } => {
                // What stays is an orphan, which the next start removes.
                discard(files, &key);
                None
            }
            Self::Refuse { key } => {
                let gone = discard(files, &key);
                let unused = StoreInput::SnapshotUnused { key, gone };
                Some((STORE_ADDRESS, RaftInput::Store(unused)))
            }
        }
    }

    /// Builds one of `region` as `view` has it, which may be older than what the store does meanwhile;
    /// says what to tell the peer.
    pub fn build(
        view: &dyn StateReader,
        files: &impl SnapshotFiles,
        region: u64,
        life: u64,
        pace: &mut Pace<'_>,
    ) -> PeerInput {
        let result = files.build(view, region, pace);
        let result = result.map_err(Arc::new);
        PeerInput::SnapshotBuilt { life, result }
    }
}

/// Whether none of its files is left.
fn discard(files: &impl SnapshotFiles, key: &SnapshotKey) -> bool {
    let discarded = files.discard(key);
    if let Err(error) = &discarded {
        tracing::warn!(%key, %error, "a snapshot's files were not removed");
    }
    discarded.is_ok()
}

/// Rows in place at once, or the changes that put them there with the region's records.
pub(crate) fn install<S: SnapshotInstall>(
    state: &S,
    files: &impl SnapshotFiles,
    key: &SnapshotKey,
    manifest: &SnapshotManifest,
    batch_bytes: u64,
) -> SnapshotResult<Vec<StateOp>> {
    if installs_as_batch(manifest, batch_bytes) {
        return snapshot_ops(files, key, manifest);
    }
    state.install(files, key, manifest)?;
    Ok(Vec::new())
}
