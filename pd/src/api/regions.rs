//! Regions: one by one, in key order, by what they weigh, by what ails them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use flotilla_proto::metapb::{Peer, PeerRole};
use flotilla_proto::pdpb::SplitRegionsRequest;
use serde::Deserialize;
use serde_json::{Value, json};

use super::args::unhex;
use super::{Args, HttpAnswer, Looks, Shown, ask, astray, no, refused, show};
use crate::call::{Call, Response, calls};
use crate::genesis::META_REGION;
use crate::pages::{hex, region};
use crate::routes::Route;
use crate::view::{RegionsView, View};

/// How many regions a page shows unless it is told otherwise, and at most (as PD).
const LIMIT: usize = 16;
const LIMIT_MAX: usize = 10_240;

fn limit(args: &Args<'_>) -> Result<usize, HttpAnswer> {
    let limit: i64 = args.number("limit", 0)?;
    Ok(match usize::try_from(limit) {
        Ok(0) | Err(_) => LIMIT,
        Ok(limit) => limit.min(LIMIT_MAX),
    })
}

fn list<'a>(routes: impl IntoIterator<Item = &'a Route>) -> Shown {
    let regions: Vec<_> = routes.into_iter().map(region).collect();
    let count = regions.len();
    show(View::Regions(RegionsView { count, regions }))
}

impl<'a> Looks<'a> {
    fn all(&self) -> impl ExactSizeIterator<Item = &'a Route> {
        self.leading.routes.all()
    }

    pub(super) fn known(&self, id: u64) -> Result<&'a Route, HttpAnswer> {
        let route = self.leading.route(id);
        route.ok_or_else(|| {
            HttpAnswer::problem(
                404,
                format!("no leader has reported region {id} to this PD"),
            )
        })
    }
}

pub(super) fn by_id(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let route = looks.known(args.id("id")?)?;
    show(View::Region(Box::new(region(route))))
}

pub(super) fn by_key(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    match looks.leading.routes.find(&args.key("key")?) {
        Some(route) => show(View::Region(Box::new(region(route)))),
        None => no(
            404,
            "no leader has reported the region of this key to this PD",
        ),
    }
}

pub(super) fn all(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    list(looks.all())
}

pub(super) fn count(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    show(json!({ "count": looks.all().len() }))
}

/// From a key on, up to another one.
pub(super) fn scan(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let (start, end) = (args.query_key("key")?, args.query_key("end_key")?);
    list(looks.leading.routes.scan(&start, &end).take(limit(args)?))
}

pub(super) fn of_store(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let store = args.id("id")?;
    if !looks.leading.durable.stores.contains_key(&store) {
        return no(404, format!("there is no store {store}"));
    }
    let there = |peers: &[Peer]| peers.iter().any(|peer| peer.store_id == store);
    let is: fn(&Peer) -> bool = match args.query("type") {
        None | Some("") => |_| true,
        Some("learner") => |peer| peer.role() == PeerRole::Learner,
        Some("leader") => {
            let leads = |route: &&Route| route.leader.is_some_and(|peer| peer.store_id == store);
            return list(looks.all().filter(leads));
        }
        Some("pending") => {
            return list(looks.all().filter(|route| there(&route.pending_peers)));
        }
        Some(other) => {
            return no(
                400,
                format!("type={other:?} is none of leader, learner, pending"),
            );
        }
    };
    list(looks.all().filter(|route| {
        let mut peers = route.region.peers.iter();
        peers.any(|peer| peer.store_id == store && is(peer))
    }))
}

/// The neighbours in key order.
pub(super) fn siblings(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let route = looks.known(args.id("id")?)?;
    if route.region.id == META_REGION {
        return list([]);
    }
    let routes = &looks.leading.routes;
    let end = &route.region.end_key;
    let after = (!end.is_empty()).then(|| routes.starting_at(end)).flatten();
    list(routes.before(route).into_iter().chain(after))
}

/// Those that weigh most by `weight`; of equal ones the first in key order.
fn top(looks: &Looks<'_>, args: &Args<'_>, weight: fn(&Route) -> u64) -> Shown {
    let limit = limit(args)?;
    let mut best: BTreeSet<(Reverse<u64>, usize)> = BTreeSet::new();
    let all: Vec<&Route> = looks.all().collect();
    for (at, route) in all.iter().enumerate() {
        best.insert((Reverse(weight(route)), at));
        if best.len() > limit {
            best.pop_last();
        }
    }
    list(best.into_iter().map(|(_, at)| all[at]))
}

pub(super) fn by_written(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    top(looks, args, |route| route.bytes_written)
}

pub(super) fn by_read(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    top(looks, args, |route| route.bytes_read)
}

pub(super) fn by_size(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    top(looks, args, |route| route.approximate_size)
}

pub(super) fn by_keys(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    top(looks, args, |route| route.approximate_keys)
}

pub(super) fn by_conf_ver(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    top(looks, args, |route| route.epoch().conf_ver)
}

pub(super) fn by_version(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    top(looks, args, |route| route.epoch().version)
}

/// Those with one ailment.
pub(super) fn check(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let cluster = looks.leading.cluster(looks.cx);
    let wanted = cluster.rules.max_replicas;
    let full = |route: &Route| route.region.peers.len();
    let learner = |peer: &Peer| peer.role() == PeerRole::Learner;
    let offline = |peer: &Peer| {
        let store = cluster.stores.get(&peer.store_id);
        store.is_none_or(|store| !store.state.stays())
    };
    let sick: Box<dyn Fn(&Route) -> bool> = match args.text("what")? {
        "miss-peer" => Box::new(|route| full(route) < wanted),
        "extra-peer" => Box::new(|route| full(route) > wanted),
        "down-peer" => Box::new(|route| !route.down_peers.is_empty()),
        "pending-peer" => Box::new(|route| !route.pending_peers.is_empty()),
        "learner-peer" => Box::new(move |route| route.region.peers.iter().any(learner)),
        "offline-peer" => Box::new(|route| route.region.peers.iter().any(offline)),
        "empty-region" => Box::new(|route| route.approximate_size == 0),
        "no-leader" => Box::new(|route| route.leader.is_none()),
        other => {
            let known = "miss-peer, extra-peer, down-peer, pending-peer, learner-peer, offline-peer, \
                         empty-region, no-leader, hist-size, hist-keys";
            return no(
                404,
                format!("there is no check {other:?}; there are {known}"),
            );
        }
    };
    list(looks.all().filter(|route| sick(route)))
}

/// How many regions weigh how much, in steps of the query's `bound`.
fn histogram(looks: &Looks<'_>, args: &Args<'_>, step: u64, weight: fn(&Route) -> u64) -> Shown {
    let step: u64 = args.number("bound", step)?;
    if step == 0 {
        return no(400, "bound=0 is no step: give 1 or more");
    }
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for route in looks.all() {
        *counts.entry(weight(route) / step).or_default() += 1;
    }
    let bar = |(nth, count): (u64, usize)| {
        let start = nth * step;
        json!({ "start": start, "end": start.saturating_add(step - 1), "count": count })
    };
    show(counts.into_iter().map(bar).collect::<Value>())
}

pub(super) fn sizes(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    histogram(looks, args, 10, Route::size_mib)
}

pub(super) fn key_counts(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    histogram(looks, args, 10_000, |route| route.approximate_keys)
}

/// Ranges of keys that no reported region has.
pub(super) fn holes(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    let mut holes: Vec<Value> = Vec::new();
    let mut reached = Some(Bytes::new());
    for route in looks.all() {
        let (start, end) = (&route.region.start_key, &route.region.end_key);
        if let Some(from) = reached.filter(|from| from != start) {
            holes.push(json!([hex(&from), hex(start)]));
        }
        reached = (!end.is_empty()).then(|| end.clone());
    }
    if let Some(from) = reached {
        holes.push(json!([hex(&from), ""]));
    }
    show(Value::from(holes))
}

/// Sums over the regions that share keys with a range.
pub(super) fn stats(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let (start, end) = (args.query_key("start_key")?, args.query_key("end_key")?);
    let (mut count, mut empty, mut size, mut keys) = (0_u64, 0_u64, 0, 0);
    let mut leaders: BTreeMap<u64, [u64; 3]> = BTreeMap::new();
    let mut peers = leaders.clone();
    for route in looks.leading.routes.scan(&start, &end) {
        let weight = [1, route.size_mib(), route.approximate_keys];
        count += 1;
        empty += u64::from(route.approximate_size == 0);
        size += weight[1];
        keys += weight[2];
        let add = |sums: &mut BTreeMap<u64, [u64; 3]>, store| {
            let sum = sums.entry(store).or_default();
            (0..3).for_each(|of| sum[of] += weight[of]);
        };
        let leader = route.leader.map(|peer| peer.store_id);
        leader
            .into_iter()
            .for_each(|store| add(&mut leaders, store));
        let stores = route.region.peers.iter().map(|peer| peer.store_id);
        stores.for_each(|store| add(&mut peers, store));
    }
    let of = |sums: &BTreeMap<u64, [u64; 3]>, which: usize| -> Value {
        let by_store = sums
            .iter()
            .map(|(id, sum)| (id.to_string(), sum[which].into()));
        Value::Object(by_store.collect())
    };
    show(json!({
        "count": count,
        "empty_count": empty,
        "storage_size": size,
        "storage_keys": keys,
        "store_leader_count": of(&leaders, 0),
        "store_peer_count": of(&peers, 0),
        "store_leader_size": of(&leaders, 1),
        "store_peer_size": of(&peers, 1),
        "store_leader_keys": of(&leaders, 2),
        "store_peer_keys": of(&peers, 2),
    }))
}

#[derive(Deserialize)]
struct Split {
    /// Hexadecimal.
    split_keys: Vec<String>,
    #[serde(default)]
    retry_limit: u64,
}

pub(super) fn split(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let Split {
        split_keys,
        retry_limit,
    } = args.body()?;
    let split_keys = keys_of(&split_keys)?;
    let request = SplitRegionsRequest {
        header: looks.header(),
        split_keys,
        retry_limit,
    };
    ask(calls::SplitRegions::request(request), rendered)
}

/// Keys that a body gives as hexadecimal digits.
pub(super) fn keys_of(digits: &[String]) -> Result<Vec<Bytes>, HttpAnswer> {
    let key = |digits: &String| unhex(digits.as_bytes()).map(Bytes::from);
    let keys: Option<Vec<Bytes>> = digits.iter().map(key).collect();
    keys.ok_or_else(|| {
        HttpAnswer::problem(400, "keys are given as hexadecimal digits, two per byte")
    })
}

fn rendered(response: Response) -> HttpAnswer {
    let Response::SplitRegions(split) = response else {
        return astray(response);
    };
    refused(split.header.as_ref()).unwrap_or_else(|| {
        HttpAnswer::ok(json!({
            "processed-percentage": split.finished_percentage,
            "regions-id": split.regions_id,
        }))
    })
}
