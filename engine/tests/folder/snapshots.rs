//! What a crash leaves of a snapshot on its way in, step by step, and what damage does to one
//! (contracts: C6).

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flotilla_engine::rocks::{self, RocksState, SnapshotFolder};
use flotilla_engine::{
    Cf, DATA_CFS, DataDir, FlushReason, SnapshotError, SnapshotFiles, SnapshotInstall, SnapshotKey,
    StateBatch, StateOp, StateStore,
};
use flotilla_proto::metapb::Region;
use flotilla_proto::store::{ApplyRecord, PeerState, RegionRecord, SnapshotManifest};
use tempfile::TempDir;

use crate::common::store::{IDS, create, refusal, state_options};
use crate::common::transfer::{all_rows, receive};
use crate::common::{Dice, for_seeds};

const ID: u64 = 7;
const INDEX: u64 = 20;

/// A store's folder that is opened again and again: closing it is a crash, for it flushes nothing.
struct Store {
    _temporary: TempDir,
    path: PathBuf,
}

impl Store {
    /// The region's rows and a neighbour's have `value`, all of it flushed.
    fn filled(value: &str) -> Self {
        let temporary = tempfile::tempdir().expect("a folder");
        let path = temporary.path().join("store");
        create(&path, IDS);
        let store = Self {
            _temporary: temporary,
            path,
        };
        let (state, _) = store.open();
        let mut ops = records(if value == "new" { INDEX } else { 9 });
        for cf in DATA_CFS {
            ops.extend(["d", "k", "z"].map(|key| put(cf, key, value)));
        }
        write(&state, ops);
        state.flush_all(FlushReason::Manual).expect("flushed");
        store
    }

    fn open(&self) -> (RocksState, SnapshotFolder) {
        let dir = DataDir::open(&self.path).expect("a store");
        let state = rocks::open_state(&dir, &state_options()).expect("a state");
        (state, rocks::open_snapshots(&dir).expect("snapshots"))
    }

    fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }
}

fn records(index: u64) -> Vec<StateOp> {
    let region = Region {
        id: ID,
        start_key: "d".into(),
        end_key: "p".into(),
        ..Region::default()
    };
    let record = RegionRecord {
        state: PeerState::Normal.into(),
        region: Some(region),
        highest_peer_id: 70,
        ..RegionRecord::default()
    };
    let applied = ApplyRecord { index, term: 6 };
    vec![
        StateOp::PutRegion { record },
        StateOp::PutApplied {
            region: ID,
            record: applied,
        },
    ]
}

fn put(cf: Cf, key: &str, value: &str) -> StateOp {
    StateOp::Put {
        cf,
        key: key.to_owned().into(),
        value: value.to_owned().into(),
    }
}

fn write(state: &RocksState, ops: Vec<StateOp>) {
    let written = state.write(&StateBatch { ops, admin: true });
    written.expect("written");
}

/// Values of the rows d, k and z in every data column family.
fn values(state: &RocksState) -> [String; 3] {
    DATA_CFS.map(|cf| {
        let rows = all_rows(state, cf);
        let keys = rows.iter().map(|(key, _)| key.as_slice());
        assert_eq!(keys.collect::<Vec<_>>(), [b"d", b"k", b"z"]);
        let values = rows.into_iter().map(|(_, value)| String::from_utf8(value));
        let values: Result<Vec<_>, _> = values.collect();
        values.expect("text").join(" ")
    })
}

fn build(store: &Store) -> (SnapshotFolder, SnapshotKey, SnapshotManifest) {
    let (state, files) = store.open();
    let go_on = &mut |_| ControlFlow::Continue(());
    let built = files.build(&state.snapshot(), ID, go_on);
    let (key, manifest) = built.expect("built");
    (files, key, manifest)
}

/// How far a receiver came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Begun,
    HalfSent,
    Sent,
    Finished,
    Installed,
    Recorded,
    Flushed,
    Discarded,
}

const STEPS: [Step; 8] = [
    Step::Begun,
    Step::HalfSent,
    Step::Sent,
    Step::Finished,
    Step::Installed,
    Step::Recorded,
    Step::Flushed,
    Step::Discarded,
];

/// Takes the snapshot up to `last`; then the process is gone.
fn run(
    receiver: &Store,
    sender: &SnapshotFolder,
    from: &SnapshotKey,
    manifest: &SnapshotManifest,
    last: Step,
) {
    let (state, files) = receiver.open();
    let key = SnapshotKey::incoming(manifest);
    for step in STEPS.into_iter().filter(|step| *step <= last) {
        match step {
            Step::Begun => drop(files.receive(manifest, u64::MAX).expect("begun")),
            Step::HalfSent | Step::Sent => {
                let part = |chunk: &Bytes| match step {
                    Step::HalfSent => chunk[..chunk.len() / 2].to_vec(),
                    _ => chunk.to_vec(),
                };
                receive(sender, &files, from, manifest, |_, chunk| part(chunk)).expect("sent");
            }
            Step::Finished => files.finish_receive(&key).expect("whole"),
            Step::Installed => state.install(&files, &key, manifest).expect("installed"),
            Step::Recorded => write(&state, records(INDEX)),
            Step::Flushed => state.flush_all(FlushReason::Manual).expect("flushed"),
            Step::Discarded => files.discard(&key).expect("removed"),
        }
    }
}

#[test]
fn a_crash_at_any_step_leaves_what_the_start_needs() {
    let source = Store::filled("new");
    let (sender, from, manifest) = build(&source);
    let key = SnapshotKey::incoming(&manifest);
    for last in STEPS {
        let receiver = Store::filled("old");
        run(&receiver, &sender, &from, &manifest, last);
        let (state, files) = receiver.open();
        let whole = (Step::Finished..Step::Discarded).contains(&last);
        let left = if last == Step::Discarded {
            vec![]
        } else {
            vec![key]
        };
        assert_eq!(files.list().expect("read"), left, "{last:?}");
        let intact = files.intact(&key, &manifest).expect("read");
        assert_eq!(intact, whole, "{last:?}");
        let ingested = last >= Step::Installed;
        let rows = if ingested {
            "new new old"
        } else {
            "old old old"
        };
        assert_eq!(values(&state), [rows; 3], "{last:?}");
        let applied = if last >= Step::Flushed { INDEX } else { 9 };
        assert_eq!(state.durable_applied(ID), applied, "{last:?}");

        if whole {
            // What the start does with an open intent whose snapshot is not durable.
            state.install(&files, &key, &manifest).expect("installed");
            write(&state, records(INDEX));
            assert_eq!(values(&state), ["new new old"; 3], "{last:?}");
        }
        for key in files.list().expect("read") {
            files.discard(&key).expect("removed");
        }
        let names = fs::read_dir(receiver.snapshots()).expect("a folder");
        assert_eq!(names.count(), 0, "{last:?}: nothing is left over");
    }
}

/// The files of the only snapshot, sorted.
fn snapshot_files(store: &Store) -> Vec<PathBuf> {
    let folder = |path: &Path| {
        let entries = fs::read_dir(path).expect("a folder");
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("there").path()).collect();
        paths.sort();
        paths
    };
    folder(&folder(&store.snapshots())[0])
}

#[test]
fn damage_of_a_file_is_named_and_nothing_of_it_installed() {
    for_seeds(0..1, |seed| {
        let mut dice = Dice::new(seed);
        let source = Store::filled("new");
        let (sender, from, manifest) = build(&source);
        let receiver = Store::filled("old");
        run(&receiver, &sender, &from, &manifest, Step::Finished);
        let key = SnapshotKey::incoming(&manifest);
        let (state, files) = receiver.open();
        let paths = snapshot_files(&receiver);
        let names = paths.iter().map(|path| path.file_name().expect("a name"));
        assert_eq!(
            names.collect::<Vec<_>>(),
            ["default.rows", "lock.rows", "write.rows"]
        );
        for round in 0..60 {
            let path = dice.pick(&paths);
            let whole = fs::read(path).expect("a file");
            let mut damaged = whole.clone();
            let at = dice.below(whole.len() as u64) as usize;
            let says = match round % 4 {
                0 => {
                    damaged.truncate(at);
                    format!("it has {at} of {} bytes", whole.len())
                }
                1 => {
                    damaged.push(0);
                    format!("it has {} of {} bytes", whole.len() + 1, whole.len())
                }
                2 => "it is missing".into(),
                _ => {
                    damaged[at] ^= 1 << dice.below(8);
                    "its checksum is ".into()
                }
            };
            if round % 4 == 2 {
                fs::remove_file(path).expect("removed");
            } else {
                fs::write(path, &damaged).expect("written");
            }
            assert!(!files.intact(&key, &manifest).expect("read"), "{says}");
            let refused = state.install(&files, &key, &manifest);
            assert!(
                matches!(&refused, Err(SnapshotError::Damaged { file, detail, .. })
                    if *file == path.display().to_string() && detail.starts_with(&says)),
                "{path:?}: {says}: {refused:?}"
            );
            assert_eq!(values(&state), ["old old old"; 3]);
            fs::write(path, &whole).expect("written");
        }
        state.install(&files, &key, &manifest).expect("whole again");
        assert_eq!(values(&state), ["new new old"; 3]);
    });
}

#[test]
fn what_is_no_snapshot_is_refused_and_what_an_install_left_is_removed() {
    let store = Store::filled("old");
    let table = store.snapshots().join("install-7-default.sst");
    fs::write(&table, b"cut short").expect("written");
    let (_, files) = store.open();
    assert!(!table.exists(), "an install makes it anew");
    assert_eq!(files.list().expect("read"), []);

    let stray = store.snapshots().join("notes.txt");
    fs::write(&stray, b"mine").expect("written");
    let Err(SnapshotError::Engine(error)) = files.list() else {
        panic!("accepted");
    };
    let text = refusal::<()>(Err(error));
    assert!(
        text.starts_with("corrupt") && text.contains("notes.txt: it is no snapshot"),
        "{text}"
    );
}
