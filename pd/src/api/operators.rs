//! Operators: what runs, what ran, what somebody wants.

use flotilla_pd_plan::Asked;
use flotilla_proto::pdpb::ScatterRegionRequest;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Args, HttpAnswer, Looks, Shown, ask, astray, no, refused, show};
use crate::call::{Call, Response, calls};
use crate::internal::{AddOperator, CancelOperator};
use crate::pages::rfc3339;
use crate::view::OperatorView;

pub(super) fn running(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let running = looks.leading.list_operators().running;
    let kinds: Vec<&str> = args.query_all("kind").collect();
    let wanted = |one: &&OperatorView| kinds.is_empty() || kinds.contains(&one.kind);
    let shown = running.iter().filter(wanted);
    show(shown.map(|one| written(args, one)).collect::<Value>())
}

/// Those that ended, from a second since 1970 on.
pub(super) fn records(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let from: u64 = args.number("from", 0)?;
    let ended = looks.leading.list_operators().ended;
    let late = |one: &&OperatorView| one.ended_ms.is_some_and(|at| at / 1000 >= from);
    show(
        ended
            .iter()
            .filter(late)
            .map(|one| written(args, one))
            .collect::<Value>(),
    )
}

pub(super) fn of_region(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let region = args.id("region")?;
    let listed = looks.leading.list_operators();
    let mut all = listed.running.iter().chain(&listed.ended);
    match all.find(|one| one.region_id == region) {
        Some(one) => show(written(args, one)),
        None => no(
            404,
            format!("region {region} has no operator, and had none lately"),
        ),
    }
}

/// One line, as PD writes it; with `object` in the query its parts.
fn written(args: &Args<'_>, one: &OperatorView) -> Value {
    if args.query("object").is_some() {
        return json!(one);
    }
    let steps = one.steps.iter().enumerate();
    let steps: Vec<String> = steps
        .map(|(nth, step)| format!("{nth}:{{{step}}}"))
        .collect();
    let (steps, at) = (steps.join(", "), rfc3339(one.started_ms / 1000));
    let mut line = format!(
        "{} {{{}}} (kind:{}, region:{}, createAt:{at}, currentStep:{}, steps:[{steps}], status:{})",
        one.desc, one.reason, one.kind, one.region_id, one.steps_done, one.status
    );
    if let Some(ended) = one.ended_ms {
        let took = ended.saturating_sub(one.started_ms);
        line += &format!(" (finishAt:{}, duration:{took}ms)", rfc3339(ended / 1000));
    }
    Value::from(line)
}

/// What PD's tools send; each name uses some of it.
#[derive(Deserialize)]
struct New {
    name: String,
    region_id: Option<u64>,
    store_id: Option<u64>,
    to_store_id: Option<u64>,
    from_store_id: Option<u64>,
    source_region_id: Option<u64>,
    target_region_id: Option<u64>,
    region_ids: Option<Vec<u64>>,
    #[serde(default)]
    group: String,
}

pub(super) fn add(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let new: New = args.body()?;
    let name = new.name.as_str();
    let need = |value: Option<u64>, what: &str| {
        value.ok_or_else(|| HttpAnswer::problem(400, format!("{name} needs {what}")))
    };
    match name {
        "merge-region" => {
            let region = need(new.source_region_id, "source_region_id")?;
            let target = need(new.target_region_id, "target_region_id")?;
            let asked = Asked::Merge { target };
            let request = AddOperator { region, asked };
            return ask(calls::AddOperator::request(request), added);
        }
        "scatter-region" | "scatter-regions" => {
            let one = new.region_id.into_iter();
            let regions: Vec<u64> = one.chain(new.region_ids.into_iter().flatten()).collect();
            need(regions.first().copied(), "region_id or region_ids")?;
            for region in &regions {
                looks.known(*region)?;
            }
            return scatter(looks, regions, new.group);
        }
        _ => {}
    }
    let region = need(new.region_id, "region_id")?;
    let asked = match name {
        "transfer-leader" => Asked::TransferLeader {
            to: need(new.to_store_id, "to_store_id")?,
        },
        "add-peer" => Asked::AddPeer {
            store: need(new.store_id, "store_id")?,
        },
        "remove-peer" => Asked::RemovePeer {
            store: need(new.store_id, "store_id")?,
        },
        "transfer-peer" => Asked::MovePeer {
            from: need(new.from_store_id, "from_store_id")?,
            to: need(new.to_store_id, "to_store_id")?,
        },
        other => {
            let known = "transfer-leader, add-peer, remove-peer, transfer-peer, merge-region, \
                         scatter-region, scatter-regions";
            return no(
                400,
                format!("there is no operator {other:?}; there are {known}"),
            );
        }
    };
    let request = AddOperator { region, asked };
    ask(calls::AddOperator::request(request), added)
}

fn scatter(looks: &Looks<'_>, regions_id: Vec<u64>, group: String) -> Shown {
    let request = ScatterRegionRequest {
        header: looks.header(),
        regions_id,
        group,
        ..ScatterRegionRequest::default()
    };
    ask(calls::ScatterRegion::request(request), |response| {
        let Response::ScatterRegion(scattered) = response else {
            return astray(response);
        };
        let begun = || HttpAnswer::ok(Value::from("The operator is created."));
        refused(scattered.header.as_ref()).unwrap_or_else(begun)
    })
}

pub(super) fn added(response: Response) -> HttpAnswer {
    let Response::AddOperator(added) = response else {
        return astray(response);
    };
    match added.0 {
        Ok(_) => HttpAnswer::ok(Value::from("The operator is created.")),
        Err(error) => HttpAnswer::problem(error.http_status(), error),
    }
}

pub(super) fn cancel(_: &Looks<'_>, args: &Args<'_>) -> Shown {
    let region = args.id("region")?;
    let request = calls::CancelOperator::request(CancelOperator { region });
    ask(request, |response| {
        let Response::CancelOperator(cancelled) = response else {
            return astray(response);
        };
        match cancelled.0 {
            Some(_) => HttpAnswer::ok(Value::from("The pending operator is canceled.")),
            None => HttpAnswer::problem(404, "no operator runs on this region: it may have ended"),
        }
    })
}
