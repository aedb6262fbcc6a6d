//! Carrying operators out.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_pd_plan::{self as plan, Operator, Step, StoreState};
use flotilla_proto::eraftpb::ConfChangeType;
use flotilla_proto::metapb::{Peer, PeerRole};
use flotilla_proto::pdpb::{
    ChangePeer, ChangePeerV2, Merge, RegionHeartbeatResponse, ResponseHeader, TransferLeader,
};

use super::{Cancelled, Ended, Ending, Running};
use crate::effect::{Effect, Event};
use crate::leading::Leading;
use crate::reply::Cx;
use crate::schedule::Schedule;

impl Leading {
    /// Begins an operator. `false`: there are no ids for its peers yet, try again.
    pub(crate) fn start_operator(&mut self, cx: &mut Cx<'_>, operator: Operator) -> bool {
        let adds = |step: &Step| match step {
            Step::AddLearner { store } => Some(*store),
            _ => None,
        };
        let target = target(&operator);
        let stores: Vec<u64> = operator.steps.iter().filter_map(adds).collect();
        let Some(first) = self.peer_ids(cx, stores.len() as u64) else {
            return false;
        };
        let region = operator.region;
        self.end_operator(cx, region, Ending::Replaced);
        self.operators.started += 1;
        let running = Running {
            id: self.operators.started,
            operator,
            step: 0,
            max_replicas: self.durable.cluster.max_peer_count,
            new_peers: stores.into_iter().zip(first..).collect(),
            started: cx.wall,
            step_since: cx.now,
            told: None,
        };
        cx.event(Event::OperatorStarted {
            operator: running.id,
            what: running.operator.to_string(),
        });
        self.operators.running.insert(region, running);
        self.operators
            .targets
            .extend(target.map(|target| (target, region)));
        self.advance_operator(cx, region);
        true
    }

    pub(super) fn end_operator(&mut self, cx: &mut Cx<'_>, region: u64, ending: Ending) {
        let Some(running) = self.operators.running.remove(&region) else {
            return;
        };
        if let Some(target) = target(&running.operator) {
            self.operators.targets.remove(&target);
        }
        let at_once_again = !matches!(
            ending,
            Ending::TimedOut { .. } | Ending::Cancelled(Cancelled::Asked)
        );
        if !at_once_again {
            let until = cx.now + self.settings.schedule.rest;
            self.operators.resting.insert(region, until);
        }
        cx.event(Event::OperatorEnded {
            operator: running.id,
            region,
            ending: ending.clone(),
        });
        let at = cx.wall;
        self.operators.remember(Ended {
            running,
            ending,
            at,
        });
    }

    /// Ends what takes too long or has lost its stores, and tells again what was not heard.
    pub(crate) fn drive_operators(&mut self, cx: &mut Cx<'_>) {
        let regions: Vec<u64> = self.operators.running.keys().copied().collect();
        for region in regions {
            self.advance_operator(cx, region);
        }
        let now = cx.now;
        self.operators.resting.retain(|_, until| now < *until);
        self.operators.pinned.retain(|_, until| now < *until);
    }

    /// The region of an operator was reported, or time went on.
    pub(crate) fn advance_operator(&mut self, cx: &mut Cx<'_>, region: u64) {
        let Some(mut running) = self.operators.running.remove(&region) else {
            return;
        };
        let ending = match self.route(region) {
            _ if running.max_replicas != self.durable.cluster.max_peer_count => {
                Some(Ending::Cancelled(Cancelled::RuleChanged))
            }
            None if self.is_merged(&running) => Some(Ending::Done),
            None => Some(Ending::Cancelled(Cancelled::RegionGone)),
            Some(route) => {
                let view = route.for_planning();
                advance(cx, &mut running, &view)
                    .or_else(|| self.lost_store(cx, &running))
                    .or_else(|| out_of_time(cx, &self.settings.schedule, &running))
            }
        };
        if ending.is_none() {
            self.tell(cx, &mut running);
        }
        self.operators.running.insert(region, running);
        if let Some(ending) = ending {
            self.end_operator(cx, region, ending);
        }
    }

    /// The region is gone because its target has its keys: that is how a merge ends.
    fn is_merged(&self, running: &Running) -> bool {
        let step = running.operator.steps.get(running.step);
        let Some(Step::Merge { target }) = step else {
            return false;
        };
        // What is gone has left its range; the target's version is above both.
        let version = running.operator.epoch.version;
        let target = self.route(*target);
        target.is_some_and(|target| target.epoch().version > version)
    }

    /// A store that is to get something will not have it.
    fn lost_store(&self, cx: &Cx<'_>, running: &Running) -> Option<Ending> {
        let gains = running.steps_left().iter().flat_map(|step| match step {
            Step::AddLearner { store }
            | Step::PromoteLearner { store }
            | Step::TransferLeader { store } => std::slice::from_ref(store),
            Step::EnterJoint { promote, .. } => promote,
            Step::RemovePeer { .. } | Step::LeaveJoint { .. } | Step::Merge { .. } => &[],
        });
        for store in gains.copied() {
            let known = self.durable.stores.get(&store);
            let state = known.map(|store| self.store_state(cx, store));
            if !matches!(state, Some(StoreState::Up | StoreState::Disconnected)) {
                return Some(Ending::Cancelled(Cancelled::Store { store, state }));
            }
        }
        None
    }

    /// Sends the step to the region's leader, unless it was sent to the same one a moment ago.
    fn tell(&self, cx: &mut Cx<'_>, running: &mut Running) {
        let Some(route) = self.route(running.operator.region) else {
            return;
        };
        let Some(leader) = route.leader else { return };
        let Some(stream) = self.streams.get(&leader.store_id) else {
            return;
        };
        let resend = self.settings.schedule.resend;
        if running
            .told
            .is_some_and(|(at, to)| to == leader.id && cx.now - at < resend)
        {
            return;
        }
        let view = route.for_planning();
        let order = match running.step() {
            Step::Merge { target } => self.merge_into(running, &view, *target),
            step => instruction(step, &view, &running.new_peers),
        };
        let Some(order) = order else { return };
        running.told = Some((cx.now, leader.id));
        let instruction = RegionHeartbeatResponse {
            header: Some(ResponseHeader {
                cluster_id: cx.config.cluster_id,
                error: None,
            }),
            region_id: running.operator.region,
            region_epoch: route.region.region_epoch,
            target_peer: Some(leader),
            ..order
        };
        cx.out.push(Effect::RegionInstruction {
            stream: *stream,
            instruction: Box::new(instruction),
        });
    }
}

impl Leading {
    /// What the leader of a region is told that becomes a part of `target`; `None`: not now, for it has
    /// begun already, or the target is not where it should be.
    fn merge_into(
        &self,
        running: &Running,
        region: &plan::Region,
        target: u64,
    ) -> Option<RegionHeartbeatResponse> {
        let target = self.route(target)?;
        let stores = |peers: &[Peer]| {
            peers
                .iter()
                .map(|peer| peer.store_id)
                .collect::<BTreeSet<_>>()
        };
        let same = stores(&region.peers) == stores(&target.region.peers);
        let begun = region.epoch.version != running.operator.epoch.version;
        (same && !begun && target.is_steady()).then(|| RegionHeartbeatResponse {
            merge: Some(Merge {
                target: Some(target.region.clone()),
            }),
            ..RegionHeartbeatResponse::default()
        })
    }
}

/// The region that an operator merges its own into.
fn target(operator: &Operator) -> Option<u64> {
    match operator.steps.last() {
        Some(Step::Merge { target }) => Some(*target),
        _ => None,
    }
}

/// Passes over the steps that are done. Whatever else happened to the region ends the operator.
fn advance(cx: &Cx<'_>, running: &mut Running, region: &plan::Region) -> Option<Ending> {
    let planned = running.operator.epoch;
    let merges = matches!(
        running.operator.steps.get(running.step),
        Some(Step::Merge { .. })
    );
    if merges && region.epoch.version == planned.version + 1 {
        // It has begun (contracts: C21); it ends with the region, or is taken back.
        return None;
    }
    if region.epoch.version != planned.version {
        return Some(Ending::Cancelled(Cancelled::RangeChanged));
    }
    let steps = &running.operator.steps;
    let done = steps[running.step..]
        .iter()
        .take_while(|step| step.is_finished(region));
    let next = running.step + done.count();
    if next > running.step {
        (running.step_since, running.told) = (cx.now, None);
    }
    // What is done is done, whatever later steps make of it; the one under way may show in part.
    let done: u64 = steps[..next].iter().map(Step::conf_changes_in_all).sum();
    let begun = steps.get(next).map(|step| step.conf_changes(region));
    let changes = done + begun.unwrap_or(0);
    if region.epoch.conf_ver != planned.conf_ver + changes {
        return Some(Ending::Cancelled(Cancelled::MembersChanged));
    }
    running.step = next;
    let Some(step) = running.operator.steps.get(next) else {
        return Some(Ending::Done);
    };
    let lose = match step {
        Step::RemovePeer { store } => std::slice::from_ref(store),
        Step::EnterJoint { demote, .. } => demote,
        _ => &[],
    };
    let moved = region.leader.is_some_and(|leader| lose.contains(&leader));
    moved.then_some(Ending::Cancelled(Cancelled::LeaderMoved))
}

fn out_of_time(cx: &Cx<'_>, schedule: &Schedule, running: &Running) -> Option<Ending> {
    let step = running.step();
    let patience = match step {
        Step::AddLearner { .. } => schedule.add_time_max,
        _ => schedule.step_time_max,
    };
    let step = step.clone();
    (cx.now - running.step_since >= patience).then_some(Ending::TimedOut { step })
}

/// What the leader is told for `step`; `None`: it must not be done now.
fn instruction(
    step: &Step,
    region: &plan::Region,
    new_peers: &BTreeMap<u64, u64>,
) -> Option<RegionHeartbeatResponse> {
    let change = |kind: ConfChangeType, role: PeerRole, store: u64| {
        let peer = *region.on(store)?;
        let role = role as i32;
        Some(ChangePeer {
            peer: Some(Peer { role, ..peer }),
            change_type: kind as i32,
        })
    };
    // A voter that lags behind would hold up the group.
    let promote = |store: &u64| {
        let id = region.on(*store)?.id;
        let behind = region.pending.contains(&id) || region.down.contains_key(&id);
        let voter = (ConfChangeType::AddNode, PeerRole::Voter);
        (!behind).then(|| change(voter.0, voter.1, *store))?
    };
    let demote = |store: &u64| change(ConfChangeType::AddLearnerNode, PeerRole::Learner, *store);
    let one = |change: ChangePeer| RegionHeartbeatResponse {
        change_peer: Some(change),
        ..RegionHeartbeatResponse::default()
    };
    let several = |changes: Vec<ChangePeer>| RegionHeartbeatResponse {
        change_peer_v2: Some(ChangePeerV2 { changes }),
        ..RegionHeartbeatResponse::default()
    };
    match step {
        Step::AddLearner { store } if region.on(*store).is_some() => None,
        Step::AddLearner { store } => {
            let peer = Peer {
                id: *new_peers.get(store)?,
                store_id: *store,
                role: PeerRole::Learner as i32,
                is_witness: false,
            };
            Some(one(ChangePeer {
                peer: Some(peer),
                change_type: ConfChangeType::AddLearnerNode as i32,
            }))
        }
        Step::PromoteLearner { store } => promote(store).map(one),
        Step::RemovePeer { store } => {
            let role = region.on(*store)?.role();
            change(ConfChangeType::RemoveNode, role, *store).map(one)
        }
        Step::TransferLeader { store } => {
            let peer = *region.on(*store)?;
            Some(RegionHeartbeatResponse {
                transfer_leader: Some(TransferLeader {
                    peer: Some(peer),
                    peers: vec![peer],
                }),
                ..RegionHeartbeatResponse::default()
            })
        }
        Step::EnterJoint {
            promote: up,
            demote: down,
        } => {
            let changes = up.iter().map(promote).chain(down.iter().map(demote));
            changes.collect::<Option<Vec<_>>>().map(several)
        }
        Step::LeaveJoint { .. } => Some(several(Vec::new())),
        // It needs the other region, too.
        Step::Merge { .. } => None,
    }
}
