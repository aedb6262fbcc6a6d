//! A seed from start to end, and many of them.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::probe::{self, Collector, Probes};
use crate::rules::Rule;
use crate::sim::Sim;
use crate::world::World;

/// Lines of the transcript that a failure shows.
const TRANSCRIPT_LINES: usize = 200;

/// A run that held every rule.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Steps it took.
    pub steps: u64,
    /// Equal for equal runs.
    pub trace_hash: u64,
    /// How often each rule was checked.
    pub checks: BTreeMap<Rule, u64>,
    /// Rare paths reached.
    pub probes: Probes,
    /// Its last steps.
    pub transcript: String,
}

/// A run that broke a rule.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// Its world.
    pub world: String,
    /// The rule; `None`: an assertion of the machines or the simulator.
    pub rule: Option<Rule>,
    /// What was seen.
    pub what: String,
    /// The last steps.
    pub transcript: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.world)?;
        writeln!(f, "{}", self.transcript)?;
        writeln!(f, "{}", self.what)?;
        write!(
            f,
            "replay: FLOTILLA_SIM_SEED={} cargo test -p flotilla-tests --test simulation -- --nocapture",
            self.seed
        )
    }
}

/// Runs the world of `seed`.
///
/// # Errors
/// The first rule that was broken, with the last steps.
pub fn run_seed(seed: u64) -> Result<Report, Box<Failure>> {
    run_world(World::draw(seed))
}

/// Runs a world.
///
/// # Errors
/// As [`run_seed`].
pub fn run_world(world: World) -> Result<Report, Box<Failure>> {
    let (seed, line) = (world.seed, world.to_string());
    let mut sim = None;
    drop(probe::take_reached());
    let outcome = tracing::subscriber::with_default(Collector, || {
        catch_unwind(AssertUnwindSafe(|| sim.insert(Sim::new(world)).run()))
    });
    let oracle = sim.as_ref().map(|sim: &Sim| sim.oracle().lock());
    let transcript = oracle
        .as_ref()
        .map(|oracle| oracle.trace.tail(TRANSCRIPT_LINES))
        .unwrap_or_default();
    let failure = |rule, what| {
        Box::new(Failure {
            seed,
            world: line.clone(),
            rule,
            what,
            transcript: transcript.clone(),
        })
    };
    match (outcome, oracle) {
        (Ok(Ok(())), Some(oracle)) => Ok(Report {
            seed,
            steps: oracle.step,
            trace_hash: oracle.trace.hash(),
            checks: oracle.checks.counts().clone(),
            probes: oracle.probes.clone(),
            transcript: transcript.clone(),
        }),
        (Ok(Ok(())), None) => unreachable!("a run that ended has a simulator"),
        (Ok(Err(violation)), _) => Err(failure(Some(violation.rule), violation.to_string())),
        (Err(panic), _) => Err(failure(None, panic_text(&*panic))),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    format!("panic: {}", text.unwrap_or_default())
}

/// What many runs added up to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Runs.
    pub runs: u64,
    /// Steps of all of them.
    pub steps: u64,
    /// How often each rule was checked.
    pub checks: BTreeMap<Rule, u64>,
    /// Rare paths reached.
    pub probes: Probes,
}

impl Summary {
    /// Adds a run.
    pub fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.steps += report.steps;
        for (rule, count) in &report.checks {
            *self.checks.entry(*rule).or_default() += count;
        }
        self.probes.add(&report.probes);
    }

    /// Rules that were never checked, and probes that were never hit.
    pub fn missing(&self) -> Vec<String> {
        let rules = Rule::ALL
            .iter()
            .filter(|rule| !self.checks.contains_key(rule));
        let probes = probe::ALL
            .iter()
            .filter(|probe| self.probes.count(probe) == 0);
        rules
            .map(|rule| format!("{rule:?}"))
            .chain(probes.map(ToString::to_string))
            .collect()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} runs, {} steps", self.runs, self.steps)?;
        for (rule, count) in &self.checks {
            writeln!(f, "{count:>12}  {rule:?}")?;
        }
        for probe in probe::ALL {
            writeln!(f, "{:>12}  {probe}", self.probes.count(probe))?;
        }
        Ok(())
    }
}
