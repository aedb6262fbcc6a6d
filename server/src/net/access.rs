//! Who may ask what on which listener, and the way of one request through it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use axum::response::IntoResponse;
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tonic::Status;
use tower::Service as _;

use super::body::{RequestBody, ResponseBody};
use super::memory::{Client, NoRoom, Outbox};
use super::security::{Caller, Refused, Role, needed};

/// The one path that everybody may ask over plain HTTP.
const HEALTH_PATH: &str = "/health";

/// What one connection may ask for (contracts: C29).
#[derive(Clone, Debug)]
pub(super) enum Access {
    /// gRPC and HTTP.
    All,
    /// gRPC, and of HTTP only the health check: the connection comes from another machine, and is
    /// not encrypted.
    RemoteGrpc,
    /// gRPC, and of HTTP only the health check: the rest has a listener of its own.
    MovedHttp,
    /// What the certificate is good for.
    Certified {
        /// Whose it is.
        caller: Arc<Caller>,
        /// HTTP has a listener of its own.
        moved_http: bool,
    },
}

const MOVED: &str = "HTTP is served on the address given with --status-addr";

impl Access {
    /// Why this request is not served here.
    fn refusal(&self, is_grpc: bool, path: &str) -> Option<Refusal> {
        let is_call = is_grpc && is_of_a_service(path);
        if path == HEALTH_PATH {
            return None;
        }
        let here = |text: &str| (!is_call).then(|| Refusal::Page(text.to_owned()));
        match self {
            Self::All => None,
            Self::RemoteGrpc => here(
                "HTTP is served to this machine only: ask through 127.0.0.1, or start the node with \
                 --status-addr",
            ),
            Self::MovedHttp => here(MOVED),
            Self::Certified {
                moved_http: true, ..
            } if !is_call => here(MOVED),
            Self::Certified { caller, .. } if is_call => {
                let refused = caller.check(needed(path)?).err()?;
                let text = refused.to_string();
                Some(Refusal::Call(match refused {
                    Refused::NoCertificate => Status::unauthenticated(text),
                    Refused::NotNamed { .. } => Status::permission_denied(text),
                }))
            }
            Self::Certified { caller, .. } => {
                let refused = caller.check(Role::Admin).err()?;
                here(&refused.to_string())
            }
        }
    }
}

/// Why a request is not served here, in the words of its protocol.
#[derive(Debug)]
enum Refusal {
    Page(String),
    Call(Status),
}

impl Refusal {
    fn into_answer(self) -> Response<axum::body::Body> {
        match self {
            Self::Page(text) => (StatusCode::FORBIDDEN, text + "\n").into_response(),
            Self::Call(status) => status.into_http::<()>().map(|()| axum::body::Body::empty()),
        }
    }
}

/// Serves the requests of one connection.
#[derive(Clone)]
pub(super) struct Service {
    routes: axum::Router,
    access: Access,
    client: Client,
}

impl Service {
    pub(super) fn new(routes: axum::Router, access: Access, client: Client) -> Self {
        Self {
            routes,
            access,
            client,
        }
    }
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (call, is_grpc) = (self.client.call(), is_grpc(&request));
        if let Some(refusal) = self.access.refusal(is_grpc, request.uri().path()) {
            call.client().forbidden();
            let answer = refusal.into_answer();
            let answer = answer.map(|body| ResponseBody::small(body, call));
            return Box::pin(std::future::ready(Ok(answer)));
        }
        let mut request = request.map(|incoming| RequestBody::new(incoming, call.clone()));
        request.extensions_mut().insert(call.clone());
        let mut routes = self.routes.clone();
        Box::pin(async move {
            let (mut head, body) = routes.call(request).await?.into_parts();
            let outbox = head.extensions.remove::<Outbox>();
            Ok(
                match ResponseBody::begin(body, call.clone(), outbox).await {
                    Ok(body) => Response::from_parts(head, body),
                    Err(NoRoom) => {
                        call.client().refused_answer();
                        no_room(is_grpc).map(|body| ResponseBody::small(body, call))
                    }
                },
            )
        })
    }
}

/// Instead of a large answer for which there is no room.
fn no_room(is_grpc: bool) -> Response<axum::body::Body> {
    let text = "too many bytes of answers are not read yet; ask again later";
    if is_grpc {
        let head = Status::resource_exhausted(text).into_http::<()>();
        head.map(|()| axum::body::Body::empty())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

/// Whether `path` is that of a gRPC call: `/package.Service/Method`. A page is none, whatever its
/// request says that its body is.
fn is_of_a_service(path: &str) -> bool {
    let service = path.split('/').nth(1);
    service.is_some_and(|service| service.contains('.'))
}

/// Whether a request is gRPC, by what it says its body is.
pub fn is_grpc<B>(request: &Request<B>) -> bool {
    let content = request.headers().get(header::CONTENT_TYPE);
    content.is_some_and(|content| content.as_bytes().starts_with(b"application/grpc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_health_check_is_for_everybody() {
        for (access, is_grpc, path, word) in [
            (Access::All, false, "/metrics", None),
            (Access::All, true, "/tikvpb.Tikv/RawGet", None),
            (Access::RemoteGrpc, true, "/tikvpb.Tikv/RawGet", None),
            (Access::RemoteGrpc, false, "/health", None),
            (
                Access::RemoteGrpc,
                false,
                "/metrics",
                Some("this machine only"),
            ),
            (
                Access::RemoteGrpc,
                true,
                "/metrics",
                Some("this machine only"),
            ),
            (Access::RemoteGrpc, true, "/", Some("this machine only")),
            (Access::MovedHttp, true, "/metrics", Some("--status-addr")),
            (
                Access::RemoteGrpc,
                false,
                "/pd/api/v1/stores",
                Some("this machine only"),
            ),
            (
                Access::RemoteGrpc,
                false,
                "/tikvpb.Tikv/RawGet",
                Some("this machine only"),
            ),
            (
                Access::RemoteGrpc,
                false,
                "/health/",
                Some("this machine only"),
            ),
            (Access::MovedHttp, false, "/health", None),
            (Access::MovedHttp, false, "/metrics", Some("--status-addr")),
        ] {
            let refusal = access.refusal(is_grpc, path);
            let fits = match (&refusal, word) {
                (Some(Refusal::Page(text)), Some(word)) => text.contains(word),
                (None, None) => true,
                _ => false,
            };
            assert!(fits, "{access:?} {path}: {refusal:?}");
        }
    }
}
