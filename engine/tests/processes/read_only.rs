//! A folder that this process may not write to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use flotilla_engine::{DataDir, DataDirError};
use flotilla_proto::clock::Wall;

use crate::common::store::{IDS, as_child};

/// Set for the child: the folder it may not write to.
const READ_ONLY: &str = "FLOTILLA_READ_ONLY_FOLDER";
/// User id of nobody.
const NOBODY: u32 = 65_534;

#[test]
fn a_read_only_folder_is_refused() {
    let _alone = crate::alone();
    let temporary = tempfile::tempdir().expect("a folder");
    let whole = temporary.path().join("store");
    DataDir::create(&whole, IDS, Wall(1))
        .expect("created")
        .finish()
        .expect("finished");
    fs::remove_file(whole.join("LOCK")).expect("removed");
    fs::create_dir(temporary.path().join("empty")).expect("made");
    // Everybody may look, nobody may write; the superuser may all the same, so ask as nobody.
    for path in [temporary.path(), &whole, &temporary.path().join("empty")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o555)).expect("set");
    }
    if rustix::process::geteuid().is_root() {
        let program = tempfile::tempdir().expect("a folder");
        fs::set_permissions(program.path(), fs::Permissions::from_mode(0o755)).expect("set");
        let copy = program.path().join("test");
        fs::copy(std::env::current_exe().expect("this binary"), &copy).expect("copied");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("set");
        let child = as_child("read_only::child", READ_ONLY, temporary.path());
        let mut command = std::process::Command::new(copy);
        command
            .args(child.get_args())
            .env(READ_ONLY, temporary.path())
            .current_dir("/")
            .uid(NOBODY)
            .gid(NOBODY);
        let output = command.output().expect("run");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("the child is through"),
            "{output:?}"
        );
    } else {
        refuse_read_only(temporary.path());
    }
    fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o755)).expect("set");
    fs::set_permissions(&whole, fs::Permissions::from_mode(0o755)).expect("set");
}

/// Not a test: the process without rights.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(READ_ONLY) else {
        return;
    };
    refuse_read_only(Path::new(&folder));
    println!("the child is through");
}

fn refuse_read_only(folder: &Path) {
    let cases = [
        (DataDir::open(&folder.join("store")), "store/LOCK"),
        (
            DataDir::create(&folder.join("empty"), IDS, Wall(1)),
            "empty/LOCK",
        ),
        (DataDir::create(&folder.join("new"), IDS, Wall(1)), "new"),
    ];
    for (result, named) in cases {
        let error = result.expect_err("read-only");
        let told = matches!(&error, DataDirError::ReadOnly { path, .. } if path.ends_with(named));
        assert!(told, "{named}: {error}");
    }
}
