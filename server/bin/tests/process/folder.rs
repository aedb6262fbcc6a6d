//! Data folders that are not what they should be: refused by name, and as they were once mended.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use tempfile::TempDir;

use crate::client::{Client, End, scan};
use crate::node::{EXIT_FAILED, Node, Process, clean, flotilla, refused_start, server_args};

/// User id of nobody.
const NOBODY: u32 = 65_534;

type Rows = BTreeMap<Bytes, Bytes>;

/// A store that was stopped, or killed, with rows in it.
struct Whole {
    folder: TempDir,
    rows: Rows,
}

impl Whole {
    /// Stopped in order: what is acknowledged is in the state's files.
    fn stopped() -> Self {
        let (whole, node) = Self::running();
        node.stop();
        whole
    }

    /// Killed: what is acknowledged is in the log.
    fn killed() -> Self {
        let (whole, node) = Self::running();
        node.kill9();
        whole
    }

    fn running() -> (Self, Node) {
        let folder = tempfile::tempdir().expect("a folder");
        let node = Node::start(&folder.path().join("store"), &[]);
        let client = Client::connect(&node);
        for row in 0..100 {
            client.put(format!("row {row:02}"), vec![row; 1_000]);
        }
        let rows = client.content();
        (Self { folder, rows }, node)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Every row is there, and the node stops in order.
    #[track_caller]
    fn serves(&self) {
        let node = Node::start(&self.path(), &[]);
        assert_eq!(Client::connect(&node).content(), self.rows);
        node.stop();
    }

    /// The files of a database whose names begin or end so, the biggest first.
    fn files(&self, database: &str, kind: &str) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(self.path().join(database))
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| {
                let name = path.file_name().expect("a name").to_string_lossy();
                name.starts_with(kind) || name.ends_with(kind)
            })
            .collect();
        files.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).expect("a file").len()));
        assert!(!files.is_empty(), "no {kind} in {database}");
        files
    }
}

/// What is in a folder, with its content; not the lock, which names the last process.
pub(crate) fn snapshot(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().expect("a name") != "LOCK" {
                let content = fs::read(&path).expect("a file");
                found.insert(path, content);
            }
        }
    }
    found
}

pub(crate) fn put_back(path: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    fs::remove_dir_all(path).expect("removed");
    for (path, content) in files {
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, content).expect("written");
    }
}

#[test]
fn a_folder_that_is_not_ours_is_not_touched() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("thesis.txt"), "do not touch").expect("written");
    let before = snapshot(folder.path());
    let parts = [
        folder.path().to_str().expect("a readable path"),
        "is not empty and holds no Flotilla store",
        "thesis.txt",
    ];
    refused_start(folder.path(), &[], &parts);
    assert_eq!(snapshot(folder.path()), before);
    assert!(!folder.path().join("LOCK").exists());
    refused_start(
        &folder.path().join("thesis.txt"),
        &[],
        &["thesis.txt", "listing the folder failed"],
    );
    assert_eq!(snapshot(folder.path()), before);
}

#[test]
fn an_empty_folder_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(folder.path(), &[]);
    assert!(node.opened().created);
    node.stop();
    let node = Node::start(folder.path(), &[]);
    assert!(!node.opened().created);
}

#[test]
fn a_folder_in_use_is_refused_with_the_process_that_has_it() {
    let (whole, node) = Whole::running();
    let owner = format!("is in use by another process (process {})", node.id());
    refused_start(&whole.path(), &[], &[&owner, "stop that one first"]);
    assert_eq!(
        Client::connect(&node).content(),
        whole.rows,
        "the first one goes on"
    );
    // A process that is gone has it no longer, however it went.
    node.kill9();
    whole.serves();
}

#[test]
fn a_first_start_that_was_cut_off_is_begun_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    fs::create_dir_all(path.join("log")).expect("made");
    fs::write(path.join("UNFINISHED"), "").expect("written");
    fs::write(path.join("log/CURRENT"), "MANIFEST-00").expect("written");
    fs::write(path.join("store.toml.new"), "format = ").expect("written");
    let node = Node::start(&path, &[]);
    assert!(node.opened().created);
    Client::connect(&node).put("row", "value");
    node.kill9();
    let node = Node::start(&path, &[]);
    assert!(!node.opened().created);
    assert_eq!(Client::connect(&node).get("row"), Some("value".into()));
}

#[test]
fn a_folder_that_is_taken_away_ends_the_node_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, elsewhere) = (folder.path().join("store"), folder.path().join("elsewhere"));
    let node = Node::start(&path, &[]);
    Client::connect(&node).put("row", "value");
    fs::rename(&path, &elsewhere).expect("moved");
    let exit = node.wait();
    assert_eq!(exit.code, Some(EXIT_FAILED), "{exit:?}");
    exit.says(&[path.to_str().expect("a readable path"), "is gone"]);
    fs::rename(&elsewhere, &path).expect("put back");
    let node = Node::start(&path, &[]);
    assert!(!node.opened().created);
    assert_eq!(Client::connect(&node).get("row"), Some("value".into()));
}

/// The binary as somebody who may not write everywhere, and what must live as long as the command.
fn as_nobody(args: Vec<String>) -> (Command, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let open = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("set");
    };
    open(folder.path());
    if !rustix::process::geteuid().is_root() {
        return (flotilla(args), folder);
    }
    // The build folder may lie where nobody may look.
    let (built, copy) = (
        Path::new(env!("CARGO_BIN_EXE_flotilla")),
        folder.path().join("flotilla"),
    );
    const FOR_EVERYBODY: u32 = 0o005;
    let mode = fs::metadata(built).expect("built").permissions().mode();
    if mode & FOR_EVERYBODY != FOR_EVERYBODY || fs::hard_link(built, &copy).is_err() {
        fs::copy(built, &copy).expect("copied");
        open(&copy);
    }
    let mut command = clean(Command::new(copy), args);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    (command, folder)
}

#[test]
fn a_read_only_folder_is_refused() {
    let whole = Whole::stopped();
    let outside = whole.folder.path().to_owned();
    let empty = outside.join("empty");
    fs::create_dir(&empty).expect("made");
    // Whoever owns it may still write to it.
    remove(&whole.path().join("LOCK"));
    let before = snapshot(&outside);
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    };
    for path in [&outside, &whole.path(), &empty] {
        mode(path, 0o555);
    }
    for (path, named) in [
        (whole.path(), "store/LOCK"),
        (empty.clone(), "empty/LOCK"),
        (outside.join("new"), "new"),
    ] {
        let (command, _binary) = as_nobody(server_args(&path, &[]));
        let exit = Process::spawn(command).wait();
        let named = format!("{}/{named} cannot be written to", outside.display());
        exit.refused(
            EXIT_FAILED,
            &[&named, "check its owner, permissions and mount"],
        );
    }
    assert_eq!(snapshot(&outside), before);
    for path in [&outside, &whole.path(), &empty] {
        mode(path, 0o755);
    }
    whole.serves();
}

#[test]
fn parts_of_another_cluster_are_refused() {
    let (whole, other) = (Whole::stopped(), Whole::stopped());
    for part in ["log", "state"] {
        let (ours, theirs) = (whole.path().join(part), other.path().join(part));
        let aside = whole.folder.path().join("aside");
        fs::rename(&ours, &aside).expect("moved");
        fs::rename(&theirs, &ours).expect("moved");
        let named = ours.to_str().expect("a readable path");
        refused_start(
            &whole.path(),
            &[],
            &[
                named,
                "belongs to store 1 of cluster",
                "put the folder back",
            ],
        );
        fs::rename(&ours, &theirs).expect("moved");
        fs::rename(&aside, &ours).expect("moved");
    }
    whole.serves();
    other.serves();
}

#[test]
fn a_newer_format_is_refused() {
    let whole = Whole::stopped();
    let manifest = whole.path().join("store.toml");
    let text = fs::read_to_string(&manifest).expect("a file");
    let newer = text.replace("format = 1\n", "format = 2\nnew_things = [1]\n");
    assert_ne!(newer, text);
    fs::write(&manifest, newer).expect("written");
    let named = manifest.to_str().expect("a readable path");
    refused_start(
        &whole.path(),
        &[],
        &[
            named,
            "was written by a newer version (format 2, this build knows up to 1)",
        ],
    );
    fs::write(&manifest, text).expect("written");
    whole.serves();
}

/// Damages one file of a store: the start is refused, names the file (or `named`), and changes
/// nothing that matters: with the file as it was, every row is there.
#[track_caller]
fn check(whole: &Whole, file: &Path, named: &str, damage: impl FnOnce(&Path)) {
    let before = snapshot(&whole.path());
    damage(file);
    println!("{}", file.display());
    refused_start(&whole.path(), &[], &[named]);
    refused_start(&whole.path(), &[], &[named]);
    let content = &before[file];
    fs::write(file, content).expect("written");
    whole.serves();
    put_back(&whole.path(), &before);
}

fn name(file: &Path) -> String {
    file.file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned()
}

fn remove(file: &Path) {
    fs::remove_file(file).expect("removed");
}

fn halve(file: &Path) {
    let half = fs::metadata(file).expect("a file").len() / 2;
    let opened = fs::OpenOptions::new().write(true).open(file);
    opened.expect("a file").set_len(half).expect("cut");
}

fn empty(file: &Path) {
    fs::write(file, "").expect("written");
}

/// Flips a bit in the first third: what follows it was synced, too.
fn flip(file: &Path) {
    let mut content = fs::read(file).expect("a file");
    let used = content
        .iter()
        .rposition(|byte| *byte != 0)
        .expect("content");
    content[used / 3] ^= 0x40;
    fs::write(file, content).expect("written");
}

#[test]
fn a_damaged_log_is_refused_again_and_again() {
    let whole = Whole::killed();
    let before = snapshot(&whole.path());
    let wal = whole.files("log", ".log").swap_remove(0);
    for damage in [flip, halve, remove] {
        damage(&wal);
        for _ in 0..2 {
            refused_start(
                &whole.path(),
                &[],
                &[
                    "corrupt data in",
                    "batches had been synced: a WAL file is damaged, cut short or missing",
                    "restore this store from its replicas or a backup",
                ],
            );
        }
        // From a backup: opening a log drops what lies behind damage in it.
        put_back(&whole.path(), &before);
        whole.serves();
        put_back(&whole.path(), &before);
    }
}

#[test]
fn damaged_files_of_the_databases_are_refused_by_name() {
    let whole = Whole::stopped();
    let cases = [
        ("log", "SYNCED"),
        ("log", "CURRENT"),
        ("log", "MANIFEST"),
        ("state", "CURRENT"),
        ("state", "MANIFEST"),
        ("state", ".sst"),
    ];
    for (database, kind) in cases {
        let file = whole.files(database, kind).swap_remove(0);
        check(&whole, &file, &name(&file), remove);
    }
    let file = whole.files("state", ".sst").swap_remove(0);
    check(&whole, &file, &name(&file), halve);
    // It is written in two places, one of which is enough.
    let file = whole.files("log", "SYNCED").swap_remove(0);
    check(&whole, &file, &name(&file), empty);
}

#[test]
fn a_flipped_byte_in_a_row_is_never_served() {
    let whole = Whole::stopped();
    let table = whole.files("state", ".sst").swap_remove(0);
    let before = fs::read(&table).expect("a file");
    flip(&table);
    let command = flotilla(server_args(&whole.path(), &[]));
    let exit = match Node::try_of(command, &whole.path()) {
        Err(exit) => exit,
        Ok(node) => {
            let client = Client::connect(&node);
            let end = client.send(scan("", "", 1_000), client.route(b"").context());
            assert!(!matches!(end, End::Done), "rows were served");
            node.wait()
        }
    };
    exit.says(&["corrupt data in", &name(&table)]);
    assert_eq!(exit.code, Some(EXIT_FAILED), "{exit:?}");
    fs::write(&table, before).expect("written");
    whole.serves();
}

#[test]
fn a_missing_part_of_the_folder_is_refused_by_name() {
    let whole = Whole::stopped();
    for part in ["log", "state"] {
        let (part, aside) = (whole.path().join(part), whole.folder.path().join("aside"));
        fs::rename(&part, &aside).expect("moved");
        let said = format!("{} is missing", part.display());
        refused_start(&whole.path(), &[], &[&said]);
        assert!(!part.exists(), "made again by a refused start");
        fs::rename(&aside, &part).expect("moved");
    }
    let manifest = whole.path().join("store.toml");
    check(&whole, &manifest, "holds no Flotilla store", remove);
    check(&whole, &manifest, "store.toml is damaged", halve);
    whole.serves();
}
