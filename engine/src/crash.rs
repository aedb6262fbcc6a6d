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
