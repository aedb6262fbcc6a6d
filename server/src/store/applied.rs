//! Latches, and which terms the regions have applied: what lets a latch of unknown fate go.

use dashmap::DashMap;
use flotilla_kv::{Latches, Lock};
use tokio::sync::oneshot;

/// Wakes a command that waits for a latch.
pub(super) type Waiter = oneshot::Sender<()>;

/// The latches of a store, and the terms that its regions have applied (contracts: C18).
#[derive(Debug, Default)]
pub struct Applied {
    latches: Latches<Waiter>,
    /// The highest term applied, by region. Written before `decided` is asked, read after `detain`.
    terms: DashMap<u64, u64>,
}

impl Applied {
    /// An entry of `term` was applied in `region`, the first of that term.
    pub(super) fn reached(&self, region: u64, term: u64) {
        self.terms.insert(region, term);
        wake(self.latches.decided(region, term));
    }

    /// The region has left this store: what it owes is decided elsewhere, also what is detained from
    /// here on, until it comes back and applies something.
    pub(super) fn gone(&self, region: u64) {
        self.terms.insert(region, u64::MAX);
        wake(self.latches.decided(region, u64::MAX));
    }

    /// Takes the latches of `lock`, waiting for them in turn.
    pub async fn acquire(self: &std::sync::Arc<Self>, lock: Lock) -> Held {
        let mut held = Held {
            applied: std::sync::Arc::clone(self),
            lock: Some(lock),
        };
        while let Some(lock) = held.lock.as_mut() {
            let mut woken = None;
            let complete = self.latches.acquire(lock, || {
                let (sender, receiver) = oneshot::channel();
                woken = Some(receiver);
                sender
            });
            match woken {
                // The sender is dropped only with the latches themselves.
                Some(woken) if !complete => {
                    let _ = woken.await;
                }
                _ => break,
            }
        }
        held
    }

    /// Whether no latch is held and nobody waits.
    pub fn is_idle(&self) -> bool {
        self.latches.is_idle()
    }

    /// Latches kept for writes of unknown fate.
    pub fn detained(&self) -> usize {
        self.latches.detained()
    }
}

/// Latches that a command holds, or waits for; given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    applied: std::sync::Arc<Applied>,
    lock: Option<Lock>,
}

impl Held {
    /// The command's write went to `region` in `term`, and nobody knows whether it will be applied:
    /// the latches are kept until the region has applied a later term.
    pub fn detain(mut self, region: u64, term: u64) {
        let Some(lock) = self.lock.take() else { return };
        self.applied.latches.detain(lock, region, term);
        // In case it was decided in between.
        let reached = self.applied.terms.get(&region).map_or(0, |term| *term);
        wake(self.applied.latches.decided(region, reached));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            wake(self.applied.latches.release(lock));
        }
    }
}

fn wake(waiters: Vec<Waiter>) {
    for waiter in waiters {
        // A command that gave up meanwhile has given its latches back itself.
        let _ = waiter.send(());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use bytes::Bytes;

    fn key(key: &'static str) -> Lock {
        Lock::exclusive(&Bytes::from_static(key.as_bytes()))
    }

    /// Polls once, without a runtime.
    fn now<F: Future>(future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        match future
            .as_mut()
            .poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
        {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn a_dropped_command_gives_its_latches_back_whether_it_held_or_waited() {
        let applied = Arc::new(Applied::default());
        let held = now(applied.acquire(key("a"))).expect("free");
        assert!(
            now(applied.acquire(key("a"))).is_none(),
            "taken; and the waiter is dropped here"
        );
        drop(held);
        assert!(applied.is_idle());
    }

    #[test]
    fn a_latch_of_unknown_fate_goes_with_the_next_term() {
        let applied = Arc::new(Applied::default());
        applied.reached(3, 6);
        now(applied.acquire(key("a"))).expect("free").detain(3, 6);
        assert_eq!(applied.detained(), 1);
        applied.reached(4, 9);
        assert!(
            now(applied.acquire(key("a"))).is_none(),
            "another region decides nothing"
        );
        applied.reached(3, 7);
        assert!(applied.is_idle());
        // The later term came before the fate was found to be unknown.
        now(applied.acquire(key("a"))).expect("free").detain(3, 6);
        assert!(applied.is_idle());
        now(applied.acquire(key("b"))).expect("free").detain(3, 7);
        applied.gone(3);
        assert!(applied.is_idle());
        // The region left before the fate was found to be unknown.
        now(applied.acquire(key("b"))).expect("free").detain(3, 7);
        assert!(applied.is_idle());
        // It came back.
        applied.reached(3, 9);
        now(applied.acquire(key("b"))).expect("free").detain(3, 9);
        assert_eq!(applied.detained(), 1);
    }
}
