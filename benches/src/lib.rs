//! Load drivers: they measure a running cluster from outside, as its users see it.
//!
//! - [`ycsb`]: the YCSB core workloads through the stock `tikv-client`, the way applications come
//!   in. Figures of this driver include the client's own cost.
//! - [`raw`]: bare unary `RawGet` and `RawPut` calls, routed once and then as cheap as a client can
//!   be, over any number of regions; alternated with an echo server, so that a ratio tells what
//!   the store costs on top of the RPC itself.
//! - [`echo`]: that echo server, and a driver of its own.
//! - [`report`]: what all of them measure and how it reads as JSON.
//!
//! None of them links the storage engine. All are closed loops: each client has one operation in
//! flight and issues the next when it is answered, so that a stall slows the load down instead
//! of queueing it. Latencies are those of answered operations; failed ones are counted by kind.

mod counters;
mod drive;
mod measure;
mod plot;
mod table;

pub mod echo;
pub mod progress;
pub mod raw;
pub mod report;
pub mod ycsb;

use clap::Subcommand;

/// `flotilla bench`
#[derive(Subcommand, Clone, Debug)]
pub enum Bench {
    /// The YCSB core workloads a to f, through the stock Rust client
    Ycsb(Box<ycsb::Options>),
    /// Bare RawGet or RawPut calls, over one or many regions, side by side with an echo server
    Raw(Box<raw::Options>),
    /// The echo server alone, and what it reaches
    Echo(Box<echo::Options>),
}

/// Runs a driver and prints its report on standard output.
///
/// # Errors
///
/// What keeps the driver from running, and a report that speaks against the store: its
/// `verdict`. The report is printed in that case too.
pub async fn run(bench: Bench) -> anyhow::Result<()> {
    match bench {
        Bench::Ycsb(options) => {
            let report = ycsb::run(*options).await?;
            print!("{report}");
            report.verdict()
        }
        Bench::Raw(options) => print_raw(raw::run(*options).await?),
        Bench::Echo(options) => echo::run(*options).await?.map_or(Ok(()), print_raw),
    }
}

/// Whether a driver was kept from running by the command line alone: nothing was touched, and the same
/// words will fail again. A file that cannot be written is no such thing.
pub fn is_wrong_command_line(error: &anyhow::Error) -> bool {
    use ycsb::OptionsError as Wrong;
    match error.downcast_ref::<Wrong>() {
        Some(
            Wrong::OutOfRange { .. }
            | Wrong::NoTime { .. }
            | Wrong::Address { .. }
            | Wrong::SameFile { .. },
        ) => true,
        Some(Wrong::Unwritable { .. }) | None => false,
    }
}

fn print_raw(report: raw::Report) -> anyhow::Result<()> {
    print!("{report}");
    report.verdict()
}
