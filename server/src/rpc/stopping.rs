//! Streams that clients keep open for ever end when the node stops; otherwise each would hold its
//! connection until the stop's time is up.

use tokio::sync::watch;
use tonic::Status;

/// Tells streams that the node stops. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stopping(watch::Receiver<bool>);

/// Sets it off.
#[derive(Debug)]
pub struct StopStreams(watch::Sender<bool>);

impl StopStreams {
    /// A pair that has not been set off.
    pub fn new() -> (Self, Stopping) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), Stopping(receiver))
    }

    /// All streams end now.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stopping {
    /// Waits until the node stops.
    pub(crate) async fn wait(&mut self) {
        // It fails when the node is gone, which is as good.
        let _ = self.0.wait_for(|stop| *stop).await;
    }

    /// What such a stream ends with: the client connects again, elsewhere or later.
    pub(crate) fn status() -> Status {
        Status::unavailable("the node is stopping")
    }
}
