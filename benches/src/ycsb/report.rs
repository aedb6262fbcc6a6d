//! What a YCSB run found, as text and as JSON.

use std::fmt;

use serde::Serialize;

use super::{
    options::Options,
    workload::{Distribution, Workload},
};
use crate::{
    report::PhaseReport,
    table::{self, grouped},
};

/// Version of the JSON form; grows when a field changes its meaning or goes away.
const FORMAT: u32 = 1;

/// The whole result.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this form.
    pub format: u32,
    /// Always `ycsb`.
    pub benchmark: &'static str,
    /// What was asked for, defaults filled in.
    pub parameters: Parameters,
    /// The load phase, unless `--run-only`.
    pub load: Option<PhaseReport>,
    /// The run phase, unless `--load-only` or loading failed.
    pub run: Option<PhaseReport>,
    /// With `--verify`.
    pub verify: Option<VerifyReport>,
}

/// What was asked for, defaults filled in.
#[derive(Clone, Debug, Serialize)]
pub struct Parameters {
    /// Core workload.
    pub workload: Workload,
    /// Which records are asked for.
    pub distribution: Distribution,
    /// Records loaded, or said to be there.
    pub records: u64,
    /// Bytes of a value.
    pub value_size: usize,
    /// Concurrent requesters.
    pub threads: usize,
    /// Client instances.
    pub clients: usize,
    /// Longest scan; present for workload e.
    pub scan_length_max: Option<u32>,
    /// Source of all random choices.
    pub seed: u64,
}

/// Records read back after the last phase.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Records whose last write was acknowledged.
    pub records: u64,
    /// Of those, read back.
    pub sampled: u64,
    /// Of the sampled, there and whole.
    pub intact: u64,
    /// Acknowledged, but not there.
    pub missing: u64,
    /// There, but not as anybody wrote them.
    pub damaged: u64,
    /// There and whole, but from before the record's last acknowledged write.
    pub stale: u64,
    /// The read itself failed.
    pub unread: u64,
    /// Some of those that were not intact.
    pub examples: Vec<String>,
}

impl Report {
    pub(super) fn new(options: &Options) -> Self {
        let scans = options.workload.mix().scan > 0;
        let parameters = Parameters {
            workload: options.workload,
            distribution: options.distribution(),
            records: options.records,
            value_size: options.value_size,
            threads: options.threads,
            clients: options.clients(),
            scan_length_max: scans.then_some(options.scan_length_max),
            seed: options.seed,
        };
        let (load, run, verify) = (None, None, None);
        Self {
            format: FORMAT,
            benchmark: "ycsb",
            parameters,
            load,
            run,
            verify,
        }
    }

    /// Whether the run says something about the store: an error when a phase ended before its
    /// time, when nothing succeeded, or when a record was found missing or damaged. Single
    /// failed operations are in the report and no error here.
    pub fn verdict(&self) -> anyhow::Result<()> {
        for (name, phase) in self.phases() {
            if let Some(reason) = &phase.stopped {
                anyhow::bail!("the {name} phase was given up: {reason}");
            }
            if phase.operations == 0 && phase.failed > 0 {
                anyhow::bail!("no operation of the {name} phase succeeded");
            }
            let errors = phase.kinds.iter().flat_map(|kind| &kind.errors);
            let lies = ["missing", "damaged", "wrong-scan"];
            if let Some(error) = errors
                .into_iter()
                .find(|error| lies.contains(&&*error.kind))
            {
                anyhow::bail!("the {name} phase read wrong data: {}", error.example);
            }
        }
        match &self.verify {
            Some(verify) if verify.intact < verify.sampled => {
                let wrong = verify.sampled - verify.intact;
                let example = verify.examples.first().map_or("", String::as_str);
                anyhow::bail!(
                    "{wrong} of {} records read back wrong: {example}",
                    verify.sampled
                )
            }
            _ => Ok(()),
        }
    }

    fn phases(&self) -> impl Iterator<Item = (&'static str, &PhaseReport)> {
        let (load, run) = (self.load.as_ref(), self.run.as_ref());
        load.map(|phase| ("load", phase))
            .into_iter()
            .chain(run.map(|phase| ("run", phase)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parameters {
            workload,
            records,
            value_size,
            threads,
            clients,
            seed,
            ..
        } = self.parameters;
        writeln!(
            f,
            "YCSB workload {}: {}",
            workload.letter(),
            workload.description()
        )?;
        let of_bytes = format!(
            "{} records of {} bytes",
            grouped(records),
            grouped(value_size as u64)
        );
        let distribution = self.parameters.distribution.name();
        writeln!(
            f,
            "{of_bytes}, {distribution}; {threads} threads, {clients} clients; seed {seed}"
        )?;
        writeln!(f)?;
        let phases: Vec<_> = self.phases().collect();
        writeln!(f, "{}", table::latencies(&phases))?;
        for (name, phase) in &phases {
            writeln!(f, "{name}: {}", table::summary(phase))?;
            writeln!(f, "{name}: {}", table::server(&phase.server))?;
            for line in table::errors(phase) {
                writeln!(f, "{name}: {line}")?;
            }
        }
        if let Some(verify) = &self.verify {
            writeln!(f, "verify: {verify}")?;
        }
        Ok(())
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [records, sampled, intact] = [self.records, self.sampled, self.intact].map(grouped);
        write!(
            f,
            "{sampled} of {records} records read back, {intact} intact"
        )?;
        for (count, what) in [
            (self.missing, "missing"),
            (self.damaged, "damaged"),
            (self.stale, "older than acknowledged"),
            (self.unread, "not read"),
        ] {
            if count > 0 {
                write!(f, ", {} {what}", grouped(count))?;
            }
        }
        self.examples
            .iter()
            .try_for_each(|example| write!(f, "\n  {example}"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expect_test::expect;

    use super::*;
    use crate::{
        counters::Difference,
        drive::Outcome,
        measure::{Failure, Tally},
        report::Kind,
        ycsb::options::tests::parse,
    };

    /// Two seconds of 100 reads and 50 updates, of which some more failed.
    fn phase(failure: Option<Failure>) -> PhaseReport {
        let mut tally = Tally::default();
        (1..=100).for_each(|ms| tally.succeeded(Kind::Read, Duration::from_millis(ms)));
        (1..=50).for_each(|us| tally.succeeded(Kind::Update, Duration::from_micros(us)));
        if let Some(failure) = failure {
            tally.failed(Kind::Update, failure);
        }
        let counters = |syncs| Ok([("flotilla_log_syncs_total", syncs)].into());
        let outcome = Outcome {
            tally,
            elapsed: Duration::from_secs(2),
            driver_cpu: Duration::from_millis(15),
            stopped: None,
            timeline: Vec::new(),
            silence: Default::default(),
            server: Difference::between(&counters(7.0), &counters(12.0)),
        };
        outcome.report()
    }

    fn report(run: PhaseReport, verify: Option<VerifyReport>) -> Report {
        let options = parse("--workload a --pd a:1 --records 5000").unwrap();
        Report {
            run: Some(run),
            verify,
            ..Report::new(&options)
        }
    }

    fn verified(intact: u64, missing: u64) -> VerifyReport {
        let (records, sampled) = (5_000, intact + missing);
        let examples = (0..missing).map(|record| format!("record {record}: missing"));
        VerifyReport {
            records,
            sampled,
            intact,
            missing,
            damaged: 0,
            stale: 0,
            unread: 0,
            examples: examples.collect(),
        }
    }

    #[test]
    fn the_text_holds_all_figures() {
        let busy = Failure::new("server-is-busy", "too many writes");
        let report = report(phase(Some(busy)), Some(verified(998, 2)));
        expect![[r#"
            YCSB workload a: 50 % reads, 50 % updates
            5,000 records of 1,000 bytes, zipfian; 32 threads, 2 clients; seed 1

            ┌───────┬───────────┬───────┬────────────┬─────────┬─────────┬─────────┬────────┬────────┐
            │ phase ┆ operation ┆ count ┆ per second ┆     p50 ┆     p95 ┆     p99 ┆    max ┆ failed │
            ╞═══════╪═══════════╪═══════╪════════════╪═════════╪═════════╪═════════╪════════╪════════╡
            │ run   ┆ read      ┆   100 ┆         50 ┆ 50.0 ms ┆ 95.0 ms ┆ 99.0 ms ┆ 100 ms ┆      0 │
            │ run   ┆ update    ┆    50 ┆         25 ┆   25 us ┆   48 us ┆   50 us ┆  50 us ┆      1 │
            └───────┴───────────┴───────┴────────────┴─────────┴─────────┴─────────┴────────┴────────┘
            run: 150 operations in 2.00 s, 75/s, 1 failed, driver CPU 100.0 us per operation
            run: per operation: 0.0333 fsyncs; per write: 0.1000 fsyncs
            run: update failed 1 times with server-is-busy, first: too many writes
            verify: 1,000 of 5,000 records read back, 998 intact, 2 missing
              record 0: missing
              record 1: missing
        "#]].assert_eq(&report.to_string());
    }

    #[test]
    fn the_verdict_is_about_wrong_data_and_not_about_refused_operations() {
        let failed = |kind: &'static str| Some(Failure::new(kind, "user1"));
        let mut given_up = phase(None);
        given_up.stopped = Some("nothing came".into());
        let mut nothing = phase(failed("timeout"));
        nothing.operations = 0;
        for (run, verify, expected) in [
            (phase(None), None, None),
            (phase(None), Some(verified(10, 0)), None),
            (phase(failed("server-is-busy")), None, None),
            (
                given_up,
                None,
                Some("the run phase was given up: nothing came"),
            ),
            (
                nothing,
                None,
                Some("no operation of the run phase succeeded"),
            ),
            (
                phase(failed("missing")),
                None,
                Some("the run phase read wrong data: user1"),
            ),
            (
                phase(failed("damaged")),
                None,
                Some("the run phase read wrong data: user1"),
            ),
            (
                phase(failed("wrong-scan")),
                None,
                Some("the run phase read wrong data: user1"),
            ),
            (
                phase(None),
                Some(verified(9, 1)),
                Some("1 of 10 records read back wrong: record 0: missing"),
            ),
        ] {
            let verdict = report(run, verify)
                .verdict()
                .map_err(|error| error.to_string());
            assert_eq!(verdict.err().as_deref(), expected);
        }
    }
}
