//! The program: exit codes, and the echo server as a process of its own.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Output, Stdio},
};

use crate::fake::Fake;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_flotilla-bench"))
}

/// Runs a command line to its end, while this thread's runtime keeps serving.
async fn run(line: &str) -> Output {
    let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
    let running = tokio::task::spawn_blocking(move || program().args(words).output());
    running.await.unwrap().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_run_without_a_terminal_reports_on_both_outputs_and_ends_with_success() {
    let fake = Fake::start().await;
    let address = &fake.address;
    let line = format!("bench ycsb --workload a --pd {address} --records 100 --operations 300");
    let output = run(&line).await;
    let (report, progress) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{progress}");
    assert!(
        report.starts_with("YCSB workload a: 50 % reads, 50 % updates\n"),
        "{report}"
    );
    assert!(
        report.contains("p99") && !report.contains("read-modify-write"),
        "{report}"
    );
    assert!(
        progress.contains("load: 100 of 100 operations in"),
        "{progress}"
    );
    assert!(
        progress.contains("run a: 300 of 300 operations in"),
        "{progress}"
    );
}

#[tokio::test]
async fn quiet_means_quiet() {
    let fake = Fake::start().await;
    let address = &fake.address;
    let line = format!("ycsb --workload c --pd {address} --records 10 --operations 10 --quiet");
    assert_eq!(text(&run(&line).await.stderr), "");
}

#[tokio::test]
async fn wrong_data_ends_with_failure_after_the_report() {
    let fake = Fake::start().await;
    let address = &fake.address;
    let line = format!("ycsb --workload c --pd {address} --records 10 --run-only --operations 10");
    let output = run(&line).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("missing"));
    assert!(text(&output.stderr).contains("no operation of the run phase succeeded"));
}

#[tokio::test]
async fn bad_options_end_before_anything_is_started() {
    let fake = Fake::start().await;
    let address = &fake.address;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report").display().to_string();
    let missing = folder.path().join("no/report").display().to_string();
    let ycsb = format!("ycsb --workload a --pd {address}");
    for (line, code, expected) in [
        (format!("{ycsb} --records 0"), 2, "--records is 0"),
        (format!("{ycsb} --threads 0"), 2, "--threads is 0"),
        (
            format!("{ycsb} --value-size 7000000"),
            2,
            "--value-size is 7000000, must be from 0 to 6291456",
        ),
        (format!("{ycsb} --timeout 0s"), 2, "--timeout is zero"),
        (
            format!("{ycsb} --json {file} --svg {file}"),
            2,
            "--json and --svg name the same file",
        ),
        (
            format!("raw --pd {address} --regions 0"),
            2,
            "--regions is 0",
        ),
        (
            format!("raw --pd http://{address}"),
            2,
            "HOST:PORT without a scheme",
        ),
        (
            format!("echo drive --clients 0 --echo {address}"),
            2,
            "--clients is 0",
        ),
        // The command line is right, the disk is not.
        (
            format!("{ycsb} --json {missing}"),
            1,
            "No such file or directory",
        ),
    ] {
        let output = run(&line).await;
        assert_eq!(output.status.code(), Some(code), "{line}");
        assert!(
            text(&output.stderr).contains(expected),
            "{line}: {}",
            text(&output.stderr)
        );
    }
    assert_eq!(fake.calls("RawPut") + fake.calls("GetRegion"), 0);
}

/// Refused, and a name that nobody has: one plain line each, and no path of a source.
#[tokio::test]
async fn an_address_where_nothing_answers_is_said_plainly() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    for address in [gone.as_str(), "nowhere.invalid:1"] {
        for (line, expected) in [
            ("ycsb --workload a", "nothing that serves a cluster answers"),
            ("raw", "nothing answers"),
        ] {
            let output = run(&format!("{line} --pd {address} --quiet")).await;
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{said}");
            let expected = format!("flotilla-bench: {expected} at {address}: ");
            assert!(said.starts_with(&expected), "{said}");
            assert!(!said.contains(".rs") && said.lines().count() == 1, "{said}");
        }
    }
}

#[tokio::test]
async fn an_echo_server_of_its_own_is_started_and_measured() {
    let fake = Fake::start().await;
    let short = "--clients 2 --duration 200ms --warmup 1ms --quiet";
    let line = format!(
        "bench raw --operation put --pd {} --echo spawn {short}",
        fake.address
    );
    for line in [line, format!("bench echo drive {short}")] {
        let output = run(&line).await;
        assert!(output.status.success(), "{line}: {}", text(&output.stderr));
        assert!(
            text(&output.stdout).contains("echo: turns "),
            "{}",
            text(&output.stdout)
        );
    }
}

#[test]
fn an_echo_server_says_where_it_listens_and_ends_with_its_input() {
    let mut server = program()
        .args(["bench", "echo", "serve", "--until-input-ends"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(server.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("listening on ").unwrap();
    std::net::TcpStream::connect(address).unwrap();
    drop(server.stdin.take());
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(server.wait().unwrap().success());
    assert_eq!(rest, "");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let holder = std::net::TcpListener::bind(taken).unwrap();
    let output = run(&format!("echo serve --addr {taken}")).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains(&format!("--addr {taken}")),
        "{}",
        text(&output.stderr)
    );
    drop(holder);
}
