//! Installs a snapshot of a region (contracts: C6).
//!
//! The rows become tables here, made by the RocksDB that takes them: one for each column family,
//! which first deletes the region's whole range and then holds its rows. Within a table a deletion
//! covers older rows alone, so one ingest clears and fills. A table is handed over by its name; the
//! snapshot's own files are only read, so an install can be repeated as often as it takes.

use std::fs;
use std::path::PathBuf;

use flotilla_proto::store::SnapshotManifest;
use rocksdb::{IngestExternalFileOptions, SstFileWriter};

use super::folder;
use super::state::{RocksState, Shared, name};
use crate::codec::state_key;
use crate::crash::point;
use crate::snapshot::checked_region;
use crate::{
    Cf, EngineError, Result, SnapshotError, SnapshotFiles, SnapshotInstall, SnapshotKey,
    SnapshotResult, snapshot_cfs, snapshot_range,
};

/// How RocksDB refuses a table whose range meets a memtable.
const FLUSH_FIRST: &str = "Invalid argument: External file requires flush";

const OPERATION: &str = "installing a snapshot";

/// What became of a table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ingest {
    Done,
    /// Rows in memory lie in its range: they must be flushed before.
    FlushFirst,
}

/// Tables on their way into the database; what was not taken is removed with this.
struct Tables(Vec<(Cf, PathBuf)>);

impl Drop for Tables {
    fn drop(&mut self) {
        for (_, path) in &self.0 {
            // Most are gone, taken by the database; another one is found at the next start.
            drop(fs::remove_file(path));
        }
    }
}

impl SnapshotInstall for RocksState {
    fn install(
        &self,
        files: &impl SnapshotFiles,
        key: &SnapshotKey,
        manifest: &SnapshotManifest,
    ) -> SnapshotResult<()> {
        for (cf, path) in &self.shared.tables(files, key, manifest)?.0 {
            self.ingest(*cf, path)?;
        }
        Ok(())
    }
}

impl RocksState {
    /// A flush that RocksDB began by itself would hold up all writers, so it may not. Somebody who
    /// writes just where the region ends (a table's last key counts as its own) may put a row in
    /// between our flush and the second try; the third one keeps writers out.
    fn ingest(&self, cf: Cf, path: &PathBuf) -> Result<()> {
        let ingest = || self.poison.guard(|| self.shared.ingest(cf, path));
        let flush = || self.flush_for_install();
        if ingest()? == Ingest::Done {
            return Ok(());
        }
        flush()?;
        if ingest()? == Ingest::Done {
            return Ok(());
        }
        let _alone = self.writer.lock();
        flush()?;
        match ingest()? {
            Ingest::Done => Ok(()),
            // Nobody wrote since the flush: it cannot be.
            Ingest::FlushFirst => self.poison.guard(|| Err(self.shared.refused_again())),
        }
    }
}

impl Shared {
    /// Makes the tables of a snapshot. Nothing of it is seen before they are ingested.
    fn tables(
        &self,
        files: &impl SnapshotFiles,
        key: &SnapshotKey,
        manifest: &SnapshotManifest,
    ) -> SnapshotResult<Tables> {
        let region = checked_region(key, manifest)?;
        let mut tables = Tables(Vec::new());
        let mut writers = Vec::new();
        for cf in snapshot_cfs(region.id) {
            let path = folder::table(&self.install_path, region.id, name(*cf));
            let mut writer = SstFileWriter::create(&self.table_options);
            let (start, end) = state_key::bounds(*cf, snapshot_range(region));
            let opened = writer
                .open(&path)
                .and_then(|()| writer.delete_range(start, end));
            tables.0.push((*cf, path));
            opened.map_err(self.fails(OPERATION))?;
            writers.push((*cf, writer));
        }
        let mut stored = Vec::new();
        files.rows(key, manifest, &mut |cf, key, value| {
            let writer = writers.iter_mut().find(|(of, _)| *of == cf);
            let (_, writer) = writer.expect("rows are of the snapshot's column families");
            state_key::write(&mut stored, cf, key);
            let put = writer.put(&stored, value);
            put.map_err(|error| SnapshotError::Engine(self.fails(OPERATION)(error)))
        })?;
        for (_, writer) in &mut writers {
            writer.finish().map_err(self.fails(OPERATION))?;
        }
        Ok(tables)
    }

    fn refused_again(&self) -> EngineError {
        EngineError::Disk {
            path: self.install_path.clone(),
            operation: OPERATION,
            detail: "rows stay in memory though all were flushed".into(),
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one door for tables, which never flushes by itself"
    )]
    fn ingest(&self, cf: Cf, path: &PathBuf) -> Result<Ingest> {
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        options.set_allow_blocking_flush(false);
        point("ingest");
        match self
            .db
            .ingest_external_file_cf_opts(self.cf(cf), &options, vec![path])
        {
            Ok(()) => {
                point("ingested");
                Ok(Ingest::Done)
            }
            Err(error) if error.as_ref() == FLUSH_FIRST => Ok(Ingest::FlushFirst),
            Err(error) => Err(self.fails(OPERATION)(error)),
        }
    }
}
