//! What an entry costs on its way to the disk: rounds of one entry per region, each round one
//! batch, one append and one sync, on one thread.
//!
//! ```sh
//! cargo run --release -p flotilla-engine --features rocks --example log_path -- --json
//! ```

#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::collections::VecDeque;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use flotilla_engine::rocks::{self, BlockCache, DbStats, LogOptions, RocksLog};
use flotilla_engine::{BIRTH, DataDir, LogBatch, RaftLog, StoreIds};
use flotilla_proto::clock::Wall;
use flotilla_proto::raft::{Entry, HardState};
use flotilla_proto::store::{RaftRecord, TruncationRecord};
use serde_json::{Value, json};

const CACHE_BYTES: usize = 64 << 20;

#[derive(Parser)]
struct Args {
    /// Regions with one entry each per sync.
    #[arg(long, value_delimiter = ',', default_value = "1,64,1000")]
    regions: Vec<u64>,
    /// Payload bytes per entry.
    #[arg(long, default_value_t = 128)]
    entry_bytes: usize,
    /// Seconds per figure.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Log bytes after which all regions truncate, as after a flush of the state.
    #[arg(long, default_value_t = 64 << 20)]
    replay_bytes: u64,
    /// Leave out the hard state that a store writes with every region's entries.
    #[arg(long)]
    entries_only: bool,
    /// Where the log is written; a temporary folder by default.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let mut figures = Vec::new();
    for regions in &args.regions {
        let figure = run(&args, *regions)?;
        if !args.json {
            print(&figure);
        }
        figures.push(figure);
    }
    if args.json {
        println!(
            "{}",
            json!({ "entry_bytes": args.entry_bytes, "figures": figures })
        );
    }
    Ok(())
}

/// One region as the writer follows it.
#[derive(Clone)]
struct Region {
    id: u64,
    first: u64,
    last: u64,
}

fn run(args: &Args, regions: u64) -> Result<Value, Box<dyn Error>> {
    let folder = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let ids = StoreIds {
        cluster_id: 1,
        store_id: 1,
    };
    let mut dir = DataDir::create(&folder.path().join("store"), ids, Wall(0))?;
    let log = rocks::open_log(&dir, &LogOptions::new(BlockCache::new(CACHE_BYTES)))?;
    dir.finish()?;

    let born = |id| Region {
        id,
        first: BIRTH.index + 1,
        last: BIRTH.index,
    };
    let mut held: Vec<Region> = (1..=regions).map(born).collect();
    let payload = Bytes::from(vec![0xab; args.entry_bytes]);
    let mut bound = args.replay_bytes;
    let mut round = |log: &RocksLog| -> Result<(Duration, Duration), Box<dyn Error>> {
        let truncate = log.appended_bytes() >= bound;
        if truncate {
            bound += args.replay_bytes;
        }
        let mut batch = LogBatch::default();
        for region in &mut held {
            if truncate {
                cut(&mut batch, region);
            }
            add(&mut batch, region, &payload, !args.entries_only);
        }
        let appending = Instant::now();
        let number = log.append(&batch)?;
        let syncing = Instant::now();
        assert_eq!(log.sync()?, number, "everything appended is durable");
        Ok((syncing - appending, syncing.elapsed()))
    };

    // The first rounds create files and grow memory.
    for _ in 0..10 {
        round(&log)?;
    }
    let (before, cpu, writes, started) = (log.stats(), thread_cpu()?, io_writes()?, Instant::now());
    let (mut appends, mut syncs) = (Duration::ZERO, VecDeque::new());
    while started.elapsed().as_secs_f64() < args.seconds {
        let (append, sync) = round(&log)?;
        appends += append;
        syncs.push_back(sync);
    }
    let (elapsed, cpu) = (started.elapsed(), thread_cpu()? - cpu);
    let done = Done {
        regions,
        rounds: syncs.len() as u64,
        elapsed,
        cpu,
        appends,
    };
    Ok(done.figure(
        syncs.make_contiguous(),
        &before,
        &log.stats(),
        io_writes()? - writes,
    ))
}

fn add(batch: &mut LogBatch, region: &mut Region, payload: &Bytes, hard_state: bool) {
    let before = region.last;
    region.last += 1;
    let entry = Entry {
        term: BIRTH.term,
        index: region.last,
        kind: 0,
        data: payload.clone(),
    };
    batch.append(region.id, vec![entry], before);
    if hard_state {
        let hard_state = Some(HardState {
            term: BIRTH.term,
            vote: 1,
            commit: before,
        });
        batch.set_record(
            region.id,
            RaftRecord {
                peer_id: region.id,
                hard_state,
            },
        );
    }
}

/// Everything so far is durable in the state.
fn cut(batch: &mut LogBatch, region: &mut Region) {
    let to = TruncationRecord {
        index: region.last,
        term: BIRTH.term,
    };
    batch.truncate(region.id, to, region.first);
    region.first = region.last + 1;
}

struct Done {
    regions: u64,
    rounds: u64,
    elapsed: Duration,
    cpu: Duration,
    appends: Duration,
}

impl Done {
    fn figure(
        &self,
        syncs: &mut [Duration],
        before: &DbStats,
        after: &DbStats,
        writes: u64,
    ) -> Value {
        syncs.sort();
        let entries = self.rounds * self.regions;
        let micros = |span: Duration| span.as_secs_f64() * 1e6;
        let rounds = self.rounds as f64;
        json!({
            "regions": self.regions,
            "batches": self.rounds,
            "entries": entries,
            "entries_per_second": entries as f64 / self.elapsed.as_secs_f64(),
            "cpu_micros_per_entry": micros(self.cpu) / entries as f64,
            "append_micros_per_entry": micros(self.appends) / entries as f64,
            "sync_micros_p50": micros(syncs[syncs.len() / 2]),
            "sync_micros_p99": micros(syncs[syncs.len() * 99 / 100]),
            "wal_writes_per_batch": (after.wal_writes - before.wal_writes) as f64 / rounds,
            "wal_syncs_per_batch": (after.wal_syncs - before.wal_syncs) as f64 / rounds,
            "write_calls_per_batch": writes as f64 / rounds,
            "wal_bytes_per_entry": (after.wal_bytes - before.wal_bytes) as f64 / entries as f64,
            "flush_bytes_per_entry": (after.flush_bytes - before.flush_bytes) as f64 / entries as f64,
            "compaction_bytes_per_entry":
                (after.compaction_write_bytes - before.compaction_write_bytes) as f64 / entries as f64,
        })
    }
}

fn print(figure: &Value) {
    let number = |name: &str| figure[name].as_f64().unwrap_or(f64::NAN);
    println!(
        "{:>5} regions: {:>9.0} entries/s, CPU {:>6.2} us/entry (append {:.2}), sync p50 {:.0} us p99 {:.0} us, \
         per batch {:.3} WAL writes {:.3} WAL syncs {:.2} write calls, \
         bytes/entry: WAL {:.0} flush {:.0} compaction {:.0}",
        number("regions"),
        number("entries_per_second"),
        number("cpu_micros_per_entry"),
        number("append_micros_per_entry"),
        number("sync_micros_p50"),
        number("sync_micros_p99"),
        number("wal_writes_per_batch"),
        number("wal_syncs_per_batch"),
        number("write_calls_per_batch"),
        number("wal_bytes_per_entry"),
        number("flush_bytes_per_entry"),
        number("compaction_bytes_per_entry"),
    );
}

/// Time that this thread has spent on a processor.
fn thread_cpu() -> Result<Duration, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split_whitespace().next().ok_or("an empty schedstat")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

/// Calls that write, of this thread, as the kernel counts them.
fn io_writes() -> Result<u64, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/thread-self/io")?;
    let line = text.lines().find_map(|line| line.strip_prefix("syscw: "));
    Ok(line.ok_or("no count of write calls")?.trim().parse()?)
}
