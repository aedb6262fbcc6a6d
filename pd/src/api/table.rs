//! Which page is where.

use super::args::{segments, unescape};
use super::{
    Args, HttpAnswer, Looks, Shown, cluster, config, look, no, operators, regions, stores,
};

pub(super) type Handler = fn(&Looks<'_>, &Args<'_>) -> Shown;

/// A page, and what it does with a request.
struct Route {
    method: &'static str,
    path: &'static str,
    does: Does,
}

#[derive(Clone, Copy)]
enum Does {
    Page(Handler),
    /// PD has it; here it has no meaning, for this reason.
    Not(&'static str),
}

/// A page as the documentation has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Such as `GET`; `ANY` for pages that are not offered.
    pub method: &'static str,
    /// Names stand in braces.
    pub path: &'static str,
    /// Why it is not offered, if it is not.
    pub why_not: Option<&'static str>,
}

const fn get(path: &'static str, page: Handler) -> Route {
    on("GET", path, page)
}

const fn post(path: &'static str, page: Handler) -> Route {
    on("POST", path, page)
}

const fn delete(path: &'static str, page: Handler) -> Route {
    on("DELETE", path, page)
}

const fn on(method: &'static str, path: &'static str, page: Handler) -> Route {
    let does = Does::Page(page);
    Route { method, path, does }
}

const fn not(path: &'static str, why: &'static str) -> Route {
    let (method, does) = ("ANY", Does::Not(why));
    Route { method, path, does }
}

const NO_GROUPS: &str = "groups of rules have no settings of their own: they go by name";
const NO_CDC: &str = "there is no change data capture";
const NO_QUERIES: &str = "queries are not counted, bytes and keys are: ask writeflow or readflow";
const ONE_LOG: &str = "a node's log level is set where it is started, and by RUST_LOG";
const IN_RAFT: &str =
    "PD's state is region 1 of the stores: its members move like those of any region";

/// All pages; the first that fits is taken.
const ROUTES: &[Route] = &[
    get("/pd/api/v1/stores", stores::list),
    get("/pd/api/v1/stores/check", stores::list),
    get("/pd/api/v1/store/{id}", stores::one),
    delete("/pd/api/v1/store/{id}", stores::remove),
    post("/pd/api/v1/store/{id}/state", stores::set_state),
    not(
        "/pd/api/v1/store/{id}/weight",
        "stores weigh what they hold: a disk's size and its free space are taken into account",
    ),
    not(
        "/pd/api/v1/stores/remove-tombstone",
        "a tombstone stays, so that a store that comes back is told that it is gone",
    ),
    get("/pd/api/v1/region/id/{id}", regions::by_id),
    get("/pd/api/v1/region/key/{key}", regions::by_key),
    get("/pd/api/v1/regions", regions::all),
    get("/pd/api/v1/regions/key", regions::scan),
    get("/pd/api/v1/regions/count", regions::count),
    get("/pd/api/v1/regions/store/{id}", regions::of_store),
    get("/pd/api/v1/regions/sibling/{id}", regions::siblings),
    get("/pd/api/v1/regions/writeflow", regions::by_written),
    get("/pd/api/v1/regions/readflow", regions::by_read),
    get("/pd/api/v1/regions/size", regions::by_size),
    get("/pd/api/v1/regions/keys", regions::by_keys),
    get("/pd/api/v1/regions/confver", regions::by_conf_ver),
    get("/pd/api/v1/regions/version", regions::by_version),
    get("/pd/api/v1/regions/check/hist-size", regions::sizes),
    get("/pd/api/v1/regions/check/hist-keys", regions::key_counts),
    get("/pd/api/v1/regions/check/{what}", regions::check),
    get("/pd/api/v1/regions/range-holes", regions::holes),
    post("/pd/api/v1/regions/split", regions::split),
    get("/pd/api/v1/stats/region", regions::stats),
    not("/pd/api/v1/regions/writequery", NO_QUERIES),
    not("/pd/api/v1/regions/readquery", NO_QUERIES),
    not(
        "/pd/api/v1/regions/cpu",
        "CPU time is not told apart by region",
    ),
    get("/pd/api/v1/operators", operators::running),
    post("/pd/api/v1/operators", operators::add),
    get("/pd/api/v1/operators/records", operators::records),
    get("/pd/api/v1/operators/{region}", operators::of_region),
    delete("/pd/api/v1/operators/{region}", operators::cancel),
    get("/pd/api/v1/schedulers", config::schedulers),
    post("/pd/api/v1/schedulers", config::add_scheduler),
    post("/pd/api/v1/schedulers/{name}", config::pause_scheduler),
    delete("/pd/api/v1/schedulers/{name}", config::remove_scheduler),
    get("/pd/api/v1/config", config::all),
    post("/pd/api/v1/config", config::set),
    get("/pd/api/v1/config/schedule", config::schedule),
    post("/pd/api/v1/config/schedule", config::set),
    get("/pd/api/v1/config/replicate", config::replication),
    post("/pd/api/v1/config/replicate", config::set),
    get("/pd/api/v1/config/rules", config::rules),
    post("/pd/api/v1/config/rules", config::set_rules),
    get(
        "/pd/api/v1/config/rules/group/{group}",
        config::rules_of_group,
    ),
    get(
        "/pd/api/v1/config/rules/region/{id}",
        config::rules_of_region,
    ),
    get("/pd/api/v1/config/rules/key/{key}", config::rules_of_key),
    post("/pd/api/v1/config/rule", config::set_rule),
    get("/pd/api/v1/config/rule/{group}/{id}", config::rule),
    delete("/pd/api/v1/config/rule/{group}/{id}", config::delete_rule),
    not("/pd/api/v1/config/rule_groups", NO_GROUPS),
    not("/pd/api/v1/config/rule_group/{id}", NO_GROUPS),
    not("/pd/api/v1/config/placement-rule", NO_GROUPS),
    not(
        "/pd/api/v1/config/store",
        "a store's settings are in its file; it is started again to change them",
    ),
    get("/pd/api/v1/hotspot/regions/write", config::hot_writes),
    get("/pd/api/v1/hotspot/regions/read", config::hot_reads),
    get("/pd/api/v1/hotspot/stores", config::hot_stores),
    get("/pd/api/v1/members", cluster::members),
    get("/pd/api/v1/leader", cluster::leader),
    post(
        "/pd/api/v1/leader/transfer/{name}",
        cluster::transfer_leader,
    ),
    get("/pd/api/v1/health", cluster::health),
    get("/pd/api/v1/ping", cluster::ping),
    get("/pd/api/v1/version", cluster::version),
    get("/pd/api/v1/status", cluster::status),
    get("/pd/api/v1/cluster", cluster::cluster),
    get("/pd/api/v1/cluster/status", cluster::cluster_status),
    get("/pd/api/v1/gc/safepoint", cluster::safe_points),
    delete(
        "/pd/api/v1/gc/safepoint/{service}",
        cluster::drop_safe_point,
    ),
    get("/pd/api/v2/keyspaces", cluster::keyspaces),
    post("/pd/api/v2/keyspaces", cluster::create_keyspace),
    get("/pd/api/v2/keyspaces/{name}", cluster::keyspace),
    on(
        "PUT",
        "/pd/api/v2/keyspaces/{name}/state",
        cluster::keyspace_state,
    ),
    not("/pd/api/v1/min-resolved-ts", NO_CDC),
    not("/pd/api/v1/admin/log", ONE_LOG),
    not("/pd/api/v1/leader/resign", IN_RAFT),
    not("/pd/api/v1/members/name/{name}", IN_RAFT),
    not("/pd/api/v1/members/id/{id}", IN_RAFT),
    not(
        "/pd/api/v1/config/cluster-version",
        "the cluster's version follows its stores",
    ),
    not(
        "/pd/api/v1/replication_mode/status",
        "replicas in other places are placed by rules; there is no second mode",
    ),
    get("/flotilla/v1/overview", look::overview),
    get("/flotilla/v1/map", look::map),
    get("/flotilla/v1/heat", look::heat),
    get("/flotilla/v1/operators", look::operators),
];

/// All pages, for the documentation and its test.
pub fn routes() -> impl Iterator<Item = Offered> {
    ROUTES.iter().map(|route| Offered {
        method: route.method,
        path: route.path,
        why_not: match route.does {
            Does::Page(_) => None,
            Does::Not(why) => Some(why),
        },
    })
}

/// The page that is asked for; what stands in its path is named in `args`.
pub(super) fn find(args: &mut Args<'_>) -> Result<Handler, HttpAnswer> {
    let mut other = Vec::new();
    for route in ROUTES {
        let Some(named) = fits(route.path, args.path) else {
            continue;
        };
        match route.does {
            Does::Not(why) => return no(501, format!("{} is not offered: {why}", args.path)),
            Does::Page(page) if route.method == args.method => {
                args.named = named;
                return Ok(page);
            }
            Does::Page(_) => other.push(route.method),
        }
    }
    match other.as_slice() {
        [] => no(
            404,
            format!(
                "there is no page {}; docs/protocol.md lists them",
                args.path
            ),
        ),
        methods => {
            let (path, methods) = (args.path, methods.join(" and "));
            no(405, format!("{path} takes {methods}, not {}", args.method))
        }
    }
}

/// What stands in the path for the names of a page.
fn fits(page: &'static str, path: &str) -> Option<Vec<(&'static str, Vec<u8>)>> {
    let mut named = Vec::new();
    let (mut of_page, mut of_path) = (segments(page), segments(path));
    loop {
        match (of_page.next(), of_path.next()) {
            (None, None) => return Some(named),
            (Some(page), Some(path)) => {
                let name = page
                    .strip_prefix('{')
                    .and_then(|page| page.strip_suffix('}'));
                match name {
                    Some(_) if path.is_empty() => return None,
                    Some(name) => named.push((name, unescape(path))),
                    None if page == path => {}
                    None => return None,
                }
            }
            _ => return None,
        }
    }
}
