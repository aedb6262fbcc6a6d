//! After the first failed write, sync or flush nothing more is written (design, rule 8).

use std::sync::OnceLock;

use crate::{EngineError, Result};

/// Whether a database may still be written to.
#[derive(Debug, Default)]
pub(super) struct Poison {
    /// The first failure. Never cleared.
    cause: OnceLock<String>,
}

impl Poison {
    /// Makes `call` unless an earlier one failed; a failure is remembered.
    pub(super) fn guard<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some(cause) = self.cause.get() {
            return Err(EngineError::Poisoned {
                cause: cause.clone(),
            });
        }
        // Of two failures at the same moment either may stay.
        call().inspect_err(|error| drop(self.cause.set(error.to_string())))
    }
}
