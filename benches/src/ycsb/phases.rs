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
    ledger::{Entry, Ledger},
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

    /// The workload's operations. Returns also what is known of the records now.
    pub(super) async fn run(&self) -> (Outcome, Arc<Known>) {
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
        let known = Arc::new(Known {
            records: Acknowledged::starting_at(options.records),
            // Only a verification needs it.
            ledger: options.verify.map(|_| Ledger::new()),
        });
        let clients = self.each_thread("run", |database, seed| Runner {
            database,
            known: Arc::clone(&known),
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
            known,
        )
    }

    /// Reads a sample of all records back.
    pub(super) async fn verify(&self, sample: u64, known: &Arc<Known>) -> VerifyReport {
        let (visible, holes) = known.records.known();
        let records = self.sample(sample, visible, &holes);
        let sampled = records.len() as u64;
        let queue = Arc::new(Mutex::new(records));
        let found = Arc::new(Mutex::new(VerifyReport::default()));
        let clients = self.each_thread("verify", |database, _| Verifier {
            database,
            known: Arc::clone(known),
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

/// What is known of the records after a run.
pub(super) struct Known {
    records: Acknowledged,
    ledger: Option<Ledger>,
}

impl Known {
    /// After a load: all records are there, as they were loaded.
    pub(super) fn loaded(records: u64) -> Self {
        Self {
            records: Acknowledged::starting_at(records),
            ledger: None,
        }
    }

    fn begin(&self, write: &WriteOne) -> Option<Entry> {
        let ledger = self.ledger.as_ref()?;
        Some(ledger.begin(write.record, write.seed))
    }

    fn acknowledge(&self, entry: Option<Entry>) {
        if let (Some(ledger), Some(entry)) = (&self.ledger, entry) {
            ledger.acknowledge(&entry);
        }
    }

    /// Whether an intact value may be the record's: it is not older than its last acknowledged write.
    fn is_current(&self, record: u64, value: &[u8]) -> bool {
        match (&self.ledger, records::seed(value)) {
            (Some(ledger), Some(seed)) => ledger.may_hold(record, seed),
            _ => true,
        }
    }
}

/// Carries out what its generator draws.
struct Runner<D> {
    database: D,
    known: Arc<Known>,
    generator: Generator,
    value_size: usize,
}

/// A step with its keys and values made.
enum Operation {
    Read { key: Vec<u8> },
    Update(WriteOne),
    Insert(WriteOne),
    Scan { start: Vec<u8>, limit: u32 },
    ReadModifyWrite(WriteOne),
}

struct WriteOne {
    record: u64,
    seed: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl<D: Database> Runner<D> {
    async fn write(&self, write: WriteOne) -> Result<(), Failure> {
        let entry = self.known.begin(&write);
        let result = self.database.put(write.key, write.value).await;
        if result.is_ok() {
            self.known.acknowledge(entry);
        }
        result
    }
}

impl<D: Database> Client for Runner<D> {
    type Operation = Operation;

    fn prepare(&mut self) -> Option<(Kind, Operation)> {
        let step = self.generator.next(&self.known.records);
        let mut write = |record| {
            let (key, seed) = (records::key(record), self.generator.value_seed());
            let value = records::value(&key, seed, self.value_size);
            WriteOne {
                record,
                seed,
                key,
                value,
            }
        };
        Some(match step {
            Step::Read(record) => {
                let key = records::key(record);
                (Kind::Read, Operation::Read { key })
            }
            Step::Update(record) => (Kind::Update, Operation::Update(write(record))),
            Step::Insert => {
                let record = self.known.records.begin();
                (Kind::Insert, Operation::Insert(write(record)))
            }
            Step::Scan { first, length } => {
                let (start, limit) = (records::key(first), length);
                (Kind::Scan, Operation::Scan { start, limit })
            }
            Step::ReadModifyWrite(record) => (
                Kind::ReadModifyWrite,
                Operation::ReadModifyWrite(write(record)),
            ),
        })
    }

    async fn execute(&mut self, operation: Operation) -> Result<(), Failure> {
        match operation {
            Operation::Read { key } => read(&self.database, key).await.map(drop),
            Operation::Update(update) => self.write(update).await,
            Operation::Insert(insert) => {
                let record = insert.record;
                let result = self.write(insert).await;
                match &result {
                    Ok(()) => self.known.records.acknowledge(record),
                    Err(_) => self.known.records.fail(record),
                }
                result
            }
            Operation::Scan { start, limit } => scan(&self.database, start, limit).await,
            Operation::ReadModifyWrite(write) => {
                read(&self.database, write.key.clone()).await?;
                self.write(write).await
            }
        }
    }
}

/// Reads a record that must be there.
async fn read(database: &impl Database, key: Vec<u8>) -> Result<Vec<u8>, Failure> {
    match database.get(key.clone()).await? {
        None => Err(missing(&key)),
        Some(value) if records::is_intact(&key, &value) => Ok(value),
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
const STALE: &str = "stale";

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

fn stale(key: &[u8]) -> Failure {
    let key = text(key);
    Failure::new(
        STALE,
        format!("{key} has a value from before its last acknowledged write"),
    )
}

fn text(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

/// Reads records from a queue and notes what is wrong with them.
struct Verifier<D> {
    database: D,
    known: Arc<Known>,
    queue: Arc<Mutex<Vec<u64>>>,
    found: Arc<Mutex<VerifyReport>>,
}

impl<D: Database> Client for Verifier<D> {
    type Operation = u64;

    fn prepare(&mut self) -> Option<(Kind, u64)> {
        self.queue.lock().pop().map(|record| (Kind::Read, record))
    }

    async fn execute(&mut self, record: u64) -> Result<(), Failure> {
        let key = records::key(record);
        let result = match read(&self.database, key.clone()).await {
            Ok(value) if !self.known.is_current(record, &value) => Err(stale(&key)),
            result => result.map(drop),
        };
        let mut found = self.found.lock();
        match &result {
            Ok(()) => found.intact += 1,
            Err(failure) => {
                match &*failure.kind {
                    MISSING => found.missing += 1,
                    DAMAGED => found.damaged += 1,
                    STALE => found.stale += 1,
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
