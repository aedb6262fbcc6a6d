//! Reads that the pollers must not wait for (contracts: C24).

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use flotilla_engine::{DATA_CFS, KeyRange, RaftLog, StateReader, StateStore};
use flotilla_kv::KeyMode;
use flotilla_proto::metapb::Region;
use flotilla_raftstore::effects::{Fetch, RegionSize, SizeCheck};
use flotilla_raftstore::runtime::Runtime;
use flotilla_raftstore::{PeerInput, region};

use super::fatal::FatalSink;
use crate::metrics::StoreMetrics;

/// After measuring, the thread rests for so many times as long: splits are never urgent enough to
/// take a core from the requests.
const REST: u32 = 3;
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(1);

/// Starts a thread that reads raft entries. It ends when all senders are gone.
///
/// # Errors
/// The operating system starts no more threads.
pub(super) fn spawn_fetcher<L: RaftLog, S: StateStore>(
    runtime: Runtime<L, S>,
    log: Arc<L>,
    fetches: Receiver<Fetch>,
    metrics: Arc<StoreMetrics>,
    fatal: FatalSink,
) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name("log-fetch".to_owned())
        .spawn(move || {
            for fetch in fetches {
                let start = Instant::now();
                let Fetch {
                    region,
                    ticket,
                    low,
                    high,
                    bytes_max,
                } = fetch;
                match log.entries(region, low, high, bytes_max) {
                    Ok(entries) => runtime.to_peer(
                        region,
                        PeerInput::Fetched {
                            ticket,
                            low,
                            entries,
                        },
                    ),
                    Err(error) => return fatal.engine("reading the raft log", error),
                }
                metrics.fetch_seconds.record(start.elapsed());
            }
        })
}

/// At which sizes regions are split, and where they may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct SplitLimits {
    pub(super) bytes: u64,
    pub(super) keys: u64,
}

/// Starts a thread that measures regions. It ends when all senders of `checks` or `stop` are gone.
///
/// # Errors
/// The operating system starts no more threads.
pub(super) fn spawn_measurer<L: RaftLog, S: StateStore>(
    runtime: Runtime<L, S>,
    checks: Receiver<SizeCheck>,
    stop: Receiver<()>,
    limits: SplitLimits,
    mode: impl Fn() -> Option<KeyMode> + Send + 'static,
    metrics: Arc<StoreMetrics>,
    fatal: FatalSink,
) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name("region-size".to_owned())
        .spawn(move || {
            for SizeCheck { region } in checks {
                let start = Instant::now();
                let snapshot = runtime.state.snapshot();
                let (size, keys) = match measure(&snapshot, &region, limits, mode()) {
                    Ok(measured) => measured,
                    Err(error) => return fatal.engine("measuring a region", error),
                };
                drop(snapshot);
                let took = start.elapsed();
                metrics.size_check_seconds.record(took);
                runtime.to_peer(
                    region.id,
                    PeerInput::SizeChecked {
                        epoch: region::epoch(&region),
                        keys,
                        size,
                    },
                );
                // Nothing is ever sent on `stop`: this is a rest that ends with the store.
                if stop.recv_timeout((took * REST).min(REST_MAX))
                    != Err(crossbeam_channel::RecvTimeoutError::Timeout)
                {
                    return;
                }
            }
        })
}

/// What a region holds, and where to cut it if that is too much.
fn measure(
    state: &impl StateReader,
    region: &Region,
    limits: SplitLimits,
    mode: Option<KeyMode>,
) -> flotilla_engine::Result<(RegionSize, Vec<Bytes>)> {
    let range = KeyRange {
        start: &region.start_key,
        end: &region.end_key,
    };
    let mut total = RegionSize::default();
    let mut largest = (0, Vec::new());
    for cf in DATA_CFS {
        let mut cuts = Cuts::new(region, limits, mode);
        state.scan(cf, range, false, &mut |key, value| {
            cuts.row(key, value.len() as u64);
            true
        })?;
        total.bytes += cuts.all.bytes;
        total.keys += cuts.all.keys;
        if cuts.all.bytes >= largest.0 {
            largest = (cuts.all.bytes, cuts.finish());
        }
    }
    let too_large = total.bytes > limits.bytes || total.keys > limits.keys;
    Ok((total, if too_large { largest.1 } else { Vec::new() }))
}

/// Boundaries that leave about half of the split size in each part.
struct Cuts<'a> {
    region: &'a Region,
    mode: Option<KeyMode>,
    part_limit: RegionSize,
    all: RegionSize,
    part: RegionSize,
    keys: Vec<Bytes>,
}

impl<'a> Cuts<'a> {
    fn new(region: &'a Region, limits: SplitLimits, mode: Option<KeyMode>) -> Self {
        let part_limit = RegionSize {
            bytes: limits.bytes.div_ceil(2),
            keys: limits.keys.div_ceil(2),
        };
        let (all, part) = Default::default();
        Self {
            region,
            mode,
            part_limit,
            all,
            part,
            keys: Vec::new(),
        }
    }

    fn row(&mut self, key: &[u8], value_bytes: u64) {
        if self.part.bytes >= self.part_limit.bytes || self.part.keys >= self.part_limit.keys {
            self.cut(key);
        }
        for size in [&mut self.all, &mut self.part] {
            size.bytes += key.len() as u64 + value_bytes;
            size.keys += 1;
        }
    }

    /// Cuts before `key`, if clients of this cluster can read such a boundary; otherwise the next
    /// row is tried.
    fn cut(&mut self, key: &[u8]) {
        let key = Bytes::copy_from_slice(key);
        let Some(boundary) = self.mode.and_then(|mode| mode.boundary(&key)) else {
            return;
        };
        let behind_last = self.keys.last().is_none_or(|last| *last < boundary);
        if behind_last && region::strictly_inside(self.region, &boundary) {
            self.keys.push(boundary);
            self.part = RegionSize::default();
        }
    }

    /// Without a last part that would be less than half of the others.
    fn finish(mut self) -> Vec<Bytes> {
        let small = self.part.bytes < self.part_limit.bytes / 2
            && self.part.keys < self.part_limit.keys / 2;
        if small && self.keys.len() > 1 {
            self.keys.pop();
        }
        self.keys
    }
}

/// Where the pollers leave work for these threads. Bounded by the machines: each has at most one
/// size check and a few fetches under way.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) fetches: Sender<Fetch>,
    pub(super) size_checks: Sender<SizeCheck>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_engine::memory::MemoryState;
    use flotilla_engine::{Cf, StateBatch, StateOp};

    fn state(rows: &[(&[u8], usize)]) -> MemoryState {
        let state = MemoryState::new();
        let put = |(key, bytes): &(&[u8], usize)| StateOp::Put {
            cf: Cf::CfDefault,
            key: Bytes::copy_from_slice(key),
            value: vec![7; *bytes].into(),
        };
        let batch = StateBatch {
            ops: rows.iter().map(put).collect(),
            admin: false,
        };
        state.write(&batch).expect("written");
        state
    }

    #[track_caller]
    fn check(rows: &[(&[u8], usize)], mode: Option<KeyMode>, size: (u64, u64), cuts: &[&[u8]]) {
        let limits = SplitLimits {
            bytes: 100,
            keys: 10,
        };
        let region = Region {
            end_key: Bytes::from_static(b"z"),
            ..Region::default()
        };
        let (found, keys) = measure(&state(rows), &region, limits, mode).expect("measured");
        assert_eq!((found.bytes, found.keys), size);
        assert_eq!(keys, cuts);
    }

    #[test]
    fn a_region_is_cut_into_halves_of_the_split_size() {
        let plain = Some(KeyMode::Plain);
        check(&[], plain, (0, 0), &[]);
        check(&[(b"a", 49), (b"b", 49)], plain, (100, 2), &[]);
        check(
            &[(b"a", 49), (b"b", 49), (b"c", 9)],
            plain,
            (110, 3),
            &[b"b"],
        );
        check(
            &[(b"a", 49), (b"b", 49), (b"c", 49)],
            plain,
            (150, 3),
            &[b"b", b"c"],
        );
        check(&[(b"a", 500), (b"b", 9)], plain, (511, 2), &[b"b"]);
        check(&[(b"a", 500)], plain, (501, 1), &[]);
        check(&[(b"a", 9), (b"zz", 500)], plain, (10, 1), &[]);
        let many: Vec<String> = (0..11).map(|row| format!("k{row:02}")).collect();
        let many: Vec<(&[u8], usize)> = many.iter().map(|key| (key.as_bytes(), 0)).collect();
        check(&many, plain, (33, 11), &[b"k05"]);
    }

    #[test]
    fn boundaries_are_such_that_clients_can_read_them() {
        let long = flotilla_kv::key::encode(b"k1");
        let versioned = [&long[..], &[0xff; 8]].concat();
        let rows: [(&[u8], usize); 3] = [(b"a", 60), (&versioned, 60), (b"y", 60)];
        let bytes = 180 + 2 + versioned.len() as u64;
        check(&rows, Some(KeyMode::Encoded), (bytes, 3), &[&long]);
        check(&rows, None, (bytes, 3), &[]);
    }
}
