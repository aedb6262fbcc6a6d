//! The log's own mark of how far it was synced (contracts: C10).
//!
//! Point-in-time recovery cuts the log at the first bad record without an error. Behind a torn tail
//! that is right; in the middle of synced batches it would be silent loss. So after each sync the
//! number of the last synced batch is written to a file beside the log, and an open that recovers
//! less is refused. The mark itself is not synced: after a power failure it may lag behind, never
//! run ahead. Two slots in turn, so that a torn write leaves the other one.
//!
//! ```text
//! at 0 and at 4096:  [number: u64 big-endian][crc32c of the number: u32 big-endian]
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::{EngineError, Result};

/// The file's name inside the log's folder.
pub(super) const NAME: &str = "SYNCED";
/// Slots lie this far apart, in bytes, so that no torn sector or page holds both.
const SLOT_DISTANCE: u64 = 4096;
const SLOT_BYTES: usize = 12;

/// The open file, and which slot is written next.
#[derive(Debug)]
pub(super) struct Watermark {
    path: PathBuf,
    file: File,
    next_slot: u64,
}

impl Watermark {
    /// A new mark at 0, synced together with its name in the folder.
    pub(super) fn create(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let make = || -> io::Result<File> {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)?;
            for slot in [0, 1] {
                file.write_all_at(&encode(0), slot * SLOT_DISTANCE)?;
            }
            file.sync_all()?;
            File::open(folder)?.sync_all()?;
            Ok(file)
        };
        let file =
            make().map_err(|error| EngineError::disk(&path, "creating the watermark", &error))?;
        Ok(Self {
            path,
            file,
            next_slot: 0,
        })
    }

    /// Opens the mark and reads it.
    pub(super) fn open(folder: &Path) -> Result<(Self, u64)> {
        let path = folder.join(NAME);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(EngineError::corrupt(
                    path.display().to_string(),
                    "the file is missing",
                ));
            }
            Err(error) => return Err(EngineError::disk(&path, "opening the watermark", &error)),
        };
        let slots = [slot(&path, &file, 0)?, slot(&path, &file, 1)?];
        let (newest, number) = match slots {
            [None, None] => {
                return Err(EngineError::corrupt(
                    path.display().to_string(),
                    "no slot has a valid checksum",
                ));
            }
            [Some(number), None] => (0, number),
            [None, Some(number)] => (1, number),
            [Some(first), Some(second)] if first > second => (0, first),
            [Some(_), Some(second)] => (1, second),
        };
        Ok((
            Self {
                path,
                file,
                next_slot: 1 - newest,
            },
            number,
        ))
    }

    /// Notes that all batches up to `number` are synced.
    pub(super) fn set(&mut self, number: u64) -> Result<()> {
        let written = self
            .file
            .write_all_at(&encode(number), self.next_slot * SLOT_DISTANCE);
        written.map_err(|error| EngineError::disk(&self.path, "writing the watermark", &error))?;
        self.next_slot = 1 - self.next_slot;
        Ok(())
    }
}

fn encode(number: u64) -> [u8; SLOT_BYTES] {
    let number = number.to_be_bytes();
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&number);
    slot[8..].copy_from_slice(&crc32c::crc32c(&number).to_be_bytes());
    slot
}

/// The number in a slot; `None` if it was torn.
fn slot(path: &Path, file: &File, slot: u64) -> Result<Option<u64>> {
    let mut bytes = [0; SLOT_BYTES];
    match file.read_exact_at(&mut bytes, slot * SLOT_DISTANCE) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(EngineError::disk(path, "reading the watermark", &error)),
    }
    let [number @ .., _, _, _, _] = bytes;
    let number = u64::from_be_bytes(number);
    Ok((encode(number) == bytes).then_some(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopened(folder: &Path) -> std::result::Result<u64, String> {
        Watermark::open(folder)
            .map(|(_, number)| number)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut mark = Watermark::create(folder.path()).expect("created");
        assert_eq!(reopened(folder.path()), Ok(0));
        for number in [1, 2, 3, 10] {
            mark.set(number).expect("set");
            assert_eq!(reopened(folder.path()), Ok(number));
        }
        let (mut mark, _) = Watermark::open(folder.path()).expect("opened");
        mark.set(11).expect("set");
        let torn = mark.next_slot * SLOT_DISTANCE;
        mark.file.write_all_at(&[0xff; 5], torn).expect("written");
        assert_eq!(
            reopened(folder.path()),
            Ok(11),
            "the next slot was being written"
        );
    }

    #[test]
    fn a_missing_or_unreadable_mark_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        drop(Watermark::create(folder.path()).expect("created"));
        let path = folder.path().join(NAME);
        for (bytes, says) in [
            (Some(&[7; 5000][..]), "no slot has a valid checksum"),
            (Some(&[][..]), "no slot has a valid checksum"),
            (None, "the file is missing"),
        ] {
            match bytes {
                Some(bytes) => std::fs::write(&path, bytes).expect("written"),
                None => std::fs::remove_file(&path).expect("removed"),
            }
            let error = reopened(folder.path()).expect_err("refused");
            assert!(error.contains(says) && error.contains("SYNCED"), "{error}");
        }
    }
}
