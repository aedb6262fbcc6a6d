//! A stop in order, as the server does it: no new work, what was handed to the log becomes durable,
//! what is committed is applied, the state is flushed.

use flotilla_engine::{FlushReason, StateStore as _};
use flotilla_raftstore::runtime::StoreFatal;

use super::Life;

/// What a stop waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopping {
    /// Peers retire.
    Peers,
    /// The log is written and synced.
    Log,
    /// Apply machines retire.
    Apply,
}

impl Life {
    /// No new work from here on.
    pub fn begin_stop(&mut self) {
        self.stopping = Some(Stopping::Peers);
        self.runtime.raft.shutdown();
    }

    /// Goes on with a stop as far as it gets. Answers whether the process is through.
    ///
    /// # Errors
    /// The last flush failed.
    pub fn go_on_stopping(&mut self) -> Result<bool, StoreFatal> {
        let runtime = &self.runtime;
        if self.stopping == Some(Stopping::Peers) && runtime.raft.is_empty() {
            runtime.log.stop();
            self.stopping = Some(Stopping::Log);
        }
        let written = !runtime.log.append_waits() && !runtime.log.sync_waits();
        if self.stopping == Some(Stopping::Log) && written {
            runtime.apply.shutdown();
            self.stopping = Some(Stopping::Apply);
        }
        let through = self.stopping == Some(Stopping::Apply) && runtime.apply.is_empty();
        if through {
            runtime.state.flush_all(FlushReason::Shutdown)?;
        }
        Ok(through)
    }
}
