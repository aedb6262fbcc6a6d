//! One replica of a region: its raft group, its proposals, its reads.
//!
//! A file each for what it does: `propose`, `ready`, `read`, `split`, `truncate`.
//!
//! Invariants:
//! - every proposal is answered exactly once, and an error that says *not applied* is right;
//! - the delegate never offers a lease while an admin entry is handed to apply and not yet applied
//!   (contracts: C16, C17);
//! - the log is truncated only up to what survives a crash in the state database (contracts: C11).

mod absorb;
mod destroy;
mod load;
mod members;
mod merge;
mod propose;
mod read;
mod ready;
mod report;
mod show;
mod snapshot;
mod split;
mod stall;
mod truncate;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use flotilla_engine::SnapshotKey;
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Peer as PeerMeta, Region, RegionEpoch};
use flotilla_proto::raft::HardState;
use flotilla_proto::store::{Merging, PeerMessage};
use flotilla_raft::{LogId, Raft, Restart, StepError};

use crate::delegate::{Delegate, Serving};
use crate::effects::{
    Answer, ApplyReport, MetaRole, PeerInput, RaftEffects, RaftInput, RegionChange, RegionSize,
    Retired, StoreInput,
};
use crate::load::LoadWatch;
use crate::log_view::PeerLog;
use crate::planted::Planted;
use crate::region::{META_REGION, conf_state};
use crate::runtime::StoreFatal;
use crate::store::Shared;
use crate::{PROBE_TARGET, ReadContext, RequestError, STORE_ADDRESS, SnapshotTask, StartError};

pub use flotilla_raft::{Pace, Role};
pub use show::PeerShown;

pub(crate) use merge::Proposed;

use absorb::Absorb;
use merge::Source;
use propose::Proposals;
use read::Reads;
use snapshot::Snapshots;
use stall::LogDisk;

/// One peer.
pub struct Peer {
    shared: Arc<Shared>,
    /// Which of the region's machines this is one of.
    life: u64,
    /// As of the last apply report; its peers and epoch never go back. Without an epoch the peer is
    /// blank: made by a message, it waits for a snapshot.
    region: Region,
    meta: PeerMeta,
    raft: Raft<PeerLog>,
    delegate: Arc<Delegate>,
    proposals: Proposals,
    reads: Reads,
    snapshots: Snapshots,
    log_disk: LogDisk,
    source: Source,
    /// A commit-merge that waits, and what is behind it.
    absorb: Option<Absorb>,
    /// How much the region holds that is being taken in.
    taken_size: RegionSize,
    /// The commit-merge that was proposed last.
    take_in: Option<LogId>,
    /// The last index that was handed to apply.
    handed: u64,
    /// Admin entries handed to apply and not yet reported, ascending. While there is one, no read
    /// is served here.
    unsettled: VecDeque<u64>,
    /// Splits handed to apply, by index, and who asked for them.
    splitting: BTreeMap<u64, Answer<Vec<Region>>>,
    /// Changes of the members handed to apply, by index, and who asked for them.
    changing: BTreeMap<u64, Answer<Region>>,
    /// Regions that the last split made beside this one.
    siblings: Vec<Region>,
    size: RegionSize,
    /// Written since `size` was measured.
    growth: RegionSize,
    /// Written since the last report to PD.
    unreported: RegionSize,
    size_check_running: bool,
    /// `growth` when the measurement was asked for: what came later it may not have seen.
    growth_asked: RegionSize,
    /// To be measured with the next heartbeat: it was to be cut and was not, or has just been cut
    /// and holds nobody knows what.
    measure_again: bool,
    /// The applied index that survives a crash.
    durable_applied: u64,
    /// The newest configuration in which somebody spoke to this peer as a member.
    member_at: u64,
    /// The last split in the log that may be undurable: applied since the start, or by it.
    split_at: u64,
    /// This store was told that it is PD in this term.
    meta_announced: Option<u64>,
    reports: report::Reports,
    /// What is asked of the region while this peer leads.
    load: LoadWatch,
    told: show::Told,
    /// When a leader was heard of last, or PD was asked for one.
    led: Mono,
    /// The state batch of the last apply report.
    applied_cut: u64,
    /// Term and vote as they were written last.
    promised: (u64, u64),
    /// The peer ends: it takes nothing in any more.
    ending: bool,
    /// Campaign at the first occasion: a group of one voter, or the child of a region led here.
    campaign: bool,
}

/// What a peer is made of.
pub(crate) struct PeerParts {
    pub(crate) shared: Arc<Shared>,
    pub(crate) life: u64,
    /// The peer itself; `None`: the region names none on this store.
    pub(crate) meta: Option<PeerMeta>,
    pub(crate) region: Region,
    pub(crate) log: PeerLog,
    pub(crate) hard_state: flotilla_proto::raft::HardState,
    pub(crate) applied: u64,
    /// Of that, what survives a crash; 0 if it is not known.
    pub(crate) durable: u64,
    /// The last split that the start has applied again; 0 without one.
    pub(crate) split_at: u64,
    /// A snapshot that is in place and may be lost by a crash: its index, and its files.
    pub(crate) intent: Option<(u64, SnapshotKey)>,
    /// The epoch of the message that it was made by.
    pub(crate) made_at: Option<RegionEpoch>,
    pub(crate) campaign: bool,
    /// The region is merging as of `applied`.
    pub(crate) merging: Option<Box<Merging>>,
    /// A prepare-merge in the log behind `applied`.
    pub(crate) proposed_merge: Option<Proposed>,
}

impl Peer {
    /// A peer whose state is as of `applied`.
    ///
    /// # Errors
    /// The log, the hard state and the applied index do not fit together.
    pub(crate) fn new(parts: PeerParts, now: Mono) -> Result<Self, StartError> {
        let PeerParts {
            shared,
            life,
            meta,
            region,
            log,
            hard_state,
            applied,
            durable,
            split_at,
            intent,
            made_at,
            campaign,
            merging,
            proposed_merge,
        } = parts;
        let inconsistent = |detail: String| StartError::Inconsistent {
            region: region.id,
            detail,
        };
        let meta =
            meta.ok_or_else(|| inconsistent(format!("it has no peer on store {}", shared.store)))?;
        let conf = conf_state(&region);
        let alone = conf.voters == [meta.id] && conf.voters_outgoing.is_empty();
        let restart = Restart {
            hard_state,
            conf,
            applied,
        };
        #[cfg_attr(
            not(feature = "planted"),
            expect(unused_mut, reason = "only tests plant bugs")
        )]
        let mut raft = Raft::new(shared.config.raft(region.id, meta.id), restart, log, now)
            .map_err(|error| inconsistent(error.to_string()))?;
        #[cfg(feature = "planted")]
        if let Some(rule) = shared.config.plant.raft {
            raft.plant(rule);
        }
        let peer = Self {
            life,
            meta,
            raft,
            delegate: shared.delegates.open(region.id),
            proposals: Proposals::default(),
            reads: Reads::default(),
            snapshots: Snapshots::opened(intent),
            log_disk: LogDisk::default(),
            source: Source::opened(merging, proposed_merge),
            absorb: None,
            taken_size: RegionSize::default(),
            take_in: None,
            handed: applied,
            unsettled: VecDeque::new(),
            splitting: BTreeMap::new(),
            changing: BTreeMap::new(),
            siblings: Vec::new(),
            size: RegionSize::default(),
            growth: RegionSize::default(),
            unreported: RegionSize::default(),
            size_check_running: false,
            growth_asked: RegionSize::default(),
            measure_again: false,
            durable_applied: durable,
            member_at: made_at.map_or(0, |epoch| epoch.conf_ver),
            split_at,
            meta_announced: None,
            reports: report::Reports::default(),
            load: LoadWatch::new(now),
            told: show::Told::default(),
            led: now,
            applied_cut: 0,
            promised: (0, 0),
            ending: false,
            campaign: campaign || alone,
            region,
            shared,
        };
        peer.publish();
        Ok(peer)
    }

    /// The region as of the last apply report.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The raft group, to look at.
    pub fn raft(&self) -> &Raft<PeerLog> {
        &self.raft
    }

    /// Whether it has begun to end: it says, votes for and serves nothing any more.
    pub fn is_ending(&self) -> bool {
        self.ending
    }

    /// Whether this peer leads its group.
    pub fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    pub(crate) fn handle(&mut self, now: Mono, input: PeerInput, effects: &mut RaftEffects) {
        let acts = self.shared.plants(Planted::EndingPeerActs);
        let late = matches!(input, PeerInput::Applied(_) | PeerInput::Ingested { .. });
        if self.ending && !late && !acts {
            // Whoever waits for an answer gets it by the drop.
            if let PeerInput::Message(message) = &input {
                self.drop_snapshot(message, effects);
            }
            return;
        }
        if self.source.stops() && !Self::is_owed(&input) {
            if let PeerInput::Message(message) = &input {
                self.drop_snapshot(message, effects);
            }
            return;
        }
        match input {
            PeerInput::Message(message) => self.on_message(now, *message, effects),
            PeerInput::Unreachable { peer } => self.raft.report_unreachable(peer),
            PeerInput::Write(proposal) => self.on_write(now, proposal),
            PeerInput::Read { context, answer } => self.on_read(context, answer),
            PeerInput::Split {
                context,
                keys,
                answer,
            } => self.on_split(context, keys, answer, effects),
            PeerInput::SplitIds {
                epoch,
                keys,
                ids,
                answer,
            } => {
                self.on_split_ids(now, epoch, keys, ids, answer);
            }
            PeerInput::SizeChecked { epoch, keys, size } => {
                self.on_size_checked(epoch, keys, size, effects);
            }
            PeerInput::Persisted { life, number } if life == self.life => {
                self.raft.persisted(now, number);
                self.note_written(now, number);
                self.on_persisted_install(number, effects);
            }
            PeerInput::Applied(report) if report.life == self.life => {
                self.on_applied(now, report, effects);
            }
            PeerInput::Persisted { .. } | PeerInput::Applied(_) => {
                tracing::trace!(target: PROBE_TARGET, "peer: progress of an earlier life");
            }
            PeerInput::Fetched {
                ticket,
                low,
                entries,
            } => {
                self.raft.log_mut().fetched(ticket, low, entries);
                self.raft.fetched(now, flotilla_raft::Ticket(ticket));
            }
            PeerInput::FetchFailed { ticket, error } => {
                if self.raft.log_mut().fetch_failed(ticket) {
                    effects.fatal = Some(StoreFatal::Engine(error));
                } else {
                    self.raft.fetched(now, flotilla_raft::Ticket(ticket));
                }
            }
            PeerInput::Durable { index } => {
                self.durable_applied = self.durable_applied.max(index);
                self.forget_rollback();
                self.clear_intent(effects);
                self.truncate_log(effects);
            }
            PeerInput::LogStalled => self.on_log_stalled(now),
            PeerInput::Campaign => self.campaign = true,
            PeerInput::Report => {
                if self.is_leader() {
                    self.report_region(now, effects);
                }
            }
            PeerInput::Show { answer } => answer.give(Ok(Box::new(self.show(now)))),
            PeerInput::Transfer { .. } if self.source.is_under_way() => {}
            PeerInput::Transfer { to } => {
                self.delegate.suspend();
                // A refused transfer leaves the leader as it is; whoever asked looks at the outcome.
                let _refused = self.raft.transfer_leader(now, to);
            }
            PeerInput::HandOver => {
                if self.is_leader() {
                    self.delegate.suspend();
                    self.hand_over(now);
                }
            }
            PeerInput::ChangeMembers {
                epoch,
                changes,
                answer,
            } => self.on_change_members(now, epoch, &changes, answer),
            PeerInput::Merge {
                epoch,
                target,
                answer,
            } => self.on_merge(now, epoch, *target, answer),
            PeerInput::TakeIn { command } => self.on_take_in(now, &command),
            PeerInput::Stop {
                peer,
                into,
                commit,
                entries,
            } => self.on_stop(now, (peer, into, commit), entries, effects),
            PeerInput::Stopped { region, size } => self.on_stopped(region, size, effects),
            PeerInput::Current { region } => self.on_current(&region, effects),
            PeerInput::Doomed => self.destroy(effects),
            PeerInput::SnapshotBuilt { life, result } if life == self.life => {
                self.on_snapshot_built(now, result, effects);
            }
            PeerInput::SnapshotBuilt { result, .. } => {
                if let Ok((key, _)) = result {
                    effects.snapshots.push(SnapshotTask::Discard { key });
                }
            }
            PeerInput::SnapshotSent { peer, ok } => {
                self.on_snapshot_sent(now, peer, ok, effects);
            }
            PeerInput::Ingested { life, key, ops } if life == self.life => {
                self.on_ingested(key, ops, effects);
            }
            PeerInput::Ingested { .. } => {}
            PeerInput::IngestFailed { error } => self.on_ingest_failed(error, effects),
            PeerInput::IntentCleared { key } => self.on_intent_cleared(key, effects),
        }
    }

    fn begin_round(&mut self, now: Mono, effects: &mut RaftEffects) {
        if let Some(message) = self.take_waiting(effects) {
            let from = message.from_peer.unwrap_or_default();
            self.step(now, from, message, effects);
        }
        if std::mem::take(&mut self.campaign) {
            self.raft.campaign(now);
        }
        self.propose_waiting(now);
        self.start_reads(now);
    }

    pub(crate) fn end_round(&mut self, now: Mono, effects: &mut RaftEffects) {
        if self.ending {
            return;
        }
        if !self.source.stops() {
            self.begin_round(now, effects);
        }
        while self.raft.has_ready() {
            self.carry_out_ready(now, effects);
        }
        self.drop_offered(effects);
        let persisted = self.raft.persisted_index();
        let fetches = self.raft.log_mut().take_fetches(persisted);
        effects.fetches.extend(fetches);
        self.answer_reads();
        self.renew_lease(now);
        self.tell_stopped(effects);
    }

    /// Nothing is proposed or read here any more; what is still owed is answered by being dropped.
    pub(crate) fn retire(&mut self, effects: &mut RaftEffects) {
        self.shared.delegates.close(self.region.id);
        self.drop_owed();
        let last = Retired::Peer {
            region: self.region.id,
            peer: self.meta.id,
            hard_state: HardState {
                term: self.raft.term(),
                vote: self.raft.vote().unwrap_or(0),
                commit: 0,
            },
            span: self.raft.log().span(),
            files: self.snapshots.files(),
        };
        let input = RaftInput::Store(StoreInput::Retired(last));
        effects.to_raft.push((STORE_ADDRESS, input));
    }

    fn drop_owed(&mut self) {
        self.proposals = Proposals::default();
        self.reads = Reads::default();
        self.splitting.clear();
        self.changing.clear();
    }

    /// It was made by a message and has no data yet.
    pub fn is_blank(&self) -> bool {
        self.region.region_epoch.is_none()
    }

    pub(crate) fn tick(&mut self, now: Mono, effects: &mut RaftEffects) {
        if self.ending {
            return;
        }
        if self.source.stops() {
            self.expire_proposals(now);
            return self.tick_snapshots(now, effects);
        }
        self.raft.tick(now);
        self.watch_load(now, effects);
        self.expire_proposals(now);
        if self.is_leader() && self.report_due(now) {
            self.report_changes(now, effects);
            self.check_size_again(effects);
        }
        self.check_too_large(effects);
        self.check_membership(now, effects);
        self.check_log_disk(now, effects);
        self.tick_snapshots(now, effects);
        self.truncate_log(effects);
        self.tick_merge(now, effects);
        self.advance_absorb(effects);
    }

    fn on_message(&mut self, now: Mono, message: PeerMessage, effects: &mut RaftEffects) {
        let (from, to) = (
            message.from_peer.unwrap_or_default(),
            message.to_peer.unwrap_or_default(),
        );
        let epoch = message.region_epoch;
        if message.is_tombstone {
            if let Some(merged) = message.merged.filter(|_| to.id == self.meta.id) {
                self.shared.merged.hear(&merged);
                return self.on_merged_away(&merged, effects);
            }
            return self.on_tombstone(to, epoch, effects);
        }
        if to.id > self.meta.id {
            // Ids rise: the group has given this store another peer, so this one was removed.
            tracing::trace!(target: PROBE_TARGET, "destroy: a message for a later peer");
            self.drop_snapshot(&message, effects);
            return self.destroy(effects);
        }
        if to.id != self.meta.id || self.refuse_stranger(from, epoch, effects) {
            return self.drop_snapshot(&message, effects);
        }
        if message.target_moved != 0 {
            return self.on_target_moved(now, from.id, message.target_moved);
        }
        let spoken = epoch.map_or(0, |epoch| epoch.conf_ver);
        self.member_at = self.member_at.max(spoken);
        if let Some(message) = self.hold_snapshot(message, effects) {
            self.step(now, from, message, effects);
        }
    }

    fn step(&mut self, now: Mono, from: PeerMeta, message: PeerMessage, effects: &mut RaftEffects) {
        if !self.accepts_snapshot(&message, effects) {
            return;
        }
        if let Some(inner) = message.message {
            self.raft.log_mut().learn_address(from);
            let led_before = self.raft.leader() == Some(from.id);
            match self.raft.step(now, inner) {
                Ok(()) => {}
                Err(StepError::Safety { what, .. }) => {
                    let (region, detail) = (self.region.id, what.to_owned());
                    effects.fatal = Some(StoreFatal::Safety { region, detail });
                }
                Err(error) => tracing::debug!(region = self.region.id, %error, "message dropped"),
            }
            if self.raft.leader() == Some(from.id) {
                self.heard_of_leader(now, from, led_before, effects);
            }
        }
    }

    fn on_applied(&mut self, now: Mono, report: ApplyReport, effects: &mut RaftEffects) {
        self.applied_cut = report.cut;
        for change in report.changes {
            self.on_change(now, change, effects);
        }
        if self.ending {
            return;
        }
        while self
            .unsettled
            .front()
            .is_some_and(|index| *index <= report.index)
        {
            self.unsettled.pop_front();
        }
        self.raft.applied(now, report.index);
        self.growth.bytes += report.written_bytes;
        self.growth.keys += report.written_keys;
        self.unreported.bytes += report.written_bytes;
        self.unreported.keys += report.written_keys;
        // A leader keeps in memory what its followers still lack.
        let needed = if self.is_leader() {
            self.raft.min_matched()
        } else {
            u64::MAX
        };
        let carried = self.source.kept_behind().unwrap_or(u64::MAX);
        let needed = needed.min(carried);
        self.raft.log_mut().release(report.index.min(needed));
        self.start_install(effects);
        self.advance_absorb(effects);
        self.check_size(effects);
        self.announce_meta(effects);
    }

    fn on_change(&mut self, now: Mono, change: RegionChange, effects: &mut RaftEffects) {
        match change {
            RegionChange::Split {
                index,
                parent,
                children,
                stillborn,
            } => {
                self.split_at = index;
                let children = (children, stillborn);
                self.on_split_applied(now, index, parent, children, effects);
            }
            RegionChange::SplitRefused { index } => self.on_split_refused(index),
            RegionChange::Removed => self.on_removed(effects),
            RegionChange::Installed { manifest, died } => {
                self.on_installed(now, &manifest, died, effects);
            }
            RegionChange::MergePrepared { region, merging } => {
                self.on_merge_prepared(now, region, merging, effects);
            }
            RegionChange::MergeRefused { index } => self.on_merge_refused(index),
            RegionChange::MergeRolledBack { index, region } => {
                self.on_merge_rolled_back(now, index, region, effects);
            }
            RegionChange::Merged {
                index,
                region,
                source,
            } => self.on_merged(now, (index, region, source), effects),
            RegionChange::Members { region, .. } if self.snapshots.installing() => {
                // The raft group has the later members of the snapshot already.
                self.region = region;
            }
            RegionChange::Members { index, region } => {
                let conf = match self.shared.plants(Planted::MembersUncounted) {
                    true => self.raft.conf(),
                    false => conf_state(&region),
                };
                if let Err(error) = self.raft.apply_conf_change(now, &conf) {
                    let detail = format!("a committed configuration is refused: {error}");
                    effects.fatal = Some(StoreFatal::Safety {
                        region: region.id,
                        detail,
                    });
                }
                self.on_members(now, index, region, effects);
            }
        }
    }

    /// Says what this peer is to whoever reads without asking it.
    fn publish(&self) {
        if self.is_blank() || self.snapshots.installing() {
            return;
        }
        let leader = self.raft.leader();
        self.delegate.publish(Serving {
            region: self.region.clone(),
            peer: self.meta,
            leader: self
                .region
                .peers
                .iter()
                .find(|peer| Some(peer.id) == leader)
                .copied(),
            term: self.raft.term(),
            siblings: self.siblings.clone(),
        });
    }

    /// A request that only the leader serves.
    fn check(&self, context: &ReadContext) -> Result<(), RequestError> {
        self.check_read(&ReadContext {
            replica: false,
            ..*context
        })
    }

    fn check_read(&self, context: &ReadContext) -> Result<(), RequestError> {
        match self.delegate.serving().check(context) {
            Err(RequestError::EpochNotMatch { .. })
                if self.shared.plants(Planted::EpochUncheckedAtPropose) =>
            {
                Ok(())
            }
            checked => checked.and_then(|()| self.check_merging()),
        }
    }

    fn not_leader(&self) -> RequestError {
        self.ask_instead(self.raft.leader())
    }

    /// Another member to ask, if anybody knows one.
    fn ask_instead(&self, member: Option<u64>) -> RequestError {
        let mut members = self.region.peers.iter();
        RequestError::NotLeader {
            region: self.region.id,
            leader: members.find(|peer| Some(peer.id) == member).copied(),
        }
    }

    /// The delegate has a lease exactly while the raft group does: it goes with the commit of an
    /// entry that changes the region, before that entry is handed to apply (contracts: C16).
    fn renew_lease(&self, now: Mono) {
        let settled = self.unsettled.is_empty()
            && !self.snapshots.installing()
            && !self.source.stops()
            && self.check_merging().is_ok();
        match self.raft.lease_until() {
            Some(until) if settled && !self.log_is_stalled(now) => self.delegate.renew(until),
            _ if self.is_leader() && self.shared.plants(Planted::LeaseOverSplit) => {}
            _ if self.shared.plants(Planted::LeaseOutlivesLeader) => {}
            _ => self.delegate.revoke(),
        }
    }

    /// Tells when this store has become PD: it leads the meta region and has applied all that
    /// earlier leaders wrote (contracts: C20).
    fn announce_meta(&mut self, effects: &mut RaftEffects) {
        if self.region.id != META_REGION {
            return;
        }
        let term = self.raft.term();
        let applied = self.raft.applied_index();
        let ready = self
            .raft
            .first_index_of_term()
            .is_some_and(|first| applied >= first);
        match (ready, self.meta_announced) {
            (true, announced) if announced != Some(term) => {
                self.meta_announced = Some(term);
                effects.meta_role.push(MetaRole::Leads { term });
            }
            (false, Some(_)) => {
                self.meta_announced = None;
                effects.meta_role.push(MetaRole::Follows);
            }
            _ => {}
        }
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer")
            .field("region", &self.region.id)
            .field("peer", &self.meta.id)
            .field("store", &self.shared.store)
            .field("applied", &self.raft.applied_index())
            .finish_non_exhaustive()
    }
}
