//! The cluster of a scenario: its stores, the time, the network, and how all that goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flotilla_engine::{FlushReason, StateStore};
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Peer, PeerRole, Region, RegionEpoch};
use flotilla_raftstore::Config;
use flotilla_raftstore::runtime::StoreFatal;

use super::asking::Requests;
use super::network::{Filter, Flying, Network, name};
use super::pd::Pd;
use super::show;
use super::store::{Part, Process, Store};
use super::transfer::Transfer;
use super::watch::Look;
use super::words::{Words, duration, key};

/// Rounds after which a `run` that finds no rest is a bug of its own.
const ROUNDS_MAX: usize = 2_000;
/// The same of one store that gets nothing new.
const STEPS_MAX: usize = 10_000;

/// A line of the story: what happened, and to which stores.
struct Told {
    stores: Vec<u64>,
    text: String,
}

#[derive(Default)]
pub(super) struct Cluster {
    pub(super) now: Mono,
    pub(super) stores: BTreeMap<u64, Store>,
    pub(super) network: Network,
    pub(super) pd: Pd,
    pub(super) requests: Requests,
    /// Snapshots that are being received.
    pub(super) transfers: Vec<Transfer>,
    pub(super) config: Config,
    regions: Vec<Region>,
    /// Parts that `run` leaves out.
    paused: BTreeSet<(u64, Part)>,
    looks: BTreeMap<u64, Look>,
    told: Vec<Told>,
}

impl Cluster {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    // ---- telling ----

    /// The story since the last call.
    pub(super) fn told(&mut self) -> Vec<String> {
        let told = std::mem::take(&mut self.told);
        let line = |Told { stores, text }: Told| match &stores[..] {
            [] => text,
            [one] => format!("store {one}: {text}"),
            several => {
                let ids: Vec<String> = several.iter().map(u64::to_string).collect();
                format!("stores {}: {text}", ids.join(", "))
            }
        };
        let mut lines: Vec<String> = told.into_iter().map(line).collect();
        if lines.is_empty() {
            lines.push("nothing to tell".to_owned());
        }
        lines
    }

    pub(super) fn say(&mut self, text: impl Into<String>) {
        self.told.push(Told {
            stores: Vec::new(),
            text: text.into(),
        });
    }

    /// The same of several stores in a row becomes one line.
    pub(super) fn say_of(&mut self, store: u64, text: impl Into<String>) {
        let text = text.into();
        match self.told.last_mut() {
            Some(last) if !last.stores.is_empty() && last.text == text => {
                if !last.stores.contains(&store) {
                    last.stores.push(store);
                }
            }
            _ => self.told.push(Told {
                stores: vec![store],
                text,
            }),
        }
    }

    /// What happens meanwhile is not told.
    pub(super) fn quietly(&mut self, act: impl FnOnce(&mut Self)) {
        let told = std::mem::take(&mut self.told);
        act(self);
        self.told = told;
    }

    // ---- setting up ----

    pub(super) fn prepare(&mut self, name: &str, words: &mut Words<'_>) -> bool {
        match name {
            "region" => {
                let region = read_region(words);
                self.regions.push(region);
            }
            "store" => {
                let id = words.number();
                self.stores.insert(id, Store::create(id, Vec::new()));
            }
            "limits" => {
                while let Some(word) = words.any() {
                    set_limit(&mut self.config, word);
                }
            }
            "start" => self.start(words),
            "recover" => self.recover(words),
            _ => return false,
        }
        true
    }

    fn start(&mut self, words: &mut Words<'_>) {
        self.create_stores();
        let named = words.numbers();
        let down = |store: &&Store| store.process.is_none();
        let chosen = |store: &&Store| named.is_empty() || named.contains(&store.id);
        let ids: Vec<u64> = self
            .stores
            .values()
            .filter(down)
            .filter(chosen)
            .map(|store| store.id)
            .collect();
        for id in ids {
            let now = self.now;
            let config = self.config.clone();
            match self.store(id).start(&config, now) {
                Ok(()) => self.watch(id),
                Err(error) => self.say_of(id, format!("does not start: {error}")),
            }
        }
    }

    fn create_stores(&mut self) {
        let regions = std::mem::take(&mut self.regions);
        let stores: BTreeSet<u64> = regions
            .iter()
            .flat_map(|region| &region.peers)
            .map(|peer| peer.store_id)
            .collect();
        for id in stores {
            let here = |region: &&Region| region.peers.iter().any(|peer| peer.store_id == id);
            let own = regions.iter().filter(here).cloned().collect();
            self.stores.insert(id, Store::create(id, own));
        }
        if self.now == Mono::default() {
            self.now = Mono::default() + Duration::from_secs(1);
        }
    }

    // ---- stores ----

    pub(super) fn store(&mut self, id: u64) -> &mut Store {
        let store = self.stores.get_mut(&id);
        store.unwrap_or_else(|| panic!("there is no store {id}"))
    }

    pub(super) fn process(&mut self, id: u64) -> &mut Process {
        let process = self.store(id).process.as_mut();
        process.unwrap_or_else(|| panic!("store {id} is down"))
    }

    /// Tells what changed on a store since the last look.
    pub(super) fn watch(&mut self, id: u64) {
        let look = match self
            .stores
            .get(&id)
            .and_then(|store| store.process.as_ref())
        {
            Some(process) => Look::at(process),
            None => Look::default(),
        };
        let before = self.looks.insert(id, look.clone()).unwrap_or_default();
        for text in look.since(&before) {
            self.say_of(id, text);
        }
    }

    // ---- going on ----

    pub(super) fn go_on(&mut self, name: &str, words: &mut Words<'_>) -> bool {
        match name {
            "run" => {
                let without = words.number_after("without");
                let named = words.numbers();
                self.run(|id| (named.is_empty() || named.contains(&id)) && without != Some(id));
            }
            "tick" => self.tick(words),
            "pass" => self.now = self.now + words.duration(),
            "pause" | "resume" => {
                let store = words.number();
                let part = words.any().map(|part| {
                    Part::named(part).unwrap_or_else(|| words.wrong("no part is called so"))
                });
                for (_, each) in Part::ALL {
                    if part.is_none_or(|part| part == each) {
                        if name == "pause" {
                            self.paused.insert((store, each));
                        } else {
                            self.paused.remove(&(store, each));
                        }
                    }
                }
            }
            _ => {
                let Some(part) = Part::named(name) else {
                    return false;
                };
                let store = words.number();
                self.one_step(store, part);
            }
        }
        true
    }

    /// One step of one part, and what it lets out.
    fn one_step(&mut self, store: u64, part: Part) {
        let before = self.network.flying.len();
        if !self.step(store, part) {
            self.say_of(store, "has nothing to do there");
        }
        let left: Vec<String> = self
            .network
            .flying
            .iter()
            .skip(before)
            .map(show::message)
            .collect();
        for line in left {
            self.say(line);
        }
    }

    /// Answers whether there was anything to do.
    fn step(&mut self, id: u64, part: Part) -> bool {
        let now = self.now;
        let Some(process) = self
            .stores
            .get_mut(&id)
            .and_then(|store| store.process.as_mut())
        else {
            return false;
        };
        let Some(done) = process.step(part, now) else {
            return false;
        };
        let fatal = done.err();
        self.collect(id);
        if let Some(fatal) = fatal {
            self.end(id, &fatal);
        }
        true
    }

    /// What a step led to: changes, messages, questions, answers.
    fn collect(&mut self, id: u64) {
        self.watch(id);
        let process = self.process(id);
        let (leaving, asked) = (process.leaving(), process.outside.take_pd());
        for text in process.outside.take_told() {
            self.say_of(id, text);
        }
        for (to, message) in leaving {
            let _lost = self.network.send(Flying {
                from: id,
                to,
                message,
            });
        }
        for task in asked {
            if let Some(text) = self.pd.hear(id, task) {
                self.say_of(id, text);
            }
        }
        self.hear_answers(id);
    }

    /// The store stops by itself; what it owes is answered on the way.
    fn end(&mut self, id: u64, fatal: &StoreFatal) {
        self.say_of(id, format!("ends: {fatal}"));
        let outside = self.process(id).outside.clone();
        self.store(id).process = None;
        self.take_outcomes(id, &outside);
        self.forget_requests(id);
        self.looks.remove(&id);
    }

    /// Everything that can happen among these stores, in a fixed order.
    pub(super) fn run(&mut self, among: impl Fn(u64) -> bool) {
        let ids: Vec<u64> = self
            .stores
            .keys()
            .copied()
            .filter(|id| among(*id))
            .collect();
        for _ in 0..ROUNDS_MAX {
            let mut moved = false;
            for id in &ids {
                moved |= self.run_store(*id);
            }
            moved |= self.answer_pd(&among);
            moved |= self.carry_messages(&among) | self.carry_rows(&among);
            if !moved {
                return;
            }
        }
        panic!("no rest after {ROUNDS_MAX} rounds");
    }

    /// Until the store has nothing to do. Answers whether it had.
    fn run_store(&mut self, id: u64) -> bool {
        for steps in 0..STEPS_MAX {
            let free = |part: &Part| !self.paused.contains(&(id, *part));
            let parts: Vec<Part> = Part::ALL
                .iter()
                .map(|(_, part)| *part)
                .filter(free)
                .collect();
            if !parts.into_iter().any(|part| self.step(id, part)) {
                return steps > 0;
            }
        }
        panic!("store {id} finds no rest after {STEPS_MAX} steps");
    }

    fn answer_pd(&mut self, among: impl Fn(u64) -> bool) -> bool {
        let replies = self.pd.answer();
        let answered = !replies.is_empty();
        for reply in replies {
            if among(reply.store) && self.stores[&reply.store].process.is_some() {
                self.say(reply.told);
                self.process(reply.store).to_peer(reply.region, reply.input);
            }
        }
        answered
    }

    fn carry_messages(&mut self, among: impl Fn(u64) -> bool) -> bool {
        let paused: BTreeSet<u64> = self
            .stores
            .keys()
            .copied()
            .filter(|id| self.is_paused(*id))
            .collect();
        // What waits for a paused store waits on the way.
        let free = self.network.take_free(&among);
        let (waiting, free): (Vec<Flying>, Vec<Flying>) = free
            .into_iter()
            .partition(|flying| paused.contains(&flying.to));
        for flying in waiting.into_iter().rev() {
            self.network.flying.push_front(flying);
        }
        let any = !free.is_empty();
        free.into_iter().for_each(|flying| self.deliver(flying));
        any
    }

    /// All of it stands still.
    fn is_paused(&self, id: u64) -> bool {
        Part::ALL
            .iter()
            .all(|(_, part)| self.paused.contains(&(id, *part)))
    }

    /// A message arrives; where no process listens it is lost.
    fn deliver(&mut self, flying: Flying) {
        if name(&flying.message) == "snapshot" {
            return self.offer(flying);
        }
        let store = self.stores.get(&flying.to);
        if let Some(process) = store.and_then(|store| store.process.as_ref()) {
            process.runtime.receive(flying.message);
        }
    }

    fn tick(&mut self, words: &mut Words<'_>) {
        let ids = if words.starts("all") {
            self.stores.keys().copied().collect()
        } else {
            words.numbers()
        };
        let Some(span) = words.any() else {
            return ids.into_iter().for_each(|id| self.notice(id));
        };
        let span = duration(span).unwrap_or_else(|| words.wrong("for how long?"));
        let end = self.now + span;
        while self.now < end {
            self.now = self.now + self.config.tick;
            ids.iter().for_each(|id| self.notice(*id));
            self.run(|_| true);
        }
    }

    fn notice(&mut self, id: u64) {
        if self.is_paused(id) {
            return;
        }
        if let Some(process) = &self.store(id).process {
            process.runtime.raft.tick_all();
        }
    }

    // ---- what goes wrong ----

    pub(super) fn disturb(&mut self, name: &str, words: &mut Words<'_>) -> bool {
        match name {
            "cut" => self.cut(words),
            "heal" => self.network.heal(&words.numbers()),
            "hold" => self.network.hold(Filter::read(words)),
            "release" => {
                let filter = Filter::read(words);
                if !self.network.release(&filter) {
                    words.wrong("nothing is held so");
                }
            }
            "deliver" | "drop" | "duplicate" | "reorder" => self.handle_messages(name, words),
            "kill" | "crash" => {
                let id = words.number();
                let kept = match name {
                    "kill" => u64::MAX,
                    _ => words.number_after("keeping").unwrap_or(0),
                };
                self.store(id).crash(|offered| kept.min(offered));
                self.forget_requests(id);
                self.looks.remove(&id);
            }
            "flush" => {
                let store = self.store(words.number());
                store
                    .state
                    .flush_all(FlushReason::Manual)
                    .expect("no fault is planned");
            }
            "durable" => {
                let process = self.process(words.number());
                process
                    .runtime
                    .publish_durable()
                    .expect("no fault is planned");
            }
            "fail" | "full" => self.plan_fault(name, words),
            "rot" => self.rot(words),
            "lose" => self.lose_files(words),
            "PD" => self.direct_pd(words),
            _ => return false,
        }
        true
    }

    fn cut(&mut self, words: &mut Words<'_>) {
        if let Some(alone) = words.number_after("off") {
            let others: Vec<u64> = self
                .stores
                .keys()
                .copied()
                .filter(|id| *id != alone)
                .collect();
            for other in others {
                self.network.cut(alone, other);
                self.network.cut(other, alone);
            }
            return;
        }
        let to = words.number_after("->");
        let stores = words.numbers();
        match (&stores[..], to) {
            ([from], Some(to)) => self.network.cut(*from, to),
            ([one, other], None) => {
                self.network.cut(*one, *other);
                self.network.cut(*other, *one);
            }
            _ => words.wrong("cut between which two?"),
        }
    }

    fn handle_messages(&mut self, name: &str, words: &mut Words<'_>) {
        let count = if words.has("first") { 1 } else { usize::MAX };
        if name == "deliver" && words.starts("file") {
            return self.carry_one_file();
        }
        let filter = Filter::read(words);
        let chosen = self.network.take(&filter, count);
        if chosen.is_empty() {
            self.say("no such message is under way");
        }
        match name {
            "deliver" => {
                for flying in chosen {
                    self.deliver(flying);
                }
            }
            "drop" => {
                for flying in chosen {
                    self.say(format!("lost: {}", show::message(&flying)));
                }
            }
            "duplicate" => {
                let copies = chosen.clone();
                self.network.flying.extend(chosen.into_iter().chain(copies));
            }
            _ => self.network.flying.extend(chosen.into_iter().rev()),
        }
    }

    fn direct_pd(&mut self, words: &mut Words<'_>) {
        match words.next() {
            "is" => match words.next() {
                "away" => self.pd.set_away(true),
                "back" => self.pd.set_away(false),
                _ => words.wrong("PD is away or back"),
            },
            "forgets" => self.pd.forget(words.number()),
            "tells" => {
                let store = words.number();
                let region = words
                    .number_after("of")
                    .unwrap_or_else(|| words.wrong("of what?"));
                match self.pd.reply_about(region) {
                    Some(input) => self.process(store).to_peer(region, input),
                    None => self.say("PD does not know it"),
                }
            }
            _ => words.wrong("PD does not do that"),
        }
    }
}

fn read_region(words: &mut Words<'_>) -> Region {
    let id = words.number();
    let start_key = words.key();
    let end_key = words.after("..").map(key).unwrap_or_default();
    if words.next() != "on" {
        words.wrong("on which stores?");
    }
    let mut peers = Vec::new();
    while let Some(word) = words.any() {
        let (word, role) = match word.strip_suffix("(learner)") {
            Some(word) => (word, PeerRole::Learner),
            None => (word, PeerRole::Voter),
        };
        let ids = word
            .split_once('=')
            .and_then(|(store, peer)| Some((store.parse().ok()?, peer.parse().ok()?)));
        let (store_id, id) = ids.unwrap_or_else(|| words.wrong("a peer is `store=peer`"));
        peers.push(Peer {
            id,
            store_id,
            role: role.into(),
            ..Peer::default()
        });
    }
    Region {
        id,
        start_key,
        end_key,
        region_epoch: Some(RegionEpoch {
            conf_ver: 1,
            version: 1,
        }),
        peers,
        ..Region::default()
    }
}

fn set_limit(config: &mut Config, word: &str) {
    let (name, value) = word
        .split_once('=')
        .unwrap_or_else(|| panic!("{word:?} sets nothing"));
    let time = || duration(value).unwrap_or_else(|| panic!("{word:?}: how long?"));
    let number = || {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{word:?}: how much?"))
    };
    match name {
        "stale-check" => config.stale_check = time(),
        "undecided-time" => config.undecided_time_max = time(),
        "waiting-time" => config.waiting_time_max = time(),
        "lag-entries" => config.lag_entries_max = number(),
        "truncate-entries" => config.truncate_entries_min = number(),
        "append-bytes" => config.append_bytes_max = number(),
        "split-queries" => config.split_queries = number(),
        "split-hot-time" => config.split_hot_time = time(),
        _ => panic!("{word:?}: no such limit"),
    }
}
