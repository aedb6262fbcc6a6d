//! The machine: who is answered by whom, and what happens when leadership comes and goes.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_proto::clock::{Mono, Wall};
use flotilla_proto::pdpb::RegionHeartbeatRequest;

use crate::api::{self, Begun, HttpRequest, Looks, Render};
use crate::call::{Call, Request, Response, calls};
use crate::effect::{Effect, Event, Input, Outcome, ProposalToken, RequestToken, StreamId};
use crate::leading::Leading;
use crate::members;
use crate::oracle::OracleCommand;
use crate::records::{Durable, RecordError};
use crate::reply::Cx;
use crate::schedule::Schedule;
use crate::status::Status;

/// What the machine knows without any row of the meta region.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster this node belongs to; never 0.
    pub cluster_id: u64,
    /// This node's store, which is also its member id; never 0.
    pub store_id: u64,
    /// What clients dial to reach this node: `host:port`.
    pub advertise_addr: String,
    /// Clients reach members by `https` instead of `http`.
    pub tls: bool,
    /// How regions are moved.
    pub schedule: Schedule,
}

/// The placement driver of one node. See the crate's description for what its driver owes it.
#[derive(Debug)]
pub struct Pd {
    config: Config,
    /// Proposals made so far: the source of their tokens.
    proposals: u64,
    leading: Option<Box<Leading>>,
    /// Requests of the JSON API that became another call, and who puts its answer into JSON.
    http: BTreeMap<RequestToken, Render>,
}

impl Pd {
    /// A machine that does not lead yet.
    ///
    /// # Panics
    /// If an id in `config` is 0, which the wire takes for "none".
    pub fn new(config: Config) -> Self {
        assert!(
            config.cluster_id != 0 && config.store_id != 0,
            "ids start at 1: {config:?}"
        );
        Self {
            config,
            proposals: 0,
            leading: None,
            http: BTreeMap::new(),
        }
    }

    /// The term this node serves in, while it does.
    pub fn term(&self) -> Option<u64> {
        self.leading.as_ref().map(|leading| leading.term)
    }

    /// The committed rows of the meta region, while this node serves.
    pub fn durable(&self) -> Option<&Durable> {
        self.leading.as_ref().map(|leading| &leading.durable)
    }

    /// Takes one input. Same state and same inputs give the same effects in the same order.
    pub fn handle(&mut self, now: Mono, wall: Wall, input: Input, effects: &mut Vec<Effect>) {
        let Self {
            config,
            proposals,
            leading,
            http,
        } = self;
        let earlier = effects.len();
        let mut cx = Cx {
            now,
            wall,
            config,
            proposals,
            out: effects,
        };
        match input {
            Input::Lead { term, records } => lead(leading, &mut cx, term, &records),
            Input::Retire => retire(leading, &mut cx),
            Input::Request {
                token,
                request: Request::Http(request),
            } => on_http(leading, &mut cx, http, token, &request),
            Input::Request { token, request } => on_request(leading, &mut cx, token, request),
            Input::Committed { token, outcome } => on_committed(leading, &mut cx, token, outcome),
            Input::RegionHeartbeat { stream, heartbeat } => {
                on_heartbeat(leading, &mut cx, stream, *heartbeat);
            }
            Input::StreamClosed { stream } => {
                if let Some(leading) = leading {
                    leading.stream_closed(stream);
                }
            }
            Input::Tick => {
                if let Some(leading) = leading {
                    leading.tick(&mut cx);
                }
            }
        }
        for effect in &mut effects[earlier..] {
            if let Effect::Answer { token, response } = effect
                && let Some(render) = http.remove(token)
            {
                let answered = std::mem::replace(response, Response::Status(Status::not_leader()));
                *response = calls::Http::answer(render(answered));
            }
        }
    }
}

type Slot = Option<Box<Leading>>;

fn lead(slot: &mut Slot, cx: &mut Cx<'_>, term: u64, records: &[(Bytes, Bytes)]) {
    retire(slot, cx);
    let durable =
        Durable::load(records.iter().map(|(key, value)| (key, value))).and_then(|durable| {
            let (expected, found) = (cx.config.cluster_id, durable.cluster.cluster_id);
            if found == expected {
                Ok(durable)
            } else {
                Err(RecordError::OtherCluster { expected, found })
            }
        });
    match durable {
        Ok(durable) => {
            cx.event(Event::Led {
                term,
                stores: durable.stores.len(),
            });
            slot.insert(Box::new(Leading::new(
                term,
                durable,
                cx.now,
                cx.config.schedule,
            )))
            .begin(cx);
        }
        Err(error) => cx.out.push(Effect::Fatal(error)),
    }
}

/// Answers everything that waits: nothing it waits for will happen here.
fn retire(slot: &mut Slot, cx: &mut Cx<'_>) {
    let Some(leading) = slot.take() else { return };
    let term = leading.term;
    cx.out.push(Effect::Oracle(OracleCommand::Close));
    let waiting = leading.end(cx);
    cx.event(Event::Retired { term, waiting });
}

fn on_request(slot: &mut Slot, cx: &mut Cx<'_>, token: RequestToken, request: Request) {
    match (request, slot) {
        (Request::GetClusterInfo(_), _) => {
            cx.reply::<calls::GetClusterInfo>(token, Ok(members::cluster_info()))
        }
        (Request::GetMembers(_), None) => {
            let response = members::without_leader(cx.config);
            cx.reply::<calls::GetMembers>(token, Ok(response));
        }
        (_, None) => cx.refuse(token, Status::not_leader()),
        (request, Some(leading)) => match request.cluster_id() {
            Some(got) if got != cx.config.cluster_id => {
                cx.refuse(token, Status::cluster_mismatch(cx.config.cluster_id, got));
            }
            _ => leading.request(cx, token, request),
        },
    }
}

/// Answers what only looks; what changes something becomes the call that does.
fn on_http(
    slot: &mut Slot,
    cx: &mut Cx<'_>,
    http: &mut BTreeMap<RequestToken, Render>,
    token: RequestToken,
    request: &HttpRequest,
) {
    let Some(leading) = slot else {
        return cx.refuse(token, Status::not_leader());
    };
    match api::begin(&Looks { leading, cx }, request) {
        Begun::Answer(answer) => cx.answer(token, calls::Http::answer(answer)),
        Begun::Ask(request, render) => {
            http.insert(token, render);
            on_request(slot, cx, token, *request);
        }
    }
}

fn on_committed(slot: &mut Slot, cx: &mut Cx<'_>, token: ProposalToken, outcome: Outcome) {
    let Some(leading) = slot else { return };
    if !leading.owns(token) {
        return;
    }
    let result = match outcome {
        Outcome::Applied => leading.applied(cx, token),
        Outcome::Refused { why } => {
            leading.refused(cx, token, why);
            Ok(())
        }
        Outcome::Unknown => {
            let term = leading.term;
            retire(slot, cx);
            cx.out.push(Effect::Reload { term });
            return;
        }
    };
    if let Err(error) = result {
        retire(slot, cx);
        cx.out.push(Effect::Fatal(error));
    }
}

fn on_heartbeat(
    slot: &mut Slot,
    cx: &mut Cx<'_>,
    stream: StreamId,
    heartbeat: RegionHeartbeatRequest,
) {
    let got = heartbeat
        .header
        .as_ref()
        .map_or(0, |header| header.cluster_id);
    let status = match slot {
        None => Status::not_leader(),
        Some(_) if got != cx.config.cluster_id => {
            Status::cluster_mismatch(cx.config.cluster_id, got)
        }
        Some(leading) => return leading.heartbeat(cx, stream, heartbeat),
    };
    if let Some(leading) = slot {
        leading.stream_closed(stream);
    }
    cx.out.push(Effect::CloseStream { stream, status });
}
