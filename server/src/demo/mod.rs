//! `flotilla demo`: a cluster in this process, a YCSB load on it, and a node that dies meanwhile.

mod cluster;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Parser};
use flotilla_benches::report::{PhaseReport, SilenceReport};
use flotilla_benches::ycsb;
use serde::Serialize;

use crate::config::{DEFAULT_ADDR, HostPort};
use crate::process;
use cluster::{Cluster, Place};

/// How much load.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Nodes of the cluster, all in this process: 3, or 1 of which none dies
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = nodes)]
    nodes: u16,
    /// Records to load before the run
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    records: u64,
    /// Length of the run; one third into it a node dies, after two thirds it comes back
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    duration: String,
    /// Concurrent requesters, each with one operation in flight
    #[arg(long, value_name = "N", default_value_t = 64)]
    threads: usize,
    /// Folder for the nodes' data, kept afterwards [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the first node listens, the others on the ports that follow [default: any free ports of
    /// 127.0.0.1]
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<HostPort>,
    /// No load: the cluster stays until SIGTERM or Ctrl-C
    #[arg(long, conflicts_with_all = ["records", "duration", "threads", "json"])]
    stay: bool,
    /// Write what was found as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// No progress
    #[arg(long)]
    quiet: bool,
}

/// Kept as it was written, for the benchmark's command line.
fn time(text: &str) -> Result<String, humantime::DurationError> {
    humantime::parse_duration(text).map(|_| text.to_owned())
}

fn nodes(text: &str) -> Result<u16, &'static str> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("a demo has 1 node or 3"),
    }
}

/// The benchmark's own command line: what it refuses there it refuses here.
#[derive(Parser)]
struct Ycsb {
    #[command(flatten)]
    options: ycsb::Options,
}

/// What a demo found.
#[derive(Debug, Serialize)]
struct Found {
    nodes: u16,
    /// With several nodes.
    restart: Option<Restart>,
    /// What the clients saw of it: the longest time without an acknowledged write.
    without_writes: Option<SilenceReport>,
    ycsb: ycsb::Report,
}

/// A node died and came back.
#[derive(Clone, Debug, Serialize)]
struct Restart {
    /// Which, from 1.
    node: usize,
    /// Where it listens.
    addr: String,
    /// Regions that it led, PD's own included ...
    led: usize,
    /// ... of so many.
    regions: usize,
    /// From the start of the run.
    killed_s: f64,
    /// From there to the start of the node.
    away_s: f64,
    /// From there until every replica was in step again.
    caught_up_s: f64,
}

/// Starts the cluster, and then stays or runs the load through the stock client and prints the figures.
///
/// # Errors
/// A node did not start or failed, or the load found fault with the cluster.
pub async fn run(args: &DemoArgs) -> anyhow::Result<()> {
    // Before there is a node: where it will listen makes no difference.
    load(args, DEFAULT_ADDR)?.validate()?;
    let temporary = tempfile::Builder::new().prefix("flotilla-demo-").tempdir();
    let temporary = temporary.context("cannot create a temporary folder")?;
    let folder = args.data_dir.as_deref().unwrap_or(temporary.path());
    let any = HostPort {
        host: "127.0.0.1".to_owned(),
        port: 0,
    };
    let addr = args.addr.as_ref().unwrap_or(&any);
    let mut stop = process::stop_signal().context("cannot wait for signals")?;
    let showing = async {
        let cluster = start(args, folder, addr).await?;
        if args.stay {
            println!("They stay until Ctrl-C.");
            let failed = cluster.failed();
            return Ok((cluster, Some(failed)));
        }
        let cluster = show(args, cluster).await?;
        Ok::<_, anyhow::Error>((cluster, None))
    };
    let (cluster, staying) = tokio::select! {
        shown = showing => shown?,
        // As a power cut.
        _ = &mut stop => return Ok(()),
    };
    if let Some(failed) = staying {
        tokio::select! {
            _ = stop => println!("Stopping."),
            fatal = failed => return Err(fatal.into()),
        }
    }
    cluster.stop().await
}

async fn start(args: &DemoArgs, folder: &Path, addr: &HostPort) -> anyhow::Result<Cluster> {
    let cluster = Cluster::start(&Place {
        folder,
        addr,
        nodes: args.nodes,
        quiet: args.quiet,
    })
    .await?;
    let (addrs, folder) = (cluster.addrs().join(", "), folder.display());
    println!(
        "{} serve on {addrs}; their data are in {folder}.",
        of(args.nodes, "node")
    );
    cluster.settle("replicas").await;
    Ok(cluster)
}

fn of(count: u16, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

/// Runs the load, and a restart in the middle of it.
async fn show(args: &DemoArgs, mut cluster: Cluster) -> anyhow::Result<Cluster> {
    println!("YCSB workload A (half reads, half updates) through the stock tikv-client:\n");
    let load = load(args, &cluster.addrs().join(","))?;
    let third = load.duration.unwrap_or_default() / 3;
    let (failed, quiet) = (cluster.failed(), args.quiet);
    let several = args.nodes > 1;
    let uncounted = several.then_some("the nodes share a process, and one of them dies");
    let meanwhile = async {
        match several {
            false => Ok(None),
            true => restart(&mut cluster, third, quiet).await.map(Some),
        }
    };
    let (ycsb, restart) = tokio::select! {
        found = ycsb::run_while(load, uncounted, meanwhile) => found?,
        fatal = failed => return Err(fatal.into()),
    };
    let run = ycsb.run.as_ref();
    let found = Found {
        nodes: args.nodes,
        restart: restart.transpose()?.flatten(),
        without_writes: run.and_then(|run| run.without_writes),
        ycsb,
    };
    print!("{found}");
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&found).context("the report as JSON")?;
        let written = std::fs::write(path, json + "\n");
        written.with_context(|| format!("--json {}", path.display()))?;
    }
    found.ycsb.verdict()?;
    Ok(cluster)
}

/// The node that leads most dies, and comes back.
async fn restart(cluster: &mut Cluster, third: Duration, quiet: bool) -> anyhow::Result<Restart> {
    let say = |what: String| {
        if !quiet {
            eprintln!("{what}");
        }
    };
    let begun = Instant::now();
    tokio::time::sleep(third).await;
    let (node, led, regions) = cluster.busiest();
    let addr = cluster.addrs()[node].clone();
    say(format!("node {} at {addr} dies", node + 1));
    let killed = Instant::now();
    cluster.kill(node).await;
    tokio::time::sleep(third).await;
    say(format!("node {} starts again", node + 1));
    let away = killed.elapsed();
    cluster.start_again(node).await?;
    cluster.settle("catching up").await;
    Ok(Restart {
        node: node + 1,
        addr,
        led,
        regions,
        killed_s: (killed - begun).as_secs_f64(),
        away_s: away.as_secs_f64(),
        caught_up_s: (killed.elapsed() - away).as_secs_f64(),
    })
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ycsb)?;
        let Some(restart) = &self.restart else {
            return Ok(());
        };
        let Restart {
            node,
            addr,
            led,
            regions,
            killed_s,
            away_s,
            caught_up_s,
        } = restart;
        writeln!(
            f,
            "restart: node {node} at {addr} led {led} of {regions} regions; it died after {killed_s:.1} s, was away \
             for {away_s:.1} s, and {caught_up_s:.1} s later all replicas were in step"
        )?;
        if let Some(gap) = &self.without_writes {
            writeln!(
                f,
                "gap: {:.0} ms without an acknowledged write, the longest of the run, after {:.1} s",
                gap.ms, gap.from_s
            )?;
        }
        if let (Some(run), Some(verify)) = (&self.ycsb.run, &self.ycsb.verify)
            && verify.intact == verify.sampled
        {
            let writes = writes(run);
            writeln!(
                f,
                "no acknowledged write is lost: {writes} updates, {} records, none older than its last acknowledged one",
                verify.records
            )?;
        }
        Ok(())
    }
}

/// Acknowledged writes.
fn writes(phase: &PhaseReport) -> u64 {
    let kinds = phase.kinds.iter().filter(|kind| kind.operation.writes());
    kinds.map(|kind| kind.count).sum()
}

fn load(args: &DemoArgs, addrs: &str) -> Result<ycsb::Options, clap::Error> {
    let (records, threads) = (args.records.to_string(), args.threads.to_string());
    let mut words = vec!["demo", "--workload", "a", "--pd", addrs];
    words.extend([
        "--records",
        &records,
        "--threads",
        &threads,
        "--duration",
        &args.duration,
    ]);
    // All of them where a node dies; otherwise a sample.
    words.push("--verify");
    if args.nodes > 1 {
        words.push(&records);
    }
    if args.quiet {
        words.push("--quiet");
    }
    Ok(Ycsb::try_parse_from(words)?.options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser)]
    struct Demo {
        #[command(flatten)]
        args: DemoArgs,
    }

    fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<DemoArgs, clap::Error> {
        let words = ["demo"].into_iter().chain(words);
        Demo::try_parse_from(words).map(|demo| demo.args)
    }

    #[tokio::test]
    async fn a_load_that_cannot_be_is_refused_before_there_is_a_node() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data");
        let dir = path.to_str().expect("a readable path");
        for (extra, expected) in [
            (["--records", "0"], "--records is 0"),
            (["--threads", "0"], "--threads is 0"),
            (["--duration", "0s"], "--duration is zero"),
        ] {
            let args = parse(["--data-dir", dir].into_iter().chain(extra)).expect("well-formed");
            let error = run(&args).await.expect_err(expected);
            assert!(error.to_string().starts_with(expected), "{error}");
            assert!(flotilla_benches::is_wrong_command_line(&error));
        }
        for wrong in [["--duration", "soon"], ["--nodes", "2"], ["--addr", "here"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(!path.exists());
    }

    #[test]
    fn the_demo_s_load_is_one_the_benchmark_takes() {
        let words = ["--records", "10", "--threads", "2", "--duration", "1s"];
        let args = parse(words).expect("a valid command line");
        let options = load(&args, "127.0.0.1:1,127.0.0.1:2").expect("a valid command line");
        options.validate().expect("valid options");
        assert_eq!((options.records, options.threads), (10, 2));
        assert_eq!((options.pd.len(), options.verify), (2, Some(10)));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_node_dies_and_nothing_is_lost() {
        let folder = tempfile::tempdir().expect("a folder");
        let json = folder.path().join("found.json");
        let path = json.to_str().expect("a readable path");
        let words = ["--records", "200", "--threads", "4", "--duration", "6s"];
        let more = ["--quiet", "--json", path];
        let args = parse(words.into_iter().chain(more)).expect("a valid command line");
        run(&args).await.expect("a sound cluster");
        let found = std::fs::read_to_string(&json).expect("a report");
        let found: serde_json::Value = serde_json::from_str(&found).expect("JSON");
        assert_eq!(found["nodes"], 3);
        let restart = &found["restart"];
        assert!(restart["led"].as_u64() > Some(0), "{restart}");
        let verify = &found["ycsb"]["verify"];
        assert_eq!(
            (&verify["sampled"], &verify["intact"]),
            (&200.into(), &200.into())
        );
        assert!(
            found["without_writes"]["ms"].as_f64() > Some(0.0),
            "{found}"
        );
    }
}
