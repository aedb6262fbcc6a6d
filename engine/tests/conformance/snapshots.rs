//! Snapshots on RocksDB against the twin: the same snapshots to the byte, the same rows after an
//! install, and after a crash at any later moment.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use flotilla_engine::memory::{MemorySnapshots, MemoryState};
use flotilla_engine::rocks::{RocksState, SnapshotFolder};
use flotilla_engine::{
    Cf, FlushReason, META_REGION, SnapshotFiles, SnapshotInstall, SnapshotKey, StateBatch, StateOp,
    StateReader, StateStore, snapshot_ops,
};
use flotilla_proto::metapb::Region;
use flotilla_proto::store::{ApplyRecord, PeerState, RegionRecord, SnapshotManifest};

use crate::common::state_script::{StateScript, range};
use crate::common::transfer::{all_rows, transfer};
use crate::common::{Dice, for_seeds};
use crate::rocks::{Folder, compare_states, finish_flushes, follow_durable};

/// Regions that snapshots are taken of, besides the meta region; the script has others.
const REGIONS: std::ops::RangeInclusive<u64> = 11..=14;

/// One store on both engines.
struct Both {
    folder: Folder,
    /// `None` only while it crashes.
    state: Option<RocksState>,
    files: SnapshotFolder,
    twin: MemoryState,
    twin_files: MemorySnapshots,
    script: StateScript,
    /// Applied index by region of [`REGIONS`]; goes on after crashes.
    applied: BTreeMap<u64, u64>,
}

impl Both {
    fn new(seed: u64) -> Self {
        let folder = Folder::new();
        Self {
            state: Some(folder.state()),
            files: folder.snapshots(),
            folder,
            twin: MemoryState::new(),
            twin_files: MemorySnapshots::new(),
            script: StateScript::new(seed),
            applied: BTreeMap::new(),
        }
    }

    fn state(&self) -> &RocksState {
        self.state.as_ref().expect("open")
    }

    fn write(&mut self, batch: &StateBatch) {
        let number = self.state().write(batch).expect("written");
        assert_eq!(number, self.twin.write(batch).expect("written"));
        // Every moment is one that RocksDB may have chosen to flush at.
        self.twin.begin_flush();
    }

    fn write_script(&mut self) {
        let batch = self.script.batch();
        self.write(&batch);
    }

    /// Gives a region a range and lets it apply something.
    fn change_region(&mut self, region: Region, dice: &mut Dice) {
        let index = self.applied.entry(region.id).or_insert(5);
        *index += dice.within(1, 9);
        let applied = StateOp::PutApplied {
            region: region.id,
            record: ApplyRecord {
                index: *index,
                term: 6,
            },
        };
        self.write(&StateBatch {
            ops: vec![put_region(region), applied],
            admin: true,
        });
    }

    /// Builds on both engines; both must make the same.
    fn build(&self, region: u64) -> (SnapshotKey, SnapshotManifest) {
        let go_on = &mut |_| ControlFlow::Continue(());
        let built = self.files.build(&self.state().snapshot(), region, go_on);
        let twin = self.twin_files.build(&self.twin.snapshot(), region, go_on);
        let built = built.expect("built");
        assert_eq!(built, twin.expect("built"), "region {region}");
        built
    }

    /// Installs by ingest or as a batch, then the region's records, as C6 says.
    fn install(&mut self, key: &SnapshotKey, manifest: &SnapshotManifest, as_batch: bool) {
        let region = manifest.region.clone().expect("named");
        let applied = StateOp::PutApplied {
            region: region.id,
            record: ApplyRecord {
                index: manifest.index,
                term: manifest.term,
            },
        };
        let mut ops = Vec::new();
        if as_batch {
            ops = snapshot_ops(&self.files, key, manifest).expect("read");
            assert_eq!(
                ops,
                snapshot_ops(&self.twin_files, key, manifest).expect("read")
            );
        } else {
            let installed = self.state().install(&self.files, key, manifest);
            installed.expect("installed");
            let installed = self.twin.install(&self.twin_files, key, manifest);
            installed.expect("installed");
        }
        ops.extend([put_region(region), applied]);
        self.write(&StateBatch { ops, admin: true });
    }

    /// Closing flushes nothing: what is found then is what a crash leaves.
    fn crash(&mut self, seed: u64) {
        drop(self.state.take());
        let state = self.folder.state();
        let found = state.durable_cut();
        assert!(
            found >= self.twin.durable_cut(),
            "what was durable is there"
        );
        finish_flushes(&self.twin, found);
        self.twin = self.twin.crash();
        self.twin_files = self.twin_files.kill();
        self.state = Some(state);
        self.compare();
        // The script knows nothing of what was lost.
        self.script = StateScript::new(seed);
        let orphans = self.twin.regions().expect("read");
        for stored in orphans {
            let region = stored.record.region.expect("named").id;
            self.write(&StateBatch {
                ops: vec![StateOp::DeleteApplied { region }],
                admin: false,
            });
        }
    }

    fn compare(&self) {
        compare_states(self.state(), &self.twin);
        let regions = self.twin.regions().expect("read");
        for stored in regions {
            let region = stored.record.region.as_ref().expect("named").id;
            let stored = Some(stored);
            assert_eq!(self.state().stored_region(region).expect("read"), stored);
            let frozen = self.state().snapshot().stored_region(region);
            assert_eq!(frozen.expect("read"), stored);
        }
    }
}

fn put_region(region: Region) -> StateOp {
    let record = RegionRecord {
        state: PeerState::Normal.into(),
        region: Some(region),
        highest_peer_id: 9,
        ..RegionRecord::default()
    };
    StateOp::PutRegion { record }
}

fn draw_region(dice: &mut Dice) -> Region {
    let mut region = Region {
        id: *dice.pick(&[META_REGION, 11, 12, 13, *REGIONS.end()]),
        ..Region::default()
    };
    if region.id != META_REGION {
        (region.start_key, region.end_key) = range(dice);
        if !region.end_key.is_empty() && region.start_key >= region.end_key {
            region.end_key = Bytes::new();
        }
    }
    region
}

#[test]
fn snapshots_are_the_twin_s_to_the_byte_and_installs_too_also_after_crashes() {
    let (mut rows, mut flushed, mut batches) = (0, 0, 0);
    for_seeds(0..3, |seed| {
        let mut dice = Dice::new(seed);
        let mut sender = Both::new(seed ^ 1 << 32);
        let mut receiver = Both::new(seed ^ 2 << 32);
        for round in 0..25 {
            for store in [&mut sender, &mut receiver] {
                for _ in 0..dice.below(12) {
                    store.write_script();
                }
                if dice.chance(20) {
                    let flush = store.state().flush_all(FlushReason::Manual);
                    flush.expect("flushed");
                }
            }
            let region = draw_region(&mut dice);
            sender.change_region(region.clone(), &mut dice);
            let (from, manifest) = sender.build(region.id);
            rows += manifest.files.iter().map(|file| file.rows).sum::<u64>();
            // A snapshot that one engine made is taken by the other.
            let key = if dice.chance(50) {
                transfer(&sender.files, &receiver.twin_files, &from, &manifest);
                transfer(&sender.twin_files, &receiver.files, &from, &manifest)
            } else {
                transfer(&sender.twin_files, &receiver.twin_files, &from, &manifest);
                transfer(&sender.files, &receiver.files, &from, &manifest)
            };
            let as_batch = dice.chance(25);
            let before = receiver.state().install_flushes();
            receiver.install(&key, &manifest, as_batch);
            flushed += receiver.state().install_flushes() - before;
            batches += u64::from(as_batch);
            receiver.compare();
            match dice.below(5) {
                0 => follow_durable(receiver.state(), &receiver.twin),
                1 => receiver.crash(seed ^ round << 16),
                2 => {
                    receiver.crash(seed ^ round << 16);
                    receiver.install(&key, &manifest, false);
                    receiver.compare();
                }
                _ => {}
            }
            for files in [&sender.files, &receiver.files] {
                for key in files.list().expect("read") {
                    files.discard(&key).expect("removed");
                }
            }
            sender.twin_files = MemorySnapshots::new();
            receiver.twin_files = MemorySnapshots::new();
        }
        sender.compare();
    });
    assert!(
        rows > 0 && flushed > 0 && batches > 0,
        "{rows} rows, {flushed} flushes, {batches} batches"
    );
}

/// RocksDB takes the last key of a table for its own, and refuses a table that meets rows in memory:
/// whoever writes the first row of the next region must not hold an install up for ever.
#[test]
fn a_writer_at_the_end_of_the_range_does_not_hold_an_install_up() {
    let folder = Folder::new();
    let (state, files) = (folder.state(), folder.snapshots());
    let region = Region {
        id: 11,
        start_key: "d".into(),
        end_key: "p".into(),
        ..Region::default()
    };
    let put = |key: &'static str| StateOp::Put {
        cf: Cf::CfDefault,
        key: key.into(),
        value: "v".into(),
    };
    let write = |ops| state.write(&StateBatch { ops, admin: false });
    write(vec![put_region(region), put("d"), put("o")]).expect("written");
    let go_on = &mut |_| ControlFlow::Continue(());
    let built = files.build(&state.snapshot(), 11, go_on);
    let (from, manifest) = built.expect("built");
    let key = transfer(&files, &files, &from, &manifest);

    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                write(vec![put("p")]).expect("written");
            }
        });
        for _ in 0..10 {
            write(vec![put("e"), put("p")]).expect("written");
            let installed = state.install(&files, &key, &manifest);
            installed.expect("installed");
        }
        done.store(true, Ordering::Release);
    });
    assert!(
        state.install_flushes() >= 10,
        "rows lay in memory each time"
    );
    let keys = all_rows(&state, Cf::CfDefault)
        .into_iter()
        .map(|(key, _)| key);
    assert_eq!(keys.collect::<Vec<_>>(), [b"d", b"o", b"p"]);
}
