//! A small file system of its own for a test.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::node::eventually;

/// A small file system that lives as long as this.
pub(crate) struct SmallDisk {
    holder: Child,
    /// Where it is, seen through the process that has it mounted.
    pub(crate) path: PathBuf,
    _folder: tempfile::TempDir,
}

/// How large it is.
pub(crate) const DISK_BYTES: u64 = 384 << 20;

impl SmallDisk {
    /// `None`: this system gives none to a test.
    pub(crate) fn new() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let script = format!(
            "mount -t tmpfs -o size={DISK_BYTES} none \"$0\" && touch \"$0/mounted\" && exec cat"
        );
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", &script]);
        command.arg(folder.path());
        // It ends when its standard input does: with this process at the latest.
        command.stdin(Stdio::piped()).stderr(Stdio::null());
        let mut holder = command.stdout(Stdio::null()).spawn().ok()?;
        let seen = folder.path().strip_prefix("/").expect("absolute");
        let path = Path::new("/proc")
            .join(holder.id().to_string())
            .join("root")
            .join(seen);
        let mounted = eventually("a file system to be mounted, or not", || {
            match holder.try_wait().expect("a child") {
                Some(_) => Some(false),
                None => path.join("mounted").exists().then_some(true),
            }
        });
        mounted.then_some(Self {
            holder,
            path,
            _folder: folder,
        })
    }

    /// Takes all the space there is with a file of this name; removed, it is free again.
    pub(crate) fn fill(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        let mut file = File::create(&path).expect("a file");
        let mut piece = vec![0xaa; 1 << 20];
        loop {
            match file.write(&piece) {
                Ok(0) => return path,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => match piece.len() {
                    1 => return path,
                    larger => piece.truncate(larger / 2),
                },
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
