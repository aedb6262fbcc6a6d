//! `flotilla demo`: a node in a temporary folder, and a short YCSB load on it.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Parser};
use flotilla_benches::ycsb;

use crate::config::{ByteSize, DEFAULT_ADDR, HostPort, Loaded};
use crate::node::Node;

/// Free space that a demo keeps; it writes less than that.
const DISK_RESERVE: ByteSize = ByteSize::mib(512);

/// How much load.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Records to load before the run
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    records: u64,
    /// Length of the run
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    duration: String,
    /// Concurrent requesters, each with one operation in flight
    #[arg(long, value_name = "N", default_value_t = 64)]
    threads: usize,
    /// Folder for the node's data, kept afterwards [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// No progress
    #[arg(long)]
    quiet: bool,
}

/// Kept as it was written, for the benchmark's command line.
fn time(text: &str) -> Result<String, humantime::DurationError> {
    humantime::parse_duration(text).map(|_| text.to_owned())
}

/// The benchmark's own command line: what it refuses there it refuses here.
#[derive(Parser)]
struct Ycsb {
    #[command(flatten)]
    options: ycsb::Options,
}

/// Starts the node, runs the load through the stock client, prints the figures.
///
/// # Errors
/// The node did not start, or the load found fault with it.
pub async fn run(args: &DemoArgs) -> anyhow::Result<()> {
    // Before there is a node: where it will listen makes no difference.
    load(args, DEFAULT_ADDR)?.validate()?;
    let temporary = tempfile::Builder::new().prefix("flotilla-demo-").tempdir();
    let temporary = temporary.context("cannot create a temporary folder")?;
    let data_dir = args
        .data_dir
        .clone()
        .unwrap_or_else(|| temporary.path().join("data"));
    let loaded = Loaded::from_defaults(|config| {
        config.data_dir = Some(data_dir.clone());
        config.addr = HostPort {
            host: "127.0.0.1".to_owned(),
            port: 0,
        };
        config.disk_reserve = Some(DISK_RESERVE);
    })?;
    let node = Node::start(&loaded).await?;
    println!(
        "A node serves on {}, its data are in {}.",
        node.advertised(),
        data_dir.display()
    );
    println!("YCSB workload A (half reads, half updates) through the stock tikv-client:\n");
    let load = load(args, &node.advertised().to_string())?;
    let report = tokio::select! {
        report = ycsb::run(load) => report?,
        fatal = node.failed() => return Err(fatal.into()),
    };
    print!("{report}");
    node.stop().await?;
    report.verdict()
}

fn load(args: &DemoArgs, addr: &str) -> Result<ycsb::Options, clap::Error> {
    let (records, threads) = (args.records.to_string(), args.threads.to_string());
    let mut words = vec!["demo", "--workload", "a", "--verify", "--pd", addr];
    words.extend([
        "--records",
        &records,
        "--threads",
        &threads,
        "--duration",
        &args.duration,
    ]);
    if args.quiet {
        words.push("--quiet");
    }
    Ok(Ycsb::try_parse_from(words)?.options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_load_that_cannot_be_is_refused_before_there_is_a_node() {
        #[derive(Parser)]
        struct Demo {
            #[command(flatten)]
            args: DemoArgs,
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data");
        let dir = path.to_str().expect("a readable path");
        let parse = |extra: [&str; 2]| {
            let words = ["demo", "--data-dir", dir].into_iter().chain(extra);
            Demo::try_parse_from(words).map(|demo| demo.args)
        };
        for (extra, expected) in [
            (["--records", "0"], "--records is 0"),
            (["--threads", "0"], "--threads is 0"),
            (["--duration", "0s"], "--duration is zero"),
        ] {
            let args = parse(extra).expect("well-formed");
            let error = run(&args).await.expect_err(expected);
            assert!(error.to_string().starts_with(expected), "{error}");
            assert!(flotilla_benches::is_wrong_command_line(&error));
        }
        assert!(parse(["--duration", "soon"]).is_err());
        assert!(!path.exists());
    }

    #[test]
    fn the_demo_s_load_is_one_the_benchmark_takes() {
        let args = DemoArgs {
            records: 10,
            duration: "1s".to_owned(),
            threads: 2,
            data_dir: None,
            quiet: true,
        };
        let options = load(&args, "127.0.0.1:1").expect("a valid command line");
        options.validate().expect("valid options");
        assert_eq!((options.records, options.threads), (10, 2));
        let wrong = DemoArgs {
            duration: "soon".to_owned(),
            ..args
        };
        assert!(load(&wrong, "127.0.0.1:1").is_err());
    }
}
