//! Waiting for a condition, never for a time.

use std::time::Duration;

use crate::back_off::back_off;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Looks before a test gives up: half a minute.
const LOOKS: u32 = 1_500;
/// A call that has not ended after this never will.
const CALL_MAX: Duration = Duration::from_secs(60);

/// Looks until there is something to see.
///
/// # Panics
/// If it does not come; `what` says what was awaited.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..LOOKS {
        if let Some(found) = look().await {
            return found;
        }
        back_off(LOOK_EVERY).await;
    }
    panic!("waited {:?} in vain: {what}", LOOK_EVERY * LOOKS);
}

/// Awaits a call that some fault could keep from ever ending.
///
/// # Panics
/// If it does not end.
pub(crate) async fn in_time<F: Future>(what: &str, call: F) -> F::Output {
    match tokio::time::timeout(CALL_MAX, call).await {
        Ok(output) => output,
        Err(_) => panic!("{what} did not end within {CALL_MAX:?}"),
    }
}
