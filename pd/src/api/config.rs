//! What steers: settings, placement rules, schedulers; and the load that they go by.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::args::unhex;
use super::{Args, HttpAnswer, Looks, Shown, ask, astray, no, show};
use crate::call::{Call, Response, calls};
use crate::internal::{
    ChangeScheduler, DeleteRule, HotRegions, SchedulerChange, SetConfig, SetRules,
};
use crate::routes::before_end;
use crate::rules::RuleView;
use crate::settings::ConfigValue;
use crate::view::{FlowView, HotStoreView};

/// Settings that PD has among those of replication; all others are of the schedule.
const OF_REPLICATION: [&str; 3] = ["enable-placement-rules", "location-labels", "max-replicas"];

impl Looks<'_> {
    fn settings(&self, of_replication: bool) -> BTreeMap<String, ConfigValue> {
        let mut values = self.leading.settings.values();
        values.retain(|name, _| OF_REPLICATION.contains(&name.as_str()) == of_replication);
        if of_replication {
            // PD's tools read these two as texts.
            for value in values.values_mut() {
                let text = match value {
                    ConfigValue::Flag(flag) => flag.to_string(),
                    ConfigValue::Texts(texts) => texts.join(","),
                    _ => continue,
                };
                *value = ConfigValue::Text(text);
            }
        }
        values
    }
}

pub(super) fn all(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    show(json!({
        "schedule": looks.settings(false),
        "replication": looks.settings(true),
    }))
}

pub(super) fn schedule(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    show(json!(looks.settings(false)))
}

pub(super) fn replication(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    show(json!(looks.settings(true)))
}

/// Settings by name; PD's tools may put the name of their part before it.
pub(super) fn set(_: &Looks<'_>, args: &Args<'_>) -> Shown {
    let values: BTreeMap<String, ConfigValue> = args.body()?;
    let bare = |name: String| {
        let of_part = ["schedule.", "replication."];
        let bare = of_part.iter().find_map(|part| name.strip_prefix(part));
        bare.map(str::to_owned).unwrap_or(name)
    };
    let values = values.into_iter().map(|(name, value)| (bare(name), value));
    let request = SetConfig(values.collect());
    ask(calls::SetConfig::request(request), |response| {
        let Response::SetConfig(set) = response else {
            return astray(response);
        };
        match set.0 {
            Ok(()) => HttpAnswer::ok(Value::from("The config is updated.")),
            Err(error) => HttpAnswer::problem(400, error),
        }
    })
}

fn listed<'a>(rules: impl IntoIterator<Item = &'a RuleView>) -> Shown {
    show(rules.into_iter().map(|rule| json!(rule)).collect::<Value>())
}

pub(super) fn rules(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    listed(&looks.leading.rule_views())
}

pub(super) fn rules_of_group(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let group = args.text("group")?;
    let rules = looks.leading.rule_views();
    listed(rules.iter().filter(|rule| rule.group_id == group))
}

/// Those that hold where a region begins.
pub(super) fn rules_of_region(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let route = looks.known(args.id("id")?)?;
    rules_at(looks, &route.region.start_key)
}

pub(super) fn rules_of_key(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    rules_at(looks, &args.key("key")?)
}

fn rules_at(looks: &Looks<'_>, key: &[u8]) -> Shown {
    let bytes = |digits: &str| unhex(digits.as_bytes()).unwrap_or_default();
    let holds = |rule: &&RuleView| {
        bytes(&rule.start_key).as_slice() <= key && before_end(key, &bytes(&rule.end_key))
    };
    listed(looks.leading.rule_views().iter().filter(holds))
}

pub(super) fn rule(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let (group, id) = (args.text("group")?, args.text("id")?);
    let mut rules = looks.leading.rule_views().into_iter();
    match rules.find(|rule| rule.group_id == group && rule.id == id) {
        Some(rule) => show(json!(rule)),
        None => no(404, format!("there is no rule {group}/{id}")),
    }
}

pub(super) fn set_rule(_: &Looks<'_>, args: &Args<'_>) -> Shown {
    let request = SetRules(vec![args.body()?]);
    ask(calls::SetRules::request(request), |response| {
        rules_set(response, "Update rule successfully.")
    })
}

pub(super) fn set_rules(_: &Looks<'_>, args: &Args<'_>) -> Shown {
    let request = SetRules(args.body()?);
    ask(calls::SetRules::request(request), |response| {
        rules_set(response, "Update rules successfully.")
    })
}

fn rules_set(response: Response, text: &str) -> HttpAnswer {
    let Response::SetRules(set) = response else {
        return astray(response);
    };
    match set.0 {
        Ok(()) => HttpAnswer::ok(Value::from(text)),
        Err(error) => HttpAnswer::problem(400, error),
    }
}

pub(super) fn delete_rule(_: &Looks<'_>, args: &Args<'_>) -> Shown {
    let request = DeleteRule {
        group: args.text("group")?.to_owned(),
        id: args.text("id")?.to_owned(),
    };
    ask(calls::DeleteRule::request(request), |response| {
        let Response::DeleteRule(deleted) = response else {
            return astray(response);
        };
        if deleted.0 {
            HttpAnswer::ok(Value::from("Delete rule successfully."))
        } else {
            HttpAnswer::problem(404, "there is no such rule, or it is the default one")
        }
    })
}

/// Names of schedulers; with `status=paused` of those that are.
pub(super) fn schedulers(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let paused = match args.query("status") {
        None | Some("") => false,
        Some("paused") => true,
        Some(other) => return no(400, format!("status={other:?} is none of: paused")),
    };
    let listed = looks.leading.list_schedulers(looks.cx.now).schedulers;
    let wanted = listed
        .iter()
        .filter(|one| !paused || one.paused_seconds > 0);
    show(
        wanted
            .map(|one| Value::from(one.name.as_str()))
            .collect::<Value>(),
    )
}

#[derive(Deserialize)]
struct NewScheduler {
    name: String,
    store_id: Option<u64>,
}

pub(super) fn add_scheduler(_: &Looks<'_>, args: &Args<'_>) -> Shown {
    let NewScheduler { name, store_id } = args.body()?;
    let change = SchedulerChange::Add { store: store_id };
    change_scheduler(name, change, |response| {
        changed(response, "The scheduler is created.")
    })
}

pub(super) fn remove_scheduler(_: &Looks<'_>, args: &Args<'_>) -> Shown {
    let name = args.text("name")?.to_owned();
    change_scheduler(name, SchedulerChange::Remove, |response| {
        changed(response, "The scheduler is removed.")
    })
}

#[derive(Deserialize)]
struct Pause {
    /// Seconds; 0: it goes on.
    delay: u64,
}

pub(super) fn pause_scheduler(_: &Looks<'_>, args: &Args<'_>) -> Shown {
    let Pause { delay: seconds } = args.body()?;
    let name = args.text("name")?.to_owned();
    change_scheduler(name, SchedulerChange::Pause { seconds }, |response| {
        changed(response, "Pause or resume the scheduler successfully.")
    })
}

fn change_scheduler(name: String, change: SchedulerChange, render: super::Render) -> Shown {
    let request = ChangeScheduler { name, change };
    ask(calls::ChangeScheduler::request(request), render)
}

fn changed(response: Response, text: &str) -> HttpAnswer {
    let Response::ChangeScheduler(changed) = response else {
        return astray(response);
    };
    match changed.0 {
        Ok(()) => HttpAnswer::ok(Value::from(text)),
        Err(error) => HttpAnswer::problem(error.http_status(), error),
    }
}

pub(super) fn hot_writes(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    hot(looks, true)
}

pub(super) fn hot_reads(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    hot(looks, false)
}

/// Writes burden every peer, and are shown once more for those that lead; reads are the leader's.
fn hot(looks: &Looks<'_>, writes: bool) -> Shown {
    let stores = looks
        .leading
        .hot_regions(looks.cx, HotRegions { writes })
        .stores;
    let by_store = |peers: bool| -> Value {
        let shown = stores.iter().map(|store| {
            let value = hot_store(looks, store, peers);
            (store.store_id.to_string(), value)
        });
        Value::Object(shown.collect())
    };
    let as_peer = if writes { by_store(true) } else { json!({}) };
    show(json!({ "as_peer": as_peer, "as_leader": by_store(false) }))
}

fn hot_store(looks: &Looks<'_>, store: &HotStoreView, peers: bool) -> Value {
    let mut total = FlowView::default();
    let mut statistics = Vec::new();
    for hot in &store.regions {
        let leader = looks
            .leading
            .route(hot.region_id)
            .and_then(|route| route.leader);
        let leads = leader.is_some_and(|peer| peer.store_id == store.store_id);
        if !leads && !peers {
            continue;
        }
        let FlowView {
            bytes,
            keys,
            queries,
        } = hot.flow;
        total.bytes += bytes;
        total.keys += keys;
        total.queries += queries;
        statistics.push(json!({
            "store_id": store.store_id,
            "region_id": hot.region_id,
            "is_leader": leads,
            "flow_bytes": bytes,
            "flow_keys": keys,
            "flow_query": queries,
        }));
    }
    json!({
        "store_bytes": store.total.bytes,
        "store_keys": store.total.keys,
        "store_query": store.total.queries,
        "total_flow_bytes": total.bytes,
        "total_flow_keys": total.keys,
        "total_flow_query": total.queries,
        "regions_count": statistics.len(),
        "statistics": statistics,
    })
}

pub(super) fn hot_stores(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    let mut rates = serde_json::Map::new();
    for (writes, which) in [(true, "write"), (false, "read")] {
        let stores = looks
            .leading
            .hot_regions(looks.cx, HotRegions { writes })
            .stores;
        let mut add = |what: &str, of: fn(&FlowView) -> f64| {
            let by_store = stores.iter();
            let by_store =
                by_store.map(|store| (store.store_id.to_string(), of(&store.total).into()));
            rates.insert(
                format!("{what}-{which}-rate"),
                Value::Object(by_store.collect()),
            );
        };
        add("bytes", |flow| flow.bytes);
        add("keys", |flow| flow.keys);
        add("query", |flow| flow.queries);
    }
    show(Value::Object(rates))
}
