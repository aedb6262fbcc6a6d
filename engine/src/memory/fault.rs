//! Faults that a test or simulator plans for the twin.

use std::path::PathBuf;

use crate::{EngineError, Result};

/// The call that a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultPoint {
    /// `RaftLog::append`: the batch may or may not be found after a crash.
    Append,
    /// `RaftLog::sync`: nothing more becomes durable.
    Sync,
    /// `RaftLog::entries` and the state's reads.
    Read,
    /// `StateStore::snapshot`: whatever is read of this one fails.
    View,
    /// `StateStore::write`.
    Write,
    /// `StateStore::flush_all` and automatic flushes.
    Flush,
    /// `SnapshotInstall::install`, before each column family.
    Ingest,
    /// Whatever changes files of snapshots: making, appending, syncing, renaming, removing.
    SnapshotWrite,
    /// Whatever reads them.
    SnapshotRead,
}

impl FaultPoint {
    /// After such a failure nothing more is written. Reads may go on, and a snapshot that fails is
    /// thrown away alone.
    fn poisons(self) -> bool {
        !matches!(
            self,
            Self::Read | Self::View | Self::SnapshotRead | Self::SnapshotWrite
        )
    }
}

/// What the disk answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// An input/output error.
    Io,
    /// No space left.
    NoSpace,
}

impl FaultKind {
    pub(super) fn error(self, operation: &'static str) -> EngineError {
        let path = PathBuf::from("memory");
        match self {
            Self::NoSpace => EngineError::NoSpace { path, operation },
            Self::Io => EngineError::Disk {
                path,
                operation,
                detail: "planned fault".into(),
            },
        }
    }
}

/// One fault, planned ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which call fails.
    pub point: FaultPoint,
    /// Calls of that kind that still succeed before.
    pub after: u64,
    /// How it fails.
    pub kind: FaultKind,
}

/// The faults still to come, and the first failure once there was one.
#[derive(Debug, Default)]
pub(super) struct Faults {
    planned: Vec<Fault>,
    /// Set by the first failure and never cleared (design, rule 8).
    poisoned: Option<String>,
}

impl Faults {
    pub(super) fn plan(&mut self, fault: Fault) {
        self.planned.push(fault);
    }

    /// Fails if an earlier call failed. A planned fault whose turn it is strikes now. Reads and
    /// files of snapshots are neither poisoned nor do they poison.
    pub(super) fn pass(&mut self, point: FaultPoint, operation: &'static str) -> Result<()> {
        if let Some(cause) = self.poisoned.as_ref().filter(|_| point.poisons()) {
            return Err(EngineError::Poisoned {
                cause: cause.clone(),
            });
        }
        let Some(kind) = self.strike(point) else {
            return Ok(());
        };
        let error = kind.error(operation);
        if point.poisons() {
            self.poisoned = Some(error.to_string());
        }
        Err(error)
    }

    /// The fault whose turn it is, if one is planned for `point`.
    pub(super) fn strike(&mut self, point: FaultPoint) -> Option<FaultKind> {
        let mut struck = None;
        self.planned.retain_mut(|fault| {
            if fault.point != point {
                return true;
            }
            if fault.after == 0 {
                struck = struck.or(Some(fault.kind));
                return false;
            }
            fault.after -= 1;
            true
        });
        struck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_once_at_its_turn_and_poisons() {
        let mut faults = Faults::default();
        faults.plan(Fault {
            point: FaultPoint::Sync,
            after: 1,
            kind: FaultKind::NoSpace,
        });
        assert!(faults.pass(FaultPoint::Sync, "sync").is_ok());
        assert!(
            faults.pass(FaultPoint::Append, "append").is_ok(),
            "another call does not count"
        );
        assert!(matches!(
            faults.pass(FaultPoint::Sync, "sync"),
            Err(EngineError::NoSpace { .. })
        ));
        assert!(matches!(
            faults.pass(FaultPoint::Append, "append"),
            Err(EngineError::Poisoned { .. })
        ));
    }

    #[test]
    fn a_failed_read_does_not_poison() {
        let mut faults = Faults::default();
        faults.plan(Fault {
            point: FaultPoint::Read,
            after: 0,
            kind: FaultKind::Io,
        });
        assert!(matches!(
            faults.pass(FaultPoint::Read, "read"),
            Err(EngineError::Disk { .. })
        ));
        assert!(faults.pass(FaultPoint::Read, "read").is_ok());
    }
}
