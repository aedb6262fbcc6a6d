//! How long calls took, on every node: what the dashboard draws.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use flotilla_proto::admin as a;
use serde::Serialize;

use super::Pages;

#[derive(Serialize)]
struct Latencies {
    nodes: Vec<Node>,
}

#[derive(Serialize)]
struct Node {
    store: u64,
    address: String,
    /// Why it says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Seconds: the upper bounds of the counts; the last count is of what took longer.
    bounds: Vec<f64>,
    /// By call, how many took how long, since the node started.
    calls: BTreeMap<String, Vec<u64>>,
}

pub(super) async fn show(State(pages): State<Pages>) -> Response {
    let asked = pages.leader.latencies(pages.metrics.latencies()).await;
    let nodes = asked.into_iter().map(|(store, address, answer)| {
        let (error, answer) = match answer {
            Ok(answer) => (None, answer),
            Err(why) => (Some(why), a::ShowLatenciesResponse::default()),
        };
        let calls = answer.calls.into_iter();
        Node {
            store,
            address,
            error,
            bounds: answer.bounds,
            calls: calls.map(|call| (call.name, call.counts)).collect(),
        }
    });
    let nodes = nodes.collect();
    Json(Latencies { nodes }).into_response()
}
