//! A seed from start to end, and many of them.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::probe::{self, Collector, Probes};
use crate::rules::Rule;
use crate::sim::Sim;
use crate::world::{MERGES, World};

/// Of the histories of keys so many percent are decided by the second opinion, at least.
const DECIDED_PERCENT: u64 = 95;
/// Lines of the transcript that a failure shows.
const TRANSCRIPT_LINES: usize = 200;

/// How much happened in a run, or in many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Steps.
    pub steps: u64,
    /// Attempts of clients, each an operation of its own.
    pub operations: u64,
    /// Of them, those that were served and heard.
    pub served: u64,
    /// Messages between stores.
    pub messages: u64,
    /// Virtual time.
    pub time: Duration,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.operations += other.operations;
        self.served += other.served;
        self.messages += other.messages;
        self.time += other.time;
    }
}

/// A run that held every rule.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// How much happened.
    pub counts: Counts,
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
    /// The command that runs it again.
    pub replay: String,
    /// The rule; `None`: an assertion of the machines or the simulator.
    pub rule: Option<Rule>,
    /// What was seen.
    pub what: String,
    /// Equal for equal runs.
    pub trace_hash: u64,
    /// The last steps.
    pub transcript: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} at {}: {}", self.seed, commit(), self.world)?;
        writeln!(f, "{}", self.transcript)?;
        writeln!(f, "{}", self.what)?;
        write!(f, "replay: {}", self.replay)
    }
}

/// Runs the world of `seed`, without what [`WITHOUT`] names.
///
/// # Errors
/// The first rule that was broken, with the last steps.
pub fn run_seed(seed: u64) -> Result<Report, Box<Failure>> {
    run_world(world_of(seed))
}

/// The environment variable that names what worlds are to be without, between commas.
pub const WITHOUT: &str = "FLOTILLA_SIM_WITHOUT";

/// The environment variable that names what worlds are to have beside what they have by themselves,
/// between commas: `balance`, a PD that evens out what stores hold and lead; `merges`, operators
/// that merge regions.
pub const WITH: &str = "FLOTILLA_SIM_WITH";

/// The environment variable that says how many operations clients hear the end of before a run settles.
pub const OPERATIONS: &str = "FLOTILLA_SIM_OPERATIONS";

/// The environment variable that says how many attempts clients make at least.
pub const ATTEMPTS: &str = "FLOTILLA_SIM_ATTEMPTS";

/// The environment variable that gives the same world another course.
pub const LUCK: &str = "FLOTILLA_SIM_LUCK";

/// The environment variable that names a bug to plant (`store::NoTombstone`), in builds that can.
#[cfg(feature = "planted")]
pub const BUG: &str = "FLOTILLA_SIM_BUG";

/// The commit of the sources that this was built from, as they were when the process first asked: `make sim`
/// builds right before, and a long run goes on under that name.
pub fn commit() -> &'static str {
    static COMMIT: OnceLock<String> = OnceLock::new();
    COMMIT.get_or_init(commit_of_sources)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a line for people; nothing in a run depends on it"
)]
fn commit_of_sources() -> String {
    let told = Command::new("git")
        .args(["describe", "--always", "--dirty", "--exclude=*"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let told = told.ok().filter(|told| told.status.success());
    let commit = told.and_then(|told| String::from_utf8(told.stdout).ok());
    commit.map_or_else(|| "unknown".to_owned(), |commit| commit.trim().to_owned())
}

/// The world of `seed`, without what [`WITHOUT`] names, and as long as [`OPERATIONS`] and [`ATTEMPTS`] say.
pub fn world_of(seed: u64) -> World {
    long_world_of(seed, 0)
}

/// The same, with so many attempts at least where [`ATTEMPTS`] says nothing.
pub fn long_world_of(seed: u64, attempts: u64) -> World {
    let mut world = World::draw(seed);
    let number = |name| std::env::var(name).ok()?.parse().ok();
    world.operations = number(OPERATIONS).unwrap_or(world.operations);
    world.attempts_min = number(ATTEMPTS).unwrap_or(attempts);
    world.luck = number(LUCK).unwrap_or(0);
    let names = std::env::var(WITH).unwrap_or_default();
    for name in names.split(',').filter(|name| !name.is_empty()) {
        world.with(name);
    }
    let names = std::env::var(WITHOUT).unwrap_or_default();
    for name in names.split(',').filter(|name| !name.is_empty()) {
        world.without(name);
    }
    #[cfg(feature = "planted")]
    if let Ok(name) = std::env::var(BUG) {
        let bug = crate::planted::Bug::named(&name);
        bug.unwrap_or_else(|| panic!("no bug is called {name:?}"))
            .plant(&mut world);
    }
    world
}

/// The command that runs a world again.
pub fn replay_of(world: &World) -> String {
    let mut words = Vec::new();
    if !world.put_in.is_empty() {
        words.push(format!("{WITH}={}", world.put_in.join(",")));
    }
    if !world.left_out.is_empty() {
        words.push(format!("{WITHOUT}={}", world.left_out.join(",")));
    }
    if world.operations != World::draw(world.seed).operations {
        words.push(format!("{OPERATIONS}={}", world.operations));
    }
    if world.luck != 0 {
        words.push(format!("{LUCK}={}", world.luck));
    }
    words.push(format!("{ATTEMPTS}={}", world.attempts_min));
    words.push(format!("make sim SEED={}", world.seed));
    #[cfg(feature = "planted")]
    words.extend(std::env::var(BUG).ok().map(|bug| format!("BUG={bug}")));
    words.join(" ")
}

/// Runs a world.
///
/// # Errors
/// As [`run_seed`].
pub fn run_world(world: World) -> Result<Report, Box<Failure>> {
    let failed = match run_quietly(world.clone(), 0) {
        Ok(report) => return Ok(report),
        Err(failure) => failure,
    };
    // Again, for the transcript.
    match run_quietly(world, TRANSCRIPT_LINES) {
        Err(again) if again.what == failed.what => Err(again),
        other => {
            let what = match other {
                Ok(_) => "nothing".to_owned(),
                Err(failure) => failure.what,
            };
            Err(Box::new(Failure {
                what: format!(
                    "the simulator: two runs differ; one found {}, the other {what}",
                    failed.what
                ),
                rule: None,
                ..*failed
            }))
        }
    }
}

/// Runs a world, with the last `lines` of its transcript.
///
/// # Errors
/// As [`run_seed`].
pub fn run_quietly(world: World, lines: usize) -> Result<Report, Box<Failure>> {
    let (seed, line, again) = (world.seed, world.to_string(), world.clone());
    let mut sim = None;
    drop(probe::take_reached());
    let outcome = tracing::subscriber::with_default(Collector, || {
        catch_unwind(AssertUnwindSafe(|| {
            sim.insert(Sim::new(world, lines)).run()
        }))
    });
    let counts = sim.as_ref().map(Sim::counts).unwrap_or_default();
    let oracle = sim.as_ref().map(|sim: &Sim| sim.oracle().lock());
    let transcript = oracle
        .as_ref()
        .map(|oracle| oracle.trace.text())
        .unwrap_or_default();
    let trace_hash = oracle.as_ref().map_or(0, |oracle| oracle.trace.hash());
    let failure = |rule, what| {
        Box::new(Failure {
            trace_hash,
            seed,
            world: line.clone(),
            replay: replay_of(&again),
            rule,
            what,
            transcript: transcript.clone(),
        })
    };
    match (outcome, oracle) {
        (Ok(Ok(())), Some(oracle)) => Ok(Report {
            seed,
            counts,
            trace_hash,
            checks: oracle.checks.counts(),
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
    /// How much happened.
    pub counts: Counts,
    /// Runs by the thousands of their operations.
    pub thousands: BTreeMap<u64, u64>,
    /// How often each rule was checked.
    pub checks: BTreeMap<Rule, u64>,
    /// Rare paths reached.
    pub probes: Probes,
}

impl Summary {
    /// Adds a run.
    pub fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.counts.add(&report.counts);
        let thousands = report.counts.operations / 1_000;
        *self.thousands.entry(thousands).or_default() += 1;
        for (rule, count) in &report.checks {
            *self.checks.entry(*rule).or_default() += count;
        }
        self.probes.add(&report.probes);
    }

    /// Runs of fewer operations than so many thousands.
    pub fn shorter_than(&self, thousands: u64) -> u64 {
        self.thousands
            .range(..thousands)
            .map(|(_, runs)| runs)
            .sum()
    }

    /// Rare paths that were never reached.
    pub fn never(&self) -> Vec<&'static str> {
        let never = probe::ALL.iter().copied();
        let possible = |name: &&str| MERGES || !name.starts_with("merge: ");
        let never = never.filter(possible);
        never.filter(|name| self.probes.count(name) == 0).collect()
    }

    /// Histories of a key that could have been wrong, of a hundred, for which the second opinion has found
    /// an order, and not given up.
    pub fn decided_percent(&self) -> u64 {
        let decided = self.checks.get(&Rule::SecondOpinion).copied();
        let (decided, given_up) = (
            decided.unwrap_or(0),
            self.probes.count("history: too many orders to look at"),
        );
        decided * 100 / (decided + given_up).max(1)
    }

    /// Rules that were never checked, or too rarely for what there was, and probes that nobody knows.
    pub fn missing(&self) -> Vec<String> {
        let rules = Rule::ALL
            .iter()
            .filter(|rule| !self.checks.contains_key(rule));
        let unlisted = self.probes.unlisted().keys();
        rules
            .map(|rule| format!("{rule:?}"))
            .chain((self.decided_percent() < DECIDED_PERCENT).then(|| {
                format!(
                    "SecondOpinion: {} % of the histories decided",
                    self.decided_percent()
                )
            }))
            .chain(unlisted.map(|name| format!("{name}: not in the list of probes")))
            .collect()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            steps,
            operations,
            served,
            messages,
            time,
        } = self.counts;
        writeln!(
            f,
            "{} runs, {steps} steps, {operations} operations ({served} served), {messages} messages, {} s of virtual time",
            self.runs,
            time.as_secs()
        )?;
        for (thousands, runs) in &self.thousands {
            writeln!(f, "{runs:>12}  runs of {thousands}000 operations and more")?;
        }
        for (rule, count) in &self.checks {
            writeln!(f, "{count:>12}  {rule:?}")?;
        }
        for probe in probe::ALL {
            writeln!(f, "{:>12}  {probe}", self.probes.count(probe))?;
        }
        for (probe, count) in self.probes.unlisted() {
            writeln!(f, "{count:>12}  {probe} (not in the list)")?;
        }
        Ok(())
    }
}
