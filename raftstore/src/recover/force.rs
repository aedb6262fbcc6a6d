//! A store carries out its part of a plan.

use flotilla_engine::{
    EngineError, FlushReason, LogBatch, RaftLog, StateBatch, StateOp, StateStore,
};
use flotilla_proto::metapb::{Peer, PeerRole, Region, RegionEpoch};
use flotilla_proto::raft::{Entry, EntryKind, HardState};
use flotilla_proto::store::{PeerState, RaftRecord, RegionRecord};

use super::{Choice, LogEnd, Replica, inventory};
use crate::boot::Boot;
use crate::region::epoch;

/// Added to a forced region's `conf_ver`, beside one for each peer that goes: the lost members may have
/// changed the configuration after the last that survivors know of, but not so often.
const CONF_VER_MARGIN: u64 = 1 << 16;

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

/// What one of the survivors knows to be committed is committed here, too: the next opening applies it.
/// First of the two halves; `boot` is of the opening before.
///
/// # Errors
/// The store is not as the plan says; or its log fails.
pub fn raise_commits(
    boot: &Boot,
    store: u64,
    choices: &[Choice],
    log: &impl RaftLog,
) -> Result<(), ForceError> {
    let mut batch = LogBatch::default();
    let replicas = inventory(boot, store);
    for choice in own(choices, store) {
        let replica = of(&replicas, choice)?;
        if choice.commit > replica.commit {
            batch.set_record(
                choice.region.id,
                RaftRecord {
                    peer_id: replica.peer.id,
                    hard_state: Some(HardState {
                        term: choice.term,
                        vote: 0,
                        commit: choice.commit,
                    }),
                },
            );
        }
    }
    write(log, &batch)
}

/// The chosen replicas become the only voters of their regions. Returns these. Second of the two halves.
///
/// # Errors
/// The store is not as the plan says; or its storage fails.
pub fn force(
    boot: &Boot,
    store: u64,
    choices: &[Choice],
    log: &impl RaftLog,
    state: &impl StateStore,
) -> Result<Vec<Region>, ForceError> {
    let replicas = inventory(boot, store);
    let (mut to_log, mut to_state) = (LogBatch::default(), StateBatch::default());
    let mut forced = Vec::new();
    for choice in own(choices, store) {
        let replica = of(&replicas, choice)?;
        let id = choice.region.id;
        let tail = settled_tail(log, replica)?;
        to_log.append(id, tail, replica.last.index);
        to_log.set_record(
            id,
            RaftRecord {
                peer_id: replica.peer.id,
                hard_state: Some(HardState {
                    term: choice.term,
                    vote: 0,
                    commit: replica.commit,
                }),
            },
        );
        let region = alone(&replica.region, replica.peer);
        to_state.ops.push(StateOp::PutRegion {
            record: RegionRecord {
                state: PeerState::Normal.into(),
                region: Some(region.clone()),
                highest_peer_id: replica.peer.id,
            },
        });
        forced.push(region);
    }
    // The log first: with its old members a region that has a new term only waits for them.
    write(log, &to_log)?;
    if !to_state.ops.is_empty() {
        to_state.admin = true;
        state.write(&to_state)?;
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

/// The entries behind the commit index, without any that would change the region's shape.
fn settled_tail(log: &impl RaftLog, replica: &Replica) -> Result<Vec<Entry>, ForceError> {
    let LogEnd { index: last, .. } = replica.last;
    let mut tail = Vec::new();
    let mut low = replica.commit + 1;
    while low <= last {
        let page = log.entries(replica.region.id, low, last + 1, PAGE_BYTES)?;
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

fn write(log: &impl RaftLog, batch: &LogBatch) -> Result<(), ForceError> {
    if !batch.is_empty() {
        log.append(batch)?;
        log.sync()?;
    }
    Ok(())
}
