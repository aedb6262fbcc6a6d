//! What the user asks of the bare driver, and what of it makes sense.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::Args;
use flotilla_tls::TlsArgs;

use super::{clients::Operation, keys::REGIONS_MAX};
use crate::ycsb::{OptionsError, address, outputs, some_time, within};

const CLIENTS_MAX: u64 = 65_536;
const CONNECTIONS_MAX: u64 = 1_024;
const ROUNDS_MAX: u64 = 1_000;
const RECORDS_MAX: u64 = 1_000_000_000;
/// A store refuses longer values.
const VALUE_BYTES_MAX: u64 = 6 * 1024 * 1024;
/// Stretches are told apart by two digits.
const STRETCHES_MAX: u64 = 100;

/// `flotilla bench raw`
///
/// Every combination is measured in turns of one run, forth and back (A B C C B A), so that a machine
/// that warms up or slows down meanwhile favours none.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Address of a node, as HOST:PORT; several, or once with commas
    #[arg(long, value_name = "ADDR", value_delimiter = ',', required = true)]
    pub pd: Vec<String>,

    /// With what certificate to connect to the nodes.
    #[command(flatten)]
    pub tls: TlsArgs,

    /// What to measure
    #[arg(long, value_enum, default_value = "get")]
    pub operation: Operation,

    /// Concurrent calls; several, or once with commas: each number is measured by itself
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "64")]
    pub clients: Vec<usize>,

    /// Connections per store that the calls share
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub connections: usize,

    /// Regions the records are spread over; several, or once with commas: compared with each other
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1")]
    pub regions: Vec<u32>,

    /// Records per number of regions
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub records: u64,

    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 1_024)]
    pub value_size: usize,

    /// An echo server to compare with: `spawn` starts one as a process of its own, `in-process` one
    /// inside the driver, HOST:PORT uses one that runs
    #[arg(long, value_name = "WHERE")]
    pub echo: Option<Echo>,

    /// Make the same calls over BatchCommands as well
    #[arg(long)]
    pub batch: bool,

    /// Members of an etcd cluster to compare with, as HOST:PORT; several, or once with commas. Calls go to
    /// the one that leads
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub etcd: Vec<String>,

    /// Compare with the stock client as well
    #[arg(long)]
    pub stock: bool,

    /// Length of a turn
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    pub duration: Duration,

    /// Before each turn, not measured
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,

    /// How often to go forth and back
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub rounds: u32,

    /// Where all random choices come from
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,

    /// Nodes whose /metrics are read before and after each turn, as HOST:PORT [default: those of --pd]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub metrics: Vec<String>,

    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// No progress
    #[arg(long)]
    pub quiet: bool,
}

/// Where the echo server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Echo {
    /// A child process of this program; the driver and the server do not share a runtime, as with
    /// the real one.
    Spawn,
    /// A task of the driver.
    InProcess,
    /// Somewhere, as `HOST:PORT`.
    At(String),
}

impl FromStr for Echo {
    type Err = OptionsError;

    fn from_str(text: &str) -> Result<Self, OptionsError> {
        match text {
            "spawn" => Ok(Echo::Spawn),
            "in-process" => Ok(Echo::InProcess),
            other => address("--echo", other).map(|()| Echo::At(other.into())),
        }
    }
}

impl Options {
    /// Checks everything that can be checked without a server.
    pub fn validate(&self) -> Result<(), OptionsError> {
        self.pd
            .iter()
            .try_for_each(|given| address("--pd", given))?;
        self.metrics
            .iter()
            .try_for_each(|given| address("--metrics", given))?;
        self.etcd
            .iter()
            .try_for_each(|given| address("--etcd", given))?;
        let clients = self.clients.iter().map(|clients| *clients as u64);
        clients
            .into_iter()
            .try_for_each(|given| within("--clients", given, 1, CLIENTS_MAX))?;
        within("--connections", self.connections as u64, 1, CONNECTIONS_MAX)?;
        let regions = self.regions.iter().map(|regions| u64::from(*regions));
        regions
            .into_iter()
            .try_for_each(|given| within("--regions", given, 1, REGIONS_MAX.into()))?;
        within(
            "--regions, numbers given,",
            self.regions.len() as u64,
            1,
            STRETCHES_MAX,
        )?;
        // Fewer records than regions would leave regions without load.
        let regions = self.regions.iter().copied().max().unwrap_or(1);
        within("--records", self.records, regions.into(), RECORDS_MAX)?;
        within("--value-size", self.value_size as u64, 0, VALUE_BYTES_MAX)?;
        within("--rounds", self.rounds.into(), 1, ROUNDS_MAX)?;
        some_time("--duration", Some(self.duration))?;
        outputs(&[("--json", self.json.as_ref())])
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;
    use expect_test::{Expect, expect};

    use super::*;

    #[derive(Parser, Debug)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    pub(crate) fn parse(line: &str) -> Result<Options, String> {
        let words = std::iter::once("raw").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        cli.options.validate().map_err(|error| error.to_string())?;
        Ok(cli.options)
    }

    #[track_caller]
    fn check_refused(extra: &str, expected: Expect) {
        let answer = parse(&format!("--pd a:1 {extra}")).expect_err("must be refused");
        expected.assert_eq(answer.lines().next().unwrap());
    }

    #[test]
    fn lists_and_echo_servers_are_understood() {
        let options = parse("--pd a:1,b:2 --clients 64,256 --regions 1,256,1024").unwrap();
        assert_eq!(
            (options.clients, options.regions),
            (vec![64, 256], vec![1, 256, 1_024])
        );
        for (text, expected) in [
            ("spawn", Echo::Spawn),
            ("in-process", Echo::InProcess),
            ("h:1", Echo::At("h:1".into())),
        ] {
            let options = parse(&format!("--pd a:1 --echo {text}")).unwrap();
            assert_eq!(options.echo, Some(expected));
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (extra, expected) in [
            (
                "--clients 0",
                expect!["--clients is 0, must be from 1 to 65536"],
            ),
            (
                "--clients 4,0",
                expect!["--clients is 0, must be from 1 to 65536"],
            ),
            (
                "--connections 0",
                expect!["--connections is 0, must be from 1 to 1024"],
            ),
            (
                "--regions 10000",
                expect!["--regions is 10000, must be from 1 to 9999"],
            ),
            (
                "--regions 1,256 --records 255",
                expect!["--records is 255, must be from 256 to 1000000000"],
            ),
            (
                "--rounds 0",
                expect!["--rounds is 0, must be from 1 to 1000"],
            ),
            ("--duration 0s", expect!["--duration is zero"]),
            (
                "--etcd http://h:1",
                expect![[r#"--etcd is "http://h:1", must be HOST:PORT without a scheme"#]],
            ),
            (
                "--echo nowhere",
                expect![[
                    r#"error: invalid value 'nowhere' for '--echo <WHERE>': --echo is "nowhere", must be HOST:PORT without a scheme"#
                ]],
            ),
        ] {
            check_refused(extra, expected);
        }
    }
}
