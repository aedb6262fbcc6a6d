//! Changes of durable metadata, one at a time: each is planned on what is committed, proposed, and
//! answered when it is applied.

use std::collections::VecDeque;

use flotilla_proto::keys::KeyMode;

use crate::call::{Call, Request, Response, calls};
use crate::effect::{Event, RequestToken};
use crate::leading::Leading;
use crate::limits::CHANGES_MAX;
use crate::records::Mod;
use crate::reply::{Answer, Cx, Reply};
use crate::status::{Code, Status};

/// Something that changes rows of the meta region.
#[derive(Debug)]
pub(crate) enum Change {
    /// A call.
    Request(RequestToken, Request),
    /// The boundaries of a keyspace are split.
    KeyspaceReady(u32),
    /// A store that was to be emptied holds nothing any more.
    Bury(u64),
}

/// A planned change with the answer to be given once it is durable.
#[derive(Debug)]
pub(crate) struct Plan<R> {
    pub(crate) mods: Vec<Mod>,
    pub(crate) response: R,
    pub(crate) then: Vec<Then>,
}

/// What follows from an applied change.
#[derive(Debug)]
pub(crate) enum Then {
    /// Tell.
    Event(Event),
    /// The first region is known.
    Bootstrapped(Box<flotilla_proto::metapb::Region>),
    /// The key mode is decided.
    Mode(KeyMode),
    /// Split a keyspace's boundaries, then answer.
    SplitKeyspace(u32),
    /// A keyspace can be loaded.
    KeyspaceReady(u32),
    /// Start what waited for the key mode.
    Split(Box<Request>),
}

impl<R> Plan<R> {
    /// A change of nothing.
    pub(crate) fn answer(response: R) -> Self {
        Self {
            mods: Vec::new(),
            response,
            then: Vec::new(),
        }
    }

    pub(crate) fn change(response: R, mods: Vec<Mod>) -> Self {
        Self {
            mods,
            response,
            then: Vec::new(),
        }
    }

    pub(crate) fn then(mut self, then: Then) -> Self {
        self.then.push(then);
        self
    }
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    queue: VecDeque<Change>,
    /// What follows when the one open proposal is applied.
    in_flight: Option<Done>,
}

/// How a planned change ends.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) token: Option<RequestToken>,
    /// `None`: the answer comes by one of `then`.
    pub(crate) response: Option<Response>,
    pub(crate) then: Vec<Then>,
}

impl Changes {
    /// Nothing waits for its turn.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.queue.is_empty()
    }

    pub(crate) fn end(self, cx: &mut Cx<'_>) -> usize {
        let proposed = self.in_flight.and_then(|done| done.token);
        let mut count = 0;
        if let Some(token) = proposed {
            cx.refuse(token, Status::outcome_unknown());
            count += 1;
        }
        for change in self.queue {
            if let Change::Request(token, _) = change {
                cx.refuse(token, Status::not_leader());
                count += 1;
            }
        }
        count
    }
}

impl Leading {
    /// Queues a change.
    pub(crate) fn change(&mut self, cx: &mut Cx<'_>, change: Change) {
        match change {
            Change::Request(token, _) if self.changes.queue.len() >= CHANGES_MAX => {
                let status =
                    Status::new(Code::ResourceExhausted, "too many changes of metadata wait");
                cx.refuse(token, status);
            }
            change => {
                self.changes.queue.push_back(change);
                self.next_change(cx);
            }
        }
    }

    pub(crate) fn change_applied(&mut self, cx: &mut Cx<'_>) {
        if let Some(done) = self.changes.in_flight.take() {
            self.finish(cx, done);
        }
        self.next_change(cx);
    }

    pub(crate) fn change_refused(&mut self, cx: &mut Cx<'_>, status: &Status) {
        if let Some(done) = self.changes.in_flight.take() {
            if let Some(token) = done.token {
                cx.refuse(token, status.clone());
            }
            for then in done.then {
                if let Then::KeyspaceReady(id) = then {
                    self.unsplit.try_again(id);
                }
            }
        }
        self.next_change(cx);
    }

    fn next_change(&mut self, cx: &mut Cx<'_>) {
        while self.changes.in_flight.is_none()
            && let Some(change) = self.changes.queue.pop_front()
        {
            let (mods, done) = self.plan(cx, change);
            if mods.is_empty() {
                self.finish(cx, done);
            } else {
                self.propose(cx, mods);
                self.changes.in_flight = Some(done);
            }
        }
    }

    fn plan(&self, cx: &Cx<'_>, change: Change) -> (Vec<Mod>, Done) {
        let (token, request) = match change {
            Change::Request(token, request) => (token, request),
            Change::KeyspaceReady(id) => return self.plan_keyspace_ready(id),
            Change::Bury(store) => return self.plan_bury(store),
        };
        match request {
            Request::Bootstrap(request) => {
                done::<calls::Bootstrap>(cx, token, self.plan_bootstrap(&request))
            }
            Request::PutStore(request) => {
                done::<calls::PutStore>(cx, token, self.plan_put_store(cx, &request))
            }
            Request::PutClusterConfig(request) => {
                done::<calls::PutClusterConfig>(cx, token, self.plan_cluster_config(&request))
            }
            Request::UpdateGCSafePoint(request) => done::<calls::UpdateGCSafePoint>(
                cx,
                token,
                self.plan_safe_point(request.safe_point),
            ),
            Request::UpdateServiceGCSafePoint(request) => done::<calls::UpdateServiceGCSafePoint>(
                cx,
                token,
                self.plan_service(cx.wall, &request),
            ),
            Request::UpdateKeyspaceState(request) => done::<calls::UpdateKeyspaceState>(
                cx,
                token,
                self.plan_keyspace_state(cx.wall, &request),
            ),
            Request::StoreGlobalConfig(request) => {
                let (mods, response, then) = self.plan_global_config(&request);
                whole(token, mods, Some(response), then)
            }
            Request::SetStoreState(request) => self.plan_store_state(cx, token, *request),
            Request::SetConfig(request) => self.plan_config(cx, token, &request),
            Request::SetRules(request) => self.plan_set_rules(token, &request),
            Request::DeleteRule(request) => self.plan_delete_rule(token, &request),
            Request::ChangeScheduler(request) => self.plan_scheduler(token, &request),
            Request::CreateKeyspace(request) => {
                match self.plan_create_keyspace(cx.wall, *request) {
                    Ok(plan) => whole(token, plan.mods, None, plan.then),
                    Err(error) => {
                        let answer = crate::internal::CreatedKeyspace(Err(error));
                        whole(
                            token,
                            Vec::new(),
                            Some(calls::CreateKeyspace::answer(answer)),
                            Vec::new(),
                        )
                    }
                }
            }
            request => self.plan_split_mode(token, request),
        }
    }

    fn finish(&mut self, cx: &mut Cx<'_>, done: Done) {
        if let (Some(token), Some(response)) = (done.token, done.response) {
            cx.answer(token, response);
        }
        for then in done.then {
            match then {
                Then::Event(event) => cx.event(event),
                Then::Bootstrapped(region) => self.bootstrapped(cx, *region),
                Then::Mode(mode) => self.mode_decided(cx, mode),
                Then::SplitKeyspace(id) => {
                    if let Some(token) = done.token {
                        self.await_keyspace(cx, token, id, None);
                    }
                }
                Then::KeyspaceReady(id) => self.keyspace_ready(cx, id),
                Then::Split(request) => {
                    if let Some(token) = done.token {
                        self.split_regions(cx, token, *request);
                    }
                }
            }
        }
    }
}

/// The end of a change with everything spelled out.
pub(crate) fn whole(
    token: RequestToken,
    mods: Vec<Mod>,
    response: Option<Response>,
    then: Vec<Then>,
) -> (Vec<Mod>, Done) {
    let done = Done {
        token: Some(token),
        response,
        then,
    };
    (mods, done)
}

/// The end of a change that answers a call with a header.
fn done<C>(cx: &Cx<'_>, token: RequestToken, plan: Answer<Plan<C::Response>>) -> (Vec<Mod>, Done)
where
    C: Call,
    C::Response: Reply,
{
    match plan {
        Ok(plan) => whole(
            token,
            plan.mods,
            Some(cx.response::<C>(Ok(plan.response))),
            plan.then,
        ),
        Err(refusal) => whole(
            token,
            Vec::new(),
            Some(cx.response::<C>(Err(refusal))),
            Vec::new(),
        ),
    }
}
