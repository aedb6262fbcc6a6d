//! What happens at a time of its own.

use std::collections::BTreeMap;

use flotilla_engine::FlushReason;
use flotilla_proto::clock::Mono;
use flotilla_raftstore::PeerInput;
use flotilla_raftstore::effects::{Fetch, SizeCheck};

use crate::checkers::answers::OpId;
use crate::store::LifeId;

/// Something that happens.
#[derive(Debug)]
pub(super) enum Event {
    /// A store's process starts.
    Start {
        /// The store.
        store: u64,
    },
    /// Time for the machines.
    Tick(LifeId),
    /// A look at the durable point.
    Observe(LifeId),
    /// A flush is done.
    FlushDone {
        /// Whose.
        life: LifeId,
        /// Why it was asked for; `None`: it began by itself.
        forced: Option<FlushReason>,
    },
    /// The state keeps up again.
    PressureOver(LifeId),
    /// The next stage of a request.
    Serve {
        /// Where.
        life: LifeId,
        /// Which.
        op: OpId,
    },
    /// Entries are read.
    Fetch {
        /// For whom.
        life: LifeId,
        /// Which.
        fetch: Fetch,
    },
    /// A region is measured.
    Size {
        /// For whom.
        life: LifeId,
        /// Which.
        check: SizeCheck,
    },
    /// PD answers.
    Pd {
        /// To whom.
        life: LifeId,
        /// The region.
        region: u64,
        /// What it says.
        input: Box<PeerInput>,
    },
    /// A client has thought.
    Client {
        /// Which.
        client: u64,
    },
    /// A client waits no longer.
    GiveUp {
        /// Which.
        client: u64,
        /// For what.
        op: OpId,
    },
    /// Somebody splits, flushes, or meddles.
    Operator,
}

impl Event {
    /// The life that it belongs to.
    fn life(&self) -> Option<LifeId> {
        match self {
            Self::Tick(life)
            | Self::Observe(life)
            | Self::PressureOver(life)
            | Self::FlushDone { life, .. }
            | Self::Serve { life, .. }
            | Self::Fetch { life, .. }
            | Self::Size { life, .. }
            | Self::Pd { life, .. } => Some(*life),
            Self::Start { .. } | Self::Client { .. } | Self::GiveUp { .. } | Self::Operator => None,
        }
    }

    /// It goes on for ever and means no work.
    fn is_idle(&self) -> bool {
        matches!(
            self,
            Self::Tick(_)
                | Self::Observe(_)
                | Self::Operator
                | Self::FlushDone { .. }
                | Self::GiveUp { .. }
        )
    }
}

/// Events by time; those of one time in the order they were made.
#[derive(Debug, Default)]
pub(super) struct Events {
    events: BTreeMap<(Mono, u64), Event>,
    made: u64,
}

impl Events {
    /// Something will happen at `at`.
    pub(super) fn at(&mut self, at: Mono, event: Event) {
        self.made += 1;
        self.events.insert((at, self.made), event);
    }

    /// When the next one happens.
    pub(super) fn next_at(&self) -> Option<Mono> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next one.
    pub(super) fn pop(&mut self) -> Option<Event> {
        self.events.pop_first().map(|(_, event)| event)
    }

    /// Takes away what belongs to a life that is over.
    pub(super) fn purge(&mut self, life: LifeId) -> Vec<Event> {
        let gone = self
            .events
            .extract_if(.., |_, event| event.life() == Some(life));
        gone.map(|(_, event)| event).collect()
    }

    /// Nothing but time is left.
    pub(super) fn are_idle(&self) -> bool {
        self.events.values().all(Event::is_idle)
    }
}
