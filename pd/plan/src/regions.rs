//! All regions in compact form, with what each store holds kept up to date: a heartbeat changes a few
//! words, and a planner that wants the leaders of a store has them at hand.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Peer, PeerRole, RegionEpoch};

use crate::view::Region;

/// What a region weighs beside its bytes, so that empty ones are spread, too.
pub const REGION_WEIGHT: u64 = 1 << 20;

/// Averages fall to half of what they were after so long without load, roughly.
const FLOW_DECAY: Duration = Duration::from_secs(30);

/// What is read or written per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Bytes.
    pub bytes: f32,
    /// Keys.
    pub keys: f32,
    /// Queries; where nobody counts them, 0.
    pub queries: f32,
}

/// A region's load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flow {
    /// Of its leader.
    pub read: Rate,
    /// Of every peer.
    pub written: Rate,
}

impl Rate {
    /// `self`, which was the average until `span` ago, with the rate since then.
    fn after(self, span: f32, rate: Self) -> Self {
        let share = span / (span + FLOW_DECAY.as_secs_f32());
        let mix = |old: f32, new: f32| old + (new - old) * share;
        Self {
            bytes: mix(self.bytes, rate.bytes),
            keys: mix(self.keys, rate.keys),
            queries: mix(self.queries, rate.queries),
        }
    }

    fn per(self, seconds: f32) -> Self {
        Self {
            bytes: self.bytes / seconds,
            keys: self.keys / seconds,
            queries: self.queries / seconds,
        }
    }
}

impl Flow {
    /// The average after `amount` (not per second) more in the `span` since the last report.
    #[must_use]
    pub fn after(self, span: Duration, amount: Self) -> Self {
        // Two reports at one moment: the second says what the first forgot.
        let seconds = span.as_secs_f32().max(0.1);
        Self {
            read: self.read.after(seconds, amount.read.per(seconds)),
            written: self.written.after(seconds, amount.written.per(seconds)),
        }
    }

    /// The average after `span` without any report.
    #[must_use]
    pub fn faded(self, span: Duration) -> Self {
        let none = Rate::default();
        let seconds = span.as_secs_f32();
        Self {
            read: self.read.after(seconds, none),
            written: self.written.after(seconds, none),
        }
    }
}

/// No place in a list.
const NOWHERE: u32 = u32::MAX;

/// A peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    id: u64,
    /// Index of its store.
    pub(crate) store: u32,
    /// Its place among the store's peers.
    at: u32,
    role: u8,
    pending: bool,
    witness: bool,
}

/// A region.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) id: u64,
    version: u64,
    conf_ver: u64,
    pub(crate) start: Bytes,
    pub(crate) end: Bytes,
    pub(crate) members: Box<[Member]>,
    /// Index of the leader's store.
    pub(crate) leader: u32,
    leader_at: u32,
    pub(crate) size: u64,
    pub(crate) keys: u64,
    /// By id: most regions have none.
    #[expect(
        clippy::box_collection,
        reason = "a word instead of three in every record"
    )]
    down: Option<Box<Vec<(u64, Duration)>>>,
    pub(crate) flow: Flow,
    flow_at: Mono,
    pub(crate) born: Mono,
    /// See [`Region::fixed`].
    pub(crate) fixed: bool,
}

/// What a store has.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) store: u64,
    pub(crate) peers: Vec<u32>,
    pub(crate) leaders: Vec<u32>,
    weight: u64,
}

/// What the regions of a store add up to, those that are [`Region::fixed`] left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Regions it leads.
    pub leaders: u64,
    /// Peers it has.
    pub peers: u64,
    /// Bytes of them, and [`REGION_WEIGHT`] for each.
    pub weight: u64,
}

/// All regions of the key space. Invariant: none overlaps another; whoever reports a new range has
/// removed what was there.
#[derive(Debug, Default)]
pub struct Regions {
    slots: Vec<Option<Record>>,
    free: Vec<u32>,
    by_id: BTreeMap<u64, u32>,
    by_start: BTreeMap<Bytes, u32>,
    stores: BTreeMap<u64, u32>,
    held: Vec<Held>,
}

impl Record {
    pub(crate) fn weight(&self) -> u64 {
        self.size.saturating_add(REGION_WEIGHT)
    }

    /// All its peers are voters that the leader hears.
    pub(crate) fn is_plain(&self) -> bool {
        let voter = |member: &Member| member.role == PeerRole::Voter as u8;
        self.down.is_none() && self.members.iter().all(voter)
    }

    pub(crate) fn has_pending(&self) -> bool {
        self.members.iter().any(|member| member.pending)
    }

    /// Its load, if nothing was reported since.
    pub(crate) fn flow(&self, now: Mono) -> Flow {
        self.flow.faded(now - self.flow_at)
    }
}

impl Regions {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// By id.
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.by_id.keys().copied()
    }

    /// What `store` has.
    pub fn load(&self, store: u64) -> Load {
        let held = self.stores.get(&store).map(|at| &self.held[*at as usize]);
        held.map_or_else(Load::default, |held| Load {
            leaders: held.leaders.len() as u64,
            peers: held.peers.len() as u64,
            weight: held.weight,
        })
    }

    /// Puts a region in the place of what is known of it. `now`: when its load was reported.
    pub fn put(&mut self, region: &Region, now: Mono) {
        let known = self.by_id.get(&region.id).copied();
        if let Some(at) = known {
            let (slot, leader) = (self.slots[at as usize].take(), region.leader);
            let mut record = slot.expect("a known region has a record");
            self.unlink(at, &record);
            if record.start != region.start {
                self.by_start.remove(&record.start);
                record.start = self.shared(&region.start);
                self.by_start.insert(record.start.clone(), at);
            }
            if record.end != region.end {
                record.end = self.shared(&region.end);
            }
            record.fill(region, now);
            self.link(at, &mut record, region, leader);
            self.slots[at as usize] = Some(record);
            return;
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        let mut record = Record {
            id: region.id,
            version: 0,
            conf_ver: 0,
            start: self.shared(&region.start),
            end: self.shared(&region.end),
            members: Box::default(),
            leader: NOWHERE,
            leader_at: NOWHERE,
            size: 0,
            keys: 0,
            down: None,
            flow: Flow::default(),
            flow_at: now,
            born: Mono(0),
            fixed: region.fixed,
        };
        record.fill(region, now);
        self.link(at, &mut record, region, region.leader);
        self.by_id.insert(region.id, at);
        self.by_start.insert(record.start.clone(), at);
        self.slots[at as usize] = Some(record);
    }

    /// A boundary: neighbours keep one copy between them, and none keeps the message that it came in.
    fn shared(&self, key: &Bytes) -> Bytes {
        if let Some((known, _)) = self.by_start.get_key_value(key) {
            return known.clone();
        }
        let range = (Bound::Unbounded, Bound::Excluded(&key[..]));
        let before = self.by_start.range::<[u8], _>(range).next_back();
        // The record that is being put has no slot yet.
        let before = before.and_then(|(_, at)| self.slots[*at as usize].as_ref());
        match before.filter(|before| before.end == *key) {
            Some(before) => before.end.clone(),
            None => Bytes::copy_from_slice(key),
        }
    }

    /// Forgets a region.
    pub fn remove(&mut self, id: u64) {
        let Some(at) = self.by_id.remove(&id) else {
            return;
        };
        let record = self.slots[at as usize].take();
        let record = record.expect("a known region has a record");
        self.by_start.remove(&record.start);
        self.unlink(at, &record);
        self.free.push(at);
    }

    fn store_index(&mut self, store: u64) -> u32 {
        let next = self.held.len() as u32;
        let at = *self.stores.entry(store).or_insert(next);
        if at == next {
            self.held.push(Held {
                store,
                ..Held::default()
            });
        }
        at
    }

    /// Enters a record's peers and leader into the lists of their stores.
    fn link(&mut self, at: u32, record: &mut Record, region: &Region, leader: Option<u64>) {
        let pending = |peer: &Peer| region.pending.contains(&peer.id);
        let member = |peer: &Peer| Member {
            id: peer.id,
            store: self.store_index(peer.store_id),
            at: NOWHERE,
            role: peer.role() as u8,
            pending: pending(peer),
            witness: peer.is_witness,
        };
        record.members = region.peers.iter().map(member).collect();
        let leader = leader.map(|store| self.store_index(store));
        record.leader = leader.unwrap_or(NOWHERE);
        if record.fixed {
            return;
        }
        for member in &mut record.members {
            let held = &mut self.held[member.store as usize];
            // Nobody should report two peers on one store; one of them counts.
            if held.peers.last() == Some(&at) {
                continue;
            }
            member.at = held.peers.len() as u32;
            held.peers.push(at);
            held.weight += record.size.saturating_add(REGION_WEIGHT);
        }
        if let Some(store) = leader {
            let held = &mut self.held[store as usize];
            record.leader_at = held.leaders.len() as u32;
            held.leaders.push(at);
        }
    }

    fn unlink(&mut self, at: u32, record: &Record) {
        if record.fixed {
            return;
        }
        for member in &record.members {
            if member.at == NOWHERE {
                continue;
            }
            let held = &mut self.held[member.store as usize];
            held.weight -= record.weight();
            held.peers.swap_remove(member.at as usize);
            let moved = held.peers.get(member.at as usize).copied();
            if let Some(other) = moved.filter(|other| *other != at) {
                let other = self.slots[other as usize].as_mut();
                let members = &mut other.expect("a listed region has a record").members;
                let same = members.iter_mut().find(|peer| peer.store == member.store);
                same.expect("it is listed there").at = member.at;
            }
        }
        if record.leader != NOWHERE {
            let held = &mut self.held[record.leader as usize];
            held.leaders.swap_remove(record.leader_at as usize);
            if let Some(other) = held.leaders.get(record.leader_at as usize).copied() {
                let other = self.slots[other as usize].as_mut();
                other.expect("a listed region has a record").leader_at = record.leader_at;
            }
        }
    }

    /// A region as planners of one region see it.
    pub fn region(&self, id: u64) -> Option<Region> {
        let at = *self.by_id.get(&id)?;
        Some(self.full(self.record(at)))
    }

    pub(crate) fn full(&self, record: &Record) -> Region {
        let peer = |member: &Member| Peer {
            id: member.id,
            store_id: self.held[member.store as usize].store,
            role: i32::from(member.role),
            is_witness: member.witness,
        };
        let pending = record.members.iter().filter(|member| member.pending);
        let leader = self.held.get(record.leader as usize);
        let down = record.down.iter().flat_map(|down| down.iter().copied());
        Region {
            id: record.id,
            meta: false,
            fixed: record.fixed,
            epoch: RegionEpoch {
                conf_ver: record.conf_ver,
                version: record.version,
            },
            start: record.start.clone(),
            end: record.end.clone(),
            peers: record.members.iter().map(peer).collect(),
            leader: leader.map(|held| held.store),
            pending: pending.map(|member| member.id).collect::<BTreeSet<_>>(),
            down: down.collect(),
            size: record.size,
            keys: record.keys,
            flow: record.flow,
            born: record.born,
        }
    }

    pub(crate) fn record(&self, at: u32) -> &Record {
        let slot = self.slots[at as usize].as_ref();
        slot.expect("a listed region has a record")
    }

    pub(crate) fn by_id(&self, id: u64) -> Option<&Record> {
        self.by_id.get(&id).map(|at| self.record(*at))
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        self.slots.iter().flatten()
    }

    pub(crate) fn held(&self) -> &[Held] {
        &self.held
    }

    pub(crate) fn held_by(&self, store: u64) -> Option<&Held> {
        let at = self.stores.get(&store)?;
        Some(&self.held[*at as usize])
    }

    /// The region that ends where `record` starts, and the one that starts where it ends.
    pub(crate) fn neighbours(&self, record: &Record) -> [Option<&Record>; 2] {
        let before = self
            .by_start
            .range::<[u8], _>((Bound::Unbounded, Bound::Excluded(&record.start[..])))
            .next_back()
            .map(|(_, at)| self.record(*at))
            .filter(|before| before.end == record.start);
        let after = match record.end.is_empty() {
            true => None,
            false => self.by_start.get(&record.end).map(|at| self.record(*at)),
        };
        [before, after]
    }

    /// Checks what is kept against what follows from the records.
    ///
    /// # Panics
    /// If something does not fit.
    pub fn check(&self) {
        let mut fresh = Self::default();
        for record in self.records() {
            fresh.put(&self.full(record), record.flow_at);
        }
        let all = self.stores.keys().chain(fresh.stores.keys());
        for store in all {
            assert_eq!(self.load(*store), fresh.load(*store), "store {store}");
        }
        assert_eq!(self.by_id.len(), fresh.by_id.len());
        assert_eq!(self.by_start.len(), fresh.by_start.len());
        for (nth, held) in self.held.iter().enumerate() {
            for (place, at) in held.peers.iter().enumerate() {
                let members = &self.record(*at).members;
                let here = members.iter().find(|member| member.store as usize == nth);
                assert_eq!(here.map(|member| member.at as usize), Some(place));
            }
            for (place, at) in held.leaders.iter().enumerate() {
                let record = self.record(*at);
                assert_eq!(
                    (record.leader as usize, record.leader_at as usize),
                    (nth, place)
                );
            }
        }
    }
}

impl Record {
    /// All but the range, and the peers and the leader, which their stores list.
    fn fill(&mut self, region: &Region, now: Mono) {
        self.version = region.epoch.version;
        self.conf_ver = region.epoch.conf_ver;
        (self.size, self.keys) = (region.size, region.keys);
        let down = region.down.iter().map(|(id, silent)| (*id, *silent));
        self.down = (!region.down.is_empty()).then(|| Box::new(down.collect()));
        (self.flow, self.flow_at) = (region.flow, now);
        (self.born, self.fixed) = (region.born, region.fixed);
    }
}
