//! SIGKILL at any moment: everything that was synced is there, and both databases hold what some
//! prefix of the batches makes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;

use flotilla_engine::{FlushReason, RaftLog, StateStore};

use crate::common::log_script::LogScript;
use crate::common::state_script::StateScript;
use crate::common::store::{
    IDS, as_child, create, log_content, open, state_content, twin_log, twin_state,
};
use crate::common::{Dice, for_seeds};

/// Where the child finds its store; the child plays its part only if this is set.
const STORE: &str = "FLOTILLA_KILL_STORE";
const SCRIPT_SEED: &str = "FLOTILLA_KILL_SCRIPT";
/// Batches that may wait for their sync.
const UNSYNCED_MAX: usize = 8;
/// State batches between two flushes.
const FLUSH_EVERY: u64 = 50;

#[test]
fn a_killed_process_leaves_a_prefix_with_everything_synced() {
    let _alone = crate::alone();
    for_seeds(0..2, |seed| {
        let mut dice = Dice::new(seed);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store");
        create(&path, IDS);
        for _ in 0..5 {
            let lines = dice.within(1, 60) as usize;
            let (synced, cut) = run_and_kill(&path, seed, lines);
            let (dir, log, state) = open(&path);
            let (appended, found) = (log.appended(), state.durable_cut());
            assert!(
                appended >= synced,
                "{appended} batches found, {synced} were synced"
            );
            assert!(found >= cut, "state batch {found} found, {cut} was durable");
            let twin = twin_log(seed, appended);
            assert_eq!(
                log_content(&log).expect("whole"),
                log_content(&twin).expect("whole")
            );
            let twin = twin_state(seed, found);
            assert_eq!(
                state_content(&state).expect("whole"),
                state_content(&twin).expect("whole")
            );
            drop((dir, log, state));
        }
    });
}

/// Lets a child work until it has said `lines` lines, and kills it. Returns the last log batch it
/// saw synced and the last state batch it saw durable.
fn run_and_kill(store: &Path, seed: u64, lines: usize) -> (u64, u64) {
    let mut command = as_child("kill::child", STORE, store);
    command
        .env(SCRIPT_SEED, seed.to_string())
        .stdout(Stdio::piped());
    let mut child = command.spawn().expect("started");
    let said = BufReader::new(child.stdout.take().expect("piped")).lines();
    let (mut synced, mut cut, mut count) = (0, 0, 0);
    for line in said {
        let line = line.expect("text");
        let number = |word| {
            line.strip_prefix(word)
                .and_then(|number: &str| number.parse::<u64>().ok())
        };
        if let Some(number) = number("synced ") {
            synced = number;
        } else if let Some(number) = number("durable ") {
            cut = number;
        } else {
            continue;
        }
        count += 1;
        if count == lines {
            break;
        }
    }
    assert_eq!(count, lines, "the child ended by itself");
    child.kill().expect("killed");
    child.wait().expect("gone");
    (synced, cut)
}

/// Not a test: the process that is killed.
#[test]
fn child() {
    let Some(path) = std::env::var_os(STORE) else {
        return;
    };
    let seed = std::env::var(SCRIPT_SEED)
        .expect("a seed")
        .parse()
        .expect("a number");
    let (_dir, log, state) = open(&PathBuf::from(path));
    let (mut log_script, mut state_script) = (LogScript::new(seed), StateScript::new(seed));
    for _ in 0..log.appended() {
        log_script.batch();
    }
    for _ in 0..state.durable_cut() {
        state_script.batch();
    }
    let (appended, to_sync) = mpsc::sync_channel::<()>(UNSYNCED_MAX);
    std::thread::scope(|scope| {
        let log = &log;
        scope.spawn(move || {
            // Ends with the process: the sender never stops.
            while to_sync.recv().is_ok() {
                while to_sync.try_recv().is_ok() {}
                println!("\nsynced {}", log.sync().expect("synced"));
            }
        });
        loop {
            log.append(&log_script.batch()).expect("appended");
            appended.send(()).expect("the sync thread lives");
            let number = state.write(&state_script.batch()).expect("written");
            if number % FLUSH_EVERY == 0 {
                state.flush_all(FlushReason::Manual).expect("flushed");
                state.refresh_durable().expect("looked");
                println!("\ndurable {}", state.durable_cut());
            }
        }
    });
}
