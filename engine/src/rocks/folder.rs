//! Files of snapshots in the folder of the store.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use crate::crash::point;
use crate::snapshot::{Disk, Snapshots};
use crate::{EngineError, Result};

/// [`crate::SnapshotFiles`] in the folder `snapshots/` of a store.
pub type SnapshotFolder = Snapshots<FolderDisk>;

/// Before and behind the names of tables that an install has made and not ingested.
const TABLE: (&str, &str) = ("install-", ".sst");

/// See [`SnapshotFolder`].
#[derive(Debug)]
pub struct FolderDisk {
    root: PathBuf,
}

impl FolderDisk {
    /// Takes a folder, made if it is missing, and removes the tables of installs that a crash
    /// interrupted: an install makes them anew.
    pub(super) fn open(root: PathBuf) -> Result<Self> {
        let disk = Self { root };
        let root = &disk.root;
        fs::create_dir_all(root).map_err(fails(root, "making the folder of snapshots"))?;
        for name in disk.names()?.into_iter().filter(|name| is_table(name)) {
            let path = root.join(name);
            fs::remove_file(&path).map_err(fails(&path, "removing an unfinished install"))?;
        }
        Ok(disk)
    }

    fn names(&self) -> Result<Vec<String>> {
        let fails = || fails(&self.root, "listing the snapshots");
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(fails())? {
            let name = entry.map_err(fails())?.file_name();
            names.push(name.to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

/// Where an install makes its table of column family `cf` of `region`.
pub(super) fn table(root: &Path, region: u64, cf: &str) -> PathBuf {
    let (before, behind) = TABLE;
    root.join(format!("{before}{region}-{cf}{behind}"))
}

fn is_table(name: &str) -> bool {
    name.starts_with(TABLE.0) && name.ends_with(TABLE.1)
}

fn fails(path: &Path, operation: &'static str) -> impl Fn(io::Error) -> EngineError {
    move |error| EngineError::disk(path, operation, &error)
}

fn sync_folder(path: &Path) -> Result<()> {
    let sync = || File::open(path)?.sync_all();
    sync().map_err(fails(path, "syncing a folder of snapshots"))
}

/// An open file of a [`FolderDisk`].
#[derive(Debug)]
pub struct FolderFile {
    path: PathBuf,
    file: File,
}

impl Disk for FolderDisk {
    type File = FolderFile;

    fn folders(&self) -> Result<Vec<String>> {
        let names = self.names()?;
        Ok(names.into_iter().filter(|name| !is_table(name)).collect())
    }

    fn make(&self, folder: &str) -> Result<()> {
        let path = self.root.join(folder);
        fs::create_dir(&path).map_err(fails(&path, "making a snapshot's folder"))
    }

    fn create(&self, folder: &str, file: &str) -> Result<FolderFile> {
        let path = self.root.join(folder).join(file);
        let mut options = OpenOptions::new();
        let file = options.append(true).create_new(true).open(&path);
        let file = file.map_err(fails(&path, "making a snapshot's file"))?;
        Ok(FolderFile { path, file })
    }

    fn append(&self, file: &mut FolderFile, data: &[u8]) -> Result<()> {
        let written = file.file.write_all(data);
        written.map_err(fails(&file.path, "writing a snapshot"))
    }

    fn sync(&self, file: &mut FolderFile) -> Result<()> {
        point("snapshot-sync");
        let synced = file.file.sync_all();
        synced.map_err(fails(&file.path, "syncing a snapshot"))
    }

    fn sync_folder(&self, folder: &str) -> Result<()> {
        sync_folder(&self.root.join(folder))?;
        point("snapshot-synced");
        Ok(())
    }

    fn sync_names(&self) -> Result<()> {
        sync_folder(&self.root)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let path = self.root.join(from);
        let fails = fails(&path, "renaming a snapshot's folder");
        point("snapshot-rename");
        fs::rename(&path, self.root.join(to)).map_err(fails)?;
        point("snapshot-renamed");
        Ok(())
    }

    fn remove(&self, folder: &str) -> Result<()> {
        let path = self.root.join(folder);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(fails(&path, "removing a snapshot")(error))
            }
            _ => Ok(()),
        }
    }

    fn length(&self, folder: &str, file: &str) -> Result<Option<u64>> {
        let path = self.root.join(folder).join(file);
        match fs::metadata(&path) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(fails(&path, "looking at a snapshot")(error)),
        }
    }

    fn read(&self, folder: &str, file: &str, offset: u64, max: u64) -> Result<Bytes> {
        let path = self.root.join(folder).join(file);
        let read = || -> io::Result<Bytes> {
            let file = File::open(&path)?;
            let rest = file.metadata()?.len().saturating_sub(offset);
            let mut bytes = BytesMut::zeroed(rest.min(max) as usize);
            file.read_exact_at(&mut bytes, offset)?;
            Ok(bytes.freeze())
        };
        read().map_err(fails(&path, "reading a snapshot"))
    }

    fn path(&self, name: &str) -> String {
        self.root.join(name).display().to_string()
    }
}
