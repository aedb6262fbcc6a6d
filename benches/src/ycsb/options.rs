//! What the user asks for, and what of it makes sense.

use std::{fs, path::PathBuf, time::Duration};

use clap::Args;
use flotilla_tls::TlsArgs;
use thiserror::Error;

use super::workload::{Distribution, Workload};

/// Most records: their numbers must leave room for inserts and for the zipfian sums.
const RECORDS_MAX: u64 = 10_000_000_000;
const THREADS_MAX: usize = 65_536;
const CLIENTS_MAX: usize = 1_024;
/// A store refuses longer values.
const VALUE_BYTES_MAX: usize = 6 * 1024 * 1024;
/// The stock client refuses longer scans.
const SCAN_LENGTH_MAX: u32 = 10_240;

/// One connection carries this many threads before the driver opens another.
const THREADS_PER_CLIENT: usize = 16;
const CLIENTS_BY_DEFAULT_MAX: usize = 8;

/// `flotilla bench ycsb`
///
/// The phases are load (write the records) and run (the workload's mix of operations); both by
/// default. Every record is one value, replaced as a whole by an update.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Core workload
    #[arg(long, value_enum, ignore_case = true)]
    pub workload: Workload,

    /// Records to load, or loaded before
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub records: u64,

    /// Operations of the run phase [default: 100000, unless --duration is given]
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    pub operations: Option<u64>,

    /// Length of the run phase, such as 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,

    /// Concurrent requesters, each with one operation in flight
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub threads: usize,

    /// Client instances the threads share, each with its own connections [default: one per 16 threads, at most 8]
    #[arg(long, value_name = "N")]
    pub clients: Option<usize>,

    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 1_000)]
    pub value_size: usize,

    /// Which records are asked for [default: latest for workload d, zipfian for the others]
    #[arg(long, value_enum, ignore_case = true)]
    pub distribution: Option<Distribution>,

    /// Longest scan of workload e; lengths are uniform from 1
    #[arg(long, value_name = "RECORDS", default_value_t = 100)]
    pub scan_length_max: u32,

    /// Address of a node, as HOST:PORT; several, or once with commas
    #[arg(long, value_name = "ADDR", value_delimiter = ',', required = true)]
    pub pd: Vec<String>,

    /// With what certificate to connect to the nodes.
    #[command(flatten)]
    pub tls: TlsArgs,

    /// What a single RPC may take
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,

    /// Only write the records
    #[arg(long, conflicts_with_all = ["run_only", "operations", "duration"])]
    pub load_only: bool,

    /// Only run the operations, on records that were loaded before
    #[arg(long)]
    pub run_only: bool,

    /// Afterwards read back up to this many records and check them; 1000 where no number is given
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1000")]
    pub verify: Option<u64>,

    /// Where all random choices come from; the same seed asks for the same records
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,

    /// Nodes whose /metrics are read before and after each phase, as HOST:PORT [default: those of --pd]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub metrics: Vec<String>,

    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Draw latencies and throughput
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// No progress
    #[arg(long)]
    pub quiet: bool,
}

/// The user asked for something that cannot be. Nothing was started.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OptionsError {
    /// A number outside its bounds.
    #[error("{option} is {given}, must be from {min} to {max}")]
    OutOfRange {
        /// The flag, with its dashes.
        option: &'static str,
        /// What was given.
        given: u64,
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
    /// A time of zero.
    #[error("{option} is zero")]
    NoTime {
        /// The flag, with its dashes.
        option: &'static str,
    },
    /// Not `HOST:PORT`.
    #[error("{option} is {given:?}, must be HOST:PORT without a scheme")]
    Address {
        /// The flag, with its dashes.
        option: &'static str,
        /// What was given.
        given: String,
    },
    /// A report that could not be written in the end.
    #[error("{option} is {}: {problem}", path.display())]
    Unwritable {
        /// The flag, with its dashes.
        option: &'static str,
        /// What was given.
        path: PathBuf,
        /// Why it cannot be written.
        problem: String,
    },
    /// Two reports in one file.
    #[error("{first} and {second} name the same file {}", path.display())]
    SameFile {
        /// A flag, with its dashes.
        first: &'static str,
        /// Another one.
        second: &'static str,
        /// The file.
        path: PathBuf,
    },
}

/// How long the run phase is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Operations(u64),
    Duration(Duration),
}

const OPERATIONS_BY_DEFAULT: u64 = 100_000;

impl Options {
    /// Checks everything that can be checked without a server.
    pub fn validate(&self) -> Result<(), OptionsError> {
        within("--records", self.records, 1, RECORDS_MAX)?;
        if let Some(operations) = self.operations {
            within("--operations", operations, 1, u64::MAX)?;
        }
        within("--threads", self.threads as u64, 1, THREADS_MAX as u64)?;
        if let Some(clients) = self.clients {
            within(
                "--clients",
                clients as u64,
                1,
                CLIENTS_MAX.min(self.threads) as u64,
            )?;
        }
        within(
            "--value-size",
            self.value_size as u64,
            0,
            VALUE_BYTES_MAX as u64,
        )?;
        within(
            "--scan-length-max",
            self.scan_length_max.into(),
            1,
            SCAN_LENGTH_MAX.into(),
        )?;
        if let Some(sample) = self.verify {
            within("--verify", sample, 1, RECORDS_MAX)?;
        }
        for (option, time) in [
            ("--duration", self.duration),
            ("--timeout", Some(self.timeout)),
        ] {
            some_time(option, time)?;
        }
        self.pd
            .iter()
            .try_for_each(|given| address("--pd", given))?;
        self.metrics
            .iter()
            .try_for_each(|given| address("--metrics", given))?;
        outputs(&[("--json", self.json.as_ref()), ("--svg", self.svg.as_ref())])
    }

    pub(super) fn length(&self) -> Length {
        match self.duration {
            Some(duration) => Length::Duration(duration),
            None => Length::Operations(self.operations.unwrap_or(OPERATIONS_BY_DEFAULT)),
        }
    }

    pub(super) fn distribution(&self) -> Distribution {
        self.distribution
            .unwrap_or_else(|| self.workload.default_distribution())
    }

    pub(super) fn clients(&self) -> usize {
        let by_default = self
            .threads
            .div_ceil(THREADS_PER_CLIENT)
            .min(CLIENTS_BY_DEFAULT_MAX);
        self.clients.unwrap_or(by_default)
    }
}

pub(crate) fn within(
    option: &'static str,
    given: u64,
    min: u64,
    max: u64,
) -> Result<(), OptionsError> {
    if (min..=max).contains(&given) {
        return Ok(());
    }
    Err(OptionsError::OutOfRange {
        option,
        given,
        min,
        max,
    })
}

pub(crate) fn some_time(option: &'static str, time: Option<Duration>) -> Result<(), OptionsError> {
    if time == Some(Duration::ZERO) {
        Err(OptionsError::NoTime { option })
    } else {
        Ok(())
    }
}

/// `HOST:PORT`; an IPv6 host stands in brackets.
pub(crate) fn address(option: &'static str, given: &str) -> Result<(), OptionsError> {
    let good = given.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let host_is_plain = !host.is_empty() && !host.contains(['/', ' ', '@']);
        let port_is_good = port.parse::<u16>().is_ok_and(|port| port != 0);
        host_is_plain && port_is_good && (bracketed || !host.contains(':'))
    });
    if good {
        Ok(())
    } else {
        Err(OptionsError::Address {
            option,
            given: given.into(),
        })
    }
}

/// Whether all reports can be written later, so that a long run is not lost in the end.
pub(crate) fn outputs(files: &[(&'static str, Option<&PathBuf>)]) -> Result<(), OptionsError> {
    let files: Vec<_> = files
        .iter()
        .filter_map(|(option, path)| Some((*option, (*path)?)))
        .collect();
    for (at, (option, path)) in files.iter().enumerate() {
        let twin = files[..at].iter().find(|(_, other)| other == path);
        if let Some((first, _)) = twin {
            return Err(OptionsError::SameFile {
                first,
                second: option,
                path: (*path).clone(),
            });
        }
    }
    for (option, path) in files {
        // Opening for append creates the file but leaves an older report as it is until then.
        let opened = fs::OpenOptions::new().append(true).create(true).open(path);
        opened.map_err(|error| OptionsError::Unwritable {
            option,
            path: path.clone(),
            problem: error.to_string(),
        })?;
    }
    Ok(())
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
        let words = std::iter::once("ycsb").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        cli.options.validate().map_err(|error| error.to_string())?;
        Ok(cli.options)
    }

    const GOOD: &str = "--workload a --pd 127.0.0.1:2379";

    /// The first line of what a bad command line is answered with.
    #[track_caller]
    fn check_refused(line: &str, expected: Expect) {
        let answer = parse(line).expect_err("must be refused");
        expected.assert_eq(answer.lines().next().unwrap());
    }

    #[track_caller]
    fn check_refused_with(extra: &str, expected: Expect) {
        check_refused(&format!("{GOOD} {extra}"), expected);
    }

    #[test]
    fn the_short_form_fills_in_the_rest() {
        let options = parse(GOOD).unwrap();
        assert_eq!(options.length(), Length::Operations(100_000));
        assert_eq!(options.distribution(), Distribution::Zipfian);
        assert_eq!(
            (options.threads, options.clients(), options.value_size),
            (32, 2, 1_000)
        );
        assert_eq!((options.verify, options.seed), (None, 1));
    }

    #[test]
    fn everything_can_be_said() {
        let options = parse(
            "--workload D --records 5 --duration 1m30s --threads 3 --clients 2 --value-size 0 \
             --distribution Uniform --scan-length-max 7 --pd a:1,b:2 --pd [::1]:3 --run-only \
             --verify 9 --seed 4 --metrics c:5 --quiet --timeout 500ms",
        )
        .unwrap();
        assert_eq!(options.length(), Length::Duration(Duration::from_secs(90)));
        assert_eq!(options.pd, ["a:1", "b:2", "[::1]:3"]);
        assert_eq!(options.distribution(), Distribution::Uniform);
        assert_eq!(options.verify, Some(9));
        assert!(options.run_only && options.quiet);
    }

    #[test]
    fn latest_is_the_default_of_workload_d_only() {
        let options = parse("--workload d --pd a:1 --verify").unwrap();
        assert_eq!(options.distribution(), Distribution::Latest);
        assert_eq!(options.verify, Some(1_000));
    }

    #[test]
    fn what_is_needed_is_named() {
        check_refused(
            "--pd a:1",
            expect!["error: the following required arguments were not provided:"],
        );
        check_refused(
            "--workload g --pd a:1",
            expect!["error: invalid value 'g' for '--workload <WORKLOAD>'"],
        );
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        for (extra, expected) in [
            (
                "--records 0",
                expect!["--records is 0, must be from 1 to 10000000000"],
            ),
            (
                "--operations 0",
                expect!["--operations is 0, must be from 1 to 18446744073709551615"],
            ),
            (
                "--threads 0",
                expect!["--threads is 0, must be from 1 to 65536"],
            ),
            (
                "--threads 4 --clients 5",
                expect!["--clients is 5, must be from 1 to 4"],
            ),
            (
                "--value-size 6291457",
                expect!["--value-size is 6291457, must be from 0 to 6291456"],
            ),
            (
                "--scan-length-max 0",
                expect!["--scan-length-max is 0, must be from 1 to 10240"],
            ),
            (
                "--scan-length-max 10241",
                expect!["--scan-length-max is 10241, must be from 1 to 10240"],
            ),
            (
                "--verify 0",
                expect!["--verify is 0, must be from 1 to 10000000000"],
            ),
            ("--duration 0s", expect!["--duration is zero"]),
            ("--timeout 0s", expect!["--timeout is zero"]),
            (
                "--records -1",
                expect!["error: unexpected argument '-1' found"],
            ),
        ] {
            check_refused_with(extra, expected);
        }
    }

    #[test]
    fn contradictions_are_refused_by_name() {
        for (extra, expected) in [
            (
                "--operations 5 --duration 1s",
                expect![
                    "error: the argument '--operations <N>' cannot be used with '--duration <TIME>'"
                ],
            ),
            (
                "--load-only --run-only",
                expect!["error: the argument '--load-only' cannot be used with '--run-only'"],
            ),
            (
                "--load-only --operations 5",
                expect!["error: the argument '--load-only' cannot be used with '--operations <N>'"],
            ),
        ] {
            check_refused_with(extra, expected);
        }
    }

    #[test]
    fn addresses_are_host_and_port() {
        for given in [
            "http://a:1",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:65536",
            "::1:5",
            "a b:1",
            "",
        ] {
            let error = address("--pd", given).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("--pd is {given:?}, must be HOST:PORT without a scheme")
            );
        }
        for given in [
            "a:1",
            "[::1]:65535",
            "10.0.0.1:2379",
            "node-1.example:20160",
        ] {
            assert_eq!(address("--pd", given), Ok(()));
        }
    }

    #[test]
    fn reports_that_could_not_be_written_are_refused_before_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report");
        let options = |json: &PathBuf, svg: &PathBuf| {
            let mut options = parse(GOOD).unwrap();
            (options.json, options.svg) = (Some(json.clone()), Some(svg.clone()));
            options.validate()
        };
        let missing = folder.path().join("no/such/folder/report");
        let same = OptionsError::SameFile {
            first: "--json",
            second: "--svg",
            path: file.clone(),
        };
        assert_eq!(options(&file, &file), Err(same));
        assert!(!file.exists(), "a wrong command line touches nothing");
        for (json, svg, flag) in [
            (&missing, &file, "--json"),
            (&file, &folder.path().to_path_buf(), "--svg"),
        ] {
            let error = options(json, svg).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{flag} is /")), "{error}");
        }
    }

    #[test]
    fn an_older_report_survives_the_check() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report");
        std::fs::write(&file, "old").unwrap();
        outputs(&[("--json", Some(&file))]).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "old");
    }
}
