//! What stores report to PD: heartbeat streams, and what comes back on them.

use std::time::Duration;

use flotilla_pd::{Input, StreamId};
use flotilla_proto::clock::Mono;
use flotilla_proto::eraftpb::ConfChangeType;
use flotilla_proto::metapb::{PeerRole, Region};
use flotilla_proto::pdpb::{RegionHeartbeatRequest, RegionHeartbeatResponse};
use flotilla_raftstore::effects::{PdTask, RaftInput};
use flotilla_raftstore::{Answer, Instruction, PeerInput};

use super::{Event, Sim};
use crate::net::Place;
use crate::store::{LifeId, Reporter, Stream};
use crate::world::Service;

/// A connection that is silent this long is known to be broken. Shorter than production's, as most
/// times of a world are.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// Heartbeats of a store share one stream of its way.
const HEARTBEATS: u8 = 100;

impl Sim {
    fn reporter(&mut self, id: LifeId) -> Option<&mut Reporter> {
        let life = self.life_mut(id.store).filter(|life| life.id == id)?;
        Some(&mut life.reporter)
    }

    /// A region's leader reports.
    pub(super) fn report(&mut self, id: LifeId, region: u64, heartbeat: RegionHeartbeatRequest) {
        let Some(reporter) = self.reporter(id) else {
            return;
        };
        reporter.latest.insert(region, heartbeat.clone());
        if reporter.stream.is_some() {
            self.send_heartbeat(id, heartbeat);
        }
    }

    /// A store opens a stream to the PD that it believes to lead, and reports all that it leads.
    pub(super) fn open_stream(&mut self, id: LifeId) {
        let clock = self.nodes[&id.store].clock.mono(self.now());
        let Some(reporter) = self.reporter(id) else {
            return;
        };
        reporter.reopens = false;
        if reporter.stream.is_some() {
            return;
        }
        let pause = reporter.backoff.tried(clock);
        let from = Place::Store(id.store);
        let to = self.pd_guess(from);
        let pd = self.life(to).map(|life| life.id);
        let reached = self.pd_way(from, Place::Store(to)).is_ok();
        let Some(pd) = pd.filter(|_| reached) else {
            self.pd_guessed_wrong(from, to);
            return self.reopen_later(id, pause);
        };
        self.streams_begun += 1;
        let stream = Stream {
            id: StreamId(self.streams_begun),
            pd,
            begun: false,
            last: Mono(0),
            broken: false,
        };
        let Some(life) = self.life_mut(id.store) else {
            return;
        };
        life.reporter.stream = Some(stream);
        let delegates = life.runtime.delegates.clone();
        life.reporter.latest.retain(|region, _| {
            let serving = delegates.serving(*region);
            serving.is_ok_and(|serving| serving.is_leader())
        });
        for heartbeat in life.reporter.latest.clone().into_values() {
            self.send_heartbeat(id, heartbeat);
        }
    }

    fn reopen_later(&mut self, id: LifeId, pause: Duration) {
        let at = self.now() + pause;
        if let Some(reporter) = self.reporter(id)
            && !std::mem::replace(&mut reporter.reopens, true)
        {
            self.events.at(at, Event::StreamOpens(id));
        }
    }

    fn send_heartbeat(&mut self, id: LifeId, heartbeat: RegionHeartbeatRequest) {
        let (now, from) = (self.now(), Place::Store(id.store));
        let Some(stream) = self.reporter(id).and_then(|reporter| reporter.stream) else {
            return;
        };
        if stream.broken {
            return;
        }
        let to = Place::Store(stream.pd.store);
        let arrival = match from == to {
            true => Ok(stream.last.max(now + self.rng.micros(10..=100))),
            false => {
                let sent = self.net.stream(now, (from, to), HEARTBEATS);
                sent.arrivals.first().copied().ok_or(sent.noticed)
            }
        };
        let broken = arrival.is_err();
        if let Some(stream) = self
            .reporter(id)
            .and_then(|reporter| reporter.stream.as_mut())
        {
            stream.begun = true;
            stream.last = arrival.as_ref().map_or(stream.last, |at| *at);
            stream.broken = broken;
        }
        match arrival {
            Ok(at) => {
                let (life, pd) = (id, stream.pd);
                let event = Event::Heartbeat {
                    pd,
                    from: life,
                    stream: stream.id,
                    opens: !stream.begun,
                    heartbeat: Box::new(heartbeat),
                };
                self.events.at(at, event);
            }
            Err(noticed) => self.stream_breaks(id, stream, noticed),
        }
    }

    /// Nothing gets through a stream any more: both ends find out, each in its time.
    fn stream_breaks(&mut self, id: LifeId, stream: Stream, noticed: Option<Mono>) {
        self.probe("pd: a heartbeat stream breaks");
        let now = self.now();
        let at = noticed.unwrap_or(now + KEEPALIVE);
        let event = Event::StreamEnds {
            life: id,
            stream: stream.id,
        };
        self.events.at(at, event);
        let event = Event::StreamCloses {
            pd: stream.pd,
            stream: stream.id,
        };
        self.events.at(now + self.rng.micros(0..=5_000_000), event);
    }

    /// A heartbeat arrives at the PD that its stream leads to.
    pub(super) fn heartbeat_arrives(
        &mut self,
        pd: LifeId,
        from: LifeId,
        (stream, opens): (StreamId, bool),
        heartbeat: Box<RegionHeartbeatRequest>,
    ) {
        let Some(life) = self.life_mut(pd.store).filter(|life| life.id == pd) else {
            return;
        };
        let streams = &mut life.placement.streams;
        if opens {
            streams.insert(stream, from);
        }
        if streams.contains_key(&stream) {
            self.pd_input(pd, Input::RegionHeartbeat { stream, heartbeat });
        }
    }

    /// PD's end of a stream is gone.
    pub(super) fn stream_closes(&mut self, pd: LifeId, stream: StreamId) {
        let life = self.life_mut(pd.store).filter(|life| life.id == pd);
        if life.is_some_and(|life| life.placement.streams.remove(&stream).is_some()) {
            self.pd_input(pd, Input::StreamClosed { stream });
        }
    }

    /// PD ends a stream.
    pub(super) fn pd_closes(&mut self, pd: LifeId, stream: StreamId) {
        let life = self.life_mut(pd.store).filter(|life| life.id == pd);
        let Some(from) = life.and_then(|life| life.placement.streams.remove(&stream)) else {
            return;
        };
        self.probe("pd: ends a heartbeat stream");
        let at = self.pd_way(Place::Store(pd.store), Place::Store(from.store));
        let at = at.unwrap_or_else(|noticed| noticed.unwrap_or(self.now() + KEEPALIVE));
        self.events.at(at, Event::StreamEnds { life: from, stream });
    }

    /// A store learns that its stream has ended.
    pub(super) fn stream_ends(&mut self, id: LifeId, stream: StreamId) {
        let now = self.now();
        let clock = self.nodes[&id.store].clock.mono(now);
        let Some(reporter) = self.reporter(id) else {
            return;
        };
        let Some(ended) = reporter.stream.take_if(|open| open.id == stream) else {
            return;
        };
        // When it was opened it was decided when it may be again.
        let pause = reporter.backoff.due(clock);
        self.pd_guessed_wrong(Place::Store(id.store), ended.pd.store);
        self.reopen_later(id, pause);
    }

    /// The process is gone: streams to its PD end.
    pub(super) fn hang_up_streams(&mut self, id: LifeId) {
        let now = self.now();
        let open = self.nodes.values().filter_map(|node| {
            let life = node.life.as_ref()?;
            let stream = life.reporter.stream?;
            (stream.pd == id).then_some((life.id, stream.id))
        });
        for (life, stream) in open.collect::<Vec<_>>() {
            let noticed = self.net.lost(now).noticed;
            let at = noticed.unwrap_or(now + KEEPALIVE);
            self.events.at(at, Event::StreamEnds { life, stream });
        }
    }

    // ---- instructions ----

    /// PD tells a store what to do with a region.
    pub(super) fn instruct(
        &mut self,
        pd: LifeId,
        stream: StreamId,
        mut instruction: RegionHeartbeatResponse,
    ) {
        let life = self.life(pd.store).filter(|life| life.id == pd);
        let Some(to) = life.and_then(|life| life.placement.streams.get(&stream).copied()) else {
            return;
        };
        if self.world.plants.service == Some(Service::OperatorTakesVoter) {
            self.take_a_voter(&mut instruction);
        }
        self.note(format_args!("PD of store {}: {instruction:?}", pd.store));
        if let Some(rule) = self.replicas_wanted(pd.store) {
            let mut oracle = self.oracle.lock();
            oracle.pd_instructs(pd.store, &rule, &instruction);
        }
        // One that is lost comes again after a later heartbeat.
        if let Ok(at) = self.pd_way(Place::Store(pd.store), Place::Store(to.store)) {
            let instruction = Box::new(instruction);
            let event = Event::Instruction {
                life: to,
                stream,
                instruction,
            };
            self.events.at(at, event);
        }
    }

    /// Where that bug is planted: what should add a learner removes a voter.
    fn take_a_voter(&self, asked: &mut RegionHeartbeatResponse) {
        let leader = asked.target_peer.map_or(0, |peer| peer.id);
        let oracle = self.oracle.lock();
        let region = oracle.model.at_epoch(asked.region_id, asked.region_epoch);
        let mut peers = region.into_iter().flat_map(|region| &region.peers);
        let voter = peers.find(|peer| peer.role() == PeerRole::Voter && peer.id != leader);
        if let (Some(voter), Some(change)) = (voter, &mut asked.change_peer)
            && change.change_type() == ConfChangeType::AddLearnerNode
        {
            change.peer = Some(*voter);
            change.set_change_type(ConfChangeType::RemoveNode);
        }
    }

    /// A store hears what PD wants.
    pub(super) fn instructed(
        &mut self,
        id: LifeId,
        stream: StreamId,
        instruction: RegionHeartbeatResponse,
    ) {
        let mode = self.world.mode;
        let Some(life) = self.life(id.store).filter(|life| life.id == id) else {
            return;
        };
        if life.reporter.stream.is_none_or(|open| open.id != stream) {
            return;
        }
        let region = instruction.region_id;
        let input = match Instruction::read(&instruction, &life.runtime.delegates) {
            None => return,
            Some(Instruction::Split { keys }) => {
                self.probe("pd: tells a region to split");
                let mut keys: Vec<_> = keys.iter().filter_map(|key| mode.boundary(key)).collect();
                keys.sort_unstable();
                keys.dedup();
                PeerInput::Split {
                    context: None,
                    keys,
                    answer: Answer::new(|_| {}),
                }
            }
            Some(Instruction::Transfer { to }) => {
                self.probe("pd: tells a region to be led elsewhere");
                PeerInput::Transfer { to }
            }
            Some(Instruction::Members { epoch, changes }) => {
                self.probe("pd: tells a region to change its members");
                if self.world.plants.service == Some(Service::OperatorsUnheard) {
                    return;
                }
                return self.ask_members(id, region, epoch, changes);
            }
            Some(Instruction::Merge { epoch, target }) => PeerInput::Merge {
                epoch,
                target,
                answer: Answer::new(|_| {}),
            },
        };
        let input = RaftInput::Peer(input);
        if let Some(life) = self.life(id.store) {
            // PD asks again if it still wants it.
            let _ = life.runtime.raft.send(region, input);
        }
    }
}

/// What a store shows in a report leaves it, whether or not it arrives.
pub(super) fn shown(task: &PdTask) -> &[Region] {
    match task {
        PdTask::RegionHeartbeat(heartbeat) => heartbeat.region.as_slice(),
        PdTask::ReportSplit { regions } => regions,
        _ => &[],
    }
}
