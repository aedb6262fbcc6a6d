//! A stop in order, as the server does it: no new work, what was handed to the log becomes durable,
//! the state is flushed.

use std::time::Duration;

use flotilla_engine::{FlushReason, StateStore as _};
use flotilla_raftstore::runtime::StoreFatal;

use super::Sim;
use crate::disk::FlushDue;
use crate::store::LifeId;

/// Steps after which a stop has not ended.
const STOP_STEPS_MAX: usize = 100_000;

impl Sim {
    /// Stops the process of a store; it starts again after a while.
    pub(super) fn stop_in_order(&mut self, id: LifeId) {
        self.note(format_args!("store {} stops in order", id.store));
        match self.stop(id) {
            Ok(()) => {
                self.probe("stop: in order");
                self.say_what_is_owed(id);
                self.die(id);
            }
            Err(fatal) => self.fatal(id, &fatal),
        }
    }

    fn stop(&mut self, id: LifeId) -> Result<(), StoreFatal> {
        let Some(runtime) = self.nodes[&id.store]
            .life
            .as_ref()
            .map(|life| life.runtime.clone())
        else {
            return Ok(());
        };
        runtime.state.force_pressure(None);
        runtime.state.auto_flush(self.world.auto_flush_bytes);
        runtime.raft.shutdown();
        self.run_until(id, || runtime.raft.is_empty())?;
        runtime.log.stop();
        self.run_until(id, || {
            !runtime.log.append_waits() && !runtime.log.sync_waits()
        })?;
        runtime.apply.shutdown();
        self.run_until(id, || runtime.apply.is_empty())?;
        Ok(runtime.state.flush_all(FlushReason::Shutdown)?)
    }

    /// Lets the store's threads run, and nothing else.
    fn run_until(&mut self, id: LifeId, done: impl Fn() -> bool) -> Result<(), StoreFatal> {
        for _ in 0..STOP_STEPS_MAX {
            if done() {
                return Ok(());
            }
            self.oracle.lock().step += 1;
            let now = self.now();
            let node = self
                .nodes
                .get_mut(&id.store)
                .expect("stores are not removed");
            let life = node.life.as_mut().expect("it is stopping, and did not die");
            if life.step(now)?.is_some() {
                self.hear_answers(id);
                continue;
            }
            let later = now + Duration::from_micros(1);
            let wake = life.next_wake().unwrap_or(later).max(later);
            // The database goes on flushing by itself while the store stops.
            let full = self
                .world
                .auto_flush_bytes
                .map(|bytes| node.disk.state.flush_due(bytes));
            if full == Some(FlushDue::Yes) {
                node.disk.state.begin_flush();
            }
            node.disk.state.finish_flush()?;
            self.pass(wake - now);
        }
        panic!("store {} does not stop", id.store);
    }
}
