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

/// Bytes of an answer that are handed to HTTP/2 at once. It buffers what it is given, however
/// little the client takes; the rest of the answer stays here, and counted.
const PIECE_BYTES: usize = 64 << 10;

/// An answer's body.
pub struct ResponseBody {
    body: tonic::body::Body,
    /// What is left of the last piece of `body`.
    rest: Bytes,
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
            rest: Bytes::new(),
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
        if self.rest.is_empty() {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
            }
        }
        let piece = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(body.lower().saturating_add(rest));
        hint
    }
}
