//! Places at which a test kills the process: before, between and after durable steps.

/// With the feature `failpoints`, ends the process as `kill -9` does where `FAILPOINTS` says `return` for
/// `point`, and waits where it says `delay`. Otherwise nothing.
#[cfg(feature = "failpoints")]
pub(crate) fn point(point: &str) {
    fail::fail_point!(point, |_| {
        let it = rustix::process::getpid();
        let killed = rustix::process::kill_process(it, rustix::process::Signal::KILL);
        unreachable!("a signal that nobody outlives: {killed:?}");
    });
}

/// Nothing: see the feature `failpoints`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) fn point(_: &str) {}

/// The point of each thing of its own that a batch of the log holds: `intent-open-`, `intent-close-`
/// and `behind`.
#[cfg(feature = "failpoints")]
pub(crate) fn points_of_log(batch: &crate::LogBatch, behind: &str) {
    for (_, write) in batch.regions() {
        match &write.intent {
            Some(Some(_)) => point(&format!("intent-open-{behind}")),
            Some(None) => point(&format!("intent-close-{behind}")),
            None => {}
        }
    }
}

/// Nothing: see the feature `failpoints`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) fn points_of_log(_: &crate::LogBatch, _: &str) {}

/// The point of each thing of its own that a batch of the state holds: `tombstone-`, `pd-` and `behind`.
#[cfg(feature = "failpoints")]
pub(crate) fn points_of_state(batch: &crate::StateBatch, behind: &str) {
    use crate::{Cf, StateOp};
    use flotilla_proto::store::PeerState;
    for op in &batch.ops {
        match op {
            StateOp::PutRegion { record } if record.state() == PeerState::Tombstone => {
                point(&format!("tombstone-{behind}"));
            }
            StateOp::Put { cf: Cf::CfMeta, .. } => point(&format!("pd-{behind}")),
            _ => {}
        }
    }
}

/// Nothing: see the feature `failpoints`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) fn points_of_state(_: &crate::StateBatch, _: &str) {}
