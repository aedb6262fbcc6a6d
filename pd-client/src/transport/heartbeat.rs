//! The region heartbeat stream: a store's reports out, PD's instructions in.

use flotilla_proto::pdpb::{self, RequestHeader};
use tokio::sync::mpsc;
use tonic::Streaming;

use super::{PdError, check_header};

/// An open region heartbeat stream.
#[derive(Debug)]
pub struct RegionHeartbeats {
    pub(super) header: Option<RequestHeader>,
    pub(super) sender: mpsc::Sender<pdpb::RegionHeartbeatRequest>,
    pub(super) instructions: Streaming<pdpb::RegionHeartbeatResponse>,
}

/// Why a heartbeat was not taken. The next one of the region says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeartbeatLost {
    /// PD or the network is slow.
    #[error("the heartbeat queue is full")]
    Full,
    /// Open another stream.
    #[error("the heartbeat stream has ended")]
    Ended,
}

impl RegionHeartbeats {
    /// Queues a heartbeat; never waits.
    ///
    /// # Errors
    /// See [`HeartbeatLost`].
    pub fn send(&self, heartbeat: pdpb::RegionHeartbeatRequest) -> Result<(), HeartbeatLost> {
        let header = self.header.clone();
        let heartbeat = pdpb::RegionHeartbeatRequest {
            header,
            ..heartbeat
        };
        self.sender
            .try_send(heartbeat)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => HeartbeatLost::Full,
                mpsc::error::TrySendError::Closed(_) => HeartbeatLost::Ended,
            })
    }

    /// The next instruction; `None` when the stream has ended. Safe to drop and call again.
    ///
    /// # Errors
    /// [`PdError::Refused`]: PD refused a heartbeat, the stream goes on. Everything else ends it.
    pub async fn next(&mut self) -> Option<Result<pdpb::RegionHeartbeatResponse, PdError>> {
        let call = "RegionHeartbeat";
        match self.instructions.message().await {
            Ok(None) => None,
            Ok(Some(instruction)) => {
                let checked = check_header(call, instruction.header.as_ref());
                Some(checked.map(|()| instruction))
            }
            Err(status) => {
                let (code, message) = (status.code(), status.message().to_owned());
                Some(Err(PdError::Status {
                    call,
                    code,
                    message,
                }))
            }
        }
    }
}
