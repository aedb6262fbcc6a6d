//! Load, run, verify: the clients of each phase.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, seq::index};
use rand_xoshiro::{SplitMix64, Xoshiro256PlusPlus};

use super::{
    acknowledged::Acknowledged,
    database::{Database, Pair},
    distribution::Chooser,
    options::{Length, Options},
    records,
    report::VerifyReport,
    workload::{Generator, Step},
};
use crate::{
    counters::Scraper,
    drive::{Budget, Client, Outcome, drive},
    measure::Failure,
    progress::{Goal, Progress, Verbosity},
    report::Kind,
};

/// A record that cannot be loaded in so many attempts ends the load phase.
const LOAD_ATTEMPTS_MAX: u32 = 10;

/// Bad records that a verification names.
const EXAMPLES_MAX: usize = 10;

/// What the phases of one run share.
pub(super) struct Plan<'a, D> {
    pub(super) options: &'a Options,
    /// Each thread uses one of these.
    pub(super) databases: Vec<D>,
    pub(super) scraper: Scraper,
}

impl<D: Database> Plan<'_, D> {
    /// Writes all records.
    pub(super) async fn load(&self) -> Outcome {
        let budget = Budget::unlimited();
        let next = Arc::new(AtomicU64::new(0));
        let clients = self.each_thread("load", |database, seed| Loader {
            database,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            value_size: self.options.value_size,
            records: self.options.records,
            next: Arc::clone(&next),
            again: None,
            budget: Arc::clone(&budget),
        });
        let progress = self.progress("load", Goal::Operations(self.options.records));
        drive(clients, budget, &self.scraper, progress).await.0
    }

    /// The workload's operations. Returns also which records there are now.
    pub(super) async fn run(&self) -> (Outcome, Arc<Acknowledged>) {
        let options = self.options;
        let (budget, goal, inserts_expected) = match options.length() {
            Length::Operations(operations) => {
                let inserts = u128::from(operations) * u128::from(options.workload.mix().insert);
                // Twice the expected number, so that a run of luck stays inside.
                let inserts = u64::try_from(inserts / 50).unwrap_or(u64::MAX);
                (
                    Budget::operations(operations),
                    Goal::Operations(operations),
                    inserts,
                )
            }
            Length::Duration(time) => {
                let inserts = if options.workload.mix().insert > 0 {
                    options.records
                } else {
                    0
                };
                (Budget::duration(time), Goal::Duration(time), inserts)
            }
        };
        let chooser = Chooser::new(options.distribution(), options.records, inserts_expected);
        let acknowledged = Arc::new(Acknowledged::starting_at(options.records));
        let clients = self.each_thread("run", |database, seed| Runner {
            database,
            acknowledged: Arc::clone(&acknowledged),
            generator: Generator::new(
                options.workload,
                options.scan_length_max,
                chooser.clone(),
                seed,
            ),
            value_size: options.value_size,
        });
        let name = format!("run {}", options.workload.letter());
        let progress = self.progress(&name, goal);
        (
            drive(clients, budget, &self.scraper, progress).await.0,
            acknowledged,
        )
    }

    /// Reads a sample of all records back.
    pub(super) async fn verify(&self, sample: u64, acknowledged: &Acknowledged) -> VerifyReport {
        let (visible, holes) = acknowledged.known();
        let records = self.sample(sample, visible, &holes);
        let sampled = records.len() as u64;
        let queue = Arc::new(Mutex::new(records));
        let found = Arc::new(Mutex::new(VerifyReport::default()));
        let clients = self.each_thread("verify", |database, _| Verifier {
            database,
            queue: Arc::clone(&queue),
            found: Arc::clone(&found),
        });
        let progress = self.progress("verify", Goal::Operations(sampled));
        let scraper = Scraper::off("a verification is not measured");
        drive(clients, Budget::unlimited(), &scraper, progress).await;
        let mut report = std::mem::take(&mut *found.lock());
        report.sampled = sampled;
        report.records = visible - holes.len() as u64;
        report
    }

    /// Up to `sample` different records, each of the known ones as likely.
    fn sample(&self, sample: u64, visible: u64, holes: &BTreeSet<u64>) -> Vec<u64> {
        let (visible, sample) = (as_index(visible), as_index(sample.min(visible)));
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(self.seed("sample"));
        let drawn = index::sample(&mut rng, visible, sample);
        drawn
            .iter()
            .map(|record| record as u64)
            .filter(|record| !holes.contains(record))
            .collect()
    }

    fn each_thread<C>(&self, phase: &str, make: impl Fn(D, u64) -> C) -> Vec<C> {
        let mut seeds = SplitMix64::seed_from_u64(self.seed(phase));
        let databases = self.databases.iter().cycle().take(self.options.threads);
        databases
            .map(|database| make(database.clone(), seeds.next_u64()))
            .collect()
    }

    /// A seed for each purpose, so that a change in one phase moves nothing in another.
    fn seed(&self, purpose: &str) -> u64 {
        let fold = |seed: u64, byte: u8| records::fnv_hash_64(seed ^ u64::from(byte));
        purpose.bytes().fold(self.options.seed, fold)
    }

    fn progress(&self, name: &str, goal: Goal) -> Progress {
        let verbosity = if self.options.quiet {
            Verbosity::Quiet
        } else {
            Verbosity::Normal
        };
        Progress::new(name, goal, verbosity)
    }
}

fn as_index(number: u64) -> usize {
    usize::try_from(number).expect("record numbers fit the machine: checked with the options")
}

/// Writes records nobody else has begun, until none is left; tries again where one failed.
struct Loader<D> {
    database: D,
    rng: Xoshiro256PlusPlus,
    value_size: usize,
    records: u64,
    next: Arc<AtomicU64>,
    /// The record that failed last, and how often.
    again: Option<(u64, u32)>,
    budget: Arc<Budget>,
}

struct LoadOne {
    record: u64,
    attempt: u32,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl<D: Database> Client for Loader<D> {
    type Operation = LoadOne;

    fn prepare(&mut self) -> Option<(Kind, LoadOne)> {
        let (record, failed) = match self.again.take() {
            Some(again) => again,
            None => (self.next.fetch_add(1, Ordering::Relaxed), 0),
        };
        if record >= self.records {
            return None;
        }
        let key = records::key(record);
        let value = records::value(&key, self.rng.next_u64(), self.value_size);
        Some((
            Kind::Insert,
            LoadOne {
                record,
                attempt: failed + 1,
                key,
                value,
            },
        ))
    }

    async fn execute(&mut self, load: LoadOne) -> Result<(), Failure> {
        let LoadOne {
            record,
            attempt,
            key,
            value,
        } = load;
        let result = self.database.put(key, value).await;
        if let Err(failure) = &result {
            self.again = Some((record, attempt));
            if attempt >= LOAD_ATTEMPTS_MAX {
                self.budget.stop(format!(
                    "record {record} could not be loaded in {attempt} attempts; last: {failure}"
                ));
            }
        }
        result
    }
}

/// Carries out what its generator draws.
struct Runner<D> {
    database: D,
    acknowledged: Arc<Acknowledged>,
    generator: Generator,
    value_size: usize,
}

/// A step with its keys and values made.
enum Operation {
    Read {
        key: Vec<u8>,
    },
    Update {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Insert {
        record: u64,
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Scan {
        start: Vec<u8>,
        limit: u32,
    },
    ReadModifyWrite {
        key: Vec<u8>,
        value: Vec<u8>,
    },
}

impl<D: Database> Client for Runner<D> {
    type Operation = Operation;

    fn prepare(&mut self) -> Option<(Kind, Operation)> {
        let step = self.generator.next(&*self.acknowledged);
        let mut value =
            |key: &[u8]| records::value(key, self.generator.value_seed(), self.value_size);
        Some(match step {
            Step::Read(record) => (
                Kind::Read,
                Operation::Read {
                    key: records::key(record),
                },
            ),
            Step::Update(record) => {
                let key = records::key(record);
                (
                    Kind::Update,
                    Operation::Update {
                        value: value(&key),
                        key,
                    },
                )
            }
            Step::Insert => {
                let record = self.acknowledged.begin();
                let key = records::key(record);
                (
                    Kind::Insert,
                    Operation::Insert {
                        record,
                        value: value(&key),
                        key,
                    },
                )
            }
            Step::Scan { first, length } => (
                Kind::Scan,
                Operation::Scan {
                    start: records::key(first),
                    limit: length,
                },
            ),
            Step::ReadModifyWrite(record) => {
                let key = records::key(record);
                let value = value(&key);
                (
                    Kind::ReadModifyWrite,
                    Operation::ReadModifyWrite { key, value },
                )
            }
        })
    }

    async fn execute(&mut self, operation: Operation) -> Result<(), Failure> {
        match operation {
            Operation::Read { key } => read(&self.database, key).await,
            Operation::Update { key, value } => self.database.put(key, value).await,
            Operation::Insert { record, key, value } => {
                let result = self.database.put(key, value).await;
                match &result {
                    Ok(()) => self.acknowledged.acknowledge(record),
                    Err(_) => self.acknowledged.fail(record),
                }
                result
            }
            Operation::Scan { start, limit } => scan(&self.database, start, limit).await,
            Operation::ReadModifyWrite { key, value } => {
                read(&self.database, key.clone()).await?;
                self.database.put(key, value).await
            }
        }
    }
}

/// Reads a record that must be there.
async fn read(database: &impl Database, key: Vec<u8>) -> Result<(), Failure> {
    match database.get(key.clone()).await? {
        None => Err(missing(&key)),
        Some(value) if records::is_intact(&key, &value) => Ok(()),
        Some(value) => Err(damaged(&key, &value)),
    }
}

/// Scans from a record that must be there.
async fn scan(database: &impl Database, start: Vec<u8>, limit: u32) -> Result<(), Failure> {
    let end = records::key_space().end;
    let pairs = database.scan(start.clone(), end.clone(), limit).await?;
    check_scan(&start, &end, limit, &pairs)
}

fn check_scan(start: &[u8], end: &[u8], limit: u32, pairs: &[Pair]) -> Result<(), Failure> {
    let wrong = |what: String| {
        Err(Failure::new(
            "wrong-scan",
            format!("from {}: {what}", text(start)),
        ))
    };
    if pairs.len() > limit as usize {
        return wrong(format!("{} pairs, asked for {limit}", pairs.len()));
    }
    if pairs.first().is_none_or(|first| first.key != start) {
        return Err(missing(start));
    }
    if let Some([one, other]) = pairs
        .array_windows()
        .find(|[one, other]| one.key >= other.key)
    {
        return wrong(format!(
            "{} comes before {}",
            text(&one.key),
            text(&other.key)
        ));
    }
    if let Some(pair) = pairs.iter().find(|pair| pair.key.as_slice() >= end) {
        return wrong(format!("{} lies beyond the end", text(&pair.key)));
    }
    match pairs
        .iter()
        .find(|pair| !records::is_intact(&pair.key, &pair.value))
    {
        Some(pair) => Err(damaged(&pair.key, &pair.value)),
        None => Ok(()),
    }
}

const MISSING: &str = "missing";
const DAMAGED: &str = "damaged";

fn missing(key: &[u8]) -> Failure {
    Failure::new(
        MISSING,
        format!("{} was acknowledged and is not there", text(key)),
    )
}

fn damaged(key: &[u8], value: &[u8]) -> Failure {
    let bytes = value.len();
    Failure::new(
        DAMAGED,
        format!("{} has {bytes} bytes that nobody wrote", text(key)),
    )
}

fn text(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

/// Reads records from a queue and notes what is wrong with them.
struct Verifier<D> {
    database: D,
    queue: Arc<Mutex<Vec<u64>>>,
    found: Arc<Mutex<VerifyReport>>,
}

impl<D: Database> Client for Verifier<D> {
    type Operation = u64;

    fn prepare(&mut self) -> Option<(Kind, u64)> {
        self.queue.lock().pop().map(|record| (Kind::Read, record))
    }

    async fn execute(&mut self, record: u64) -> Result<(), Failure> {
        let result = read(&self.database, records::key(record)).await;
        let mut found = self.found.lock();
        match &result {
            Ok(()) => found.intact += 1,
            Err(failure) => {
                match &*failure.kind {
                    MISSING => found.missing += 1,
                    DAMAGED => found.damaged += 1,
                    _ => found.unread += 1,
                }
                if found.examples.len() < EXAMPLES_MAX {
                    found.examples.push(format!("record {record}: {failure}"));
                }
            }
        }
        result
    }
}

#[cfg(test)]
#[path = "phases_tests.rs"]
mod tests;
