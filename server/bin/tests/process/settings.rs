//! Mistakes in the configuration: named with their place before anything is made.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use crate::client::Client;
use crate::node::{EXIT_FAILED, EXIT_USAGE, Node, Process, flotilla, server_args};

/// Starts a node with `args`, `env` and a configuration file, all of them for a folder that does
/// not exist: it is refused with all of `parts`, and the folder still does not exist.
#[track_caller]
fn refused(args: &[&str], env: &[(&str, &str)], file: &str, parts: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, config) = (
        folder.path().join("store"),
        folder.path().join("flotilla.toml"),
    );
    fs::write(&config, file).expect("written");
    let config = config.to_str().expect("a readable path");
    let mut command = flotilla(server_args(&store, &[]));
    command.args(["--config", config]).args(args);
    command.envs(env.iter().copied());
    let exit = Process::spawn(command).wait();
    let file_named: Vec<_> = parts.iter().map(|p| p.replace("FILE", config)).collect();
    let parts: Vec<_> = file_named.iter().map(String::as_str).collect();
    exit.refused(EXIT_USAGE, &parts);
    nothing_made(folder.path());
}

/// Nothing was made beside the configuration file.
#[track_caller]
fn nothing_made(folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let name = entry.expect("an entry").file_name();
        assert_eq!(name, "flotilla.toml", "was made by a refused start");
    }
}

#[test]
fn an_unknown_setting_is_named_with_its_place() {
    refused(
        &["--set", "raft.leese=1s"],
        &[],
        "",
        &["flag --set raft.leese: unknown setting raft.leese; did you mean raft.lease?"],
    );
    refused(
        &[],
        &[("FLOTILLA_RAFT_TIK", "1s")],
        "",
        &["environment variable FLOTILLA_RAFT_TIK: unknown setting"],
    );
    refused(
        &[],
        &[],
        "[raft]\nlease = \"500ms\"\ncolour = \"blue\"\n",
        &["FILE line 3: unknown setting raft.colour"],
    );
    refused(&["--colour"], &[], "", &["unexpected argument '--colour'"]);
}

#[test]
fn a_bad_value_is_named_with_its_place() {
    for (args, env, file, said) in [
        (
            &["--set", "raft.tick=100"][..],
            &[][..],
            "",
            "flag --set raft.tick: raft.tick = \"100\": expected a time with a unit",
        ),
        (
            &["--set", "network.connections-max=-1"],
            &[],
            "",
            "network.connections-max = \"-1\": expected a whole",
        ),
        (
            &["--set", "network.message-max=99999999TiB"],
            &[],
            "",
            "network.message-max = \"99999999TiB\": larger than any size",
        ),
        (
            &["--set", "storage.key-mode=v3"],
            &[],
            "",
            "storage.key-mode = \"v3\": expected one of",
        ),
        (
            &[],
            &[("FLOTILLA_STOP_TIMEOUT", "soon")],
            "",
            "environment variable FLOTILLA_STOP_TIMEOUT: stop-timeout = \"soon\"",
        ),
        (
            &[],
            &[],
            "[log]\nlevel = \"loud\"\n",
            "FILE line 2: log.level = \"loud\": expected one of",
        ),
        (&[], &[], "a = = 1", "FILE line 1: not valid TOML"),
        (&["--set", "raft.lease"], &[], "", "expected NAME=VALUE"),
        (
            &["--config", "/nonexistent/flotilla.toml"],
            &[],
            "",
            "cannot be used multiple times",
        ),
    ] {
        refused(args, env, file, &[said]);
    }
    let exit = Process::spawn(flotilla(["server", "--config", "/nonexistent/x.toml"])).wait();
    exit.refused(EXIT_USAGE, &["configuration file /nonexistent/x.toml"]);
}

#[test]
fn limits_that_contradict_each_other_are_refused_by_name() {
    for (settings, parts) in [
        (
            &["raft.lease=5s"][..],
            &[
                "flag --set raft.lease: raft.lease = 5s",
                "raft.election-min x 9/11",
            ][..],
        ),
        (
            &["raft.election-max=1s", "raft.election-min=1s"],
            &["raft.election-max = 1s", "above"],
        ),
        (
            &["raft.heartbeat=900ms"],
            &["raft.election-min", "three heartbeats"],
        ),
        (
            &["storage.log-write-buffer=64MiB"],
            &[
                "storage.log-write-buffer = 64MiB",
                "twice raft.replay-max (64MiB)",
            ],
        ),
        (
            &["raft.replay-max=1MiB"],
            &["raft.replay-max", "the largest write must always fit"],
        ),
        (
            &["network.stream-window=32MiB"],
            &[
                "network.stream-window = 32MiB",
                "network.connection-window (16MiB)",
            ],
        ),
        (
            &["network.message-max=1MiB"],
            &["network.message-max = 1MiB", "the largest entry"],
        ),
        (
            &["network.requests-max=16MiB"],
            &["network.requests-max = 16MiB", "network.message-max"],
        ),
        (
            &["network.unsent-max=1MiB"],
            &["network.unsent-max = 1MiB", "the largest answer"],
        ),
        (
            &["network.answers-max=1MiB"],
            &["network.answers-max = 1MiB", "network.unsent-max"],
        ),
        (
            &["network.connections-max=0"],
            &["network.connections-max = 0", "at least 8"],
        ),
        // Each of these would be a node that never serves, or one that cannot make its peers.
        (
            &["raft.append-max=0"],
            &["raft.append-max = 0B", "above zero"],
        ),
        (
            &["raft.inflight-messages=0"],
            &["raft.inflight-messages = 0", "above zero"],
        ),
        (
            &["raft.merge-max=0"],
            &["raft.merge-max = 0B", "above zero"],
        ),
        (
            &["raft.waiting-max=0"],
            &["raft.waiting-max = 0B", "the largest write must always fit"],
        ),
        (
            &["raft.waiting-time=0s"],
            &["raft.waiting-time = 0s", "at least 10ms"],
        ),
        (
            &["raft.undecided-time=0s"],
            &["raft.undecided-time = 0s", "at least 100ms"],
        ),
        (
            &["region.heartbeat=1ms"],
            &["region.heartbeat = 1ms", "at least 100ms"],
        ),
        (
            &["storage.state-write-buffer=0"],
            &["storage.state-write-buffer = 0B", "at least 8MiB"],
        ),
        (
            &["network.stream-window=0"],
            &["network.stream-window = 0B", "at least 64KiB"],
        ),
        (
            &["network.stream-window=64KiB", "network.connection-window=0"],
            &["network.connection-window = 0B", "at least 64KiB"],
        ),
        (
            &["threads.runtime=100000000"],
            &["threads.runtime = 100000000", "not be above 1024"],
        ),
    ] {
        let args: Vec<_> = settings
            .iter()
            .flat_map(|setting| ["--set", setting])
            .collect();
        refused(&args, &[], "", parts);
    }
    for (addr, parts) in [
        (
            &["--addr", "0.0.0.0:0", "--allow-plaintext"][..],
            &["flag --addr: addr = 0.0.0.0:0", "advertise-addr"][..],
        ),
        (
            &["--addr", "192.0.2.1:1"],
            &[
                "addr = 192.0.2.1:1",
                "without TLS",
                "--cert",
                "allow-plaintext",
            ],
        ),
        (
            &["--addr", "127.0.0.1:1", "--status-addr", "127.0.0.1:1"],
            &["status-addr = 127.0.0.1:1", "must differ from addr"],
        ),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("store");
        let dir = dir.to_str().expect("a readable path");
        let mut command = flotilla(["server", "--data-dir", dir]);
        command.args(addr);
        Process::spawn(command).wait().refused(EXIT_USAGE, parts);
        nothing_made(folder.path());
    }
}

#[test]
fn a_missing_data_folder_setting_is_named_in_all_its_forms() {
    let exit = Process::spawn(flotilla(["server"])).wait();
    let parts = ["--data-dir DIR", "FLOTILLA_DATA_DIR", "configuration file"];
    assert_ne!(exit.code, Some(0));
    exit.says(&parts);
}

#[test]
fn a_port_in_use_is_named_and_nothing_is_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("store");
    // An address of its own: on the usual one, another test's connection may get a port that is free
    // for a moment.
    let taken = TcpListener::bind("127.0.0.2:0").expect("a free port");
    let addr = taken.local_addr().expect("an address").to_string();
    let args = |flag: &str| {
        let mut args: Vec<_> = ["server", "--data-dir"].map(str::to_owned).to_vec();
        args.push(dir.to_str().expect("a readable path").to_owned());
        if flag != "--addr" {
            args.extend(["--addr", "127.0.0.1:0"].map(str::to_owned));
        }
        args.extend([flag.to_owned(), addr.clone()]);
        args
    };
    for flag in ["--addr", "--status-addr"] {
        let exit = Process::spawn(flotilla(args(flag))).wait();
        let said = format!("{} = {addr}: the port is in use", &flag[2..]);
        exit.refused(EXIT_FAILED, &[&said]);
        nothing_made(folder.path());
    }
    drop(taken);
    let node = Node::of(flotilla(args("--addr")), &dir);
    assert_eq!(node.addr(), addr);
    Client::connect(&node).put("row", "value");
    // A node's port is in use as any other.
    let other = folder.path().join("other");
    let mut command = flotilla(["server", "--data-dir"]);
    command.arg(&other).args(["--addr", &addr]);
    let exit = Process::spawn(command).wait();
    exit.refused(EXIT_FAILED, &["the port is in use"]);
    assert!(!other.exists());
    node.kill9();
    // A restart does not wait for the connections of the last run to be forgotten.
    let node = Node::of(flotilla(args("--addr")), &dir);
    assert_eq!(Client::connect(&node).get("row"), Some("value".into()));
}

#[test]
fn what_the_drivers_refuse_is_a_wrong_command_line() {
    for (args, said) in [
        ("bench ycsb --workload g", "--workload"),
        (
            "bench ycsb --workload a --operations 1 --duration 1s",
            "cannot be used with",
        ),
        (
            "bench ycsb --workload a --records 0 --pd 127.0.0.1:1",
            "--records",
        ),
        (
            "bench raw --operation get --clients 0 --pd 127.0.0.1:1",
            "--clients",
        ),
        ("bench", "Usage: flotilla bench"),
        ("demo --duration soon", "--duration"),
        ("serve", "unrecognized subcommand 'serve'"),
    ] {
        let exit = Process::spawn(flotilla(args.split(' '))).wait();
        exit.refused(EXIT_USAGE, &[said]);
    }
}
