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
mod options;
mod phases;
mod records;
mod report;
mod tikv;
mod workload;

use std::fs;

use anyhow::Context;

use self::{acknowledged::Acknowledged, phases::Plan};
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
    options.validate()?;
    let mut databases = Vec::new();
    for _ in 0..options.clients() {
        databases.push(Tikv::connect(&options.pd, options.timeout).await?);
    }
    let nodes = if options.metrics.is_empty() {
        &options.pd
    } else {
        &options.metrics
    };
    let scraper = Scraper::new(nodes.clone());
    if !options.metrics.is_empty() {
        // Asked for by name: better no run than one without.
        scraper
            .scrape()
            .await
            .map_err(anyhow::Error::msg)
            .context("--metrics")?;
    }
    let report = run_on(&Plan {
        options: &options,
        databases,
        scraper,
    })
    .await;
    write_files(&options, &report)?;
    Ok(report)
}

async fn run_on<D: Database>(plan: &Plan<'_, D>) -> Report {
    let options = plan.options;
    let mut report = Report::new(options);
    let mut acknowledged = Acknowledged::starting_at(options.records).into();
    if !options.run_only {
        let load = plan.load().await;
        report.load = Some(load.report());
        if load.stopped.is_some() {
            return report;
        }
    }
    if !options.load_only {
        let run;
        (run, acknowledged) = plan.run().await;
        report.run = Some(run.report());
    }
    if let Some(sample) = options.verify {
        report.verify = Some(plan.verify(sample, &acknowledged).await);
    }
    report
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
