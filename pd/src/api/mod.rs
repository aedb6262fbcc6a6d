//! PD's JSON API: a request as HTTP brought it in, a status and a body out, over what the leader
//! knows (protocol, section 9). Shapes and names are PD's; what PD has no page for is below
//! `/flotilla/v1`.
//!
//! What only looks is answered at once. What changes something becomes the same call that others
//! make by gRPC; its answer is put into the words of this API when it comes.

mod args;
mod cluster;
mod config;
mod look;
mod operators;
mod regions;
mod stores;
mod table;

use flotilla_proto::pdpb::ResponseHeader;
use serde_json::{Value, json};

use crate::call::{Request, Response};
use crate::leading::Leading;
use crate::reply::Cx;
use crate::status::{Code, Status};
use crate::view::View;

pub(crate) use args::Args;
pub use table::{Offered, routes};

/// A request below `/pd/api` or `/flotilla/v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRequest {
    /// Such as `GET`.
    pub method: String,
    /// The path with its query, as it came.
    pub target: String,
    /// JSON, or nothing.
    pub body: Vec<u8>,
}

/// The answer to an [`HttpRequest`].
#[derive(Clone, Debug, PartialEq)]
pub struct HttpAnswer {
    /// HTTP's status.
    pub status: u16,
    /// What goes into the body.
    pub body: View,
}

impl HttpAnswer {
    /// It went well.
    pub(crate) fn ok(body: impl Into<View>) -> Self {
        let body = body.into();
        Self { status: 200, body }
    }

    /// It did not, and why.
    pub fn problem(status: u16, error: impl ToString) -> Self {
        let body = View::Json(json!({ "error": error.to_string() }));
        Self { status, body }
    }

    /// The body as JSON; made by whoever sends it, since it may be long.
    pub fn json(&self) -> String {
        match &self.body {
            View::Nothing => String::new(),
            body => serde_json::to_string(body).expect("texts and numbers under text keys"),
        }
    }
}

impl From<Status> for HttpAnswer {
    fn from(status: Status) -> Self {
        let code = match status.code {
            Code::InvalidArgument => 400,
            Code::FailedPrecondition => 409,
            Code::ResourceExhausted => 429,
            Code::Internal => 500,
            Code::Unimplemented => 501,
            Code::Unavailable => 503,
        };
        Self::problem(code, status.message)
    }
}

impl From<Value> for View {
    fn from(value: Value) -> Self {
        Self::Json(value)
    }
}

/// Puts a call's answer into the words of this API.
pub(crate) type Render = fn(Response) -> HttpAnswer;

/// What becomes of a request.
pub(crate) enum Begun {
    /// That is the answer.
    Answer(HttpAnswer),
    /// This call has it.
    Ask(Box<Request>, Render),
}

/// What a page gives, or why it does not.
pub(crate) type Shown = Result<Begun, HttpAnswer>;

/// What pages look at.
pub(crate) struct Looks<'a> {
    pub(crate) leading: &'a Leading,
    pub(crate) cx: &'a Cx<'a>,
}

fn show(body: impl Into<View>) -> Shown {
    Ok(Begun::Answer(HttpAnswer::ok(body)))
}

fn ask(request: Request, render: Render) -> Shown {
    Ok(Begun::Ask(Box::new(request), render))
}

/// Refuses.
fn no<T>(status: u16, error: impl ToString) -> Result<T, HttpAnswer> {
    Err(HttpAnswer::problem(status, error))
}

/// A status instead of an answer, or somebody else's answer.
fn astray(response: Response) -> HttpAnswer {
    match response {
        Response::Status(status) => status.into(),
        _ => HttpAnswer::problem(500, "the call was answered by another call's response"),
    }
}

/// PD's own way to refuse, inside of an answer.
fn refused(header: Option<&ResponseHeader>) -> Option<HttpAnswer> {
    let error = header?.error.as_ref()?;
    Some(HttpAnswer::problem(400, &error.message))
}

/// Begins what is asked for.
pub(crate) fn begin(looks: &Looks<'_>, request: &HttpRequest) -> Begun {
    let shown = Args::of(request).and_then(|mut args| {
        let handler = table::find(&mut args)?;
        handler(looks, &args)
    });
    shown.unwrap_or_else(Begun::Answer)
}
