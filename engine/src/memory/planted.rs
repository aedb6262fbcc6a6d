//! Planted bugs: each makes the twin break one promise of an engine, so that the simulator can prove
//! that it would notice (fault model, section 4). Behind the feature `planted`, which a release build
//! cannot have; without it every question here is answered `false` at compile time.

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("the feature `planted` breaks the engine on purpose; it is for tests only");

/// Whether this build can break rules. What serves users asserts that it cannot.
pub const PLANTED: bool = cfg!(feature = "planted");

/// A promise to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "planted"),
    expect(unreachable_pub, reason = "only tests plant bugs")
)]
pub enum Planted {
    /// A flush takes one column family, and the applied indexes, but not the others (contracts: C1).
    FlushOfOneFamily,
    /// The state reports as durable what is only written (contracts: C2).
    DurableTooSoon,
    /// The log answers that it is synced, and is not.
    SyncSkipped,
    /// The files of a snapshot are not synced before they are said to be whole (contracts: C6).
    FilesNotSynced,
    /// Bytes that have rotten are served, no checksum is looked at.
    ChecksumUnchecked,
}

#[cfg(feature = "planted")]
impl Planted {
    /// Every one of them.
    pub const ALL: [Self; 5] = [
        Self::FlushOfOneFamily,
        Self::DurableTooSoon,
        Self::SyncSkipped,
        Self::FilesNotSynced,
        Self::ChecksumUnchecked,
    ];
}

/// Which promise is broken, if any.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plant {
    #[cfg(feature = "planted")]
    pub(super) rule: Option<Planted>,
}

impl Plant {
    /// Whether `rule` is to be broken.
    #[inline]
    pub(super) fn breaks(self, rule: Planted) -> bool {
        #[cfg(feature = "planted")]
        return self.rule == Some(rule);
        #[cfg(not(feature = "planted"))]
        {
            let _ = rule;
            false
        }
    }
}
