//! What waits to be sent to other stores: one bounded queue per store and lane.

use std::collections::{BTreeMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::counters::OutgoingTally;
use crate::router::AddrHasher;
use crate::{Lane, OutgoingCounters, Routed};

/// Bounds of one lane to one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    /// Messages that may wait.
    pub messages_max: usize,
    /// Bytes that may wait; a message that is larger than this never goes.
    pub bytes_max: u64,
}

/// Bounds of the outgoing queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingConfig {
    /// Of each store's control lane.
    pub control: LaneLimits,
    /// Of each store's append lane.
    pub append: LaneLimits,
    /// Of each store's snapshot lane.
    pub snapshot: LaneLimits,
    /// Bytes that may wait in all queues together. Each queue gets at most as much as is left for all
    /// others, so that a slow store never takes the room of the others.
    pub bytes_max: u64,
}

impl Default for OutgoingConfig {
    fn default() -> Self {
        Self {
            control: LaneLimits {
                messages_max: 16_384,
                bytes_max: 4 << 20,
            },
            append: LaneLimits {
                messages_max: 16_384,
                bytes_max: 64 << 20,
            },
            snapshot: LaneLimits {
                messages_max: 64,
                bytes_max: 16 << 20,
            },
            bytes_max: 256 << 20,
        }
    }
}

/// Tells the sender of a store that a lane of it is not empty any more.
pub type OnReady = Arc<dyn Fn(Lane) + Send + Sync>;

/// Tells whoever starts senders of a store that was not met before.
pub type OnStore = Arc<dyn Fn(u64) + Send + Sync>;

/// The queues to all stores. Cheap to clone; all clones are the same queues.
pub struct Outgoing<R: Routed> {
    shared: Arc<Shared<R>>,
}

struct Shared<R> {
    config: OutgoingConfig,
    /// Written only when a store is met for the first time, or forgotten.
    stores: RwLock<BTreeMap<u64, Arc<StoreQueues<R>>>>,
    on_store: RwLock<Option<OnStore>>,
    /// Bytes in all queues.
    bytes: AtomicU64,
    counters: OutgoingTally,
}

struct StoreQueues<R> {
    lanes: [Mutex<Queue<R>>; Lane::ALL.len()],
    on_ready: RwLock<Option<OnReady>>,
}

#[expect(clippy::disallowed_types, reason = "looked up, never iterated")]
type Numbers = std::collections::HashMap<u64, u64, BuildHasherDefault<AddrHasher>>;

struct Queue<R> {
    messages: VecDeque<R>,
    /// The sum of the messages' bytes.
    bytes: u64,
    /// Messages that have left; message `i` of the queue has the number `left + i`.
    left: u64,
    /// Number of the waiting message by its key.
    keys: Numbers,
    /// Its store was forgotten: what still arrives here goes to the store's new queues.
    forgotten: bool,
}

/// What became of a message.
enum Queued<R> {
    First,
    Behind,
    Refused(R),
    Forgotten(R),
}

impl<R: Routed> Clone for Outgoing<R> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<R: Routed> Outgoing<R> {
    /// Empty queues.
    pub fn new(config: OutgoingConfig) -> Self {
        let shared = Shared {
            config,
            stores: RwLock::default(),
            on_store: RwLock::new(None),
            bytes: AtomicU64::new(0),
            counters: OutgoingTally::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Leaves a message for its store. One with the same key that still waits in the lane is replaced,
    /// in its place. Never waits; a message beyond a bound is given back, and its store is then as good
    /// as unreachable.
    pub fn push(&self, message: R) -> Result<(), R> {
        let (store, lane) = (message.store(), message.lane());
        let mut message = message;
        loop {
            let queues = self.queues(store);
            match self
                .shared
                .enqueue(&queues.lanes[lane as usize], lane, message)
            {
                Queued::First => queues.wake(lane),
                Queued::Behind => {}
                Queued::Refused(message) => {
                    self.shared.counters.refused.add(1);
                    return Err(message);
                }
                Queued::Forgotten(again) => {
                    message = again;
                    continue;
                }
            }
            return Ok(());
        }
    }

    /// Takes the oldest messages of a lane, as many as `bytes_max` holds, and one in any case: a bulk
    /// message. Empty: nothing waits, and the store's callback will tell when something does.
    pub fn drain(&self, store: u64, lane: Lane, bytes_max: u64) -> Vec<R> {
        let Some(queues) = self.shared.stores.read().get(&store).map(Arc::clone) else {
            return Vec::new();
        };
        let (bulk, bytes) = queues.lanes[lane as usize].lock().pop(bytes_max);
        if !bulk.is_empty() {
            self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.counters.bulks.add(1);
            self.shared.counters.sent.add(bulk.len() as u64);
            self.shared.counters.sent_bytes.add(bytes);
        }
        bulk
    }

    /// Sets who is told when a lane to `store` that was empty gets a message; called at once for lanes
    /// that hold some already. It is called on the thread that pushes: it must not wait.
    pub fn on_ready(&self, store: u64, callback: OnReady) {
        let queues = self.queues(store);
        *queues.on_ready.write() = Some(Arc::clone(&callback));
        // After it is set: a push meanwhile calls it, one before is seen here, one in between does both.
        for lane in Lane::ALL {
            if !queues.lanes[lane as usize].lock().messages.is_empty() {
                callback(lane);
            }
        }
    }

    /// Sets who is told of a store that gets its first queue; called at once for those that have one.
    /// A store may be told twice. It is called on the thread that pushes: it must not wait.
    pub fn on_store(&self, callback: OnStore) {
        *self.shared.on_store.write() = Some(Arc::clone(&callback));
        // After it is set: a store met meanwhile is told by whoever met it, or seen here.
        self.stores().into_iter().for_each(|store| callback(store));
    }

    /// Forgets a store and its callback; the messages that waited are given back, lane by lane.
    pub fn remove(&self, store: u64) -> Vec<R> {
        let Some(queues) = self.shared.stores.write().remove(&store) else {
            return Vec::new();
        };
        let mut rest = Vec::new();
        for lane in &queues.lanes {
            let mut queue = lane.lock();
            queue.forgotten = true;
            let (messages, bytes) = queue.pop(u64::MAX);
            self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
            rest.extend(messages);
        }
        rest
    }

    /// The stores met so far, ascending.
    pub fn stores(&self) -> Vec<u64> {
        self.shared.stores.read().keys().copied().collect()
    }

    /// Messages that wait in a lane.
    pub fn waiting(&self, store: u64, lane: Lane) -> usize {
        let stores = self.shared.stores.read();
        stores.get(&store).map_or(0, |queues| {
            queues.lanes[lane as usize].lock().messages.len()
        })
    }

    /// Bytes that wait in all queues.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// What happened so far.
    pub fn counters(&self) -> OutgoingCounters {
        self.shared.counters.snapshot()
    }

    fn queues(&self, store: u64) -> Arc<StoreQueues<R>> {
        if let Some(queues) = self.shared.stores.read().get(&store) {
            return Arc::clone(queues);
        }
        let mut stores = self.shared.stores.write();
        let fresh = !stores.contains_key(&store);
        let queues = Arc::clone(stores.entry(store).or_default());
        drop(stores);
        let callback = self.shared.on_store.read().clone();
        if let Some(callback) = callback.filter(|_| fresh) {
            callback(store);
        }
        queues
    }
}

impl<R: Routed> Shared<R> {
    fn enqueue(&self, queue: &Mutex<Queue<R>>, lane: Lane, message: R) -> Queued<R> {
        let limits = self.config.lane(lane);
        let bytes = message.bytes();
        let key = message.coalesce_key();
        // Counted first, so that messages at the same moment cannot pass the bound together.
        let all = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let bytes_max = limits
            .bytes_max
            .min(self.config.bytes_max.saturating_sub(all));
        let mut queue = queue.lock();
        let replaced = key.and_then(|key| queue.position(key));
        let freed = replaced.map_or(0, |position| queue.messages[position].bytes());
        let kept = queue.bytes - freed;
        let count = queue.messages.len() + usize::from(replaced.is_none());
        if queue.forgotten || count > limits.messages_max || kept + bytes > bytes_max {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return if queue.forgotten {
                Queued::Forgotten(message)
            } else {
                Queued::Refused(message)
            };
        }
        self.counters.messages.add(1);
        queue.bytes = kept + bytes;
        if let Some(position) = replaced {
            queue.messages[position] = message;
            self.bytes.fetch_sub(freed, Ordering::Relaxed);
            self.counters.coalesced.add(1);
            return Queued::Behind;
        }
        if let Some(key) = key {
            let number = queue.left + queue.messages.len() as u64;
            queue.keys.insert(key, number);
        }
        queue.messages.push_back(message);
        if queue.messages.len() == 1 {
            Queued::First
        } else {
            Queued::Behind
        }
    }
}

impl OutgoingConfig {
    fn lane(&self, lane: Lane) -> LaneLimits {
        match lane {
            Lane::Control => self.control,
            Lane::Append => self.append,
            Lane::Snapshot => self.snapshot,
        }
    }
}

impl<R> Default for StoreQueues<R> {
    fn default() -> Self {
        Self {
            lanes: Default::default(),
            on_ready: RwLock::new(None),
        }
    }
}

impl<R> Default for Queue<R> {
    fn default() -> Self {
        Self {
            messages: VecDeque::new(),
            bytes: 0,
            left: 0,
            keys: Numbers::default(),
            forgotten: false,
        }
    }
}

impl<R> StoreQueues<R> {
    fn wake(&self, lane: Lane) {
        let callback = self.on_ready.read().clone();
        if let Some(callback) = callback {
            callback(lane);
        }
    }
}

impl<R: Routed> Queue<R> {
    fn position(&self, key: u64) -> Option<usize> {
        let number = self.keys.get(&key)?;
        Some(usize::try_from(number - self.left).expect("a queue fits the memory"))
    }

    /// The oldest messages that fit, and their bytes.
    fn pop(&mut self, bytes_max: u64) -> (Vec<R>, u64) {
        let mut bytes = 0;
        let mut count = 0;
        for message in &self.messages {
            if count > 0 && bytes + message.bytes() > bytes_max {
                break;
            }
            bytes += message.bytes();
            count += 1;
        }
        let bulk: Vec<R> = self.messages.drain(..count).collect();
        for key in bulk.iter().filter_map(Routed::coalesce_key) {
            self.keys.remove(&key);
        }
        self.left += count as u64;
        self.bytes -= bytes;
        (bulk, bytes)
    }
}
