//! What is served over plain HTTP: the health check, the metrics, PD's JSON API.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use flotilla_proto::admin::{Page, ShowPageRequest};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::metrics::Metrics;
use crate::net::is_grpc;
use crate::rpc::Leader;
use crate::store::Store;

/// What the pages show.
#[derive(Clone)]
pub(crate) struct Pages {
    /// Who leads PD.
    pub(crate) leader: Leader,
    /// Metrics.
    pub(crate) metrics: Arc<Metrics>,
    /// The store, for metrics that are read when they are asked for.
    pub(crate) store: Arc<Store>,
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
pub(crate) async fn not_found(request: axum::extract::Request) -> Response {
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
        .route(
            "/pd/api/v1/regions",
            get(|pages| show(pages, Page::Regions)),
        )
        .route("/pd/api/v1/stores", get(|pages| show(pages, Page::Stores)))
        .route(
            "/pd/api/v1/members",
            get(|pages| show(pages, Page::Members)),
        )
        .route(
            "/pd/api/v1/cluster",
            get(|pages| show(pages, Page::Cluster)),
        )
        .route(
            "/pd/api/v1/version",
            get(|pages| show(pages, Page::Version)),
        )
        .route(
            "/pd/api/v2/keyspaces",
            get(|pages| show(pages, Page::Keyspaces)).post(create_keyspace),
        )
        .route("/pd/api/v2/keyspaces/{name}", get(show_keyspace))
        .with_state(pages)
}

/// The paths, for somebody who looks at the port with a browser.
const INDEX: &str = "\
flotilla

/health                     whether this node takes requests
/metrics                    for Prometheus
/pd/api/v1/cluster          the cluster's id and limits
/pd/api/v1/members          who serves PD
/pd/api/v1/stores           stores and their space
/pd/api/v1/regions          regions, their ranges and leaders
/pd/api/v1/version          the version of this node
/pd/api/v2/keyspaces        keyspaces; POST {\"name\": \"..\"} creates one
";

async fn show_index() -> &'static str {
    INDEX
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

async fn show(State(pages): State<Pages>, page: Page) -> Response {
    let page = page.into();
    let request = ShowPageRequest {
        page,
        ..ShowPageRequest::default()
    };
    answer(&pages, request).await
}

/// The page as PD has it, whichever node that is.
async fn answer(pages: &Pages, request: ShowPageRequest) -> Response {
    let (status, json) = pages.leader.show_page(request).await;
    let status = u16::try_from(status).ok();
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (status, kind, json).into_response()
}

async fn show_keyspace(State(pages): State<Pages>, Path(name): Path<String>) -> Response {
    let page = Page::Keyspace.into();
    let request = ShowPageRequest {
        page,
        name,
        ..ShowPageRequest::default()
    };
    answer(&pages, request).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKeyspace {
    name: String,
    #[serde(default)]
    config: HashMap<String, String>,
}

async fn create_keyspace(
    State(pages): State<Pages>,
    body: Result<Json<NewKeyspace>, JsonRejection>,
) -> Response {
    let NewKeyspace { name, config } = match body {
        Ok(Json(new)) => new,
        Err(rejection) => return problem(rejection.status(), rejection.body_text()),
    };
    let page = Page::CreateKeyspace.into();
    answer(&pages, ShowPageRequest { page, name, config }).await
}
