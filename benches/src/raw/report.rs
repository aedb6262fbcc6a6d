//! What a bare run found, as text and as JSON.

use std::fmt;

use serde::Serialize;

use super::{clients::Operation, options::Options};
use crate::{
    report::PhaseReport,
    table::{self, grouped},
};

/// Version of the JSON form; grows when a field changes its meaning or goes away.
pub(super) const FORMAT: u32 = 1;

/// The whole result.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this form.
    pub format: u32,
    /// `raw` or `echo`.
    pub benchmark: &'static str,
    /// What was asked for.
    pub parameters: Parameters,
    /// Loading, one per number of regions, then etcd's; none when only puts are measured.
    pub load: Vec<PhaseReport>,
    /// One comparison per number of clients.
    pub comparisons: Vec<Comparison>,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Parameters {
    /// What was measured.
    pub operation: Operation,
    /// Bytes of a value.
    pub value_size: usize,
    /// Records per number of regions.
    pub records: u64,
    /// Connections per store.
    pub connections: usize,
    /// Length of a turn.
    pub duration_s: f64,
    /// Before each turn, not measured.
    pub warmup_s: f64,
    /// How often forth and back.
    pub rounds: u32,
    /// Source of all random choices.
    pub seed: u64,
}

/// The same load on several variants, in alternating turns.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Concurrent calls.
    pub clients: usize,
    /// The variant that ratios refer to; absent when there is only one.
    pub baseline: Option<String>,
    /// In the order of the first turns.
    pub variants: Vec<VariantReport>,
}

/// All turns of one variant.
#[derive(Clone, Debug, Serialize)]
pub struct VariantReport {
    /// `1 region`, `256 regions`, `256 regions, batched`, `stock client`, `etcd` or `echo`.
    pub name: String,
    /// Regions the records lie in; absent for etcd and the echo.
    pub regions: Option<u32>,
    /// Throughput divided by the baseline's; absent for the baseline itself.
    pub ratio: Option<f64>,
    /// Throughput of each turn: how much the machine varies.
    pub turns_per_s: Vec<f64>,
    /// All turns together.
    pub total: PhaseReport,
}

impl Parameters {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            operation: options.operation,
            value_size: options.value_size,
            records: options.records,
            connections: options.connections,
            duration_s: options.duration.as_secs_f64(),
            warmup_s: options.warmup.as_secs_f64(),
            rounds: options.rounds,
            seed: options.seed,
        }
    }
}

impl Comparison {
    /// Relates all variants to the baseline.
    pub(super) fn new(
        clients: usize,
        mut variants: Vec<VariantReport>,
        baseline: Option<usize>,
    ) -> Self {
        if let Some(at) = baseline {
            let base = variants[at].total.throughput_per_s;
            let others = variants
                .iter_mut()
                .enumerate()
                .filter(|(other, _)| *other != at);
            others.for_each(|(_, variant)| {
                variant.ratio = (base > 0.0).then(|| variant.total.throughput_per_s / base);
            });
        }
        let baseline = baseline.map(|at| variants[at].name.clone());
        Self {
            clients,
            baseline,
            variants,
        }
    }
}

impl Report {
    /// An error when a turn ended before its time, when one measured nothing, or when wrong data were
    /// read. Single failed calls are in the report and no error here.
    pub fn verdict(&self) -> anyhow::Result<()> {
        if let Some(reason) = self.load.iter().find_map(|load| load.stopped.as_ref()) {
            anyhow::bail!("loading was given up: {reason}");
        }
        for variant in self
            .comparisons
            .iter()
            .flat_map(|comparison| &comparison.variants)
        {
            let (name, total) = (&variant.name, &variant.total);
            if let Some(reason) = &total.stopped {
                anyhow::bail!("{name}: a turn was given up: {reason}");
            }
            if total.operations == 0 {
                anyhow::bail!("{name}: no call succeeded");
            }
            let mut errors = total.kinds.iter().flat_map(|kind| &kind.errors);
            let lies = ["missing", "damaged"];
            if let Some(error) = errors.find(|error| lies.contains(&&*error.kind)) {
                anyhow::bail!("{name}: read wrong data: {}", error.example);
            }
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parameters {
            value_size,
            connections,
            duration_s,
            rounds,
            seed,
            ..
        } = self.parameters;
        let operation = match self.parameters.operation {
            Operation::Get => "RawGet",
            Operation::Put => "RawPut",
            Operation::Mixed => "RawGet and RawPut",
        };
        let turns = 2 * rounds;
        writeln!(
            f,
            "{operation}, {} bytes, {connections} connections, {turns} turns of {duration_s} s each, seed {seed}",
            grouped(value_size as u64)
        )?;
        for load in &self.load {
            writeln!(f, "load: {}", table::summary(load))?;
        }
        self.comparisons
            .iter()
            .try_for_each(|comparison| write!(f, "\n{comparison}"))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} clients", grouped(self.clients as u64))?;
        let phases = self
            .variants
            .iter()
            .map(|variant| (variant.name.as_str(), &variant.total));
        writeln!(f, "{}", table::latencies(&phases.collect::<Vec<_>>()))?;
        for variant in &self.variants {
            let turns = variant
                .turns_per_s
                .iter()
                .map(|per_s| grouped(per_s.round() as u64));
            let turns = turns.collect::<Vec<_>>().join(", ");
            write!(f, "{}: turns {turns} per second", variant.name)?;
            if let (Some(ratio), Some(baseline)) = (variant.ratio, &self.baseline) {
                write!(f, "; {ratio:.3} of {baseline}")?;
            }
            if let Some(cpu) = variant.total.driver_cpu_us_per_operation {
                write!(f, "; driver CPU {cpu:.1} us per call")?;
            }
            writeln!(f)?;
            writeln!(
                f,
                "{}: {}",
                variant.name,
                table::server(&variant.total.server)
            )?;
            for line in table::errors(&variant.total) {
                writeln!(f, "{}: {line}", variant.name)?;
            }
        }
        Ok(())
    }
}
