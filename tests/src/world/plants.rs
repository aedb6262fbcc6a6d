//! What is broken on purpose in a world, beside the rules of stores and raft groups (`config.plant`).

/// A rule of the service in front of a store, which the simulator plays itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// An answer is given twice.
    AnsweredTwice,
    /// A compare-and-swap takes no latch (contracts: C18).
    SwapUnlatched,
    /// The latch of a write of unknown fate goes at once (contracts: C18).
    UnknownUnlatched,
}

impl Service {
    /// Every one of them.
    pub const ALL: [Self; 3] = [
        Self::AnsweredTwice,
        Self::SwapUnlatched,
        Self::UnknownUnlatched,
    ];
}

/// What is broken, if anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plants {
    /// Of the service.
    pub service: Option<Service>,
    /// Of the engine.
    #[cfg(feature = "planted")]
    pub engine: Option<flotilla_engine::memory::Planted>,
}
