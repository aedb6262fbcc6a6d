//! Every reason to refuse a data folder, and that refusing changes nothing in it.

use std::fs;
use std::path::{Path, PathBuf};

use flotilla_engine::{DataDir, DataDirError, StoreIds};
use flotilla_proto::clock::Wall;
use tempfile::TempDir;

use crate::common::store::IDS;

/// A path at which `make` built something.
fn folder(make: impl FnOnce(&Path)) -> (TempDir, PathBuf) {
    let temporary = tempfile::tempdir().expect("a folder");
    let path = temporary.path().join("store");
    make(&path);
    (temporary, path)
}

/// A finished store without databases.
fn store(path: &Path) {
    DataDir::create(path, IDS, Wall(1_700_000_000_123))
        .expect("created")
        .finish()
        .expect("finished");
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// Builds a folder, and tells what opening and creating a store in it say. What is refused is not
/// changed.
#[track_caller]
fn check(make: impl Fn(&Path), open_says: &str, create_says: &str) {
    let said = |result: Result<DataDir, DataDirError>| match result {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    };
    for (create, expected) in [(false, open_says), (true, create_says)] {
        let (_temporary, path) = folder(&make);
        let before = names(&path);
        let said = if create {
            said(DataDir::create(&path, IDS, Wall(1)))
        } else {
            said(DataDir::open(&path))
        };
        assert!(said.contains(expected), "{expected:?} is not in: {said}");
        if said != "accepted" {
            let mut after = names(&path);
            after.retain(|name| name != "LOCK" || before.contains(name));
            assert_eq!(before, after, "changed by a refusal: {said}");
        }
    }
}

#[test]
fn a_missing_or_empty_folder_is_where_a_store_is_created() {
    check(|_| {}, "holds no store", "accepted");
    check(
        |path| fs::create_dir(path).expect("made"),
        "holds no store",
        "accepted",
    );
}

#[test]
fn a_folder_that_is_not_ours_is_refused() {
    let foreign = |path: &Path| {
        fs::create_dir(path).expect("made");
        fs::write(path.join("thesis.txt"), "do not touch").expect("written");
    };
    let says = "is not empty and holds no Flotilla store (it holds \"thesis.txt\")";
    check(foreign, says, says);
    let (_temporary, path) = folder(foreign);
    assert_eq!(
        names(&path),
        ["thesis.txt"],
        "not even a lock file is left in it"
    );
    assert!(DataDir::holds_store(&path).is_err());
    check(
        |path| fs::write(path, "a file").expect("written"),
        "listing the folder failed",
        "listing the folder failed",
    );
}

#[test]
fn a_store_is_opened_and_never_created_again() {
    check(store, "accepted", "already holds a store");
    let (_temporary, path) = folder(store);
    assert!(DataDir::holds_store(&path).expect("looked"));
    let dir = DataDir::open(&path).expect("opened");
    assert_eq!(
        (dir.ids(), dir.created(), dir.is_unfinished()),
        (IDS, Wall(1_700_000_000_123), false)
    );
    assert_eq!(
        names(&path),
        ["LOCK", "log", "snapshots", "state", "store.toml"]
    );
}

#[test]
fn ids_of_any_size_are_kept() {
    for id in [1, u64::MAX] {
        let ids = StoreIds {
            cluster_id: id,
            store_id: id,
        };
        let (_temporary, path) = folder(|path| {
            DataDir::create(path, ids, Wall(u64::from(u32::MAX)))
                .expect("created")
                .finish()
                .expect("finished");
        });
        assert_eq!(DataDir::open(&path).expect("opened").ids(), ids);
    }
}

#[test]
fn an_unfinished_first_start_is_begun_again() {
    let unfinished = |path: &Path| {
        let dir = DataDir::create(
            path,
            StoreIds {
                cluster_id: 1,
                store_id: 1,
            },
            Wall(1),
        )
        .expect("created");
        fs::write(dir.log_path().join("rest"), "of the first try").expect("written");
        fs::write(path.join("store.toml.new"), "half a manif").expect("written");
    };
    check(unfinished, "holds no store", "accepted");
    let (_temporary, path) = folder(unfinished);
    assert!(!DataDir::holds_store(&path).expect("looked"));
    let mut dir = DataDir::create(&path, IDS, Wall(1)).expect("created");
    assert!(
        dir.is_unfinished() && names(&dir.log_path()).is_empty(),
        "the rest is gone"
    );
    dir.finish().expect("finished");
    dir.finish().expect("finishing twice does nothing");
    drop(dir);
    assert_eq!(DataDir::open(&path).expect("opened").ids(), IDS);
}

#[test]
fn a_store_that_was_finished_but_for_its_marker_is_whole() {
    let marked = |path: &Path| {
        store(path);
        fs::write(path.join("UNFINISHED"), "").expect("written");
    };
    check(marked, "accepted", "already holds a store");
    let (_temporary, path) = folder(marked);
    drop(DataDir::open(&path).expect("opened"));
    assert_eq!(
        names(&path),
        ["LOCK", "log", "snapshots", "state", "store.toml"]
    );
}

#[test]
fn a_folder_in_use_is_refused_with_its_owner() {
    let (_temporary, path) = folder(store);
    let dir = DataDir::open(&path).expect("opened");
    let error = DataDir::open(&path).expect_err("in use");
    let owner = std::process::id();
    assert!(
        matches!(error, DataDirError::Locked { process: Some(process), .. } if process == owner),
        "{error}"
    );
    drop(dir);
    DataDir::open(&path).expect("free again");

    let (_temporary, path) = folder(|_| {});
    let _first = DataDir::create(&path, IDS, Wall(1)).expect("created");
    let error = DataDir::create(&path, IDS, Wall(1)).expect_err("being created");
    assert!(matches!(error, DataDirError::Locked { .. }), "{error}");
}

#[test]
fn a_newer_or_damaged_manifest_is_refused() {
    let manifest = |text: &'static str| {
        move |path: &Path| {
            store(path);
            fs::write(path.join("store.toml"), text).expect("written");
        }
    };
    let whole = "format = 1\ncluster_id = \"7\"\nstore_id = \"3\"\ncreated_ms = 1\n";
    check(manifest(whole), "accepted", "already holds a store");
    let cases = [
        (
            "format = 2\nnew_things = [1, 2]\n",
            "written by a newer version (format 2, this build knows up to 1)",
        ),
        ("", "is damaged"),
        ("format = 1\n", "cluster_id"),
        ("form\u{fffd}t = 1\n", "is damaged"),
        (
            "format = 1\ncluster_id = \"7\"\nstore_id = \"3\"\ncreated_ms = 1\nmore = 1\n",
            "more",
        ),
        (
            "format = 1\ncluster_id = \"0\"\nstore_id = \"3\"\ncreated_ms = 1\n",
            "cluster_id = \"0\" is no id",
        ),
        (
            "format = 1\ncluster_id = \"7\"\nstore_id = \"x\"\ncreated_ms = 1\n",
            "store_id = \"x\" is no id",
        ),
    ];
    for (text, says) in cases {
        check(manifest(text), says, "already holds a store");
    }
    let binary = |path: &Path| {
        store(path);
        fs::write(path.join("store.toml"), [0xff, 0xfe]).expect("written");
    };
    check(binary, "it is no text", "already holds a store");
}

#[test]
fn a_missing_part_is_named() {
    for part in ["log", "state"] {
        let without = |path: &Path| {
            store(path);
            fs::remove_dir(path.join(part)).expect("removed");
        };
        check(
            without,
            &format!("/{part} is missing"),
            "already holds a store",
        );
    }
    let (_temporary, path) = folder(|path| {
        store(path);
        fs::remove_dir(path.join("snapshots")).expect("removed");
    });
    let dir = DataDir::open(&path).expect("nothing is lost with it");
    assert!(dir.snapshots_path().is_dir());
}
