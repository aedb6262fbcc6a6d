//! What is served over plain HTTP: the health check, the metrics, PD's JSON API, the dashboard.

mod dashboard;
mod latencies;
mod origin;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router, middleware};
use flotilla_proto::admin::ShowPageRequest;
use http::{HeaderMap, Method, StatusCode, header};
use serde::Serialize;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::net::is_grpc;
use crate::rpc::Leader;
use crate::store::Store;

pub(crate) use origin::OwnName;

/// Bytes of a request's body.
const BODY_MAX: usize = 1 << 20;
/// How long a page waits while nobody leads PD.
const PD_MOVES: Duration = Duration::from_secs(3);
/// Pause before PD is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// What the pages show.
#[derive(Clone)]
pub(crate) struct Pages {
    /// Who leads PD.
    pub(crate) leader: Leader,
    /// Metrics.
    pub(crate) metrics: Arc<Metrics>,
    /// The store, for metrics that are read when they are asked for.
    pub(crate) store: Arc<Store>,
    /// By what browsers may know this node.
    pub(crate) own_name: OwnName,
    /// Whether the node takes requests.
    pub(crate) serving: Arc<AtomicBool>,
}

/// A failure, as JSON.
#[derive(Serialize)]
struct Problem {
    error: String,
}

fn problem(status: StatusCode, error: impl ToString) -> Response {
    (
        status,
        Json(Problem {
            error: error.to_string(),
        }),
    )
        .into_response()
}

/// What is asked for and does not exist.
pub(crate) async fn not_found(request: Request) -> Response {
    let path = request.uri().path();
    if is_grpc(&request) {
        let text = format!("{path} is not a method of this node");
        let (parts, ()) = tonic::Status::unimplemented(text)
            .into_http::<()>()
            .into_parts();
        return Response::from_parts(parts, axum::body::Body::empty());
    }
    problem(
        StatusCode::NOT_FOUND,
        format!("there is no page {path}; / lists them"),
    )
}

/// The pages that everybody may see.
pub(crate) fn health(pages: Pages) -> Router {
    Router::new()
        .route("/health", get(show_health))
        .with_state(pages)
}

/// All other pages.
pub(crate) fn api(pages: Pages) -> Router {
    Router::new()
        .route("/", get(show_index))
        .route("/metrics", get(show_metrics))
        .route("/dashboard", get(dashboard::show_page))
        .route("/dashboard/{file}", get(dashboard::show_file))
        .route("/flotilla/v1/latencies", get(latencies::show))
        .route("/flotilla/{*page}", any(show))
        .route("/pd/{*page}", any(show))
        .layer(middleware::from_fn_with_state(pages.clone(), origin::check))
        .with_state(pages)
}

/// The paths, for somebody who looks at the port without a browser.
const INDEX: &str = "\
flotilla

/dashboard                  for browsers
/health                     whether this node takes requests
/metrics                    for Prometheus
/pd/api/v1/cluster          the cluster's id and limits
/pd/api/v1/members          who serves PD
/pd/api/v1/stores           stores and their space
/pd/api/v1/regions          regions, their ranges and leaders
/pd/api/v1/operators        changes of regions that are under way
/pd/api/v1/config           settings
/pd/api/v2/keyspaces        keyspaces; POST {\"name\": \"..\"} creates one

docs/protocol.md has all of them.
";

async fn show_index(headers: HeaderMap) -> Response {
    let accepts = headers.get(header::ACCEPT);
    let accepts = accepts.and_then(|accepts| accepts.to_str().ok());
    if accepts.is_some_and(|accepts| accepts.contains("text/html")) {
        dashboard::show_page().await
    } else {
        INDEX.into_response()
    }
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

async fn show_health(State(pages): State<Pages>) -> Response {
    if pages.serving.load(Ordering::Acquire) && !pages.store.fatal.is_reported() {
        Json(Health { status: "serving" }).into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(Health {
                status: "not serving",
            }),
        )
            .into_response()
    }
}

async fn show_metrics(State(pages): State<Pages>) -> Response {
    let (metrics, store) = (Arc::clone(&pages.metrics), Arc::clone(&pages.store));
    // Some are read from RocksDB, under its lock.
    let text = tokio::task::spawn_blocking(move || {
        crate::gauges::read(&metrics, &store);
        metrics.render()
    });
    match text.await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

/// A page as PD has it, whichever node that is.
async fn show(State(pages): State<Pages>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_MAX).await else {
        let text = format!("the body is longer than {BODY_MAX} bytes, or broke off");
        return problem(StatusCode::PAYLOAD_TOO_LARGE, text);
    };
    let kind = head.headers.get(header::CONTENT_TYPE);
    let is_json = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    // Forms of other sites' pages can send anything but this type.
    if !body.is_empty() && !is_json {
        let text = "a body is sent as JSON: add the header `Content-Type: application/json`";
        return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    }
    let target = head
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let request = ShowPageRequest {
        method: head.method.to_string(),
        target: target.to_owned(),
        body,
    };
    let mut answered = pages.leader.show_page(request.clone()).await;
    // PD may be on its way to another node. What only looks is asked again.
    let patience = Instant::now() + PD_MOVES;
    while answered.0 == 503 && head.method == Method::GET && Instant::now() < patience {
        tokio::time::sleep(ASK_AGAIN).await;
        answered = pages.leader.show_page(request.clone()).await;
    }
    let (status, json) = answered;
    let status = u16::try_from(status).ok();
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (status, kind, json).into_response()
}
