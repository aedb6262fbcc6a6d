//! `flotilla ctl`: what a cluster is, and what its operator wants changed. Any node answers.

mod cluster;
mod config;
mod hot;
mod member;
mod operator;
mod region;
mod rule;
mod scheduler;
mod show;
mod store;

use std::time::Duration;

use clap::{Args, Subcommand};
use flotilla_raftstore::region::META_REGION;
use flotilla_tls::TlsArgs;

use crate::config::HostPort;
use cluster::Cluster;

/// Whom to ask, and how to print.
#[derive(Args, Clone, Debug)]
pub struct Ctl {
    /// Addresses of nodes, separated by commas; the first that answers is asked, and any will do
    #[arg(long, global = true, value_name = "HOST:PORT", value_delimiter = ',',
          value_parser = host_port, default_value = "127.0.0.1:20160")]
    pd: Vec<HostPort>,
    #[command(flatten)]
    tls: TlsArgs,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

/// About what.
#[derive(Subcommand, Clone, Debug)]
enum What {
    /// The nodes as members of the placement driver (PD), and PD's own region
    #[command(subcommand)]
    Member(member::Member),
    /// The nodes as stores of data: list, drain, remove
    #[command(subcommand)]
    Store(store::Store),
    /// Ranges of keys and their replicas: list, look at each replica, move
    #[command(subcommand)]
    Region(region::Region),
    /// Changes of regions that are under way, and those that ended
    #[command(subcommand)]
    Operator(operator::Operator),
    /// Where the load is: the busiest regions, and what each store has to do
    Hot(hot::Hot),
    /// Which stores replicas may be on, by label and range: list, set, delete
    #[command(subcommand)]
    Rule(rule::Rule),
    /// Settings of PD that change while the cluster runs: show, set
    #[command(subcommand)]
    Config(config::Config),
    /// The planners that balance: list, pause, resume
    #[command(subcommand)]
    Scheduler(scheduler::Scheduler),
}

/// Whether to wait for the end of what was begun.
#[derive(Args, Clone, Debug)]
struct Wait {
    /// Wait until it is done; without it the command returns once it has begun
    #[arg(long)]
    wait: bool,
    /// How long to wait; it goes on even if it takes longer
    #[arg(long, value_name = "TIME", default_value = "5m", requires = "wait",
          value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl Wait {
    /// Looks until `done` says what came of it.
    async fn until<T>(
        &self,
        what: &str,
        mut done: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        const LOOK_EVERY: Duration = Duration::from_millis(200);
        let looking = async {
            loop {
                if let Some(done) = done().await? {
                    return Ok(done);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let late = |_| {
            let timeout = humantime::format_duration(self.timeout);
            anyhow::anyhow!("{what} is not done after {timeout} (--timeout); it goes on")
        };
        tokio::time::timeout(self.timeout, looking)
            .await
            .map_err(late)?
    }
}

fn host_port(text: &str) -> Result<HostPort, String> {
    text.parse().map_err(|_| "expected HOST:PORT".to_owned())
}

/// A region's id; PD's own region has a name.
fn region_id(text: &str) -> Result<u64, String> {
    match text {
        "meta" => Ok(META_REGION),
        number => number
            .parse()
            .map_err(|_| "expected a region's id, or `meta` for PD's own region".to_owned()),
    }
}

/// Does what the command line asks for.
///
/// # Errors
/// Nobody answers, or what was asked for is refused; the text says what to do now.
pub async fn run(ctl: Ctl) -> anyhow::Result<()> {
    let cluster = Cluster::connect(&ctl.pd, ctl.tls.dial()?).await?;
    let print = show::Print { json: ctl.json };
    match ctl.what {
        What::Member(member) => member.run(&cluster, print).await,
        What::Store(store) => store.run(&cluster, print).await,
        What::Region(region) => region.run(&cluster, print).await,
        What::Operator(operator) => operator.run(&cluster, print).await,
        What::Hot(hot) => hot.run(&cluster, print).await,
        What::Rule(rule) => rule.run(&cluster, print).await,
        What::Config(config) => config.run(&cluster, print).await,
        What::Scheduler(scheduler) => scheduler.run(&cluster, print).await,
    }
}
