//! One peer on the in-memory engine, and the transcript of what goes in and comes out.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use expect_test::Expect;
use flotilla_engine::memory::{MemoryLog, MemorySnapshots, MemoryState};
use flotilla_engine::{Cf, FlushReason, RaftLog, StateReader, StateStore};
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Peer, Region, RegionEpoch};
use flotilla_proto::raft::{Entry, EntryKind, Message, MessageKind};
use flotilla_proto::store::{Mod, ModKind, PeerMessage};
use flotilla_raftstore::apply::Apply;
use flotilla_raftstore::effects::{
    ApplyReport, Fetch, NewIds, PdTask, RaftInput, Release, StoreInput,
};
use flotilla_raftstore::{
    Answer, ApplyEffects, ApplyInput, Begin, Config, Delegates, PeerInput, RaftEffects,
    RaftMachine, ReadContext, RequestError, WriteProposal, boot,
};
use flotilla_router::{Machine, Merge};
use parking_lot::Mutex;

/// One region's machines on the in-memory engine, and the transcript.
pub(crate) struct Desk {
    pub(crate) log: MemoryLog,
    pub(crate) state: MemoryState,
    pub(crate) peer: RaftMachine,
    pub(crate) apply: Apply,
    pub(crate) delegates: Arc<Delegates>,
    pub(crate) now: Mono,
    /// Written, not durable.
    pub(crate) releases: VecDeque<Release>,
    pub(crate) to_apply: VecDeque<ApplyInput>,
    /// Entries to be read.
    pub(crate) fetches: VecDeque<Fetch>,
    /// Told by answers as they are given.
    pub(crate) told: Arc<Mutex<Vec<String>>>,
    /// A split that PD was asked about.
    pub(crate) asked: Option<(RegionEpoch, Vec<Bytes>, Answer<Vec<Region>>)>,
    /// Measurements asked for; not told in the transcript.
    pub(crate) size_checks: usize,
    pub(crate) text: String,
}

pub(crate) fn region(stores: &[u64]) -> Region {
    let peers = stores.iter().map(|store| Peer {
        id: 4 * store,
        store_id: *store,
        ..Peer::default()
    });
    Region {
        id: 3,
        region_epoch: Some(RegionEpoch {
            conf_ver: 1,
            version: 1,
        }),
        peers: peers.collect(),
        ..Region::default()
    }
}

impl Desk {
    /// The peer of store 1 of a region with peers on `stores`; peer ids are four times the store's.
    pub(crate) fn new(stores: &[u64], config: Config) -> Self {
        let state = MemoryState::new();
        let first = boot::first_state(1, vec![region(stores)], vec![]);
        state.write(&first).unwrap();
        state.flush_all(FlushReason::Manual).unwrap();
        let log = MemoryLog::new();
        let now = Mono(1_000_000_000);
        let opened = boot::open(config, 1, &log, &state, &MemorySnapshots::new(), now).unwrap();
        let spawn = opened.regions.into_iter().next().unwrap();
        Self {
            log,
            state,
            peer: RaftMachine::Peer(spawn.peer),
            apply: *spawn.apply,
            delegates: opened.delegates,
            now,
            releases: VecDeque::new(),
            to_apply: VecDeque::new(),
            fetches: VecDeque::new(),
            told: Arc::default(),
            asked: None,
            size_checks: 0,
            text: String::new(),
        }
    }

    pub(crate) fn line(&mut self, line: impl AsRef<str>) {
        writeln!(self.text, "{}", line.as_ref()).unwrap();
    }

    pub(crate) fn round(&mut self, turn: impl FnOnce(&mut RaftMachine, Mono, &mut RaftEffects)) {
        let mut effects = RaftEffects::default();
        turn(&mut self.peer, self.now, &mut effects);
        self.peer.end_round(self.now, &mut effects);
        self.carry_out(effects);
    }

    pub(crate) fn input(&mut self, name: &str, input: PeerInput) {
        self.line(format!("> {name}"));
        self.round(|peer, now, effects| peer.handle(now, RaftInput::Peer(input), effects));
    }

    pub(crate) fn tick(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
        self.line(format!("> tick after {millis} ms"));
        self.round(|peer, now, effects| peer.tick(now, effects));
    }

    pub(crate) fn carry_out(&mut self, effects: RaftEffects) {
        if let Some(fatal) = &effects.fatal {
            return self.line(format!("  the store ends: {fatal}"));
        }
        for message in &effects.send_now {
            let text = describe(message.message.message.as_ref().unwrap());
            self.line(format!("  now to store {}: {text}", message.store));
        }
        if !effects.log.is_empty() {
            for (_, write) in effects.log.0.regions() {
                let entries: Vec<_> = write.entries.iter().map(describe_entry).collect();
                let state = write.record.and_then(|record| record.hard_state);
                let state = state.map(|state| {
                    let flotilla_proto::raft::HardState { term, vote, commit } = state;
                    format!(" hard state {term}/{vote}/{commit}")
                });
                let truncation = write
                    .truncation
                    .map(|to| format!(" truncated at {}", to.index));
                let (state, truncation) =
                    (state.unwrap_or_default(), truncation.unwrap_or_default());
                self.line(format!(
                    "  log: [{}]{state}{truncation}",
                    entries.join(", ")
                ));
            }
            self.log.append(&effects.log.0).unwrap();
        }
        self.releases.extend(effects.releases);
        for (_, input) in effects.to_apply {
            let ApplyInput::Committed(committed) = &input else {
                self.line("  to apply: the end");
                self.to_apply.push_back(input);
                continue;
            };
            let entries: Vec<_> = committed
                .iter()
                .map(|committed| describe_entry(&committed.entry))
                .collect();
            self.line(format!("  to apply: [{}]", entries.join(", ")));
            self.to_apply.push_back(input);
        }
        for fetch in effects.fetches {
            self.line(format!("  to read: [{}, {})", fetch.low, fetch.high));
            self.fetches.push_back(fetch);
        }
        for (_, input) in effects.to_raft {
            if let RaftInput::Store(StoreInput::Split {
                children, leading, ..
            }) = input
            {
                let ids: Vec<_> = children.iter().map(|child| child.id).collect();
                self.line(format!(
                    "  to the store: spawn {ids:?}, they campaign: {leading}"
                ));
            }
        }
        self.size_checks += effects.size_checks.len();
        for task in effects.pd {
            match task {
                PdTask::RegionHeartbeat(heartbeat) => {
                    let region = heartbeat.region.as_ref().expect("it shows a region");
                    let mut line = format!("  to PD: leads {}", describe_region(region));
                    for peer in heartbeat.pending_peers {
                        line += &format!(", {} is behind", peer.id);
                    }
                    for silent in heartbeat.down_peers {
                        let peer = silent.peer.expect("it names a peer").id;
                        line += &format!(", {peer} is silent for {}s", silent.down_seconds);
                    }
                    self.line(line);
                }
                PdTask::AskSplit {
                    epoch,
                    keys,
                    answer,
                    ..
                } => {
                    self.line(format!("  to PD: ids for {} new regions", keys.len()));
                    self.asked = Some((epoch, keys, answer));
                }
                PdTask::ReportSplit { regions } => {
                    let regions: Vec<_> = regions.iter().map(describe_region).collect();
                    self.line(format!("  to PD: split into {}", regions.join(" ")));
                }
                _ => {}
            }
        }
        self.hear();
    }

    pub(crate) fn hear(&mut self) {
        let told = std::mem::take(&mut *self.told.lock());
        for line in told {
            self.line(format!("  {line}"));
        }
    }

    /// What was written is durable.
    pub(crate) fn sync(&mut self) {
        self.line("> sync");
        self.log.sync().unwrap();
        for release in std::mem::take(&mut self.releases) {
            for message in &release.messages {
                let text = describe(message.message.message.as_ref().unwrap());
                self.line(format!("  then to store {}: {text}", message.store));
            }
            let Release { life, number, .. } = release;
            self.round(|peer, now, effects| {
                peer.handle(
                    now,
                    RaftInput::Peer(PeerInput::Persisted { life, number }),
                    effects,
                );
            });
        }
    }

    /// What was handed to apply is applied, and the peer hears of it.
    pub(crate) fn apply(&mut self) {
        self.line("> apply");
        let mut effects = ApplyEffects::default();
        for input in std::mem::take(&mut self.to_apply) {
            self.apply.handle(self.now, input, &mut effects);
        }
        self.apply.end_round(self.now, &mut effects);
        assert!(effects.fatal.is_none(), "{:?}", effects.fatal);
        let cut = self.state.write(&effects.batch).unwrap();
        for (answer, result) in effects.answers {
            answer.give(result);
        }
        self.hear();
        for (_, mut report) in effects.reports {
            report.cut = cut;
            self.applied(report);
        }
    }

    pub(crate) fn applied(&mut self, report: ApplyReport) {
        self.line(format!("  applied up to {}", report.index));
        self.round(|peer, now, effects| {
            peer.handle(now, RaftInput::Peer(PeerInput::Applied(report)), effects);
        });
    }

    /// The oldest fetch comes back with what the log holds.
    pub(crate) fn read(&mut self) {
        let fetch = self.fetches.pop_front().unwrap();
        let input = fetch.read(&self.log);
        let missing = match input {
            PeerInput::FetchFailed { .. } => ": not there",
            _ => "",
        };
        let name = format!("read [{}, {}){missing}", fetch.low, fetch.high);
        self.input(&name, input);
    }

    /// Everything that can go on does.
    pub(crate) fn run(&mut self) {
        while !self.releases.is_empty() || !self.to_apply.is_empty() {
            if self.releases.is_empty() {
                self.apply();
            } else {
                self.sync();
            }
        }
    }

    /// Forgets the transcript so far: what leads to the beginning of a scene.
    pub(crate) fn scene(&mut self) {
        self.text.clear();
    }

    pub(crate) fn answer<T: std::fmt::Debug + Send + 'static>(&self, name: &str) -> Answer<T> {
        let (told, name) = (Arc::clone(&self.told), name.to_owned());
        Answer::new(move |result: Result<T, RequestError>| {
            let line = match result {
                Ok(_) => format!("{name}: done"),
                Err(error @ RequestError::Undetermined { .. }) => {
                    format!("{name}: unknown, {error}")
                }
                Err(error) => format!("{name}: not applied, {error}"),
            };
            told.lock().push(line);
        })
    }

    pub(crate) fn context(&self, version: u64) -> ReadContext {
        ReadContext {
            region: 3,
            epoch: Some(RegionEpoch {
                conf_ver: 1,
                version,
            }),
            ..ReadContext::default()
        }
    }

    pub(crate) fn write(&self, key: &str, version: u64) -> PeerInput {
        self.change(ModKind::Put, "put", key, version)
    }

    fn change(&self, kind: ModKind, name: &str, key: &str, version: u64) -> PeerInput {
        PeerInput::Write(WriteProposal {
            context: self.context(version),
            read_term: None,
            mods: vec![Mod {
                kind: kind.into(),
                key: Bytes::copy_from_slice(key.as_bytes()),
                value: Bytes::from_static(b"value"),
                ..Mod::default()
            }],
            answer: self.answer(&format!("{name} {key}")),
        })
    }

    pub(crate) fn put(&mut self, key: &str) {
        self.input(&format!("put {key}"), self.write(key, 1));
    }

    pub(crate) fn delete(&mut self, key: &str) {
        let delete = self.change(ModKind::Delete, "delete", key, 1);
        self.input(&format!("delete {key}"), delete);
    }

    pub(crate) fn split(&mut self, keys: &[&'static str]) {
        let input = PeerInput::Split {
            context: Some(self.context(1)),
            keys: keys
                .iter()
                .map(|key| Bytes::from_static(key.as_bytes()))
                .collect(),
            answer: self.answer(&format!("split at {}", keys.join(" "))),
        };
        self.input(&format!("split at {}", keys.join(" ")), input);
    }

    /// PD's answer to the last question.
    pub(crate) fn ids(&mut self) {
        let (epoch, keys, answer) = self.asked.take().unwrap();
        let ids = (0..).step_by(10).zip(&keys).map(|(nth, _)| NewIds {
            region: 100 + nth,
            peers: vec![101 + nth],
        });
        let ids = Ok(ids.collect());
        let input = PeerInput::SplitIds {
            epoch,
            keys,
            ids,
            answer,
        };
        self.input("ids from PD", input);
    }

    /// A message of the peer on store 2.
    pub(crate) fn message(&mut self, message: Message) {
        let message = Message {
            from: 8,
            to: 4,
            ..message
        };
        let name = format!("from store 2: {}", describe(&message));
        let peer = |id: u64, store_id| Peer {
            id,
            store_id,
            ..Peer::default()
        };
        let input = PeerMessage {
            region_id: 3,
            from_peer: Some(peer(8, 2)),
            to_peer: Some(peer(4, 1)),
            message: Some(message),
            ..PeerMessage::default()
        };
        self.input(&name, PeerInput::Message(Box::new(input)));
    }

    /// The peer of a group of two wins its election in term 6 and has committed there.
    pub(crate) fn lead(&mut self) {
        self.elect(6);
        self.acknowledge(6, 6);
        self.run();
        self.scene();
    }

    /// Store 2 votes for this peer in `term`.
    pub(crate) fn elect(&mut self, term: u64) {
        let vote = |kind: MessageKind| Message {
            kind: kind.into(),
            term,
            ..Message::default()
        };
        self.tick(2_000);
        self.message(vote(MessageKind::PreVoteResponse));
        self.sync();
        self.message(vote(MessageKind::VoteResponse));
        self.sync();
    }

    /// Store 2 has the log of `term` up to `index`.
    pub(crate) fn acknowledge(&mut self, term: u64, index: u64) {
        self.message(Message {
            kind: MessageKind::AppendResponse.into(),
            term,
            index,
            ..Message::default()
        });
    }

    /// Store 2 lacks everything after `index`.
    pub(crate) fn reject(&mut self, term: u64, index: u64) {
        self.message(Message {
            kind: MessageKind::AppendResponse.into(),
            term,
            index: index + 1,
            reject: true,
            hint_index: index,
            hint_term: 6,
            ..Message::default()
        });
    }

    /// A leader of a later term replaces the log from `index` on.
    pub(crate) fn replaced(&mut self, index: u64, term: u64, commit: u64) {
        self.message(Message {
            kind: MessageKind::Append.into(),
            term,
            index: index - 1,
            log_term: 6,
            commit,
            entries: vec![Entry {
                term,
                index,
                ..Entry::default()
            }],
            ..Message::default()
        });
    }

    pub(crate) fn leased(&mut self) {
        let begun = self.delegates.begin(&self.context(1), self.now);
        let text = match begun {
            Ok(Begin::Local(_)) => "served locally".to_owned(),
            Ok(Begin::Ask) => "must ask".to_owned(),
            Err(error) => error.to_string(),
        };
        self.line(format!("? a read now: {text}"));
    }

    pub(crate) fn holds(&self, key: &str) -> bool {
        let found = self.state.get(Cf::CfDefault, key.as_bytes());
        found.unwrap().is_some()
    }

    #[track_caller]
    pub(crate) fn check(&self, expected: &Expect) {
        expected.assert_eq(&self.text);
    }
}

pub(crate) fn describe_entry(entry: &Entry) -> String {
    let kind = match entry.kind() {
        EntryKind::Data if entry.data.is_empty() => "empty",
        EntryKind::Data => "data",
        EntryKind::Admin => "admin",
        EntryKind::ConfChange => "members",
    };
    format!("{}@{} {kind}", entry.index, entry.term)
}

pub(crate) fn describe(message: &Message) -> String {
    let entries: Vec<_> = message.entries.iter().map(describe_entry).collect();
    match message.kind() {
        MessageKind::Append => format!(
            "append term {} after {} [{}] commit {}",
            message.term,
            message.index,
            entries.join(", "),
            message.commit
        ),
        MessageKind::AppendResponse if message.reject => {
            format!("lacks what follows {}", message.hint_index)
        }
        MessageKind::AppendResponse => {
            format!("appended term {} up to {}", message.term, message.index)
        }
        kind => format!("{kind:?} term {}", message.term),
    }
}

pub(crate) fn describe_region(region: &Region) -> String {
    let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
    let version = region.region_epoch.unwrap().version;
    let (start, end) = (text(&region.start_key), text(&region.end_key));
    format!("{}[{start:?},{end:?})v{version}", region.id)
}
