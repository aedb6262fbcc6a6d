//! Damaged, foreign and newer databases: refused by name, never served (contracts: C1, C7, C10).

#![expect(
    clippy::disallowed_methods,
    reason = "it writes what the engine never would"
)]

use std::fs;
use std::path::{Path, PathBuf};

use flotilla_engine::rocks::{self, BlockCache, LogOptions};
use flotilla_engine::{DataDir, EngineError, FlushReason, RaftLog, Result, StateStore, StoreIds};
use flotilla_proto::clock::Wall;
use tempfile::TempDir;

use crate::common::log_script::LogScript;
use crate::common::state_script::StateScript;
use crate::common::store::{
    IDS, LogContent, StateContent, copy, create, log_content, log_options, refusal, state_content,
    state_options,
};
use crate::common::{Dice, for_seeds};

const LOG_BATCHES: u64 = 150;
const STATE_BATCHES: u64 = 150;

/// A store with content, closed.
struct Whole {
    folder: TempDir,
    log: LogContent,
    state: StateContent,
}

impl Whole {
    /// A store with files of every kind.
    fn new(seed: u64) -> Self {
        Self::with_log(seed, &log_options())
    }

    fn with_log(seed: u64, log_options: &LogOptions) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store");
        create(&path, IDS);
        let dir = DataDir::open(&path).expect("a store");
        let log = rocks::open_log(&dir, log_options).expect("a log");
        let state = rocks::open_state(&dir, &state_options()).expect("a state");
        let (mut log_script, mut state_script) = (LogScript::new(seed), StateScript::new(seed));
        for _ in 0..LOG_BATCHES {
            log.append(&log_script.batch()).expect("appended");
        }
        log.sync().expect("synced");
        for batch in 0..STATE_BATCHES {
            state.write(&state_script.batch()).expect("written");
            if batch % 40 == 39 {
                state.flush_all(FlushReason::Manual).expect("flushed");
            }
        }
        state.flush_all(FlushReason::Shutdown).expect("flushed");
        let content = (
            log_content(&log).expect("whole"),
            state_content(&state).expect("whole"),
        );
        drop((dir, log, state));
        Self {
            folder,
            log: content.0,
            state: content.1,
        }
    }

    /// A copy to damage.
    fn copy(&self) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store");
        copy(&self.folder.path().join("store"), &path);
        (folder, path)
    }
}

fn read_log(store: &Path) -> Result<LogContent> {
    let dir = DataDir::open(store).expect("a store");
    log_content(&rocks::open_log(&dir, &log_options())?)
}

fn read_state(store: &Path) -> Result<StateContent> {
    let dir = DataDir::open(store).expect("a store");
    state_content(&rocks::open_state(&dir, &state_options())?)
}

/// The files of one database, sorted; `kind` is how their names begin or end.
fn files(store: &Path, database: &str, kind: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(store.join(database))
        .expect("a folder")
        .map(|file| file.expect("a file").path())
        .filter(|path| {
            let name = path.file_name().expect("a name").to_string_lossy();
            name.starts_with(kind) || name.ends_with(kind)
        })
        .collect();
    files.sort();
    files
}

/// The biggest file of a kind: it certainly holds something.
fn biggest(store: &Path, database: &str, kind: &str) -> PathBuf {
    let size = |path: &PathBuf| fs::metadata(path).expect("a file").len();
    files(store, database, kind)
        .into_iter()
        .max_by_key(size)
        .expect("a file of this kind")
}

#[test]
fn a_flipped_byte_is_refused_or_harmless_but_never_served() {
    for_seeds(0..1, |seed| {
        let (whole, mut dice) = (Whole::new(seed), Dice::new(!seed));
        let mut refused = 0;
        for _ in 0..120 {
            let (_folder, store) = whole.copy();
            let database = *dice.pick(&["log", "state"]);
            // RocksDB's own text log and its note of the options are not read.
            let kinds = ["MANIFEST", "CURRENT", ".sst", ".log", "SYNCED", "IDENTITY"];
            let candidates: Vec<_> = kinds
                .iter()
                .flat_map(|kind| files(&store, database, kind))
                .collect();
            let file = dice.pick(&candidates).clone();
            let mut bytes = fs::read(&file).expect("a file");
            if bytes.is_empty() {
                continue;
            }
            let at = dice.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << dice.below(8);
            fs::write(&file, bytes).expect("written");
            let place = format!("{} at {at}", file.display());
            let same = match database {
                "log" => read_log(&store).map(|content| content == whole.log),
                _ => read_state(&store).map(|content| content == whole.state),
            };
            match same {
                Ok(same) => assert!(same, "{place}: other data were served"),
                Err(EngineError::Corrupt { .. }) => refused += 1,
                Err(other) => panic!("{place}: not told as damage: {other}"),
            }
        }
        assert!(refused > 20, "only {refused} flips were noticed at all");
    });
}

/// Damages a copy of a store and tells what reading its log and its state says.
#[track_caller]
fn check(damage: impl FnOnce(&Path), log_says: &[&str], state_says: &[&str]) {
    check_copy_of(&Whole::new(1), damage, log_says, state_says);
}

#[track_caller]
fn check_copy_of(
    whole: &Whole,
    damage: impl FnOnce(&Path),
    log_says: &[&str],
    state_says: &[&str],
) {
    let (_folder, store) = whole.copy();
    damage(&store);
    for (said, expected) in [
        (refusal(read_log(&store)), log_says),
        (refusal(read_state(&store)), state_says),
    ] {
        for part in expected {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
    }
}

const FINE: &[&str] = &["accepted"];

#[test]
fn an_undamaged_store_is_accepted() {
    check(|_| {}, FINE, FINE);
}

fn halve(file: &Path) {
    let half = fs::metadata(file).expect("a file").len() / 2;
    let opened = fs::OpenOptions::new()
        .write(true)
        .open(file)
        .expect("a file");
    opened.set_len(half).expect("cut");
}

#[test]
fn a_damaged_wal_is_noticed_by_the_watermark() {
    // The memtable is never full, so that the WAL holds all batches.
    let whole = Whole::with_log(1, &LogOptions::new(BlockCache::new(1 << 20)));
    let flip = |wal: &Path| {
        let mut bytes = fs::read(wal).expect("a file");
        let at = bytes.len() / 3;
        bytes[at] ^= 0x40;
        fs::write(wal, bytes).expect("written");
    };
    let remove = |wal: &Path| fs::remove_file(wal).expect("removed");
    let says = &[
        "corrupt",
        "recovered up to batch",
        "150 batches had been synced",
    ];
    for damage in [&flip as &dyn Fn(&Path), &remove, &halve] {
        check_copy_of(
            &whole,
            |store| damage(&biggest(store, "log", ".log")),
            says,
            FINE,
        );
    }
}

/// In a young log the WAL holds everything, also whose it is.
#[test]
fn a_log_that_lost_everything_is_told_as_such() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    let mut dir = DataDir::create(&path, IDS, Wall(1)).expect("created");
    let log = rocks::open_log(&dir, &log_options()).expect("created");
    let state = rocks::open_state(&dir, &state_options()).expect("created");
    dir.finish().expect("finished");
    log.append(&LogScript::new(1).batch()).expect("appended");
    log.sync().expect("synced");
    drop((dir, log, state));
    fs::remove_file(biggest(&path, "log", ".log")).expect("removed");
    let said = refusal(read_log(&path));
    for part in [
        "corrupt",
        "recovered up to batch 0, but 1 batches",
        "missing",
    ] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

#[test]
fn a_missing_watermark_is_named() {
    let remove = |store: &Path| fs::remove_file(store.join("log/SYNCED")).expect("removed");
    check(remove, &["corrupt", "SYNCED", "missing"], FINE);
}

#[test]
fn a_missing_or_shortened_table_file_is_named() {
    for database in ["log", "state"] {
        for cut in [false, true] {
            let whole = Whole::new(1);
            let (_folder, store) = whole.copy();
            let file = biggest(&store, database, ".sst");
            let name = file
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            if cut {
                halve(&file);
            } else {
                fs::remove_file(file).expect("removed");
            }
            let said = match database {
                "log" => refusal(read_log(&store)),
                _ => refusal(read_state(&store)),
            };
            assert!(
                said.contains("corrupt") && said.contains(&name),
                "{name} is not in: {said}"
            );
        }
    }
}

#[test]
fn a_missing_manifest_or_pointer_to_it_is_named() {
    for kind in ["MANIFEST", "CURRENT"] {
        let says = &["corrupt", kind];
        check(
            |store| fs::remove_file(biggest(store, "log", kind)).expect("removed"),
            says,
            FINE,
        );
        check(
            |store| fs::remove_file(biggest(store, "state", kind)).expect("removed"),
            FINE,
            says,
        );
    }
}

#[test]
fn an_emptied_database_folder_is_refused() {
    for (database, log_says, state_says) in [
        ("log", &["corrupt", "SYNCED", "missing"][..], FINE),
        ("state", FINE, &["corrupt", "state"][..]),
    ] {
        let empty = |store: &Path| {
            fs::remove_dir_all(store.join(database)).expect("removed");
            fs::create_dir(store.join(database)).expect("made");
        };
        check(empty, log_says, state_says);
    }
}

/// Opens a database as RocksDB alone sees it, to write what the engine never would.
fn raw(store: &Path, database: &str, change: impl FnOnce(&rocksdb::DB)) {
    let path = store.join(database);
    let mut options = rocksdb::Options::default();
    options.set_wal_recovery_mode(rocksdb::DBRecoveryMode::PointInTime);
    let names = rocksdb::DB::list_cf(&options, &path).expect("column families");
    let db = rocksdb::DB::open_cf(&options, &path, names).expect("opened");
    change(&db);
}

#[test]
fn a_logged_write_to_the_state_is_refused() {
    let write = |store: &Path| {
        raw(store, "state", |db| {
            db.put("dkey", "value").expect("written")
        })
    };
    check(
        write,
        FINE,
        &["corrupt", ".log", "a WAL that nothing is ever written to"],
    );
}

/// The key of a log record, and of an entry.
fn log_key(region: u64, kind: u8, index: Option<u64>) -> Vec<u8> {
    let mut key = region.to_be_bytes().to_vec();
    key.push(kind);
    key.extend(index.into_iter().flat_map(u64::to_be_bytes));
    key
}

#[test]
fn records_that_do_not_decode_are_named() {
    let broken = [0xff_u8; 3];
    let cases: [(Vec<u8>, &[u8], &str); 8] = [
        (log_key(900, 1, None), &broken, "region 900 hard state"),
        (
            log_key(900, 2, None),
            &broken,
            "region 900 truncation point",
        ),
        (log_key(900, 3, Some(6)), &broken, "region 900 index 6"),
        (
            log_key(900, 3, Some(6)),
            &[0, 0, 0, 0, 0, 0, 0, 5, 77],
            "region 900 index 6",
        ),
        (log_key(900, 4, None), &broken, "region 900 snapshot intent"),
        // It decodes, and names no snapshot.
        (log_key(900, 4, None), b"", "region 900 snapshot intent"),
        (log_key(900, 5, None), b"", "an unknown key"),
        (log_key(0, 2, None), b"short", "batch number"),
    ];
    for (key, value, named) in cases {
        check(
            |store| raw(store, "log", |db| db.put(&key, value).expect("written")),
            &["corrupt", named],
            FINE,
        );
    }
}

#[test]
fn a_gap_in_the_log_is_named() {
    let header = [0, 0, 0, 0, 0, 0, 0, 5, 0];
    let gap = |db: &rocksdb::DB| {
        for index in [6, 7, 9] {
            db.put(log_key(900, 3, Some(index)), header)
                .expect("written");
        }
    };
    check(
        |store| raw(store, "log", gap),
        &["corrupt", "region 900 index 9", "a gap", "7"],
        FINE,
    );
}

#[test]
fn records_of_the_state_that_do_not_decode_are_named() {
    let meta_key = |kind: u8, region: u64| [&[kind][..], &region.to_be_bytes()].concat();
    let cases: [(Vec<u8>, &[u8], &str); 4] = [
        (meta_key(1, 900), b"\xff\xff", "region 900 record"),
        (meta_key(1, 900), b"", "region 900 record"),
        (meta_key(2, 900), b"\xff\xff", "region 900 apply record"),
        (vec![0, 2], b"short", "batch number"),
    ];
    for (key, value, named) in cases {
        let write = |db: &rocksdb::DB| {
            let mut unlogged = rocksdb::WriteOptions::default();
            unlogged.disable_wal(true);
            let meta = db.cf_handle("meta").expect("a column family");
            db.put_cf_opt(meta, &key, value, &unlogged)
                .expect("written");
            db.flush_cf(meta).expect("flushed");
        };
        check(
            |store| raw(store, "state", write),
            FINE,
            &["corrupt", named],
        );
    }
}

fn identity(format: u32, cluster: u64, store: u64) -> Vec<u8> {
    [
        &format.to_be_bytes()[..],
        &cluster.to_be_bytes(),
        &store.to_be_bytes(),
    ]
    .concat()
}

#[test]
fn a_newer_format_is_refused() {
    let says = &["newer", "format 2", "up to 1"];
    // A newer record may be longer.
    let record = [identity(2, 7, 3), vec![1, 2, 3]].concat();
    check(
        |store| {
            raw(store, "log", |db| {
                db.put(log_key(0, 1, None), &record).expect("written")
            })
        },
        says,
        FINE,
    );
    let write = |db: &rocksdb::DB| {
        let meta = db.cf_handle("meta").expect("a column family");
        db.put_cf(meta, [0, 1], &record).expect("written");
        for cf in ["default", "lock", "write", "meta"] {
            db.flush_cf(db.cf_handle(cf).expect("a column family"))
                .expect("flushed");
        }
    };
    check(|store| raw(store, "state", write), FINE, says);
}

#[test]
fn databases_of_another_store_are_refused() {
    let other = tempfile::tempdir().expect("a folder");
    let other = other.path().join("store");
    create(
        &other,
        StoreIds {
            cluster_id: 7,
            store_id: 4,
        },
    );
    let swap = |database: &'static str| {
        let other = other.clone();
        move |store: &Path| {
            fs::remove_dir_all(store.join(database)).expect("removed");
            copy(&other.join(database), &store.join(database));
        }
    };
    let says = &[
        "foreign",
        "belongs to store 4 of cluster 7, not to store 3 of cluster 7",
    ];
    check(swap("log"), says, FINE);
    check(swap("state"), FINE, says);
}

#[test]
fn a_state_of_more_column_families_is_refused() {
    let add = |store: &Path| {
        let mut options = rocksdb::Options::default();
        options.create_missing_column_families(true);
        let names = ["default", "lock", "write", "meta", "more"];
        drop(rocksdb::DB::open_cf(&options, store.join("state"), names).expect("opened"));
    };
    check(add, FINE, &["corrupt", "more"]);
}
