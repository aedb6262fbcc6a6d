//! The data folder of a store: who owns it, what belongs in it, and every reason to refuse it.
//!
//! ```text
//! DIR/LOCK         held by the running process; holds its process id as text
//! DIR/UNFINISHED   only while the store is being created
//! DIR/store.toml   ids and format; written last, so its presence means the store is whole
//! DIR/log/         the raft log
//! DIR/state/       the key-value state
//! DIR/snapshots/   region snapshots under way
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use flotilla_proto::clock::Wall;
use serde::{Deserialize, Serialize};

use crate::crash::point;

/// Format of the folder; a higher number is refused.
const FORMAT: u32 = 1;

const LOCK: &str = "LOCK";
const UNFINISHED: &str = "UNFINISHED";
const MANIFEST: &str = "store.toml";
const MANIFEST_NEW: &str = "store.toml.new";
const LOG: &str = "log";
const STATE: &str = "state";
const SNAPSHOTS: &str = "snapshots";

/// What `store.toml` opens with.
const MANIFEST_HEADER: &str = "# Written by Flotilla when this store was created. Do not edit.\n";

/// Why a folder cannot be used, and what to do about it. What was in the folder is still there.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// There is something in it, but no store.
    #[error(
        "{path} is not empty and holds no Flotilla store (it holds {found:?}); choose an empty folder"
    )]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// The first thing found in it.
        found: String,
    },
    /// It is missing or empty, or a first start in it was never finished.
    #[error("{path} holds no store")]
    NoStore {
        /// The folder.
        path: PathBuf,
    },
    /// A store was to be created where there is one.
    #[error("{path} already holds a store; open it, or choose an empty folder")]
    AlreadyStore {
        /// The folder.
        path: PathBuf,
    },
    /// Another process runs on it.
    #[error("{path} is in use by another process{}; stop that one first", owner(.process))]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Its id, if it wrote it down.
        process: Option<u32>,
    },
    /// This process may not write to it.
    #[error(
        "{path} cannot be written to: {operation} failed ({cause}); check its owner, permissions and mount"
    )]
    ReadOnly {
        /// The folder or file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        cause: String,
    },
    /// Written by a version newer than this one.
    #[error(
        "{path} was written by a newer version (format {found}, this build knows up to {known}); run that version"
    )]
    Newer {
        /// The manifest.
        path: PathBuf,
        /// Format version found.
        found: u32,
        /// Newest format version this build reads.
        known: u32,
    },
    /// A part of the store is gone.
    #[error("{path} is missing; restore this store from its replicas or a backup")]
    Missing {
        /// What is gone.
        path: PathBuf,
    },
    /// The manifest cannot be read.
    #[error("{path} is damaged: {detail}; restore it from a backup")]
    Damaged {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The system failed otherwise.
    #[error("{operation} failed on {path}: {cause}")]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        cause: io::Error,
    },
}

fn owner(process: &Option<u32>) -> String {
    process.map_or_else(String::new, |id| format!(" (process {id})"))
}

type Result<T> = std::result::Result<T, DataDirError>;

/// Whose store it is. Neither ever changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreIds {
    /// The cluster the store belongs to.
    pub cluster_id: u64,
    /// The store itself.
    pub store_id: u64,
}

/// A data folder that this process holds the lock of.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    ids: StoreIds,
    created: Wall,
    /// Created by this process and not finished yet.
    unfinished: bool,
    /// Held until this is dropped.
    _lock: File,
}

/// `store.toml`. Ids are text: TOML's integers have 63 bits.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    cluster_id: String,
    store_id: String,
    /// Milliseconds since the epoch.
    created_ms: u64,
}

/// Only the format: a newer manifest may hold anything else.
#[derive(Debug, Deserialize)]
struct ManifestFormat {
    format: u32,
}

impl DataDir {
    /// The folder holds a store (finished, whole or not): open it. Otherwise it can be created
    /// here, if it is missing, empty, or left from a first start that was never finished.
    pub fn holds_store(path: &Path) -> Result<bool> {
        match Content::of(path)? {
            Content::Store => Ok(true),
            Content::Nothing | Content::Unfinished => Ok(false),
            Content::Foreign(found) => Err(DataDirError::NotOurs {
                path: path.to_owned(),
                found,
            }),
        }
    }

    /// Begins a store in a missing or empty folder. What a first start left behind that never came
    /// to [`DataDir::finish`] is removed: nobody was ever told of it.
    pub fn create(path: &Path, ids: StoreIds, created: Wall) -> Result<Self> {
        Self::refuse_for_creation(path)?;
        fs::create_dir_all(path).map_err(fails(path, "creating the folder"))?;
        let lock = lock(path)?;
        // Another process may have been faster between the look and the lock.
        Self::refuse_for_creation(path)?;
        let marker = path.join(UNFINISHED);
        write_synced(&marker, b"")?;
        sync_folder(path)?;
        for left in [LOG, STATE, SNAPSHOTS] {
            let left = path.join(left);
            match fs::remove_dir_all(&left) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(fails(&left, "removing the rest of an unfinished start")(
                        error,
                    ));
                }
                _ => {}
            }
            fs::create_dir(&left).map_err(fails(&left, "creating the folder"))?;
        }
        point("store-begun");
        Ok(Self {
            path: path.to_owned(),
            ids,
            created,
            unfinished: true,
            _lock: lock,
        })
    }

    fn refuse_for_creation(path: &Path) -> Result<()> {
        match Content::of(path)? {
            Content::Nothing | Content::Unfinished => Ok(()),
            Content::Store => Err(DataDirError::AlreadyStore {
                path: path.to_owned(),
            }),
            Content::Foreign(found) => Err(DataDirError::NotOurs {
                path: path.to_owned(),
                found,
            }),
        }
    }

    /// Opens the folder of a store.
    pub fn open(path: &Path) -> Result<Self> {
        match Content::of(path)? {
            Content::Store => {}
            Content::Nothing | Content::Unfinished => {
                return Err(DataDirError::NoStore {
                    path: path.to_owned(),
                });
            }
            Content::Foreign(found) => {
                return Err(DataDirError::NotOurs {
                    path: path.to_owned(),
                    found,
                });
            }
        }
        let lock = lock(path)?;
        let (ids, created) = read_manifest(&path.join(MANIFEST))?;
        for part in [LOG, STATE] {
            let part = path.join(part);
            if !part.is_dir() {
                return Err(DataDirError::Missing { path: part });
            }
        }
        // An empty folder is worth no refusal, unlike what the other two hold.
        let snapshots = path.join(SNAPSHOTS);
        fs::create_dir_all(&snapshots).map_err(fails(&snapshots, "creating the folder"))?;
        for left in [UNFINISHED, MANIFEST_NEW] {
            // Left by a process that ended between the last two steps of `finish`.
            remove_if_there(&path.join(left))?;
        }
        Ok(Self {
            path: path.to_owned(),
            ids,
            created,
            unfinished: false,
            _lock: lock,
        })
    }

    /// Declares the new store whole: everything it needs to start again is durable by now.
    /// Does nothing for a store that was opened.
    pub fn finish(&mut self) -> Result<()> {
        if !self.unfinished {
            return Ok(());
        }
        let manifest = Manifest {
            format: FORMAT,
            cluster_id: self.ids.cluster_id.to_string(),
            store_id: self.ids.store_id.to_string(),
            created_ms: self.created.0,
        };
        let text = toml::to_string(&manifest).expect("numbers and digits");
        let (new, path) = (self.path.join(MANIFEST_NEW), self.path.join(MANIFEST));
        write_synced(&new, format!("{MANIFEST_HEADER}{text}").as_bytes())?;
        point("store-manifest");
        fs::rename(&new, &path).map_err(fails(&path, "renaming the manifest"))?;
        point("store-named");
        sync_folder(&self.path)?;
        point("store-whole");
        self.unfinished = false;
        remove_if_there(&self.path.join(UNFINISHED))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose store it is.
    pub fn ids(&self) -> StoreIds {
        self.ids
    }

    /// When the store was created.
    pub fn created(&self) -> Wall {
        self.created
    }

    /// The store was begun by [`DataDir::create`] and not finished yet.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// The folder of the raft log.
    pub fn log_path(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// The folder of the state.
    pub fn state_path(&self) -> PathBuf {
        self.path.join(STATE)
    }

    /// The folder of snapshots under way.
    pub fn snapshots_path(&self) -> PathBuf {
        self.path.join(SNAPSHOTS)
    }
}

/// What a folder looks like from outside, without its lock.
enum Content {
    /// Missing, empty, or nothing but a lock file.
    Nothing,
    /// A first start that never finished.
    Unfinished,
    /// It has a manifest.
    Store,
    /// Something else; the first name in order.
    Foreign(String),
}

impl Content {
    fn of(path: &Path) -> Result<Self> {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::Nothing),
            Err(error) => return Err(fails(path, "listing the folder")(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(fails(path, "listing the folder"))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        let holds = |name: &str| names.iter().any(|found| found == name);
        if holds(MANIFEST) {
            return Ok(Self::Store);
        }
        if holds(UNFINISHED) {
            return Ok(Self::Unfinished);
        }
        let foreign = names.iter().find(|name| *name != LOCK);
        Ok(foreign.map_or(Self::Nothing, |name| Self::Foreign(name.clone())))
    }
}

/// Takes the folder's lock and writes this process's id into it.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options
        .open(&path)
        .map_err(fails(&path, "opening the lock file"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let process = file
                .read_to_string(&mut text)
                .ok()
                .and_then(|_| text.trim().parse().ok());
            return Err(DataDirError::Locked {
                path: folder.to_owned(),
                process,
            });
        }
        Err(TryLockError::Error(error)) => return Err(fails(&path, "locking the folder")(error)),
    }
    file.set_len(0)
        .map_err(fails(&path, "writing the lock file"))?;
    writeln!(file, "{}", std::process::id()).map_err(fails(&path, "writing the lock file"))?;
    Ok(file)
}

fn read_manifest(path: &Path) -> Result<(StoreIds, Wall)> {
    let damaged = |detail: String| DataDirError::Damaged {
        path: path.to_owned(),
        detail,
    };
    let bytes = fs::read(path).map_err(fails(path, "reading the manifest"))?;
    let text = String::from_utf8(bytes).map_err(|_| damaged("it is no text".into()))?;
    let ManifestFormat { format } =
        toml::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    if format > FORMAT {
        return Err(DataDirError::Newer {
            path: path.to_owned(),
            found: format,
            known: FORMAT,
        });
    }
    let manifest: Manifest = toml::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    let id = |name: &str, text: &str| match text.parse() {
        Ok(0) | Err(_) => Err(damaged(format!("{name} = {text:?} is no id"))),
        Ok(id) => Ok(id),
    };
    let ids = StoreIds {
        cluster_id: id("cluster_id", &manifest.cluster_id)?,
        store_id: id("store_id", &manifest.store_id)?,
    };
    Ok((ids, Wall(manifest.created_ms)))
}

/// Writes a file and syncs it; its name is durable only after [`sync_folder`].
fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(fails(path, "writing the file"))
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(fails(path, "removing the file")(error))
        }
        _ => Ok(()),
    }
}

fn sync_folder(path: &Path) -> Result<()> {
    let sync = || File::open(path)?.sync_all();
    sync().map_err(fails(path, "syncing the folder"))
}

/// Sorts a system error by what the user can do about it.
fn fails(path: &Path, operation: &'static str) -> impl Fn(io::Error) -> DataDirError {
    move |error| {
        let path = path.to_owned();
        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => DataDirError::ReadOnly {
                path,
                operation,
                cause: error.to_string(),
            },
            _ => DataDirError::Io {
                path,
                operation,
                cause: error,
            },
        }
    }
}
