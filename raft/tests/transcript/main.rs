//! Sessions with small groups, as texts: commands, `----`, what every node did.
//!
//! Each file under `tests/transcripts` opens with the rule it would catch. `session.rs` lists the
//! commands. A text that no longer fits is rewritten by
//!
//! ```text
//! UPDATE_EXPECT=1 cargo test -p flotilla-raft --test transcript
//! ```
//!
//! and the difference is to be explained like any other change.
#![expect(clippy::disallowed_methods, reason = "the transcripts are files")]

#[path = "../common/mod.rs"]
mod common;

mod session;
mod show;

use std::fs;
use std::path::{Path, PathBuf};

use expect_test::expect_file;

use session::Session;

/// A folder that lost its files must not pass.
const TRANSCRIPTS_MIN: usize = 60;

/// Runs the commands of a text and returns it with the answers they give now.
fn play(text: &str) -> String {
    let mut session = Session::default();
    let mut played = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "----" {
            played.push_str("----\n");
            for answer in session.answers() {
                played.push_str(&answer);
                played.push('\n');
            }
            while lines.next_if(|line| !line.is_empty()).is_some() {}
            continue;
        }
        played.push_str(line);
        played.push('\n');
        if !line.is_empty() && !line.starts_with('#') {
            session.run(line);
        }
    }
    played
}

#[track_caller]
fn check(path: &Path) {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(
        text.starts_with("# Rule: "),
        "{}: the first line names the rule",
        path.display()
    );
    assert!(
        text.contains("\n----\n"),
        "{}: nothing is answered",
        path.display()
    );
    expect_file![path].assert_eq(&play(&text));
}

#[test]
fn every_transcript_is_what_happens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let files = fs::read_dir(&folder).expect("the folder is there");
    let mut files: Vec<PathBuf> = files
        .map(|file| file.expect("a folder can be read").path())
        .collect();
    files.sort();
    for file in &files {
        check(file);
    }
    assert!(
        files.len() >= TRANSCRIPTS_MIN,
        "{} transcripts",
        files.len()
    );
}
