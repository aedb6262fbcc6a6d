//! What of a log may go, and what must go (contracts: C11). That it survives in the state is checked where a
//! truncation is written, in `log.rs`.

use std::collections::BTreeMap;

use flotilla_engine::BIRTH;
use flotilla_proto::clock::Mono;
use flotilla_proto::raft::Message;
use flotilla_raft::{LogView as _, Pace, Raft, Status};
use flotilla_raftstore::peer::Peer;

use super::Oracle;
use crate::rules::Rule;

/// What leaders have said of the logs that others need, by region. Neither falls.
#[derive(Debug, Default)]
pub struct Needed(BTreeMap<u64, Said>);

#[derive(Clone, Copy, Debug, Default)]
struct Said {
    /// All members that a leader had heard of lately held the log up to here.
    matched: u64,
    /// The index of the newest snapshot that was offered: who gets it needs nothing before that.
    offered: u64,
}

impl Needed {
    /// A message leaves.
    pub(super) fn said(&mut self, region: u64, message: &Message) {
        let said = self.0.entry(region).or_default();
        said.matched = said.matched.max(message.min_matched);
        let snapshot = message.snapshot.as_ref();
        if let Some(meta) = snapshot.and_then(|snapshot| snapshot.meta.as_ref()) {
            said.offered = said.offered.max(meta.index);
        }
    }
}

impl Oracle {
    /// Before [`Oracle::look_at_peer`]: a log that was cut in this round still has what a live follower needs, or
    /// that one is more than `lag_max` entries behind.
    pub fn look_at_truncation(&mut self, store: u64, peer: &Peer, now: Mono, lag_max: u64) {
        let (raft, region) = (peer.raft(), peer.region().id);
        let to = raft.log().first_index() - 1;
        let Some(before) = self.store(store).peers.get(&region) else {
            return;
        };
        let led = if peer.is_leader() { raft.term() } else { 0 };
        // By another role something else was needed; in the place of a log that begins behind what is applied a
        // snapshot comes; and a child's begins at its birth.
        let same = before.id == raft.id() && before.led == led;
        let cut = (before.first..=raft.applied_index()).contains(&to) && to > BIRTH.index;
        if !(same && cut) {
            return;
        }
        let said = self.needed.0.get(&region).copied().unwrap_or_default();
        let needed = match led {
            0 => said.matched,
            _ => needed_of(raft, now).map_or(u64::MAX, |needed| needed.max(said.offered)),
        };
        let lag_from = raft.applied_index().saturating_sub(lag_max);
        self.check_spared((store, region), to, needed, lag_from);
    }

    /// A log was cut up to `to`: nobody who is live needs it from before `needed` on, and up to `lag_from`
    /// nothing is kept for anybody.
    pub(super) fn check_spared(
        &mut self,
        (store, region): (u64, u64),
        to: u64,
        needed: u64,
        lag_from: u64,
    ) {
        let spared = to <= needed.max(lag_from);
        self.checks.check(Rule::LaggardsAreSpared, spared, || {
            format!(
                "store {store} region {region}: truncated up to {to}, somebody live needs what follows {needed}, and up to {lag_from} nothing is kept"
            )
        });
    }

    /// Nobody lags, and all has had the time to hear so: of what survives in the state of `store` its logs hold
    /// fewer entries than are worth a truncation. Says nothing of one that holds more until its time is
    /// `over`. Answers whether all logs are so.
    pub fn check_trimmed(&mut self, store: u64, worth: u64, over: bool) -> bool {
        let seen = self.stores.entry(store).or_default();
        let mut all = true;
        for (region, survives) in &seen.survives {
            let (Some(applied), Some(held)) = (seen.applied.get(region), seen.log.held(*region))
            else {
                continue;
            };
            let upto = *survives.min(applied);
            let kept = held.entries.range(..=upto).count() as u64;
            let trimmed = kept < worth;
            all &= trimmed;
            if trimmed || over {
                self.checks.check(Rule::LogIsTrimmed, trimmed, || {
                    format!(
                        "store {store} region {region}: {kept} entries are kept behind {:?} up to {upto}, which survives in the state; {worth} are worth a truncation",
                        held.truncated()
                    )
                });
            }
        }
        all
    }
}

/// What follows this index a member needs of which the leader has heard, but not in the round at `now`: those have
/// moved. `None`: there is none.
fn needed_of<L: flotilla_raft::LogView>(raft: &Raft<L>, now: Mono) -> Option<u64> {
    let Status { id, peers, .. } = raft.status();
    let silent = raft.config().election_timeout_max;
    let counts = |active: Mono| active < now && now - active < silent;
    let others = peers
        .iter()
        .filter(|peer| peer.id != id && counts(peer.active));
    let needs = others.map(|peer| match peer.pace {
        Pace::Snapshot { index } => peer.matched.max(index),
        Pace::Probe | Pace::Replicate => peer.matched,
    });
    needs.min()
}
