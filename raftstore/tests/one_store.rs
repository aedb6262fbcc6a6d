//! One store, stepped by hand on the in-memory engine: writes, reads, splits, restarts.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use flotilla_engine::memory::{MemoryLog, MemorySnapshots, MemoryState};
use flotilla_engine::{Cf, RaftLog, StateReader, StateStore};
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Peer, Region, RegionEpoch};
use flotilla_proto::store::{Mod, ModKind};
use flotilla_raftstore::SnapshotTask;
use flotilla_raftstore::effects::{Fetch, MetaRole, NewIds, PdTask, SizeCheck};
use flotilla_raftstore::runtime::{ApplyLimits, Runtime, StoreFatal, World};
use flotilla_raftstore::{
    Answer, Begin, Config, PeerInput, RaftInput, ReadContext, RequestError, WriteProposal, boot,
};
use flotilla_router::{Actor, Fifo, LogAppend, LogSync, Poller};

/// What the store asked of the world, kept for the test to answer.
#[derive(Clone, Default)]
struct Asked(
    Arc<Mutex<Vec<PdTask>>>,
    Arc<Mutex<Vec<MetaRole>>>,
    Arc<Mutex<Vec<Fetch>>>,
);

impl World for Asked {
    fn fetch(&mut self, fetch: Fetch) {
        self.2.lock().unwrap().push(fetch);
    }
    fn snapshot(&mut self, task: SnapshotTask) {
        unreachable!("a group of one needs no snapshot: {task:?}");
    }
    fn size_check(&mut self, _check: SizeCheck) {}
    fn pd(&mut self, task: PdTask) {
        self.0.lock().unwrap().push(task);
    }
    fn meta_role(&mut self, role: MetaRole) {
        self.1.lock().unwrap().push(role);
    }
}

struct Node {
    log: Arc<MemoryLog>,
    state: Arc<MemoryState>,
    runtime: Runtime<MemoryLog, MemoryState>,
    asked: Asked,
    now: Mono,
    next_id: u64,
}

const LIMITS: ApplyLimits = ApplyLimits {
    memtable_bytes_max: u64::MAX,
    level0_files_max: u64::MAX,
};

fn region(id: u64, peer: u64, start: &str, end: &str) -> Region {
    Region {
        id,
        start_key: Bytes::copy_from_slice(start.as_bytes()),
        end_key: Bytes::copy_from_slice(end.as_bytes()),
        region_epoch: Some(RegionEpoch {
            conf_ver: 1,
            version: 1,
        }),
        peers: vec![Peer {
            id: peer,
            store_id: 1,
            ..Peer::default()
        }],
        ..Region::default()
    }
}

impl Node {
    fn create() -> Self {
        let (log, state) = (MemoryLog::new(), MemoryState::new());
        let regions = vec![region(1, 2, "", ""), region(3, 4, "", "")];
        state.write(&boot::first_state(1, regions, vec![])).unwrap();
        state
            .flush_all(flotilla_engine::FlushReason::Manual)
            .unwrap();
        Self::open(log, state)
    }

    fn open(log: MemoryLog, state: MemoryState) -> Self {
        let (log, state) = (Arc::new(log), Arc::new(state));
        let boot = boot::open(
            Config::default(),
            1,
            &*log,
            &*state,
            &MemorySnapshots::new(),
            Mono(1),
        )
        .unwrap();
        let runtime = Runtime::new(boot, Arc::clone(&log), Arc::clone(&state));
        let mut node = Self {
            log,
            state,
            runtime,
            asked: Asked::default(),
            now: Mono(1),
            next_id: 1000,
        };
        node.run();
        node
    }

    /// Runs everything until nothing is left to do, answering PD on the way.
    fn run(&mut self) {
        let runtime = self.runtime.clone();
        let mut raft = Poller::new(
            runtime.raft.clone(),
            runtime.raft_executor(self.asked.clone()),
            Default::default(),
        );
        let mut apply = Poller::new(
            runtime.apply.clone(),
            runtime.apply_executor(LIMITS),
            Default::default(),
        );
        let mut append = LogAppend(runtime.log.clone());
        let release = runtime.clone();
        let mut sync = LogSync(runtime.log.clone(), move |durable| release.release(durable));
        loop {
            let mut actors: [&mut dyn Actor<Mono, StoreFatal>; 4] =
                [&mut raft, &mut apply, &mut append, &mut sync];
            match actors.iter_mut().position(|actor| actor.is_ready()) {
                Some(ready) => actors[ready].step(self.now, &mut Fifo).unwrap(),
                None if self.answer_pd() | self.answer_fetches() => {}
                None => return,
            }
        }
    }

    fn answer_pd(&mut self) -> bool {
        let mut answered = false;
        for task in std::mem::take(&mut *self.asked.0.lock().unwrap()) {
            if let PdTask::AskSplit {
                region,
                epoch,
                keys,
                answer,
            } = task
            {
                let mut ids = Vec::new();
                for _ in &keys {
                    ids.push(NewIds {
                        region: self.next_id,
                        peers: vec![self.next_id + 1],
                    });
                    self.next_id += 2;
                }
                let input = PeerInput::SplitIds {
                    epoch,
                    keys,
                    ids: Ok(ids),
                    answer,
                };
                self.runtime.to_peer(region.id, input);
                answered = true;
            }
        }
        answered
    }

    fn answer_fetches(&mut self) -> bool {
        let fetches = std::mem::take(&mut *self.asked.2.lock().unwrap());
        for fetch in fetches.iter().copied() {
            self.runtime.to_peer(fetch.region, fetch.read(&*self.log));
        }
        !fetches.is_empty()
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.runtime.raft.tick_all();
        self.run();
    }

    fn context(&self, region: u64) -> ReadContext {
        let serving = self.runtime.delegates.serving(region).unwrap();
        ReadContext {
            region,
            peer: serving.peer.id,
            epoch: serving.region.region_epoch,
            term: 0,
            replica: false,
        }
    }

    fn send<T: Send + 'static>(
        &mut self,
        region: u64,
        make: impl FnOnce(Answer<T>) -> PeerInput,
    ) -> Receiver<Result<T, RequestError>> {
        let (sender, receiver) = channel();
        let answer = Answer::new(move |result| sender.send(result).unwrap());
        let _dropped = self
            .runtime
            .raft
            .send(region, RaftInput::Peer(make(answer)));
        receiver
    }

    fn put(
        &mut self,
        context: ReadContext,
        key: &str,
        value: &str,
    ) -> Receiver<Result<(), RequestError>> {
        let (key, value) = (
            Bytes::copy_from_slice(key.as_bytes()),
            Bytes::copy_from_slice(value.as_bytes()),
        );
        let mods = vec![Mod {
            kind: ModKind::Put.into(),
            key,
            value,
            ..Mod::default()
        }];
        self.send(context.region, |answer| {
            PeerInput::Write(WriteProposal {
                context,
                read_term: None,
                mods,
                answer,
            })
        })
    }

    fn get(&self, key: &str) -> Option<String> {
        let value = self.state.get(Cf::CfDefault, key.as_bytes()).unwrap();
        value.map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    /// Power goes: the log keeps what was synced, the state falls to its last flush.
    fn crash(self) -> Self {
        let (log, state) = (self.log.crash(|_| 0), self.state.crash());
        Self::open(log, state)
    }

    fn ranges(&self) -> Vec<(u64, String, String)> {
        let mut ranges = BTreeMap::new();
        for id in self.runtime.raft.addrs().into_iter().filter(|id| *id > 1) {
            let region = self.runtime.delegates.serving(id).unwrap().region.clone();
            let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
            ranges.insert(
                region.start_key.clone(),
                (id, text(&region.start_key), text(&region.end_key)),
            );
        }
        ranges.into_values().collect()
    }
}

#[test]
fn a_fresh_store_leads_at_once_and_a_write_survives_a_crash() {
    let mut node = Node::create();
    assert_eq!(*node.asked.1.lock().unwrap(), [MetaRole::Leads { term: 6 }]);
    let answer = node.put(node.context(3), "k", "v");
    assert!(answer.try_recv().is_err(), "no answer before anything ran");
    node.run();
    assert_eq!(answer.recv().unwrap(), Ok(()));
    assert_eq!(node.get("k").as_deref(), Some("v"));
    let node = node.crash();
    assert_eq!(node.get("k").as_deref(), Some("v"));
}

#[test]
fn reads_are_local_under_the_lease_and_ask_after_it() {
    let mut node = Node::create();
    let context = node.context(3);
    let begin = |node: &Node| node.runtime.delegates.begin(&context, node.now).unwrap();
    let Begin::Local(read) = begin(&node) else {
        panic!("leased")
    };
    assert!(read.confirm(node.now));
    node.now = node.now + Duration::from_millis(701);
    assert!(matches!(begin(&node), Begin::Ask));
    let permit = node.send(3, |answer| PeerInput::Read { context, answer });
    node.run();
    assert_eq!(permit.recv().unwrap().unwrap().region.id, 3);
    assert!(
        matches!(begin(&node), Begin::Local(_)),
        "asking renewed the lease"
    );
}

#[test]
fn a_split_moves_the_range_and_old_epochs_are_answered_with_the_new_regions() {
    let mut node = Node::create();
    let old = node.context(3);
    let keys = vec!["t".into(), "m".into(), "m".into()];
    let split = node.send(3, |answer| PeerInput::Split {
        context: Some(old),
        keys,
        answer,
    });
    node.run();
    let regions = split.recv().unwrap().unwrap();
    assert_eq!(
        regions.iter().map(|region| region.id).collect::<Vec<_>>(),
        [1000, 1002, 3]
    );
    let expected = [(1000, "", "m"), (1002, "m", "t"), (3, "t", "")];
    assert_eq!(
        node.ranges(),
        expected.map(|(id, a, b)| (id, a.to_owned(), b.to_owned()))
    );
    let stale = node.put(old, "k", "v");
    node.run();
    match stale.recv().unwrap() {
        Err(RequestError::EpochNotMatch { current }) => {
            assert_eq!(
                current.iter().map(|region| region.id).collect::<Vec<_>>(),
                [3, 1000, 1002]
            );
        }
        other => panic!("{other:?}"),
    }
    let fresh = node.put(node.context(1000), "k", "v");
    let outside = node.put(node.context(1000), "z", "v");
    node.run();
    assert_eq!(fresh.recv().unwrap(), Ok(()));
    assert!(matches!(
        outside.recv().unwrap(),
        Err(RequestError::KeyNotInRegion { .. })
    ));
    let node = node.crash();
    assert_eq!(node.ranges().len(), 3, "topology does not fall back");
    assert_eq!(node.get("k").as_deref(), Some("v"));
}

#[test]
fn a_write_proposed_before_a_split_and_applied_after_it_is_refused() {
    let mut node = Node::create();
    let context = node.context(3);
    let split = node.send(3, |answer| PeerInput::Split {
        context: Some(context),
        keys: vec!["m".into()],
        answer,
    });
    node.run();
    assert!(split.recv().unwrap().is_ok());
    // The child proposes under its own epoch; the parent's old epoch is refused at the door already.
    let answer = node.put(
        ReadContext {
            epoch: Some(RegionEpoch {
                conf_ver: 1,
                version: 1,
            }),
            ..node.context(3)
        },
        "x",
        "1",
    );
    node.run();
    assert!(matches!(
        answer.recv().unwrap(),
        Err(RequestError::EpochNotMatch { .. })
    ));
    assert_eq!(node.get("x"), None);
}

#[test]
fn what_is_dropped_is_answered() {
    let mut node = Node::create();
    let missing = node.put(
        ReadContext {
            region: 99,
            ..node.context(3)
        },
        "k",
        "v",
    );
    assert_eq!(missing.recv().unwrap(), Err(RequestError::StaleCommand));
    let answer = node.put(node.context(3), "k", "v");
    let runtime = node.runtime.clone();
    runtime.raft.close(3);
    node.run();
    assert_eq!(
        answer.recv().unwrap(),
        Err(RequestError::StaleCommand),
        "it never was in the log"
    );
}

#[test]
fn the_log_is_truncated_up_to_what_is_durable() {
    let mut node = Node::create();
    for nth in 0..600 {
        let _answer = node.put(node.context(3), &format!("k{nth}"), "v");
        node.run();
    }
    assert_eq!(node.log_span(3), (6, 606));
    node.pass(Duration::from_millis(100));
    assert_eq!(node.log_span(3), (6, 606), "nothing is durable yet");
    node.state
        .flush_all(flotilla_engine::FlushReason::Manual)
        .unwrap();
    let risen = node.state.refresh_durable().unwrap();
    assert!(risen.contains(&(3, 606)), "{risen:?}");
    for (region, index) in risen {
        node.runtime.to_peer(region, PeerInput::Durable { index });
    }
    node.run();
    let (first, last) = node.log_span(3);
    assert!(first > 600 && last == 606, "[{first}, {last}]");
    let node = node.crash();
    assert_eq!(node.get("k599").as_deref(), Some("v"));
}

impl Node {
    fn log_span(&self, region: u64) -> (u64, u64) {
        let found = &self.log.load().unwrap()[&region];
        match found.span {
            Some(span) => (span.first, span.last),
            None => found.truncation.map_or((6, 5), |t| (t.index + 1, t.index)),
        }
    }
}
