//! `kill -9` at any moment: what was acknowledged is there, nothing is half-applied, the regions are
//! those that were told of, and a restart replays no more than it may.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_proto::kvrpcpb as k;
use flotilla_proto::metapb::Region;
use rustix::process::Signal;

use crate::client::{
    Call, Client, End, batch_delete, batch_put, cas, delete, delete_range, get, put, wait,
};
use crate::dice::Dice;
use crate::node::{Node, Process, eventually, flotilla, rest, server_args};
use crate::route::Route;

/// Connections that write.
const WRITERS: usize = 4;
/// Each has so many groups of keys of its own ...
const SLOTS: u64 = 64;
/// ... of so many keys; a batch is a group.
const KEYS: u64 = 6;
/// The longest value.
const VALUE_BYTES_MAX: u64 = 64 << 10;
/// Acknowledged writes for one split.
const WRITES_PER_SPLIT: u64 = 40;
/// How often a refused write is sent again.
const ATTEMPTS_MAX: usize = 10_000;
/// Pause before a refused write is sent again, or the progress of others looked at.
const PAUSE: Duration = Duration::from_millis(1);

/// Log bytes that a restart may replay, and the setting that says so.
const REPLAY_MAX: u64 = 16 << 20;
const SETTINGS: &[&str] = &[
    "raft.replay-max=16MiB",
    "storage.log-write-buffer=32MiB",
    "region.split-keys=300",
];
/// Times the node is killed under load, at least, unless `FLOTILLA_KILLS` says otherwise ...
const KILLS: usize = 20;
/// ... and so often more at most: until more was written than a restart may replay.
const KILLS_MORE: usize = 30;

/// Each region as the newest answer about it showed it.
#[derive(Debug, Default)]
pub(crate) struct Told(BTreeMap<u64, Region>);

fn version(region: &Region) -> u64 {
    region.region_epoch.map_or(0, |epoch| epoch.version)
}

impl Told {
    fn hear(&mut self, regions: impl IntoIterator<Item = Region>) {
        for region in regions {
            match self.0.get(&region.id) {
                Some(known) if version(known) >= version(&region) => {}
                _ => {
                    self.0.insert(region.id, region);
                }
            }
        }
    }

    /// The regions are no older than what was told before, neither at the store nor at PD, and tile
    /// the key space.
    #[track_caller]
    fn check(&self, client: &Client) {
        for told in self.0.values() {
            // No region has this epoch: the store answers with the one there is.
            let context = k::Context {
                region_id: told.id,
                peer: told.peers.first().copied(),
                region_epoch: Some(Default::default()),
                ..k::Context::default()
            };
            let answer = client.send(get(""), context);
            let current = answer.detail(|error| error.epoch_not_match).current_regions;
            let found = current.iter().find(|region| region.id == told.id);
            let found = found.expect("the region itself is among them");
            assert!(version(found) >= version(told), "{found:?} was {told:?}");
        }
        eventually("PD to know of all regions", || {
            let known = client.regions();
            for found in &known {
                let told = self.0.get(&found.id).unwrap_or(found);
                assert!(version(found) >= version(told), "{found:?} was {told:?}");
            }
            let mut told = self.0.keys();
            let all = told.all(|id| known.iter().any(|region| region.id == *id));
            (all && tiles(&known)).then_some(())
        });
    }
}

/// Every key lies in exactly one region.
fn tiles(regions: &[Region]) -> bool {
    let edges = regions.windows(2);
    regions
        .first()
        .is_some_and(|first| first.start_key.is_empty())
        && regions.last().is_some_and(|last| last.end_key.is_empty())
        && edges
            .into_iter()
            .all(|pair| pair[0].end_key == pair[1].start_key)
}

/// Changes that take effect together: the row at each key, or none.
type Changes = Vec<(Bytes, Option<Bytes>)>;

/// The one that writes certain keys: it knows what they hold.
struct Writer {
    number: usize,
    dice: Dice,
    /// Values written, so that each is another.
    values: u64,
    rows: BTreeMap<Bytes, Bytes>,
    /// The write that nobody answered.
    pending: Option<Changes>,
}

fn slot_name(writer: usize, slot: u64) -> String {
    format!("w{writer}/{slot:02}/")
}

fn applied(mut rows: BTreeMap<Bytes, Bytes>, changes: &Changes) -> BTreeMap<Bytes, Bytes> {
    for (key, row) in changes {
        match row {
            Some(row) => rows.insert(key.clone(), row.clone()),
            None => rows.remove(key),
        };
    }
    rows
}

/// How a write ended.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Acknowledged,
    /// It was refused, and surely not applied.
    Refused,
    /// The node is ending, and was not asked.
    Unsent,
    /// The node is ending; nobody knows.
    Unknown,
}

/// A load that runs until the node ends.
struct Sea<'a> {
    node: &'a Node,
    acknowledged: AtomicU64,
    bytes: AtomicU64,
    /// Set before the node is told to end.
    ending: AtomicBool,
}

impl Sea<'_> {
    fn ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }
}

impl Writer {
    fn value(&mut self) -> Bytes {
        self.values += 1;
        let mut value = format!("{}.{}.", self.number, self.values).into_bytes();
        // Small ones as often as large ones.
        let bits = self.dice.below(u64::from(VALUE_BYTES_MAX.ilog2()));
        let length = value.len() + self.dice.below(1 << bits) as usize;
        value.resize(length, b'.');
        value.into()
    }

    fn keys(&self, slot: u64) -> Vec<Bytes> {
        let name = slot_name(self.number, slot);
        (0..KEYS).map(|key| format!("{name}{key}").into()).collect()
    }

    /// A write, and what it changes.
    fn draw(&mut self) -> (Call, Changes) {
        let slot = self.dice.below(SLOTS);
        let keys = self.keys(slot);
        let key = keys[self.dice.below(KEYS) as usize].clone();
        match self.dice.below(100) {
            0..45 => {
                let value = self.value();
                (put(key.clone(), value.clone()), vec![(key, Some(value))])
            }
            45..65 => {
                let rows: Vec<_> = keys.into_iter().map(|key| (key, self.value())).collect();
                let changes = rows.iter().cloned().map(|(key, row)| (key, Some(row)));
                (batch_put(rows.clone()), changes.collect())
            }
            65..75 => {
                let (before, value) = (self.rows.get(&key).cloned(), self.value());
                let call = cas(key.clone(), before, value.clone());
                (call, vec![(key, Some(value))])
            }
            75..87 => (delete(key.clone()), vec![(key, None)]),
            87..94 => {
                let changes = keys.iter().cloned().map(|key| (key, None)).collect();
                (batch_delete(keys), changes)
            }
            _ => {
                let name = slot_name(self.number, slot);
                let changes = keys.into_iter().map(|key| (key, None)).collect();
                (delete_range(name.clone(), format!("{name}~")), changes)
            }
        }
    }

    /// Writes until the node ends.
    fn sail(mut self, sea: &Sea<'_>) -> Self {
        let client = Client::connect(sea.node);
        let mut routes = Routes::default();
        loop {
            let (call, changes) = self.draw();
            match routes.send(&client, sea, &call, &changes) {
                Fate::Acknowledged => {
                    let bytes = changes
                        .iter()
                        .map(|(_, row)| row.as_ref().map_or(0, Bytes::len));
                    sea.bytes
                        .fetch_add(bytes.sum::<usize>() as u64, Ordering::Relaxed);
                    sea.acknowledged.fetch_add(1, Ordering::Relaxed);
                    self.rows = applied(self.rows, &changes);
                }
                Fate::Refused => {}
                Fate::Unsent => return self,
                Fate::Unknown => {
                    self.pending = Some(changes);
                    return self;
                }
            }
        }
    }

    /// Compares what is there with what was acknowledged. A write that nobody answered may be there
    /// or not, but whole.
    #[track_caller]
    fn settle(&mut self, found: BTreeMap<Bytes, Bytes>) {
        let changes = self.pending.take().unwrap_or_default();
        let with = applied(self.rows.clone(), &changes);
        if found != self.rows && found != with {
            let short = |row: Option<&Bytes>| {
                row.map(|row| String::from_utf8_lossy(&row[..row.len().min(16)]).into_owned())
            };
            let all: BTreeSet<_> = found.keys().chain(with.keys()).collect();
            for key in all {
                let rows = [found.get(key), self.rows.get(key), with.get(key)].map(short);
                if rows[0] != rows[1] || rows[0] != rows[2] {
                    println!(
                        "{key:?}: found {:?}, acknowledged {:?}, or {:?}",
                        rows[0], rows[1], rows[2]
                    );
                }
            }
            panic!(
                "writer {}: rows were lost, came back, or are half of a write (above)",
                self.number
            );
        }
        self.rows = found;
    }
}

/// Where keys were when somebody last looked.
#[derive(Default)]
struct Routes(BTreeMap<Bytes, Route>);

impl Routes {
    fn find(&mut self, client: &Client, key: &[u8]) -> Option<Route> {
        let up_to = (Bound::Unbounded, Bound::Included(key));
        let known = self.0.range::<[u8], _>(up_to).next_back();
        if let Some((_, route)) = known.filter(|(_, route)| route.holds(key)) {
            return Some(route.clone());
        }
        let route = client.try_route(key).ok()??;
        self.0.insert(route.region.start_key.clone(), route.clone());
        Some(route)
    }

    fn send(&mut self, client: &Client, sea: &Sea<'_>, call: &Call, changes: &Changes) -> Fate {
        let (first, last) = (&changes[0].0, &changes[changes.len() - 1].0);
        for _ in 0..ATTEMPTS_MAX {
            let Some(route) = self.find(client, first) else {
                // PD does not answer, or knows nothing of a region that it heard of before.
                if sea.ending() {
                    return Fate::Unsent;
                }
                rest(PAUSE);
                continue;
            };
            if !route.holds(last) {
                // A cut went through the group: it is no longer one write.
                return Fate::Refused;
            }
            match client.send(call.clone(), route.context()) {
                End::Done => return Fate::Acknowledged,
                _ if sea.ending() => return Fate::Unknown,
                End::Region(error)
                    if error.undetermined_result.is_none()
                        && error.raft_entry_too_large.is_none() =>
                {
                    self.0.remove(&route.region.start_key);
                }
                other => panic!("{call:?}: {other:?}"),
            }
            rest(PAUSE);
        }
        panic!("refused {ATTEMPTS_MAX} times: {call:?}");
    }
}

/// All writers, and the one that splits.
pub(crate) struct Fleet {
    dice: Dice,
    writers: Vec<Writer>,
    acknowledged: u64,
    /// Bytes of the values among them.
    bytes: u64,
    splits: u64,
}

impl Fleet {
    pub(crate) fn new(dice: &Dice) -> Self {
        let writer = |number| Writer {
            number,
            dice: dice.fork(number as u64 + 1),
            values: 0,
            rows: BTreeMap::new(),
            pending: None,
        };
        Self {
            dice: dice.fork(0),
            writers: (0..WRITERS).map(writer).collect(),
            acknowledged: 0,
            bytes: 0,
            splits: 0,
        }
    }

    /// Everything acknowledged is there, and the regions are as they were told.
    #[track_caller]
    pub(crate) fn settle(&mut self, node: &Node, told: &Told) {
        let client = Client::connect(node);
        told.check(&client);
        let mut found = vec![BTreeMap::new(); WRITERS];
        for (key, row) in client.content() {
            let name = String::from_utf8_lossy(&key).into_owned();
            let number = name[1..]
                .split('/')
                .next()
                .and_then(|n| n.parse::<usize>().ok());
            found[number.expect("a key of a writer")].insert(key, row);
        }
        for (writer, found) in self.writers.iter_mut().zip(found) {
            writer.settle(found);
        }
    }

    /// Writes and splits until `count` writes are acknowledged, ends the node by `end` in the
    /// middle of it, and waits until everybody noticed.
    pub(crate) fn sail(&mut self, node: &Node, told: &mut Told, count: u64, end: impl FnOnce()) {
        let sea = Sea {
            node,
            acknowledged: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            ending: AtomicBool::new(false),
        };
        let writers = std::mem::take(&mut self.writers);
        let dice = self.dice.fork(self.acknowledged);
        thread::scope(|scope| {
            let sea = &sea;
            let crew: Vec<_> = writers
                .into_iter()
                .map(|writer| scope.spawn(move || writer.sail(sea)))
                .collect();
            let splitter = scope.spawn(move || split(sea, dice));
            let begun = Instant::now();
            while sea.acknowledged.load(Ordering::Relaxed) < count {
                let lost = crew.iter().any(|writer| writer.is_finished());
                let hangs = begun.elapsed() > Duration::from_secs(60);
                if lost || hangs || splitter.is_finished() {
                    println!("log of the node:\n{}", node.log());
                    break;
                }
                rest(PAUSE);
            }
            sea.ending.store(true, Ordering::SeqCst);
            end();
            for writer in crew {
                self.writers
                    .push(writer.join().expect("a writer found nothing wrong"));
            }
            let (heard, splits) = splitter.join().expect("the splitter found nothing wrong");
            told.hear(heard.0.into_values());
            self.splits += splits;
        });
        let acknowledged = sea.acknowledged.into_inner();
        assert!(
            acknowledged >= count,
            "only {acknowledged} of {count} writes"
        );
        self.acknowledged += acknowledged;
        self.bytes += sea.bytes.into_inner();
    }
}

/// Splits regions between the groups of the writers, and remembers what it was told.
fn split(sea: &Sea<'_>, mut dice: Dice) -> (Told, u64) {
    let client = Client::connect(sea.node);
    let (mut told, mut splits) = (Told::default(), 0);
    while !sea.ending() {
        if sea.acknowledged.load(Ordering::Relaxed) < splits * WRITES_PER_SPLIT {
            rest(PAUSE);
            continue;
        }
        let writer = dice.below(WRITERS as u64) as usize;
        let key: Bytes = slot_name(writer, dice.below(SLOTS)).into();
        let Ok(Some(route)) = client.try_route(&key) else {
            continue;
        };
        told.hear([route.region.clone()]);
        let request = k::SplitRegionRequest {
            context: Some(route.context()),
            split_keys: vec![key],
            is_raw_kv: true,
            ..k::SplitRegionRequest::default()
        };
        // Refused where there is a boundary already, or PD is behind: another one is drawn.
        if let Ok(answer) = wait(client.tikv().split_region(request)) {
            told.hear(answer.into_inner().regions);
        }
        splits += 1;
    }
    (told, splits)
}

/// Starts the node and kills it somewhere on its way.
fn kill_while_it_starts(path: &std::path::Path, after: Duration) {
    let mut process = Process::spawn(flotilla(server_args(path, SETTINGS)));
    // The moment is drawn: nothing is waited for.
    rest(after);
    process.kill9();
}

#[test]
fn kill_9_at_any_moment_loses_nothing() {
    let mut dice = Dice::from_env("kill_9_at_any_moment_loses_nothing");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    let (mut fleet, mut told) = (Fleet::new(&dice), Told::default());
    let (mut replayed, mut most) = (0, 0);
    let mut start_time = Duration::from_millis(100);
    let kills = std::env::var("FLOTILLA_KILLS");
    let kills = kills.map_or(KILLS, |kills| kills.parse().expect("a number of kills"));
    for round in 0..kills + KILLS_MORE {
        for _ in 0..dice.below(3) {
            let after = start_time.mul_f64(dice.below(1_200) as f64 / 1_000.0);
            kill_while_it_starts(&path, after);
        }
        let begun = Instant::now();
        let node = Node::start(&path, SETTINGS);
        start_time = begun.elapsed();
        let opened = node.opened();
        println!("round {round}: started in {start_time:?}, {opened:?}");
        replayed += opened.replayed_bytes;
        most = most.max(opened.replayed_bytes);
        assert!(
            opened.replayed_bytes <= REPLAY_MAX,
            "replayed {} bytes, at most {REPLAY_MAX}",
            opened.replayed_bytes
        );
        fleet.settle(&node, &told);
        // What one restart after the other left undone would be too much for the last.
        if round >= kills && fleet.bytes > REPLAY_MAX + REPLAY_MAX / 4 {
            node.stop();
            break;
        }
        let count = 200 + dice.below(1_200);
        fleet.sail(&node, &mut told, count, || node.signal(Signal::KILL));
        node.kill9();
    }
    println!(
        "{} writes acknowledged, {} KiB, {} splits, {} KiB replayed in all, {} KiB at most",
        fleet.acknowledged,
        fleet.bytes >> 10,
        fleet.splits,
        replayed >> 10,
        most >> 10
    );
    assert!(replayed > 0, "no restart had anything to replay");
    assert!(
        fleet.bytes > REPLAY_MAX,
        "only {} bytes were written",
        fleet.bytes
    );
    assert!(told.0.len() > 20, "only {} regions", told.0.len());
    let node = Node::start(&path, SETTINGS);
    assert_eq!(node.opened().replayed_entries, 0);
    fleet.settle(&node, &told);
}
