//! The simulator from the command line: many seeds in parallel processes, one seed with its transcript,
//! the smallest world that still fails, and the planted bugs. `make sim`, `make planted`.
#![expect(
    clippy::disallowed_methods,
    reason = "a command: it starts processes, writes files and shows how long they took"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use clap::{Parser, Subcommand};
use flotilla_tests::probe;
use flotilla_tests::run::{Counts, Failure, commit, replay_of, run_quietly, run_world, world_of};
use flotilla_tests::shrink;
use indicatif::{ProgressBar, ProgressStyle};

/// Runs whole clusters under faults, each from one seed.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Run many seeds, in parallel processes; print each one's trace hash
    Run(Run),
    /// Run one seed and print its last steps
    Replay {
        /// Which.
        seed: u64,
        /// Lines of the transcript.
        #[arg(long, default_value_t = 200)]
        lines: usize,
    },
    /// Take away from a failing seed's world whatever its failure does not need
    Shrink {
        /// Which.
        seed: u64,
    },
    /// Break one rule after the other on purpose, and say which check notices, after how many seeds
    #[cfg(feature = "planted")]
    Planted(planted::Args),
    /// A part of a run
    #[command(hide = true)]
    Worker {
        /// The first seed.
        first: u64,
        /// From one seed to the next.
        step: u64,
        /// How many.
        count: u64,
    },
}

#[derive(clap::Args)]
struct Run {
    /// How many seeds
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first one; a fresh place unless given
    #[arg(long)]
    first: Option<u64>,
    /// Processes; as many as there are cores unless given
    #[arg(long)]
    jobs: Option<u64>,
    /// Where failing seeds are kept, a line each
    #[arg(long, default_value = "failing-seeds.txt")]
    keep: PathBuf,
    /// A table of runs that gets a line: date, commit, seeds, operations, failures
    #[arg(long, requires = "date")]
    ledger: Option<PathBuf>,
    /// The date for the ledger
    #[arg(long)]
    date: Option<String>,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        What::Run(run) => many(&run),
        What::Replay { seed, lines } => replay(seed, lines),
        What::Shrink { seed } => smallest(seed),
        #[cfg(feature = "planted")]
        What::Planted(args) => planted::run(&args),
        What::Worker { first, step, count } => worker(first, step, count),
    }
}

// ---- one seed ----

fn replay(seed: u64, lines: usize) -> ExitCode {
    let world = world_of(seed);
    println!("seed {seed} at {}: {world}", commit());
    match run_quietly(world, lines) {
        Ok(report) => {
            println!("{}", report.transcript);
            println!(
                "{} steps, {} operations, trace {:016x}",
                report.counts.steps, report.counts.operations, report.trace_hash
            );
            ExitCode::SUCCESS
        }
        Err(failure) => failed(&failure),
    }
}

fn failed(failure: &Failure) -> ExitCode {
    println!("{failure}");
    ExitCode::FAILURE
}

fn smallest(seed: u64) -> ExitCode {
    let world = world_of(seed);
    println!("seed {seed} at {}: {world}", commit());
    let world = match shrink::shrink(world, |line| println!("  {line}")) {
        Ok(world) => world,
        Err(nothing) => {
            eprintln!("sim: {nothing}");
            return ExitCode::FAILURE;
        }
    };
    println!("smallest: {world}");
    match run_world(world) {
        Err(failure) => failed(&failure),
        Ok(_) => unreachable!("a world that failed fails again"),
    }
}

// ---- many seeds ----

/// Lines of a seed: `begin SEED`, then `ok SEED HASH STEPS OPERATIONS SERVED` or `fail SEED HASH WHAT`; at
/// the end a line per probe: `probe COUNT NAME`. One that begins and does not end has taken the process along.
fn worker(first: u64, step: u64, count: u64) -> ExitCode {
    // What fails says so itself.
    std::panic::set_hook(Box::new(|_| {}));
    let mut probes = probe::Probes::default();
    for nth in 0..count {
        let seed = first + nth * step;
        println!("begin {seed}");
        match run_quietly(world_of(seed), 0) {
            Ok(report) => {
                let Counts {
                    steps,
                    operations,
                    served,
                    ..
                } = report.counts;
                println!(
                    "ok {seed} {:016x} {steps} {operations} {served}",
                    report.trace_hash
                );
                probes.add(&report.probes);
            }
            Err(failure) => println!(
                "fail {seed} {:016x} {}",
                failure.trace_hash,
                failure.what.replace('\n', " ")
            ),
        }
    }
    for name in probe::ALL {
        println!("probe {} {name}", probes.count(name));
    }
    ExitCode::SUCCESS
}

/// What the workers have said.
#[derive(Default)]
struct Sum {
    seeds: u64,
    /// Seeds that have begun and not ended.
    running: BTreeSet<u64>,
    steps: u64,
    operations: u64,
    served: u64,
    failures: Vec<(u64, String)>,
    probes: BTreeMap<String, u64>,
}

impl Sum {
    fn hear(&mut self, line: &str) {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (first, others) = rest.split_once(' ').unwrap_or((rest, ""));
        let Ok(number) = first.parse::<u64>() else {
            return;
        };
        match kind {
            "begin" => {
                self.running.insert(number);
            }
            "ok" => {
                self.running.remove(&number);
                self.seeds += 1;
                let mut counts = others
                    .split(' ')
                    .skip(1)
                    .filter_map(|word| word.parse::<u64>().ok());
                self.steps += counts.next().unwrap_or(0);
                self.operations += counts.next().unwrap_or(0);
                self.served += counts.next().unwrap_or(0);
            }
            "fail" => {
                self.running.remove(&number);
                self.fail(number, others);
            }
            "probe" => *self.probes.entry(others.to_owned()).or_default() += number,
            _ => {}
        }
    }
}

impl Sum {
    fn fail(&mut self, seed: u64, what: &str) {
        self.seeds += 1;
        self.failures.push((seed, what.to_owned()));
    }
}

fn many(run: &Run) -> ExitCode {
    let first = run.first.unwrap_or_else(somewhere);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let jobs = run.jobs.unwrap_or(cores).clamp(1, run.seeds.max(1));
    let last = first + run.seeds.saturating_sub(1);
    let commit = commit();
    println!("seeds {first}..={last} at {commit}, in {jobs} processes");
    let begin = Instant::now();
    let sum = match run_workers(first, run.seeds, jobs) {
        Ok(sum) => sum,
        Err(error) => {
            eprintln!("sim: cannot start a worker: {error}");
            return ExitCode::FAILURE;
        }
    };
    let seconds = begin.elapsed().as_secs_f64();
    show(&sum, seconds, jobs);
    if let Err(error) = keep(run, &sum) {
        eprintln!("sim: {error}");
        return ExitCode::FAILURE;
    }
    if sum.failures.is_empty() && sum.seeds == run.seeds {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A place where nobody has been, probably. It is printed.
fn somewhere() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one("seeds") >> 16
}

fn run_workers(first: u64, seeds: u64, jobs: u64) -> std::io::Result<Sum> {
    let own = std::env::current_exe()?;
    let (say, hear) = mpsc::channel();
    let mut workers = Vec::new();
    for job in 0..jobs {
        let count = (seeds + jobs - 1 - job) / jobs;
        let (own, say) = (own.clone(), say.clone());
        workers.push(std::thread::spawn(move || {
            work_off(&own, (first + job, jobs, count), &say)
        }));
    }
    drop(say);
    let mut sum = Sum::default();
    let bar = ProgressBar::new(seeds);
    if let Ok(style) = ProgressStyle::with_template(
        "{elapsed_precise} {bar:40} {pos}/{len} seeds, {per_sec}, {eta} to go{msg}",
    ) {
        bar.set_style(style);
    }
    for line in hear {
        sum.hear(&line);
        if line.starts_with("ok") || line.starts_with("fail") {
            bar.println(&line);
            if bar.is_hidden() {
                println!("{line}");
            }
        }
        bar.set_position(sum.seeds);
        if !sum.failures.is_empty() {
            bar.set_message(format!(", {} fail", sum.failures.len()));
        }
    }
    bar.finish_and_clear();
    for worker in workers {
        worker.join().unwrap_or(Ok(()))?;
    }
    Ok(sum)
}

/// Has every `step`th seed run from `first` on, by one process; by another one behind a seed that has ended
/// the process, and fails by that.
fn work_off(
    own: &Path,
    (mut first, step, mut count): (u64, u64, u64),
    say: &mpsc::Sender<String>,
) -> std::io::Result<()> {
    while count > 0 {
        let mut worker = Command::new(own)
            .arg("worker")
            .args([first, step, count].map(|number| number.to_string()))
            .stdout(Stdio::piped())
            .spawn()?;
        let mut ran = Sum::default();
        for line in worker
            .stdout
            .take()
            .into_iter()
            .flat_map(|out| BufReader::new(out).lines())
        {
            let line = line?;
            ran.hear(&line);
            // Whoever listened has gone.
            let _ = say.send(line);
        }
        let ended = worker.wait()?;
        let Some(seed) = ran.running.first() else {
            return match ended.success() {
                true => Ok(()),
                false => Err(std::io::Error::other(format!(
                    "a worker ended with {ended}"
                ))),
            };
        };
        let _ = say.send(format!("fail {seed} - it ended the process: {ended}"));
        let done = ran.seeds + 1;
        (first, count) = (first + done * step, count - done);
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "rates for people")]
fn show(sum: &Sum, seconds: f64, jobs: u64) {
    let never: Vec<_> = sum
        .probes
        .iter()
        .filter(|(_, count)| **count == 0)
        .collect();
    println!(
        "{} seeds, {} steps, {} operations ({} served) in {seconds:.1} s: {:.0} seeds a minute, {:.0} operations a second and core",
        sum.seeds,
        sum.steps,
        sum.operations,
        sum.served,
        sum.seeds as f64 * 60.0 / seconds,
        sum.operations as f64 / seconds / jobs as f64,
    );
    let (hit, all) = (sum.probes.len() - never.len(), sum.probes.len());
    println!("{hit} of {all} rare paths reached");
    for (name, _) in never {
        println!("  never: {name}");
    }
    for (seed, what) in &sum.failures {
        println!("FAILED seed {seed}: {what}");
        println!("  replay: {}", replay_of(&world_of(*seed)));
    }
}

fn keep(run: &Run, sum: &Sum) -> std::io::Result<()> {
    let append = |path: &PathBuf| OpenOptions::new().create(true).append(true).open(path);
    if !sum.failures.is_empty() {
        let mut file = append(&run.keep)?;
        let commit = commit();
        for (seed, what) in &sum.failures {
            let replay = replay_of(&world_of(*seed));
            writeln!(file, "{seed} commit {commit}, {replay}: {what}")?;
        }
        println!("failing seeds are kept in {}", run.keep.display());
    }
    if let (Some(path), Some(date)) = (&run.ledger, &run.date) {
        let commit = commit();
        let (seeds, operations, failures) = (sum.seeds, sum.operations, sum.failures.len());
        writeln!(
            append(path)?,
            "| {date} | {commit} | {seeds} | {operations} | {failures} |"
        )?;
    }
    Ok(())
}

#[cfg(feature = "planted")]
mod planted {
    //! `make planted`: every bug from several starting points, on all cores.

    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::process::ExitCode;
    use std::sync::{Mutex, mpsc};

    use flotilla_tests::planted::{BY_SCENARIO, Bug, GUARDED, Hunted};
    use indicatif::{ProgressBar, ProgressStyle};
    use serde_json::{Value, json};

    /// What to break, and how hard to look.
    #[derive(clap::Args)]
    pub(super) struct Args {
        /// Only bugs whose names contain this
        #[arg(default_value = "")]
        name: String,
        /// Seeds after which a bug counts as not caught
        #[arg(long, default_value_t = 2_000)]
        seeds: u64,
        /// Only those that few seeds catch: for the gate
        #[arg(long)]
        short: bool,
        /// Starting points; the median over them is shown
        #[arg(long, default_value_t = 1)]
        rounds: u64,
        /// Threads; as many as there are cores unless given
        #[arg(long)]
        jobs: Option<usize>,
        /// At the end everything as a table of the documentation
        #[arg(long)]
        table: bool,
        /// A file that gets everything as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    }

    /// What takes more than a few dozen seeds (docs/simulation.md).
    const LONG: [&str; 23] = [
        "store::RollbackOnAbsence",
        "store::MergeTruncates",
        "store::MergeWithoutEntries",
        "store::MergeOfOldEpoch",
        "store::SourceDataDeleted",
        "store::SourceStays",
        "store::SourceUnheard",
        "store::MergingServes",
        "store::MembersOfMerging",
        "store::OverlapWithoutLineage",
        "store::EndingPeerActs",
        "store::OverlapUnchecked",
        "store::BlankForgetsVote",
        "store::SnapshotOverSplit",
        "store::UnwantedFilesStay",
        "raft::ReadBeforeOwnTerm",
        "raft::AckOfAnyRound",
        "raft::StaleWriteCounts",
        "raft::TransferNotVoided",
        "raft::VoteHidesCommit",
        "raft::ReadNumbersRestart",
        "engine::ChecksumUnchecked",
        "service::IdsWithoutLease",
    ];

    pub(super) fn run(args: &Args) -> ExitCode {
        std::panic::set_hook(Box::new(|_| {}));
        let wanted = |bug: &Bug| {
            let name = bug.name();
            name.contains(&args.name) && (!args.short || !LONG.contains(&&*name))
        };
        let bugs: Vec<Bug> = Bug::all().filter(wanted).collect();
        let mut hunted = hunt_all(&bugs, args);
        hunted.sort_by_key(|hunted| bugs.iter().position(|bug| *bug == hunted.bug));
        if args.table {
            table(&hunted);
        }
        if let Some(path) = &args.json
            && let Err(error) = std::fs::write(path, json_of(&hunted, args).to_string())
        {
            eprintln!("sim: {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        elsewhere(&args.name);
        let caught = hunted.iter().filter(|hunted| hunted.missed == 0).count();
        println!("{caught} of {} planted bugs caught", bugs.len());
        if caught == bugs.len() && caught > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// What is not looked for here, and where it is.
    fn elsewhere(name: &str) {
        for (rule, scenario, why) in BY_SCENARIO {
            let bug = Bug::Store(rule).name();
            if bug.contains(name) {
                println!("{bug} is shown by scenario {scenario}, not by seeds: {why}");
            }
        }
        for rule in GUARDED {
            let bug = Bug::Raft(rule).name();
            if bug.contains(name) {
                println!(
                    "{bug} is shown by the model of raft, not by seeds: a store has a second guard"
                );
            }
        }
    }

    type Found = Option<(u64, String)>;

    /// Every bug from every starting point. A bug's line comes when its last round is done.
    fn hunt_all(bugs: &[Bug], args: &Args) -> Vec<Hunted> {
        let rounds = args.rounds.max(1);
        let work = (0..bugs.len()).flat_map(|bug| (0..rounds).map(move |round| (bug, round)));
        let bar = ProgressBar::new(bugs.len() as u64 * rounds);
        if let Ok(style) = ProgressStyle::with_template(
            "{elapsed_precise} {bar:40} {pos}/{len} hunts, {eta} to go",
        ) {
            bar.set_style(style);
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = args.jobs.unwrap_or(cores).max(1);
        let work = Mutex::new(work);
        let next = || work.lock().ok()?.next();
        let (say, hear) = mpsc::channel::<(usize, Found)>();
        let mut hunted = Vec::new();
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                let (say, next) = (say.clone(), &next);
                scope.spawn(move || {
                    while let Some((bug, round)) = next() {
                        let found = bugs[bug].hunt(round * args.seeds + 1, args.seeds);
                        if say.send((bug, found)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(say);
            let mut found: BTreeMap<usize, Vec<Found>> = BTreeMap::new();
            for (bug, round) in hear {
                bar.inc(1);
                let of = found.entry(bug).or_default();
                of.push(round);
                if of.len() as u64 == rounds {
                    let done = Hunted::new(bugs[bug], std::mem::take(of));
                    bar.suspend(|| println!("{}", line(&done, args.seeds)));
                    hunted.push(done);
                }
            }
        });
        bar.finish_and_clear();
        hunted
    }

    fn line(hunted: &Hunted, seeds: u64) -> String {
        let name = hunted.bug.name();
        let by = hunted.invariants().join(", ");
        let rounds = hunted.seeds.len() as u64 + hunted.missed;
        match (hunted.missed, hunted.median()) {
            (0, Some(median)) => format!("{name} caught by {by} after {median} seeds"),
            (missed, _) if missed == rounds => format!("{name} NOT CAUGHT by {seeds} seeds"),
            (missed, _) => {
                format!(
                    "{name} NOT CAUGHT by {seeds} seeds from {missed} of {rounds} starting points, from others by {by}"
                )
            }
        }
    }

    /// The table of `docs/simulation.md`.
    fn table(hunted: &[Hunted]) {
        println!("| bug | caught by | median of seeds | seeds |");
        println!("|---|---|---|---|");
        for hunted in hunted {
            let by: Vec<String> = hunted
                .invariants()
                .iter()
                .map(|rule| format!("`{rule}`"))
                .collect();
            let median = hunted
                .median()
                .map_or("-".to_owned(), |median| median.to_string());
            let mut seeds: Vec<String> = hunted.seeds.iter().map(u64::to_string).collect();
            seeds.extend((0..hunted.missed).map(|_| "-".to_owned()));
            println!(
                "| `{}` | {} | {median} | {} |",
                hunted.bug.name(),
                by.join(", "),
                seeds.join(", ")
            );
        }
    }

    fn json_of(hunted: &[Hunted], args: &Args) -> Value {
        let bugs = hunted.iter().map(|hunted| {
            json!({
                "bug": hunted.bug.name(),
                "invariants": hunted.by,
                "median": hunted.median(),
                "seeds": hunted.seeds,
                "missed": hunted.missed,
            })
        });
        let bugs: Vec<Value> = bugs.collect();
        json!({ "seeds_max": args.seeds, "rounds": args.rounds, "bugs": bugs })
    }
}
