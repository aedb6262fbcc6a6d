//! The world around the cores: time, clocks that drift, a network that loses, delays, repeats and
//! reorders, disks that take their time, crashes, and people who change their minds about members.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use flotilla_proto::clock::Mono;
use flotilla_proto::raft::{ConfState, Entry, EntryKind, Message, MessageKind};
use flotilla_raft::{CLOCK_DRIFT_PERCENT, Config, Raft, Role};

use crate::check::Checker;
use crate::common::{Node, View, Work};
use crate::odds::{self, Odds};
use crate::rng::Rng;

/// Peers that may ever exist.
pub(crate) const PEERS: u64 = 7;
const MILLI: u64 = 1_000_000;
/// Virtual time within which a healed group must be whole again.
const HEAL_MAX: u64 = 120_000 * MILLI;

/// One peer's place in the world.
pub(crate) struct Place {
    pub(crate) node: Node,
    /// Its monotonic clock, and how fast that runs: per mille of true time.
    pub(crate) clock: Mono,
    rate: u64,
    /// It stands still until then.
    paused_until: u64,
    starts: u64,
    /// Its store learned that the peer is no member any more.
    retired: bool,
    /// Entries it proposed, by index: applied here they are acknowledged.
    pub(crate) proposed: BTreeMap<u64, u64>,
    /// Reads under way: token -> what must be visible.
    pub(crate) reads: BTreeMap<u64, u64>,
    /// Snapshots sent and not reported: (to, true time of the report).
    reports: Vec<(u64, u64)>,
    wants_snapshot: bool,
}

/// Lines of what happened, if anybody asked.
#[derive(Default)]
pub(crate) struct Trace {
    on: bool,
    lines: std::cell::RefCell<Vec<String>>,
}

impl Trace {
    pub(crate) fn take(&self) -> Vec<String> {
        self.lines.take()
    }

    pub(crate) fn print(&self, tail: usize) {
        let lines = self.lines.borrow();
        println!("{}", lines[lines.len().saturating_sub(tail)..].join("\n"));
    }

    pub(crate) fn add(&self, line: impl FnOnce() -> String) {
        if self.on {
            self.lines.borrow_mut().push(line());
        }
    }
}

/// Done to every core when it starts.
type Arm = Box<dyn Fn(&mut Raft<View>)>;

pub(crate) struct World {
    arm: Arm,
    pub(crate) rng: Rng,
    odds: Odds,
    base: Config,
    time: u64,
    pub(crate) places: BTreeMap<u64, Place>,
    /// By when it arrives, then by when it was sent.
    flying: BTreeMap<(u64, u64), Message>,
    sent: u64,
    /// Cut one-way links.
    cut: Vec<(u64, u64)>,
    pub(crate) next_token: u64,
    pub(crate) check: Checker,
    pub(crate) trace: Trace,
}

impl World {
    pub(crate) fn draw(seed: u64, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let (odds, base) = odds::draw(&mut rng);
        let voters: Vec<u64> = (1..=odds.voters).collect();
        let learners = if rng.percent(20) {
            vec![voters.len() as u64 + 1]
        } else {
            Vec::new()
        };
        let conf = ConfState {
            voters,
            learners,
            ..ConfState::default()
        };
        let trace = Trace {
            on: traced,
            ..Trace::default()
        };
        trace.add(|| format!("seed={seed} {odds:?} {base:?} {conf:?}"));
        let mut world = Self {
            arm: Box::new(|_| {}),
            odds,
            base,
            time: 0,
            places: BTreeMap::new(),
            flying: BTreeMap::new(),
            sent: 0,
            cut: Vec::new(),
            next_token: 0,
            check: Checker::new(conf.clone()),
            trace,
            rng,
        };
        for id in 1..=PEERS {
            let member = conf.voters.contains(&id) || conf.learners.contains(&id);
            let node = if member {
                Node::member(id, conf.clone())
            } else {
                Node::blank(id)
            };
            let clock = Mono(world.rng.range(0, 10_000) * MILLI);
            let place = Place {
                node,
                clock,
                rate: 1000,
                paused_until: 0,
                starts: 0,
                retired: false,
                proposed: BTreeMap::new(),
                reads: BTreeMap::new(),
                reports: Vec::new(),
                wants_snapshot: false,
            };
            world.places.insert(id, place);
            world.redraw_rate(id);
            world.place(id).retired = !member;
        }
        world
    }

    /// Does `arm` to every core as it starts.
    #[cfg(feature = "planted")]
    pub(crate) fn arm(&mut self, arm: impl Fn(&mut Raft<View>) + 'static) {
        self.arm = Box::new(arm);
    }

    pub(crate) fn run(&mut self) {
        for id in 1..=PEERS {
            if !std::mem::take(&mut self.place(id).retired) {
                self.start(id);
            }
        }
        for _ in 0..self.odds.steps {
            self.step();
        }
        self.heal();
    }

    fn step(&mut self) {
        let odds = self.odds;
        let span = self.rng.pick(odds.spans) * MILLI;
        self.pass(span);
        let id = self.anybody().unwrap_or(1);
        if self.rng.per_mille(odds.propose_permille) {
            self.propose();
        }
        if self.rng.per_mille(odds.read_permille) {
            self.read();
        }
        if self.rng.per_mille(odds.conf_permille) {
            self.change_members();
        }
        if self.rng.per_mille(odds.transfer_permille) {
            self.transfer();
        }
        if self.rng.per_mille(odds.crash_permille) {
            self.crash(id);
        } else if self.rng.per_mille(odds.pause_permille) {
            let span = self.rng.range(1, odds.pause_max + 1) * MILLI;
            self.trace
                .add(|| format!("{id} stands still for {} ms", span / MILLI));
            self.place(id).paused_until = self.time + span;
        }
        if self.rng.per_mille(odds.partition_permille) {
            self.partition();
        }
        if self.rng.percent(odds.depose_pct) {
            self.isolate_deposed();
        }
        if self.rng.per_mille(odds.truncate_permille) {
            self.truncate(id);
        }
        if self.rng.per_mille(5) {
            self.redraw_rate(id);
        }
    }

    pub(crate) fn place(&mut self, id: u64) -> &mut Place {
        self.places.get_mut(&id).expect("every peer has a place")
    }

    // ---- time ----

    /// True time goes on; clocks follow at their own rates; whatever is due happens.
    fn pass(&mut self, span: u64) {
        self.time += span;
        for place in self.places.values_mut() {
            place.clock = place.clock + Duration::from_nanos(span / 1000 * place.rate);
        }
        self.deliver();
        for id in 1..=PEERS {
            self.work(id);
        }
    }

    fn deliver(&mut self) {
        let time = self.time;
        while let Some(entry) = self
            .flying
            .first_entry()
            .filter(|entry| entry.key().0 <= time)
        {
            let ((_, sent), message) = entry.remove_entry();
            let to = message.to;
            let place = self.place(to);
            if place.paused_until > time {
                // Waits in the inbox.
                let until = place.paused_until;
                self.flying.insert((until, sent), message);
                continue;
            }
            if place.node.raft.is_none() {
                if place.starts > 0 || place.retired {
                    continue;
                }
                self.start(to);
            }
            let at = time / 1000;
            self.trace.add(|| format!("  {at} us: {}", show(&message)));
            let place = self.place(to);
            let now = place.clock;
            let outcome = place
                .node
                .raft
                .as_mut()
                .expect("it runs")
                .step(now, message);
            self.check.delivered(outcome);
            self.look(to);
        }
    }

    /// A peer's own time: ticks, disk, apply, reports.
    fn work(&mut self, id: u64) {
        let time = self.time;
        let place = self.place(id);
        if place.paused_until > time {
            return;
        }
        if place.node.raft.is_none() {
            let returns = place.starts > 0 && !place.retired;
            if returns && self.rng.percent(self.odds.restart_pct) {
                self.start(id);
            }
            return;
        }
        let now = self.place(id).clock;
        if self.rng.percent(80) {
            let place = self.place(id);
            let raft = place.node.raft.as_mut().expect("it runs");
            raft.tick(now);
            self.look(id);
        }
        self.redeem(id);
        self.report(id);
        let odds = self.odds;
        if self.rng.percent(odds.write_pct) {
            let writes = self.place(id).node.writes.len() as u64;
            let done = if self.rng.percent(70) {
                writes
            } else {
                self.rng.range(0, writes + 1)
            };
            self.write(id, done);
        }
        if self.rng.percent(odds.apply_pct) {
            let most = if self.rng.percent(80) { u64::MAX } else { 1 };
            self.apply(id, most);
        }
        if self.rng.percent(odds.flush_pct) {
            self.place(id).node.flush();
        }
        self.pump(id);
    }

    fn redeem(&mut self, id: u64) {
        let odds = self.odds;
        let cold = self.rng.percent(odds.cold_pct);
        let place = self.place(id);
        let now = place.clock;
        let raft = place.node.raft.as_mut().expect("it runs");
        let view = raft.log();
        view.cold.set(false);
        let tickets = view.tickets.take();
        for ticket in tickets {
            raft.fetched(now, ticket);
        }
        self.look(id);
        self.pump(id);
        if let Some(raft) = &self.place(id).node.raft {
            raft.log().cold.set(cold);
        }
    }

    fn report(&mut self, id: u64) {
        let time = self.time;
        let ok = self.rng.percent(70);
        let place = self.place(id);
        let due: Vec<_> = place
            .reports
            .extract_if(.., |(_, at)| *at <= time)
            .collect();
        let now = place.clock;
        if std::mem::take(&mut place.wants_snapshot) {
            place.node.take_snapshot(now);
        }
        let raft = place.node.raft.as_mut().expect("it runs");
        for (to, _) in due {
            raft.report_snapshot(to, ok);
        }
        self.look(id);
    }

    // ---- disk and machine ----

    fn write(&mut self, id: u64, count: u64) {
        for _ in 0..count {
            let place = self.places.get_mut(&id).expect("every peer has a place");
            let Some((number, messages)) = place.node.write() else {
                return;
            };
            self.check.wrote(&place.node);
            // The last of several completions speaks for all.
            if place.node.writes.is_empty() || self.rng.percent(50) || !messages.is_empty() {
                let now = place.clock;
                place
                    .node
                    .raft
                    .as_mut()
                    .expect("it runs")
                    .persisted(now, number);
            }
            self.send(id, messages);
            self.look(id);
        }
    }

    fn apply(&mut self, id: u64, most: u64) {
        for _ in 0..most {
            let place = self.places.get_mut(&id).expect("every peer has a place");
            let now = place.clock;
            let Some(work) = place.node.apply(now) else {
                return;
            };
            self.check.applied(place);
            if let Work::Entry(Entry { index, term, .. }) = work {
                let mine = place.proposed.remove(&index) == Some(term);
                if mine {
                    self.check.acknowledge(index);
                }
            }
            self.look(id);
        }
    }

    /// Takes the Readys, unless this peer is in a lazy mood.
    pub(crate) fn pump(&mut self, id: u64) {
        let odds = self.odds;
        if self.rng.percent(odds.lazy_pct) {
            return;
        }
        loop {
            let place = self.places.get_mut(&id).expect("every peer has a place");
            let now = place.clock;
            let Some(raft) = place.node.raft.as_mut().filter(|raft| raft.has_ready()) else {
                return;
            };
            let mut ready = raft.ready(now);
            self.check.handed_out(&place.node, &ready);
            for grant in std::mem::take(&mut ready.reads) {
                self.check.granted(&mut place.reads, grant);
            }
            for token in std::mem::take(&mut ready.reads_failed) {
                assert!(
                    place.reads.remove(&token).is_some(),
                    "read {token} failed twice"
                );
            }
            if let Some(change) = ready.role_change {
                self.trace.add(|| {
                    format!(
                        "{id} {:?} term={} leader={:?}",
                        change.role, change.term, change.leader
                    )
                });
            }
            place.wants_snapshot |= !ready.snapshot_wanted.is_empty();
            let messages = std::mem::take(&mut ready.send_now);
            place.node.accept(&mut ready);
            self.send(id, messages);
            self.look(id);
        }
    }

    // ---- network ----

    fn send(&mut self, from: u64, messages: Vec<Message>) {
        let odds = self.odds;
        for message in messages {
            self.check.leaves(&self.places[&from].node, &message);
            if message.kind == MessageKind::Snapshot as i32 {
                let at = self.time + self.rng.range(1, 3000) * MILLI;
                self.place(from).reports.push((message.to, at));
            }
            let lost = self.cut.contains(&(from, message.to)) || self.rng.percent(odds.loss_pct);
            if lost {
                self.trace.add(|| format!("  lost {}", show(&message)));
                if self.rng.percent(20) {
                    let to = message.to;
                    if let Some(raft) = &mut self.place(from).node.raft {
                        raft.report_unreachable(to);
                    }
                }
                continue;
            }
            if self.rng.percent(odds.duplicate_pct) {
                self.launch(message.clone());
            }
            self.launch(message);
        }
    }

    fn launch(&mut self, message: Message) {
        let slow = self.rng.percent(self.odds.slow_pct);
        let delay_max = if slow {
            self.odds.slow_max
        } else {
            self.odds.delay_max
        };
        let delay = self.rng.range(0, delay_max + 1);
        self.sent += 1;
        self.flying
            .insert((self.time + delay * MILLI, self.sent), message);
    }

    fn partition(&mut self) {
        if !self.cut.is_empty() && self.rng.percent(self.odds.heal_pct) {
            self.trace.add(|| "the network heals".to_owned());
            self.cut.clear();
            return;
        }
        if self.rng.percent(self.odds.shun_pct) {
            self.part_leader();
            return;
        }
        let side: Vec<bool> = (0..=PEERS).map(|_| self.rng.percent(40)).collect();
        let shape = self.rng.range(0, 4);
        let density = self.rng.pick(&[10, 30]);
        for from in 1..=PEERS {
            for to in 1..=PEERS {
                let (a, b) = (side[from as usize], side[to as usize]);
                let cut = match shape {
                    // Two halves; one that only hears the other; links here and there, in one
                    // direction or in both.
                    0 => a != b,
                    1 => a && !b,
                    2 => self.rng.percent(density),
                    _ => from < to && self.rng.percent(density),
                };
                if cut {
                    self.cut.push((from, to));
                    if shape == 3 {
                        self.cut.push((to, from));
                    }
                }
            }
        }
        self.trace
            .add(|| format!("the network is cut: {:?}", self.cut));
    }

    /// One other does not hear the leader any more, and everybody else still hears both.
    fn part_leader(&mut self) {
        let other = self.rng.range(1, self.odds.voters + 1);
        if let Some((_, leader)) = self.leaders().last().copied() {
            self.trace
                .add(|| format!("{leader} and {other} lose sight of each other"));
            self.cut.extend([(leader, other), (other, leader)]);
        }
    }

    /// The worst moment to lose the network: a new leader is there, and the old one, who may still
    /// have its lease, cannot learn of it.
    fn isolate_deposed(&mut self) {
        let leaders = self.leaders();
        let newest = leaders
            .iter()
            .map(|(term, _)| *term)
            .max()
            .unwrap_or_default();
        for (term, id) in leaders {
            if term < newest && !self.cut.contains(&(id, id)) {
                self.trace
                    .add(|| format!("the network leaves {id}, deposed from term {term}, alone"));
                // The link to itself marks that it was done.
                self.cut
                    .extend((1..=PEERS).flat_map(|other| [(id, other), (other, id)]));
            }
        }
    }

    // ---- crashes and truncation ----

    fn truncate(&mut self, id: u64) {
        if self.rng.percent(50) {
            self.place(id).node.flush();
        }
        let node = &self.places[&id].node;
        let (first, applied) = (
            node.disk.log.iter().next().map_or(0, |entry| entry.index),
            node.disk.machine.applied,
        );
        if first > 0 && first <= applied {
            let index = self.rng.range(first, applied + 1);
            self.trace.add(|| format!("{id} truncates to {index}"));
            self.place(id).node.truncate(index);
            self.look(id);
        }
    }

    fn crash(&mut self, id: u64) {
        let place = self.places.get_mut(&id).expect("every peer has a place");
        if place.node.raft.is_none() {
            return;
        }
        let kept = self.rng.range(0, place.node.writes.len() as u64 + 1);
        self.trace
            .add(|| format!("{id} crashes, {kept} writes under way survive"));
        place.node.crash(kept as usize);
        place.proposed.clear();
        place.reads.clear();
        place.reports.clear();
        place.wants_snapshot = false;
        self.check.crashed(&place.node);
    }

    fn start(&mut self, id: u64) {
        let base = self.base.clone();
        let priority = if self.rng.percent(10) {
            self.rng.range(0, 3) as i64
        } else {
            0
        };
        let seed = self.rng.next();
        let place = self.place(id);
        place.starts += 1;
        // A new process counts its time from somewhere else.
        let clock = Mono(seed % 10_000 * MILLI);
        place.clock = clock;
        place.node.start(
            Config {
                id,
                seed,
                priority,
                ..base
            },
            clock,
        );
        let at_once = place.starts == 1 && seed.is_multiple_of(3);
        let raft = self
            .places
            .get_mut(&id)
            .and_then(|place| place.node.raft.as_mut())
            .expect("it was started");
        (self.arm)(raft);
        if at_once {
            raft.campaign(clock);
        }
        self.trace.add(|| format!("{id} starts"));
        self.look(id);
    }

    /// Within the bound that leases allow for.
    fn redraw_rate(&mut self, id: u64) {
        if self.odds.drift {
            let drift = u64::from(CLOCK_DRIFT_PERCENT) * 10;
            let rate = self.rng.pick(&[1000 - drift, 1000, 1000 + drift]);
            self.place(id).rate = rate;
        }
    }

    pub(crate) fn look(&mut self, id: u64) {
        self.check.look(&self.places, id);
    }

    // ---- the end ----

    /// The faults stop: whoever is a member comes back, and the group must serve.
    fn heal(&mut self) {
        self.trace.add(|| "---- all faults stop".to_owned());
        self.odds = self.odds.quiet();
        self.cut.clear();
        let deadline = self.time + HEAL_MAX;
        let (mut wanted, mut again) = (None, self.time);
        while !self.is_whole(wanted) {
            assert!(
                self.time < deadline,
                "not whole again after {HEAL_MAX} ns: {}",
                self.picture(wanted)
            );
            let members = self.needed();
            for id in 1..=PEERS {
                let place = self.place(id);
                place.paused_until = 0;
                place.retired = !members.contains(&id);
                let (down, starts, retired) =
                    (place.node.raft.is_none(), place.starts, place.retired);
                if retired {
                    self.crash(id);
                } else if down && starts > 0 {
                    self.start(id);
                }
            }
            self.pass(20 * MILLI);
            // The one before may have gone with its leader.
            if wanted.is_none() || self.time >= again {
                wanted = self.propose_last().or(wanted);
                again = self.time + 5000 * MILLI;
            }
        }
    }

    /// Members of the newest configuration, and of those that any of them still lives by: what is
    /// committed may be known to nobody who survived.
    fn needed(&self) -> BTreeSet<u64> {
        let mut needed = self.check.members();
        for id in self.check.members() {
            let conf = &self.places[&id].node.disk.machine.conf;
            needed.extend(conf.voters.iter().chain(&conf.voters_outgoing));
        }
        needed
    }

    fn picture(&self, wanted: Option<u64>) -> String {
        let status = |place: &Place| {
            place
                .node
                .raft
                .as_ref()
                .map(|raft| format!("{:?}", raft.status()))
        };
        let peers: Vec<String> = self.places.values().filter_map(status).collect();
        format!(
            "wanted {wanted:?} members {:?}\n{}",
            self.check.members(),
            peers.join("\n")
        )
    }

    /// An entry of the healed group's own.
    fn propose_last(&mut self) -> Option<u64> {
        let leads = |place: &&Place| place.node.raft.as_ref().is_some_and(Raft::is_leader);
        let id = self.places.values().find(leads)?.node.id;
        let place = self.place(id);
        let now = place.clock;
        let raft = place.node.raft.as_mut().expect("it runs");
        // The term may not last; so only a settled leader counts.
        if raft
            .first_index_of_term()
            .is_none_or(|first| raft.applied_index() < first)
        {
            return None;
        }
        let index = raft
            .propose(now, EntryKind::Data, "the last".into())
            .ok()
            .map(|id| id.index);
        self.look(id);
        self.pump(id);
        index
    }

    /// Every member has applied what was proposed last, and one leads.
    fn is_whole(&self, wanted: Option<u64>) -> bool {
        let Some(wanted) = wanted else { return false };
        let members = self.check.members();
        let applied = |id: &u64| {
            self.places[id]
                .node
                .raft
                .as_ref()
                .is_some_and(|raft| raft.applied_index() >= wanted)
        };
        let leads = |id: &u64| {
            self.places[id]
                .node
                .raft
                .as_ref()
                .is_some_and(Raft::is_leader)
        };
        members.iter().all(applied) && members.iter().any(leads)
    }
}

fn show(message: &Message) -> String {
    let kind = MessageKind::try_from(message.kind)
        .unwrap_or_default()
        .as_str_name();
    let mut line = format!(
        "{}->{} {kind} term={}",
        message.from, message.to, message.term
    );
    let fields = [
        ("index", message.index),
        ("log_term", message.log_term),
        ("entries", message.entries.len() as u64),
        ("commit", message.commit),
        ("reject", u64::from(message.reject)),
        ("hint", message.hint_index),
        ("hint_term", message.hint_term),
        ("round", message.round),
        ("attempt", message.transfer_attempt),
    ];
    for (name, value) in fields.into_iter().filter(|(_, value)| *value > 0) {
        write!(line, " {name}={value}").expect("a string takes it");
    }
    line
}

/// Whether a place holds the lease right now, by its own clock.
pub(crate) fn holds_lease(raft: &Raft<View>, clock: Mono) -> bool {
    raft.role() == Role::Leader && raft.lease_until().is_some_and(|until| clock < until)
}
