//! Latches: what keeps a compare-and-swap from overlapping another write of its key (contracts: C18).
//!
//! A compare-and-swap decides on a read, so from that read until its write is applied no other
//! write of the key may be on its way through the log: it takes the key *exclusively*. Writes that
//! read nothing are ordered by the log itself and share the key among each other. A range delete
//! is such a write for every key of its range.
//!
//! Keys are hashed to slots, a slot is a first-come-first-served queue, and a lock takes its slots
//! in ascending order, so no two locks wait for each other. Ranges cannot be hashed: there is one
//! [`RangeTable`] in front of the slots that only range deletes and compare-and-swaps enter, so a
//! plain put or delete pays for one slot and allocates nothing.
//!
//! Invariants:
//! - A slot has one exclusive holder, or any number of shared ones, never both.
//! - Whoever waits for a slot waits for an earlier arrival at that slot, holder or waiter.
//! - A waiter is woken exactly once per wait, after what it waited for is already its own.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;

/// Slots in all: two unrelated keys meet in one with a chance of 1 : 4096 per pair in flight.
const SLOTS: usize = 4096;
/// Mutexes the slots are spread over.
const SHARDS: usize = 64;
const SLOTS_PER_SHARD: usize = SLOTS / SHARDS;
const _: () = assert!(SLOTS.is_multiple_of(SHARDS) && SLOTS <= 1 << 16);

/// How a command takes its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It reads nothing: it may overlap its like.
    Shared,
    /// It decides on what it reads: it overlaps nothing.
    Exclusive,
}

/// What one command takes, and how far it has got. Made by [`crate::Write::lock`]; goes through
/// [`Latches::acquire`] until that answers `true`, and ends in [`Latches::release`] or
/// [`Latches::detain`], also when the command gives up while it waits.
#[derive(Debug)]
#[must_use = "a lock that is dropped while held is held for ever"]
pub struct Lock {
    access: Access,
    /// Ascending, no duplicates.
    slots: SmallVec<[u16; 4]>,
    /// What the lock enters in the range table first.
    span: Option<Span>,
    /// Where it stands in the range table, once it has entered it.
    span_ticket: Option<u64>,
    /// The lock holds `slots[..held]`.
    held: usize,
    /// It waits for its span (`Waiting::Span`) or for `slots[held]`, or has been granted that and
    /// does not know yet.
    waiting: Option<Waiting>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Span,
    Slot { ticket: u64 },
}

/// What a lock is in the range table.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Span {
    /// Shared, [start, end); an empty end is unbounded.
    Range { start: Bytes, end: Bytes },
    /// Exclusive, one key.
    Key(Bytes),
}

impl Span {
    fn conflicts(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Range { start, end }, Self::Key(key))
            | (Self::Key(key), Self::Range { start, end }) => {
                key >= start && (end.is_empty() || key < end)
            }
            // Ranges share; keys meet in their slot.
            (Self::Range { .. }, Self::Range { .. }) | (Self::Key(_), Self::Key(_)) => false,
        }
    }
}

impl Lock {
    fn new(access: Access, slots: SmallVec<[u16; 4]>, span: Option<Span>) -> Self {
        Self {
            access,
            slots,
            span,
            span_ticket: None,
            held: 0,
            waiting: None,
        }
    }

    /// The lock of a write that reads nothing and sets or removes `keys`.
    pub fn shared<'a>(keys: impl IntoIterator<Item = &'a Bytes>) -> Self {
        let mut slots: SmallVec<[u16; 4]> = keys.into_iter().map(slot_of).collect();
        if slots.len() > 1 {
            slots.sort_unstable();
            slots.dedup();
        }
        Self::new(Access::Shared, slots, None)
    }

    /// The lock of a command that reads `key` and sets or removes it.
    pub fn exclusive(key: &Bytes) -> Self {
        Self::new(
            Access::Exclusive,
            [slot_of(key)].into_iter().collect(),
            Some(Span::Key(key.clone())),
        )
    }

    /// The lock of a write that removes [start, end); an empty end is unbounded.
    pub fn range(start: &Bytes, end: &Bytes) -> Self {
        let span = Span::Range {
            start: start.clone(),
            end: end.clone(),
        };
        Self::new(Access::Shared, SmallVec::new(), Some(span))
    }

    /// How it takes its keys.
    pub fn access(&self) -> Access {
        self.access
    }

    fn complete(&self) -> bool {
        self.waiting.is_none()
            && self.held == self.slots.len()
            && self.span.is_some() == self.span_ticket.is_some()
    }
}

/// Column families are not told apart: the same key in two of them is rare, and meeting is harmless.
fn slot_of(key: &Bytes) -> u16 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    (hasher.finish() % SLOTS as u64) as u16
}

/// The latches of one store. `W` is what a waiting command is woken by: a channel's sender in the
/// server, a number in a simulation.
#[derive(Debug)]
pub struct Latches<W> {
    shards: Box<[Mutex<Shard<W>>]>,
    ranges: Mutex<RangeTable<W>>,
    detained: Mutex<Detained>,
    /// Locks in `detained`, so that [`Latches::decided`] costs nothing while there are none.
    detained_count: AtomicUsize,
}

impl<W> Default for Latches<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W> Latches<W> {
    /// Free latches.
    pub fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect(),
            ranges: Mutex::new(RangeTable::new()),
            detained: Mutex::new(Detained::default()),
            detained_count: AtomicUsize::new(0),
        }
    }

    /// Takes what `lock` still lacks. `true`: it holds everything. `false`: it waits for something,
    /// and what `waiter` made is handed out by the release that grants it, maybe before this
    /// returns; call again then. `waiter` is called only to wait, inside a mutex of the latches:
    /// it must not come back to them.
    ///
    /// # Panics
    /// If called again before the waiter was handed out.
    pub fn acquire(&self, lock: &mut Lock, waiter: impl FnOnce() -> W) -> bool {
        match lock.waiting.take() {
            Some(Waiting::Slot { ticket }) => {
                assert!(
                    !self.slot_waits(lock.slots[lock.held], ticket),
                    "called before it was woken"
                );
                lock.held += 1;
            }
            Some(Waiting::Span) => {
                assert!(
                    lock.span_ticket
                        .is_some_and(|ticket| self.ranges.lock().granted(ticket)),
                    "called before it was woken"
                );
            }
            None => {}
        }
        if let (Some(span), None) = (&lock.span, lock.span_ticket) {
            let mut ranges = self.ranges.lock();
            let (ticket, granted) = ranges.enter(span.clone());
            lock.span_ticket = Some(ticket);
            if !granted {
                lock.waiting = Some(Waiting::Span);
                ranges.wait(ticket, waiter());
                return false;
            }
        }
        while let Some(&slot) = lock.slots.get(lock.held) {
            let mut shard = self.shard(slot).lock();
            if !shard.take(slot, lock.access) {
                let ticket = shard.wait(slot, lock.access, waiter());
                lock.waiting = Some(Waiting::Slot { ticket });
                return false;
            }
            lock.held += 1;
        }
        true
    }

    /// Gives back what `lock` holds and stops its waiting; returns the waiters that got what they
    /// waited for, in the order of the slots. Their commands call [`Latches::acquire`] again.
    #[must_use = "who is not woken waits for ever"]
    pub fn release(&self, lock: Lock) -> Vec<W> {
        let mut woken = Vec::new();
        for &slot in &lock.slots[..lock.held] {
            self.shard(slot)
                .lock()
                .give_back(slot, lock.access, &mut woken);
        }
        if let Some(Waiting::Slot { ticket }) = lock.waiting {
            let slot = lock.slots[lock.held];
            self.shard(slot)
                .lock()
                .withdraw(slot, ticket, lock.access, &mut woken);
        }
        if let Some(ticket) = lock.span_ticket {
            self.ranges.lock().leave(ticket, &mut woken);
        }
        woken
    }

    /// Keeps `lock` of a command that was proposed to `region` in `term` and whose outcome is
    /// unknown: its write may still come. [`Latches::decided`] lets it go. Call that once after
    /// this with what is applied now, in case it came first.
    ///
    /// # Panics
    /// If the lock is not held: then nothing was proposed, and it should be released.
    pub fn detain(&self, lock: Lock, region: u64, term: u64) {
        assert!(
            lock.complete(),
            "a lock that is not held has nothing proposed: {lock:?}"
        );
        self.detained
            .lock()
            .by_region
            .entry(region)
            .or_default()
            .push((term, lock));
        self.detained_count.fetch_add(1, Ordering::Release);
    }

    /// `region` has applied an entry of `applied_term`: no proposal of an earlier term can come any
    /// more, and their detained locks are released. `u64::MAX` when the region left this store.
    /// Returns the waiters to wake, as [`Latches::release`].
    #[must_use = "who is not woken waits for ever"]
    pub fn decided(&self, region: u64, applied_term: u64) -> Vec<W> {
        if self.detained_count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut free = Vec::new();
        {
            let mut detained = self.detained.lock();
            if let Some(locks) = detained.by_region.get_mut(&region) {
                free.extend(locks.extract_if(.., |(term, _)| *term < applied_term));
                if locks.is_empty() {
                    detained.by_region.remove(&region);
                }
            }
        }
        self.detained_count.fetch_sub(free.len(), Ordering::Release);
        free.into_iter()
            .flat_map(|(_, lock)| self.release(lock))
            .collect()
    }

    /// Locks whose commands ended without a known outcome.
    pub fn detained(&self) -> usize {
        self.detained_count.load(Ordering::Acquire)
    }

    /// Nothing is held and nobody waits.
    pub fn is_idle(&self) -> bool {
        self.ranges.lock().entries.is_empty()
            && self
                .shards
                .iter()
                .all(|shard| shard.lock().slots.iter().all(Slot::is_idle))
    }

    fn shard(&self, slot: u16) -> &Mutex<Shard<W>> {
        &self.shards[usize::from(slot) / SLOTS_PER_SHARD]
    }

    fn slot_waits(&self, slot: u16, ticket: u64) -> bool {
        let mut shard = self.shard(slot).lock();
        shard
            .slot(slot)
            .queue
            .iter()
            .any(|waiter| waiter.ticket == ticket)
    }
}

#[derive(Debug, Default)]
struct Detained {
    /// (term of the proposal, its lock), by region.
    by_region: BTreeMap<u64, Vec<(u64, Lock)>>,
}

/// The slots behind one mutex.
#[derive(Debug)]
struct Shard<W> {
    slots: Box<[Slot<W>]>,
    /// The ticket of the next waiter.
    next_ticket: u64,
}

#[derive(Debug)]
struct Slot<W> {
    holders: Holders,
    /// In the order they came; the first of them conflicts with the holders.
    queue: VecDeque<Waiter<W>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holders {
    Shared(u32),
    Exclusive,
}

#[derive(Debug)]
struct Waiter<W> {
    ticket: u64,
    access: Access,
    wake: W,
}

impl<W> Slot<W> {
    const FREE: Holders = Holders::Shared(0);

    fn is_idle(&self) -> bool {
        self.holders == Self::FREE && self.queue.is_empty()
    }

    /// Lets one more in, if the holders allow it.
    fn admit(&mut self, access: Access) -> bool {
        self.holders = match (self.holders, access) {
            (Holders::Shared(count), Access::Shared) => Holders::Shared(count + 1),
            (Holders::Shared(0), Access::Exclusive) => Holders::Exclusive,
            _ => return false,
        };
        true
    }

    /// Lets in as many from the head of the queue as the holders allow.
    fn admit_queue(&mut self, woken: &mut Vec<W>) {
        while let Some(access) = self.queue.front().map(|waiter| waiter.access) {
            if !self.admit(access) {
                return;
            }
            woken.extend(self.queue.pop_front().map(|waiter| waiter.wake));
        }
    }
}

impl<W> Shard<W> {
    fn new() -> Self {
        let slot = || Slot {
            holders: Slot::<W>::FREE,
            queue: VecDeque::new(),
        };
        Self {
            slots: (0..SLOTS_PER_SHARD).map(|_| slot()).collect(),
            next_ticket: 0,
        }
    }

    fn slot(&mut self, slot: u16) -> &mut Slot<W> {
        &mut self.slots[usize::from(slot) % SLOTS_PER_SHARD]
    }

    fn take(&mut self, slot: u16, access: Access) -> bool {
        let slot = self.slot(slot);
        // Nobody overtakes a waiter, whatever it could share: a stream of puts starves no swap.
        slot.queue.is_empty() && slot.admit(access)
    }

    fn wait(&mut self, slot: u16, access: Access, wake: W) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.slot(slot).queue.push_back(Waiter {
            ticket,
            access,
            wake,
        });
        ticket
    }

    fn give_back(&mut self, slot: u16, access: Access, woken: &mut Vec<W>) {
        let slot = self.slot(slot);
        slot.holders = match (slot.holders, access) {
            (Holders::Shared(count @ 1..), Access::Shared) => Holders::Shared(count - 1),
            (Holders::Exclusive, Access::Exclusive) => Slot::<W>::FREE,
            (holders, _) => panic!("a latch was given back that is held otherwise: {holders:?}"),
        };
        slot.admit_queue(woken);
    }

    /// The waiter gives up. If it was granted meanwhile it is a holder by now.
    fn withdraw(&mut self, slot: u16, ticket: u64, access: Access, woken: &mut Vec<W>) {
        let queue = &mut self.slot(slot).queue;
        match queue.iter().position(|waiter| waiter.ticket == ticket) {
            Some(at) => {
                queue.remove(at);
                self.slot(slot).admit_queue(woken);
            }
            None => self.give_back(slot, access, woken),
        }
    }
}

/// Range deletes and the keys of compare-and-swaps, in the order they came. An entry is granted
/// when no earlier one conflicts with it.
#[derive(Debug)]
struct RangeTable<W> {
    /// By ticket. `wake` is there while the entry waits.
    entries: BTreeMap<u64, SpanEntry<W>>,
    next_ticket: u64,
    /// Range entries, so that a compare-and-swap without any around looks at nothing.
    ranges: usize,
}

#[derive(Debug)]
struct SpanEntry<W> {
    span: Span,
    /// Earlier entries that conflict and are still there; 0: granted.
    blockers: usize,
    wake: Option<W>,
}

impl<W> RangeTable<W> {
    fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            next_ticket: 0,
            ranges: 0,
        }
    }

    fn granted(&self, ticket: u64) -> bool {
        self.entries
            .get(&ticket)
            .is_some_and(|entry| entry.blockers == 0)
    }

    fn enter(&mut self, span: Span) -> (u64, bool) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let alone = matches!(span, Span::Key(_)) && self.ranges == 0;
        let blockers = if alone {
            0
        } else {
            self.entries
                .values()
                .filter(|entry| entry.span.conflicts(&span))
                .count()
        };
        self.ranges += usize::from(matches!(span, Span::Range { .. }));
        self.entries.insert(
            ticket,
            SpanEntry {
                span,
                blockers,
                wake: None,
            },
        );
        (ticket, blockers == 0)
    }

    fn wait(&mut self, ticket: u64, wake: W) {
        if let Some(entry) = self.entries.get_mut(&ticket) {
            entry.wake = Some(wake);
        }
    }

    fn leave(&mut self, ticket: u64, woken: &mut Vec<W>) {
        let Some(gone) = self.entries.remove(&ticket) else {
            panic!("span {ticket} left the range table twice");
        };
        let alone = matches!(gone.span, Span::Key(_)) && self.ranges == 0;
        self.ranges -= usize::from(matches!(gone.span, Span::Range { .. }));
        if alone {
            return;
        }
        for entry in self.entries.range_mut(ticket..).map(|(_, entry)| entry) {
            if entry.span.conflicts(&gone.span) {
                entry.blockers -= 1;
                if entry.blockers == 0 {
                    woken.extend(entry.wake.take());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
