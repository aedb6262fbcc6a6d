//! Stores as PD sees them: they report, and do as they are told. Everything is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use flotilla_pd::{Call, Event, SetStoreState, StreamId, calls};
use flotilla_proto::eraftpb::ConfChangeType;
use flotilla_proto::metapb::{Peer, PeerRole, Region};
use flotilla_proto::pdpb::{
    ChangePeer, PeerStats, PutStoreRequest, RegionHeartbeatRequest, RegionHeartbeatResponse,
    StoreHeartbeatRequest, StoreStats,
};

use super::{World, header, region, store};

/// A region as its group has it.
#[derive(Clone, Debug)]
pub struct Group {
    pub region: Region,
    pub leader: u64,
    pub term: u64,
    /// Stores whose peers lag behind.
    pub pending: BTreeSet<u64>,
    /// Stores that the leader does not hear, and for how long.
    pub down: BTreeMap<u64, Duration>,
    /// A new peer has caught up when the leader reports the next time.
    pub slow: bool,
}

/// The stores, their groups, and what was said.
pub struct Fleet {
    pub world: World,
    pub groups: BTreeMap<u64, Group>,
    pub lines: String,
    /// Stores that say nothing.
    pub silent: BTreeSet<u64>,
    /// Instructions that were not carried out yet, by region.
    pub orders: BTreeMap<u64, RegionHeartbeatResponse>,
}

impl Fleet {
    /// Stores 1 to `stores`, and three regions on store 1: the meta region, and the key space in two.
    pub fn new(stores: u64) -> Self {
        let mut fleet = Self::empty();
        for id in 2..=stores {
            fleet.join(id);
        }
        for (id, start, end) in [(1, "", ""), (3, "", "m"), (5, "m", "")] {
            fleet.add(region(id, 1, start, end));
        }
        fleet
    }

    pub fn empty() -> Self {
        Self {
            world: World::leading(),
            groups: BTreeMap::new(),
            lines: String::new(),
            silent: BTreeSet::new(),
            orders: BTreeMap::new(),
        }
    }

    /// A group that store 1 leads.
    pub fn add(&mut self, region: Region) {
        let group = Group {
            leader: region.peers[0].store_id,
            region,
            term: 6,
            pending: BTreeSet::new(),
            down: BTreeMap::new(),
            slow: false,
        };
        self.groups.insert(group.region.id, group);
    }

    /// Only region `id`, with voters on these stores; the first leads.
    pub fn with_region(stores: u64, id: u64, voters: &[u64]) -> Self {
        let mut fleet = Self::new(stores);
        fleet.groups.clear();
        let mut only = region(id, 1, "", "");
        only.peers = voters
            .iter()
            .map(|store| Peer {
                id: 10 * id + store,
                store_id: *store,
                ..Peer::default()
            })
            .collect();
        fleet.add(only);
        fleet
    }

    pub fn join(&mut self, id: u64) {
        let request = PutStoreRequest {
            header: header(),
            store: Some(store(id)),
        };
        self.world.ask::<calls::PutStore>(request).unwrap();
    }

    pub fn take(&mut self) -> String {
        std::mem::take(&mut self.lines)
    }

    /// All stores that speak show themselves and what they lead.
    pub fn report(&mut self) {
        let stores: Vec<u64> = self.world.durable().stores.into_keys().collect();
        for id in stores {
            self.report_store(id);
        }
        let groups: Vec<u64> = self.groups.keys().copied().collect();
        for id in groups {
            self.beat(id);
        }
        self.hear();
    }

    pub fn report_store(&mut self, id: u64) {
        if self.silent.contains(&id) {
            return;
        }
        let request = StoreHeartbeatRequest {
            header: header(),
            stats: Some(StoreStats {
                store_id: id,
                capacity: 100 << 30,
                available: 50 << 30,
                ..StoreStats::default()
            }),
            ..StoreHeartbeatRequest::default()
        };
        let token = self.world.send(calls::StoreHeartbeat::request(request));
        self.world.answers.remove(&token);
    }

    /// The leader of a region reports it, on its store's stream.
    pub fn beat(&mut self, id: u64) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if self.silent.contains(&group.leader) {
            return;
        }
        let peer = |store: &u64| {
            let mut peers = group.region.peers.iter();
            peers.find(|peer| peer.store_id == *store).copied()
        };
        let down = group.down.iter().map(|(store, silent)| PeerStats {
            peer: peer(store),
            down_seconds: silent.as_secs(),
        });
        let heartbeat = RegionHeartbeatRequest {
            header: header(),
            leader: peer(&group.leader),
            term: group.term,
            down_peers: down.collect(),
            pending_peers: group.pending.iter().filter_map(peer).collect(),
            region: Some(group.region.clone()),
            ..RegionHeartbeatRequest::default()
        };
        let stream = StreamId(group.leader);
        if !group.slow {
            group.pending.clear();
        }
        self.world.heartbeat(stream, heartbeat);
        self.hear();
    }

    /// Lets time pass; whoever speaks reports every ten seconds.
    pub fn pass(&mut self, span: Duration) {
        let step = Duration::from_secs(10);
        let mut left = span;
        while left > Duration::ZERO {
            let now = left.min(step);
            self.world.advance(now);
            left -= now;
            self.report();
        }
    }

    /// Writes down what PD said.
    pub fn hear(&mut self) {
        for event in std::mem::take(&mut self.world.events) {
            let line = match event {
                Event::OperatorStarted { operator, what } => format!("start {operator}: {what}"),
                Event::OperatorEnded {
                    operator,
                    region,
                    ending,
                } => format!("end {operator}, region {region}: {ending}"),
                Event::StoreState { store, state } => format!("store {store}: {state}"),
                _ => continue,
            };
            writeln!(self.lines, "{line}").unwrap();
        }
        for (stream, order) in std::mem::take(&mut self.world.instructions) {
            let text = describe(&order);
            writeln!(self.lines, "tell store {}: {text}", stream.0).unwrap();
            let group = &self.groups[&order.region_id];
            assert_eq!(order.target_peer.map(|peer| peer.store_id), Some(stream.0));
            if stream.0 == group.leader {
                self.orders.insert(order.region_id, order);
            }
        }
    }

    /// The leaders do as they were told, as far as the epoch allows, and report.
    pub fn obey(&mut self) {
        for (id, order) in std::mem::take(&mut self.orders) {
            let group = self.groups.get_mut(&id).unwrap();
            let leads = order.target_peer.map(|peer| peer.store_id) == Some(group.leader);
            if leads && order.region_epoch == group.region.region_epoch {
                group.carry_out(&order);
            }
            self.beat(id);
        }
    }

    /// Until nothing is told any more.
    pub fn settle(&mut self) {
        for _ in 0..200 {
            self.world.advance(Duration::from_millis(200));
            self.hear();
            self.obey();
            let groups: Vec<u64> = self.groups.keys().copied().collect();
            for id in groups {
                self.groups.get_mut(&id).unwrap().leave_joint();
                self.beat(id);
            }
        }
        self.report();
    }

    /// The groups in a line each.
    pub fn show(&mut self) {
        for (id, group) in &self.groups {
            let peers: Vec<String> = group.region.peers.iter().map(name).collect();
            let epoch = group.region.region_epoch.unwrap();
            writeln!(
                self.lines,
                "region {id}, conf {}: {}, store {} leads",
                epoch.conf_ver,
                peers.join(" "),
                group.leader
            )
            .unwrap();
        }
    }
}

impl Group {
    fn peer(&mut self, store: u64) -> Option<&mut Peer> {
        let mut peers = self.region.peers.iter_mut();
        peers.find(|peer| peer.store_id == store)
    }

    pub fn grew(&mut self, by: u64) {
        self.region.region_epoch.as_mut().unwrap().conf_ver += by;
    }

    fn carry_out(&mut self, order: &RegionHeartbeatResponse) {
        if let Some(transfer) = &order.transfer_leader {
            let to = transfer.peer.unwrap().store_id;
            assert!(self.peer(to).is_some());
            (self.leader, self.term) = (to, self.term + 1);
        } else if let Some(change) = &order.change_peer {
            self.change(change, false);
            self.grew(1);
        } else if let Some(joint) = &order.change_peer_v2 {
            for change in &joint.changes {
                self.change(change, true);
            }
            self.grew(joint.changes.len() as u64);
        }
    }

    fn change(&mut self, change: &ChangePeer, joint: bool) {
        let peer = change.peer.unwrap();
        let role = match (change.change_type(), joint) {
            (ConfChangeType::AddNode, false) => PeerRole::Voter,
            (ConfChangeType::AddNode, true) => PeerRole::IncomingVoter,
            (ConfChangeType::AddLearnerNode, false) => PeerRole::Learner,
            (ConfChangeType::AddLearnerNode, true) => PeerRole::DemotingVoter,
            (ConfChangeType::RemoveNode, _) => {
                assert_ne!(peer.store_id, self.leader, "the leader is removed");
                self.region.peers.retain(|other| other.id != peer.id);
                return;
            }
        };
        match self.peer(peer.store_id) {
            Some(known) => {
                assert_eq!(known.id, peer.id);
                known.role = role as i32;
            }
            None => {
                self.pending.insert(peer.store_id);
                let role = role as i32;
                self.region.peers.push(Peer { role, ..peer });
            }
        }
    }

    /// Leaves a joint configuration, as leaders do by themselves.
    pub fn leave_joint(&mut self) {
        let mut changed = 0;
        for peer in &mut self.region.peers {
            peer.role = match peer.role() {
                PeerRole::IncomingVoter => PeerRole::Voter,
                PeerRole::DemotingVoter => PeerRole::Learner,
                _ => continue,
            } as i32;
            changed += 1;
        }
        self.grew(changed);
    }
}

impl Fleet {
    /// `SetStoreState`, in one line.
    pub fn set_offline(&mut self, store: u64, offline: bool) -> String {
        let request = SetStoreState { store, offline };
        match self.world.ask::<calls::SetStoreState>(request).unwrap().0 {
            Ok(()) => "ok".to_owned(),
            Err(error) => format!("{} {error}", error.http_status()),
        }
    }
}

fn name(peer: &Peer) -> String {
    let role = match peer.role() {
        PeerRole::Voter => "",
        PeerRole::Learner => ":learner",
        PeerRole::IncomingVoter => ":incoming",
        PeerRole::DemotingVoter => ":demoting",
    };
    format!("{}@{}{role}", peer.id, peer.store_id)
}

fn describe(order: &RegionHeartbeatResponse) -> String {
    let change = |change: &ChangePeer| {
        let kind = match change.change_type() {
            ConfChangeType::AddNode => "voter",
            ConfChangeType::AddLearnerNode => "learner",
            ConfChangeType::RemoveNode => "remove",
        };
        let peer = change.peer.unwrap();
        format!("{kind} {}@{}", peer.id, peer.store_id)
    };
    let what = if let Some(one) = &order.change_peer {
        change(one)
    } else if let Some(joint) = &order.change_peer_v2 {
        let all: Vec<String> = joint.changes.iter().map(change).collect();
        format!("joint [{}]", all.join(", "))
    } else if let Some(to) = order.transfer_leader.as_ref().and_then(|to| to.peer) {
        format!("transfer to {}@{}", to.id, to.store_id)
    } else {
        "nothing".to_owned()
    };
    let conf_ver = order.region_epoch.unwrap().conf_ver;
    format!("region {}, conf {conf_ver}: {what}", order.region_id)
}
