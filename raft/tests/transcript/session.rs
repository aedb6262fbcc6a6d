//! The commands of a transcript. Nothing happens by itself: a command does what it says, and `run`
//! does everything that is left to do.
//!
//! | command | what |
//! |---|---|
//! | `cluster voters=1,2,3 [learners=4] [key=value ..]` | members with fresh disks, not started; limits |
//! | `node 1 [term=7] [vote=2] [commit=6] [log=6,6,7]` | the disk of a node: the terms of the entries from index 6 |
//! | `blank 4` | a peer with an empty disk |
//! | `start [1 2]` · `crash 1 [kept=1]` | crash: all but the first `kept` writes under way are lost |
//! | `wait 500` · `tick [1 2]` | time passes for everybody, in ms; nobody notices before a tick |
//! | `pass 2000 [1 2]` | time passes in ticks of 100 ms, and everything among these happens |
//! | `elect 1` | campaigns and runs, and says only who leads |
//! | `campaign 1` · `propose 1 [x 10] [bytes=4]` · `admin 1` · `read 1 a` | |
//! | `conf 1 voter=4 learner=5 remove=2 [simple] [joint] [explicit] [leave]` · `transfer 1 2` | |
//! | `ready [1]` · `write [1] [count=1]` · `apply [1] [count=1]` | takes Readys; completes writes; applies |
//! | `deliver [1->2] [kind] [count=1]` · `drop ..` · `twice ..` · `flying` | messages, oldest first |
//! | `cut 1 \| 2 3` · `heal` | messages across are lost when they leave |
//! | `run [1 2]` | ready, write, apply and deliver among these, until all is quiet |
//! | `quietly ..` | the same without an answer |
//! | `snapshot 1` · `truncate 1 8` · `flush 1` · `report 1 2 ok` · `unreachable 1 2` | |
//! | `cold 1` · `fetch 1` | entries must be fetched; the fetches come back |
//! | `step 2->1 append term=6 ..` | a message from nowhere |
//! | `log [1]` · `status [1]` · `lease 1` · `priority 1 5` | |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use flotilla_proto::clock::Mono;
use flotilla_proto::raft::{
    ConfState, Entry, EntryKind, Message, MessageKind, Snapshot, SnapshotMeta,
};
use flotilla_raft::{
    ConfRequest, Config, INITIAL_INDEX, INITIAL_TERM, LogView, MemberChange, Raft, Transition,
};

use crate::common::{Node, View, Work};
use crate::show;

/// Rounds after which a `run` that finds no rest is a bug of its own.
const ROUNDS_MAX: usize = 1000;

#[derive(Default)]
pub(crate) struct Session {
    now: Mono,
    base: Config,
    nodes: BTreeMap<u64, Node>,
    flying: VecDeque<Message>,
    cut: BTreeSet<(u64, u64)>,
    priorities: BTreeMap<u64, i64>,
    starts: u64,
    tokens: Vec<String>,
    numbers: Vec<u64>,
    out: Vec<String>,
}

/// A command line, split.
struct Words<'a> {
    plain: Vec<&'a str>,
    keys: Vec<(&'a str, &'a str)>,
}

impl<'a> Words<'a> {
    fn split(line: &'a str) -> Self {
        let (mut plain, mut keys) = (Vec::new(), Vec::new());
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some(pair) => keys.push(pair),
                None => plain.push(word),
            }
        }
        Self { plain, keys }
    }

    fn key(&self, name: &str) -> Option<&'a str> {
        self.keys
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| *value)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.key(name).map(number)
    }

    fn has(&self, word: &str) -> bool {
        self.plain.contains(&word)
    }

    fn id(&self) -> u64 {
        number(self.plain.get(1).expect("a node is named"))
    }

    fn ids(&self) -> Vec<u64> {
        self.plain[1..]
            .iter()
            .filter(|word| word.parse::<u64>().is_ok())
            .map(|word| number(word))
            .collect()
    }
}

#[track_caller]
fn number(word: &str) -> u64 {
    word.parse()
        .unwrap_or_else(|_| panic!("{word:?} is not a number"))
}

fn numbers(words: &str) -> Vec<u64> {
    words
        .split(',')
        .filter(|word| !word.is_empty())
        .map(number)
        .collect()
}

/// `6/7` as (term, index).
fn log_id(word: &str) -> (u64, u64) {
    let (term, index) = word
        .split_once('/')
        .unwrap_or_else(|| panic!("{word:?} is not term/index"));
    (number(term), number(index))
}

impl Session {
    /// What happened since the last call.
    pub(crate) fn answers(&mut self) -> Vec<String> {
        let answers = std::mem::take(&mut self.out);
        if answers.is_empty() {
            vec!["ok".to_owned()]
        } else {
            answers
        }
    }

    fn say(&mut self, line: impl Into<String>) {
        self.out.push(line.into());
    }

    pub(crate) fn run(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("quietly ") {
            let before = self.out.len();
            self.run(rest);
            self.out.truncate(before);
            return;
        }
        let words = Words::split(line);
        match words.plain[0] {
            "cluster" => self.cluster(&words),
            "node" => self.prepare(&words),
            "blank" => words.ids().into_iter().for_each(|id| {
                self.nodes.insert(id, Node::blank(id));
            }),
            "start" => self.each(&words, Self::start),
            "crash" => self.crash(&words),
            "wait" => self.now = self.now + Duration::from_millis(number(words.plain[1])),
            "tick" => self.each(&words, |session, id| {
                session.core(id, |raft, now| raft.tick(now))
            }),
            "pass" => {
                for _ in 0..number(words.plain[1]) / 100 {
                    self.now = self.now + Duration::from_millis(100);
                    let among = Words {
                        plain: [&["pass"], &words.plain[2..]].concat(),
                        keys: Vec::new(),
                    };
                    self.each(&among, |session, id| {
                        session.core(id, |raft, now| raft.tick(now))
                    });
                    self.settle(&among);
                }
            }
            "elect" => self.elect(words.id()),
            "campaign" => self.campaign(words.id()),
            "propose" | "admin" => self.propose(&words),
            "read" => self.read(&words),
            "conf" => self.conf(&words),
            "transfer" => self.transfer(&words),
            "ready" => self.each(&words, |session, id| while session.ready(id) {}),
            "write" => self.counted(&words, Self::write),
            "apply" => self.counted(&words, Self::apply),
            "deliver" => self.messages(&words, Self::deliver),
            "twice" => self.messages(&words, |session, message| {
                session.deliver(message.clone());
                session.deliver(message);
            }),
            "drop" => self.messages(&words, |session, message| {
                let line = session.show(&message);
                session.say(format!("lost: {line}"));
            }),
            "flying" => self.show_flying(),
            "cut" => self.cut(line),
            "heal" => self.cut.clear(),
            "run" => self.settle(&words),
            "snapshot" => {
                let now = self.now;
                self.node(words.id()).take_snapshot(now);
            }
            "truncate" => self.node(words.id()).truncate(number(words.plain[2])),
            "flush" => self.each(&words, |session, id| session.node(id).flush()),
            "report" => {
                let ok = words.has("ok");
                self.core(words.id(), |raft, _| {
                    raft.report_snapshot(number(words.plain[2]), ok)
                });
            }
            "unreachable" => self.core(words.id(), |raft, _| {
                raft.report_unreachable(number(words.plain[2]))
            }),
            "cold" => self.core(words.id(), |raft, _| raft.log().cold.set(true)),
            "fetch" => self.core(words.id(), |raft, now| {
                raft.log().cold.set(false);
                raft.log()
                    .tickets
                    .take()
                    .into_iter()
                    .for_each(|ticket| raft.fetched(now, ticket));
            }),
            "step" => self.step(&words),
            "log" => self.each(&words, Self::show_log),
            "status" => self.each(&words, |session, id| {
                let status = show::status(&session.raft(id).status());
                session.say(status);
            }),
            "lease" => self.lease(words.id()),
            "priority" => {
                let (id, priority) = (words.id(), words.plain[2].parse().expect("a priority"));
                self.priorities.insert(id, priority);
                if self.nodes[&id].raft.is_some() {
                    self.core(id, |raft, _| raft.set_priority(priority));
                }
            }
            other => panic!("unknown command {other:?}"),
        }
    }

    // ---- nodes ----

    fn node(&mut self, id: u64) -> &mut Node {
        self.nodes
            .get_mut(&id)
            .unwrap_or_else(|| panic!("no node {id}"))
    }

    fn raft(&mut self, id: u64) -> &mut Raft<View> {
        self.node(id)
            .raft
            .as_mut()
            .unwrap_or_else(|| panic!("node {id} is down"))
    }

    fn core(&mut self, id: u64, act: impl FnOnce(&mut Raft<View>, Mono)) {
        let now = self.now;
        act(self.raft(id), now);
    }

    /// The nodes named, or all that run.
    fn each(&mut self, words: &Words<'_>, act: impl Fn(&mut Self, u64)) {
        let named = words.ids();
        let up = |node: &&Node| node.raft.is_some() || words.has("start");
        let ids = if named.is_empty() {
            self.nodes.values().filter(up).map(|node| node.id).collect()
        } else {
            named
        };
        for id in ids {
            act(self, id);
        }
    }

    fn counted(&mut self, words: &Words<'_>, act: impl Fn(&mut Self, u64) -> bool) {
        let count = words.number("count").unwrap_or(u64::MAX);
        self.each(words, |session, id| {
            let mut done = 0;
            while done < count && act(session, id) {
                done += 1;
            }
        });
    }

    fn cluster(&mut self, words: &Words<'_>) {
        let ms = |value: &str| Duration::from_millis(number(value));
        self.base = Config::default();
        let mut conf = ConfState::default();
        for (key, value) in &words.keys {
            let base = &mut self.base;
            match *key {
                "voters" => conf.voters = numbers(value),
                "outgoing" => conf.voters_outgoing = numbers(value),
                "learners" => conf.learners = numbers(value),
                "pre-vote" => base.pre_vote = *value == "on",
                "check-quorum" => base.check_quorum = *value == "on",
                "lease" => base.lease = ms(value),
                "inflight" => base.inflight_messages_max = number(value) as usize,
                "inflight-bytes" => base.inflight_bytes_max = number(value),
                "append-bytes" => base.append_bytes_max = number(value),
                "uncommitted" => base.uncommitted_bytes_max = number(value),
                "committed" => base.committed_bytes_max = number(value),
                other => panic!("unknown setting {other:?}"),
            }
        }
        if !self.base.check_quorum {
            self.base.lease = Duration::ZERO;
        }
        let members: BTreeSet<u64> = [&conf.voters, &conf.voters_outgoing, &conf.learners]
            .into_iter()
            .flatten()
            .copied()
            .collect();
        for id in members {
            self.nodes.insert(id, Node::member(id, conf.clone()));
        }
    }

    fn prepare(&mut self, words: &Words<'_>) {
        let terms = words.key("log").map(numbers).unwrap_or_default();
        let entries: Vec<Entry> = (INITIAL_INDEX + 1..)
            .zip(terms)
            .map(|(index, term)| Entry {
                term,
                index,
                kind: EntryKind::Data as i32,
                data: Default::default(),
            })
            .collect();
        let last_term = entries.last().map_or(INITIAL_TERM, |entry| entry.term);
        let disk = &mut self.node(words.id()).disk;
        disk.log.append(&entries);
        disk.hard_state.term = words.number("term").unwrap_or(last_term);
        disk.hard_state.vote = words.number("vote").unwrap_or_default();
        disk.hard_state.commit = words.number("commit").unwrap_or(INITIAL_INDEX);
    }

    fn start(&mut self, id: u64) {
        let priority = self.priorities.get(&id).copied().unwrap_or_default();
        self.starts += 1;
        let config = Config {
            id,
            seed: self.starts,
            priority,
            ..self.base.clone()
        };
        let now = self.now;
        self.node(id).start(config, now);
    }

    fn crash(&mut self, words: &Words<'_>) {
        let kept = words.number("kept").unwrap_or_default() as usize;
        self.node(words.id()).crash(kept);
    }

    // ---- asking ----

    fn elect(&mut self, id: u64) {
        let before = self.out.len();
        self.campaign(id);
        self.settle(&Words::split("run"));
        self.out.truncate(before);
        let role = self.raft(id).status().role;
        self.say(show::role(id, role));
    }

    fn campaign(&mut self, id: u64) {
        let now = self.now;
        if !self.raft(id).campaign(now) {
            self.say(format!("{id} does not campaign"));
        }
    }

    fn propose(&mut self, words: &Words<'_>) {
        let kind = if words.has("admin") {
            EntryKind::Admin
        } else {
            EntryKind::Data
        };
        let times = words
            .plain
            .iter()
            .position(|word| *word == "x")
            .map_or(1, |at| number(words.plain[at + 1]));
        let data = vec![b'x'; words.number("bytes").unwrap_or_default() as usize];
        let (id, now) = (words.id(), self.now);
        for _ in 0..times {
            match self.raft(id).propose(now, kind, data.clone().into()) {
                Ok(at) => self.say(format!("{id} appends {}/{}", at.term, at.index)),
                Err(error) => self.say(format!("{id} refuses: {error}")),
            }
        }
    }

    fn read(&mut self, words: &Words<'_>) {
        let (id, now) = (words.id(), self.now);
        self.tokens.push(words.plain[2].to_owned());
        let token = self.tokens.len() as u64 - 1;
        if let Err(error) = self.raft(id).read_index(now, token) {
            self.say(format!("{id} refuses: {error}"));
        }
    }

    fn conf(&mut self, words: &Words<'_>) {
        let mut changes = Vec::new();
        for (key, value) in &words.keys {
            let change = match *key {
                "voter" => MemberChange::AddVoter,
                "learner" => MemberChange::AddLearner,
                "remove" => MemberChange::Remove,
                other => panic!("unknown change {other:?}"),
            };
            changes.extend(numbers(value).into_iter().map(change));
        }
        let transition = match () {
            () if words.has("simple") => Transition::Simple,
            () if words.has("explicit") => Transition::Joint { auto_leave: false },
            () if words.has("joint") => Transition::Joint { auto_leave: true },
            () => Transition::Auto,
        };
        let (id, now) = (words.id(), self.now);
        let request = ConfRequest {
            changes,
            transition,
            context: Default::default(),
        };
        match self.raft(id).propose_conf_change(now, request) {
            Ok(at) => self.say(format!("{id} appends {}/{}", at.term, at.index)),
            Err(error) => self.say(format!("{id} refuses: {error}")),
        }
    }

    fn transfer(&mut self, words: &Words<'_>) {
        let (id, now) = (words.id(), self.now);
        if let Err(error) = self.raft(id).transfer_leader(now, number(words.plain[2])) {
            self.say(format!("{id} refuses: {error}"));
        }
    }

    fn lease(&mut self, id: u64) {
        let now = self.now;
        let line = match self.raft(id).lease_until() {
            Some(until) if until > now => format!("{id} may read for {:?}", until - now),
            Some(_) => format!("{id} has let its lease run out"),
            None => format!("{id} has no lease"),
        };
        self.say(line);
    }

    // ---- doing ----

    /// One Ready. Returns whether there was one.
    fn ready(&mut self, id: u64) -> bool {
        let now = self.now;
        let node = self.node(id);
        let Some(raft) = node.raft.as_mut().filter(|raft| raft.has_ready()) else {
            return false;
        };
        let mut ready = raft.ready(now);
        let mut lines = Vec::new();
        if let Some(change) = ready.role_change {
            lines.push(show::role(id, change));
        }
        let mut writes = Vec::new();
        writes.extend(ready.hard_state.map(show::state));
        if let Some(meta) = ready
            .snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.meta.as_ref())
        {
            writes.push(format!("snapshot {}/{}", meta.term, meta.index));
        }
        if !ready.entries.is_empty() {
            writes.push(format!("[{}]", show::entries(&ready.entries)));
        }
        assert_eq!(
            ready.must_sync,
            !writes.is_empty(),
            "a sync is asked for where something is written"
        );
        if !writes.is_empty() {
            lines.push(format!("{id} writes {}", writes.join(" ")));
        }
        if !ready.committed.is_empty() {
            lines.push(format!(
                "{id} is handed [{}]",
                show::entries(&ready.committed)
            ));
        }
        let messages = std::mem::take(&mut ready.send_now);
        let (reads, failed) = (
            std::mem::take(&mut ready.reads),
            std::mem::take(&mut ready.reads_failed),
        );
        let wanted = std::mem::take(&mut ready.snapshot_wanted);
        node.accept(&mut ready);
        for line in lines {
            self.say(line);
        }
        for grant in reads {
            let line = format!(
                "{id} may read {} at {}",
                self.tokens[grant.token as usize], grant.index
            );
            self.say(line);
        }
        for token in failed {
            let line = format!("{id} gives up read {}", self.tokens[token as usize]);
            self.say(line);
        }
        if !wanted.is_empty() {
            self.say(format!("{id} wants a snapshot for {}", show::list(&wanted)));
        }
        self.send(messages);
        true
    }

    fn write(&mut self, id: u64) -> bool {
        let now = self.now;
        let node = self.node(id);
        let Some((number, messages)) = node.write() else {
            return false;
        };
        if let Some(raft) = &mut node.raft {
            raft.persisted(now, number);
        }
        self.send(messages);
        true
    }

    fn apply(&mut self, id: u64) -> bool {
        let now = self.now;
        match self.node(id).apply(now) {
            Some(Work::Install(snapshot)) => {
                let index = snapshot.meta.map_or(0, |meta| meta.index);
                self.say(format!("{id} installs the snapshot at {index}"));
                true
            }
            Some(Work::Entry(_)) => true,
            None => false,
        }
    }

    /// Everything that can happen among the nodes named, or all, in a fixed order.
    fn settle(&mut self, words: &Words<'_>) {
        let named = words.ids();
        let among = |id: u64| named.is_empty() || named.contains(&id);
        let ids: Vec<u64> = self.nodes.keys().copied().filter(|id| among(*id)).collect();
        for _ in 0..ROUNDS_MAX {
            let mut moved = false;
            for id in &ids {
                while self.ready(*id) || self.write(*id) || self.apply(*id) {
                    moved = true;
                }
            }
            let waiting = std::mem::take(&mut self.flying);
            let (there, elsewhere) = waiting
                .into_iter()
                .partition(|message| among(message.to) && among(message.from));
            self.flying = elsewhere;
            let there: VecDeque<Message> = there;
            moved |= !there.is_empty();
            there.into_iter().for_each(|message| self.deliver(message));
            if !moved {
                return;
            }
        }
        panic!("no rest after {ROUNDS_MAX} rounds");
    }

    // ---- messages ----

    fn show(&mut self, message: &Message) -> String {
        let numbers = &mut self.numbers;
        show::message(message, &mut |number| {
            let known = numbers.iter().position(|known| *known == number);
            let place = known.unwrap_or_else(|| {
                numbers.push(number);
                numbers.len() - 1
            });
            format!("#{}", place + 1)
        })
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let lost = self.cut.contains(&(message.from, message.to));
            let line = self.show(&message);
            self.say(if lost { format!("{line} - lost") } else { line });
            if !lost {
                self.flying.push_back(message);
            }
        }
    }

    /// Those that the words select, oldest first.
    fn messages(&mut self, words: &Words<'_>, act: impl Fn(&mut Self, Message)) {
        let link = words.plain.iter().find_map(|word| word.split_once("->"));
        let kind = words.plain[1..].iter().find_map(|word| kind_of(word));
        let count = words.number("count").unwrap_or(u64::MAX) as usize;
        let fits = |message: &Message| {
            link.is_none_or(|(from, to)| {
                (from == "*" || number(from) == message.from)
                    && (to == "*" || number(to) == message.to)
            }) && kind.is_none_or(|kind| kind as i32 == message.kind)
        };
        let (mut chosen, mut rest) = (Vec::new(), VecDeque::new());
        for message in std::mem::take(&mut self.flying) {
            if chosen.len() < count && fits(&message) {
                chosen.push(message);
            } else {
                rest.push_back(message);
            }
        }
        self.flying = rest;
        chosen.into_iter().for_each(|message| act(self, message));
    }

    fn deliver(&mut self, message: Message) {
        let (to, now) = (message.to, self.now);
        let Some(raft) = self.node(to).raft.as_mut() else {
            return;
        };
        if let Err(error) = raft.step(now, message) {
            self.say(format!("{to} refuses: {error}"));
        }
    }

    fn show_flying(&mut self) {
        if self.flying.is_empty() {
            self.say("nothing is under way");
        }
        for message in self.flying.clone() {
            let line = self.show(&message);
            self.say(line);
        }
    }

    fn cut(&mut self, line: &str) {
        let sides = line
            .strip_prefix("cut ")
            .and_then(|sides| sides.split_once('|'));
        let (one, other) = sides.expect("cut names two sides");
        let ids = |side: &str| side.split_whitespace().map(number).collect::<Vec<u64>>();
        for from in ids(one) {
            for to in ids(other) {
                self.cut.insert((from, to));
                self.cut.insert((to, from));
            }
        }
    }

    fn step(&mut self, words: &Words<'_>) {
        let (from, to) = words.plain[1]
            .split_once("->")
            .expect("a message goes from one to another");
        let kind = kind_of(words.plain[2]).unwrap_or_default();
        let mut message = Message {
            kind: kind as i32,
            from: number(from),
            to: number(to),
            ..Message::default()
        };
        for (key, value) in &words.keys {
            match *key {
                "term" => message.term = number(value),
                "index" => message.index = number(value),
                "prev" | "last" => (message.log_term, message.index) = log_id(value),
                "commit" => message.commit = number(value),
                "commit-term" => message.hint_term = number(value),
                "hint" => (message.hint_term, message.hint_index) = log_id(value),
                // `#1`: the request number that was shown under this name.
                "round" => {
                    message.round = match value.strip_prefix('#') {
                        Some(place) => self.numbers[number(place) as usize - 1],
                        None => number(value),
                    };
                }
                "attempt" => message.transfer_attempt = number(value),
                "entries" => message.entries = value.split(',').map(entry).collect(),
                "snapshot" => {
                    message
                        .snapshot
                        .get_or_insert_default()
                        .meta
                        .get_or_insert_default()
                        .index = number(value)
                }
                "voters" => meta(&mut message).conf.get_or_insert_default().voters = numbers(value),
                "snapshot-term" => meta(&mut message).term = number(value),
                other => panic!("unknown field {other:?}"),
            }
        }
        message.reject = words.has("reject");
        message.transfer = words.has("transfer");
        if let Some(snapshot) = &mut message.snapshot {
            snapshot.manifest = 0u64.to_le_bytes().to_vec().into();
        }
        self.deliver(message);
    }

    // ---- showing ----

    fn show_log(&mut self, id: u64) {
        let log = &self.raft(id).log().mem;
        let (first, entries) = (log.first_index(), log.iter().cloned().collect::<Vec<_>>());
        let term = log.term(first - 1).unwrap_or_default();
        self.say(format!(
            "{id} holds {term}/{} | {}",
            first - 1,
            show::entries(&entries)
        ));
    }
}

fn meta(message: &mut Message) -> &mut SnapshotMeta {
    let snapshot: &mut Snapshot = message.snapshot.get_or_insert_default();
    snapshot.meta.get_or_insert_default()
}

fn entry(word: &str) -> Entry {
    let (term, index) = log_id(word);
    Entry {
        term,
        index,
        kind: EntryKind::Data as i32,
        data: Default::default(),
    }
}

fn kind_of(word: &str) -> Option<MessageKind> {
    Some(match word {
        "pre-vote" => MessageKind::PreVote,
        "pre-vote-response" => MessageKind::PreVoteResponse,
        "vote" => MessageKind::Vote,
        "vote-response" => MessageKind::VoteResponse,
        "append" => MessageKind::Append,
        "append-response" => MessageKind::AppendResponse,
        "heartbeat" => MessageKind::Heartbeat,
        "heartbeat-response" => MessageKind::HeartbeatResponse,
        "snapshot" => MessageKind::Snapshot,
        "timeout-now" => MessageKind::TimeoutNow,
        "read-index" => MessageKind::ReadIndex,
        "read-index-response" => MessageKind::ReadIndexResponse,
        "transfer-leader" => MessageKind::TransferLeader,
        _ => return None,
    })
}
