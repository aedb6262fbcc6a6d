//! A connection that lets others run first.

use std::pin::Pin;
use std::task::{Context, Poll};

/// Polls a future once everything else that could run on this thread has had its turn.
///
/// A connection is woken by the first of its requests that has an answer, and would run at once and
/// hand that one answer to the socket. A turn later most of its other requests have theirs too, and
/// all of them go out in one system call.
#[derive(Debug)]
pub(super) struct Gather<F> {
    inner: F,
    /// The others have had their turn.
    waited: bool,
}

impl<F> Gather<F> {
    pub(super) fn new(inner: F) -> Self {
        Self {
            inner,
            waited: false,
        }
    }

    pub(super) fn get_mut(&mut self) -> &mut F {
        &mut self.inner
    }
}

impl<F: Future + Unpin> Future for Gather<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if !self.waited {
            self.waited = true;
            // Woken while it runs, a task goes to the end of the queue.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.waited = false;
        Pin::new(&mut self.inner).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::poll_fn;

    use super::*;

    /// One task is woken by the other, which has more to do: it comes second all the same.
    #[tokio::test]
    async fn runs_after_what_was_there_before() {
        let said = RefCell::new(Vec::new());
        let gathered = Gather::new(Box::pin(async { said.borrow_mut().push("gathered") }));
        let other = async { said.borrow_mut().push("other") };
        tokio::join!(gathered, other);
        assert_eq!(said.into_inner(), ["other", "gathered"]);
    }

    #[tokio::test]
    async fn every_wake_counts() {
        let mut left = 3;
        let inner = poll_fn(move |cx| {
            if left == 0 {
                return Poll::Ready("done");
            }
            left -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        assert_eq!(Gather::new(inner).await, "done");
    }
}
