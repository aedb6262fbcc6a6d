//! Region errors: why a store does not serve a request, one function per line of the table in
//! `docs/protocol.md`. Every one has a message, because some clients read nothing else; none says
//! the keys of a user in it, because messages end in logs.

use bytes::Bytes;
use flotilla_proto::errorpb::{
    BucketVersionNotMatch, DataIsNotReady, DiskFull, EpochNotMatch, Error, FlashbackInProgress,
    FlashbackNotPrepared, IsWitness, KeyNotInRegion, MaxTimestampNotSynced, MismatchPeerId,
    NotLeader, ProposalInMergingMode, RaftEntryTooLarge, ReadIndexNotReady, RecoveryInProgress,
    RegionNotFound, RegionNotInitialized, ServerIsBusy, StaleCommand, StoreNotMatch,
    UndeterminedResult,
};
use flotilla_proto::metapb::{Peer, Region};

/// The reason clients know for a deadline that passed inside the server.
pub const DEADLINE_REASON: &str = "deadline is exceeded";

fn error(message: String) -> Error {
    Error {
        message,
        ..Error::default()
    }
}

/// The peer does not lead `region_id`. Name the `leader` only if it is a complete peer of the
/// current epoch: the stock Rust client fails on one it cannot place.
///
/// # Panics
/// If the leader lacks its id or its store.
pub fn not_leader(region_id: u64, leader: Option<Peer>) -> Error {
    let message = match &leader {
        Some(leader) => {
            assert!(
                leader.id != 0 && leader.store_id != 0,
                "an incomplete leader: {leader:?}"
            );
            format!(
                "region {region_id}: the leader is peer {} on store {}",
                leader.id, leader.store_id
            )
        }
        None => format!("region {region_id}: not leader, and the leader is unknown"),
    };
    Error {
        not_leader: Some(NotLeader { region_id, leader }),
        ..error(message)
    }
}

/// The store has no such region.
pub fn region_not_found(region_id: u64) -> Error {
    Error {
        region_not_found: Some(RegionNotFound { region_id }),
        ..error(format!("region {region_id} is not on this store"))
    }
}

/// The epoch fits, but the key does not lie in the region. `key` is physical.
pub fn key_not_in_region(key: Bytes, region: &Region) -> Error {
    Error {
        key_not_in_region: Some(KeyNotInRegion {
            key,
            region_id: region.id,
            start_key: region.start_key.clone(),
            end_key: region.end_key.clone(),
        }),
        ..error(format!(
            "region {}: the key is outside its range",
            region.id
        ))
    }
}

/// The region's range changed. `current`: the region as it is, then the siblings of its last
/// splits. The stock Rust client panics on a region without an epoch.
///
/// # Panics
/// If a region has no epoch.
pub fn epoch_not_match(region_id: u64, current: Vec<Region>) -> Error {
    assert!(
        current.iter().all(|region| region.region_epoch.is_some()),
        "a region without an epoch"
    );
    Error {
        epoch_not_match: Some(EpochNotMatch {
            current_regions: current,
        }),
        ..error(format!(
            "region {region_id}: its range changed since the client looked it up"
        ))
    }
}

/// The request names no epoch.
pub fn epoch_missing(region_id: u64) -> Error {
    error(format!(
        "region {region_id}: the request has no region epoch"
    ))
}

/// Overload, a full queue, or a deadline. `backoff_ms`: how long to wait; 0 leaves it to the
/// client. The stock Rust client hands it to its user without a retry (contracts: C25).
pub fn server_is_busy(reason: &str, backoff_ms: u64) -> Error {
    Error {
        server_is_busy: Some(ServerIsBusy {
            reason: reason.to_owned(),
            backoff_ms,
            estimated_wait_ms: 0,
            applied_index: 0,
        }),
        ..error(format!("the store is busy: {reason}"))
    }
}

/// The request's deadline passed inside the server; nothing was or will be done.
pub fn deadline_exceeded() -> Error {
    server_is_busy(DEADLINE_REASON, 0)
}

/// The request's term is too old, or its proposal was dropped after a leader change; definitely
/// not applied.
pub fn stale_command(region_id: u64) -> Error {
    Error {
        stale_command: Some(StaleCommand {}),
        ..error(format!("region {region_id}: the term has passed"))
    }
}

/// The address belongs to another store now.
pub fn store_not_match(request_store_id: u64, actual_store_id: u64) -> Error {
    Error {
        store_not_match: Some(StoreNotMatch {
            request_store_id,
            actual_store_id,
        }),
        ..error(format!(
            "this is store {actual_store_id}, not store {request_store_id}"
        ))
    }
}

/// A write that fits no entry ([`crate::limits::ENTRY_BYTES_MAX`]).
pub fn raft_entry_too_large(region_id: u64, entry_bytes: u64) -> Error {
    Error {
        raft_entry_too_large: Some(RaftEntryTooLarge {
            region_id,
            entry_size: entry_bytes,
        }),
        ..error(format!(
            "region {region_id}: the write makes an entry of {entry_bytes} bytes, at most {} are taken",
            crate::limits::ENTRY_BYTES_MAX
        ))
    }
}

/// A new leader has not fetched a timestamp yet.
pub fn max_timestamp_not_synced(region_id: u64) -> Error {
    Error {
        max_timestamp_not_synced: Some(MaxTimestampNotSynced {}),
        ..error(format!(
            "region {region_id}: the leader has not fetched a timestamp yet"
        ))
    }
}

/// A replica read while the region splits or merges.
pub fn read_index_not_ready(region_id: u64, reason: &str) -> Error {
    Error {
        read_index_not_ready: Some(ReadIndexNotReady {
            reason: reason.to_owned(),
            region_id,
        }),
        ..error(format!("region {region_id}: no read index now: {reason}"))
    }
}

/// A write during a merge.
pub fn proposal_in_merging_mode(region_id: u64) -> Error {
    Error {
        proposal_in_merging_mode: Some(ProposalInMergingMode { region_id }),
        ..error(format!("region {region_id} is merging"))
    }
}

/// A stale read newer than the replica's safe timestamp.
pub fn data_is_not_ready(region_id: u64, peer_id: u64, safe_ts: u64) -> Error {
    Error {
        data_is_not_ready: Some(DataIsNotReady {
            region_id,
            peer_id,
            safe_ts,
        }),
        ..error(format!(
            "region {region_id}: peer {peer_id} serves stale reads up to {safe_ts}"
        ))
    }
}

/// The peer waits for its first snapshot.
pub fn region_not_initialized(region_id: u64) -> Error {
    Error {
        region_not_initialized: Some(RegionNotInitialized { region_id }),
        ..error(format!("region {region_id}: the peer has no data yet"))
    }
}

/// The peer installs a snapshot and serves nothing meanwhile.
pub fn applying_snapshot(region_id: u64) -> Error {
    error(format!(
        "region {region_id}: the peer is installing a snapshot"
    ))
}

/// The reserve of free space is reached; reads and deletes go on (contracts: C13).
pub fn disk_full(store_id: u64, reason: &str) -> Error {
    Error {
        disk_full: Some(DiskFull {
            store_id: vec![store_id],
            reason: reason.to_owned(),
        }),
        ..error(format!("the disk of store {store_id} is full: {reason}"))
    }
}

/// The region is being recovered by force.
pub fn recovery_in_progress(region_id: u64) -> Error {
    Error {
        recovery_in_progress: Some(RecoveryInProgress { region_id }),
        ..error(format!("region {region_id} is being recovered"))
    }
}

/// The region is set back to an earlier time.
pub fn flashback_in_progress(region_id: u64, flashback_start_ts: u64) -> Error {
    Error {
        flashback_in_progress: Some(FlashbackInProgress {
            region_id,
            flashback_start_ts,
        }),
        ..error(format!("region {region_id} is in flashback"))
    }
}

/// A flashback that was not prepared.
pub fn flashback_not_prepared(region_id: u64) -> Error {
    Error {
        flashback_not_prepared: Some(FlashbackNotPrepared { region_id }),
        ..error(format!("region {region_id} is not prepared for flashback"))
    }
}

/// The peer votes but holds no data.
pub fn is_witness(region_id: u64) -> Error {
    Error {
        is_witness: Some(IsWitness { region_id }),
        ..error(format!("region {region_id}: the peer is a witness"))
    }
}

/// The store's peer of the region is another one.
pub fn mismatch_peer_id(region_id: u64, request_peer_id: u64, store_peer_id: u64) -> Error {
    Error {
        mismatch_peer_id: Some(MismatchPeerId {
            request_peer_id,
            store_peer_id,
        }),
        ..error(format!(
            "region {region_id}: this store holds peer {store_peer_id}, not {request_peer_id}"
        ))
    }
}

/// The buckets of the region changed since a coprocessor request was cut by them.
pub fn bucket_version_not_match(region_id: u64, version: u64, keys: Vec<Bytes>) -> Error {
    Error {
        bucket_version_not_match: Some(BucketVersionNotMatch { version, keys }),
        ..error(format!("region {region_id}: its buckets changed"))
    }
}

/// The write may or may not take effect (contracts: C22, C31).
pub fn undetermined_result(region_id: u64, reason: &str) -> Error {
    let message = format!("region {region_id}: the outcome of the write is unknown: {reason}");
    Error {
        undetermined_result: Some(UndeterminedResult {
            message: message.clone(),
        }),
        ..error(message)
    }
}

/// The process is stopping. The text is one that clients know.
pub fn closing() -> Error {
    error("TiKV is Closing".to_owned())
}

/// The core dropped the proposal; definitely not applied. The text is one that clients know.
pub fn proposal_dropped() -> Error {
    error("Raft ProposalDropped".to_owned())
}

/// What no detail fits.
pub fn other(message: impl Into<String>) -> Error {
    let message = message.into();
    assert!(!message.is_empty(), "a region error without a message");
    error(message)
}

#[cfg(test)]
mod tests {
    use flotilla_proto::metapb::RegionEpoch;

    use super::*;

    /// How many details an error has.
    fn details(error: &Error) -> usize {
        let Error {
            message: _,
            not_leader,
            region_not_found,
            key_not_in_region,
            epoch_not_match,
            server_is_busy,
            stale_command,
            store_not_match,
            raft_entry_too_large,
            max_timestamp_not_synced,
            read_index_not_ready,
            proposal_in_merging_mode,
            data_is_not_ready,
            region_not_initialized,
            disk_full,
            recovery_in_progress,
            flashback_in_progress,
            flashback_not_prepared,
            is_witness,
            mismatch_peer_id,
            bucket_version_not_match,
            undetermined_result,
        } = error;
        [
            not_leader.is_some(),
            region_not_found.is_some(),
            key_not_in_region.is_some(),
            epoch_not_match.is_some(),
            server_is_busy.is_some(),
            stale_command.is_some(),
            store_not_match.is_some(),
            raft_entry_too_large.is_some(),
            max_timestamp_not_synced.is_some(),
            read_index_not_ready.is_some(),
            proposal_in_merging_mode.is_some(),
            data_is_not_ready.is_some(),
            region_not_initialized.is_some(),
            disk_full.is_some(),
            recovery_in_progress.is_some(),
            flashback_in_progress.is_some(),
            flashback_not_prepared.is_some(),
            is_witness.is_some(),
            mismatch_peer_id.is_some(),
            bucket_version_not_match.is_some(),
            undetermined_result.is_some(),
        ]
        .into_iter()
        .filter(|there| *there)
        .count()
    }

    #[test]
    fn every_error_has_its_message_and_its_detail() {
        let peer = Peer {
            id: 4,
            store_id: 1,
            ..Peer::default()
        };
        let epoch = Some(RegionEpoch {
            conf_ver: 1,
            version: 2,
        });
        let region = Region {
            id: 3,
            start_key: "b".into(),
            end_key: "d".into(),
            region_epoch: epoch,
            peers: vec![peer],
            ..Region::default()
        };
        let table: [(Error, usize, &str); 26] = [
            (
                not_leader(3, Some(peer)),
                1,
                "region 3: the leader is peer 4 on store 1",
            ),
            (
                not_leader(3, None),
                1,
                "region 3: not leader, and the leader is unknown",
            ),
            (region_not_found(3), 1, "region 3 is not on this store"),
            (
                key_not_in_region("secret".into(), &region),
                1,
                "region 3: the key is outside its range",
            ),
            (
                epoch_not_match(3, vec![region]),
                1,
                "region 3: its range changed since the client looked it up",
            ),
            (
                epoch_missing(3),
                0,
                "region 3: the request has no region epoch",
            ),
            (
                server_is_busy("the queue is full", 100),
                1,
                "the store is busy: the queue is full",
            ),
            (
                deadline_exceeded(),
                1,
                "the store is busy: deadline is exceeded",
            ),
            (stale_command(3), 1, "region 3: the term has passed"),
            (store_not_match(1, 2), 1, "this is store 2, not store 1"),
            (
                raft_entry_too_large(3, 9_000_000),
                1,
                "region 3: the write makes an entry of 9000000 bytes, at most 8388608 are taken",
            ),
            (
                max_timestamp_not_synced(3),
                1,
                "region 3: the leader has not fetched a timestamp yet",
            ),
            (
                read_index_not_ready(3, "it splits"),
                1,
                "region 3: no read index now: it splits",
            ),
            (proposal_in_merging_mode(3), 1, "region 3 is merging"),
            (
                data_is_not_ready(3, 4, 5),
                1,
                "region 3: peer 4 serves stale reads up to 5",
            ),
            (
                region_not_initialized(3),
                1,
                "region 3: the peer has no data yet",
            ),
            (
                applying_snapshot(3),
                0,
                "region 3: the peer is installing a snapshot",
            ),
            (
                disk_full(1, "the reserve is reached"),
                1,
                "the disk of store 1 is full: the reserve is reached",
            ),
            (recovery_in_progress(3), 1, "region 3 is being recovered"),
            (flashback_in_progress(3, 9), 1, "region 3 is in flashback"),
            (
                flashback_not_prepared(3),
                1,
                "region 3 is not prepared for flashback",
            ),
            (is_witness(3), 1, "region 3: the peer is a witness"),
            (
                mismatch_peer_id(3, 4, 6),
                1,
                "region 3: this store holds peer 6, not 4",
            ),
            (
                undetermined_result(3, "the leader changed"),
                1,
                "region 3: the outcome of the write is unknown: the leader changed",
            ),
            (
                bucket_version_not_match(3, 1, vec![]),
                1,
                "region 3: its buckets changed",
            ),
            (closing(), 0, "TiKV is Closing"),
        ];
        for (error, count, message) in table {
            assert_eq!(error.message, message);
            assert_eq!(details(&error), count, "{message}");
        }
        assert_eq!(
            (
                proposal_dropped().message.as_str(),
                details(&proposal_dropped())
            ),
            ("Raft ProposalDropped", 0)
        );
    }

    #[test]
    fn the_details_hold_what_clients_read() {
        let region = Region {
            id: 3,
            start_key: "b".into(),
            end_key: "d".into(),
            ..Region::default()
        };
        let outside = key_not_in_region("x".into(), &region)
            .key_not_in_region
            .unwrap();
        assert_eq!(
            (
                &outside.key[..],
                &outside.start_key[..],
                &outside.end_key[..]
            ),
            (&b"x"[..], &b"b"[..], &b"d"[..])
        );
        let busy = server_is_busy("write stall", 250).server_is_busy.unwrap();
        assert_eq!(
            (busy.reason.as_str(), busy.backoff_ms),
            ("write stall", 250)
        );
        assert_eq!(
            deadline_exceeded().server_is_busy.unwrap().reason,
            "deadline is exceeded"
        );
        assert_eq!(disk_full(1, "r").disk_full.unwrap().store_id, [1]);
        let unknown = undetermined_result(3, "r");
        assert_eq!(
            unknown.undetermined_result.unwrap().message,
            unknown.message
        );
    }
}
