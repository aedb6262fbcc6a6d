//! The pause of whoever was refused, or looked and saw nothing, before the next try.

use std::time::Duration;

/// Waits for `pause` before something is tried again whose time nobody announces. No test is right only
/// because of it: it spares the machine, and may be as short as it likes.
#[expect(
    clippy::disallowed_methods,
    reason = "another process cannot wake us; this is the one place where a task sleeps"
)]
pub(crate) async fn back_off(pause: Duration) {
    tokio::time::sleep(pause).await;
}
