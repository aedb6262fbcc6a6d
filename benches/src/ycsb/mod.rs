//! The YCSB core workloads through the stock Rust client.
//!
//! YCSB (B. Cooper et al., SoCC 2010) is the usual yardstick of key-value stores: records
//! `user<hash>` are loaded, then a mix of reads, updates, inserts, scans and read-modify-writes
//! asks for them with a skew. The keys, mixes and distributions here are YCSB's own, so that
//! figures can be compared with those of other drivers; a record is one value of `--value-size`
//! bytes (YCSB's ten fields of 100 bytes make 1,000).
//!
//! # What the figures mean
//!
//! - **Throughput**: successful operations per second over the whole phase. A read-modify-write is
//!   one operation.
//! - **Latency**: from calling the client to its answer, including the client's own retries and
//!   its queue; successful operations only. The load is a closed loop: with `N` threads, throughput times
//!   mean latency is `N`.
//! - **Failed**: operations whose answer was an error, by kind of error. `missing`, `damaged` and
//!   `wrong-scan` mean that the store answered with something that cannot be right; a store
//!   may never show them.
//! - **Per operation, per write**: the growth of the server's log counters over the phase, divided by
//!   the operations that succeeded, or by those of them that write. Below one sync per write, the
//!   log groups writes.
//!
//! An insert is asked for by readers only after it was acknowledged. With `--run-only`, the records
//! must have been loaded by this driver: it checks every value it reads.

mod acknowledged;
mod database;
mod distribution;
mod ledger;
mod options;
mod phases;
mod records;
mod report;
mod tikv;
mod workload;

use std::fs;

use anyhow::Context;

use self::phases::{Known, Plan};
pub(crate) use self::{
    database::Database,
    options::{address, outputs, some_time, within},
    tikv::Tikv,
};
pub use self::{
    options::{Options, OptionsError},
    report::{Parameters, Report, VerifyReport},
    workload::{Distribution, Workload},
};
use crate::{counters::Scraper, plot};

/// Runs the phases asked for, writes the files asked for, and returns what was found.
///
/// # Errors
///
/// When the options cannot be, when no client can connect, or when a file cannot be written.
/// Failed operations are part of the report; [`Report::verdict`] judges them.
pub async fn run(options: Options) -> anyhow::Result<Report> {
    Ok(run_while(options, None, async {}).await?.0)
}

/// As [`run`], while something happens to the store: `meanwhile` begins with the run phase, and nothing
/// is verified before it has ended; `None` if it did not come to a run phase. `uncounted`: why the
/// server's counters would say nothing.
///
/// # Errors
/// As [`run`].
pub async fn run_while<T>(
    options: Options,
    uncounted: Option<&str>,
    meanwhile: impl Future<Output = T>,
) -> anyhow::Result<(Report, Option<T>)> {
    options.validate()?;
    let mut databases = Vec::new();
    for _ in 0..options.clients() {
        databases.push(Tikv::connect(&options.pd, &options.tls, options.timeout).await?);
    }
    let nodes = if options.metrics.is_empty() {
        &options.pd
    } else {
        &options.metrics
    };
    let scraper = match uncounted {
        None => Scraper::new(nodes.clone(), options.tls.dial()?),
        Some(why) => Scraper::off(why),
    };
    if uncounted.is_none() && !options.metrics.is_empty() {
        // Asked for by name: better no run than one without.
        scraper
            .scrape()
            .await
            .map_err(anyhow::Error::msg)
            .context("--metrics")?;
    }
    let plan = Plan {
        options: &options,
        databases,
        scraper,
    };
    let (report, happened) = run_on(&plan, meanwhile).await;
    write_files(&options, &report)?;
    Ok((report, happened))
}

async fn run_on<D: Database, T>(
    plan: &Plan<'_, D>,
    meanwhile: impl Future<Output = T>,
) -> (Report, Option<T>) {
    let options = plan.options;
    let mut report = Report::new(options);
    let mut known = Known::loaded(options.records).into();
    let mut happened = None;
    if !options.run_only {
        let load = plan.load().await;
        report.load = Some(load.report());
        if load.stopped.is_some() {
            return (report, None);
        }
    }
    if !options.load_only {
        let run;
        let (ran, came) = tokio::join!(plan.run(), meanwhile);
        (run, known) = ran;
        happened = Some(came);
        report.run = Some(run.report());
    }
    if let Some(sample) = options.verify {
        report.verify = Some(plan.verify(sample, &known).await);
    }
    (report, happened)
}

fn write_files(options: &Options, report: &Report) -> anyhow::Result<()> {
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(report).context("the report as JSON")?;
        fs::write(path, json + "\n").with_context(|| format!("--json {}", path.display()))?;
    }
    if let Some(path) = &options.svg
        && let Some(phase) = report.run.as_ref().or(report.load.as_ref())
    {
        let letter = options.workload.letter();
        let title = format!("YCSB workload {letter}, {} threads", options.threads);
        let svg = plot::draw(&title, phase).context("the plot")?;
        fs::write(path, svg).with_context(|| format!("--svg {}", path.display()))?;
    }
    Ok(())
}
