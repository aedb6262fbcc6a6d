//! How many messages the core takes in per second: three replicas in memory, one thread.
//!
//! ```sh
//! cargo run --release -p flotilla-raft --example steps -- [--json] [--seconds 3]
//! ```
//!
//! A round proposes some entries of 128 bytes at the leader and then does everything that follows
//! until all three replicas have applied them: Readys, hand-over to the log, messages, commit, apply.
//! Every hundredth round asks for a read index, which starts a confirmation round; time passes 10 µs
//! a round. Counted are calls of `step`, by kind of message; all else a round costs is in the time.

#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_proto::clock::Mono;
use flotilla_proto::raft::{ConfState, EntryKind, HardState, Message, MessageKind};
use flotilla_raft::{Config, INITIAL_INDEX, INITIAL_TERM, LogView, MemLog, Raft, Restart};

const VOTERS: [u64; 3] = [1, 2, 3];
const ENTRY_BYTES: usize = 128;
/// Entries proposed per round: alone, and as a busy region's Ready merges them.
const BATCHES: [usize; 4] = [1, 4, 16, 64];
const ROUND_NANOS: u64 = 10_000;
const ROUNDS_PER_READ: u64 = 100;
/// Log kept behind the applied index.
const LOG_KEPT: u64 = 1_000;
/// Rounds between two looks at the clock.
const ROUNDS_PER_LOOK: u64 = 256;

/// Steps by kind, and what came of them.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    appends: u64,
    append_responses: u64,
    heartbeats: u64,
    heartbeat_responses: u64,
    others: u64,
    commits: u64,
    rounds: u64,
}

impl Counts {
    fn count(&mut self, message: &Message) {
        let kind = MessageKind::try_from(message.kind).unwrap_or_default();
        *match kind {
            MessageKind::Append => &mut self.appends,
            MessageKind::AppendResponse => &mut self.append_responses,
            MessageKind::Heartbeat => &mut self.heartbeats,
            MessageKind::HeartbeatResponse => &mut self.heartbeat_responses,
            _ => &mut self.others,
        } += 1;
    }

    fn steps(&self) -> u64 {
        self.appends
            + self.append_responses
            + self.heartbeats
            + self.heartbeat_responses
            + self.others
    }
}

struct Group {
    replicas: Vec<Raft<MemLog>>,
    /// Per replica, what it is sent.
    inboxes: Vec<Vec<Message>>,
    now: Mono,
    tokens: u64,
    counts: Counts,
}

impl Group {
    fn new() -> Self {
        let replica = |id| {
            let restart = Restart {
                hard_state: HardState {
                    term: INITIAL_TERM,
                    vote: 0,
                    commit: INITIAL_INDEX,
                },
                conf: ConfState {
                    voters: VOTERS.to_vec(),
                    ..ConfState::default()
                },
                applied: INITIAL_INDEX,
            };
            let config = Config {
                id,
                seed: id,
                ..Config::default()
            };
            let log = MemLog::starting_at(INITIAL_INDEX, INITIAL_TERM);
            Raft::new(config, restart, log, Mono(0)).expect("a fresh replica starts")
        };
        let replicas = VOTERS.into_iter().map(replica).collect();
        let inboxes = VOTERS.iter().map(|_| Vec::new()).collect();
        let mut group = Self {
            replicas,
            inboxes,
            now: Mono(0),
            tokens: 0,
            counts: Counts::default(),
        };
        assert!(
            group.replicas[0].campaign(Mono(0)),
            "a fresh voter campaigns"
        );
        group.settle();
        assert!(group.replicas[0].is_leader(), "the only candidate wins");
        group
    }

    fn round(&mut self, batch: usize, data: &Bytes) {
        self.now = Mono(self.now.0 + ROUND_NANOS);
        self.counts.rounds += 1;
        for replica in &mut self.replicas {
            replica.tick(self.now);
        }
        let leader = &mut self.replicas[0];
        for _ in 0..batch {
            leader
                .propose(self.now, EntryKind::Data, data.clone())
                .expect("a leader takes proposals");
        }
        if self.counts.rounds.is_multiple_of(ROUNDS_PER_READ) {
            self.tokens += 1;
            leader
                .read_index(self.now, self.tokens)
                .expect("a leader takes reads");
        }
        let commit = leader.commit();
        self.settle();
        self.counts.commits += self.replicas[0].commit() - commit;
    }

    /// Everything that follows, until nothing moves.
    fn settle(&mut self) {
        let mut moved = true;
        while moved {
            moved = false;
            for place in 0..self.replicas.len() {
                for message in std::mem::take(&mut self.inboxes[place]) {
                    self.counts.count(&message);
                    self.replicas[place]
                        .step(self.now, message)
                        .expect("an honest message is taken in");
                }
                while self.replicas[place].has_ready() {
                    moved = true;
                    self.work(place);
                }
            }
        }
    }

    /// One Ready: a disk that takes no time, a network that loses nothing.
    fn work(&mut self, place: usize) {
        let replica = &mut self.replicas[place];
        let ready = replica.ready(self.now);
        if ready.awaits_write() {
            replica.persisted(self.now, ready.number);
        }
        if let Some(last) = ready.committed.last() {
            let index = last.index;
            replica.applied(self.now, index);
            if index > replica.log().first_index() + 2 * LOG_KEPT {
                replica.log_mut().truncate(index - LOG_KEPT);
            }
        }
        for message in ready.send_now.into_iter().chain(ready.send_after_write) {
            self.inboxes[message.to as usize - 1].push(message);
        }
    }
}

struct Figure {
    batch: usize,
    seconds: f64,
    counts: Counts,
}

fn measure(batch: usize, span: Duration) -> Figure {
    let data = Bytes::from(vec![7; ENTRY_BYTES]);
    let mut group = Group::new();
    for _ in 0..ROUNDS_PER_LOOK {
        group.round(batch, &data);
    }
    group.counts = Counts::default();
    let start = Instant::now();
    while start.elapsed() < span {
        for _ in 0..ROUNDS_PER_LOOK {
            group.round(batch, &data);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let applied = |replica: &Raft<MemLog>| replica.applied_index();
    assert!(
        group
            .replicas
            .iter()
            .all(|replica| applied(replica) == applied(&group.replicas[0])),
        "a replica lags"
    );
    Figure {
        batch,
        seconds,
        counts: group.counts,
    }
}

impl Figure {
    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.seconds
    }

    fn text(&self) {
        let counts = &self.counts;
        let share = |count: u64| 100.0 * count as f64 / counts.steps() as f64;
        println!(
            "{:>5} entries a round: {:>10.0} steps/s {:>10.0} commits/s   append {:.0} %, response {:.0} %, heartbeat {:.0} %, its response {:.0} %",
            self.batch,
            self.per_second(counts.steps()),
            self.per_second(counts.commits),
            share(counts.appends),
            share(counts.append_responses),
            share(counts.heartbeats),
            share(counts.heartbeat_responses),
        );
    }

    fn json(&self) -> serde_json::Value {
        let counts = &self.counts;
        serde_json::json!({
            "entries_per_round": self.batch,
            "entry_bytes": ENTRY_BYTES,
            "seconds": self.seconds,
            "steps_per_second": self.per_second(counts.steps()),
            "commits_per_second": self.per_second(counts.commits),
            "steps": {
                "append": counts.appends,
                "append_response": counts.append_responses,
                "heartbeat": counts.heartbeats,
                "heartbeat_response": counts.heartbeat_responses,
                "other": counts.others,
            },
        })
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let seconds = arguments
        .iter()
        .position(|argument| argument == "--seconds")
        .and_then(|at| arguments.get(at + 1));
    let seconds: f64 = seconds.map_or(3.0, |text| text.parse().expect("--seconds takes a number"));
    let figures: Vec<Figure> = BATCHES
        .into_iter()
        .map(|batch| measure(batch, Duration::from_secs_f64(seconds)))
        .collect();
    if json {
        let figures: Vec<_> = figures.iter().map(Figure::json).collect();
        println!(
            "{}",
            serde_json::json!({ "benchmark": "raft_steps", "replicas": VOTERS.len(), "figures": figures })
        );
    } else {
        figures.iter().for_each(Figure::text);
    }
}
