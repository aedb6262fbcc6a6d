//! Faults are over, and a minority stays away: whatever the others can decide they must serve.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::kvrpcpb::{RawGetRequest, RawPutRequest};
use flotilla_proto::metapb::Region;

use super::clients::context;
use super::{Event, Sim};
use crate::checkers::members::conf_of;
use crate::checkers::quorum::majority;
use crate::client::Request;
use crate::history::Caller;
use crate::net::Place;
use crate::rules::{Rule, Violation};
use crate::world::Service;

/// How long a region may take until it serves a request: elections, members and snapshots included.
const SERVE_MAX: Duration = Duration::from_secs(60);
/// How long one try is waited for.
const TRY_MAX: Duration = Duration::from_millis(500);

impl Sim {
    /// In some worlds: a minority of the stores hears nobody for longer, and every region with a majority
    /// among the others serves a write and a read. Then everybody is back.
    pub(super) fn serve_without_some(&mut self) -> Result<(), Violation> {
        if self.world.stores < 3 || !self.fault_rng.chance(300) {
            return Ok(());
        }
        let mut here: BTreeSet<u64> = self.nodes.keys().copied().collect();
        here.retain(|store| self.gone != Some(*store));
        let minority = (self.world.stores - 1) / 2;
        let mut away = BTreeSet::new();
        for _ in 0..self.fault_rng.range(1..=minority) {
            let stores: Vec<u64> = here.iter().copied().collect();
            let store = *self.fault_rng.pick(&stores);
            here.remove(&store);
            away.insert(store);
        }
        self.note(format_args!("stores {away:?} stay away"));
        // Partitions of before are over, and must not end this one.
        drop(self.events.extract(|event| matches!(event, Event::Heal(_))));
        for (one, other) in away
            .iter()
            .flat_map(|one| here.iter().map(move |other| (one, other)))
        {
            let (one, other) = (Place::Store(*one), Place::Store(*other));
            self.net.cut((one, other));
            self.net.cut((other, one));
        }
        if self.world.plants.service == Some(Service::MajorityApart) {
            let ways = here
                .iter()
                .flat_map(|one| here.iter().map(move |other| (*one, *other)));
            for (one, other) in ways.filter(|(one, other)| one != other) {
                self.net.cut((Place::Store(one), Place::Store(other)));
            }
        }
        self.probe("end: a minority stays away");
        for region in self.data_regions() {
            self.serve_among(region.id, &here)?;
        }
        self.net.calm();
        Ok(())
    }

    fn serve_among(&mut self, region: u64, here: &BTreeSet<u64>) -> Result<(), Violation> {
        let write = |key| {
            Request::Put(RawPutRequest {
                key,
                value: Bytes::from_static(b"served by most"),
                ..Default::default()
            })
        };
        let read = |key| {
            Request::Get(RawGetRequest {
                key,
                ..Default::default()
            })
        };
        for request in [write as fn(Bytes) -> Request, read] {
            let deadline = self.now() + SERVE_MAX;
            loop {
                let Some(shape) = self.decided_here(region, here) else {
                    return Ok(());
                };
                // It may still split.
                let Some(key) = self.key_in(&shape) else {
                    return Ok(());
                };
                let request = request(key).for_mode(self.world.mode);
                let served = self.try_among(&shape, here, &request)?;
                if served || self.now() >= deadline {
                    self.oracle
                        .lock()
                        .checks
                        .check(Rule::MajorityServes, served, || {
                            format!(
                                "stores {here:?} do not serve a {} in {SERVE_MAX:?}: {shape:?}",
                                request.name()
                            )
                        });
                    self.verdict()?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// The region, if these stores have a majority of its members, and had by all that one of them may still
    /// count by. A member that a split has yet to make on its store does not count: the region that splits
    /// may need others.
    fn decided_here(&self, region: u64, here: &BTreeSet<u64>) -> Option<Region> {
        let lives = |store: u64, id: u64| {
            let mut lives = false;
            if let Some(life) = self.life(store).filter(|_| here.contains(&store)) {
                life.look_at(region, |peer| lives = peer.raft().id() == id);
            }
            lives
        };
        let oracle = self.oracle.lock();
        let applied = here.iter().filter_map(|store| {
            let applied = &oracle.stores.get(store)?.applied;
            applied.get(&region).copied()
        });
        let mut shapes = oracle.model.shapes_since(region, applied.min()?);
        let decides = |shape: &Region| {
            let is_here = |id: u64| {
                let mut peers = shape.peers.iter();
                peers.any(|peer| peer.id == id && lives(peer.store_id, id))
            };
            majority(&conf_of(shape), is_here)
        };
        shapes.all(decides).then_some(())?;
        oracle.model.shape(region, u64::MAX).cloned()
    }

    fn try_among(
        &mut self,
        shape: &Region,
        here: &BTreeSet<u64>,
        request: &Request,
    ) -> Result<bool, Violation> {
        let leader = self.leader_of(shape.id);
        let again = self.now() + TRY_MAX;
        let op = self.op();
        self.served.insert(op, false);
        if let Some((id, leader)) = leader.filter(|(id, _)| here.contains(&id.store)) {
            let step = self.oracle.lock().step;
            let caller = Caller {
                client: u64::MAX,
                replica: None,
            };
            self.history.invoked((op, step), caller, request, shape);
            self.serve_request(id, 0, op, request.clone(), context(shape, leader));
        }
        while self.now() < again && self.served.get(&op) == Some(&false) {
            self.turn()?;
        }
        Ok(self.served.remove(&op) == Some(true))
    }
}
