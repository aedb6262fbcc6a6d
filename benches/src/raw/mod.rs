//! Bare unary calls: what the store costs, with as little client around it as possible.
//!
//! Requests are built from a route that was looked up once (`GetMembers`, `GetRegion`, `GetStore`)
//! and sent over a few connections by many concurrent clients. Records are spread evenly over
//! any number of regions, split beforehand by PD's `SplitRegions`.
//!
//! # What the figures mean
//!
//! - **`N regions`**: `RawGet` or `RawPut` of records that lie in `N` regions, each record as
//!   likely. Compared with `1 region` it shows what many active regions cost; a store that syncs per
//!   region loses most of its write throughput here, one that shares syncs keeps it.
//! - **`echo`**: the same `RawGet` call to a server that does nothing but return as many bytes
//!   ([`crate::echo`]). It is the ceiling that this machine, this RPC stack and this driver set
//!   together; the ratio to it is what the store may be blamed for. Puts are compared with that
//!   same echo of a get.
//! - **`N regions, batched`**: the same calls over `BatchCommands`, one stream per connection, with as
//!   many in flight as there are clients.
//! - **`etcd`**: linearizable gets and puts of the same keys and values at the leader of an etcd
//!   cluster, unary, over as many connections.
//! - **`stock client`**: the same records through `tikv-client`. What it lacks against the bare
//!   calls is the client's own cost.
//! - **Driver CPU**: processor time of this process per call. On a machine whose cores the driver shares
//!   with the server, it bounds both sides of a ratio alike.
//! - **fsyncs, log bytes, server CPU**: growth of the server's counters over the turns.
//!
//! Ratios are of throughputs of one run, taken in turns forth and back (`A B C C B A`); the turns
//! are listed, so that a reader sees how much the machine varied meanwhile.

mod batch;
mod clients;
mod cluster;
mod etcd;
mod keys;
mod options;
mod report;

use std::{
    fs,
    sync::{Arc, atomic::AtomicU64},
};

use anyhow::Context;
use flotilla_tls::Dial;
use rand::{Rng, SeedableRng};
use rand_xoshiro::{SplitMix64, Xoshiro256PlusPlus};

pub use self::{
    clients::Operation,
    options::{Echo, Options},
    report::{Comparison, Parameters, Report, VariantReport},
};
use self::{
    clients::{Bare, Loader, Payload, Source, Stock, Target, Way},
    cluster::{Cluster, Route, connect_store},
    etcd::Etcd,
    keys::Stretch,
};
use crate::{
    counters::Scraper,
    drive::{Budget, Client, Outcome, drive},
    echo,
    progress::{Goal, Progress, Verbosity},
    ycsb::Tikv,
};

/// What a single RPC of the stock client may take: its default.
const STOCK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);
/// Connections of the stock client come by the instance; as many clients share one.
const STOCK_CLIENTS_PER_INSTANCE: usize = 16;

/// Splits, loads, measures, writes the file asked for, and returns what was found.
///
/// # Errors
///
/// When the options cannot be, when the cluster cannot be reached or split, when the echo server
/// does not start, or when the file cannot be written. Failed calls are part of the report;
/// [`Report::verdict`] judges them.
pub async fn run(options: Options) -> anyhow::Result<Report> {
    options.validate()?;
    let dial = options.tls.dial()?;
    let cluster = Arc::new(Cluster::connect(&options.pd, options.connections, &dial).await?);
    let nodes = if options.metrics.is_empty() {
        &options.pd
    } else {
        &options.metrics
    };
    let scraper = Scraper::new(nodes.clone(), dial);
    if !options.metrics.is_empty() {
        scraper
            .scrape()
            .await
            .map_err(anyhow::Error::msg)
            .context("--metrics")?;
    }
    // Held until the end: dropping it stops the server.
    let echo = match &options.echo {
        Some(place) => Some(echo::Server::at(place, options.value_size).await?),
        None => None,
    };
    let stretches: Vec<_> = (0..)
        .zip(&options.regions)
        .map(|(number, regions)| Stretch::new(number, *regions))
        .collect();
    for stretch in &stretches {
        cluster.split(&stretch.boundaries()).await?;
    }
    let target = Target::Cluster(Arc::clone(&cluster), Way::Unary);
    let etcd = match &*options.etcd {
        [] => None,
        members => Some(Etcd::connect(members, options.connections).await?),
    };
    let etcd = etcd.map(|etcd| Target::Etcd(Arc::new(etcd)));
    let bench = Bench {
        options: &options,
        scraper,
        etcd_scraper: Scraper::new(options.etcd.clone(), Dial::PLAIN),
    };
    let mut load = Vec::new();
    if options.operation.reads() {
        for stretch in &stretches {
            load.push(bench.load(&target, *stretch).await.report());
        }
        if let Some(etcd) = &etcd {
            load.push(bench.load(etcd, stretches[0]).await.report());
        }
    }
    let mut comparisons = Vec::new();
    if load.iter().all(|load| load.stopped.is_none()) {
        let variants = variants(&options, &cluster, &stretches, etcd, echo.as_ref()).await?;
        for clients in &options.clients {
            comparisons.push(bench.compare(*clients, &variants).await);
        }
    }
    let parameters = Parameters::new(&options);
    let report = Report {
        format: report::FORMAT,
        benchmark: "raw",
        parameters,
        load,
        comparisons,
    };
    write_json(&options, &report)?;
    Ok(report)
}

/// The echo alone: what the RPC stack and the driver can do.
pub(crate) async fn run_echo_only(options: Options, address: &str) -> anyhow::Result<Report> {
    options.validate()?;
    let connections = connect_store(address, options.connections, &Dial::PLAIN).await?;
    let variants = [Variant::Echo(Target::Server(Arc::new(Route::anywhere(
        connections,
    ))))];
    let bench = Bench {
        options: &options,
        scraper: Scraper::off("an echo server has none"),
        etcd_scraper: Scraper::off("there is no etcd"),
    };
    let mut comparisons = Vec::new();
    for clients in &options.clients {
        comparisons.push(bench.compare(*clients, &variants).await);
    }
    let parameters = Parameters::new(&options);
    let load = Vec::new();
    let report = Report {
        format: report::FORMAT,
        benchmark: "echo",
        parameters,
        load,
        comparisons,
    };
    write_json(&options, &report)?;
    Ok(report)
}

fn write_json(options: &Options, report: &Report) -> anyhow::Result<()> {
    let Some(path) = &options.json else {
        return Ok(());
    };
    let json = serde_json::to_string_pretty(report).context("the report as JSON")?;
    fs::write(path, json + "\n").with_context(|| format!("--json {}", path.display()))
}

/// What takes turns.
#[derive(Clone)]
enum Variant {
    Bare(Target, Stretch),
    Stock(Vec<Tikv>, Stretch),
    Echo(Target),
}

impl Variant {
    fn name(&self) -> String {
        match self {
            Variant::Bare(Target::Etcd(_), _) => "etcd".into(),
            Variant::Bare(target, stretch) => {
                let plural = if stretch.regions() == 1 { "" } else { "s" };
                let batched = matches!(target, Target::Cluster(_, Way::Batched));
                let batched = if batched { ", batched" } else { "" };
                format!("{} region{plural}{batched}", stretch.regions())
            }
            Variant::Stock(..) => "stock client".into(),
            Variant::Echo(_) => "echo".into(),
        }
    }

    fn regions(&self) -> Option<u32> {
        match self {
            Variant::Bare(Target::Etcd(_), _) | Variant::Echo(_) => None,
            Variant::Bare(_, stretch) | Variant::Stock(_, stretch) => Some(stretch.regions()),
        }
    }
}

async fn variants(
    options: &Options,
    cluster: &Arc<Cluster>,
    stretches: &[Stretch],
    etcd: Option<Target>,
    echo: Option<&echo::Server>,
) -> anyhow::Result<Vec<Variant>> {
    let ways: &[Way] = match options.batch {
        true => &[Way::Unary, Way::Batched],
        false => &[Way::Unary],
    };
    let mut variants = Vec::new();
    for way in ways {
        let target = Target::Cluster(Arc::clone(cluster), *way);
        let regions = stretches.iter();
        variants.extend(regions.map(|stretch| Variant::Bare(target.clone(), *stretch)));
    }
    if options.stock {
        let clients = options.clients.iter().copied().max().unwrap_or(1);
        let mut instances = Vec::new();
        for _ in 0..clients
            .div_ceil(STOCK_CLIENTS_PER_INSTANCE)
            .min(options.connections)
        {
            instances.push(Tikv::connect(&options.pd, &options.tls, STOCK_TIMEOUT).await?);
        }
        variants.push(Variant::Stock(instances, stretches[0]));
    }
    variants.extend(etcd.map(|etcd| Variant::Bare(etcd, stretches[0])));
    if let Some(server) = echo {
        let connections =
            connect_store(server.address(), options.connections, &Dial::PLAIN).await?;
        let route = Arc::new(Route::anywhere(connections));
        variants.push(Variant::Echo(Target::Server(route)));
    }
    Ok(variants)
}

/// The variant that the others are measured by: the echo where there is one, or else etcd, or else
/// the first, given that there is another.
fn baseline(variants: &[Variant]) -> Option<usize> {
    let place = |wanted: fn(&Variant) -> bool| variants.iter().position(wanted);
    let echo = place(|variant| matches!(variant, Variant::Echo(_)));
    let etcd = place(|variant| matches!(variant, Variant::Bare(Target::Etcd(_), _)));
    if variants.len() < 2 {
        None
    } else {
        echo.or(etcd).or(Some(0))
    }
}

/// The order of one round: forth and back.
fn schedule(variants: usize) -> impl Iterator<Item = usize> {
    (0..variants).chain((0..variants).rev())
}

struct Bench<'a> {
    options: &'a Options,
    scraper: Scraper,
    /// Of the members of etcd.
    etcd_scraper: Scraper,
}

impl Bench<'_> {
    fn scraper_of(&self, target: &Target) -> &Scraper {
        match target {
            Target::Etcd(_) => &self.etcd_scraper,
            Target::Cluster(..) | Target::Server(_) => &self.scraper,
        }
    }

    /// Writes all records of a stretch.
    async fn load(&self, target: &Target, stretch: Stretch) -> Outcome {
        let (budget, next) = (Budget::unlimited(), Arc::new(AtomicU64::new(0)));
        let mut seeds = SplitMix64::seed_from_u64(self.options.seed);
        let clients = self.options.clients.iter().copied().max().unwrap_or(1);
        let loaders = self.bare(clients, target, Operation::Put, stretch, &mut seeds);
        let loaders = loaders.into_iter().map(|bare| Loader {
            bare,
            next: Arc::clone(&next),
            again: None,
            budget: Arc::clone(&budget),
        });
        let goal = Goal::Operations(self.options.records);
        let progress = Progress::new("load", goal, self.verbosity());
        drive(loaders.collect(), budget, self.scraper_of(target), progress)
            .await
            .0
    }

    /// All turns of all variants with this many clients.
    async fn compare(&self, clients: usize, variants: &[Variant]) -> Comparison {
        let mut seeds = SplitMix64::seed_from_u64(self.options.seed ^ clients as u64);
        let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); variants.len()];
        for _ in 0..self.options.rounds {
            for at in schedule(variants.len()) {
                outcomes[at].push(self.turn(clients, &variants[at], &mut seeds).await);
            }
        }
        let reports = variants.iter().zip(outcomes).map(|(variant, turns)| {
            let per_s = turns
                .iter()
                .map(|turn| turn.report().throughput_per_s)
                .collect();
            let total = turns.into_iter().reduce(|mut sum, turn| {
                sum.merge(&turn);
                sum
            });
            VariantReport {
                name: variant.name(),
                regions: variant.regions(),
                ratio: None,
                turns_per_s: per_s,
                total: total.expect("every variant has two turns a round").report(),
            }
        });
        Comparison::new(clients, reports.collect(), baseline(variants))
    }

    async fn turn(&self, clients: usize, variant: &Variant, seeds: &mut SplitMix64) -> Outcome {
        let operation = self.options.operation;
        let off = Scraper::off("an echo server has none");
        match variant {
            Variant::Bare(target, stretch) => {
                let bare = self.bare(clients, target, operation, *stretch, seeds);
                self.warm_and_measure(bare, variant, self.scraper_of(target))
                    .await
            }
            Variant::Echo(target) => {
                let bare = self.bare(clients, target, Operation::Get, Stretch::new(0, 1), seeds);
                self.warm_and_measure(bare, variant, &off).await
            }
            Variant::Stock(instances, stretch) => {
                let payload = self.payload(seeds.next_u64());
                let each = instances.iter().cycle().take(clients);
                let stock = each.map(|client| Stock {
                    source: self.source(operation, *stretch, &payload, seeds.next_u64()),
                    client: client.clone(),
                });
                let stock = stock.collect();
                self.warm_and_measure(stock, variant, &self.scraper).await
            }
        }
    }

    async fn warm_and_measure<C: Client>(
        &self,
        clients: Vec<C>,
        variant: &Variant,
        scraper: &Scraper,
    ) -> Outcome {
        let Options {
            duration, warmup, ..
        } = *self.options;
        let silent = Progress::new("", Goal::Duration(warmup), Verbosity::Quiet);
        let off = Scraper::off("a warm-up is not measured");
        let (_, clients) = drive(clients, Budget::duration(warmup), &off, silent).await;
        let progress = Progress::new(variant.name(), Goal::Duration(duration), self.verbosity());
        drive(clients, Budget::duration(duration), scraper, progress)
            .await
            .0
    }

    fn bare(
        &self,
        clients: usize,
        target: &Target,
        operation: Operation,
        stretch: Stretch,
        seeds: &mut SplitMix64,
    ) -> Vec<Bare> {
        let payload = self.payload(seeds.next_u64());
        let client = |number| Bare {
            source: self.source(operation, stretch, &payload, seeds.next_u64()),
            target: target.clone(),
            number,
        };
        (0..clients).map(client).collect()
    }

    fn source(
        &self,
        operation: Operation,
        stretch: Stretch,
        payload: &Payload,
        seed: u64,
    ) -> Source {
        let rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        Source {
            operation,
            stretch,
            records: self.options.records,
            payload: payload.clone(),
            rng,
        }
    }

    fn payload(&self, seed: u64) -> Payload {
        Payload::new(self.options.value_size, seed)
    }

    fn verbosity(&self) -> Verbosity {
        if self.options.quiet {
            Verbosity::Quiet
        } else {
            Verbosity::Normal
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
