//! Addresses, mailboxes and who may send what.

use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use flotilla_mailbox::{Lane, Mailbox, ReadyQueue, Refused};
use parking_lot::Mutex;

use crate::counters::RouterTally;
use crate::{Machine, RouterCounters};

/// Bytes that may wait in all mailboxes together, unless configured otherwise.
pub const QUEUED_BYTES_MAX: u64 = 256 << 20;

/// Bounds of a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// Bytes ([`Machine::input_bytes`]) that may wait in all mailboxes together. Each mailbox gets at
    /// most as much as is left for all others: a hot machine takes half and never all of it.
    pub queued_bytes_max: u64,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            queued_bytes_max: QUEUED_BYTES_MAX,
        }
    }
}

/// Why an input was not accepted; it is given back.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError<I> {
    /// The machine's mailbox, or the memory of all mailboxes, is at its bound: later may work.
    #[error("the mailbox is full")]
    Full(I),
    /// There is no machine at the address, or it is ending.
    #[error("no machine listens at the address")]
    Closed(I),
}

impl<I> SendError<I> {
    /// The input that was not accepted.
    pub fn into_input(self) -> I {
        match self {
            Self::Full(input) | Self::Closed(input) => input,
        }
    }
}

impl<I> fmt::Debug for SendError<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full",
            Self::Closed(_) => "Closed",
        })
    }
}

/// The machines of one kind by address, and the queue of those that have something to do.
///
/// Cheap to clone; all clones are the same router.
pub struct Router<M: Machine> {
    core: Arc<Core<M>>,
}

/// A machine's mailbox, found once: sending through it skips the look-up.
///
/// It outlives the machine: then it answers [`SendError::Closed`], also when the address has got a
/// new machine meanwhile.
pub struct Handle<M: Machine> {
    core: Arc<Core<M>>,
    slot: Arc<Slot<M>>,
}

/// One machine with its mailbox.
pub(crate) struct Slot<M: Machine> {
    pub(crate) addr: u64,
    pub(crate) mailbox: Mailbox<M::Input>,
    /// The lane the machine is queued in; written by its owner before it gives the machine back.
    pub(crate) heavy: AtomicBool,
    /// Locked by the poller that runs it, so never contended unless somebody inspects it. `None` once
    /// retired.
    pub(crate) machine: Mutex<Option<Box<M>>>,
}

/// What all clones and handles share.
pub(crate) struct Core<M: Machine> {
    pub(crate) ready: ReadyQueue<Arc<Slot<M>>>,
    /// Its order is never looked at: who iterates sorts by address (contracts: C28).
    slots: DashMap<u64, Arc<Slot<M>>, BuildHasherDefault<AddrHasher>>,
    queued_bytes: AtomicU64,
    queued_bytes_max: u64,
    /// Set once, by [`Router::shutdown`].
    shut: AtomicBool,
    pub(crate) counters: RouterTally,
}

impl<M: Machine> Clone for Router<M> {
    fn clone(&self) -> Self {
        Self {
            core: Arc::clone(&self.core),
        }
    }
}

impl<M: Machine> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self {
            core: Arc::clone(&self.core),
            slot: Arc::clone(&self.slot),
        }
    }
}

impl<M: Machine> Router<M> {
    /// A router without machines.
    pub fn new(config: RouterConfig) -> Self {
        let core = Core {
            ready: ReadyQueue::new(),
            slots: DashMap::default(),
            queued_bytes: AtomicU64::new(0),
            queued_bytes_max: config.queued_bytes_max,
            shut: AtomicBool::new(false),
            counters: RouterTally::default(),
        };
        Self {
            core: Arc::new(core),
        }
    }

    /// Gives `machine` the address `addr` and a mailbox for `capacity` inputs.
    ///
    /// Gives the machine back if the address is taken, also by one that is still ending, or if the
    /// router was shut down.
    pub fn register(&self, addr: u64, machine: M, capacity: usize) -> Result<(), M> {
        let heavy = machine.is_heavy();
        match self.core.slots.entry(addr) {
            Entry::Occupied(_) => Err(machine),
            // Looked at while the entry is held: `shutdown` sets the flag before it lists the slots.
            Entry::Vacant(_) if self.is_shut() => Err(machine),
            Entry::Vacant(entry) => {
                entry.insert(Arc::new(Slot {
                    addr,
                    mailbox: Mailbox::new(capacity),
                    heavy: AtomicBool::new(heavy),
                    machine: Mutex::new(Some(Box::new(machine))),
                }));
                self.core.counters.registered.add(1);
                Ok(())
            }
        }
    }

    /// The mailbox at `addr`, to send to it again and again.
    pub fn handle(&self, addr: u64) -> Option<Handle<M>> {
        let slot = Arc::clone(&*self.core.slots.get(&addr)?);
        Some(Handle {
            core: Arc::clone(&self.core),
            slot,
        })
    }

    /// Leaves an input within the bounds. Never waits.
    pub fn send(&self, addr: u64, input: M::Input) -> Result<(), SendError<M::Input>> {
        match self.core.find(addr) {
            Some(slot) => self.core.send(&slot, input),
            None => {
                self.core.counters.refused_closed.add(1);
                Err(SendError::Closed(input))
            }
        }
    }

    /// Leaves an input that must not be lost (persisted, applied), beyond any bound: only for inputs
    /// whose number is bounded by something else. Gives it back if no machine listens.
    pub fn force_send(&self, addr: u64, input: M::Input) -> Result<(), M::Input> {
        match self.core.find(addr) {
            Some(slot) => self.core.force_send(&slot, input),
            None => {
                self.core.counters.refused_closed.add(1);
                Err(input)
            }
        }
    }

    /// Makes a tick due for the machine at `addr`, if there is one.
    pub fn tick(&self, addr: u64) {
        if let Some(slot) = self.core.find(addr)
            && slot.mailbox.send_tick()
        {
            self.core.queue(slot);
        }
    }

    /// Makes a tick due for every machine, in the order of the addresses.
    pub fn tick_all(&self) {
        let mut slots = self.core.sorted();
        slots.retain(|slot| slot.mailbox.send_tick());
        self.core.queue_all(slots);
    }

    /// Sends every machine an input within the bounds, in the order of the addresses. Answers to how
    /// many.
    pub fn broadcast(&self, mut make: impl FnMut(u64) -> M::Input) -> usize {
        let slots = self.core.sorted();
        slots
            .iter()
            .filter(|slot| self.core.send(slot, make(slot.addr)).is_ok())
            .count()
    }

    /// Ends the machine at `addr`: it is sent nothing more, what waits in its mailbox is dropped, and
    /// in its next round it retires. The address is free after that.
    pub fn close(&self, addr: u64) {
        if let Some(slot) = self.core.find(addr)
            && slot.mailbox.close()
        {
            self.core.queue(slot);
        }
    }

    /// Ends every machine, in the order of the addresses, and refuses new ones. Pollers go on until
    /// the last one has retired.
    pub fn shutdown(&self) {
        self.core.shut.store(true, Ordering::SeqCst);
        let mut slots = self.core.sorted();
        slots.retain(|slot| slot.mailbox.close());
        self.core.queue_all(slots);
        self.core.stop_if_done();
    }

    /// Whether [`Router::shutdown`] was called.
    pub fn is_shut(&self) -> bool {
        self.core.shut.load(Ordering::SeqCst)
    }

    /// Machines, the ending ones included.
    pub fn len(&self) -> usize {
        self.core.slots.len()
    }

    /// No machine.
    pub fn is_empty(&self) -> bool {
        self.core.slots.is_empty()
    }

    /// The addresses of all machines, ascending.
    pub fn addrs(&self) -> Vec<u64> {
        self.core.sorted().iter().map(|slot| slot.addr).collect()
    }

    /// Looks at the machine at `addr`. Waits while it runs, so it is for drivers that step their
    /// machines themselves; `None`: there is no machine, or it has retired.
    pub fn inspect<T>(&self, addr: u64, look: impl FnOnce(&M) -> T) -> Option<T> {
        let slot = self.core.find(addr)?;
        let machine = slot.machine.lock();
        machine.as_deref().map(look)
    }

    /// Machines that have something to do.
    pub fn ready(&self) -> usize {
        self.core.ready.len()
    }

    /// Bytes that wait in all mailboxes together.
    pub fn queued_bytes(&self) -> u64 {
        self.core.queued_bytes.load(Ordering::Relaxed)
    }

    /// Ends the wait of pollers whose executor refused to run: the pressure may be over.
    pub fn resume(&self) {
        self.core.ready.resume();
    }

    /// What happened so far.
    pub fn counters(&self) -> RouterCounters {
        self.core.counters.snapshot()
    }

    pub(crate) fn core(&self) -> &Core<M> {
        &self.core
    }
}

impl<M: Machine> Handle<M> {
    /// The address the handle was made for.
    pub fn addr(&self) -> u64 {
        self.slot.addr
    }

    /// As [`Router::send`], without a look-up.
    pub fn send(&self, input: M::Input) -> Result<(), SendError<M::Input>> {
        self.core.send(&self.slot, input)
    }

    /// As [`Router::force_send`], without a look-up.
    pub fn force_send(&self, input: M::Input) -> Result<(), M::Input> {
        self.core.force_send(&self.slot, input)
    }

    /// Whether the machine is ending or gone.
    pub fn is_closed(&self) -> bool {
        self.slot.mailbox.is_closed()
    }

    /// Inputs that wait.
    pub fn waiting(&self) -> usize {
        self.slot.mailbox.len()
    }
}

impl<M: Machine> Slot<M> {
    pub(crate) fn lane(&self) -> Lane {
        if self.heavy.load(Ordering::Relaxed) {
            Lane::Low
        } else {
            Lane::Normal
        }
    }
}

impl<M: Machine> Core<M> {
    fn find(&self, addr: u64) -> Option<Arc<Slot<M>>> {
        self.slots.get(&addr).map(|slot| Arc::clone(&*slot))
    }

    fn sorted(&self) -> Vec<Arc<Slot<M>>> {
        let mut slots: Vec<_> = self.slots.iter().map(|slot| Arc::clone(&*slot)).collect();
        slots.sort_unstable_by_key(|slot| slot.addr);
        slots
    }

    fn send(&self, slot: &Arc<Slot<M>>, input: M::Input) -> Result<(), SendError<M::Input>> {
        let bytes = M::input_bytes(&input);
        let mut slot_bytes_max = u64::MAX;
        if bytes > 0 {
            // Counted first, so that senders at the same moment cannot pass the bound together.
            let queued = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
            slot_bytes_max = self.queued_bytes_max.saturating_sub(queued);
        }
        let refused = match slot.mailbox.send(input, bytes, slot_bytes_max) {
            Ok(queue) => {
                if queue {
                    self.queue(Arc::clone(slot));
                }
                return Ok(());
            }
            Err(refused) => refused,
        };
        self.uncount(bytes);
        Err(match refused {
            Refused::Full(input) => {
                self.counters.refused_full.add(1);
                SendError::Full(input)
            }
            Refused::Closed(input) => {
                self.counters.refused_closed.add(1);
                SendError::Closed(input)
            }
        })
    }

    fn force_send(&self, slot: &Arc<Slot<M>>, input: M::Input) -> Result<(), M::Input> {
        let bytes = M::input_bytes(&input);
        if bytes > 0 {
            self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        match slot.mailbox.force_send(input, bytes) {
            Ok(queue) => {
                if queue {
                    self.queue(Arc::clone(slot));
                }
                Ok(())
            }
            Err(input) => {
                self.uncount(bytes);
                self.counters.refused_closed.add(1);
                Err(input)
            }
        }
    }

    fn queue(&self, slot: Arc<Slot<M>>) {
        if self.ready.push(slot.lane(), slot) {
            self.counters.wakeups.add(1);
        }
    }

    pub(crate) fn queue_all(&self, slots: impl IntoIterator<Item = Arc<Slot<M>>>) {
        if self
            .ready
            .push_all(slots.into_iter().map(|slot| (slot.lane(), slot)))
        {
            self.counters.wakeups.add(1);
        }
    }

    /// Takes bytes off the sum of what waits.
    pub(crate) fn uncount(&self, bytes: u64) {
        if bytes > 0 {
            let before = self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            assert!(
                before >= bytes,
                "more bytes left the mailboxes than came in"
            );
        }
    }

    /// Frees the address of a machine that has retired.
    pub(crate) fn remove(&self, addr: u64) {
        let removed = self.slots.remove(&addr);
        assert!(removed.is_some(), "a retired machine had no address");
        drop(removed);
        self.counters.retired.add(1);
        self.stop_if_done();
    }

    /// Nothing will be ready any more: pollers that wait for it can end.
    fn stop_if_done(&self) {
        if self.shut.load(Ordering::SeqCst) && self.slots.is_empty() {
            self.ready.stop();
        }
    }
}

/// 2^64 divided by the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Region ids are small and in sequence; one multiplication spreads them over shards and buckets.
#[derive(Default)]
pub(crate) struct AddrHasher(u64);

impl Hasher for AddrHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value) * u128::from(GOLDEN);
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}
