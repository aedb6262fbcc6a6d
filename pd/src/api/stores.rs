//! Stores.

use flotilla_proto::metapb::Store;
use serde_json::Value;

use super::{Args, HttpAnswer, Looks, Shown, ask, astray, no, show};
use crate::call::{Call, Response, calls};
use crate::internal::SetStoreState;
use crate::pages::state_name;
use crate::view::{StoresView, View};

pub(super) fn list(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let wanted: Vec<String> = args.query_all("state").map(state_wanted).collect();
    let stores = looks.leading.durable.stores.values();
    let stores: Vec<_> = stores
        .filter(|store| {
            let state = state_name(looks.leading.store_state(looks.cx, store));
            if wanted.is_empty() {
                state != "Tombstone"
            } else {
                wanted
                    .iter()
                    .any(|wanted| wanted.eq_ignore_ascii_case(state))
            }
        })
        .map(|store| looks.leading.store_page(looks.cx, store))
        .collect();
    let count = stores.len();
    show(View::Stores(StoresView { count, stores }))
}

/// PD's tools give a state's name, or its number among those that are registered.
fn state_wanted(text: &str) -> String {
    match text {
        "0" => "Up",
        "1" => "Offline",
        "2" => "Tombstone",
        name => name,
    }
    .to_owned()
}

fn known<'a>(looks: &Looks<'a>, id: u64) -> Result<&'a Store, HttpAnswer> {
    let store = looks.leading.durable.stores.get(&id);
    store.ok_or_else(|| HttpAnswer::problem(404, format!("there is no store {id}")))
}

pub(super) fn one(looks: &Looks<'_>, args: &Args<'_>) -> Shown {
    let store = known(looks, args.id("id")?)?;
    let page = looks.leading.store_page(looks.cx, store);
    show(View::Store(Box::new(page)))
}

pub(super) fn remove(_: &Looks<'_>, args: &Args<'_>) -> Shown {
    let (store, offline) = (args.id("id")?, true);
    let request = SetStoreState { store, offline };
    ask(calls::SetStoreState::request(request), |response| {
        state_set(response, "The store is set as Offline.")
    })
}

pub(super) fn set_state(_: &Looks<'_>, args: &Args<'_>) -> Shown {
    let store = args.id("id")?;
    let offline = match args.query("state") {
        Some("Up") => false,
        Some("Offline") => true,
        other => {
            let other = other.unwrap_or_default();
            return no(400, format!("state={other:?} is neither Up nor Offline"));
        }
    };
    let request = SetStoreState { store, offline };
    ask(calls::SetStoreState::request(request), |response| {
        state_set(response, "The store's state is updated.")
    })
}

fn state_set(response: Response, text: &str) -> HttpAnswer {
    let Response::SetStoreState(set) = response else {
        return astray(response);
    };
    match set.0 {
        Ok(()) => HttpAnswer::ok(Value::from(text)),
        Err(error) => HttpAnswer::problem(error.http_status(), error),
    }
}
