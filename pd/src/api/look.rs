//! What the dashboard looks at, and PD has no page for.

use std::collections::BTreeMap;

use flotilla_pd_plan::StoreState;
use flotilla_proto::metapb::Store;
use serde_json::{Value, json};

use super::{Args, Looks, Shown, no, show};
use crate::heat::{Wanted, minute};
use crate::pages::{hex, state_name};
use crate::routes::{Load, Route};
use crate::stores::is_tombstone;
use crate::view::{HeatView, MapView, View};

/// Regions, or groups of neighbours, that a map shows unless it is told otherwise, and at most.
const MAP_CELLS: usize = 20_000;
const MAP_CELLS_MAX: usize = 200_000;
/// Of a picture of the heat, unless it is told otherwise and at most.
const HEAT_MINUTES_SHOWN: u64 = 60;
const HEAT_COLUMNS: u64 = 240;
const HEAT_ROWS: usize = 256;

/// How a region does; the worst of them counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ails {
    Nothing,
    Pending,
    FewPeers,
    Down,
    NoLeader,
}

fn ails(route: &Route, wanted: usize) -> Ails {
    if route.leader.is_none() {
        Ails::NoLeader
    } else if !route.down_peers.is_empty() {
        Ails::Down
    } else if route.region.peers.len() < wanted {
        Ails::FewPeers
    } else if !route.pending_peers.is_empty() {
        Ails::Pending
    } else {
        Ails::Nothing
    }
}

/// What regions add up to.
#[derive(Default)]
struct Sums {
    mib: u64,
    keys: u64,
    empty: usize,
    /// By [`Ails`].
    ails: [usize; 5],
    /// Of the regions that a store leads: bytes and keys written, bytes and keys read.
    flows: BTreeMap<u64, [u64; 4]>,
}

fn sums(looks: &Looks<'_>, wanted: usize) -> Sums {
    let mut sums = Sums::default();
    for route in looks.leading.routes.all() {
        sums.mib += route.size_mib();
        sums.keys += route.approximate_keys;
        sums.empty += usize::from(route.approximate_size == 0);
        sums.ails[ails(route, wanted) as usize] += 1;
        if let Some(leader) = &route.leader {
            let sum = sums.flows.entry(leader.store_id).or_default();
            for (sum, flow) in sum.iter_mut().zip(route.flows()) {
                *sum = sum.saturating_add(flow);
            }
        }
    }
    sums
}

/// Everything that fits on one screen, in numbers.
pub(super) fn overview(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    let (leading, cx) = (looks.leading, looks.cx);
    let wanted = leading.cluster(cx).rules.max_replicas;
    let sums = sums(looks, wanted);
    let stores = leading.durable.stores.values();
    let stores = stores.filter(|store| !is_tombstone(store));
    let stores = stores.map(|store| shown(looks, store, &sums));
    let lead_for = (cx.now - leading.since).as_secs();
    let operators = leading.list_operators();
    show(json!({
        // As text: browsers round numbers of this size.
        "cluster_id": cx.config.cluster_id.to_string(),
        "now_ms": cx.wall.0,
        "replicas": wanted,
        "pd": {
            "store": cx.config.store_id,
            "address": cx.config.advertise_addr,
            "term": leading.term,
            "leads_for_seconds": lead_for,
        },
        "stores": stores.collect::<Value>(),
        "regions": {
            "count": leading.routes.all().len(),
            "mib": sums.mib,
            "keys": sums.keys,
            "empty": sums.empty,
            "no_leader": sums.ails[Ails::NoLeader as usize],
            "down": sums.ails[Ails::Down as usize],
            "few_peers": sums.ails[Ails::FewPeers as usize],
            "pending": sums.ails[Ails::Pending as usize],
            "all_reported": !leading.routes.has_holes(),
        },
        "operators": {
            "running": operators.running.len(),
            "ended": operators.ended.len(),
        },
    }))
}

fn shown(looks: &Looks<'_>, store: &Store, sums: &Sums) -> Value {
    let (leading, cx) = (looks.leading, looks.cx);
    let report = leading.reports.get(&store.id);
    let stats = report.map(|report| &report.stats);
    let of = |value: fn(&flotilla_proto::pdpb::StoreStats) -> u64| stats.map_or(0, value);
    let Load {
        leaders,
        leader_mib,
        regions,
        region_mib,
    } = leading.routes.load(store.id);
    let [bytes_written, bytes_read, keys_written, keys_read] =
        sums.flows.get(&store.id).copied().unwrap_or_default();
    let started = of(|stats| stats.start_time.into());
    let state = leading.store_state(cx, store);
    let up = state == StoreState::Up && started != 0;
    json!({
        "id": store.id,
        "address": store.address,
        "version": store.version,
        "state": state_name(state),
        "labels": store.labels.iter().map(|label| json!([label.key, label.value])).collect::<Value>(),
        "capacity": of(|stats| stats.capacity),
        "available": of(|stats| stats.available),
        "used": of(|stats| stats.used_size),
        "leaders": leaders,
        "leader_mib": leader_mib,
        "regions": regions,
        "region_mib": region_mib,
        "bytes_written": bytes_written,
        "bytes_read": bytes_read,
        "keys_written": keys_written,
        "keys_read": keys_read,
        "slow_score": of(|stats| stats.slow_score),
        "busy": stats.is_some_and(|stats| stats.is_busy),
        "evicted": leading.leaders_evicted(store.id),
        "heard_ms_ago": report.map(|report| (cx.now - report.at).as_millis()),
        "uptime_seconds": up.then(|| cx.wall.seconds().saturating_sub(started)),
    })
}

/// The regions in key order, column by column; neighbours share a place where there are too many.
pub(super) fn map(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let cells = args.number("cells", MAP_CELLS)?.clamp(1, MAP_CELLS_MAX);
    let wanted = looks.leading.cluster(looks.cx).rules.max_replicas;
    let all = looks.leading.routes.all();
    let count = all.len();
    let per = count.div_ceil(cells).max(1);
    let mut map = MapView {
        count,
        per,
        ..MapView::default()
    };
    let all: Vec<&Route> = all.collect();
    for group in all.chunks(per) {
        map.id.push(group[0].region.id);
        map.leader.push(usual_leader(group));
        let sum = |of: fn(&Route) -> u64| group.iter().map(|route| of(route)).sum();
        map.mib.push(sum(Route::size_mib));
        map.keys.push(sum(|route| route.approximate_keys));
        map.written.push(sum(|route| route.bytes_written));
        map.read.push(sum(|route| route.bytes_read));
        let worst = group.iter().map(|route| ails(route, wanted)).max();
        map.ails.push(worst.unwrap_or(Ails::Nothing) as u8);
    }
    show(View::Map(Box::new(map)))
}

/// The store that leads most of them; of equal ones the first. 0: nobody leads any.
fn usual_leader(group: &[&Route]) -> u64 {
    let mut leads: BTreeMap<u64, usize> = BTreeMap::new();
    for route in group {
        *leads
            .entry(route.leader.map_or(0, |peer| peer.store_id))
            .or_default() += 1;
    }
    let most = leads.into_iter().rev().max_by_key(|(_, count)| *count);
    most.map_or(0, |(store, _)| store)
}

/// The heat of keys over time.
pub(super) fn heat(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    const FLOWS: [&str; 4] = ["written_bytes", "read_bytes", "written_keys", "read_keys"];
    let what = args.query("what").unwrap_or(FLOWS[0]);
    let Some(flow) = FLOWS.iter().position(|known| *known == what) else {
        return no(
            400,
            format!("what={what:?} is none of {}", FLOWS.join(", ")),
        );
    };
    let picture = looks.leading.heat.picture(Wanted {
        flow,
        to: minute(looks.cx.wall),
        minutes: args.number("minutes", HEAT_MINUTES_SHOWN)?,
        columns: args.number("columns", HEAT_COLUMNS)?.clamp(1, HEAT_COLUMNS),
        rows: args.number("rows", HEAT_ROWS)?.clamp(2, HEAT_ROWS),
    });
    show(View::Heat(Box::new(HeatView {
        what: FLOWS[flow],
        from: picture.from * 60,
        column_seconds: picture.step * 60,
        starts: picture.starts.iter().map(|start| hex(start)).collect(),
        columns: picture.columns,
    })))
}

/// Operators with all that is known of them.
pub(super) fn operators(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    show(View::Operators(Box::new(looks.leading.list_operators())))
}
