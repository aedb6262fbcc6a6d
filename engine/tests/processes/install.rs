//! SIGKILL in the middle of an install: every column family has the old rows or the new ones, the
//! snapshot's files are as they were, and the next start installs again (contracts: C6, C32).

use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use flotilla_engine::rocks::{self, RocksState, SnapshotFolder};
use flotilla_engine::{
    DATA_CFS, DataDir, SnapshotFiles, SnapshotInstall, SnapshotKey, StateBatch, StateOp, StateStore,
};
use flotilla_proto::metapb::Region;
use flotilla_proto::store::{ApplyRecord, PeerState, RegionRecord, SnapshotManifest};
use prost::Message;

use crate::common::store::{IDS, as_child, create, state_options};
use crate::common::transfer::{all_rows, transfer};
use crate::common::{Dice, for_seeds};

/// Where the child finds its store; the child plays its part only if this is set.
const STORE: &str = "FLOTILLA_INSTALL_STORE";
const ID: u64 = 7;
/// Rows of the region in each column family.
const ROWS: u64 = 300;
/// How often the parent looks at most where the child is; it takes minutes.
const LOOKS: u64 = 100_000_000;
/// The two snapshots that are installed in turn: index, and the value of every row.
const VALUES: [(u64, &str); 2] = [(20, "one"), (30, "two")];

#[test]
fn a_process_killed_in_an_install_leaves_whole_column_families() {
    let _alone = crate::alone();
    for_seeds(0..1, |seed| {
        let mut dice = Dice::new(seed);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store");
        create(&path, IDS);
        let manifests = {
            let (_, state, files) = open(&path);
            VALUES.map(|(index, value)| received(&state, &files, index, value))
        };
        for manifest in &manifests {
            let written = fs::write(
                manifest_path(&path, manifest.index),
                manifest.encode_to_vec(),
            );
            written.expect("written");
        }
        let mut mixed = 0;
        for _ in 0..12 {
            run_and_kill(&path, dice.within(1, 4) as usize, dice.below(3) as usize);
            let (_, state, files) = open(&path);
            let found = values(&state);
            mixed += u64::from(found.windows(2).any(|two| two[0] != two[1]));
            for manifest in &manifests {
                let key = SnapshotKey::incoming(manifest);
                assert!(files.intact(&key, manifest).expect("read"));
            }
            let again = &manifests[dice.below(2) as usize];
            install(&state, &files, again);
            let value = VALUES.iter().find(|(index, _)| *index == again.index);
            assert_eq!(values(&state), [value.expect("one of both").1; 3]);
        }
        assert!(mixed > 0, "no kill came between two column families");
    });
}

fn open(path: &Path) -> (DataDir, RocksState, SnapshotFolder) {
    let dir = DataDir::open(path).expect("a store");
    let state = rocks::open_state(&dir, &state_options()).expect("a state");
    let files = rocks::open_snapshots(&dir).expect("snapshots");
    (dir, state, files)
}

/// Where the child finds what stands in an intent otherwise.
fn manifest_path(store: &Path, index: u64) -> PathBuf {
    store.with_file_name(format!("{index}.manifest"))
}

fn region() -> Region {
    Region {
        id: ID,
        start_key: "d".into(),
        end_key: "p".into(),
        ..Region::default()
    }
}

/// Makes the store have received a snapshot in which every row has `value`.
fn received(
    state: &RocksState,
    files: &SnapshotFolder,
    index: u64,
    value: &'static str,
) -> SnapshotManifest {
    let record = RegionRecord {
        state: PeerState::Normal.into(),
        region: Some(region()),
        highest_peer_id: 70,
        ..RegionRecord::default()
    };
    let mut ops = vec![StateOp::PutRegion { record }, applied(index)];
    for cf in DATA_CFS {
        ops.extend((0..ROWS).map(|row| StateOp::Put {
            cf,
            key: format!("k{row:04}").into(),
            value: value.into(),
        }));
    }
    state
        .write(&StateBatch { ops, admin: true })
        .expect("written");
    let go_on = &mut |_| ControlFlow::Continue(());
    let built = files.build(&state.snapshot(), ID, go_on);
    let (from, manifest) = built.expect("built");
    transfer(files, files, &from, &manifest);
    manifest
}

fn applied(index: u64) -> StateOp {
    let record = ApplyRecord { index, term: 6 };
    StateOp::PutApplied { region: ID, record }
}

fn install(state: &RocksState, files: &SnapshotFolder, manifest: &SnapshotManifest) {
    let key = SnapshotKey::incoming(manifest);
    state.install(files, &key, manifest).expect("installed");
}

/// The value that the rows of each column family have: all the same one.
fn values(state: &RocksState) -> [String; 3] {
    DATA_CFS.map(|cf| {
        let rows = all_rows(state, cf);
        assert_eq!(rows.len() as u64, ROWS, "{cf:?}");
        let values: Vec<_> = rows.into_iter().map(|(_, value)| value).collect();
        assert!(values.windows(2).all(|two| two[0] == two[1]), "{cf:?}");
        String::from_utf8(values[0].clone()).expect("text")
    })
}

/// Lets a child install until it has said `lines` lines, and kills it in a later install: when
/// `ingested` of its tables are taken and the next one is not.
fn run_and_kill(store: &Path, lines: usize, ingested: usize) {
    let mut command = as_child("install::child", STORE, store);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("started");
    let said = BufReader::new(child.stdout.take().expect("piped")).lines();
    // Kept to the end: the child goes on talking.
    let mut said = said.map(|line| line.expect("text"));
    let installed = said.by_ref().filter(|line| line == "installed");
    let count = installed.take(lines).count();
    assert_eq!(count, lines, "the child ended by itself");
    let tables = ["default", "lock", "write"];
    let there = |cf| {
        store
            .join(format!("snapshots/install-{ID}-{cf}.sst"))
            .exists()
    };
    // Tables are made together and taken one by one.
    let now = || tables.map(there) == [0, 1, 2].map(|table| table >= ingested);
    let seen = (0..LOOKS).any(|_| now());
    child.kill().expect("killed");
    child.wait().expect("gone");
    assert!(seen, "an install passes every such moment");
}

/// Not a test: the process that is killed.
#[test]
fn child() {
    let Some(path) = std::env::var_os(STORE) else {
        return;
    };
    let path = PathBuf::from(path);
    let manifests = VALUES.map(|(index, _)| {
        let bytes = fs::read(manifest_path(&path, index)).expect("a file");
        SnapshotManifest::decode(&bytes[..]).expect("a manifest")
    });
    let (_dir, state, files) = open(&path);
    for manifest in manifests.iter().cycle() {
        install(&state, &files, manifest);
        println!("\ninstalled");
    }
}
