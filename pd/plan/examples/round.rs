//! How long one planning round takes, and how much memory the regions need:
//!
//! ```text
//! cargo run --release -p flotilla-pd-plan --example round -- --stores 1000 --regions 1000000
//! ```
//!
//! A round looks at every region once (replicas, rules, leader, merge) and runs each balancing planner
//! up to its default limit. Regions have three peers, in different zones but for some, and keys of 20
//! bytes. It runs on one thread; the figures of smaller clusters show how time grows.

#![expect(
    clippy::disallowed_methods,
    reason = "a measurement reads the clock and its own memory"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_pd_plan::{
    Balance, Cluster, Flow, Look, MergeLimits, Placement, Rate, Region, Regions, Role, Rule, Rules,
    Store, balance_hot, balance_leaders, balance_regions, check_merge,
};
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Peer, PeerRole, RegionEpoch};
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

const SEED: u64 = 7;
const MIB: u64 = 1 << 20;
const LABELS: [&str; 3] = ["zone", "rack", "host"];
const ZONES: u64 = 5;
/// Long after the regions came to be.
const NOW: Mono = Mono(100_000_000_000_000);

struct Figures {
    stores: u64,
    regions: u64,
    bytes_per_region: u64,
    heartbeat: Duration,
    look: Duration,
    balance: Duration,
    operators: usize,
}

fn main() {
    let number = |name: &str, default: u64| {
        let mut args = std::env::args();
        let given = args.find(|arg| arg == name).and_then(|_| args.next());
        given.map_or(default, |text| text.parse().expect(name))
    };
    let (stores, regions) = (number("--stores", 1_000), number("--regions", 1_000_000));
    println!("seed={SEED}");
    println!(
        "| stores | regions | bytes per region | a heartbeat | look at all | balance | round | operators |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut json = Vec::new();
    // The largest first: memory that was used before does not grow again, so only its bytes count.
    for (stores, regions) in [
        (stores, regions),
        (stores, regions / 10),
        (stores, regions / 100),
    ] {
        let figures = measure(stores.max(10), regions.max(10));
        figures.print();
        json.push(figures.json());
    }
    println!("[{}]", json.join(","));
}

fn measure(stores: u64, regions: u64) -> Figures {
    let mut rng = SplitMix64::seed_from_u64(SEED);
    let before = resident();
    let mut cluster = cluster(stores);
    let mut all = Regions::default();
    for nth in 0..regions {
        all.put(&region(nth, regions, stores, &mut rng), Mono(0));
    }
    let bytes_per_region = resident().saturating_sub(before) / regions;
    for (id, store) in &mut cluster.stores {
        let load = all.load(*id);
        (store.regions, store.leaders) = (load.peers, load.leaders);
        (store.leads, store.weight) = (load.leaders, load.weight);
    }
    let some: Vec<Region> = (0..10_000.min(regions))
        .filter_map(|nth| all.region(1_000 + nth * (regions / 10_000).max(1)))
        .collect();
    let begun = Instant::now();
    for region in &some {
        all.put(region, Mono(0));
    }
    let heartbeat = begun.elapsed() / some.len().max(1) as u32;
    let mut best: Option<(Duration, Duration, usize)> = None;
    for _ in 0..3 {
        let round = round(&cluster, &all, &mut rng);
        if best.is_none_or(|best| round.0 + round.1 < best.0 + best.1) {
            best = Some(round);
        }
    }
    let (look, balance, operators) = best.expect("three rounds");
    Figures {
        stores,
        regions,
        bytes_per_region,
        heartbeat,
        look,
        balance,
        operators,
    }
}

fn round(cluster: &Cluster, all: &Regions, rng: &mut SplitMix64) -> (Duration, Duration, usize) {
    let begun = Instant::now();
    let limits = MergeLimits {
        bytes_max: 20 * MIB,
        keys_max: 200_000,
        rest: Duration::from_secs(3_600),
        now: NOW,
        only: None,
        fence: &|_| false,
    };
    let mut busy = BTreeSet::new();
    let mut merges = 0;
    let look = Look::new(cluster, all);
    let repairs = look.all(64, rng, |id| {
        if merges < 8
            && let Some(plan) = check_merge(cluster, all, id, &busy, &limits)
        {
            merges += 1;
            busy.insert(plan.region);
        }
    });
    busy.extend(repairs.iter().map(|plan| plan.region));
    let looked = begun.elapsed();
    let begun = Instant::now();
    let balance = Balance {
        cluster,
        regions: all,
        leaders_apart: 2,
        weight_apart: 4 * MIB,
    };
    let moves = balance_regions(&balance, &busy, 16, rng).len()
        + balance_leaders(&balance, &busy, 4, rng).len()
        + balance_hot(&balance, true, NOW, &busy, 4, rng).len()
        + balance_hot(&balance, false, NOW, &busy, 4, rng).len();
    (looked, begun.elapsed(), repairs.len() + merges + moves)
}

fn cluster(stores: u64) -> Cluster {
    let store = |id: u64| {
        let values = [id % ZONES, id / ZONES % 10, id];
        let labels = LABELS.iter().zip(values);
        let labels = labels.map(|(label, value)| ((*label).to_owned(), format!("{label}-{value}")));
        let store = Store {
            capacity: 1 << 50,
            available: 1 << 50,
            labels: labels.collect(),
            ..Store::default()
        };
        (id, store)
    };
    let rule = Rule {
        group: "pd".to_owned(),
        id: "default".to_owned(),
        index: 0,
        overrides: false,
        start: Bytes::new(),
        end: Bytes::new(),
        role: Role::Voter,
        count: 3,
        constraints: Vec::new(),
        location_labels: LABELS.iter().map(|label| (*label).to_owned()).collect(),
    };
    Cluster {
        stores: (1..=stores).map(store).collect::<BTreeMap<_, _>>(),
        rules: Rules {
            max_replicas: 3,
            max_store_down_time: Duration::from_secs(1_800),
        },
        placement: Placement::new(vec![rule]).into(),
    }
}

/// One in a thousand is too close together, one in a hundred is small, one in twenty is busy.
fn region(nth: u64, all: u64, stores: u64, rng: &mut SplitMix64) -> Region {
    let mut on: Vec<u64> = Vec::new();
    let close = nth.is_multiple_of(1_000);
    while on.len() < 3 {
        // The last tenth of the stores is new, and has less.
        let end = if rng.next_u64().is_multiple_of(2) {
            stores
        } else {
            stores - stores / 10
        };
        let store = 1 + rng.next_u64() % end;
        let zone = |other: &u64| other % ZONES == store % ZONES;
        if !on.contains(&store) && (close || !on.iter().any(zone)) {
            on.push(store);
        }
    }
    let peer = |store: &u64| Peer {
        id: 10_000_000 + nth * 1_000 + store,
        store_id: *store,
        role: PeerRole::Voter as i32,
        is_witness: false,
    };
    let size = match nth % 100 {
        0 | 1 => MIB,
        _ => 60 * MIB + rng.next_u64() % (36 * MIB),
    };
    let rate = |number: u64| Rate {
        bytes: (number % (4 * MIB)) as f32,
        keys: (number % 1_000) as f32,
        queries: (number % 1_000) as f32,
    };
    let busy = nth.is_multiple_of(20);
    let flow = busy.then(|| Flow {
        read: rate(rng.next_u64()),
        written: rate(rng.next_u64()),
    });
    let key = |nth: u64| match nth {
        0 => Bytes::new(),
        nth if nth == all => Bytes::new(),
        nth => Bytes::from(format!("table-{nth:014}").into_bytes()),
    };
    Region {
        id: 1_000 + nth,
        epoch: RegionEpoch {
            conf_ver: 1,
            version: 1,
        },
        start: key(nth),
        end: key(nth + 1),
        peers: on.iter().map(peer).collect(),
        leader: on.first().copied(),
        size,
        keys: size / 100,
        flow: flow.unwrap_or_default(),
        ..Region::default()
    }
}

/// Bytes of memory that this process uses.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux tells");
    let pages = text.split_whitespace().nth(1).expect("the resident pages");
    pages.parse::<u64>().expect("a number") * 4_096
}

impl Figures {
    fn print(&self) {
        println!(
            "| {} | {} | {} | {:.2?} | {:.1?} | {:.1?} | {:.1?} | {} |",
            self.stores,
            self.regions,
            self.bytes_per_region,
            self.heartbeat,
            self.look,
            self.balance,
            self.look + self.balance,
            self.operators
        );
    }

    fn json(&self) -> String {
        format!(
            "{{\"stores\":{},\"regions\":{},\"bytes_per_region\":{},\"heartbeat_ns\":{},\"look_ms\":{:.1},\"balance_ms\":{:.1},\"operators\":{}}}",
            self.stores,
            self.regions,
            self.bytes_per_region,
            self.heartbeat.as_nanos(),
            self.look.as_secs_f64() * 1e3,
            self.balance.as_secs_f64() * 1e3,
            self.operators
        )
    }
}
