//! What is broken on purpose in a world, beside the rules of stores and raft groups (`config.plant`).

/// A rule of what the simulator plays itself: the service in front of a store, and PD.
///
/// A latch of unknown fate that goes at once is not among them: nothing comes of it. A swap reads where
/// an entry of the leader's own term is applied, and before that one every older fate is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// An answer is given twice.
    AnsweredTwice,
    /// A compare-and-swap takes no latch (contracts: C18).
    SwapUnlatched,
    /// A range delete takes no latch (contracts: C18).
    RangeUnlatched,
    /// PD gives an id twice (faults: 28).
    IdGivenTwice,
    /// PD gives ids though its lease is over (faults: 16).
    IdsWithoutLease,
    /// An operator of PD takes a voter away where it should add a peer (faults: 29).
    OperatorTakesVoter,
    /// What PD's operators ask for is never done (faults: 30).
    OperatorsUnheard,
    /// PD shows one region less than it knows (faults: 44).
    RouteHidden,
    /// Stores that are to decide without a minority cannot talk to each other (faults: 44).
    MajorityApart,
    /// A latch that waits for the fate of a write stays (contracts: C18).
    LatchKept,
    /// A client tries again, whatever has failed and how often (faults: 45).
    CallsGoOn,
}

impl Service {
    /// Every one of them.
    pub const ALL: [Self; 11] = [
        Self::AnsweredTwice,
        Self::SwapUnlatched,
        Self::RangeUnlatched,
        Self::IdGivenTwice,
        Self::IdsWithoutLease,
        Self::OperatorTakesVoter,
        Self::OperatorsUnheard,
        Self::RouteHidden,
        Self::MajorityApart,
        Self::LatchKept,
        Self::CallsGoOn,
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
