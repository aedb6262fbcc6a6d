//! The bare driver.

use std::collections::BTreeSet;

use clap::Parser;
use flotilla_benches::{
    Bench,
    raw::{self, Report, VariantReport},
    report::Kind,
};

use crate::fake::{Change, Fake, Faults};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

/// With short turns: what is tested is what is done, not how fast.
async fn run(fake: &Fake, line: &str) -> anyhow::Result<Report> {
    let line = format!(
        "bench raw --pd {} --quiet --clients 8 --duration 200ms --warmup 1ms --value-size 64 \
         --records 100 {line}",
        fake.address
    );
    let Bench::Raw(options) = Cli::parse_from(line.split_whitespace()).bench else {
        unreachable!()
    };
    raw::run(*options).await
}

fn names(report: &Report) -> Vec<(&str, Option<u32>, bool)> {
    let variants = &report.comparisons[0].variants;
    fn row(variant: &VariantReport) -> (&str, Option<u32>, bool) {
        (&variant.name, variant.regions, variant.ratio.is_some())
    }
    variants.iter().map(row).collect()
}

#[tokio::test]
async fn gets_are_compared_over_regions_with_the_stock_client_and_with_an_echo() {
    let fake = Fake::start().await;
    let report = run(&fake, "--regions 1,4 --stock --echo in-process")
        .await
        .unwrap();
    report.verdict().unwrap();
    assert_eq!(fake.state.lock().pairs_by_region(), [100, 25, 25, 25, 25]);
    assert_eq!(
        report
            .load
            .iter()
            .map(|load| load.operations)
            .collect::<Vec<_>>(),
        [100, 100]
    );
    assert_eq!(report.comparisons[0].baseline.as_deref(), Some("echo"));
    assert_eq!(
        names(&report),
        [
            ("1 region", Some(1), true),
            ("4 regions", Some(4), true),
            ("stock client", Some(1), true),
            ("echo", None, false),
        ]
    );
    for variant in &report.comparisons[0].variants {
        assert_eq!(
            (variant.turns_per_s.len(), variant.total.failed),
            (2, 0),
            "{}",
            variant.name
        );
    }
    let echo = report.comparisons[0].variants.last().unwrap();
    let ratio = report.comparisons[0].variants[0].ratio.unwrap();
    let throughput = report.comparisons[0].variants[0].total.throughput_per_s;
    assert!((ratio - throughput / echo.total.throughput_per_s).abs() < 1e-9);
}

#[tokio::test]
async fn puts_need_no_loading_and_are_compared_with_one_region() {
    let fake = Fake::start().await;
    let line = format!("--operation put --regions 1,4 --metrics {}", fake.metrics);
    let report = run(&fake, &line).await.unwrap();
    report.verdict().unwrap();
    assert!(report.load.is_empty());
    assert_eq!(report.comparisons[0].baseline.as_deref(), Some("1 region"));
    assert_eq!(
        names(&report),
        [("1 region", Some(1), false), ("4 regions", Some(4), true)]
    );
    for variant in &report.comparisons[0].variants {
        let write = variant.total.server.per_write.unwrap();
        assert_eq!((write.log_syncs, write.log_bytes), (Some(1.0), Some(64.0)));
    }
}

#[tokio::test]
async fn the_same_calls_go_over_a_stream() {
    let fake = Fake::start().await;
    let report = run(&fake, "--operation mixed --regions 1,4 --batch")
        .await
        .unwrap();
    report.verdict().unwrap();
    assert_eq!(
        names(&report),
        [
            ("1 region", Some(1), false),
            ("4 regions", Some(4), true),
            ("1 region, batched", Some(1), true),
            ("4 regions, batched", Some(4), true),
        ]
    );
    for variant in &report.comparisons[0].variants {
        let kinds: Vec<_> = variant
            .total
            .kinds
            .iter()
            .map(|kind| kind.operation)
            .collect();
        assert_eq!(
            (variant.total.failed, kinds),
            (0, vec![Kind::Get, Kind::Put])
        );
    }
    assert!(fake.calls("BatchCommands") > 0);
}

#[tokio::test]
async fn a_stream_that_breaks_is_opened_again() {
    let fake = Fake::start().await;
    fake.state.lock().faults.batch_broken_every = 10;
    let report = run(&fake, "--operation put --batch").await.unwrap();
    report.verdict().unwrap();
    let batched = &report.comparisons[0].variants[1].total;
    let errors = &batched.kinds[0].errors;
    assert_eq!(errors[0].kind, "grpc-unavailable");
    assert!(fake.calls("BatchCommands") > 20, "went on after two breaks");
}

#[tokio::test]
async fn every_number_of_clients_is_measured_by_itself() {
    let fake = Fake::start().await;
    let report = run(&fake, "--operation put --clients 1,3 --rounds 2")
        .await
        .unwrap();
    let clients: Vec<_> = report
        .comparisons
        .iter()
        .map(|comparison| comparison.clients)
        .collect();
    // The 8 of the other tests comes first: the option adds up.
    assert_eq!(clients, [8, 1, 3]);
    let variants = report
        .comparisons
        .iter()
        .flat_map(|comparison| &comparison.variants);
    assert!(
        variants
            .into_iter()
            .all(|variant| variant.turns_per_s.len() == 4)
    );
    assert!(
        report
            .comparisons
            .iter()
            .all(|comparison| comparison.baseline.is_none())
    );
}

#[tokio::test]
async fn splits_are_asked_for_until_they_are_all_there_and_not_again() {
    let fake = Fake::start().await;
    run(&fake, "--operation put --regions 8").await.unwrap();
    let asked = fake.calls("SplitRegions");
    assert!(asked > 1, "the fake does only half of what it is asked");
    run(&fake, "--operation put --regions 8").await.unwrap();
    assert_eq!(fake.calls("SplitRegions"), asked);
}

#[tokio::test]
async fn a_route_that_grew_old_costs_one_call_and_is_looked_up_again() {
    let fake = Fake::start().await;
    fake.state
        .lock()
        .script
        .insert(("RawPut", 20), Change::AgeRoutes);
    let report = run(&fake, "--operation put").await.unwrap();
    report.verdict().unwrap();
    let total = &report.comparisons[0].variants[0].total;
    // At most one for each client, who all had a call in flight; none when the warm-up met it.
    assert!(total.failed <= 8, "{total:?}");
    // Two looks at the boundaries and one at the route; the rest is after the change.
    assert!(
        fake.calls("RawPut") > 20 && fake.calls("GetRegion") > 5,
        "looked up again"
    );
}

#[tokio::test]
async fn errors_are_counted_by_kind() {
    let fake = Fake::start().await;
    let faults = Faults {
        put_busy_every: 7,
        put_refused_every: 10,
        ..Default::default()
    };
    fake.state.lock().faults = faults;
    let report = run(&fake, "--operation put").await.unwrap();
    let errors = &report.comparisons[0].variants[0].total.kinds[0].errors;
    let kinds: BTreeSet<_> = errors.iter().map(|error| error.kind.as_str()).collect();
    assert_eq!(kinds, BTreeSet::from(["server-is-busy", "refused"]));
    report.verdict().unwrap();
}

#[tokio::test]
async fn a_failed_connection_is_counted_and_a_missing_record_fails_the_verdict() {
    let fake = Fake::start().await;
    fake.state.lock().faults.get_unavailable_every = 5;
    let report = run(&fake, "").await.unwrap();
    report.verdict().unwrap();
    let errors = &report.comparisons[0].variants[0].total.kinds[0].errors;
    assert_eq!(errors[0].kind, "grpc-unavailable");
    fake.state.lock().faults = Faults {
        get_not_found_every: 5,
        ..Default::default()
    };
    let verdict = run(&fake, "")
        .await
        .unwrap()
        .verdict()
        .unwrap_err()
        .to_string();
    assert_eq!(
        verdict,
        "1 region: read wrong data: a record that was loaded is not there"
    );
}

#[tokio::test]
async fn loading_tries_again_and_gives_up_at_last() {
    let fake = Fake::start().await;
    fake.state.lock().faults.put_busy_every = 3;
    let report = run(&fake, "").await.unwrap();
    assert_eq!(report.load[0].operations, 100);
    fake.state.lock().faults.put_busy_every = 1;
    let report = run(&fake, "").await.unwrap();
    assert!(report.comparisons.is_empty());
    let verdict = report.verdict().unwrap_err().to_string();
    assert!(
        verdict.starts_with("loading was given up: record"),
        "{verdict}"
    );
}

#[tokio::test]
async fn a_cluster_that_does_not_split_is_an_error() {
    let fake = Fake::start().await;
    fake.state.lock().faults.split_refused = true;
    let error = run(&fake, "").await.unwrap_err().to_string();
    assert_eq!(error, "SplitRegions: PD answered no splits today");
    assert_eq!(fake.calls("RawPut"), 0);
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
    let error = run(&nobody, "").await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("nothing answers at {gone}: Connection refused")),
        "{error}"
    );
}
