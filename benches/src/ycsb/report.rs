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
