//! Sends snapshots from one store to another.

use bytes::Bytes;
use flotilla_engine::{Cf, KeyRange, SnapshotFiles, SnapshotKey, SnapshotResult, StateReader};
use flotilla_proto::store::SnapshotManifest;

/// Small, so that a file takes several.
const CHUNK_BYTES: u64 = 100_000;

/// Sends a snapshot and makes it whole.
pub(crate) fn transfer(
    sender: &impl SnapshotFiles,
    receiver: &impl SnapshotFiles,
    from: &SnapshotKey,
    manifest: &SnapshotManifest,
) -> SnapshotKey {
    let key = receive(sender, receiver, from, manifest, |_, chunk| chunk.to_vec());
    let key = key.expect("received");
    receiver.finish_receive(&key).expect("whole");
    key
}

/// Sends all chunks of a snapshot, each as `on_the_way` makes it; an empty one is not sent.
pub(crate) fn receive(
    sender: &impl SnapshotFiles,
    receiver: &impl SnapshotFiles,
    from: &SnapshotKey,
    manifest: &SnapshotManifest,
    mut on_the_way: impl FnMut(Cf, &Bytes) -> Vec<u8>,
) -> SnapshotResult<SnapshotKey> {
    let key = receiver.receive(manifest, u64::MAX)?;
    for file in &manifest.files {
        let mut offset = 0;
        while offset < file.bytes {
            let chunk = sender.read_chunk(from, file.cf(), offset, CHUNK_BYTES)?;
            let sent = on_the_way(file.cf(), &chunk);
            if !sent.is_empty() {
                receiver.write_chunk(&key, file.cf(), offset, &sent)?;
            }
            offset += chunk.len() as u64;
        }
    }
    Ok(key)
}

/// All rows of a column family.
pub(crate) fn all_rows(reader: &impl StateReader, cf: Cf) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    let everything = KeyRange {
        start: b"",
        end: b"",
    };
    let scanned = reader.scan(cf, everything, false, &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        true
    });
    scanned.expect("scanned");
    rows
}
