//! Tables for the rules, one by one, and a random run against a naive model.
#![expect(
    clippy::disallowed_methods,
    reason = "real threads race for the latches in one test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc;
use std::thread;

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::*;

/// Commands of a session by name, each with its lock; waiters are the names.
struct Session {
    latches: Latches<&'static str>,
    locks: BTreeMap<&'static str, Lock>,
}

fn key(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

impl Session {
    fn new() -> Self {
        Self {
            latches: Latches::new(),
            locks: BTreeMap::new(),
        }
    }

    /// `put k..`, `swap k`, `erase start end` (`-` is no bound).
    fn lock(text: &str) -> Lock {
        let words: Vec<&str> = text.split(' ').collect();
        let bound = |word: &str| if word == "-" { Bytes::new() } else { key(word) };
        match words[..] {
            ["put", ref keys @ ..] => {
                let keys: Vec<Bytes> = keys.iter().map(|word| key(word)).collect();
                Lock::shared(&keys)
            }
            ["swap", word] => Lock::exclusive(&key(word)),
            ["erase", start, end] => Lock::range(&bound(start), &bound(end)),
            _ => panic!("no command: {text}"),
        }
    }

    fn acquire(&mut self, name: &'static str, mut lock: Lock) -> &'static str {
        let held = self.latches.acquire(&mut lock, || name);
        assert_eq!(held, lock.complete());
        self.locks.insert(name, lock);
        if held { "holds" } else { "waits" }
    }

    /// One line of a session: a name and what it does; what comes of it.
    fn step(&mut self, line: &'static str) -> String {
        let (name, action) = line.split_once(' ').unwrap();
        match action {
            "ends" => {
                let lock = self.locks.remove(name).unwrap();
                let woken = self.latches.release(lock);
                let mut told = Vec::new();
                for name in woken {
                    let lock = self.locks.remove(name).unwrap();
                    told.push(format!("{name} {}", self.acquire(name, lock)));
                }
                told.join(", ")
            }
            _ => self.acquire(name, Self::lock(action)).to_owned(),
        }
    }
}

#[track_caller]
fn check(lines: &[(&'static str, &str)]) {
    let mut session = Session::new();
    for (line, told) in lines {
        assert_eq!(&session.step(line), told, "{line}");
    }
    assert!(
        session.latches.is_idle(),
        "the session ends with everything given back"
    );
}

#[test]
fn writes_that_read_nothing_overlap() {
    check(&[
        ("a put k", "holds"),
        ("b put k", "holds"),
        ("c put j k l", "holds"),
        ("d erase a z", "holds"),
        ("e erase - -", "holds"),
        ("a ends", ""),
        ("e ends", ""),
        ("d ends", ""),
        ("c ends", ""),
        ("b ends", ""),
    ]);
}

#[test]
fn a_swap_waits_for_every_write_of_its_key_and_holds_off_the_next() {
    check(&[
        ("a put k", "holds"),
        ("b put k", "holds"),
        ("c swap k", "waits"),
        ("d put other", "holds"),
        ("a ends", ""),
        ("b ends", "c holds"),
        ("e put k", "waits"),
        ("f swap k", "waits"),
        ("c ends", "e holds"),
        ("e ends", "f holds"),
        ("f ends", ""),
        ("d ends", ""),
    ]);
}

#[test]
fn nobody_overtakes_a_waiting_swap() {
    check(&[
        ("a put k", "holds"),
        ("b swap k", "waits"),
        ("c put k", "waits"),
        ("d put k", "waits"),
        ("a ends", "b holds"),
        ("b ends", "c holds, d holds"),
        ("c ends", ""),
        ("d ends", ""),
    ]);
}

#[test]
fn a_range_delete_and_the_swaps_inside_it_take_turns() {
    check(&[
        ("a swap k", "holds"),
        ("b swap z", "holds"),
        ("c erase a m", "waits"),
        ("d swap c", "waits"),
        ("e swap n", "holds"),
        ("f erase a m", "waits"),
        ("b ends", ""),
        ("a ends", "c holds"),
        ("c ends", "d holds"),
        ("d ends", "f holds"),
        ("f ends", ""),
        ("e ends", ""),
    ]);
}

#[test]
fn the_start_of_a_range_is_in_it_and_its_end_is_not() {
    check(&[
        ("a erase f m", "holds"),
        ("b swap e", "holds"),
        ("c swap f", "waits"),
        ("d swap m", "holds"),
        ("a ends", "c holds"),
        ("b ends", ""),
        ("c ends", ""),
        ("d ends", ""),
    ]);
}

#[test]
fn a_waiter_that_gives_up_lets_those_behind_it_in() {
    check(&[
        ("a put k", "holds"),
        ("b swap k", "waits"),
        ("c put k", "waits"),
        ("b ends", "c holds"),
        ("d swap k", "waits"),
        ("e erase - -", "waits"),
        ("f swap k", "waits"),
        ("e ends", "f waits"),
        ("a ends", ""),
        ("c ends", "d holds"),
        ("d ends", "f holds"),
        ("f ends", ""),
    ]);
}

#[test]
fn a_lock_of_nothing_is_held_at_once() {
    let latches: Latches<()> = Latches::new();
    let mut lock = Lock::shared([]);
    assert!(latches.acquire(&mut lock, || unreachable!("it waits for nothing")));
    assert!(latches.release(lock).is_empty());
}

#[test]
fn a_lock_with_an_unknown_outcome_is_kept_until_its_term_has_passed() {
    let latches = Latches::new();
    let take = |lock: &mut Lock, name| latches.acquire(lock, || name);
    let (mut put, mut swap) = (Lock::shared([&key("k")]), Lock::exclusive(&key("k")));
    assert!(take(&mut put, "put") && !take(&mut swap, "swap"));
    latches.detain(put, 7, 5);
    assert_eq!(latches.detained(), 1);
    //           region, applied term, who is woken
    for (region, term, woken) in [
        (7, 4, &[][..]),
        (7, 5, &[]),
        (8, 9, &[]),
        (7, 6, &["swap"]),
        (7, 7, &[]),
    ] {
        assert_eq!(
            latches.decided(region, term),
            woken,
            "region {region} term {term}"
        );
    }
    assert_eq!(latches.detained(), 0);
    assert!(take(&mut swap, "swap"));
    assert!(latches.release(swap).is_empty() && latches.is_idle());
}

/// What a command of the random run takes: its keys or its range, and how.
#[derive(Clone, Debug)]
enum Wish {
    Keys(Access, Vec<Bytes>),
    Range(Bytes, Bytes),
}

impl Wish {
    fn lock(&self) -> Lock {
        match self {
            Self::Keys(Access::Shared, keys) => Lock::shared(keys),
            Self::Keys(Access::Exclusive, keys) => Lock::exclusive(&keys[0]),
            Self::Range(start, end) => Lock::range(start, end),
        }
    }

    /// The rule in words: they share a key, and one of them reads it.
    fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Range(..), Self::Range(..)) => false,
            (Self::Range(start, end), Self::Keys(access, keys))
            | (Self::Keys(access, keys), Self::Range(start, end)) => {
                *access == Access::Exclusive
                    && keys
                        .iter()
                        .any(|key| key >= start && (end.is_empty() || key < end))
            }
            (Self::Keys(mine, keys), Self::Keys(other, others)) => {
                (*mine == Access::Exclusive || *other == Access::Exclusive)
                    && keys.iter().any(|key| others.contains(key))
            }
        }
    }
}

/// The same rules as lists of who came when: an entry is granted when none before it conflicts.
#[derive(Default)]
struct Model {
    /// The range table is resource 0, slot s is resource s + 1.
    queues: BTreeMap<usize, Vec<(u64, Wish)>>,
    /// What each command takes in order, and how many of that it has entered.
    commands: BTreeMap<u64, (Vec<usize>, usize, Wish)>,
}

impl Model {
    fn start(&mut self, command: u64, wish: Wish) {
        let mut resources = BTreeSet::new();
        match &wish {
            Wish::Range(..) => _ = resources.insert(0),
            Wish::Keys(access, keys) => {
                resources.extend(keys.iter().map(|key| usize::from(slot_of(key)) + 1));
                resources.extend((*access == Access::Exclusive).then_some(0));
            }
        }
        self.commands
            .insert(command, (resources.into_iter().collect(), 0, wish));
    }

    fn granted(&self, resource: usize, command: u64) -> bool {
        let queue = &self.queues[&resource];
        let at = queue
            .iter()
            .position(|(other, _)| *other == command)
            .unwrap();
        let conflicts = |one: &Wish, two: &Wish| match (resource, one, two) {
            // Slots do not tell their keys apart.
            (1.., Wish::Keys(one, _), Wish::Keys(two, _)) => {
                *one == Access::Exclusive || *two == Access::Exclusive
            }
            (0, Wish::Keys(..), Wish::Keys(..)) => false,
            _ => one.excludes(two),
        };
        queue[..at]
            .iter()
            .all(|(_, earlier)| !conflicts(earlier, &queue[at].1))
    }

    fn waiting_for(&self, command: u64) -> Option<usize> {
        let (resources, entered, _) = &self.commands[&command];
        let last = resources[..*entered].last().copied()?;
        (!self.granted(last, command)).then_some(last)
    }

    /// Enters one resource after the other until one is not granted. `true`: all are.
    fn acquire(&mut self, command: u64) -> bool {
        loop {
            if self.waiting_for(command).is_some() {
                return false;
            }
            let (resources, entered, wish) = self.commands.get_mut(&command).unwrap();
            let Some(next) = resources.get(*entered) else {
                return true;
            };
            *entered += 1;
            self.queues
                .entry(*next)
                .or_default()
                .push((command, wish.clone()));
        }
    }

    /// Leaves everything; who got what they waited for.
    fn end(&mut self, command: u64) -> BTreeSet<u64> {
        let waiting = |model: &Self| -> BTreeSet<u64> {
            let waits = |command: &u64| model.waiting_for(*command).is_some();
            model.commands.keys().copied().filter(waits).collect()
        };
        let before = waiting(self);
        self.commands.remove(&command);
        for queue in self.queues.values_mut() {
            queue.retain(|(other, _)| *other != command);
        }
        let after = waiting(self);
        before
            .into_iter()
            .filter(|other| *other != command && !after.contains(other))
            .collect()
    }
}

/// Five keys in slots of their own, and two that share the slot of the first.
fn keys_that_meet() -> Vec<Bytes> {
    let mut keys: Vec<Bytes> = ["a", "b", "c", "d", "e"].map(key).to_vec();
    let slot = slot_of(&keys[0]);
    let others = (0u32..).map(|number| Bytes::copy_from_slice(&number.to_be_bytes()));
    keys.extend(others.filter(|other| slot_of(other) == slot).take(2));
    keys
}

struct Run {
    rng: SplitMix64,
    /// Few, and some of them in one slot.
    keys: Vec<Bytes>,
    latches: Latches<u64>,
    model: Model,
    wishes: BTreeMap<u64, Wish>,
    locks: BTreeMap<u64, Lock>,
    /// Hold everything.
    holding: BTreeSet<u64>,
    /// Were woken and have not called again.
    woken: Vec<u64>,
    /// Outcome unknown, by (region, term).
    detained: BTreeMap<(u64, u64), Vec<u64>>,
    waits: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            rng: SplitMix64::seed_from_u64(seed),
            keys: keys_that_meet(),
            latches: Latches::new(),
            model: Model::default(),
            wishes: BTreeMap::new(),
            locks: BTreeMap::new(),
            holding: BTreeSet::new(),
            woken: Vec::new(),
            detained: BTreeMap::new(),
            waits: 0,
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound
    }

    fn some_key(&mut self) -> Bytes {
        let at = self.below(self.keys.len() as u64) as usize;
        self.keys[at].clone()
    }

    fn wish(&mut self) -> Wish {
        match self.below(8) {
            0..3 => Wish::Keys(Access::Exclusive, vec![self.some_key()]),
            3..5 => Wish::Keys(Access::Shared, vec![self.some_key()]),
            5..7 => {
                let count = self.below(5);
                Wish::Keys(
                    Access::Shared,
                    (0..count).map(|_| self.some_key()).collect(),
                )
            }
            _ => {
                let end = if self.below(3) == 0 {
                    Bytes::new()
                } else {
                    self.some_key()
                };
                Wish::Range(self.some_key(), end)
            }
        }
    }

    fn acquire(&mut self, command: u64) {
        let lock = self.locks.get_mut(&command).unwrap();
        let held = self.latches.acquire(lock, || command);
        assert_eq!(held, self.model.acquire(command), "command {command}");
        if held {
            self.holding.insert(command);
        } else {
            self.waits += 1;
        }
    }

    /// The model ends `command` too, and wakes the same ones.
    fn ended(&mut self, commands: &[u64], woken: Vec<u64>) {
        let mut expected: Vec<u64> = Vec::new();
        for command in commands {
            expected.extend(self.model.end(*command));
            self.holding.remove(command);
            self.woken.retain(|other| other != command);
        }
        expected.sort_unstable();
        let mut sorted = woken.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, expected, "woken by the end of {commands:?}");
        self.woken.extend(woken);
    }

    fn end(&mut self, command: u64) {
        let woken = self.latches.release(self.locks.remove(&command).unwrap());
        self.ended(&[command], woken);
    }

    fn pick(&mut self, from: &[u64]) -> Option<u64> {
        (!from.is_empty()).then(|| from[self.below(from.len() as u64) as usize])
    }

    /// Hold everything, and their commands are still there.
    fn undetained(&self) -> Vec<u64> {
        self.holding
            .iter()
            .copied()
            .filter(|command| self.locks.contains_key(command))
            .collect()
    }

    fn step(&mut self, command: u64) {
        match self.below(10) {
            0..4 => {
                let wish = self.wish();
                self.locks.insert(command, wish.lock());
                self.model.start(command, wish.clone());
                self.wishes.insert(command, wish);
                self.acquire(command);
            }
            4..6 => {
                let holding = self.undetained();
                self.pick(&holding)
                    .into_iter()
                    .for_each(|command| self.end(command));
            }
            6 => {
                let all: Vec<u64> = self.locks.keys().copied().collect();
                self.pick(&all)
                    .into_iter()
                    .for_each(|command| self.end(command));
            }
            7 => {
                let holding = self.undetained();
                if let Some(command) = self.pick(&holding) {
                    let (region, term) = (self.below(2), self.below(3));
                    self.latches
                        .detain(self.locks.remove(&command).unwrap(), region, term);
                    self.detained
                        .entry((region, term))
                        .or_default()
                        .push(command);
                }
            }
            8 => {
                let (region, term) = (self.below(2), self.below(4));
                self.decide(region, term);
            }
            _ => {
                let woken = std::mem::take(&mut self.woken);
                woken.into_iter().for_each(|command| self.acquire(command));
            }
        }
        self.check_exclusion();
    }

    fn decide(&mut self, region: u64, applied_term: u64) {
        let free: Vec<u64> = self
            .detained
            .extract_if((region, 0)..(region, applied_term), |_, _| true)
            .flat_map(|(_, commands)| commands)
            .collect();
        let woken = self.latches.decided(region, applied_term);
        self.ended(&free, woken);
    }

    fn check_exclusion(&self) {
        let holding: Vec<&u64> = self.holding.iter().collect();
        for (at, one) in holding.iter().enumerate() {
            for other in &holding[..at] {
                let (mine, theirs) = (&self.wishes[one], &self.wishes[other]);
                assert!(
                    !mine.excludes(theirs),
                    "{one} {mine:?} and {other} {theirs:?} both hold"
                );
            }
        }
    }

    /// Ends everybody who holds until nobody is left.
    fn drain(&mut self) {
        self.decide(0, u64::MAX);
        self.decide(1, u64::MAX);
        while !self.locks.is_empty() {
            let woken = std::mem::take(&mut self.woken);
            woken.into_iter().for_each(|command| self.acquire(command));
            let command = self.holding.first().copied();
            self.end(command.expect("somebody holds or was woken, or they wait for each other"));
        }
        assert!(self.latches.is_idle());
    }
}

#[test]
fn random_commands_get_what_the_model_gives_them() {
    let seeds = match std::env::var("FLOTILLA_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("FLOTILLA_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..400,
    };
    let mut waits = 0;
    for seed in seeds.clone() {
        println!("FLOTILLA_SEED={seed}");
        let mut run = Run::new(seed);
        for command in 0..400 {
            run.step(command);
        }
        run.drain();
        waits += run.waits;
    }
    let runs = seeds.end - seeds.start;
    assert!(
        runs == 1 || waits > 20 * runs,
        "commands met: {waits} waits"
    );
}

/// The random run calls one after the other; here the calls of real threads cross.
#[test]
fn threads_see_one_swap_at_a_time() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 2_000;
    let latches: Latches<mpsc::Sender<()>> = Latches::new();
    let swaps = AtomicU64::new(0);
    let cells: Vec<AtomicU64> = (0..3).map(|_| AtomicU64::new(0)).collect();
    let keys: Vec<Bytes> = ["a", "b", "c"].map(key).to_vec();
    let run = |thread: u64| {
        let mut rng = SplitMix64::seed_from_u64(thread);
        for _ in 0..ROUNDS {
            let at = (rng.next_u64() % 3) as usize;
            let kind = rng.next_u64() % 8;
            let mut lock = match kind {
                0..4 => Lock::exclusive(&keys[at]),
                4..6 => Lock::shared(&keys),
                6 => Lock::range(&keys[0], &Bytes::new()),
                _ => Lock::exclusive(&keys[at]),
            };
            let (wake, woken) = mpsc::channel();
            // One in eight gives up when it would have to wait.
            let mut held = latches.acquire(&mut lock, || wake.clone());
            while !held && kind != 7 {
                woken.recv().expect("a waiter is woken");
                held = latches.acquire(&mut lock, || wake.clone());
            }
            if held && lock.access() == Access::Exclusive {
                let seen = cells[at].load(Ordering::Relaxed);
                thread::yield_now();
                cells[at].store(seen + 1, Ordering::Relaxed);
                swaps.fetch_add(1, Ordering::Relaxed);
            }
            latches
                .release(lock)
                .into_iter()
                .for_each(|wake| _ = wake.send(()));
        }
    };
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let run = &run;
            scope.spawn(move || run(thread));
        }
    });
    let stored: u64 = cells.iter().map(|cell| cell.load(Ordering::Relaxed)).sum();
    assert_eq!(
        stored,
        swaps.load(Ordering::Relaxed),
        "a swap read what another was writing"
    );
    assert!(latches.is_idle());
}
