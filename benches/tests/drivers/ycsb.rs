//! The YCSB driver through the stock client.

use clap::Parser;
use expect_test::expect_file;
use flotilla_benches::{
    Bench,
    report::{Kind, KindReport, PhaseReport},
    ycsb::{self, Report},
};
use serde_json::Value;

use crate::fake::{Change, Fake, Faults};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

async fn run(fake: &Fake, line: &str) -> anyhow::Result<Report> {
    let line = format!(
        "bench ycsb --pd {} --quiet --value-size 32 {line}",
        fake.address
    );
    let Bench::Ycsb(options) = Cli::parse_from(line.split_whitespace()).bench else {
        unreachable!()
    };
    ycsb::run(*options).await
}

fn kind(phase: &PhaseReport, kind: Kind) -> &KindReport {
    phase
        .kinds
        .iter()
        .find(|report| report.operation == kind)
        .unwrap()
}

fn errors(phase: &PhaseReport, of: Kind) -> Vec<(&str, u64)> {
    let errors = &kind(phase, of).errors;
    errors
        .iter()
        .map(|error| (error.kind.as_str(), error.count))
        .collect()
}

#[tokio::test]
async fn every_workload_runs_over_several_regions() {
    for workload in ["a", "b", "c", "d", "e", "f"] {
        let fake = Fake::start().await;
        for key in ["user3", "user5", "user7"] {
            fake.state.lock().split(key.as_bytes());
        }
        let line = format!("--workload {workload} --records 200 --operations 500 --verify");
        let report = run(&fake, &line).await.unwrap();
        report.verdict().unwrap();
        let (load, run) = (report.load.unwrap(), report.run.unwrap());
        assert_eq!((load.operations, load.failed), (200, 0), "{workload}");
        assert_eq!(
            (run.operations, run.failed),
            (500, 0),
            "{workload}: {run:?}"
        );
        assert!(fake.state.lock().pairs_by_region().len() >= 4, "{workload}");
    }
}

#[tokio::test]
async fn a_split_during_the_run_costs_no_operation() {
    let fake = Fake::start().await;
    run(&fake, "--workload a --records 200 --load-only")
        .await
        .unwrap();
    // One split per hundred reads.
    for (count, key) in (1..).zip(["user2", "user3", "user4", "user5", "user6"]) {
        fake.state
            .lock()
            .script
            .insert(("RawGet", count * 100), Change::Split(key));
    }
    let line = "--workload a --records 200 --run-only --operations 2000 --threads 8 --verify";
    let report = run(&fake, line).await.unwrap();
    report.verdict().unwrap();
    assert_eq!(report.run.unwrap().failed, 0);
    assert_eq!(fake.state.lock().pairs_by_region().len(), 6);
}

#[tokio::test]
async fn what_the_client_reports_is_counted_by_kind() {
    let fake = Fake::start().await;
    run(&fake, "--workload a --records 100 --load-only")
        .await
        .unwrap();
    let busy = Faults {
        put_busy_every: 10,
        put_refused_every: 15,
        ..Default::default()
    };
    fake.state.lock().faults = busy;
    let line = "--workload a --records 100 --run-only --operations 1000 --verify";
    let report = run(&fake, line).await.unwrap();
    report.verdict().unwrap();
    let run = report.run.unwrap();
    assert_eq!(run.operations + run.failed, 1_000);
    // Every 10th put is answered busy; every 15th that is not a 10th is refused.
    let puts = fake.calls("RawPut");
    let hit = |hits: fn(&u64) -> bool| (101..=puts).filter(hits).count() as u64;
    let expected = [
        ("server-is-busy", hit(|put| put % 10 == 0)),
        ("refused", hit(|put| put % 15 == 0 && put % 10 != 0)),
    ];
    assert_eq!(errors(&run, Kind::Update), expected);
    assert_eq!(errors(&run, Kind::Read), []);
}

#[tokio::test]
async fn a_lost_record_fails_the_verdict() {
    let fake = Fake::start().await;
    run(&fake, "--workload c --records 100 --load-only")
        .await
        .unwrap();
    fake.state.lock().pairs.pop_first();
    let line = "--workload c --records 100 --run-only --operations 1 --seed 3 --verify";
    let report = run(&fake, line).await.unwrap();
    let verify = report.verify.as_ref().unwrap();
    assert_eq!(
        (verify.sampled, verify.intact, verify.missing),
        (100, 99, 1)
    );
    let verdict = report.verdict().unwrap_err().to_string();
    assert!(
        verdict.contains("was acknowledged and is not there"),
        "{verdict}"
    );
}

#[tokio::test]
async fn server_counters_are_divided_by_what_the_clients_did() {
    let fake = Fake::start().await;
    let line = format!(
        "--workload a --records 100 --operations 1000 --metrics {}",
        fake.metrics
    );
    let report = run(&fake, &line).await.unwrap();
    let (load, run) = (report.load.unwrap(), report.run.unwrap());
    assert_eq!(load.server.log_syncs, Some(100.0));
    let updates = kind(&run, Kind::Update).count as f64;
    assert_eq!(run.server.log_entries, Some(updates));
    assert_eq!(
        run.server.per_operation.unwrap().log_batches,
        Some(updates / 1_000.0)
    );
    let write = run.server.per_write.unwrap();
    assert_eq!(
        (write.log_syncs, write.log_bytes, write.cpu_us),
        (Some(1.0), Some(32.0), None)
    );
}

#[tokio::test]
async fn counters_asked_for_by_name_must_be_there() {
    let fake = Fake::start().await;
    // The gRPC port has no such page.
    let line = format!("--workload a --metrics {}", fake.address);
    let error = format!("{:#}", run(&fake, &line).await.unwrap_err());
    assert!(
        error.starts_with(&format!("--metrics: http://{}/metrics: ", fake.address)),
        "{error}"
    );
    assert_eq!(fake.calls("RawPut"), 0, "nothing was started");
}

#[tokio::test]
async fn without_counters_the_report_says_why() {
    let fake = Fake::start().await;
    let report = run(&fake, "--workload c --records 10 --operations 10")
        .await
        .unwrap();
    let reason = report
        .run
        .as_ref()
        .unwrap()
        .server
        .unavailable
        .clone()
        .unwrap();
    assert!(reason.contains(&fake.address), "{reason}");
    assert!(
        report.to_string().contains("server counters not available"),
        "{report}"
    );
}

#[tokio::test]
async fn no_cluster_is_an_error_that_names_the_address() {
    let fake = Fake::start().await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let nobody = Fake {
        address: gone.to_string(),
        ..fake
    };
    let error = format!("{:#}", run(&nobody, "--workload a").await.unwrap_err());
    assert!(
        error.starts_with(&format!(
            "nothing that serves a cluster answers at {gone}: "
        )),
        "{error}"
    );
    assert!(!error.contains(".rs"), "a place in a source: {error}");
}

/// The structure of a document: names and types, of arrays their first element.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), shape(value)))
            .collect(),
        Value::Array(items) => items.first().map(shape).into_iter().collect(),
        Value::Number(number) if number.is_u64() => "integer".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
        Value::Bool(_) => "bool".into(),
        Value::Null => Value::Null,
    }
}

#[tokio::test]
async fn files_hold_the_report() {
    let fake = Fake::start().await;
    fake.state.lock().faults.put_busy_every = 50;
    let folder = tempfile::tempdir().unwrap();
    let (json, svg) = (
        folder.path().join("report.json"),
        folder.path().join("report.svg"),
    );
    let line = format!(
        "--workload a --records 100 --operations 500 --verify 10 --metrics {} --json {} --svg {}",
        fake.metrics,
        json.display(),
        svg.display()
    );
    run(&fake, &line).await.unwrap();
    let found: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(found["parameters"]["workload"], "a");
    assert_eq!(
        found["run"]["kinds"][1]["errors"][0]["kind"],
        "server-is-busy"
    );
    let shape = serde_json::to_string_pretty(&shape(&found)).unwrap() + "\n";
    expect_file!["report.shape.json"].assert_eq(&shape);
    let svg = std::fs::read_to_string(svg).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    for text in [
        "YCSB workload a",
        "read: p50",
        "update: p50",
        "99 %",
        "operations per second",
    ] {
        assert!(svg.contains(text), "{text}");
    }
}
