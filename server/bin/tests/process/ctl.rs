//! `flotilla ctl`: it shows the same by every node, changes what it is asked to, and refuses what would
//! cost data.

use serde_json::Value;

use crate::client::Client;
use crate::cluster::{folder, join, refused, stores, three_voters};
use crate::node::{
    EXIT_FAILED, EXIT_USAGE, Exit, Node, Process, eventually, flotilla, server_args,
};
use crate::wire;

pub(crate) fn ctl(pd: &str, args: &str) -> Exit {
    let command = ["ctl", "--pd", pd].into_iter().chain(args.split(' '));
    Process::spawn(flotilla(command)).wait()
}

#[track_caller]
pub(crate) fn done(pd: &str, args: &str) -> String {
    let exit = ctl(pd, args);
    assert_eq!(exit.code, Some(0), "{args}: {exit:?}");
    exit.out
}

#[track_caller]
pub(crate) fn json(pd: &str, args: &str) -> Value {
    let out = done(pd, &format!("{args} --json"));
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args}: {error}: {out}"))
}

#[track_caller]
fn fails(pd: &str, args: &str, parts: &[&str]) {
    ctl(pd, args).refused(EXIT_FAILED, parts);
}

fn ids(rows: &Value, of: &str) -> Vec<u64> {
    let rows = rows.as_array().expect("rows").iter();
    rows.map(|row| row[of].as_u64().expect("an id")).collect()
}

/// Whose replica leads `region`, by what each says of itself.
fn leader(pd: &str, region: &str) -> Option<u64> {
    let replicas = json(pd, &format!("region status {region}"));
    let replicas = replicas.as_array().expect("rows").iter();
    let mut leaders = replicas.filter(|row| row["role"] == "leader");
    let leader = leaders.next()?["store"].as_u64();
    assert!(leaders.next().is_none(), "two leaders");
    leader
}

#[test]
fn every_node_shows_the_same_and_changes_are_carried_out() {
    let dirs = [folder(), folder(), folder()];
    let nodes = three_voters(&dirs);
    let pd = nodes[0].addr().to_owned();
    let client = Client::connect(&nodes[0]);
    let known: Vec<u64> = stores(&client).into_iter().map(|(id, _)| id).collect();
    let pages = |node: &Node, page: &str| wire::get(node.addr(), page).body;
    for node in &nodes {
        let at = node.addr();
        assert_eq!(ids(&json(at, "store list"), "id"), known);
        assert_eq!(json(at, "member list"), json(&pd, "member list"));
        assert_eq!(
            ids(&json(at, "region list"), "id").len(),
            client.regions().len()
        );
        // The pages too, whichever node is asked.
        for page in ["/pd/api/v1/members", "/pd/api/v1/cluster"] {
            assert_eq!(pages(node, page), pages(&nodes[0], page));
        }
        let shown = wire::get(at, "/pd/api/v1/stores");
        assert!(shown.body.contains("\"count\":3"), "{}", shown.body);
    }

    // A region: leadership goes where it is asked to.
    let region = client.regions()[0].id.to_string();
    let before = eventually("a leader", || leader(&pd, &region));
    let to = known
        .iter()
        .find(|id| **id != before)
        .expect("another store");
    let ended = json(
        &pd,
        &format!("region transfer-leader {region} --to {to} --wait"),
    );
    assert_eq!(ended["status"], "SUCCESS", "{ended}");
    assert_eq!(leader(&pd, &region), Some(*to));
    let listed = json(&pd, "operator list");
    assert_eq!(listed["ended"][0]["name"], "admin-transfer-leader");
    let status = json(&pd, &format!("region status {region}"));
    for replica in status.as_array().expect("rows") {
        assert_eq!(replica["term"], status[0]["term"], "{status}");
        assert!(replica["applied"].as_u64() > Some(0), "{status}");
    }
    let table = done(&pd, &format!("region show {region}"));
    assert!(
        table.contains("leads") && table.contains("no operator runs"),
        "{table}"
    );

    assert_eq!(
        json(&pd, "region show --with-key a\\x00"),
        json(&pd, &format!("region show {region}"))
    );

    // PD itself.
    let leads = json(&pd, "member list");
    let leads = leads
        .as_array()
        .expect("rows")
        .iter()
        .find(|row| row["leads"] == true);
    let leads = leads.expect("one leads")["id"].as_u64().expect("an id");
    let to = known
        .iter()
        .find(|id| **id != leads)
        .expect("another store");
    let moved = json(&pd, &format!("member transfer-leader --to {to} --wait"));
    assert_eq!(moved["leader"], *to);
    assert_eq!(leader(&pd, "meta"), Some(*to));

    // A store without leaders.
    let drained = json(&pd, &format!("store drain {to} --wait"));
    assert_eq!(
        (&drained["leaders"], &drained["state"]),
        (&0.into(), &"drained".into())
    );
    assert_ne!(leader(&pd, "meta"), Some(*to));
    assert_eq!(shown(&pd, *to)["leaders_evicted"], true);
    fails(
        &pd,
        &format!("region transfer-leader {region} --to {to}"),
        &["cannot lead now"],
    );
    done(&pd, &format!("store drain {to} --undo"));
    assert_eq!(shown(&pd, *to)["leaders_evicted"], false);
    // As soon as PD has heard that it follows.
    let back = format!("region transfer-leader {region} --to {to} --wait");
    eventually("leaders to come again", || {
        (ctl(&pd, &back).code == Some(0)).then_some(())
    });
}

/// A store as `store show` says it.
fn shown(pd: &str, store: u64) -> Value {
    json(pd, &format!("store show {store}"))[0].take()
}

#[test]
fn what_would_cost_data_is_refused_and_says_what_to_do() {
    let dirs = [folder(), folder(), folder()];
    let nodes = three_voters(&dirs);
    let pd = nodes[2].addr();
    let region = Client::connect(&nodes[0]).regions()[0].id;
    let store = json(pd, "store list")[2]["id"].as_u64().expect("an id");
    fails(pd, &format!("store remove {store}"), &["add a store first"]);
    let remove = format!("region remove-peer {region} --store {store}");
    fails(pd, &remove, &["3 replicas and needs 3", "move"]);
    let add = format!("region add-peer {region} --store {store}");
    fails(pd, &add, &["3 of 3 replicas", "move one instead"]);
    fails(pd, "store show 999", &["no store 999", "store list --all"]);
    fails(pd, "store remove 999", &["no store 999"]);
    fails(pd, "store drain 999", &["no store 999"]);
    fails(pd, "region show 999", &["999", "region list"]);
    fails(
        pd,
        &format!("operator cancel {region}"),
        &["no operator runs"],
    );
    fails("127.0.0.1:1", "store list", &["127.0.0.1:1", "--pd"]);
    let usage = |args: &str, part: &str| {
        let exit = ctl(pd, args);
        assert_eq!(exit.code, Some(EXIT_USAGE), "{exit:?}");
        exit.says(&[part]);
    };
    usage("region show everything", "expected a region's id");
    usage("region show", "<REGION>");
    usage("region show --with-key a\\q", "after the backslash");
    usage("region show 3 --with-key a", "cannot be used with");
    usage("store list --pd nowhere", "expected HOST:PORT");
    usage("store remove 1 --timeout 1s", "--wait");
}

#[test]
fn a_store_that_was_removed_is_empty_and_never_comes_back() {
    let dirs = [folder(), folder(), folder()];
    let mut nodes = three_voters(&dirs);
    let pd = nodes[0].addr().to_owned();
    let new = folder();
    let fourth = join(new.path(), &nodes[0]);
    let addr = nodes[2].addr().to_owned();
    let listed = json(&pd, "store list");
    let mut listed = listed.as_array().expect("rows").iter();
    let old = listed
        .find(|row| row["address"] == addr.as_str())
        .expect("it runs")["id"]
        .clone();

    // It may be taken back; then it goes.
    assert_eq!(
        json(&pd, &format!("store remove {old}"))["state"],
        "Offline"
    );
    assert_eq!(json(&pd, &format!("store restore {old}"))["state"], "Up");
    let removed = json(&pd, &format!("store remove {old} --wait"));
    assert_eq!(
        (&removed["state"], &removed["regions"]),
        (&"Tombstone".into(), &0.into())
    );
    assert_eq!(ids(&json(&pd, "store list"), "id").len(), 3);
    assert_eq!(ids(&json(&pd, "store list --all"), "id").len(), 4);
    fails(
        &pd,
        &format!("store restore {old}"),
        &["gone for ever", "gets a new id"],
    );

    // Its folder is of no use any more.
    let dir = nodes.remove(2).dir().to_owned();
    let old = old.to_string();
    refused(
        &server_args(&dir, &[]),
        &[&old, "was removed from its cluster", "empty data folder"],
    );
    drop(fourth);
}

#[test]
fn settings_rules_and_schedulers_are_shown_and_changed() {
    let dir = folder();
    let node = Node::start(dir.path(), &[]);
    let pd = node.addr();

    // Settings.
    done(pd, "config set leader-schedule-limit 3");
    done(pd, "config set location-labels zone,host");
    let one = json(pd, "config show leader-schedule-limit");
    assert_eq!(one[0]["value"], 3, "{one}");
    let table = done(pd, "config show");
    assert!(table.contains("zone,host"), "{table}");
    fails(pd, "config set warp 9", &["warp", "no such setting"]);
    fails(pd, "config set max-replicas many", &["max-replicas"]);
    fails(pd, "config show warp", &["warp", "lists all"]);

    // Placement rules.
    done(
        pd,
        "rule set eu/copy --role learner --count 1 --from m --on zone=a,b --not-on disk --apart zone",
    );
    let rules = json(pd, "rule list");
    let rule = rules.as_array().expect("rows").iter();
    let rule = rule.clone().find(|rule| rule["id"] == "copy");
    let rule = rule.expect("the new rule");
    assert_eq!(
        (&rule["role"], &rule["count"]),
        (&"learner".into(), &1.into())
    );
    assert_eq!(rule["label_constraints"][0]["values"][1], "b");
    assert_eq!(rule["label_constraints"][1]["op"], "notExists");
    let table = done(pd, "rule list");
    for part in ["eu/copy", "pd/default", "zone=a,b and not disk"] {
        assert!(table.contains(part), "no {part} in {table}");
    }
    done(pd, "rule delete eu/copy");
    fails(pd, "rule delete eu/copy", &["eu/copy", "no such rule"]);
    fails(
        pd,
        "rule set pd/default --role learner --count 1",
        &["pd/default"],
    );
    ctl(pd, "rule delete nothing").refused(EXIT_USAGE, &["GROUP/ID"]);

    // Schedulers.
    let name = "balance-leader-scheduler";
    done(pd, &format!("scheduler pause {name} --for 1h"));
    let paused = |listed: &Value| {
        let mut rows = listed.as_array().expect("rows").iter();
        rows.find(|row| row["name"] == name)
            .map(|row| row["paused"].clone())
    };
    assert_eq!(paused(&json(pd, "scheduler list")), Some(true.into()));
    done(pd, &format!("scheduler resume {name}"));
    assert_eq!(paused(&json(pd, "scheduler list")), Some(false.into()));
    done(pd, &format!("scheduler remove {name}"));
    assert_eq!(paused(&json(pd, "scheduler list")), None);
    done(pd, &format!("scheduler add {name}"));
    assert_eq!(paused(&json(pd, "scheduler list")), Some(false.into()));
    fails(pd, "scheduler pause nobody", &["nobody", "scheduler list"]);

    // Regions are split where somebody wants it; the busiest are found.
    let split = json(pd, "region split --at d --at m");
    assert_eq!(
        split["regions-id"].as_array().map(Vec::len),
        Some(2),
        "{split}"
    );
    assert_eq!(json(pd, "region list").as_array().map(Vec::len), Some(4));
    for what in ["read", "write"] {
        json(pd, &format!("hot {what}"));
        done(pd, &format!("hot {what}"));
    }
    assert_eq!(
        json(pd, "operator list --history")["running"],
        Value::Array(Vec::new())
    );
    node.stop();
}
