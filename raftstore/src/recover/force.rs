//! A store carries out its part of a plan.

use bytes::Bytes;
use flotilla_engine::{
    DATA_CFS, EngineError, FlushReason, LogBatch, RaftLog, StateBatch, StateOp, StateStore,
};
use flotilla_proto::metapb::{Peer, PeerRole, Region, RegionEpoch};
use flotilla_proto::raft::{Entry, EntryKind, HardState};
use flotilla_proto::store::{PeerState, RaftRecord, RegionRecord};

use super::{Choice, Replica, inventory};
use crate::boot::Boot;
use crate::region::epoch;

/// Added to a forced region's `conf_ver`, beside one for each peer that goes: the lost members may have
/// changed the configuration after the last that survivors know of, but not so often.
const CONF_VER_MARGIN: u64 = 1 << 16;

/// Added to the version of a region that takes over what nobody has: the lost ones there may have split
/// since, but not so often.
const VERSION_MARGIN: u64 = 1 << 16;

/// Bytes of entries that are looked at together.
const PAGE_BYTES: u64 = 8 << 20;

/// Why a plan is not carried out on a store. What was done before is whole; doing it again is safe.
#[derive(Debug, thiserror::Error)]
pub enum ForceError {
    /// The storage.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The store has changed since the plan was made.
    #[error(
        "region {region}: the plan was made for a log that ends at index {planned}, here it ends at \
         {found}: the store has run since; make a new plan"
    )]
    Changed {
        /// The region.
        region: u64,
        /// The last index in the plan.
        planned: u64,
        /// The last index now; 0 if there is no such replica.
        found: u64,
    },
}

/// The logs of the chosen replicas are committed to their ends: the next opening applies them. What no
/// survivor knows to be committed stays as far as it is data. First of the two halves; `boot` is of the
/// opening before.
///
/// # Errors
/// The store is not as the plan says; or its log fails.
pub fn settle(
    boot: &Boot,
    store: u64,
    choices: &[Choice],
    log: &impl RaftLog,
) -> Result<(), ForceError> {
    let mut batch = LogBatch::default();
    let replicas = inventory(boot, store);
    for choice in own(choices, store) {
        let replica = of(&replicas, choice)?;
        let (id, last) = (choice.region.id, replica.last.index);
        let known = replica.commit.max(choice.commit);
        batch.append(id, settled_tail(log, id, known, last)?, last);
        batch.set_record(
            id,
            RaftRecord {
                peer_id: replica.peer.id,
                hard_state: Some(HardState {
                    term: choice.term,
                    vote: 0,
                    commit: last,
                }),
            },
        );
    }
    if !batch.is_empty() {
        log.append(&batch)?;
        log.sync()?;
    }
    Ok(())
}

/// The chosen replicas become the only voters of their regions. Returns these. Second of the two halves.
///
/// # Errors
/// The store is not as the plan says; or its state fails.
pub fn force(
    boot: &Boot,
    store: u64,
    choices: &[Choice],
    state: &impl StateStore,
) -> Result<Vec<Region>, ForceError> {
    let replicas = inventory(boot, store);
    let mut batch = StateBatch::default();
    let mut forced = Vec::new();
    for choice in own(choices, store) {
        let replica = of(&replicas, choice)?;
        let mut region = alone(&replica.region, replica.peer);
        for (start, end) in &choice.takes {
            batch.ops.extend(take(&mut region, start, end));
        }
        batch.ops.push(StateOp::PutRegion {
            record: RegionRecord {
                state: PeerState::Normal.into(),
                region: Some(region.clone()),
                highest_peer_id: replica.peer.id,
                ..RegionRecord::default()
            },
        });
        forced.push(region);
    }
    if !batch.ops.is_empty() {
        batch.admin = true;
        state.write(&batch)?;
        state.flush_all(FlushReason::Manual)?;
    }
    Ok(forced)
}

fn own(choices: &[Choice], store: u64) -> impl Iterator<Item = &Choice> {
    choices
        .iter()
        .filter(move |choice| choice.peer.store_id == store)
}

fn of<'a>(replicas: &'a [Replica], choice: &Choice) -> Result<&'a Replica, ForceError> {
    let is_it = |replica: &&Replica| replica.peer.id == choice.peer.id;
    let found = replicas.iter().find(is_it);
    let same = |replica: &&Replica| replica.last == choice.last;
    found.filter(same).ok_or(ForceError::Changed {
        region: choice.region.id,
        planned: choice.last.index,
        found: found.map_or(0, |replica| replica.last.index),
    })
}

/// The entries behind `known`, without any that would change the region's shape.
fn settled_tail(
    log: &impl RaftLog,
    region: u64,
    known: u64,
    last: u64,
) -> Result<Vec<Entry>, ForceError> {
    let mut tail = Vec::new();
    let mut low = known + 1;
    while low <= last {
        let page = log.entries(region, low, last + 1, PAGE_BYTES)?;
        low += page.len() as u64;
        tail.extend(page.into_iter().map(settled));
    }
    Ok(tail)
}

fn settled(entry: Entry) -> Entry {
    match entry.kind() {
        EntryKind::Data => entry,
        _ => Entry {
            term: entry.term,
            index: entry.index,
            ..Entry::default()
        },
    }
}

fn alone(region: &Region, peer: Peer) -> Region {
    let before = epoch(region);
    let gone = region.peers.len() as u64 - 1;
    Region {
        region_epoch: Some(RegionEpoch {
            conf_ver: before.conf_ver + gone + CONF_VER_MARGIN,
            ..before
        }),
        peers: vec![Peer {
            role: PeerRole::Voter.into(),
            ..peer
        }],
        ..region.clone()
    }
}

/// The region goes on with the range beside it, where nothing may be left of others.
fn take(region: &mut Region, start: &Bytes, end: &Bytes) -> impl Iterator<Item = StateOp> + use<> {
    if region.start_key == *end && !end.is_empty() {
        region.start_key = start.clone();
    } else {
        region.end_key = end.clone();
    }
    let before = epoch(region);
    region.region_epoch = Some(RegionEpoch {
        version: before.version + VERSION_MARGIN,
        ..before
    });
    let (start, end) = (start.clone(), end.clone());
    DATA_CFS.into_iter().map(move |cf| StateOp::DeleteRange {
        cf,
        start: start.clone(),
        end: end.clone(),
    })
}
