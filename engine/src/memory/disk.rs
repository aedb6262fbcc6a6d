//! Files of snapshots in memory, with the crash rules of a file system.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::fault::{Fault, FaultPoint, Faults};
use super::planted::{Plant, Planted};
use crate::snapshot::{Disk, Snapshots};
use crate::{EngineError, Result};

/// [`crate::SnapshotFiles`] in memory.
///
/// What no sync covered may be lost in a crash: the end of a file, a name, a rename, a removal. Whoever
/// crashes it decides.
pub type MemorySnapshots = Snapshots<MemoryDisk>;

/// See [`MemorySnapshots`].
#[derive(Debug, Default)]
pub struct MemoryDisk {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    folders: BTreeMap<String, Folder>,
    /// Folders that were removed, and whose names no sync has covered since.
    removed: Vec<Folder>,
    faults: Faults,
    plant: Plant,
}

#[derive(Clone, Debug, Default)]
struct Folder {
    files: BTreeMap<String, File>,
    /// The name under which a crash certainly finds it; `None`: it may be gone.
    durable_name: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct File {
    content: Arc<Mutex<Content>>,
    /// A crash certainly finds the name.
    durable_name: bool,
}

#[derive(Clone, Debug, Default)]
struct Content {
    bytes: BytesMut,
    /// How many of them a crash certainly finds.
    synced: usize,
}

impl Default for MemorySnapshots {
    fn default() -> Self {
        Self::on(MemoryDisk::default())
    }
}

impl MemorySnapshots {
    /// No snapshots.
    pub fn new() -> Self {
        Self::default()
    }

    /// The snapshots as they are found after a power failure. `keep` is asked how many of `n` things
    /// that no sync covered survive (bytes at the end of a file, a name, a rename, a removed file
    /// that comes back), and answers at most `n`.
    ///
    /// # Panics
    /// If `keep` answers more than it was offered.
    pub fn crash(&self, mut keep: impl FnMut(u64) -> u64) -> Self {
        let (folders, removed) = self.disk().copy();
        let mut keep = |offered| {
            let kept = if offered == 0 { 0 } else { keep(offered) };
            assert!(kept <= offered, "{kept} of {offered} cannot survive");
            kept
        };
        let mut found = BTreeMap::new();
        let mut leave = |name: Option<String>, files, keep: &mut _| {
            let files = surviving(files, keep);
            if let Some(name) = name {
                let durable_name = Some(name.clone());
                found.insert(
                    name,
                    Folder {
                        files,
                        durable_name,
                    },
                );
            }
        };
        for folder in removed {
            let comes_back = folder.durable_name.filter(|_| keep(1) == 1);
            leave(comes_back, folder.files, &mut keep);
        }
        for (name, folder) in folders {
            let durable = folder.durable_name.as_ref() == Some(&name);
            let name = if durable || keep(1) == 1 {
                Some(name)
            } else {
                folder.durable_name
            };
            leave(name, folder.files, &mut keep);
        }
        Self::found(found)
    }

    /// The snapshots as a killed process leaves them: the operating system has done everything.
    pub fn kill(&self) -> Self {
        let (folders, _) = self.disk().copy();
        Self::found(folders)
    }

    fn found(folders: BTreeMap<String, Folder>) -> Self {
        let inner = Inner {
            folders,
            ..Inner::default()
        };
        Self::on(MemoryDisk {
            inner: Mutex::new(inner),
        })
    }

    /// Plans a fault.
    pub fn inject(&self, fault: Fault) {
        self.disk().inner.lock().faults.plan(fault);
    }

    /// Breaks a promise on purpose; see [`Planted`].
    #[cfg(feature = "planted")]
    pub fn plant(&self, rule: Planted) {
        self.disk().inner.lock().plant.rule = Some(rule);
    }

    /// Flips a bit of the byte at `at` (counted over all files of all folders, in order, and beyond
    /// the end from the beginning again). Answers whether there was one.
    pub fn rot(&self, at: u64) -> bool {
        let inner = self.disk().inner.lock();
        let files = || {
            inner
                .folders
                .values()
                .flat_map(|folder| folder.files.values())
        };
        let all: usize = files().map(|file| file.content.lock().bytes.len()).sum();
        if all == 0 {
            return false;
        }
        let mut at = (at % all as u64) as usize;
        for file in files() {
            let bytes = &mut file.content.lock().bytes;
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1;
                return true;
            }
            at -= bytes.len();
        }
        false
    }
}

/// What a crash leaves of a folder's files.
fn surviving(
    files: BTreeMap<String, File>,
    keep: &mut impl FnMut(u64) -> u64,
) -> BTreeMap<String, File> {
    let mut found = BTreeMap::new();
    for (name, file) in files {
        if !file.durable_name && keep(1) == 0 {
            continue;
        }
        let mut content = file.content.lock().clone();
        let unsynced = content.bytes.len() - content.synced;
        content.synced += keep(unsynced as u64) as usize;
        content.bytes.truncate(content.synced);
        let content = Arc::new(Mutex::new(content));
        let file = File {
            content,
            durable_name: true,
        };
        found.insert(name, file);
    }
    found
}

impl MemoryDisk {
    /// Everything, sharing nothing.
    fn copy(&self) -> (BTreeMap<String, Folder>, Vec<Folder>) {
        let inner = self.inner.lock();
        let (mut folders, mut removed) = (inner.folders.clone(), inner.removed.clone());
        for folder in folders.values_mut().chain(&mut removed) {
            for file in folder.files.values_mut() {
                let content = file.content.lock().clone();
                file.content = Arc::new(Mutex::new(content));
            }
        }
        (folders, removed)
    }

    fn written<T>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&mut Inner) -> Result<T>,
    ) -> Result<T> {
        let mut inner = self.inner.lock();
        inner.faults.pass(FaultPoint::SnapshotWrite, operation)?;
        change(&mut inner)
    }
}

impl Inner {
    fn folder(&mut self, name: &str) -> Result<&mut Folder> {
        let gone = || EngineError::Gone {
            path: name.into(),
            operation: "writing a snapshot",
        };
        self.folders.get_mut(name).ok_or_else(gone)
    }

    fn remove(&mut self, name: &str) {
        if let Some(folder) = self.folders.remove(name) {
            self.removed.push(folder);
        }
    }
}

/// An open file of a [`MemoryDisk`].
#[derive(Debug)]
pub struct MemoryFile {
    content: Arc<Mutex<Content>>,
}

impl Disk for MemoryDisk {
    type File = MemoryFile;

    fn folders(&self) -> Result<Vec<String>> {
        let mut inner = self.inner.lock();
        let operation = "listing the snapshots";
        inner.faults.pass(FaultPoint::SnapshotRead, operation)?;
        Ok(inner.folders.keys().cloned().collect())
    }

    fn make(&self, folder: &str) -> Result<()> {
        self.written("making a snapshot's folder", |inner| {
            inner.folders.insert(folder.to_owned(), Folder::default());
            Ok(())
        })
    }

    fn create(&self, folder: &str, file: &str) -> Result<MemoryFile> {
        self.written("making a snapshot's file", |inner| {
            let made = File::default();
            let content = Arc::clone(&made.content);
            inner.folder(folder)?.files.insert(file.to_owned(), made);
            Ok(MemoryFile { content })
        })
    }

    fn append(&self, file: &mut MemoryFile, data: &[u8]) -> Result<()> {
        self.written("writing a snapshot", |_| {
            file.content.lock().bytes.extend_from_slice(data);
            Ok(())
        })
    }

    fn sync(&self, file: &mut MemoryFile) -> Result<()> {
        self.written("syncing a snapshot", |inner| {
            let mut content = file.content.lock();
            if !inner.plant.breaks(Planted::FilesNotSynced) {
                content.synced = content.bytes.len();
            }
            Ok(())
        })
    }

    fn sync_folder(&self, folder: &str) -> Result<()> {
        self.written("syncing a snapshot's folder", |inner| {
            for file in inner.folder(folder)?.files.values_mut() {
                file.durable_name = true;
            }
            Ok(())
        })
    }

    fn sync_names(&self) -> Result<()> {
        self.written("syncing the folder of snapshots", |inner| {
            inner.removed.clear();
            for (name, folder) in &mut inner.folders {
                folder.durable_name = Some(name.clone());
            }
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.written("renaming a snapshot's folder", |inner| {
            let folder = mem::take(inner.folder(from)?);
            inner.folders.remove(from);
            inner.folders.insert(to.to_owned(), folder);
            Ok(())
        })
    }

    fn remove(&self, folder: &str) -> Result<()> {
        self.written("removing a snapshot", |inner| {
            inner.remove(folder);
            Ok(())
        })
    }

    fn length(&self, folder: &str, file: &str) -> Result<Option<u64>> {
        let inner = self.inner.lock();
        let file = inner.folders.get(folder).and_then(|f| f.files.get(file));
        Ok(file.map(|file| file.content.lock().bytes.len() as u64))
    }

    fn read(&self, folder: &str, file: &str, offset: u64, max: u64) -> Result<Bytes> {
        let mut inner = self.inner.lock();
        let operation = "reading a snapshot";
        inner.faults.pass(FaultPoint::SnapshotRead, operation)?;
        let found = inner.folders.get(folder).and_then(|f| f.files.get(file));
        let gone = || EngineError::Gone {
            path: self.path(&format!("{folder}/{file}")).into(),
            operation,
        };
        let content = found.ok_or_else(gone)?.content.lock();
        let rest = &content.bytes[content.bytes.len().min(offset as usize)..];
        Ok(Bytes::copy_from_slice(
            &rest[..rest.len().min(max as usize)],
        ))
    }

    fn path(&self, name: &str) -> String {
        format!("memory/{name}")
    }
}
