//! Bodies that hold their memory: a request is counted while it comes in, and both it and the
//! answer stay counted until the answer has been handed to the socket.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tonic::Status;

use super::memory::{FREE_BYTES, InFlight, Reserved};

/// Shared by the two bodies of one request. Made only once a request is larger than the free bytes.
pub(super) type Held = Arc<Mutex<InFlight>>;

/// A request's body.
pub(super) struct RequestBody {
    incoming: Incoming,
    held: Held,
    seen: u64,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, held: Held) -> Self {
        Self {
            incoming,
            held,
            seen: 0,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        Poll::Ready(match frame {
            None => None,
            Some(Err(error)) => Some(Err(Status::from_error(Box::new(error)))),
            Some(Ok(frame)) => {
                self.seen += frame.data_ref().map_or(0, |data| data.len() as u64);
                if self.seen > FREE_BYTES && self.held.lock().grow_to(self.seen).is_err() {
                    return Poll::Ready(Some(Err(Status::resource_exhausted(
                        "too many bytes of requests are under way; send this one again later",
                    ))));
                }
                Some(Ok(frame))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// An answer's body.
pub struct ResponseBody {
    body: tonic::body::Body,
    _held: Option<Held>,
    _reserved: Option<Reserved>,
}

impl ResponseBody {
    pub(super) fn new(
        body: tonic::body::Body,
        held: Option<Held>,
        reserved: Option<Reserved>,
    ) -> Self {
        Self {
            body,
            _held: held,
            _reserved: reserved,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
