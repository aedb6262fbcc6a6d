//! The cluster as a whole: its members, its version, the safe point, keyspaces.

use std::collections::BTreeMap;

use flotilla_pd_plan::{Asked, StoreState};
use flotilla_proto::keyspacepb::{
    KeyspaceState, UpdateKeyspaceStateRequest, update_keyspace_state_request,
};
use flotilla_proto::pdpb::{RequestHeader, UpdateServiceGcSafePointRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Args, HttpAnswer, Looks, Shown, ask, astray, no, operators, refused, show};
use crate::call::{Call, Response, calls};
use crate::genesis::{ADVERTISED_VERSION, META_REGION};
use crate::internal::{AddOperator, CreateKeyspace};
use crate::pages;
use crate::view::{KeyspacesView, MembersView, View};

impl Looks<'_> {
    pub(super) fn header(&self) -> Option<RequestHeader> {
        Some(RequestHeader {
            cluster_id: self.cx.config.cluster_id,
            ..RequestHeader::default()
        })
    }

    fn members(&self) -> MembersView {
        self.leading.members_page(self.cx)
    }
}

pub(super) fn members(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    show(View::Members(Box::new(looks.members())))
}

pub(super) fn leader(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    show(json!(looks.members().leader))
}

/// PD is where the meta region's leader is: that one moves.
pub(super) fn transfer_leader(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let name = args.text("name")?;
    let members = looks.members().members;
    let Some(member) = members.iter().find(|member| member.name == name) else {
        return no(404, format!("there is no member {name:?}"));
    };
    let (region, to) = (META_REGION, member.member_id);
    let asked = Asked::TransferLeader { to };
    let request = AddOperator { region, asked };
    ask(calls::AddOperator::request(request), |response| {
        let mut answer = operators::added(response);
        if answer.status == 200 {
            answer.body = Value::from("The transfer command is submitted.").into();
        }
        answer
    })
}

/// A member answers if its store reports.
pub(super) fn health(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    let up = |id: u64| {
        let store = looks.leading.durable.stores.get(&id);
        store.is_some_and(|store| looks.leading.store_state(looks.cx, store) == StoreState::Up)
    };
    let members = looks.members().members.into_iter().map(|member| {
        let health = up(member.member_id) || member.member_id == looks.cx.config.store_id;
        json!({
            "name": member.name,
            "member_id": member.member_id,
            "client_urls": member.client_urls,
            "health": health,
        })
    });
    show(members.collect::<Value>())
}

pub(super) fn ping(_: &Looks<'_>, _: &Args<'_>) -> Shown {
    show(View::Nothing)
}

pub(super) fn version(_: &Looks<'_>, _: &Args<'_>) -> Shown {
    show(json!({ "version": format!("v{ADVERTISED_VERSION}") }))
}

pub(super) fn status(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    let own = looks.leading.durable.stores.get(&looks.cx.config.store_id);
    show(json!({
        "build_ts": "",
        "version": format!("v{ADVERTISED_VERSION}"),
        "git_hash": own.map_or("", |store| store.git_hash.as_str()),
        "start_timestamp": own.map_or(0, |store| store.start_timestamp),
    }))
}

pub(super) fn cluster(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    show(json!({
        "id": looks.cx.config.cluster_id,
        "max_peer_count": looks.leading.durable.cluster.max_peer_count,
    }))
}

pub(super) fn cluster_status(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    let cluster = &looks.leading.durable.cluster;
    show(json!({
        "raft_bootstrap_time": pages::rfc3339(cluster.created_ms / 1000),
        "is_initialized": cluster.bootstrapped && !looks.leading.routes.has_holes(),
        "replication_status": "",
    }))
}

pub(super) fn safe_points(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    let durable = &looks.leading.durable;
    let services = durable.services.iter().map(|(id, service)| {
        json!({
            "service_id": String::from_utf8_lossy(id),
            "expired_at": service.expires_at,
            "safe_point": service.safe_point,
        })
    });
    let lowest = durable.services.values().map(|service| service.safe_point);
    show(json!({
        "service_gc_safe_points": services.collect::<Value>(),
        "min_service_gc_safe_point": lowest.min().unwrap_or(0),
        "gc_safe_point": durable.safe_point,
    }))
}

pub(super) fn drop_safe_point(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let request = UpdateServiceGcSafePointRequest {
        header: looks.header(),
        service_id: args.text("service")?.to_owned().into(),
        ttl: 0,
        safe_point: 0,
    };
    ask(
        calls::UpdateServiceGCSafePoint::request(request),
        |response| {
            let Response::UpdateServiceGCSafePoint(updated) = response else {
                return astray(response);
            };
            let done = || HttpAnswer::ok(Value::from("Delete service GC safepoint successfully."));
            refused(updated.header.as_ref()).unwrap_or_else(done)
        },
    )
}

pub(super) fn keyspaces(looks: &Looks<'_>, _: &Args<'_>) -> Shown {
    let keyspaces = looks.leading.durable.keyspaces.iter();
    show(View::Keyspaces(KeyspacesView {
        keyspaces: keyspaces
            .map(|(id, record)| pages::keyspace(*id, record))
            .collect(),
        next_page_token: String::new(),
    }))
}

pub(super) fn keyspace(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let (name, durable) = (args.text("name")?, &looks.leading.durable);
    match durable.keyspace_names.get(name) {
        Some(id) => show(json!(pages::keyspace(*id, &durable.keyspaces[id]))),
        None => no(404, format!("keyspace {name:?} not found")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKeyspace {
    name: String,
    #[serde(default)]
    config: BTreeMap<String, String>,
}

pub(super) fn create_keyspace(_: &Looks<'_>, args: &Args<'_>) -> Shown {
    let NewKeyspace { name, config } = args.body()?;
    let request = CreateKeyspace { name, config };
    ask(calls::CreateKeyspace::request(request), |response| {
        let Response::CreateKeyspace(created) = response else {
            return astray(response);
        };
        match created.0 {
            Ok(meta) => HttpAnswer::ok(json!(pages::keyspace_of(&meta))),
            Err(error) => HttpAnswer::problem(error.http_status(), error),
        }
    })
}

#[derive(Deserialize)]
struct NewState {
    state: String,
}

pub(super) fn keyspace_state(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let (name, NewState { state }) = (args.text("name")?, args.body()?);
    let Some(id) = looks.leading.durable.keyspace_names.get(name) else {
        return no(404, format!("keyspace {name:?} not found"));
    };
    let Some(state) = KeyspaceState::from_str_name(&state.to_ascii_uppercase()) else {
        let known = "enabled, disabled, archived, tombstone";
        return no(
            400,
            format!("there is no state {state:?}; there are {known}"),
        );
    };
    let request = UpdateKeyspaceStateRequest {
        header: looks.header(),
        keyspace: Some(update_keyspace_state_request::Keyspace::Id(*id)),
        state: state.into(),
    };
    ask(calls::UpdateKeyspaceState::request(request), |response| {
        let Response::UpdateKeyspaceState(updated) = response else {
            return astray(response);
        };
        refused(updated.header.as_ref()).unwrap_or_else(|| {
            let meta = updated.keyspace.unwrap_or_default();
            HttpAnswer::ok(json!(pages::keyspace_of(&meta)))
        })
    })
}
