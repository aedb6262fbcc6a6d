//! What clients and operators ask for, and what they hear.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_proto::metapb::{Peer, RegionEpoch};
use flotilla_proto::store::{Mod, ModKind};
use flotilla_raftstore::effects::PeerChange;
use flotilla_raftstore::region::{contains, epoch};
use flotilla_raftstore::{
    Begin, LocalRead, PeerInput, ReadContext, ReadPermit, Serving, WriteProposal,
};

use super::cluster::Cluster;
use super::show;
use super::store::{Outcome, Outside};
use super::words::Words;

/// Requests that have not been answered, by number.
#[derive(Default)]
pub(super) struct Requests {
    last: u64,
    open: BTreeMap<u64, Request>,
    /// A read between its two halves.
    looking: Option<Looking>,
}

struct Request {
    store: u64,
    label: String,
    /// What a read reads.
    key: Option<bytes::Bytes>,
    /// It stops between its two halves.
    halfway: bool,
}

struct Looking {
    by: By,
    label: String,
    value: String,
}

/// What allows a read to be answered.
enum By {
    Lease(LocalRead),
    /// As given by the peer on this store.
    Permit(u64, ReadPermit),
}

impl Requests {
    /// The labels of those that wait.
    pub(super) fn waiting(&self) -> Vec<String> {
        let shown = |request: &Request| format!("{} on store {}", request.label, request.store);
        self.open.values().map(shown).collect()
    }
}

impl Cluster {
    pub(super) fn ask(&mut self, name: &str, words: &mut Words<'_>) -> bool {
        match name {
            "put" | "delete" => self.write(name, words),
            "get" | "look" => self.read(name == "look", words),
            "confirm" => self.confirm(),
            "split" => self.split(words),
            "campaign" => {
                let region = words.number();
                let store = words
                    .number_after("on")
                    .unwrap_or_else(|| words.wrong("on which?"));
                self.process(store).to_peer(region, PeerInput::Campaign);
            }
            "lead" => self.lead(words),
            "transfer" => {
                let region = words.number();
                let to = words
                    .number_after("to")
                    .unwrap_or_else(|| words.wrong("to whom?"));
                let store = self.leader_of(region, words.number_after("on"));
                self.process(store)
                    .to_peer(region, PeerInput::Transfer { to });
            }
            "hand" => {
                if words.next() != "over" {
                    words.wrong("hand over what?");
                }
                let region = words.number();
                let store = self.leader_of(region, words.number_after("on"));
                self.process(store).to_peer(region, PeerInput::HandOver);
            }
            "merge" => self.merge(words),
            "add" | "promote" | "demote" | "remove" | "change" => self.change_members(name, words),
            _ => return false,
        }
        true
    }

    // ---- whom to ask ----

    /// Everything that is said by peers: store, and what it says.
    fn serving(&self) -> Vec<(u64, Arc<Serving>)> {
        let running = self.stores.values().filter_map(|store| {
            let process = store.process.as_ref()?;
            Some((store.id, process.serving()))
        });
        let said = running.flat_map(|(id, said)| said.into_iter().map(move |said| (id, said)));
        said.collect()
    }

    /// The store named, or the one whose peer says with the highest term that it leads.
    fn leader_of(&self, region: u64, named: Option<u64>) -> u64 {
        let said = self.serving().into_iter();
        let of = said.filter(|(_, said)| said.region.id == region && said.is_leader());
        let leader = of.max_by_key(|(_, said)| said.term).map(|(store, _)| store);
        let store = named.or(leader);
        store.unwrap_or_else(|| panic!("nobody leads region {region}; say `on 1`"))
    }

    /// The store and the context of a request for `key`, as a client that knows everything would
    /// make it, but for what the line says.
    fn route(&self, key: &[u8], words: &mut Words<'_>) -> (u64, ReadContext) {
        let (on, of) = (words.number_after("on"), words.number_after("of"));
        let mut said = self.serving();
        said.retain(|(store, said)| {
            let right = match of {
                Some(region) => said.region.id == region,
                None => said.region.id != 1 && contains(&said.region, key),
            };
            right && on.is_none_or(|on| on == *store)
        });
        let best = said
            .into_iter()
            .max_by_key(|(_, said)| (said.is_leader(), said.term));
        let (store, said) = match (best, on, of) {
            (Some(best), ..) => best,
            (None, Some(on), Some(region)) => {
                let nothing = Serving::default();
                let mut said = nothing.clone();
                said.region.id = region;
                (on, Arc::new(said))
            }
            _ => words.wrong("nobody has this key; say `on 1 of 3`"),
        };
        let mut context = ReadContext {
            region: said.region.id,
            peer: words.number_after("peer").unwrap_or(said.peer.id),
            epoch: said.region.region_epoch,
            term: words.number_after("term").unwrap_or(0),
            replica: words.has("replica"),
        };
        if let Some(version) = words.number_after("version") {
            context.epoch = Some(RegionEpoch {
                version,
                ..context.epoch.unwrap_or_default()
            });
        }
        (store, context)
    }

    // ---- requests ----

    fn open(&mut self, store: u64, label: String, key: Option<bytes::Bytes>) -> (u64, Outside) {
        self.requests.last += 1;
        let number = self.requests.last;
        self.requests.open.insert(
            number,
            Request {
                store,
                label,
                key,
                halfway: false,
            },
        );
        (number, self.process(store).outside.clone())
    }

    fn write(&mut self, name: &str, words: &mut Words<'_>) {
        let key = words.key();
        let (kind, value) = match name {
            "put" => (ModKind::Put, words.key()),
            _ => (ModKind::Delete, bytes::Bytes::new()),
        };
        let (store, context) = self.route(&key, words);
        let label = match kind {
            ModKind::Put => format!("put {}={}", show::key(&key), show::key(&value)),
            _ => format!("delete {}", show::key(&key)),
        };
        let (number, outside) = self.open(store, label, None);
        let change = Mod {
            kind: kind.into(),
            key,
            value,
            ..Mod::default()
        };
        let proposal = WriteProposal {
            context,
            read_term: None,
            mods: vec![change],
            answer: outside.answer(number, Outcome::Write),
        };
        self.process(store)
            .request(context.region, PeerInput::Write(proposal));
        self.hear_answers(store);
    }

    fn read(&mut self, halfway: bool, words: &mut Words<'_>) {
        let key = words.key();
        let (store, context) = self.route(&key, words);
        let label = format!("get {}", show::key(&key));
        let now = self.now;
        match self.process(store).runtime.delegates.begin(&context, now) {
            Err(error) => self.say(format!("{label}: {}", show::error(&error))),
            Ok(Begin::Local(read)) => {
                let value = self.value(store, &key);
                let label = format!("{label} on store {store}, by its lease");
                let by = By::Lease(read);
                self.requests.looking = Some(Looking { by, label, value });
                if !halfway {
                    self.confirm();
                }
            }
            Ok(Begin::Ask) => {
                let (number, outside) = self.open(store, label, Some(key));
                if let Some(request) = self.requests.open.get_mut(&number) {
                    request.halfway = halfway;
                }
                let answer = outside.answer(number, Outcome::Read);
                self.process(store)
                    .request(context.region, PeerInput::Read { context, answer });
            }
        }
    }

    fn confirm(&mut self) {
        let Some(Looking { by, label, value }) = self.requests.looking.take() else {
            return self.say("no read was begun");
        };
        let (confirmed, how) = match by {
            By::Lease(read) => (read.confirm(self.now), String::new()),
            By::Permit(store, permit) => {
                let process = self.store(store).process.as_ref();
                let held = process.is_some_and(|it| it.runtime.delegates.confirm(&permit));
                (held, format!(" (on store {store}, by read index)"))
            }
        };
        if confirmed {
            self.say(format!("{label}: {value}{how}"));
        } else {
            self.say(format!("{label}: not confirmed"));
        }
    }

    fn value(&mut self, store: u64, key: &[u8]) -> String {
        let value = self.store(store).value(key);
        value.map_or("nothing".to_owned(), |value| show::key(&value))
    }

    fn split(&mut self, words: &mut Words<'_>) {
        let region = words.number();
        let store = self.leader_of(region, words.number_after("on"));
        if !words.starts("at") {
            words.wrong("split at which keys?");
        }
        let mut keys = Vec::new();
        while let Some(word) = words.any() {
            keys.push(super::words::key(word));
        }
        let label = format!("split {region}");
        let (number, outside) = self.open(store, label, None);
        let input = PeerInput::Split {
            context: None,
            keys,
            answer: outside.answer(number, Outcome::Split),
        };
        self.process(store).request(region, input);
    }

    /// Elected at once, and in one line.
    fn lead(&mut self, words: &mut Words<'_>) {
        let region = words.number();
        let store = words
            .number_after("by")
            .unwrap_or_else(|| words.wrong("by which store?"));
        self.quietly(|cluster| {
            cluster.process(store).to_peer(region, PeerInput::Campaign);
            cluster.run(|_| true);
        });
        let term = self.process(store).look(region, |peer| {
            peer.is_leader()
                .then(|| (peer.raft().id(), peer.raft().term()))
        });
        match term.flatten() {
            Some((peer, term)) => {
                self.say_of(
                    store,
                    format!("peer {peer} leads region {region} in term {term}"),
                );
            }
            None => self.say_of(store, format!("does not lead region {region}")),
        }
    }

    fn merge(&mut self, words: &mut Words<'_>) {
        let asking = words.number_after("asking");
        let target = words.number_after("into");
        let target = target.unwrap_or_else(|| words.wrong("into which?"));
        let region = words.number();
        let store = self.leader_of(region, asking);
        let mut look = |region| {
            self.process(store)
                .look(region, |peer| peer.region().clone())
        };
        let (source, target) = (look(region), look(target));
        let label = format!("merge of {region}");
        let epoch = source.as_ref().map(epoch).unwrap_or_default();
        let target = Box::new(target.unwrap_or_default());
        let (number, outside) = self.open(store, label, None);
        let input = PeerInput::Merge {
            epoch,
            target,
            answer: outside.answer(number, Outcome::Members),
        };
        self.process(store).request(region, input);
    }

    // ---- members ----

    fn change_members(&mut self, name: &str, words: &mut Words<'_>) {
        let conf_ver = words.number_after("conf");
        let asking = words.number_after("asking");
        let (region, changes) = match name {
            "change" => {
                let region = words.number();
                let mut changes = Vec::new();
                while let Some(kind) = words.any() {
                    changes.push(self.change(kind, region, words));
                }
                (region, changes)
            }
            _ => {
                let region = ["to", "in", "from"]
                    .iter()
                    .find_map(|word| words.number_after(word));
                let region = region.unwrap_or_else(|| words.wrong("of which region?"));
                let kind = match name {
                    "add" => words.next(),
                    "promote" => "voter",
                    "demote" => "learner",
                    _ => "remove",
                };
                (region, vec![self.change(kind, region, words)])
            }
        };
        let store = self.leader_of(region, asking);
        let known = self
            .process(store)
            .look(region, |peer| peer.region().clone());
        let mut asked = known.as_ref().map(epoch).unwrap_or_default();
        asked.conf_ver = conf_ver.unwrap_or(asked.conf_ver);
        let label = format!(
            "{}members of {region}",
            if conf_ver.is_some() { "late " } else { "" }
        );
        let (number, outside) = self.open(store, label, None);
        let input = PeerInput::ChangeMembers {
            epoch: asked,
            changes,
            answer: outside.answer(number, Outcome::Members),
        };
        self.process(store).request(region, input);
    }

    fn change(&self, kind: &str, region: u64, words: &mut Words<'_>) -> PeerChange {
        let id = words.number();
        if kind == "remove" {
            return PeerChange::Remove { peer: id };
        }
        let store_id = if words.starts("on") {
            words.number()
        } else {
            self.home_of(region, id)
        };
        let peer = Peer {
            id,
            store_id,
            ..Peer::default()
        };
        match kind {
            "voter" => PeerChange::Voter(peer),
            "learner" => PeerChange::Learner(peer),
            _ => words.wrong("a voter or a learner"),
        }
    }

    /// Where a peer lives, as anybody says.
    fn home_of(&self, region: u64, id: u64) -> u64 {
        let said = self.serving();
        let of = said.iter().filter(|(_, said)| said.region.id == region);
        let mut peers = of.flat_map(|(_, said)| &said.region.peers);
        let found = peers.find(|peer| peer.id == id).map(|peer| peer.store_id);
        found.unwrap_or_else(|| panic!("nobody knows peer {id}; say `on 1`"))
    }

    // ---- answers ----

    pub(super) fn hear_answers(&mut self, store: u64) {
        let outside = self.process(store).outside.clone();
        self.take_outcomes(store, &outside);
    }

    pub(super) fn take_outcomes(&mut self, store: u64, outside: &Outside) {
        for (number, outcome) in outside.take_outcomes() {
            let request = self.requests.open.remove(&number);
            let request = request.unwrap_or_else(|| panic!("request {number} was answered twice"));
            let label = request.label.clone();
            let text = match outcome {
                Outcome::Write(Ok(())) => "ok".to_owned(),
                Outcome::Read(Ok(permit)) => {
                    self.read_permitted(store, permit, request);
                    continue;
                }
                Outcome::Split(Ok(regions)) => {
                    let ids = show::list(&regions, |region| region.id.to_string());
                    format!("ok, regions {ids}")
                }
                Outcome::Members(Ok(region)) => format!("ok, {}", show::region(&region)),
                Outcome::Write(Err(error))
                | Outcome::Read(Err(error))
                | Outcome::Split(Err(error))
                | Outcome::Members(Err(error)) => show::error(&error),
            };
            self.say(format!("{label}: {text}"));
        }
    }

    /// The state is looked at now.
    fn read_permitted(&mut self, store: u64, permit: ReadPermit, request: Request) {
        let value = self.value(store, &request.key.unwrap_or_default());
        self.requests.looking = Some(Looking {
            by: By::Permit(store, permit),
            label: request.label,
            value,
        });
        if !request.halfway {
            self.confirm();
        }
    }

    /// The store is gone: nobody will answer.
    pub(super) fn forget_requests(&mut self, store: u64) {
        let open = self
            .requests
            .open
            .extract_if(.., |_, request| request.store == store);
        let labels: Vec<String> = open.map(|(_, request)| request.label).collect();
        for label in labels {
            self.say(format!("{label}: no answer, store {store} is gone"));
        }
    }
}
