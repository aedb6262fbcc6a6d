//! Scenarios of a small cluster, as texts: commands, `----`, what happened.
//!
//! Each file under `tests/scenarios` opens with the rule it would catch. `src/scenario/mod.rs` lists
//! the commands. A text that no longer fits is rewritten by
//!
//! ```text
//! UPDATE_EXPECT=1 cargo test -p flotilla-tests --test scenarios
//! ```
//!
//! and the difference is to be explained like any other change. `SCENARIO=name` plays those alone
//! whose names contain it.
#![expect(clippy::disallowed_methods, reason = "the scenarios are files")]

use std::fmt::Write as _;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use flotilla_tests::scenario;

/// A folder that lost its files must not pass.
const SCENARIOS_MIN: usize = 80;

/// What is wrong with a scenario.
fn check(path: &Path, update: bool) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    if !text.starts_with("# Rule: ") {
        return Err("the first line names the rule".to_owned());
    }
    if !text.contains("\n----\n") {
        return Err("nothing is told".to_owned());
    }
    let played = catch_unwind(|| scenario::play(&text)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        format!("it ended early: {}", text.unwrap_or("no reason given"))
    })?;
    if played == text {
        return Ok(());
    }
    if update {
        return fs::write(path, played).map_err(|error| error.to_string());
    }
    Err(difference(&text, &played))
}

/// The lines from the first that differs on, a few of each.
fn difference(text: &str, played: &str) -> String {
    const SHOWN: usize = 12;
    let same = text
        .lines()
        .zip(played.lines())
        .take_while(|(one, other)| one == other)
        .count();
    let mut difference = format!("line {}", same + 1);
    for (mark, lines) in [("-", text), ("+", played)] {
        for line in lines.lines().skip(same).take(SHOWN) {
            write!(difference, "\n  {mark} {line}").expect("a string takes it");
        }
    }
    difference
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let files = fs::read_dir(&folder).expect("the folder is there");
    let mut files: Vec<PathBuf> = files
        .map(|file| file.expect("a folder can be read").path())
        .collect();
    files.sort();
    files
}

#[test]
fn every_scenario_is_what_happens() {
    let wanted = std::env::var("SCENARIO").unwrap_or_default();
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut files = files();
    assert!(files.len() >= SCENARIOS_MIN, "{} scenarios", files.len());
    files.retain(|file| file.to_string_lossy().contains(&wanted));
    let mut wrong = Vec::new();
    for file in &files {
        if let Err(why) = check(file, update) {
            wrong.push(format!("{}: {why}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Do the scenarios look? Each planted bug must change what some of them tell.
///
/// ```text
/// cargo test -p flotilla-tests --features planted --test scenarios -- --nocapture
/// ```
#[cfg(feature = "planted")]
mod planted {
    use super::*;
    use flotilla_raftstore::{Config, Plant};

    fn bugs() -> Vec<(String, Plant)> {
        let stores = flotilla_raftstore::Planted::ALL.map(|bug| {
            let plant = Plant {
                store: Some(bug),
                ..Plant::default()
            };
            (format!("{bug:?}"), plant)
        });
        let groups = flotilla_raft::Planted::ALL.map(|bug| {
            let plant = Plant {
                raft: Some(bug),
                ..Plant::default()
            };
            (format!("raft::{bug:?}"), plant)
        });
        stores.into_iter().chain(groups).collect()
    }

    fn notices(path: &Path, plant: Plant) -> bool {
        let text = fs::read_to_string(path).expect("it was read before");
        let config = Config {
            plant,
            ..Config::default()
        };
        catch_unwind(|| scenario::play_with(&text, config)).map_or(true, |played| played != text)
    }

    /// What no seed is to show the scenario shows that is named for it.
    #[test]
    fn bugs_that_seeds_do_not_show_change_their_scenario() {
        for (rule, scenario, _) in flotilla_tests::planted::BY_SCENARIO {
            let plant = Plant {
                store: Some(rule),
                ..Plant::default()
            };
            let named = |file: &PathBuf| file.file_stem().is_some_and(|name| name == scenario);
            let file = files().into_iter().find(named).expect(scenario);
            assert!(notices(&file, plant), "{rule:?}");
        }
    }

    #[test]
    fn every_planted_bug_changes_a_scenario() {
        let mut unseen = Vec::new();
        for (name, plant) in bugs() {
            let noticing: Vec<PathBuf> = files()
                .into_iter()
                .filter(|file| notices(file, plant))
                .collect();
            let names = noticing
                .iter()
                .filter_map(|file| file.file_stem()?.to_str());
            let names: Vec<&str> = names.collect();
            println!(
                "{name}: {} {}",
                names.len(),
                names[..names.len().min(3)].join(", ")
            );
            if names.is_empty() {
                unseen.push(name);
            }
        }
        assert!(unseen.is_empty(), "no scenario notices {unseen:?}");
    }
}
