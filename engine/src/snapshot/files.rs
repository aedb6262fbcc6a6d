//! [`SnapshotFiles`] on any [`Disk`].
//!
//! A snapshot is a folder with one file per column family. While it is being made the folder's name
//! ends in `.half`; the rename makes it whole.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use flotilla_proto::metapb::Region;
use flotilla_proto::store::{ApplyRecord, PeerState, RegionRecord, SnapshotFile, SnapshotManifest};
use parking_lot::Mutex;

use super::format::{self, PIECE_BYTES, RowError, RowReader};
use super::{
    Disk, Pace, RowSink, SnapshotError, SnapshotFiles, SnapshotKey, SnapshotResult, checked_region,
    snapshot_bytes, snapshot_cfs, snapshot_range,
};
use crate::{BIRTH, Cf, EngineError, KeyRange, Result, StateReader};

/// Behind the name of a folder that is not whole.
const HALF: &str = ".half";
const INCOMING: &str = "in";
const OUTGOING: &str = "out";

/// The snapshots on a disk.
pub struct Snapshots<D: Disk> {
    disk: D,
    building: Mutex<BTreeSet<SnapshotKey>>,
    receiving: Mutex<Incoming<D::File>>,
}

impl<D: Disk> std::fmt::Debug for Snapshots<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshots").finish_non_exhaustive()
    }
}

type Incoming<F> = BTreeMap<SnapshotKey, Arc<Mutex<Receiving<F>>>>;

/// A snapshot on its way in.
struct Receiving<F> {
    manifest: SnapshotManifest,
    /// Its files with the bytes received so far, in the order of the manifest.
    files: Vec<(F, u64)>,
}

impl<D: Disk> Snapshots<D> {
    pub(crate) fn on(disk: D) -> Self {
        Self {
            disk,
            building: Mutex::default(),
            receiving: Mutex::default(),
        }
    }

    pub(crate) fn disk(&self) -> &D {
        &self.disk
    }

    fn is_whole(&self, key: &SnapshotKey) -> Result<bool> {
        Ok(self.disk.folders()?.contains(&folder(key)))
    }

    fn write_files(
        &self,
        key: &SnapshotKey,
        view: &dyn StateReader,
        region: &Region,
        pace: &mut Pace<'_>,
    ) -> SnapshotResult<Vec<SnapshotFile>> {
        if self.is_whole(key)? {
            return Err(SnapshotError::Exists { key: *key });
        }
        let half = half(key);
        self.disk.remove(&half)?;
        self.disk.make(&half)?;
        let mut files = Vec::new();
        for cf in snapshot_cfs(region.id) {
            let mut writer = Writer {
                disk: &self.disk,
                file: self.disk.create(&half, file_name(*cf))?,
                buffer: format::header(*cf),
                written: SnapshotFile {
                    cf: (*cf).into(),
                    ..SnapshotFile::default()
                },
                region: region.id,
                pace,
            };
            writer.rows(view, *cf, snapshot_range(region))?;
            files.push(writer.written);
        }
        self.disk.rename(&half, &folder(key))?;
        Ok(files)
    }

    /// Compares length and checksum of every file in `folder` with the manifest.
    fn check_bytes(
        &self,
        key: &SnapshotKey,
        folder: &str,
        manifest: &SnapshotManifest,
    ) -> SnapshotResult<()> {
        for file in &manifest.files {
            let name = file_name(file.cf());
            let damaged = |detail: String| self.damaged(key, folder, file.cf(), detail);
            match self.disk.length(folder, name)? {
                None => return Err(damaged("it is missing".into())),
                Some(length) if length != file.bytes => {
                    let detail = format!("it has {length} of {} bytes", file.bytes);
                    return Err(damaged(detail));
                }
                Some(_) => {}
            }
            let (mut crc, mut offset) = (0, 0);
            while offset < file.bytes {
                let piece = self.disk.read(folder, name, offset, PIECE_BYTES as u64)?;
                if piece.is_empty() {
                    return Err(damaged(format!("it ends at {offset}")));
                }
                crc = crc32c::crc32c_append(crc, &piece);
                offset += piece.len() as u64;
            }
            if crc != file.crc {
                let detail = format!("its checksum is {crc:08x}, not {:08x}", file.crc);
                return Err(damaged(detail));
            }
        }
        Ok(())
    }

    /// Reads every row of the files in `folder`, whose checksums are right. Refuses rows that are
    /// not in order, not the region's, or not as many as the manifest says.
    fn read_rows(
        &self,
        key: &SnapshotKey,
        folder: &str,
        manifest: &SnapshotManifest,
        row: &mut RowSink<'_>,
    ) -> SnapshotResult<()> {
        let range = snapshot_range(checked_region(key, manifest)?);
        for file in &manifest.files {
            let (cf, name) = (file.cf(), file_name(file.cf()));
            let damaged = |detail: String| self.damaged(key, folder, cf, detail);
            let failed = |error| match error {
                RowError::Read(error) => SnapshotError::Engine(error),
                RowError::Format(detail) => damaged(detail),
            };
            let piece = |offset, max| self.disk.read(folder, name, offset, max);
            let mut rows = RowReader::open(cf, file.bytes, piece).map_err(failed)?;
            let mut before: Option<Bytes> = None;
            let mut count = 0;
            while let Some((found, value)) = rows.next().map_err(failed)? {
                count += 1;
                if before.is_some_and(|before| before >= found) {
                    return Err(damaged(format!("row {count} is not above the one before")));
                }
                if !range.contains(&found) {
                    return Err(damaged(format!("row {count} is not in the region's range")));
                }
                row(cf, &found, &value)?;
                before = Some(found);
            }
            if count != file.rows {
                return Err(damaged(format!("it has {count} of {} rows", file.rows)));
            }
        }
        Ok(())
    }

    fn damaged(&self, key: &SnapshotKey, folder: &str, cf: Cf, detail: String) -> SnapshotError {
        SnapshotError::Damaged {
            key: *key,
            file: self.disk.path(&format!("{folder}/{}", file_name(cf))),
            detail,
        }
    }

    fn take_chunk(
        &self,
        key: &SnapshotKey,
        receiving: &mut Receiving<D::File>,
        cf: Cf,
        offset: u64,
        data: &[u8],
    ) -> SnapshotResult<()> {
        let Receiving { manifest, files } = receiving;
        let number = manifest.files.iter().position(|file| file.cf() == cf);
        let length = data.len() as u64;
        let (held, bytes) = number.map_or((0, 0), |n| (files[n].1, manifest.files[n].bytes));
        let goes_on = offset == held && length <= bytes - held;
        let Some(number) = number.filter(|_| goes_on) else {
            return Err(SnapshotError::Chunk {
                key: *key,
                cf,
                offset,
                length,
                held,
                bytes,
            });
        };
        let (file, held) = &mut files[number];
        self.disk.append(file, data)?;
        *held += length;
        Ok(())
    }

    /// Verified, files synced, folder synced, and only then whole.
    fn finish(&self, key: &SnapshotKey, receiving: &mut Receiving<D::File>) -> SnapshotResult<()> {
        let half = half(key);
        let Receiving { manifest, files } = receiving;
        self.check_bytes(key, &half, manifest)?;
        self.read_rows(key, &half, manifest, &mut |_, _, _| Ok(()))?;
        for (file, _) in files {
            self.disk.sync(file)?;
        }
        self.disk.sync_folder(&half)?;
        self.disk.rename(&half, &folder(key))?;
        self.disk.sync_names()?;
        Ok(())
    }
}

impl<D: Disk> SnapshotFiles for Snapshots<D> {
    fn build(
        &self,
        view: &dyn StateReader,
        region: u64,
        pace: &mut Pace<'_>,
    ) -> SnapshotResult<(SnapshotKey, SnapshotManifest)> {
        let (record, applied) = live(view, region)?;
        let mut manifest = SnapshotManifest {
            index: applied.index,
            term: applied.term,
            region: record.region,
            files: Vec::new(),
            merging: record.merging,
            lineage: record.lineage,
        };
        let key = SnapshotKey::outgoing(&manifest);
        if !self.building.lock().insert(key) {
            return Err(SnapshotError::Exists { key });
        }
        let descriptor = manifest.region.as_ref().expect("set above");
        let written = self.write_files(&key, view, descriptor, pace);
        if written.is_err() {
            // What cannot be removed now is found at the next start.
            drop(self.disk.remove(&half(&key)));
        }
        self.building.lock().remove(&key);
        manifest.files = written?;
        Ok((key, manifest))
    }

    fn read_chunk(
        &self,
        key: &SnapshotKey,
        cf: Cf,
        offset: u64,
        max: u64,
    ) -> SnapshotResult<Bytes> {
        let (folder, name) = (folder(key), file_name(cf));
        if self.disk.length(&folder, name)?.is_none() {
            return Err(self.damaged(key, &folder, cf, "it is missing".into()));
        }
        Ok(self.disk.read(&folder, name, offset, max)?)
    }

    fn receive(&self, manifest: &SnapshotManifest, bytes_max: u64) -> SnapshotResult<SnapshotKey> {
        let key = SnapshotKey::incoming(manifest);
        checked_region(&key, manifest)?;
        let bytes = snapshot_bytes(manifest);
        if bytes > bytes_max {
            let max = bytes_max;
            return Err(SnapshotError::TooLarge { key, bytes, max });
        }
        if self.is_whole(&key)? {
            return Err(SnapshotError::Exists { key });
        }
        self.receiving.lock().remove(&key);
        let half = half(&key);
        self.disk.remove(&half)?;
        self.disk.make(&half)?;
        let create = |file: &SnapshotFile| Ok((self.disk.create(&half, file_name(file.cf()))?, 0));
        let files: Result<Vec<_>> = manifest.files.iter().map(create).collect();
        let receiving = Receiving {
            manifest: manifest.clone(),
            files: files?,
        };
        let receiving = Arc::new(Mutex::new(receiving));
        self.receiving.lock().insert(key, receiving);
        Ok(key)
    }

    fn write_chunk(
        &self,
        key: &SnapshotKey,
        cf: Cf,
        offset: u64,
        data: &[u8],
    ) -> SnapshotResult<()> {
        let receiving = self.receiving.lock().get(key).map(Arc::clone);
        let receiving = receiving.ok_or(SnapshotError::NotReceiving { key: *key })?;
        let taken = self.take_chunk(key, &mut receiving.lock(), cf, offset, data);
        if matches!(taken, Err(SnapshotError::Engine(_))) {
            // Nobody knows what the file holds now.
            self.receiving.lock().remove(key);
        }
        taken
    }

    fn finish_receive(&self, key: &SnapshotKey) -> SnapshotResult<()> {
        let receiving = self.receiving.lock().remove(key);
        let receiving = receiving.ok_or(SnapshotError::NotReceiving { key: *key })?;
        let finished = self.finish(key, &mut receiving.lock());
        if finished.is_err() {
            // What cannot be removed now is found at the next start.
            drop(self.disk.remove(&half(key)));
            drop(self.disk.remove(&folder(key)));
        }
        finished
    }

    fn discard(&self, key: &SnapshotKey) -> SnapshotResult<()> {
        let receiving = self.receiving.lock().remove(key);
        // Waits for a chunk that is just being written.
        drop(receiving.as_ref().map(|receiving| receiving.lock()));
        self.disk.remove(&half(key))?;
        self.disk.remove(&folder(key))?;
        Ok(())
    }

    fn list(&self) -> SnapshotResult<Vec<SnapshotKey>> {
        let mut keys = BTreeSet::new();
        for name in self.disk.folders()? {
            let unknown = || EngineError::corrupt(self.disk.path(&name), "it is no snapshot");
            keys.insert(parse(&name).ok_or_else(unknown)?);
        }
        Ok(keys.into_iter().collect())
    }

    fn intact(&self, key: &SnapshotKey, manifest: &SnapshotManifest) -> SnapshotResult<bool> {
        checked_region(key, manifest)?;
        match self.check_bytes(key, &folder(key), manifest) {
            Err(SnapshotError::Damaged { .. }) => Ok(false),
            checked => checked.map(|()| true),
        }
    }

    fn rows(
        &self,
        key: &SnapshotKey,
        manifest: &SnapshotManifest,
        row: &mut RowSink<'_>,
    ) -> SnapshotResult<()> {
        let folder = folder(key);
        checked_region(key, manifest)?;
        self.check_bytes(key, &folder, manifest)?;
        self.read_rows(key, &folder, manifest, row)
    }
}

/// Descriptor and applied entry of a region that a snapshot can be taken of.
fn live(view: &dyn StateReader, region: u64) -> SnapshotResult<(RegionRecord, ApplyRecord)> {
    let stored = view.stored_region(region)?;
    let stored = stored.ok_or(SnapshotError::NotLive {
        region,
        state: None,
    })?;
    let state = stored.record.state();
    if state != PeerState::Normal {
        let state = Some(state);
        return Err(SnapshotError::NotLive { region, state });
    }
    let applied = stored.applied.unwrap_or(ApplyRecord {
        index: BIRTH.index,
        term: BIRTH.term,
    });
    assert!(stored.record.region.is_some(), "a record names its region");
    Ok((stored.record, applied))
}

/// A file that is being built.
struct Writer<'a, 'p, D: Disk> {
    disk: &'a D,
    file: D::File,
    /// Not written yet.
    buffer: BytesMut,
    /// What was written.
    written: SnapshotFile,
    region: u64,
    pace: &'a mut Pace<'p>,
}

impl<D: Disk> Writer<'_, '_, D> {
    fn rows(&mut self, view: &dyn StateReader, cf: Cf, range: KeyRange<'_>) -> SnapshotResult<()> {
        let mut failed = Ok(());
        view.scan(cf, range, false, &mut |key, value| {
            format::put_row(&mut self.buffer, key, value);
            self.written.rows += 1;
            if self.buffer.len() >= PIECE_BYTES {
                failed = self.piece();
            }
            failed.is_ok()
        })?;
        failed?;
        self.piece()
    }

    fn piece(&mut self) -> SnapshotResult<()> {
        let length = self.buffer.len() as u64;
        self.disk.append(&mut self.file, &self.buffer)?;
        self.written.crc = crc32c::crc32c_append(self.written.crc, &self.buffer);
        self.written.bytes += length;
        self.buffer.clear();
        match (self.pace)(length) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(SnapshotError::CalledOff {
                region: self.region,
            }),
        }
    }
}

fn file_name(cf: Cf) -> &'static str {
    match cf {
        Cf::CfDefault => "default.rows",
        Cf::CfLock => "lock.rows",
        Cf::CfWrite => "write.rows",
        Cf::CfMeta => "meta.rows",
    }
}

/// The folder of a whole snapshot.
fn folder(key: &SnapshotKey) -> String {
    let way = if key.incoming { INCOMING } else { OUTGOING };
    format!("{way}-{}-{}-{}", key.region, key.term, key.index)
}

/// The folder of one that is being made.
fn half(key: &SnapshotKey) -> String {
    folder(key) + HALF
}

/// The snapshot that a folder is of, whole or half.
fn parse(name: &str) -> Option<SnapshotKey> {
    let whole = name.strip_suffix(HALF).unwrap_or(name);
    let mut parts = whole.split('-');
    let incoming = match parts.next()? {
        INCOMING => true,
        OUTGOING => false,
        _ => return None,
    };
    let mut number = || parts.next()?.parse().ok();
    let key = SnapshotKey {
        incoming,
        region: number()?,
        term: number()?,
        index: number()?,
    };
    (folder(&key) == whole).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_s_name_tells_its_snapshot() {
        let key = SnapshotKey {
            region: 3,
            term: 7,
            index: u64::MAX,
            incoming: true,
        };
        let outgoing = SnapshotKey {
            incoming: false,
            ..key
        };
        assert_eq!(folder(&key), "in-3-7-18446744073709551615");
        for key in [key, outgoing] {
            assert_eq!(parse(&folder(&key)), Some(key));
            assert_eq!(parse(&half(&key)), Some(key));
        }
        for name in [
            "",
            "in-3-7",
            "in-3-7-8-9",
            "by-3-7-8",
            "in-03-7-8",
            "in-3-7-8.part",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
