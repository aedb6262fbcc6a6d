//! The region heartbeat stream: a store's reports out, PD's instructions in.

use flotilla_proto::pdpb::{self, RequestHeader};
use tokio::sync::mpsc;
use tonic::Streaming;

use super::{PdError, check_header};

/// An open region heartbeat stream.
#[derive(Debug)]
pub struct RegionHeartbeats {
    pub(super) out: HeartbeatQueue,
    pub(super) instructions: Streaming<pdpb::RegionHeartbeatResponse>,
}

/// The stream's way out: a bounded queue, as PD or the network may be slow.
#[derive(Clone, Debug)]
pub struct HeartbeatQueue {
    pub(super) header: Option<RequestHeader>,
    pub(super) sender: mpsc::Sender<pdpb::RegionHeartbeatRequest>,
}

/// Room for one heartbeat.
#[derive(Debug)]
pub struct HeartbeatRoom {
    header: Option<RequestHeader>,
    permit: mpsc::OwnedPermit<pdpb::RegionHeartbeatRequest>,
}

impl HeartbeatQueue {
    /// Waits for room; `None` when the stream has ended. Safe to drop and call again.
    pub async fn room(&self) -> Option<HeartbeatRoom> {
        let permit = self.sender.clone().reserve_owned().await.ok()?;
        let header = self.header.clone();
        Some(HeartbeatRoom { header, permit })
    }
}

impl HeartbeatRoom {
    /// Queues a heartbeat.
    pub fn send(self, heartbeat: pdpb::RegionHeartbeatRequest) {
        self.permit.send(pdpb::RegionHeartbeatRequest {
            header: self.header,
            ..heartbeat
        });
    }
}

impl RegionHeartbeats {
    /// Where heartbeats are queued.
    pub fn queue(&self) -> HeartbeatQueue {
        self.out.clone()
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
