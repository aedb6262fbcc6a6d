//! A transport without a network: stores of one process.

use std::collections::BTreeMap;

use crate::{Lane, Outgoing, Routed};

/// Takes the bulk messages for one store.
pub type Deliver<R> = Box<dyn FnMut(Lane, Vec<R>) + Send>;

/// Moves what waits in [`Outgoing`] to receivers in the same process, in the order of store and lane.
pub struct Loopback<R: Routed> {
    outgoing: Outgoing<R>,
    receivers: BTreeMap<u64, Deliver<R>>,
    bulk_bytes_max: u64,
}

impl<R: Routed> Loopback<R> {
    /// Nobody connected. Bulk messages hold up to `bulk_bytes_max`.
    pub fn new(outgoing: Outgoing<R>, bulk_bytes_max: u64) -> Self {
        Self {
            outgoing,
            receivers: BTreeMap::new(),
            bulk_bytes_max,
        }
    }

    /// Delivers what goes to `store` to `receiver` from now on.
    pub fn connect(&mut self, store: u64, receiver: Deliver<R>) {
        self.receivers.insert(store, receiver);
    }

    /// What goes to `store` waits from now on.
    pub fn disconnect(&mut self, store: u64) {
        self.receivers.remove(&store);
    }

    /// Delivers everything that waits now for connected stores. Answers how many messages.
    pub fn deliver(&mut self) -> usize {
        let mut count = 0;
        for (store, receiver) in &mut self.receivers {
            for lane in Lane::ALL {
                // Not until it is empty: a receiver may push again.
                let mut waiting = self.outgoing.waiting(*store, lane);
                while waiting > 0 {
                    let bulk = self.outgoing.drain(*store, lane, self.bulk_bytes_max);
                    if bulk.is_empty() {
                        break;
                    }
                    waiting = waiting.saturating_sub(bulk.len());
                    count += bulk.len();
                    receiver(lane, bulk);
                }
            }
        }
        count
    }
}
