//! What surrounds every request to a store: whom it is meant for, and how a refusal is told.

use flotilla_kv::{Refusal, StatusCode, region_error};
use flotilla_proto::errorpb;
use flotilla_proto::kvrpcpb::Context;
use flotilla_raftstore::region::META_REGION;
use flotilla_raftstore::{ReadContext, RequestError};
use tonic::Status;

/// Why a request gets no result.
#[derive(Debug)]
pub(super) enum Stop {
    /// A region error in the response.
    Region(Box<errorpb::Error>),
    /// A fault of the request, told in the response if that has room for it.
    Refused(Refusal),
    /// A gRPC status.
    Status(Status),
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<errorpb::Error> for Stop {
    fn from(error: errorpb::Error) -> Self {
        Self::Region(Box::new(error))
    }
}

/// The checks before any region is looked at (wire, section 4: 0 and 1), and that it is one of
/// clients.
pub(super) fn admit(
    context: Option<&Context>,
    cluster: u64,
    store: u64,
) -> Result<ReadContext, Stop> {
    let Some(context) = context else {
        return Err(Status::invalid_argument("the request has no context").into());
    };
    if context.cluster_id != 0 && context.cluster_id != cluster {
        let text = format!(
            "cluster id mismatch: the request is for {}, this is {cluster}",
            context.cluster_id
        );
        return Err(Status::invalid_argument(text).into());
    }
    let peer = context.peer.unwrap_or_default();
    if peer.store_id != store {
        return Err(region_error::store_not_match(peer.store_id, store).into());
    }
    if context.region_id == META_REGION {
        // PD's own: it lies outside the key space, and its range says nothing (contracts: C30).
        return Err(region_error::region_not_found(context.region_id).into());
    }
    Ok(ReadContext {
        region: context.region_id,
        peer: peer.id,
        epoch: context.region_epoch,
        term: context.term,
        replica: context.replica_read,
    })
}

/// The refusal of a peer in the words of the protocol.
pub(super) fn region_error(error: RequestError, region: u64) -> errorpb::Error {
    match error {
        RequestError::NotLeader { region, leader } => {
            let complete = leader.filter(|peer| peer.id != 0 && peer.store_id != 0);
            region_error::not_leader(region, complete)
        }
        RequestError::RegionNotFound { region } => region_error::region_not_found(region),
        RequestError::PeerMismatch { requested, actual } => {
            region_error::mismatch_peer_id(region, requested, actual)
        }
        RequestError::EpochNotMatch { current } => region_error::epoch_not_match(region, current),
        RequestError::EpochMissing => region_error::epoch_missing(region),
        RequestError::StaleCommand => region_error::stale_command(region),
        RequestError::KeyNotInRegion { key, region } => {
            region_error::key_not_in_region(key, &region)
        }
        RequestError::EntryTooLarge { region, bytes, .. } => {
            region_error::raft_entry_too_large(region, bytes)
        }
        RequestError::Busy { reason } => region_error::server_is_busy(reason, 0),
        RequestError::NotInitialized { region } => region_error::region_not_initialized(region),
        RequestError::Undetermined { reason } => region_error::undetermined_result(region, reason),
        RequestError::Merging { region } => region_error::proposal_in_merging_mode(region),
        error @ (RequestError::Split { .. }
        | RequestError::Members { .. }
        | RequestError::Merge { .. }) => region_error::other(error.to_string()),
    }
}

/// A refusal that the response has no field for.
pub(super) fn status(refusal: &Refusal) -> Status {
    match refusal.status_code() {
        StatusCode::InvalidArgument => Status::invalid_argument(refusal.to_string()),
        StatusCode::OutOfRange => Status::out_of_range(refusal.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_proto::metapb::{Peer, Region, RegionEpoch};

    const CLUSTER: u64 = 7;
    const STORE: u64 = 1;

    fn context(change: impl FnOnce(&mut Context)) -> Context {
        let mut context = Context {
            region_id: 3,
            region_epoch: Some(RegionEpoch {
                conf_ver: 1,
                version: 2,
            }),
            peer: Some(Peer {
                id: 4,
                store_id: STORE,
                ..Peer::default()
            }),
            term: 6,
            ..Context::default()
        };
        change(&mut context);
        context
    }

    #[test]
    fn cluster_and_store_are_checked_first() {
        let admitted =
            admit(Some(&context(|c| c.cluster_id = CLUSTER)), CLUSTER, STORE).expect("ours");
        assert_eq!((admitted.region, admitted.peer, admitted.term), (3, 4, 6));
        assert!(
            admit(Some(&context(|_| ())), CLUSTER, STORE).is_ok(),
            "no cluster id is not checked"
        );

        let Err(Stop::Status(status)) = admit(Some(&context(|c| c.cluster_id = 8)), CLUSTER, STORE)
        else {
            panic!("another cluster")
        };
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(matches!(admit(None, CLUSTER, STORE), Err(Stop::Status(_))));

        for peer in [
            None,
            Some(Peer {
                id: 4,
                store_id: 2,
                ..Peer::default()
            }),
        ] {
            let Err(Stop::Region(error)) = admit(Some(&context(|c| c.peer = peer)), CLUSTER, STORE)
            else {
                panic!("another store")
            };
            let detail = error.store_not_match.expect("the detail");
            assert_eq!(
                (detail.request_store_id, detail.actual_store_id),
                (peer.map_or(0, |p| p.store_id), STORE)
            );
        }

        let Err(Stop::Region(error)) = admit(
            Some(&context(|c| c.region_id = META_REGION)),
            CLUSTER,
            STORE,
        ) else {
            panic!("PD's region")
        };
        let detail = error.region_not_found.expect("the detail");
        assert_eq!(detail.region_id, META_REGION);
    }

    #[test]
    fn every_refusal_has_its_detail_and_a_message() {
        let region = Region {
            id: 3,
            region_epoch: Some(RegionEpoch::default()),
            ..Region::default()
        };
        let leader = Peer {
            id: 4,
            store_id: 1,
            ..Peer::default()
        };
        type Has = fn(&errorpb::Error) -> bool;
        let table: Vec<(RequestError, Has)> = vec![
            (
                RequestError::NotLeader {
                    region: 3,
                    leader: Some(leader),
                },
                |e| {
                    e.not_leader
                        .as_ref()
                        .is_some_and(|detail| detail.leader.is_some())
                },
            ),
            (
                RequestError::NotLeader {
                    region: 3,
                    leader: Some(Peer {
                        id: 4,
                        ..Peer::default()
                    }),
                },
                |e| {
                    e.not_leader
                        .as_ref()
                        .is_some_and(|detail| detail.leader.is_none())
                },
            ),
            (RequestError::RegionNotFound { region: 3 }, |e| {
                e.region_not_found.is_some()
            }),
            (
                RequestError::PeerMismatch {
                    requested: 9,
                    actual: 4,
                },
                |e| {
                    e.mismatch_peer_id
                        .as_ref()
                        .is_some_and(|detail| detail.store_peer_id == 4)
                },
            ),
            (
                RequestError::EpochNotMatch {
                    current: vec![region.clone()],
                },
                |e| {
                    e.epoch_not_match
                        .as_ref()
                        .is_some_and(|detail| detail.current_regions.len() == 1)
                },
            ),
            (RequestError::StaleCommand, |e| e.stale_command.is_some()),
            (
                RequestError::KeyNotInRegion {
                    key: "k".into(),
                    region: region.into(),
                },
                |e| e.key_not_in_region.is_some(),
            ),
            (
                RequestError::EntryTooLarge {
                    region: 3,
                    bytes: 9,
                    limit: 8,
                },
                |e| {
                    e.raft_entry_too_large
                        .as_ref()
                        .is_some_and(|detail| detail.entry_size == 9)
                },
            ),
            (RequestError::Busy { reason: "x" }, |e| {
                e.server_is_busy.is_some()
            }),
            (RequestError::NotInitialized { region: 3 }, |e| {
                e.region_not_initialized.is_some()
            }),
            (RequestError::Undetermined { reason: "x" }, |e| {
                e.undetermined_result.is_some()
            }),
            (RequestError::EpochMissing, |e| e.epoch_not_match.is_none()),
            (RequestError::Merging { region: 3 }, |e| {
                e.proposal_in_merging_mode.is_some()
            }),
            (RequestError::Split { reason: "x".into() }, |e| {
                e.message.starts_with("failed to split")
            }),
        ];
        for (refusal, has) in table {
            let text = format!("{refusal:?}");
            let error = region_error(refusal, 3);
            assert!(
                has(&error) && !error.message.is_empty(),
                "{text}: {error:?}"
            );
        }
    }
}
