//! An authenticated peer that sends lies is refused by type, or believed as raft must believe it; it
//! never brings a replica down (fault model, section 2: malice).
//!
//! A replica in some honest state is sent messages whose fields are drawn from what is plausible, what
//! is on the edge and what is absurd. Whatever it answers, it must not panic, and its own indexes must
//! stay in order. `FLOTILLA_RAFT_SEED` runs one seed.

mod common;

use std::time::Duration;

use common::Node;
use flotilla_proto::clock::Mono;
use flotilla_proto::raft::{ConfState, Entry, EntryKind, Message, Snapshot, SnapshotMeta};
use flotilla_raft::{Config, Role};
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng};

const SEEDS: u64 = 3_000;
const MESSAGES: usize = 200;

struct Liar {
    rng: SplitMix64,
}

impl Liar {
    fn below(&mut self, limit: u64) -> u64 {
        self.rng.next_u64() % limit
    }

    /// Near what the replica holds, most of the time.
    fn number(&mut self, near: u64) -> u64 {
        match self.below(20) {
            0 => u64::MAX - self.below(3),
            1 => self.rng.next_u64(),
            2 => 0,
            _ => (near + self.below(6)).saturating_sub(3),
        }
    }

    fn entries(&mut self, term: u64, index: u64) -> Vec<Entry> {
        let gap = u64::from(self.below(10) == 0);
        let kind = if self.below(5) == 0 {
            EntryKind::Admin
        } else {
            EntryKind::Data
        };
        (1..=self.below(4))
            .map(|offset| Entry {
                term: if self.below(10) == 0 {
                    self.number(term)
                } else {
                    term
                },
                index: index.saturating_add(offset + gap),
                kind: kind as i32,
                data: vec![0; self.below(9) as usize].into(),
            })
            .collect()
    }

    fn snapshot(&mut self, term: u64, index: u64) -> Option<Box<Snapshot>> {
        if self.below(20) == 0 {
            return None;
        }
        let conf = ConfState {
            voters: (1..=self.below(5)).collect(),
            ..ConfState::default()
        };
        let meta = SnapshotMeta {
            index: self.number(index),
            term: self.number(term),
            conf: Some(conf),
        };
        let manifest = 0u64.to_le_bytes().to_vec().into();
        Some(Box::new(Snapshot {
            meta: (self.below(20) > 0).then_some(meta),
            manifest,
        }))
    }

    fn message(&mut self, term: u64, last: u64) -> Message {
        let kind = self.below(16) as i32;
        let (message_term, index) = (self.number(term), self.number(last));
        let entries = if kind == 5 {
            self.entries(message_term.min(term), index)
        } else {
            Vec::new()
        };
        Message {
            kind,
            from: 1 + self.below(4),
            to: 1 + u64::from(self.below(30) == 0),
            term: message_term,
            index,
            log_term: self.number(term),
            entries,
            commit: self.number(last),
            reject: self.below(3) == 0,
            hint_index: self.number(last),
            hint_term: self.number(term),
            round: self.number(3),
            snapshot: if kind == 9 {
                self.snapshot(term, last)
            } else {
                None
            },
            transfer: self.below(4) == 0,
            priority: self.below(3) as i64 - 1,
            min_matched: self.number(last),
            transfer_attempt: self.number(1),
        }
    }
}

fn run(seed: u64) -> u64 {
    let mut liar = Liar {
        rng: SplitMix64::seed_from_u64(seed),
    };
    let conf = ConfState {
        voters: vec![1, 2, 3],
        learners: vec![4],
        ..ConfState::default()
    };
    let mut node = if liar.below(10) == 0 {
        Node::blank(1)
    } else {
        Node::member(1, conf)
    };
    let mut now = Mono(0);
    node.start(
        Config {
            id: 1,
            seed,
            pre_vote: liar.below(2) == 0,
            ..Config::default()
        },
        now,
    );
    let mut refused = 0;
    for _ in 0..MESSAGES {
        now = now + Duration::from_millis(liar.below(400));
        let raft = node.raft.as_mut().expect("it runs");
        let message = liar.message(raft.term(), raft.last_index());
        refused += u64::from(raft.step(now, message).is_err());
        raft.tick(now);
        if raft.role() == Role::Leader && liar.below(2) == 0 {
            let _ = raft.propose(now, EntryKind::Data, "x".into());
            let _ = raft.read_index(now, 0);
            let _ = raft.transfer_leader(now, 2);
        }
        work(&mut node, &mut liar, now);
        live(&mut node, &mut liar, now);
    }
    refused
}

/// What else happens in a replica's life.
fn live(node: &mut Node, liar: &mut Liar, now: Mono) {
    match liar.below(40) {
        0 => {
            let kept = liar.below(node.writes.len() as u64 + 1);
            node.crash(kept as usize);
            let seed = liar.rng.next_u64();
            node.start(
                Config {
                    id: 1,
                    seed,
                    ..Config::default()
                },
                now,
            );
        }
        1 | 2 => node.flush(),
        3 => {
            let applied = node.disk.machine.applied;
            node.truncate(applied);
        }
        4 => node.take_snapshot(now),
        5 | 6 => {
            let raft = node.raft.as_mut().expect("it runs");
            let cold = !raft.log().cold.get();
            raft.log().cold.set(cold);
            raft.log()
                .tickets
                .take()
                .into_iter()
                .for_each(|ticket| raft.fetched(now, ticket));
        }
        _ => {}
    }
}

/// The replica's own disk and state machine stay honest.
fn work(node: &mut Node, liar: &mut Liar, now: Mono) {
    while node.raft.as_ref().is_some_and(|raft| raft.has_ready()) {
        let mut ready = node.raft.as_mut().expect("it runs").ready(now);
        node.accept(&mut ready);
        while liar.below(3) > 0
            && let Some((number, _)) = node.write()
        {
            node.raft.as_mut().expect("it runs").persisted(now, number);
        }
        while liar.below(3) > 0 && node.apply(now).is_some() {}
    }
    let status = node.raft.as_ref().expect("it runs").status();
    assert_eq!(status.id, node.id);
    assert!(
        status.applied <= status.commit && status.commit <= status.last_index,
        "{status:?}"
    );
}

#[test]
fn lies_bring_no_replica_down() {
    let single: Option<u64> = std::env::var("FLOTILLA_RAFT_SEED")
        .ok()
        .map(|text| text.parse().expect("a number"));
    let seeds = single.map_or(0..SEEDS, |seed| seed..seed + 1);
    println!("tier=T0 raft lies seeds={seeds:?}");
    let mut refused = 0;
    for seed in seeds {
        // A panic must name its seed.
        println!("seed {seed}");
        refused += run(seed);
    }
    println!("{refused} messages were refused");
    assert!(refused > 0, "nothing was refused: these are no lies");
}
