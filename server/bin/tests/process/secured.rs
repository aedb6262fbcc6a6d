//! TLS as the command line sees it: files that cannot be used, `flotilla ctl`, what the log says of
//! callers who speak something else.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::certificates::{Authority, Files};
use crate::cluster::folder;
use crate::node::{EXIT_FAILED, EXIT_USAGE, Exit, Node, Process, flotilla, server_args};
use crate::wire;

/// As arguments of the command line.
fn args(files: &Files) -> [String; 6] {
    let path = |path: &PathBuf| path.to_str().expect("a readable path").to_owned();
    let flag = str::to_owned;
    [
        flag("--ca"),
        path(&files.ca),
        flag("--cert"),
        path(&files.cert),
        flag("--key"),
        path(&files.key),
    ]
}

fn with<S: AsRef<OsStr>>(dir: &Path, args: impl IntoIterator<Item = S>) -> std::process::Command {
    let mut command = flotilla(server_args(dir, &[]));
    command.args(args);
    command
}

/// A start that is refused with all of `parts`, before a folder is made.
#[track_caller]
fn refused(args: &[String], parts: &[&str]) {
    let folder = folder();
    let store = folder.path().join("store");
    let exit = Process::spawn(with(&store, args)).wait();
    exit.refused(EXIT_USAGE, parts);
    assert!(!store.exists(), "was made by a refused start");
}

#[test]
fn files_that_cannot_be_used_are_refused_by_name_and_nothing_is_made() {
    let (authority, other) = (Authority::new(), Authority::new());
    let good = authority.issue("node");
    let changed = |change: &dyn Fn(&mut Files)| {
        let mut files = good.clone();
        change(&mut files);
        args(&files)
    };
    refused(
        &changed(&|files| files.cert = "/nonexistent/node.pem".into()),
        &["flag --cert: security.cert = /nonexistent/node.pem: cannot be read: No such file"],
    );
    refused(
        &changed(&|files| files.cert = files.key.clone()),
        &["flag --cert: security.cert", "holds no certificate in PEM"],
    );
    refused(
        &changed(&|files| files.key = files.ca.clone()),
        &["flag --key: security.key", "holds no private key in PEM"],
    );
    let another = authority.issue("another");
    refused(
        &changed(&|files| files.key = another.key.clone()),
        &[
            "flag --key: security.key",
            "is not the key of the certificate in",
        ],
    );
    let foreign = other.issue("node");
    refused(
        &changed(&|files| files.ca = foreign.ca.clone()),
        &["flag --cert: security.cert", "is not signed by the CA in"],
    );
    let expired = authority.issue_as("old", |params| {
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    refused(
        &args(&expired),
        &[
            "flag --cert: security.cert",
            "expired at 2020-01-01T00:00:00Z: issue a new one",
        ],
    );
    let elsewhere = authority.issue_as("elsewhere", |params| {
        params.subject_alt_names.remove(0);
    });
    refused(
        &args(&elsewhere),
        &[
            "flag --cert: security.cert",
            "does not name the host that others dial",
            "it names elsewhere, localhost",
        ],
    );
    refused(
        &args(&good)[..4],
        &["flag --ca: security.ca", "TLS needs security.key as well"],
    );
    let mut named = args(&good).to_vec();
    named.extend(["--set", "security.node-names=nodes-*"].map(str::to_owned));
    refused(
        &named,
        &[
            "flag --set security.node-names: security.node-names = nodes-*: does not name this node's own certificate",
        ],
    );
    refused(
        &["--set", "security.client-names=app"].map(str::to_owned),
        &["security.client-names = app: without TLS nobody shows a certificate"],
    );
}

fn ctl(node: &Node, files: Option<&Files>) -> Exit {
    let mut command = flotilla(["ctl", "--pd", node.addr(), "store", "list"]);
    command.args(files.iter().flat_map(|files| args(files)));
    Process::spawn(command).wait()
}

#[test]
fn ctl_shows_a_cluster_to_those_it_is_for() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (files, folder) = (authority.issue("node"), folder());
    let node = Node::of(with(folder.path(), args(&files)), folder.path());
    let shown = ctl(&node, Some(&files));
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.out.contains(node.addr()), "{shown:?}");
    let refused = ctl(&node, Some(&authority.issue("app")));
    refused.refused(
        EXIT_FAILED,
        &["the certificate of app, 127.0.0.1, localhost may not see the pages or change the cluster"],
    );
    ctl(&node, Some(&other.issue("node"))).refused(EXIT_FAILED, &["invalid peer certificate"]);
    ctl(&node, None).refused(EXIT_FAILED, &["no node answers"]);
    let mut half = flotilla(["ctl", "store", "list", "--ca"]);
    half.arg(&files.ca);
    Process::spawn(half)
        .wait()
        .refused(EXIT_USAGE, &["--cert <FILE>"]);
    node.stop();
}

#[test]
fn the_log_tells_of_callers_who_speak_something_else() {
    let authority = Authority::new();
    let (secure, plain) = (folder(), folder());
    let node = Node::of(
        with(secure.path(), args(&authority.issue("node"))),
        secure.path(),
    );
    for _ in 0..5 {
        let answer = wire::exchange(node.addr(), b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
    let line = "closed a connection without TLS: this port speaks nothing else";
    node.logs(&[line, "missed=0"]);
    assert_eq!(node.log().matches(line).count(), 1, "once in a while");

    let node = Node::start(plain.path(), &[]);
    let files = authority.issue("app");
    ctl(&node, Some(&files)).refused(EXIT_FAILED, &["no node answers"]);
    node.logs(&["closed a connection with TLS: this port speaks plaintext"]);
}

#[test]
fn a_node_that_is_reached_from_elsewhere_needs_a_certificate_or_a_word() {
    let authority = Authority::new();
    let files = authority.issue("node");
    let beyond = ["--addr", "0.0.0.0:0", "--advertise-addr", "localhost:20160"].map(str::to_owned);
    let folder = folder();
    let start = |args: Vec<String>| {
        let dir = folder.path().join("store");
        let dir = dir.to_str().expect("a readable path");
        let mut command = flotilla(["server", "--data-dir", dir]);
        command.args(&beyond).args(args);
        command
    };
    let exit = Process::spawn(start(Vec::new())).wait();
    exit.refused(
        EXIT_USAGE,
        &[
            "flag --addr: addr = 0.0.0.0:0: reachable from other machines without TLS",
            "--allow-plaintext",
        ],
    );
    assert!(
        fs::read_dir(folder.path())
            .expect("a folder")
            .next()
            .is_none()
    );
    Node::of(start(args(&files).to_vec()), folder.path()).kill9();
}
