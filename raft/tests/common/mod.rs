//! One replica with a disk that can lose what was not written, as both test drivers use it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use flotilla_proto::clock::Mono;
use flotilla_proto::raft::{
    ConfChange, ConfState, Entry, EntryKind, HardState, Message, Snapshot, SnapshotMeta,
};
use flotilla_raft::{
    Config, FetchFor, INITIAL_INDEX, INITIAL_TERM, LogView, Lookup, MemLog, Raft, Ready, Restart,
    Ticket,
};
use prost::Message as _;

/// A log in memory that can pretend that entries are on disk and must be fetched.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) mem: MemLog,
    /// The next look-up is answered with a ticket.
    pub(crate) cold: Cell<bool>,
    /// Tickets given out and not yet redeemed.
    pub(crate) tickets: RefCell<Vec<Ticket>>,
    tickets_given: Cell<u64>,
}

impl LogView for View {
    fn first_index(&self) -> u64 {
        self.mem.first_index()
    }

    fn last_index(&self) -> u64 {
        self.mem.last_index()
    }

    fn term(&self, index: u64) -> Option<u64> {
        self.mem.term(index)
    }

    fn entries(&self, low: u64, high: u64, bytes_max: u64, why: FetchFor) -> Lookup<Vec<Entry>> {
        if self.cold.get() {
            let ticket = Ticket(self.tickets_given.get() + 1);
            self.tickets_given.set(ticket.0);
            self.tickets.borrow_mut().push(ticket);
            return Lookup::Pending(ticket);
        }
        self.mem.entries(low, high, bytes_max, why)
    }

    fn append(&mut self, entries: &[Entry]) {
        self.mem.append(entries);
    }

    fn restore(&mut self, index: u64, term: u64) {
        self.mem.restore(index, term);
    }

    fn snapshot(&self) -> Option<Snapshot> {
        self.mem.snapshot()
    }
}

/// What the entries were applied to: the configuration, and a hash over all of them in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Machine {
    pub(crate) applied: u64,
    pub(crate) term: u64,
    pub(crate) conf: ConfState,
    pub(crate) chain: u64,
}

impl Machine {
    /// The state of a fresh group (contracts: C33).
    pub(crate) fn fresh(conf: ConfState) -> Self {
        Self {
            applied: INITIAL_INDEX,
            term: INITIAL_TERM,
            conf,
            chain: 0,
        }
    }

    pub(crate) fn apply(&mut self, entry: &Entry) {
        assert_eq!(
            entry.index,
            self.applied + 1,
            "entries are applied in order, each once"
        );
        self.applied = entry.index;
        self.term = entry.term;
        self.chain = mix(self.chain ^ entry_hash(entry));
        if entry.kind == EntryKind::ConfChange as i32 {
            self.conf = conf_of(entry);
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let meta = SnapshotMeta {
            index: self.applied,
            term: self.term,
            conf: Some(self.conf.clone()),
        };
        Snapshot {
            meta: Some(meta),
            manifest: self.chain.to_le_bytes().to_vec().into(),
        }
    }

    pub(crate) fn install(snapshot: &Snapshot) -> Self {
        let meta = snapshot.meta.clone().expect("a snapshot has meta data");
        let chain = u64::from_le_bytes(
            snapshot.manifest[..]
                .try_into()
                .expect("the manifest is a hash"),
        );
        Self {
            applied: meta.index,
            term: meta.term,
            conf: meta.conf.unwrap_or_default(),
            chain,
        }
    }
}

/// The configuration a CONF_CHANGE entry names.
pub(crate) fn conf_of(entry: &Entry) -> ConfState {
    let change = ConfChange::decode(entry.data.clone()).expect("the core encodes its own entries");
    change
        .resulting
        .expect("a change names the resulting configuration")
}

pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Everything an entry says.
pub(crate) fn entry_hash(entry: &Entry) -> u64 {
    let seed = mix(entry.term) ^ mix(entry.index).rotate_left(17) ^ entry.kind as u64;
    entry
        .data
        .iter()
        .fold(mix(seed), |hash, byte| mix(hash ^ u64::from(*byte)))
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    pub(crate) log: MemLog,
    pub(crate) machine: Machine,
    /// Taken in with the log and not yet part of `machine` (contracts: C6).
    pub(crate) intent: Option<Snapshot>,
}

/// A Ready on its way to the disk, and the messages that wait for it.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) number: u64,
    pub(crate) hard_state: Option<HardState>,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) messages: Vec<Message>,
}

/// Something to apply.
#[derive(Debug)]
pub(crate) enum Work {
    Entry(Entry),
    Install(Snapshot),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: u64,
    /// `None` while it is down.
    pub(crate) raft: Option<Raft<View>>,
    pub(crate) disk: Disk,
    pub(crate) machine: Machine,
    pub(crate) writes: VecDeque<Write>,
    pub(crate) work: VecDeque<Work>,
}

impl Node {
    /// Down, with an empty disk: it knows nothing of any group.
    pub(crate) fn blank(id: u64) -> Self {
        let (disk, machine) = (Disk::default(), Machine::default());
        Self {
            id,
            raft: None,
            disk,
            machine,
            writes: VecDeque::new(),
            work: VecDeque::new(),
        }
    }

    /// Down, with the disk of a member of a fresh group.
    pub(crate) fn member(id: u64, conf: ConfState) -> Self {
        let machine = Machine::fresh(conf);
        let disk = Disk {
            hard_state: HardState {
                term: INITIAL_TERM,
                vote: 0,
                commit: INITIAL_INDEX,
            },
            log: MemLog::starting_at(INITIAL_INDEX, INITIAL_TERM),
            machine: machine.clone(),
            intent: None,
        };
        Self {
            disk,
            machine,
            ..Self::blank(id)
        }
    }

    /// Starts from the disk.
    pub(crate) fn start(&mut self, config: Config, now: Mono) {
        if let Some(snapshot) = self.disk.intent.take() {
            let installed = Machine::install(&snapshot);
            if installed.applied > self.disk.machine.applied {
                self.disk.machine = installed;
            }
        }
        self.machine = self.disk.machine.clone();
        let restart = Restart {
            hard_state: self.disk.hard_state,
            conf: self.machine.conf.clone(),
            applied: self.machine.applied,
        };
        let view = View {
            mem: self.disk.log.clone(),
            ..View::default()
        };
        self.raft = Some(Raft::new(config, restart, view, now).expect("the disk is consistent"));
    }

    /// Loses everything but the disk and the first `kept` of the writes under way.
    pub(crate) fn crash(&mut self, kept: usize) {
        for _ in 0..kept {
            self.write();
        }
        self.raft = None;
        self.writes.clear();
        self.work.clear();
    }

    /// Queues what a Ready wants written and applied. The messages that may leave at once, and the
    /// rest of the Ready, stay with the caller.
    pub(crate) fn accept(&mut self, ready: &mut Ready) {
        if ready.awaits_write() {
            self.writes.push_back(Write {
                number: ready.number,
                hard_state: ready.hard_state,
                snapshot: ready.snapshot.clone(),
                entries: std::mem::take(&mut ready.entries),
                messages: std::mem::take(&mut ready.send_after_write),
            });
        }
        self.work.extend(
            std::mem::take(&mut ready.committed)
                .into_iter()
                .map(Work::Entry),
        );
    }

    /// Makes the oldest write durable, without telling the core. Returns its number and the messages
    /// that may leave once the core was told.
    pub(crate) fn write(&mut self) -> Option<(u64, Vec<Message>)> {
        let write = self.writes.pop_front()?;
        if let Some(state) = write.hard_state {
            self.disk.hard_state = state;
        }
        if let Some(snapshot) = write.snapshot {
            let meta = snapshot.meta.as_ref().expect("a snapshot has meta data");
            self.disk.log.restore(meta.index, meta.term);
            self.disk.intent = Some(snapshot.clone());
            self.work.push_back(Work::Install(snapshot));
        }
        self.disk.log.append(&write.entries);
        Some((write.number, write.messages))
    }

    /// Applies the oldest piece of work and tells the core.
    pub(crate) fn apply(&mut self, now: Mono) -> Option<Work> {
        let raft = self.raft.as_mut()?;
        let work = self.work.pop_front()?;
        match &work {
            Work::Entry(entry) => {
                self.machine.apply(entry);
                if entry.kind == EntryKind::ConfChange as i32 {
                    raft.apply_conf_change(now, &self.machine.conf)
                        .expect("the core checked it");
                }
            }
            Work::Install(snapshot) => self.machine = Machine::install(snapshot),
        }
        raft.applied(now, self.machine.applied);
        Some(work)
    }

    /// The applied state so far survives a crash from now on.
    pub(crate) fn flush(&mut self) {
        self.disk.machine = self.machine.clone();
        let installed = |snapshot: &mut Snapshot| {
            snapshot
                .meta
                .as_ref()
                .is_some_and(|meta| meta.index <= self.disk.machine.applied)
        };
        self.disk.intent.take_if(installed);
    }

    /// Truncates the log, at most to what is durably applied.
    pub(crate) fn truncate(&mut self, index: u64) {
        let index = index.min(self.disk.machine.applied);
        self.disk.log.truncate(index);
        if let Some(raft) = &mut self.raft {
            let view = &mut raft.log_mut().mem;
            view.truncate(index);
            let stale = |meta: &SnapshotMeta| meta.index + 1 < view.first_index();
            if view
                .snapshot()
                .and_then(|snapshot| snapshot.meta)
                .is_some_and(|meta| stale(&meta))
            {
                view.set_snapshot(None);
            }
        }
    }

    /// Takes a snapshot of the applied state and shows it to the core.
    pub(crate) fn take_snapshot(&mut self, now: Mono) {
        let snapshot = self.machine.snapshot();
        if let Some(raft) = &mut self.raft
            && self.machine.applied + 1 >= raft.log().first_index()
        {
            raft.log_mut().mem.set_snapshot(Some(snapshot));
            raft.snapshot_ready(now);
        }
    }
}
