//! What goes wrong with the disk of a store.

use std::sync::Arc;

use flotilla_engine::memory::{Fault, FaultKind, FaultPoint};
use flotilla_engine::{Cf, SnapshotFiles as _};

use super::cluster::Cluster;
use super::words::Words;

impl Cluster {
    /// A call of a disk is to fail.
    pub(super) fn plan_fault(&mut self, name: &str, words: &mut Words<'_>) {
        let what = words.next();
        let id = words.number();
        let (point, kind) = match (name, what) {
            ("full", "disk") => (FaultPoint::Append, FaultKind::NoSpace),
            (_, "append") => (FaultPoint::Append, FaultKind::Io),
            (_, "sync") => (FaultPoint::Sync, FaultKind::Io),
            (_, "read") => (FaultPoint::Read, FaultKind::Io),
            (_, "view") => (FaultPoint::View, FaultKind::Io),
            (_, "write") => (FaultPoint::Write, FaultKind::Io),
            (_, "files") => (FaultPoint::SnapshotWrite, FaultKind::Io),
            _ => words.wrong("nothing fails in this way"),
        };
        let fault = Fault {
            point,
            after: 0,
            kind,
        };
        let store = self.store(id);
        match point {
            FaultPoint::View | FaultPoint::Write => store.state.inject(fault),
            FaultPoint::SnapshotWrite => store.files.inject(fault),
            _ => store.log.inject(fault),
        }
    }

    /// Bytes that no checksum fits any more.
    pub(super) fn rot(&mut self, words: &mut Words<'_>) {
        let what = words.next();
        let id = words.number();
        let rotten = match what {
            "entry" => {
                let index = words.number();
                let region = words.number_after("of");
                let region = region.unwrap_or_else(|| words.wrong("of which region?"));
                self.store(id).log.rot(region, index);
                true
            }
            "row" => self.store(id).state.rot(Cf::CfDefault, &words.key()),
            _ => words.wrong("an entry rots, or a row"),
        };
        if !rotten {
            words.wrong("there is no such row");
        }
    }

    /// Somebody has removed all files of snapshots.
    pub(super) fn lose_files(&mut self, words: &mut Words<'_>) {
        if words.next() != "files" {
            words.wrong("files are lost");
        }
        let files = Arc::clone(&self.store(words.number()).files);
        for key in files.list().expect("no fault is planned") {
            files.discard(&key).expect("no fault is planned");
        }
    }
}
