//! Carrying out the commands of `flotilla-kv`.
//!
//! A read under a valid lease never leaves the caller's thread: delegate, state, delegate again
//! (contracts: C17). A write takes its latches, goes to the region's mailbox and comes back through
//! an answer that gives the latches back, so a client that goes away changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flotilla_engine::rocks::{RocksSnapshot, RocksState};
use flotilla_engine::{EngineError, StateReader, StateStore};
use flotilla_kv::{
    Counted, Failure, KeyMode, Kind, Lock, Outcome, Proposal, Read, ReadWrite, Scope, Seen, View,
    Write, region_error, required_mode,
};
use flotilla_proto::kvrpcpb::Context;
use flotilla_proto::metapb::Region;
use flotilla_proto::store::Mod;
use flotilla_raftstore::effects::RaftInput;
use flotilla_raftstore::{
    Answer, Begin, Load, LocalRead, PeerInput, ReadContext, ReadPermit, RequestError, Serving,
    Touched, WriteProposal,
};
use flotilla_router::SendError;
use tokio::sync::{Semaphore, oneshot};
use tonic::Status;

use super::deadline::{Deadline, Passed};
use super::envelope::{self, Stop};
use crate::net::{Client, NoRoom, Reserved};
use crate::placement::Placement;
use crate::store::{Held, Store, clock};

/// Requests that may wait for room in a mailbox at once; further ones are refused as busy.
const DELAYED_MAX: usize = 4_096;
/// How long a request waits for room in a mailbox in all (contracts: C25) ...
const DELAY_MAX: Duration = Duration::from_millis(100);
/// ... looking again at first after this, then after twice as long each time.
const DELAY_FIRST: Duration = Duration::from_millis(1);
/// Scans that run at once; further ones wait. Each may hold an answer of
/// [`flotilla_kv::limits::ANSWER_BYTES_MAX`].
const SCANS_MAX: usize = 8;
/// How often a read is done again because its region changed meanwhile.
const READ_ATTEMPTS: usize = 10;

/// Carries out commands on one store.
pub struct Kv {
    store: Arc<Store>,
    placement: Placement,
    delayed: AtomicUsize,
    scans: Arc<Semaphore>,
}

impl std::fmt::Debug for Kv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kv")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

/// Where a request comes from and until when it is worth working on.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) deadline: Deadline,
    /// Whose unread answers count; `None` where they are bounded otherwise.
    pub(super) client: Option<Client>,
}

/// A response, and its memory until it is sent.
pub(super) type Served<A> = Result<(A, Option<Reserved>), Status>;

/// How a command reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// One key, at the newest state.
    Point,
    /// Several rows at one moment, few enough for the caller's thread.
    Few,
    /// More than that: on a thread of its own.
    Many,
}

/// Under what a read goes on.
enum Grant {
    /// The leader's lease.
    Lease(LocalRead),
    /// The peer's permit.
    Permit(ReadPermit),
}

impl Grant {
    fn region(&self) -> &Region {
        match self {
            Self::Lease(read) => &read.serving.region,
            Self::Permit(permit) => &permit.region,
        }
    }

    fn term(&self) -> u64 {
        match self {
            Self::Lease(read) => read.serving.term,
            Self::Permit(permit) => permit.term,
        }
    }
}

impl Kv {
    /// Commands on `store`, whose key mode `placement` knows.
    pub fn new(store: Arc<Store>, placement: Placement) -> Self {
        Self {
            store,
            placement,
            delayed: AtomicUsize::new(0),
            scans: Arc::new(Semaphore::new(SCANS_MAX)),
        }
    }

    /// The store.
    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(super) fn admit(&self, context: Option<&Context>) -> Result<ReadContext, Stop> {
        envelope::admit(context, self.store.ids.cluster_id, self.store.ids.store_id)
    }

    fn state(&self) -> &RocksState {
        &self.store.runtime.state
    }

    /// The storage failed: the store ends, and nothing is answered from it.
    fn broken(&self, error: EngineError) -> Stop {
        self.store.fatal.engine("serving a request", error);
        region_error::closing().into()
    }

    /// Why a command was not done, in the words of the protocol.
    pub(super) fn stop(&self, failure: Failure) -> Stop {
        match failure {
            Failure::Region(error) => Stop::Region(error),
            Failure::Refused(refusal) => Stop::Refused(refusal),
            Failure::Engine(error) => self.broken(error),
        }
    }

    /// What a command's end is to the client.
    fn answer<A: flotilla_kv::Answer>(&self, result: Result<A, Failure>) -> Result<A, Stop> {
        match flotilla_kv::answer(result) {
            Ok(Outcome::Response(response)) => Ok(response),
            Ok(Outcome::Status(refusal)) => Err(envelope::status(&refusal).into()),
            Err(error) => Err(self.broken(error)),
        }
    }

    /// The cluster's key mode; the first request that needs one decides it (contracts: C38).
    pub(super) async fn mode(
        &self,
        context: Option<&Context>,
        kind: Kind,
        deadline: Deadline,
    ) -> Result<KeyMode, Stop> {
        match self.store.mode() {
            Some(mode) => Ok(mode),
            None => Box::pin(self.decide_mode(context, kind, deadline)).await,
        }
    }

    async fn decide_mode(
        &self,
        context: Option<&Context>,
        kind: Kind,
        deadline: Deadline,
    ) -> Result<KeyMode, Stop> {
        let wanted = required_mode(context, kind).map_err(Stop::Refused)?;
        let decided = deadline.bound(self.placement.decide_mode(wanted)).await;
        match decided.map_err(passed)? {
            Ok(mode) => {
                self.store.set_mode(mode);
                Ok(mode)
            }
            Err(error) => Err(region_error::server_is_busy(&error.to_string(), 0).into()),
        }
    }

    // ---- reads ----

    /// Serves a read.
    pub(super) async fn read<C>(
        &self,
        command: C,
        origin: &Origin,
        reach: Reach,
    ) -> Served<C::Response>
    where
        C: Read + Clone + Send + Sync + 'static,
        C::Response: prost::Message + Send + 'static,
    {
        finish(self.try_read(command, origin, reach).await)
    }

    async fn try_read<C>(
        &self,
        command: C,
        origin: &Origin,
        reach: Reach,
    ) -> Result<(C::Response, Option<Reserved>), Stop>
    where
        C: Read + Clone + Send + Sync + 'static,
        C::Response: prost::Message + Send + 'static,
    {
        let context = self.admit(command.context())?;
        let mut reserved = None;
        for _ in 0..READ_ATTEMPTS {
            let grant = self.grant(&context, origin.deadline).await?;
            let mode = self
                .mode(command.context(), Kind::Raw, origin.deadline)
                .await?;
            let scope = OwnedScope {
                mode,
                region: grant.region(),
                now: self.store.ttl.now(clock::wall()),
            };
            let noting = self.count(&grant, Load::begin_read).unwrap_or_default();
            let looked = Look {
                deadline: origin.deadline,
                reach,
                noting,
            };
            let (result, seen) = self.run(&command, &scope, looked).await?;
            if !self.confirmed(&grant) {
                continue;
            }
            self.counted(&grant, seen);
            let response = self.answer(result)?;
            let Some(client) = &origin.client else {
                return Ok((response, None));
            };
            let bytes = prost::Message::encoded_len(&response) as u64;
            if reserved.is_some() {
                return Ok((response, reserved));
            }
            if let Ok(reserved) = client.try_reserve(bytes) {
                return Ok((response, reserved));
            }
            // Too many answers are unread: this one must not wait for that in memory.
            drop(response);
            let room = Box::pin(origin.deadline.bound(client.reserve(bytes)));
            reserved = Some(room.await.map_err(passed)?);
        }
        Err(region_error::server_is_busy("the region changes too often to be read", 0).into())
    }

    /// The right to read the region as it is from now on.
    async fn grant(&self, context: &ReadContext, deadline: Deadline) -> Result<Grant, Stop> {
        let refused = |error| Stop::from(envelope::region_error(error, context.region));
        match self
            .store
            .runtime
            .delegates
            .begin(context, clock::mono())
            .map_err(refused)?
        {
            Begin::Local(read) => Ok(Grant::Lease(read)),
            Begin::Ask => Box::pin(self.ask(context, deadline)).await,
        }
    }

    async fn ask(&self, context: &ReadContext, deadline: Deadline) -> Result<Grant, Stop> {
        let (answer, permit) = answer_channel();
        let input = PeerInput::Read {
            context: *context,
            answer,
        };
        self.deliver(context.region, input, deadline).await?;
        let permit = deadline.bound(permit).await.map_err(passed)?;
        permit
            .map_err(closing)?
            .map(Grant::Permit)
            .map_err(|error| envelope::region_error(error, context.region).into())
    }

    /// Whether what was read under `grant` may be answered.
    fn confirmed(&self, grant: &Grant) -> bool {
        match grant {
            Grant::Lease(read) => read.confirm(clock::mono()),
            Grant::Permit(permit) => self.store.runtime.delegates.confirm(permit),
        }
    }

    /// Counts at the region that `grant` reads, if it is still there.
    fn count<T>(&self, grant: &Grant, with: impl FnOnce(&Load) -> T) -> Option<T> {
        match grant {
            Grant::Lease(read) => Some(with(read.load())),
            Grant::Permit(permit) => {
                let delegates = &self.store.runtime.delegates;
                delegates.counted(permit.region.id, with).ok()
            }
        }
    }

    fn counted(&self, grant: &Grant, seen: Seen) {
        let touched = seen.touched.map(|(first, last)| Touched { first, last });
        self.count(grant, |load| load.end_read(seen.keys, seen.bytes, touched));
    }

    async fn run<C>(
        &self,
        command: &C,
        scope: &OwnedScope<'_>,
        how: Look,
    ) -> Result<(Result<C::Response, Failure>, Seen), Stop>
    where
        C: Read + Clone + Send + Sync + 'static,
        C::Response: Send + 'static,
    {
        match how.reach {
            Reach::Point => Ok(look(command, scope.scope(), self.state(), how)),
            Reach::Few => Ok(look(command, scope.scope(), &self.state().snapshot(), how)),
            Reach::Many => Box::pin(self.run_elsewhere(command.clone(), scope, how)).await,
        }
    }

    /// Reads on a thread of its own, when it is this read's turn.
    async fn run_elsewhere<C>(
        &self,
        command: C,
        scope: &OwnedScope<'_>,
        how: Look,
    ) -> Result<(Result<C::Response, Failure>, Seen), Stop>
    where
        C: Read + Send + 'static,
        C::Response: Send + 'static,
    {
        let state = Arc::clone(&self.store.runtime.state);
        let (mode, region, now) = (scope.mode, scope.region.clone(), scope.now);
        let turn = how.deadline.bound(Arc::clone(&self.scans).acquire_owned());
        let turn = turn.await.map_err(passed)?;
        let work = move || {
            // Kept by the scan itself: it goes on when its client has gone.
            let _turn = turn;
            let snapshot: RocksSnapshot = state.snapshot();
            let region = &region;
            look(&command, Scope { mode, region, now }, &snapshot, how)
        };
        // It fails only when the runtime ends or the scan panics, which ends the process.
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| region_error::closing().into())
    }

    // ---- writes ----

    /// Serves a write that reads nothing. `frees`: it makes room, and is served on a full disk.
    pub(super) async fn write<C>(
        &self,
        command: C,
        origin: &Origin,
        frees: bool,
    ) -> Served<C::Response>
    where
        C: Write + Send,
        C::Response: Send,
    {
        finish(
            self.try_write(command, origin, frees)
                .await
                .map(|response| (response, None)),
        )
    }

    async fn try_write<C>(
        &self,
        command: C,
        origin: &Origin,
        frees: bool,
    ) -> Result<C::Response, Stop>
    where
        C: Write + Send,
        C::Response: Send,
    {
        let Admitted {
            context,
            serving,
            mode,
            held,
        } = self
            .admit_write(command.context(), || command.lock(), origin, frees)
            .await?;
        let now = self.store.ttl.now(clock::wall());
        let plan = command.plan(&Scope {
            mode,
            region: &serving.region,
            now,
        });
        let Proposal { mods, response } = self.planned(plan)?;
        if !mods.is_empty() {
            self.propose(context, serving.term, mods, held, origin.deadline)
                .await?;
        }
        Ok(response)
    }

    /// Serves a write that depends on what it reads.
    pub(super) async fn read_write<C>(
        &self,
        command: C,
        origin: &Origin,
        frees: bool,
    ) -> Served<C::Response>
    where
        C: ReadWrite + Send,
        C::Response: prost::Message + Send,
    {
        finish(self.try_read_write(command, origin, frees).await)
    }

    async fn try_read_write<C>(
        &self,
        command: C,
        origin: &Origin,
        frees: bool,
    ) -> Result<(C::Response, Option<Reserved>), Stop>
    where
        C: ReadWrite + Send,
        C::Response: prost::Message + Send,
    {
        let Admitted {
            context,
            mode,
            held,
            ..
        } = self
            .admit_write(command.context(), || command.lock(), origin, frees)
            .await?;
        for _ in 0..READ_ATTEMPTS {
            let grant = self.grant(&context, origin.deadline).await?;
            let scope = Scope {
                mode,
                region: grant.region(),
                now: self.store.ttl.now(clock::wall()),
            };
            let expired = || origin.deadline.passed();
            let noting = self.count(&grant, Load::begin_read).unwrap_or_default();
            let reader = Counted::new(self.state(), noting);
            let decision = command.decide(&View {
                scope,
                reader: &reader,
                expired: &expired,
            });
            if !self.confirmed(&grant) {
                continue;
            }
            self.counted(&grant, reader.seen());
            let Proposal { mods, response } = self.planned(decision)?;
            // Before anything is done: what is done must be answered.
            let reserved = match &origin.client {
                None => None,
                Some(client) => client
                    .try_reserve(prost::Message::encoded_len(&response) as u64)
                    .map_err(|NoRoom| unread())?,
            };
            if !mods.is_empty() {
                self.propose(context, grant.term(), mods, held, origin.deadline)
                    .await?;
            }
            return Ok((response, reserved));
        }
        Err(region_error::server_is_busy("the region changes too often to be read", 0).into())
    }

    /// What every write must pass before it is worth a look.
    async fn admit_write(
        &self,
        sent: Option<&Context>,
        lock: impl FnOnce() -> Lock,
        origin: &Origin,
        frees: bool,
    ) -> Result<Admitted, Stop> {
        let context = self.admit(sent)?;
        let serving = self.leading(&context)?;
        let mode = self.mode(sent, Kind::Raw, origin.deadline).await?;
        self.check_disk(frees)?;
        let held = self.latch(lock(), origin.deadline).await?;
        Ok(Admitted {
            context,
            serving,
            mode,
            held,
        })
    }

    /// What the peer says of itself, if it leads and the request is for it.
    pub(super) fn leading(&self, context: &ReadContext) -> Result<Arc<Serving>, Stop> {
        let refused = |error| Stop::from(envelope::region_error(error, context.region));
        let serving = self
            .store
            .runtime
            .delegates
            .serving(context.region)
            .map_err(refused)?;
        serving.check(context).map_err(refused)?;
        Ok(serving)
    }

    fn check_disk(&self, frees: bool) -> Result<(), Stop> {
        match self.store.disk.refusal() {
            Some(why) if !frees => {
                Err(region_error::disk_full(self.store.ids.store_id, &why).into())
            }
            _ => Ok(()),
        }
    }

    async fn latch(&self, lock: Lock, deadline: Deadline) -> Result<Held, Stop> {
        deadline
            .bound(self.store.applied.acquire(lock))
            .await
            .map_err(passed)
    }

    /// A plan that failed proposes nothing, and its failure is the answer.
    fn planned<A: flotilla_kv::Answer>(
        &self,
        plan: Result<Proposal<A>, Failure>,
    ) -> Result<Proposal<A>, Stop> {
        match plan {
            Ok(proposal) => Ok(proposal),
            Err(failure) => Ok(Proposal {
                mods: Vec::new(),
                response: self.answer(Err(failure))?,
            }),
        }
    }

    /// Proposes `mods` and waits until they are applied. `held` is given back with the answer,
    /// whoever is still there to hear it.
    async fn propose(
        &self,
        context: ReadContext,
        term: u64,
        mods: Vec<Mod>,
        held: Held,
        deadline: Deadline,
    ) -> Result<(), Stop> {
        let region = context.region;
        let (tell, told) = oneshot::channel();
        let answer = Answer::new(move |result: Result<(), RequestError>| {
            match &result {
                Err(RequestError::Undetermined { .. }) => held.detain(region, term),
                _ => drop(held),
            }
            // A client that went away does not hear it.
            let _ = tell.send(result);
        });
        let proposal = WriteProposal {
            context,
            read_term: Some(term),
            mods,
            answer,
        };
        self.deliver(region, PeerInput::Write(proposal), deadline)
            .await?;
        let result = told.await.map_err(closing)?;
        result.map_err(|error| {
            if matches!(error, RequestError::Busy { .. }) {
                self.store.metrics.busy.increment(1);
            }
            Stop::from(envelope::region_error(error, region))
        })
    }

    /// Puts `input` into the region's mailbox; if that is full, waits a little for room.
    pub(super) async fn deliver(
        &self,
        region: u64,
        input: PeerInput,
        deadline: Deadline,
    ) -> Result<(), Stop> {
        match self.store.runtime.raft.send(region, RaftInput::Peer(input)) {
            Ok(()) => Ok(()),
            Err(SendError::Closed(_)) => Err(region_error::region_not_found(region).into()),
            Err(SendError::Full(input)) => {
                Box::pin(self.deliver_later(region, input, deadline)).await
            }
        }
    }

    async fn deliver_later(
        &self,
        region: u64,
        mut input: RaftInput,
        deadline: Deadline,
    ) -> Result<(), Stop> {
        let _delayed = Delayed::new(&self.delayed).ok_or_else(|| self.busy())?;
        let (mut waited, mut pause) = (Duration::ZERO, DELAY_FIRST);
        while waited < DELAY_MAX {
            let rest = pause.min(DELAY_MAX - waited);
            deadline
                .bound(tokio::time::sleep(rest))
                .await
                .map_err(passed)?;
            waited += rest;
            pause *= 2;
            input = match self.store.runtime.raft.send(region, input) {
                Ok(()) => return Ok(()),
                Err(SendError::Closed(_)) => {
                    return Err(region_error::region_not_found(region).into());
                }
                Err(SendError::Full(input)) => input,
            };
        }
        Err(self.busy())
    }

    fn busy(&self) -> Stop {
        self.store.metrics.busy.increment(1);
        region_error::server_is_busy("too many requests wait for the region", 0).into()
    }
}

/// A write that may go on.
struct Admitted {
    context: ReadContext,
    serving: Arc<Serving>,
    mode: KeyMode,
    held: Held,
}

/// A [`Scope`] that can be taken to another thread.
struct OwnedScope<'a> {
    mode: KeyMode,
    region: &'a Region,
    now: u64,
}

impl OwnedScope<'_> {
    fn scope(&self) -> Scope<'_> {
        Scope {
            mode: self.mode,
            region: self.region,
            now: self.now,
        }
    }
}

/// How a look at the state is done.
#[derive(Clone, Copy)]
struct Look {
    deadline: Deadline,
    reach: Reach,
    /// Its keys are wanted, see [`Load::begin_read`].
    noting: bool,
}

fn look<C: Read>(
    command: &C,
    scope: Scope<'_>,
    reader: &impl StateReader,
    how: Look,
) -> (Result<C::Response, Failure>, Seen) {
    let reader = Counted::new(reader, how.noting);
    let result = command.read(&View {
        scope,
        reader: &reader,
        expired: &|| how.deadline.passed(),
    });
    (result, reader.seen())
}

/// One of at most [`DELAYED_MAX`].
struct Delayed<'a>(&'a AtomicUsize);

impl<'a> Delayed<'a> {
    fn new(count: &'a AtomicUsize) -> Option<Self> {
        if count.fetch_add(1, Ordering::Relaxed) < DELAYED_MAX {
            Some(Self(count))
        } else {
            count.fetch_sub(1, Ordering::Relaxed);
            None
        }
    }
}

impl Drop for Delayed<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer that arrives through a channel.
pub(super) fn answer_channel<T: Send + 'static>()
-> (Answer<T>, oneshot::Receiver<Result<T, RequestError>>) {
    let (tell, told) = oneshot::channel();
    let answer = Answer::new(move |result| {
        // Whoever asked may be gone.
        let _ = tell.send(result);
    });
    (answer, told)
}

pub(super) fn passed(_: Passed) -> Stop {
    region_error::deadline_exceeded().into()
}

fn unread() -> Stop {
    region_error::server_is_busy("too many bytes of answers are not read yet", 0).into()
}

/// The machine that had the answer is gone, and did not say why: the process is stopping.
pub(super) fn closing(_: oneshot::error::RecvError) -> Stop {
    region_error::closing().into()
}

/// What stopped a command, told in its response where that has room.
pub(super) fn finish<A: flotilla_kv::Answer>(
    result: Result<(A, Option<Reserved>), Stop>,
) -> Served<A> {
    match result {
        Ok(served) => Ok(served),
        Err(Stop::Region(error)) => Ok((A::region_error(*error), None)),
        Err(Stop::Refused(refusal)) => match A::refused(&refusal) {
            Some(response) => Ok((response, None)),
            None => Err(envelope::status(&refusal)),
        },
        Err(Stop::Status(status)) => Err(status),
    }
}
