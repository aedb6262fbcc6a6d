//! A full disk: told apart from other failures, and nothing is written after it (contracts: C13).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use flotilla_engine::rocks::{self, LogOptions, RocksLog, RocksState};
use flotilla_engine::{
    BIRTH, Cf, DataDir, EngineError, FlushReason, LogBatch, RaftLog, StateBatch, StateOp,
    StateReader, StateStore, free_bytes,
};
use flotilla_proto::clock::Wall;
use flotilla_proto::raft::Entry;

use crate::common::store::{IDS, as_child, log_options, state_options};

/// Set for the child: the folder to fill.
const FOLDER: &str = "FLOTILLA_FULL_FOLDER";
const DISK_BYTES: u64 = 8 << 20;
const PIECE_BYTES: usize = 64 << 10;
/// Small ones fill while others wait for their flush; with big ones the WAL grows instead.
const WRITE_BUFFERS: [usize; 4] = [64 << 10, 64 << 10, 512 << 10, 2 << 20];
/// Pieces between two syncs of the log.
const SYNC_EVERY: u64 = 8;
/// More than the disk holds, whatever compaction makes room for.
const PIECES: u64 = 2 * DISK_BYTES / PIECE_BYTES as u64;

/// A command that runs `script` with mounts of its own, if the system lets us.
fn with_own_mounts(script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script]);
    command
}

#[test]
fn a_full_disk_ends_the_log_and_the_state_by_name() {
    let _alone = crate::alone();
    let folder = tempfile::tempdir().expect("a folder");
    let possible = with_own_mounts("mount -t tmpfs none \"$0\"")
        .arg(folder.path())
        .stderr(Stdio::null())
        .status();
    if !possible.is_ok_and(|status| status.success()) {
        println!("not shown here: this system gives no small file system to a test");
        return;
    }
    let child = as_child("full::child", FOLDER, folder.path());
    let script =
        format!("mount -t tmpfs -o size={DISK_BYTES} none \"${FOLDER}\" && exec \"$0\" \"$@\"");
    let mut command = with_own_mounts(&script);
    command
        .arg(child.get_program())
        .args(child.get_args())
        .env(FOLDER, folder.path());
    let output = command.output().expect("run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("the child is through"),
        "{output:?}"
    );
}

/// Not a test: the process that fills its disk.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let free = free_bytes(&folder).expect("asked");
    assert!(free > 0 && free <= DISK_BYTES, "{free} bytes are free");
    for write_buffer_bytes in WRITE_BUFFERS {
        fill_log(&folder, write_buffer_bytes);
    }
    fill_state(&folder);
    println!("the child is through");
}

fn created(path: &Path, log_options: &LogOptions) -> (DataDir, RocksLog, RocksState) {
    let mut dir = DataDir::create(path, IDS, Wall(1)).expect("created");
    let log = rocks::open_log(&dir, log_options).expect("created");
    let state = rocks::open_state(&dir, &state_options()).expect("created");
    dir.finish().expect("finished");
    (dir, log, state)
}

fn fill_log(folder: &Path, write_buffer_bytes: usize) {
    let path = folder.join("log");
    let options = LogOptions {
        write_buffer_bytes,
        ..log_options()
    };
    let (dir, log, state) = created(&path, &options);
    let data = Bytes::from(vec![0xab; PIECE_BYTES]);
    let mut last = BIRTH.index;
    let error = (0..PIECES)
        .find_map(|piece| {
            let mut batch = LogBatch::default();
            let entry = Entry {
                term: BIRTH.term,
                index: last + 1,
                kind: 0,
                data: data.clone(),
            };
            batch.append(7, vec![entry], last);
            last += 1;
            let sync = |number| {
                if piece % SYNC_EVERY == 0 {
                    log.sync()
                } else {
                    Ok(number)
                }
            };
            log.append(&batch).and_then(sync).err()
        })
        .expect("the disk is full");
    check_full(&error, &dir.log_path());
    let refused = log
        .append(&LogBatch::default())
        .expect_err("nothing is accepted after that");
    assert!(matches!(refused, EngineError::Poisoned { .. }), "{refused}");
    let synced = log.synced();
    drop((log, state));
    // Room again: everything synced is there.
    std::fs::remove_dir_all(dir.state_path()).expect("removed");
    let log = rocks::open_log(&dir, &options);
    match log {
        Ok(log) => assert!(
            log.appended() >= synced,
            "{} of {synced} synced batches",
            log.appended()
        ),
        Err(error) => check_full(&error, &dir.log_path()),
    }
    drop(dir);
    std::fs::remove_dir_all(path).expect("removed");
}

fn fill_state(folder: &Path) {
    let path = folder.join("state");
    let (dir, _log, state) = created(&path, &log_options());
    let error = (0..PIECES)
        .find_map(|piece| {
            let key = Bytes::from(piece.to_be_bytes().to_vec());
            let value = Bytes::from(vec![piece as u8; PIECE_BYTES]);
            let ops = vec![StateOp::Put {
                cf: Cf::CfDefault,
                key,
                value,
            }];
            let written = state.write(&StateBatch { ops, admin: false });
            written
                .and_then(|_| state.flush_all(FlushReason::Manual))
                .err()
        })
        .expect("the disk is full");
    check_full(&error, &dir.state_path());
    let refused = state
        .flush_all(FlushReason::Manual)
        .expect_err("nothing is accepted after that");
    assert!(matches!(refused, EngineError::Poisoned { .. }), "{refused}");
    let noticed = state.refresh_durable().expect_err("the background told");
    assert!(
        matches!(
            noticed,
            EngineError::Poisoned { .. } | EngineError::Disk { .. }
        ),
        "{noticed}"
    );
    let first = state
        .get(Cf::CfDefault, &0u64.to_be_bytes())
        .expect("reads go on");
    assert_eq!(first.map(|value| value.len()), Some(PIECE_BYTES));
}

fn check_full(error: &EngineError, folder: &Path) {
    assert!(
        matches!(error, EngineError::NoSpace { path, .. } if path == folder),
        "{error}"
    );
}
