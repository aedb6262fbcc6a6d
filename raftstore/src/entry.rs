//! The payload of an entry: a version byte, a kind byte, then the command (contracts: C36).

use bytes::{BufMut, Bytes, BytesMut};
use flotilla_proto::raft::{Entry, EntryKind};
use flotilla_proto::store::{
    CommitMergeCommand, PrepareMergeCommand, RollbackMergeCommand, SplitCommand, WriteCommand,
};
use prost::Message;

use crate::peer::Proposed;

/// The format this build writes.
const VERSION: u8 = 1;
const KIND_WRITE: u8 = 1;
const KIND_SPLIT: u8 = 2;
const KIND_PREPARE_MERGE: u8 = 3;
const KIND_COMMIT_MERGE: u8 = 4;
const KIND_ROLLBACK_MERGE: u8 = 5;

/// What an entry asks the state machine to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// A new leader's first entry.
    Empty,
    /// Merged proposals, each with its own epoch (contracts: C23).
    Write(WriteCommand),
    /// A batch split.
    Split(SplitCommand),
    /// The region is to become a part of its neighbour.
    PrepareMerge(PrepareMergeCommand),
    /// A neighbour becomes a part of the region.
    CommitMerge(CommitMergeCommand),
    /// The region stays what it is.
    RollbackMerge(RollbackMergeCommand),
}

/// An entry that cannot be applied. The store stops: skipping would make replicas differ.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// A later format.
    #[error("entry version {0} was written by a newer version of flotilla")]
    NewerVersion(u8),
    /// A later kind of command.
    #[error("entry kind {0} was written by a newer version of flotilla")]
    NewerKind(u8),
    /// Not a command at all.
    #[error("the entry's payload is corrupt: {0}")]
    Corrupt(String),
}

/// A write command as a payload.
pub(crate) fn encode_write(command: &WriteCommand) -> Bytes {
    encode(KIND_WRITE, command)
}

/// A split as a payload.
pub(crate) fn encode_split(command: &SplitCommand) -> Bytes {
    encode(KIND_SPLIT, command)
}

/// A prepare-merge as a payload.
pub(crate) fn encode_prepare_merge(command: &PrepareMergeCommand) -> Bytes {
    encode(KIND_PREPARE_MERGE, command)
}

/// A commit-merge as a payload.
pub(crate) fn encode_commit_merge(command: &CommitMergeCommand) -> Bytes {
    encode(KIND_COMMIT_MERGE, command)
}

/// A rollback-merge as a payload.
pub(crate) fn encode_rollback_merge(command: &RollbackMergeCommand) -> Bytes {
    encode(KIND_ROLLBACK_MERGE, command)
}

fn encode(kind: u8, command: &impl Message) -> Bytes {
    let mut payload = BytesMut::with_capacity(2 + command.encoded_len());
    payload.put_u8(VERSION);
    payload.put_u8(kind);
    command.encode_raw(&mut payload);
    payload.freeze()
}

fn is_of(entry: &Entry, kind: u8) -> bool {
    entry.kind() == EntryKind::Admin && entry.data.get(1) == Some(&kind)
}

/// Whether an entry is a commit-merge.
pub(crate) fn commits_merge(entry: &Entry) -> bool {
    is_of(entry, KIND_COMMIT_MERGE)
}

/// What a prepare-merge in the log asks for, if the entry is one.
pub(crate) fn prepares_merge(entry: &Entry) -> Option<Proposed> {
    if !is_of(entry, KIND_PREPARE_MERGE) {
        return None;
    }
    let Ok(Command::PrepareMerge(command)) = decode_command(entry) else {
        return None;
    };
    Some(Proposed {
        index: entry.index,
        min_index: command.min_index,
    })
}

/// Reads the command of a DATA or ADMIN entry; values stay slices of the entry.
///
/// # Errors
/// See [`EntryError`].
pub fn decode_command(entry: &Entry) -> Result<Command, EntryError> {
    let [version, kind, ..] = entry.data[..] else {
        return if entry.data.is_empty() && entry.kind() == EntryKind::Data {
            Ok(Command::Empty)
        } else {
            Err(EntryError::Corrupt(format!(
                "{} bytes are no header",
                entry.data.len()
            )))
        };
    };
    if version != VERSION {
        return Err(EntryError::NewerVersion(version));
    }
    let body = entry.data.slice(2..);
    let corrupt = |error: prost::DecodeError| EntryError::Corrupt(error.to_string());
    match kind {
        KIND_WRITE => WriteCommand::decode(body)
            .map(Command::Write)
            .map_err(corrupt),
        KIND_SPLIT => SplitCommand::decode(body)
            .map(Command::Split)
            .map_err(corrupt),
        KIND_PREPARE_MERGE => PrepareMergeCommand::decode(body)
            .map(Command::PrepareMerge)
            .map_err(corrupt),
        KIND_COMMIT_MERGE => CommitMergeCommand::decode(body)
            .map(Command::CommitMerge)
            .map_err(corrupt),
        KIND_ROLLBACK_MERGE => RollbackMergeCommand::decode(body)
            .map(Command::RollbackMerge)
            .map_err(corrupt),
        other => Err(EntryError::NewerKind(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_proto::store::{Mod, WritePart};

    fn entry(data: &[u8]) -> Entry {
        Entry {
            term: 6,
            index: 7,
            kind: EntryKind::Data.into(),
            data: Bytes::copy_from_slice(data),
        }
    }

    #[test]
    fn commands_come_back_and_unknown_ones_are_named() {
        let mods = vec![Mod {
            key: "k".into(),
            value: "v".into(),
            ..Mod::default()
        }];
        let write = WriteCommand {
            parts: vec![WritePart {
                epoch_version: 3,
                mods,
            }],
        };
        let payload = encode_write(&write);
        assert_eq!(decode_command(&entry(&payload)), Ok(Command::Write(write)));
        assert_eq!(decode_command(&entry(b"")), Ok(Command::Empty));
        assert_eq!(
            decode_command(&entry(&[9, 1])),
            Err(EntryError::NewerVersion(9))
        );
        assert_eq!(
            decode_command(&entry(&[1, 99])),
            Err(EntryError::NewerKind(99))
        );
        assert!(matches!(
            decode_command(&entry(&[1])),
            Err(EntryError::Corrupt(_))
        ));
        assert!(matches!(
            decode_command(&entry(&[1, 1, 0xff])),
            Err(EntryError::Corrupt(_))
        ));
    }
}
