//! The refusal of a peer in the words of the protocol, as a client gets it.

use flotilla_kv::region_error as words;
use flotilla_proto::errorpb;
use flotilla_raftstore::RequestError;

/// What goes over the wire for `error`, of a request to `region`.
pub fn region_error(error: &RequestError, region: u64) -> errorpb::Error {
    match error.clone() {
        RequestError::NotLeader { region, leader } => words::not_leader(region, leader),
        RequestError::RegionNotFound { region } => words::region_not_found(region),
        RequestError::PeerMismatch { requested, actual } => {
            words::mismatch_peer_id(region, requested, actual)
        }
        RequestError::EpochNotMatch { current } => words::epoch_not_match(region, current),
        RequestError::EpochMissing => words::epoch_missing(region),
        RequestError::StaleCommand => words::stale_command(region),
        RequestError::KeyNotInRegion { key, region } => words::key_not_in_region(key, &region),
        RequestError::EntryTooLarge { region, bytes, .. } => {
            words::raft_entry_too_large(region, bytes)
        }
        RequestError::Busy { reason } => words::server_is_busy(reason, 0),
        RequestError::NotInitialized { region } => words::region_not_initialized(region),
        RequestError::Undetermined { reason } => words::undetermined_result(region, reason),
        RequestError::Merging { region } => words::proposal_in_merging_mode(region),
        error @ (RequestError::Split { .. }
        | RequestError::Members { .. }
        | RequestError::Merge { .. }) => words::other(error.to_string()),
    }
}
