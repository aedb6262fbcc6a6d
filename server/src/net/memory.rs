//! What connections may hold in memory: requests not answered yet, answers not sent yet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::NetworkMetrics;

/// One connection may use this share (one part in so many) of what all may.
pub const CONNECTION_SHARE: u64 = 4;
/// The first bytes of a request and of an answer are not counted: there are at most
/// `network.streams-max` of them per connection, and counting would cost more than it bounds.
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

/// The other end of a connection, and what it holds; every request carries it as an extension.
#[derive(Clone, Debug)]
pub struct Client(Arc<ClientState>);

#[derive(Debug)]
struct ClientState {
    addr: SocketAddr,
    all_requests: Arc<Budget>,
    requests: Budget,
    unsent: Arc<Semaphore>,
    unsent_units: u32,
    metrics: Arc<NetworkMetrics>,
}

impl Client {
    pub(super) fn new(
        addr: SocketAddr,
        all_requests: &Arc<Budget>,
        unsent_max: u64,
        metrics: &Arc<NetworkMetrics>,
    ) -> Self {
        let unsent_units = u32::try_from(unsent_max / UNIT_BYTES).unwrap_or(u32::MAX);
        Self(Arc::new(ClientState {
            addr,
            all_requests: Arc::clone(all_requests),
            requests: Budget::new(all_requests.max / CONNECTION_SHARE),
            unsent: Arc::new(Semaphore::new(unsent_units as usize)),
            unsent_units,
            metrics: Arc::clone(metrics),
        }))
    }

    /// Where it connects from.
    pub fn addr(&self) -> SocketAddr {
        self.0.addr
    }

    /// Reserves memory for an answer of `bytes` that is already in memory. `None`: the client has
    /// left too much unread. Drop the answer, await [`Client::reserve`], and make it again.
    pub fn try_reserve(&self, bytes: u64) -> Option<Reserved> {
        if bytes <= FREE_BYTES {
            return Some(Reserved(None));
        }
        let units = self.units(bytes);
        Arc::clone(&self.0.unsent)
            .try_acquire_many_owned(units)
            .ok()
            .map(Reserved::new)
    }

    /// Waits until an answer of `bytes` may be made.
    ///
    /// # Panics
    /// Never: the semaphore is not closed.
    pub async fn reserve(&self, bytes: u64) -> Reserved {
        self.0.metrics.answers_delayed.increment(1);
        let permit = Arc::clone(&self.0.unsent)
            .acquire_many_owned(self.units(bytes))
            .await;
        Reserved::new(permit.expect("the semaphore of a connection is never closed"))
    }

    /// An answer above the bound counts as the bound: it is sent alone.
    fn units(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES))
            .unwrap_or(u32::MAX)
            .min(self.0.unsent_units)
    }

    /// Starts counting a request.
    pub(super) fn request(&self) -> InFlight {
        InFlight {
            client: self.clone(),
            taken: 0,
        }
    }

    /// Whether answers wait to be read.
    pub(super) fn has_unsent(&self) -> bool {
        self.0.unsent.available_permits() < self.0.unsent_units as usize
    }
}

/// Memory of an answer, until it has been handed to the socket. Put it into the extensions of the
/// response.
#[derive(Clone, Debug)]
pub struct Reserved(
    #[expect(dead_code, reason = "held, never looked at")] Option<Arc<OwnedSemaphorePermit>>,
);

impl Reserved {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        Self(Some(Arc::new(permit)))
    }
}

/// The bytes of one request, from the socket to the end of its answer.
#[derive(Debug)]
pub(super) struct InFlight {
    client: Client,
    taken: u64,
}

/// The request does not fit beside the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

impl InFlight {
    /// The request has `total` bytes by now.
    pub(super) fn grow_to(&mut self, total: u64) -> Result<(), NoRoom> {
        let counted = total.saturating_sub(FREE_BYTES);
        let more = counted.saturating_sub(self.taken);
        if more == 0 {
            return Ok(());
        }
        let state = &self.client.0;
        if !state.requests.take(more) {
            state.metrics.requests_no_room.increment(1);
            return Err(NoRoom);
        }
        if !state.all_requests.take(more) {
            state.requests.give_back(more);
            state.metrics.requests_no_room.increment(1);
            return Err(NoRoom);
        }
        self.taken += more;
        Ok(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.taken > 0 {
            self.client.0.requests.give_back(self.taken);
            self.client.0.all_requests.give_back(self.taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn client(all: &Arc<Budget>) -> Client {
        let addr = "127.0.0.1:1".parse().expect("an address");
        Client::new(addr, all, 64 * MIB, &Arc::default())
    }

    #[test]
    fn requests_are_bounded_per_connection_and_in_all() {
        let all = Arc::new(Budget::new(8 * MIB));
        let clients: Vec<Client> = (0..5).map(|_| client(&all)).collect();
        let mut requests: Vec<InFlight> = clients.iter().map(Client::request).collect();
        for request in &mut requests[..4] {
            assert_eq!(request.grow_to(FREE_BYTES + MIB), Ok(()));
            assert_eq!(request.grow_to(FREE_BYTES + 2 * MIB), Ok(()));
            assert_eq!(
                request.grow_to(FREE_BYTES + 2 * MIB + 1),
                Err(NoRoom),
                "its share"
            );
        }
        assert_eq!(
            requests[4].grow_to(FREE_BYTES),
            Ok(()),
            "small ones always fit"
        );
        assert_eq!(
            requests[4].grow_to(FREE_BYTES + 1),
            Err(NoRoom),
            "all together"
        );
        requests.remove(0);
        assert_eq!(
            requests[3].grow_to(FREE_BYTES + 2 * MIB),
            Ok(()),
            "room again"
        );
        drop(requests);
        assert_eq!(all.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn large_answers_wait_for_those_that_were_not_read() {
        let client = client(&Arc::new(Budget::new(MIB)));
        let first = client.try_reserve(60 * MIB).expect("fits");
        assert!(client.has_unsent());
        assert!(client.try_reserve(5 * MIB).is_none());
        assert!(
            client.try_reserve(FREE_BYTES).is_some(),
            "small ones always fit"
        );
        let mut waiting = tokio_test_task(client.reserve(5 * MIB));
        assert!(!waiting.poll_once());
        drop(first);
        assert!(waiting.poll_once());
        drop(waiting);
        assert!(
            client.try_reserve(500 * MIB).is_some(),
            "one above the bound goes alone"
        );
    }

    /// A future polled by hand: no runtime, no clock.
    struct Task<F>(std::pin::Pin<Box<F>>);

    fn tokio_test_task<F: Future>(future: F) -> Task<F> {
        Task(Box::pin(future))
    }

    impl<F: Future> Task<F> {
        fn poll_once(&mut self) -> bool {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            self.0.as_mut().poll(&mut context).is_ready()
        }
    }
}
