//! Reads that the pollers must not wait for (contracts: C24).

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use flotilla_engine::{
    KeyRange, RaftLog, SnapshotFiles, SnapshotInstall, SplitCheck, SplitLimits, StateReader,
    StateStore, split_check,
};
use flotilla_kv::KeyMode;
use flotilla_proto::metapb::Region;
use flotilla_raftstore::effects::{Fetch, RegionSize, SizeCheck};
use flotilla_raftstore::runtime::Runtime;
use flotilla_raftstore::{PeerInput, SnapshotTask, region};

use super::fatal::FatalSink;
use super::watchers::SnapshotCounts;
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
) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name("log-fetch".to_owned())
        .spawn(move || {
            answer_fetches(&*log, fetches, &metrics, |region, input| {
                runtime.to_peer(region, input);
            });
        })
}

/// Answers every fetch. A failed one does not end the store here: its peer does, unless the log was
/// cut or truncated there meanwhile.
fn answer_fetches(
    log: &impl RaftLog,
    fetches: impl IntoIterator<Item = Fetch>,
    metrics: &StoreMetrics,
    to_peer: impl Fn(u64, PeerInput),
) {
    for fetch in fetches {
        let start = Instant::now();
        to_peer(fetch.region, fetch.read(log));
        metrics.fetch_seconds.record(start.elapsed());
    }
}

/// Starts a thread that builds and installs snapshots and throws their files away, one after the
/// other. It ends when all senders are gone.
///
/// # Errors
/// The operating system starts no more threads.
pub(super) fn spawn_snapshots<L: RaftLog, S: SnapshotInstall>(
    runtime: Runtime<L, S>,
    files: Arc<impl SnapshotFiles>,
    tasks: Receiver<SnapshotTask>,
    counts: Arc<SnapshotCounts>,
) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name("snapshots".to_owned())
        .spawn(move || {
            for task in tasks {
                let go_on = |_| ControlFlow::Continue(());
                let installs = matches!(task, SnapshotTask::Install { .. });
                if let Some((address, input)) = task.run(&*runtime.state, &*files, go_on) {
                    runtime.tell(address, input);
                }
                if installs {
                    counts.applying.less();
                }
            }
        })
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
                let snapshot = runtime.state.background_snapshot();
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
    let SplitCheck {
        bytes,
        keys,
        split_keys,
    } = split_check(state, range, limits)?;
    // Clients must be able to read a boundary: while the key mode is not known there is none.
    let boundaries = split_keys.iter().filter_map(|key| mode?.boundary(key));
    let mut cuts: Vec<Bytes> = boundaries
        .filter(|key| region::strictly_inside(region, key))
        .collect();
    cuts.dedup();
    Ok((RegionSize { bytes, keys }, cuts))
}

/// Where the pollers leave work for these threads. Bounded by the machines: each has at most one
/// size check and a few fetches under way.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) fetches: Sender<Fetch>,
    pub(super) snapshots: Sender<SnapshotTask>,
    pub(super) size_checks: Sender<SizeCheck>,
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use flotilla_engine::memory::{MemoryLog, MemoryState};
    use flotilla_engine::{Cf, EngineError, LogBatch, StateBatch, StateOp};
    use flotilla_proto::raft::Entry;

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
            size_max: 100,
            size_split: 50,
            keys_max: 10,
        };
        let region = Region {
            start_key: Bytes::from_static(b"b"),
            end_key: Bytes::from_static(b"z"),
            ..Region::default()
        };
        let (found, keys) = measure(&state(rows), &region, limits, mode).expect("measured");
        assert_eq!((found.bytes, found.keys), size);
        assert_eq!(keys, cuts);
    }

    #[test]
    fn a_failed_read_is_told_to_its_peer_and_the_next_is_made() {
        let entry = |index| Entry {
            term: 6,
            index,
            data: Bytes::from_static(b"entry"),
            ..Entry::default()
        };
        let log = MemoryLog::new();
        let mut batch = LogBatch::default();
        batch.append(3, vec![entry(6), entry(7), entry(8)], 5);
        log.append(&batch).expect("appended");
        log.rot(3, 7);
        let fetch = |low, high| Fetch {
            region: 3,
            ticket: low,
            low,
            high,
            bytes_max: u64::MAX,
        };
        let told = RefCell::new(Vec::new());
        let fetches = [fetch(6, 7), fetch(7, 8), fetch(8, 9), fetch(9, 10)];
        answer_fetches(&log, fetches, &StoreMetrics::default(), |region, input| {
            assert_eq!(region, 3);
            told.borrow_mut().push(match input {
                PeerInput::Fetched {
                    ticket, entries, ..
                } => (ticket, Ok(entries)),
                PeerInput::FetchFailed { ticket, error } => (ticket, Err(error.to_string())),
                other => panic!("{other:?}"),
            });
        });
        let corrupt = |index, detail| {
            let place = format!("region 3 index {index}");
            Err(EngineError::corrupt(place, detail).to_string())
        };
        let expected = [
            (6, Ok(vec![entry(6)])),
            (7, corrupt(7, "the checksum does not match")),
            (8, Ok(vec![entry(8)])),
            (9, corrupt(9, "the entry is missing")),
        ];
        assert_eq!(told.into_inner(), expected);
    }

    #[test]
    fn a_region_is_measured_and_cut_inside_its_range() {
        let plain = Some(KeyMode::Plain);
        check(&[], plain, (0, 0), &[]);
        check(
            &[(b"a", 500), (b"c", 49), (b"zz", 500)],
            plain,
            (50, 1),
            &[],
        );
        check(
            &[(b"b", 49), (b"c", 49), (b"d", 49)],
            plain,
            (150, 3),
            &[b"c", b"d"],
        );
    }

    #[test]
    fn boundaries_are_such_that_clients_can_read_them() {
        let long = flotilla_kv::key::encode(b"k1");
        let (one, other) = (
            [&long[..], &[0xff; 8]].concat(),
            [&long[..], &[0x11; 8]].concat(),
        );
        let rows: [(&[u8], usize); 4] = [(b"c", 60), (&other, 60), (&one, 60), (b"y", 60)];
        let bytes = 240 + 2 + (one.len() + other.len()) as u64;
        check(&rows, Some(KeyMode::Encoded), (bytes, 4), &[&long]);
        check(&rows, None, (bytes, 4), &[]);
    }
}
