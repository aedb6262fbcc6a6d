//! What a raft group sees of its log: recent entries in memory, older ones fetched off the pollers.
//!
//! Terms of all indexes are known without IO: they are kept by run. Invariants: the runs cover
//! [first, last] without a gap; the cached entries are a suffix of the log, or none.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use flotilla_engine::{ByteBudget, EntryCache, LogSpan, RegionLog};
use flotilla_proto::metapb::Peer;
use flotilla_proto::raft::{Entry, Snapshot};
use flotilla_raft::{FetchFor, LogView, Lookup, Ticket};

use crate::effects::Fetch;
use crate::region::{INITIAL_INDEX, INITIAL_TERM};

/// The log of one peer.
#[derive(Debug)]
pub struct PeerLog {
    region: u64,
    /// The truncation point: the last index that is gone, and its term.
    truncated: (u64, u64),
    /// Last index; `truncated.0` when there are no entries.
    last: u64,
    /// (first index of a run, its term), ascending.
    terms: VecDeque<(u64, u64)>,
    /// A suffix of the log.
    cache: EntryCache,
    /// Payload bytes of the whole log, roughly once entries have left the cache.
    bytes: u64,
    /// The last index before the append of the Ready that is being handed out.
    last_before: u64,
    /// Entries that left the cache, on their way back.
    reads: RefCell<Reads>,
    /// To send to followers that need what is truncated.
    snapshot: Option<Snapshot>,
    /// What the log held when a snapshot took its place.
    restored_over: Option<LogSpan>,
    /// Senders that the region's descriptor does not name yet.
    addresses: BTreeMap<u64, Peer>,
}

/// Entries being read off the pollers. The core only looks at its log, so this part changes inside.
#[derive(Debug, Default)]
struct Reads {
    last_ticket: u64,
    /// Not sent out yet. Invariant: each is in `under_way` too.
    wanted: Vec<Fetch>,
    /// Not come back yet, by ticket. The core waits for every one of them.
    under_way: BTreeMap<u64, Asked>,
    /// Arrived, by first index; the core asks again.
    arrived: BTreeMap<u64, Vec<Entry>>,
}

/// Entries [low, high) that were asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    low: u64,
    high: u64,
    /// The log was cut or truncated there since: whatever comes back, or does not, means nothing.
    outlived: bool,
}

impl PeerLog {
    /// The log of a region that was bootstrapped or split off: empty behind its birth (C33).
    pub(crate) fn fresh(region: u64, budget: &Arc<ByteBudget>) -> Self {
        Self {
            region,
            truncated: (INITIAL_INDEX, INITIAL_TERM),
            last: INITIAL_INDEX,
            terms: VecDeque::new(),
            cache: EntryCache::new(Arc::clone(budget)),
            bytes: 0,
            last_before: INITIAL_INDEX,
            reads: RefCell::default(),
            snapshot: None,
            restored_over: None,
            addresses: BTreeMap::new(),
        }
    }

    /// The log of a peer that knows nothing yet (contracts: C33).
    pub(crate) fn blank(region: u64, budget: &Arc<ByteBudget>) -> Self {
        Self {
            truncated: (0, 0),
            last: 0,
            last_before: 0,
            ..Self::fresh(region, budget)
        }
    }

    /// Its tickets are none that an earlier life of the region has given out.
    pub(crate) fn of_life(self, life: u64) -> Self {
        self.reads.borrow_mut().last_ticket = life << 32;
        self
    }

    /// What it holds, its truncation point included.
    pub(crate) fn span(&self) -> LogSpan {
        LogSpan {
            first: self.truncated.0,
            last: self.last,
        }
    }

    /// The log as it was found on disk; the engine has checked that it is whole (contracts: C10).
    pub(crate) fn open(region: u64, found: &RegionLog, budget: &Arc<ByteBudget>) -> Self {
        let truncated = found.truncated();
        let last = found.last_index();
        Self {
            truncated: (truncated.index, truncated.term),
            last,
            last_before: last,
            terms: found.terms.iter().copied().collect(),
            bytes: found.bytes,
            ..Self::fresh(region, budget)
        }
    }

    /// The first index held.
    pub(crate) fn first(&self) -> u64 {
        self.truncated.0 + 1
    }

    /// The term of an index that is held, or of the truncation point.
    pub(crate) fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.truncated.0 {
            return Some(self.truncated.1);
        }
        if index < self.truncated.0 || index > self.last {
            return None;
        }
        let run = self.terms.partition_point(|(first, _)| *first <= index);
        self.terms.get(run.checked_sub(1)?).map(|(_, term)| *term)
    }

    /// Payload bytes of the entries up to `to`; a guess by share for those not in memory.
    pub(crate) fn bytes_up_to(&self, to: u64) -> u64 {
        let held = self.last - self.truncated.0;
        let asked = to.saturating_sub(self.truncated.0).min(held);
        self.bytes.checked_div(held).unwrap_or(0) * asked
    }

    /// The last index before the entries that are being handed out were appended.
    pub(crate) fn take_last_before(&mut self) -> u64 {
        std::mem::replace(&mut self.last_before, self.last)
    }

    /// Entries that must be read. Those behind `persisted` may still be on their way to the engine:
    /// they wait.
    pub(crate) fn take_fetches(&mut self, persisted: u64) -> Vec<Fetch> {
        let Reads {
            wanted, under_way, ..
        } = self.reads.get_mut();
        let outlived = |ticket: u64| under_way.get(&ticket).is_none_or(|asked| asked.outlived);
        let ready = |fetch: &mut Fetch| fetch.low <= persisted || outlived(fetch.ticket);
        let ready = wanted.extract_if(.., ready);
        let within = |fetch: Fetch| Fetch {
            high: fetch.high.min(persisted + 1).max(fetch.low + 1),
            ..fetch
        };
        ready.map(within).collect()
    }

    /// Entries that were read. Those that a new leader has replaced meanwhile are dropped.
    pub(crate) fn fetched(&mut self, ticket: u64, low: u64, entries: Vec<Entry>) {
        let asked = self.reads.get_mut().under_way.remove(&ticket);
        let expected = asked.is_some_and(|asked| asked.low == low && !asked.outlived);
        let current = |entry: &Entry| self.term_of(entry.index) == Some(entry.term);
        if expected && !entries.is_empty() && entries.iter().all(current) {
            self.reads.get_mut().arrived.insert(low, entries);
        }
    }

    /// Entries that could not be read. Whether the log should have had them.
    pub(crate) fn fetch_failed(&mut self, ticket: u64) -> bool {
        let asked = self.reads.get_mut().under_way.remove(&ticket);
        asked.is_some_and(|asked| !asked.outlived)
    }

    /// Nobody here will ask the cache for `index` or less: applied, and at the followers.
    pub(crate) fn release(&mut self, index: u64) {
        self.cache.evict_below(index + 1);
    }

    /// Entries up to `index` are gone.
    pub(crate) fn truncate(&mut self, index: u64, term: u64) {
        assert!(
            index >= self.truncated.0 && index <= self.last,
            "truncating what is not held"
        );
        self.bytes -= self.bytes_up_to(index).min(self.bytes);
        self.truncated = (index, term);
        while self
            .terms
            .get(1)
            .is_some_and(|(first, _)| *first <= index + 1)
        {
            self.terms.pop_front();
        }
        if index == self.last {
            self.terms.clear();
        } else if let Some(front) = self.terms.front_mut() {
            front.0 = front.0.max(index + 1);
        }
        self.release(index);
        self.reads.get_mut().outlive(|asked| asked.low <= index);
    }

    /// A snapshot to send, or none any more.
    pub(crate) fn set_snapshot(&mut self, snapshot: Option<Snapshot>) {
        self.snapshot = snapshot;
    }

    /// The index of the snapshot at hand.
    pub(crate) fn snapshot_index(&self) -> Option<u64> {
        let meta = self.snapshot.as_ref()?.meta.as_ref()?;
        Some(meta.index)
    }

    /// What the log held before a snapshot took its place.
    pub(crate) fn take_restored_over(&mut self) -> LogSpan {
        self.restored_over.take().unwrap_or_else(|| self.span())
    }

    /// Remembers where a peer that the descriptor does not name can be reached.
    pub(crate) fn learn_address(&mut self, peer: Peer) {
        if peer.id != 0 {
            self.addresses.insert(peer.id, peer);
        }
    }

    /// See [`PeerLog::learn_address`].
    pub(crate) fn address(&self, peer: u64) -> Option<Peer> {
        self.addresses.get(&peer).copied()
    }

    /// Those that were learned.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Peer> {
        self.addresses.values()
    }

    fn cut_from(&mut self, index: u64) {
        assert!(
            index > self.truncated.0,
            "region {}: cutting what is truncated",
            self.region
        );
        self.cache.cut(index);
        while self.terms.back().is_some_and(|(first, _)| *first >= index) {
            self.terms.pop_back();
        }
        self.last = index - 1;
        self.reads.get_mut().outlive(|asked| asked.high > index);
    }
}

impl Reads {
    fn look_up(&mut self, region: u64, low: u64, high: u64, bytes_max: u64) -> Lookup<Vec<Entry>> {
        if let Some(entries) = self.arrived.remove(&low) {
            return Lookup::Ready(take(entries.iter(), high, bytes_max));
        }
        let same = |asked: &Asked| asked.low == low && !asked.outlived;
        if let Some((ticket, _)) = self.under_way.iter().find(|(_, asked)| same(asked)) {
            return Lookup::Pending(Ticket(*ticket));
        }
        tracing::trace!(target: crate::PROBE_TARGET, "log view: fetch, not in the cache");
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        let asked = Asked {
            low,
            high,
            outlived: false,
        };
        self.under_way.insert(ticket, asked);
        self.wanted.push(Fetch {
            region,
            ticket,
            low,
            high,
            bytes_max,
        });
        Lookup::Pending(Ticket(ticket))
    }

    /// The log has changed where `reaches` says. The core still waits for the tickets.
    fn outlive(&mut self, reaches: impl Fn(&Asked) -> bool) {
        for asked in self.under_way.values_mut() {
            asked.outlived |= reaches(asked);
        }
        self.arrived.retain(|low, entries| {
            let asked = Asked {
                low: *low,
                high: *low + entries.len() as u64,
                outlived: false,
            };
            !reaches(&asked)
        });
    }
}

/// Entries below `high` until `bytes_max` payload bytes, but at least one.
fn take<'a>(entries: impl Iterator<Item = &'a Entry>, high: u64, bytes_max: u64) -> Vec<Entry> {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    for entry in entries.take_while(|entry| entry.index < high) {
        bytes += entry.data.len() as u64;
        if !taken.is_empty() && bytes > bytes_max {
            break;
        }
        taken.push(entry.clone());
    }
    taken
}

impl LogView for PeerLog {
    fn first_index(&self) -> u64 {
        self.first()
    }

    fn last_index(&self) -> u64 {
        self.last
    }

    fn term(&self, index: u64) -> Option<u64> {
        self.term_of(index)
    }

    fn entries(&self, low: u64, high: u64, bytes_max: u64, _why: FetchFor) -> Lookup<Vec<Entry>> {
        assert!(
            low < high && high <= self.last + 1,
            "region {}: [{low}, {high})",
            self.region
        );
        if low <= self.truncated.0 {
            return Lookup::Compacted;
        }
        match self.cache.entries(low, high, bytes_max) {
            Some(entries) => Lookup::Ready(entries),
            None => self
                .reads
                .borrow_mut()
                .look_up(self.region, low, high, bytes_max),
        }
    }

    fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index <= self.last + 1,
            "region {}: a gap in the log",
            self.region
        );
        self.last_before = self.last_before.max(self.last);
        if first.index <= self.last {
            self.cut_from(first.index);
        }
        self.cache.append(entries);
        for entry in entries {
            assert_eq!(
                entry.index,
                self.last + 1,
                "region {}: a gap in the log",
                self.region
            );
            if self
                .terms
                .back()
                .is_none_or(|(_, term)| *term != entry.term)
            {
                self.terms.push_back((entry.index, entry.term));
            }
            self.last = entry.index;
            self.bytes += entry.data.len() as u64;
        }
    }

    fn restore(&mut self, index: u64, term: u64) {
        self.restored_over = Some(self.span());
        self.snapshot = None;
        self.truncated = (index, term);
        self.last = index;
        self.last_before = index;
        self.bytes = 0;
        self.terms.clear();
        self.cache.clear();
        self.reads.get_mut().outlive(|_| true);
    }

    fn snapshot(&self) -> Option<Snapshot> {
        self.snapshot.clone()
    }
}
