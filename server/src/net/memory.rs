//! What connections may hold in memory: requests not answered yet, answers not sent yet.
//!
//! A request is counted by what came of it, an answer once it is made; both until the answer has
//! been written. A stream's requests are counted message by message.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::NetworkMetrics;

/// One connection may use this share (one part in so many) of what all may.
pub const CONNECTION_SHARE: u64 = 4;
/// The first bytes of a call and small answers are not counted: that would cost more than it
/// bounds. A client that leaves many small answers unread is found by the stall time-out.
pub(super) const FREE_BYTES: u64 = 16 << 10;
/// Answers are counted in units of so many bytes.
const UNIT_BYTES: u64 = 1 << 10;

/// Bytes in use, up to a bound.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicU64,
    max: u64,
}

impl Budget {
    pub(super) fn new(max: u64) -> Self {
        Self {
            used: AtomicU64::new(0),
            max,
        }
    }

    /// Takes `bytes` if they fit.
    fn take(&self, bytes: u64) -> bool {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if used > self.max {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        true
    }

    fn give_back(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        assert!(before >= bytes, "more memory given back than taken");
    }
}

/// Room for answers. Who does not fit waits in line.
#[derive(Debug)]
struct Room {
    free: Arc<Semaphore>,
    units: u32,
}

impl Room {
    fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX);
        Self {
            free: Arc::new(Semaphore::new(units as usize)),
            units,
        }
    }

    /// An answer above the bound counts as the bound: it is sent alone.
    fn units(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES))
            .unwrap_or(u32::MAX)
            .min(self.units)
    }

    fn try_take(&self, bytes: u64) -> Result<OwnedSemaphorePermit, NoRoom> {
        let free = Arc::clone(&self.free);
        free.try_acquire_many_owned(self.units(bytes))
            .map_err(|_| NoRoom)
    }

    async fn take(&self, bytes: u64) -> OwnedSemaphorePermit {
        let free = Arc::clone(&self.free);
        let taken = free.acquire_many_owned(self.units(bytes)).await;
        taken.expect("room for answers is never closed")
    }
}

/// What all connections of a node share.
#[derive(Debug)]
pub(super) struct Memory {
    requests: Budget,
    answers: Room,
}

impl Memory {
    /// Memory for so many bytes of requests under way, and of answers not written.
    pub(super) fn new(requests_max: u64, answers_max: u64) -> Self {
        Self {
            requests: Budget::new(requests_max),
            answers: Room::new(answers_max),
        }
    }
}

/// The other end of a connection, and what it holds.
#[derive(Clone, Debug)]
pub struct Client(Arc<ClientState>);

#[derive(Debug)]
struct ClientState {
    addr: SocketAddr,
    all: Arc<Memory>,
    requests: Budget,
    unsent: Room,
    /// Answers, or parts of them, that are made and not written.
    waiting: AtomicUsize,
    /// Rises whenever a part of an answer goes on its way or is written.
    progress: AtomicU64,
    metrics: Arc<NetworkMetrics>,
}

/// It does not fit beside what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Client {
    pub(super) fn new(
        addr: SocketAddr,
        all: &Arc<Memory>,
        unsent_max: u64,
        metrics: &Arc<NetworkMetrics>,
    ) -> Self {
        Self(Arc::new(ClientState {
            addr,
            all: Arc::clone(all),
            requests: Budget::new(all.requests.max / CONNECTION_SHARE),
            unsent: Room::new(unsent_max),
            waiting: AtomicUsize::new(0),
            progress: AtomicU64::new(0),
            metrics: Arc::clone(metrics),
        }))
    }

    /// Where it connects from.
    pub fn addr(&self) -> SocketAddr {
        self.0.addr
    }

    /// Reserves memory for an answer of `bytes` that is already in memory; a small one needs none.
    ///
    /// # Errors
    /// Too much is unread, of this client or of all. Drop the answer; to make it again later, await
    /// [`Client::reserve`] first.
    pub fn try_reserve(&self, bytes: u64) -> Result<Option<Reserved>, NoRoom> {
        if bytes <= FREE_BYTES {
            return Ok(None);
        }
        Ok(Some(Reserved {
            _of_client: self.0.unsent.try_take(bytes)?,
            _of_all: self.0.all.answers.try_take(bytes)?,
        }))
    }

    /// Waits until an answer of `bytes` may be made.
    pub async fn reserve(&self, bytes: u64) -> Reserved {
        self.0.metrics.answers_delayed.increment(1);
        // In this order: who waits for its own client keeps nothing from the others.
        Reserved {
            _of_client: self.0.unsent.take(bytes).await,
            _of_all: self.0.all.answers.take(bytes).await,
        }
    }

    /// Counts an answer that was not made because there was no room.
    pub(super) fn refused_answer(&self) {
        self.0.metrics.answers_no_room.increment(1);
    }

    /// Counts a request that is not served to whoever sent it.
    pub(super) fn forbidden(&self) {
        self.0.metrics.requests_forbidden.increment(1);
    }

    /// Starts counting a call.
    pub(super) fn call(&self) -> Call {
        Call(Arc::new(CallState {
            client: self.clone(),
            held: Mutex::default(),
        }))
    }

    /// Whether answers are made and not written.
    pub(super) fn has_unsent(&self) -> bool {
        self.0.waiting.load(Ordering::Relaxed) > 0
    }

    /// Differs from what it was before if something of an answer went on its way since.
    pub(super) fn progress(&self) -> u64 {
        self.0.progress.load(Ordering::Relaxed)
    }

    pub(super) fn progressed(&self) {
        self.0.progress.fetch_add(1, Ordering::Relaxed);
    }

    fn take_request(&self, bytes: u64) -> Result<(), NoRoom> {
        if !self.0.requests.take(bytes) {
            return Err(NoRoom);
        }
        if !self.0.all.requests.take(bytes) {
            self.0.requests.give_back(bytes);
            return Err(NoRoom);
        }
        Ok(())
    }

    fn give_back_request(&self, bytes: u64) {
        if bytes > 0 {
            self.0.requests.give_back(bytes);
            self.0.all.requests.give_back(bytes);
        }
    }
}

/// Memory of an answer. Put it into the [`Outbox`] of the response.
#[derive(Debug)]
pub struct Reserved {
    _of_client: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// Where a service puts the memory of what it answers next; an extension of the response. It stays
/// reserved until those bytes are written.
#[derive(Clone, Debug, Default)]
pub struct Outbox(Arc<Mutex<Vec<Reserved>>>);

impl Outbox {
    /// `reserved` is for the message that is answered now.
    pub fn put(&self, reserved: Reserved) {
        self.0.lock().push(reserved);
    }

    pub(super) fn take(&self) -> Vec<Reserved> {
        std::mem::take(&mut self.0.lock())
    }
}

/// A part of an answer, counted until it is dropped: by HTTP, when it has been written.
#[derive(Debug)]
pub(super) struct Unsent {
    data: Bytes,
    call: Call,
    _reserved: Vec<Reserved>,
}

impl Unsent {
    /// Counts `data`, for which memory may be reserved.
    pub(super) fn count(data: Bytes, call: &Call, reserved: Vec<Reserved>) -> Bytes {
        call.client().0.waiting.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Self {
            data,
            call: call.clone(),
            _reserved: reserved,
        })
    }
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        let client = self.call.client();
        client.progressed();
        client.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call, from its first byte to the last of its answer: who makes it, and what it holds. Every
/// request carries it as an extension.
#[derive(Clone, Debug)]
pub struct Call(Arc<CallState>);

#[derive(Debug)]
struct CallState {
    client: Client,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// Came, and is of no [`Message`] yet.
    bytes: u64,
    /// Messages under way.
    messages: usize,
    /// So much of a stream's next message comes in even where there is no room: small ones always
    /// do.
    free: u64,
    /// Waits for one of them to end.
    waiting: Option<Waker>,
}

impl Call {
    /// Who makes it.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// A stream has read a message: what came by now is the message's, and is given back when that
    /// is dropped. Keep it until the message is answered.
    ///
    /// The beginning of the next message may have come with it, at most one frame.
    pub fn message(&self) -> Message {
        let mut held = self.0.held.lock();
        held.messages += 1;
        held.free = FREE_BYTES;
        Message {
            bytes: std::mem::take(&mut held.bytes),
            call: self.clone(),
        }
    }

    /// Takes room for `bytes` more. Pending while messages of this stream are under way: they will
    /// make room.
    pub(super) fn poll_grow(&self, bytes: u64, cx: &mut Context<'_>) -> Poll<Result<(), NoRoom>> {
        let mut held = self.0.held.lock();
        if self.client().take_request(bytes).is_ok() {
            held.bytes += bytes;
            return Poll::Ready(Ok(()));
        }
        if held.messages > 0 {
            held.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if bytes <= held.free {
            held.free -= bytes;
            return Poll::Ready(Ok(()));
        }
        self.client().0.metrics.requests_no_room.increment(1);
        Poll::Ready(Err(NoRoom))
    }
}

impl Drop for CallState {
    fn drop(&mut self) {
        self.client.give_back_request(self.held.get_mut().bytes);
    }
}

/// The memory of one message of a stream.
#[derive(Debug)]
pub struct Message {
    call: Call,
    bytes: u64,
}

impl Drop for Message {
    fn drop(&mut self) {
        self.call.client().give_back_request(self.bytes);
        let waiting = {
            let mut held = self.call.0.held.lock();
            held.messages -= 1;
            held.waiting.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    /// Of one connection.
    const UNSENT_MAX: u64 = 64 * MIB;

    fn client(all: &Arc<Memory>) -> Client {
        let addr = "127.0.0.1:1".parse().expect("an address");
        Client::new(addr, all, UNSENT_MAX, &Arc::default())
    }

    fn grow(call: &Call, bytes: u64) -> Poll<Result<(), NoRoom>> {
        call.poll_grow(bytes, &mut Context::from_waker(Waker::noop()))
    }

    const FITS: Poll<Result<(), NoRoom>> = Poll::Ready(Ok(()));
    const REFUSED: Poll<Result<(), NoRoom>> = Poll::Ready(Err(NoRoom));

    #[test]
    fn requests_are_bounded_per_connection_and_in_all() {
        let all = Arc::new(Memory::new(8 * MIB, MIB));
        let clients: Vec<Client> = (0..5).map(|_| client(&all)).collect();
        let mut calls: Vec<Call> = clients.iter().map(Client::call).collect();
        for call in &calls[..4] {
            assert_eq!(grow(call, MIB), FITS);
            assert_eq!(grow(call, MIB), FITS);
            assert_eq!(grow(call, 1), REFUSED, "its share");
        }
        assert_eq!(grow(&calls[4], 1), REFUSED, "all together");
        calls.remove(0);
        assert_eq!(grow(&calls[3], 2 * MIB), FITS, "room again");
        drop(calls);
        assert_eq!(all.requests.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_stream_holds_what_is_not_answered() {
        let all = Arc::new(Memory::new(16 * MIB, MIB));
        let (one, other) = (client(&all), client(&all));
        let (stream, neighbour) = (one.call(), one.call());
        for _ in 0..100 {
            assert_eq!(grow(&stream, 3 * MIB), FITS);
            drop(stream.message());
        }
        assert_eq!(grow(&stream, 3 * MIB), FITS);
        let message = stream.message();
        assert_eq!(grow(&stream, 2 * MIB), Poll::Pending, "it will be answered");
        assert_eq!(grow(&neighbour, 2 * MIB), REFUSED, "nothing of it will");
        drop(message);
        assert_eq!(grow(&stream, 2 * MIB), FITS);
        assert_eq!(grow(&stream, 3 * MIB), REFUSED, "nothing is under way");
        assert_eq!(grow(&stream, 2 * MIB), FITS);
        assert_eq!(grow(&stream, FREE_BYTES), FITS, "small ones always do");
        assert_eq!(grow(&stream, 1), REFUSED, "it is not small any more");
        drop(stream);
        assert_eq!(grow(&other.call(), 4 * MIB), FITS);
        assert_eq!(all.requests.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn large_answers_wait_for_those_that_were_not_read() {
        let client = client(&Arc::new(Memory::new(MIB, 512 * MIB)));
        let first = client.try_reserve(60 * MIB).expect("fits");
        assert!(client.try_reserve(5 * MIB).is_err());
        let small = client.try_reserve(FREE_BYTES).expect("always fits");
        assert!(small.is_none(), "and is not counted");
        let mut waiting = task(client.reserve(5 * MIB));
        assert!(!waiting.poll_once());
        drop(first);
        assert!(waiting.poll_once());
        drop(waiting);
        assert!(
            client.try_reserve(500 * MIB).is_ok(),
            "one above the bound goes alone"
        );
    }

    #[test]
    fn answers_are_bounded_in_all() {
        let all = Arc::new(Memory::new(MIB, 100 * MIB));
        let (one, other) = (client(&all), client(&all));
        let first = one.try_reserve(60 * MIB).expect("fits");
        assert!(other.try_reserve(50 * MIB).is_err());
        let mut waiting = task(other.reserve(50 * MIB));
        assert!(!waiting.poll_once());
        drop(first);
        assert!(waiting.poll_once());
    }

    #[test]
    fn an_answer_is_unsent_until_its_bytes_are_gone() {
        let client = client(&Arc::new(Memory::new(MIB, 512 * MIB)));
        let call = client.call();
        let small = Unsent::count(Bytes::from_static(b"small"), &call, Vec::new());
        let reserved = client.try_reserve(60 * MIB).expect("fits");
        let mut large = Unsent::count(vec![7; 60 << 20].into(), &call, Vec::from_iter(reserved));
        assert_eq!((&small[..], large.len()), (&b"small"[..], 60 << 20));
        assert!(client.try_reserve(5 * MIB).is_err());
        let before = client.progress();
        drop(small);
        assert_ne!(client.progress(), before);
        assert!(client.has_unsent());
        drop(large.split_to(59 << 20));
        assert!(
            client.try_reserve(5 * MIB).is_err(),
            "a part is still there"
        );
        drop(large);
        assert!(!client.has_unsent());
        assert!(client.try_reserve(UNSENT_MAX).is_ok());
    }

    /// A future polled by hand: no runtime, no clock.
    struct Task<F>(std::pin::Pin<Box<F>>);

    fn task<F: Future>(future: F) -> Task<F> {
        Task(Box::pin(future))
    }

    impl<F: Future> Task<F> {
        fn poll_once(&mut self) -> bool {
            let mut context = Context::from_waker(Waker::noop());
            self.0.as_mut().poll(&mut context).is_ready()
        }
    }
}
