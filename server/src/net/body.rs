//! Bodies that are counted: a request while it comes in, an answer until it has been written.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tonic::Status;

use super::memory::{Call, FREE_BYTES, NoRoom, Outbox, Reserved, Unsent};

/// A request's body.
pub(super) struct RequestBody {
    incoming: Incoming,
    call: Call,
    /// So many bytes more are not counted.
    free: u64,
    /// A frame that waits for room, and how many bytes of it are counted.
    kept: Option<(Bytes, u64)>,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, call: Call) -> Self {
        Self {
            incoming,
            call,
            free: FREE_BYTES,
            kept: None,
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
        let (data, counted) = match self.kept.take() {
            Some(kept) => kept,
            None => {
                let frame = match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                    None => return Poll::Ready(None),
                    Some(Err(error)) => {
                        return Poll::Ready(Some(Err(Status::from_error(Box::new(error)))));
                    }
                    Some(Ok(frame)) => frame,
                };
                let data = match frame.into_data() {
                    Ok(data) => data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                };
                let bytes = data.len() as u64;
                let free = bytes.min(self.free);
                self.free -= free;
                (data, bytes - free)
            }
        };
        if counted > 0 {
            match self.call.poll_grow(counted, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(NoRoom)) => {
                    return Poll::Ready(Some(Err(Status::resource_exhausted(
                        "too many bytes of requests are under way; send this one again later",
                    ))));
                }
                // What is not read stays with the client: that is what the windows are for.
                Poll::Pending => {
                    self.kept = Some((data, counted));
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.kept.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.kept.as_ref().map_or(0, |(data, _)| data.len());
        with_more(&self.incoming.size_hint(), kept)
    }
}

fn with_more(hint: &SizeHint, bytes: usize) -> SizeHint {
    let (mut more, bytes) = (SizeHint::new(), bytes as u64);
    if let Some(upper) = hint.upper() {
        more.set_upper(upper.saturating_add(bytes));
    }
    more.set_lower(hint.lower().saturating_add(bytes));
    more
}

/// Bytes of an answer that are handed to HTTP/2 at once. It buffers what it is given, however
/// little the client takes.
const PIECE_BYTES: usize = 64 << 10;

/// What comes next of an answer.
enum Part {
    Data(Bytes),
    Trailers(Frame<Bytes>),
    Failed(axum::Error),
    End,
}

/// An answer's body.
pub(super) struct ResponseBody {
    body: axum::body::Body,
    call: Call,
    outbox: Option<Outbox>,
    /// Data here is counted.
    next: Option<Part>,
}

impl ResponseBody {
    /// An answer that needs no memory worth counting.
    pub(super) fn small(body: axum::body::Body, call: Call) -> Self {
        Self {
            body,
            call,
            outbox: None,
            next: None,
        }
    }

    /// Counts an answer that a service has just made: one that is no stream is here as a whole.
    ///
    /// # Errors
    /// It is large, no memory was reserved for it, and there is no room.
    pub(super) async fn begin(
        body: axum::body::Body,
        call: Call,
        outbox: Option<Outbox>,
    ) -> Result<Self, NoRoom> {
        let mut answer = Self {
            outbox,
            ..Self::small(body, call)
        };
        if answer.body.is_end_stream() {
            return Ok(answer);
        }
        // It is made whether or not the client takes anything: what is made is counted. A stream
        // has nothing yet; each of its messages is counted as it is made.
        let first = poll_fn(|cx| {
            Poll::Ready(match answer.poll_part(cx) {
                Poll::Ready(part) => Some(part),
                Poll::Pending => None,
            })
        });
        answer.next = match first.await {
            Some(Part::Data(data)) => {
                let reserved = answer.reserve(data.len())?;
                Some(Part::Data(Unsent::count(data, &answer.call, reserved)))
            }
            other => other,
        };
        Ok(answer)
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Part> {
        Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            None => Part::End,
            Some(Err(error)) => Part::Failed(error),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Part::Data(data),
                Err(trailers) => Part::Trailers(trailers),
            },
        })
    }

    fn reserve(&self, bytes: usize) -> Result<Vec<Reserved>, NoRoom> {
        let mut reserved = self.outbox.as_ref().map(Outbox::take).unwrap_or_default();
        if reserved.is_empty() {
            reserved.extend(self.call.client().try_reserve(bytes as u64)?);
        }
        Ok(reserved)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let part = match self.next.take() {
            Some(part) => part,
            None => match ready!(self.poll_part(cx)) {
                Part::Data(data) => {
                    // Nothing reserved: many small answers in one message. They are not worth
                    // the end of their stream.
                    let reserved = self.reserve(data.len()).unwrap_or_default();
                    Part::Data(Unsent::count(data, &self.call, reserved))
                }
                other => other,
            },
        };
        Poll::Ready(match part {
            Part::Data(mut data) => {
                self.call.client().progressed();
                let piece = data.split_to(data.len().min(PIECE_BYTES));
                if !data.is_empty() {
                    self.next = Some(Part::Data(data));
                }
                Some(Ok(Frame::data(piece)))
            }
            Part::Trailers(trailers) => Some(Ok(trailers)),
            Part::Failed(error) => Some(Err(error)),
            Part::End => {
                self.next = Some(Part::End);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.next {
            None => self.body.is_end_stream(),
            Some(Part::End) => true,
            Some(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let next = match &self.next {
            Some(Part::Data(data)) => data.len(),
            _ => 0,
        };
        with_more(&self.body.size_hint(), next)
    }
}
