//! What the files of snapshots lie on: folders of files, by name.

use bytes::Bytes;

use crate::Result;

/// A folder of folders of files. Names are short and plain.
///
/// What was written, made, renamed or removed may be lost in a crash until the sync that covers it:
/// content by the file's, a name by that of the folder it stands in.
pub trait Disk: Send + Sync + 'static {
    /// An open file, written at its end.
    type File: Send;

    /// Names of all folders.
    fn folders(&self) -> Result<Vec<String>>;

    /// Makes a folder, empty.
    fn make(&self, folder: &str) -> Result<()>;

    /// Makes an empty file.
    fn create(&self, folder: &str, file: &str) -> Result<Self::File>;

    /// Writes at the end of a file.
    fn append(&self, file: &mut Self::File, data: &[u8]) -> Result<()>;

    /// Makes what was appended durable.
    fn sync(&self, file: &mut Self::File) -> Result<()>;

    /// Makes the names of a folder's files durable.
    fn sync_folder(&self, folder: &str) -> Result<()>;

    /// Makes the names of the folders durable.
    fn sync_names(&self) -> Result<()>;

    /// Gives a folder another name.
    fn rename(&self, from: &str, to: &str) -> Result<()>;

    /// Removes a folder with all its files, if it is there.
    fn remove(&self, folder: &str) -> Result<()>;

    /// Length of a file; `None` if it is not there.
    fn length(&self, folder: &str, file: &str) -> Result<Option<u64>>;

    /// Up to `max` bytes at `offset`; fewer only at the end of the file.
    fn read(&self, folder: &str, file: &str, offset: u64, max: u64) -> Result<Bytes>;

    /// The path of a folder, or of `folder/file`, for errors.
    fn path(&self, name: &str) -> String;
}
