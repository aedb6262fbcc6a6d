//! Elections (paper 5.2, 5.4.1; thesis 3.4, 6.4.1 and 9.6): who campaigns, who votes for whom, and
//! what a change of role resets.

use flotilla_proto::clock::Mono;
use flotilla_proto::raft::{EntryKind, Message, MessageKind};

use bytes::Bytes;

use crate::leader::Leader;
use crate::log_view::LogView;
use crate::planted::Planted;
use crate::progress::Progress;
use crate::quorum::VoteOutcome;
use crate::raft::{Contact, Raft, State};

/// So many elections in a row begin early, after one that a voter refused ...
const SOON_AGAIN_MAX: u32 = 3;
/// ... and this part of the timeout's jitter is drawn for each.
const SOON_AGAIN_PART: u32 = 4;

/// The answers of one election. A candidate's own vote is among them once it is durable.
#[derive(Debug, Default)]
pub(crate) struct Ballot {
    answers: Vec<(u64, bool)>,
}

impl Ballot {
    /// Only the first answer of a voter counts.
    fn record(&mut self, voter: u64, granted: bool) {
        if self.answer(voter).is_none() {
            self.answers.push((voter, granted));
        }
    }

    fn is_refused(&self) -> bool {
        self.answers.iter().any(|(_, granted)| !granted)
    }

    fn answer(&self, voter: u64) -> Option<bool> {
        self.answers
            .iter()
            .find(|(id, _)| *id == voter)
            .map(|(_, granted)| *granted)
    }
}

impl<L: LogView> Raft<L> {
    /// Campaigns at once instead of after the election timeout: for the only voter of a group, and
    /// for the child of a split on the store that led the parent (contracts: C16, C33).
    ///
    /// Returns whether it did. It does not while this replica leads, is no voter, has not applied a
    /// committed change of the configuration or a snapshot, or (unless it is the only voter) has
    /// promised its vote to a leader heard of less than an election timeout ago.
    pub fn campaign(&mut self, now: Mono) -> bool {
        self.advance(now);
        let bound = self.has_fresh_contact() && !self.conf.is_single_voter(self.config.id);
        let may = !matches!(self.state, State::Leader(_)) && self.may_campaign() && !bound;
        if may {
            self.start_election();
        }
        may
    }

    /// This replica could lead: a voter that knows the newest configuration and has its state.
    pub(crate) fn may_campaign(&self) -> bool {
        let unsettled = self.log.conf_unsettled() && !self.plants(Planted::CampaignUnsettled);
        self.conf.is_voter(self.config.id) && !unsettled && !self.log.installing()
    }

    pub(crate) fn start_election(&mut self) {
        if self.config.pre_vote {
            self.become_pre_candidate();
        } else {
            self.become_candidate(0);
        }
    }

    // ---- roles ----

    /// Follows `leader` (0: whoever will lead) in `term`.
    pub(crate) fn become_follower(&mut self, term: u64, leader: u64) {
        assert!(term >= self.term, "term falls from {} to {term}", self.term);
        if term > self.term {
            self.enter_term(term, 0);
        }
        self.enter(State::Follower, leader);
    }

    fn become_pre_candidate(&mut self) {
        self.enter(State::PreCandidate(Ballot::default()), 0);
        self.ask_for_votes(MessageKind::PreVote, 0);
        self.record_vote(self.config.id, true);
    }

    /// `attempt`: of the transfer that asked for this election; 0 for none.
    pub(crate) fn become_candidate(&mut self, attempt: u64) {
        self.enter_term(self.term + 1, self.config.id);
        self.enter(State::Candidate(Ballot::default()), 0);
        self.ask_for_votes(MessageKind::Vote, attempt);
        if self.plants(Planted::OwnVoteNotPersisted) {
            self.record_vote(self.config.id, true);
        }
    }

    fn become_leader(&mut self) {
        let next = self.log.last_index() + 1;
        let peers = self
            .conf
            .members()
            .map(|id| Progress::new(id, next, self.now))
            .collect();
        self.enter(
            State::Leader(Box::new(Leader::new(peers, next, self.now))),
            self.config.id,
        );
        // Commits what earlier terms left, and opens reads (paper 5.4.2, 8).
        self.push(EntryKind::Data, Bytes::new());
        self.note_own_progress();
        self.tick_leader();
    }

    fn enter_term(&mut self, term: u64, vote: u64) {
        self.term = term;
        self.vote = vote;
        self.min_matched = 0;
        // The new term's leader may replace what they claim before it is durable.
        let outlives = self.plants(Planted::AckOutlivesTerm);
        self.after_write
            .retain(|message| outlives || !accepts_append(message));
    }

    /// What every change of role resets.
    fn enter(&mut self, state: State, leader: u64) {
        if let State::Leader(old) = std::mem::replace(&mut self.state, state) {
            self.fail_reads(old.reads);
        }
        self.set_leader(leader);
        self.timer_base = self.now;
        self.redraw_timeout();
    }

    pub(crate) fn set_leader(&mut self, leader: u64) {
        if leader != 0 {
            self.soon_again = 0;
        }
        if leader != self.leader {
            self.leader = leader;
            self.fail_forwarded();
        }
    }

    // ---- asking ----

    fn ask_for_votes(&mut self, kind: MessageKind, attempt: u64) {
        let pre = kind == MessageKind::PreVote;
        let request = Message {
            term: self.term + u64::from(pre),
            index: self.log.last_index(),
            log_term: self.log.last_term(),
            commit: self.log.commit(),
            hint_term: self.commit_term(),
            priority: self.config.priority,
            transfer: attempt > 0,
            transfer_attempt: attempt,
            ..self.message(kind, 0)
        };
        // A vote request says that the candidate voted for itself.
        let queue = if pre || self.log.plant.breaks(Planted::VoteRequestNotPersisted) {
            &mut self.send_now
        } else {
            &mut self.after_write
        };
        let others = self.conf.voters().filter(|voter| *voter != self.config.id);
        queue.extend(others.map(|to| Message {
            to,
            ..request.clone()
        }));
    }

    /// An answer to this replica's election.
    pub(crate) fn on_vote(&mut self, kind: MessageKind, message: &Message) {
        let mine = match &self.state {
            // Grants come under the term asked about, refusals under the voter's own.
            State::PreCandidate(_) => {
                kind == MessageKind::PreVoteResponse
                    && (message.reject || message.term == self.term + 1)
            }
            State::Candidate(_) => kind == MessageKind::VoteResponse,
            State::Follower | State::Leader(_) => false,
        };
        if mine {
            self.record_vote(message.from, !message.reject);
        }
    }

    /// The hard state that says this replica voted for itself is durable.
    pub(crate) fn count_own_vote(&mut self) {
        let durable = self.log.durable();
        let own = (durable.term, durable.vote) == (self.term, self.config.id);
        if own && matches!(self.state, State::Candidate(_)) {
            self.record_vote(self.config.id, true);
        }
    }

    fn record_vote(&mut self, voter: u64, granted: bool) {
        let id = self.config.id;
        let (State::PreCandidate(ballot) | State::Candidate(ballot)) = &mut self.state else {
            return;
        };
        let unanimous = !ballot.is_refused();
        if self.conf.is_voter(voter) {
            ballot.record(voter, granted);
        }
        let refused = unanimous && ballot.is_refused();
        let own = ballot.answer(id).is_some();
        let one_half = self.log.plant.breaks(Planted::OneQuorumInJoint);
        let outcome = match one_half {
            true => self.conf.incoming().vote(|voter| ballot.answer(voter)),
            false => self.conf.vote(|voter| ballot.answer(voter)),
        };
        let real = matches!(self.state, State::Candidate(_));
        match outcome {
            VoteOutcome::Won if real && own => self.become_leader(),
            VoteOutcome::Won if !real => self.become_candidate(0),
            VoteOutcome::Lost => self.become_follower(self.term, 0),
            VoteOutcome::Pending if refused => self.try_again_soon(),
            VoteOutcome::Won | VoteOutcome::Pending => {}
        }
    }

    /// One voter refuses and another is silent: so it looks where the leader died, and two asked at once
    /// or one a moment before the other's promise to the leader was over. Neither may win, and a whole
    /// timeout more would be waited for nothing. A few times only: whoever is refused for good, because
    /// its log is too short or a leader lives that it does not hear, is not to ask all the time.
    fn try_again_soon(&mut self) {
        // Its own vote is promised too. Without pre-votes every try would raise the term.
        let bound = self.has_fresh_contact() || !self.config.pre_vote;
        if !bound && self.soon_again < SOON_AGAIN_MAX {
            self.soon_again += 1;
            let part = self.jitter() / SOON_AGAIN_PART;
            self.timer_base = self.now;
            self.timeout = self.config.heartbeat_interval / 2 + part;
        }
    }

    // ---- being asked ----

    /// A leader was heard of within the shortest election timeout (thesis 6.4.1, contracts: C15).
    fn has_fresh_contact(&self) -> bool {
        self.config.check_quorum
            && self
                .contact
                .is_some_and(|contact| self.is_recent(contact.at))
    }

    fn is_recent(&self, at: Mono) -> bool {
        self.now - at < self.config.election_timeout_min
    }

    /// This replica stays with its leader and gives no vote to others, whatever their term: a leader's
    /// lease rests on it. Only a transfer overrules it.
    pub(crate) fn is_loyal(&self, message: &Message) -> bool {
        let leads = self.config.check_quorum && matches!(self.state, State::Leader(_));
        let transfer = message.transfer && !self.is_void(message.term, message.transfer_attempt);
        !transfer && (leads || self.has_fresh_contact()) && !self.plants(Planted::NoLoyalty)
    }

    /// The leader before `term` has given up this attempt to hand over, or may have told so before
    /// this replica restarted.
    pub(crate) fn is_void(&self, term: u64, attempt: u64) -> bool {
        let (led, voided) = match &self.state {
            State::Leader(leader) => (self.term, leader.voided),
            _ => self
                .contact
                .map_or((0, 0), |contact| (contact.term, contact.voided)),
        };
        let restarted = self.restarted.is_some_and(|at| self.is_recent(at));
        restarted || (term <= led + 1 && attempt <= voided)
    }

    /// Anyone asked answers, member or not: it may be that this replica does not know yet that it
    /// is a voter.
    pub(crate) fn on_vote_request(&mut self, kind: MessageKind, message: &Message) {
        let pre = kind == MessageKind::PreVote;
        // The term alone may have been learned from others since the leader was heard of.
        let free = self.vote == 0 && self.leader == 0 && !self.is_loyal(message);
        let open = if pre {
            message.term > self.term && !self.is_loyal(message)
        } else {
            free || self.vote == message.from
        };
        let grant = open
            && (self.log.is_up_to_date(message.index, message.log_term)
                || self.plants(Planted::VoteWithoutLogCheck))
            && self.yields_to(message);
        let response = if pre {
            MessageKind::PreVoteResponse
        } else {
            MessageKind::VoteResponse
        };
        let mut answer = self.vote_answer(response, message.from, grant);
        match (pre, grant) {
            (true, true) => answer.term = message.term,
            (false, true) => {
                self.vote = message.from;
                self.timer_base = self.now;
                if self.timeout < self.config.election_timeout_min {
                    self.redraw_timeout();
                }
            }
            (_, false) => {}
        }
        if pre || self.plants(Planted::VoteNotPersisted) {
            self.send_now.push(answer);
        } else {
            self.after_write.push(answer);
        }
    }

    pub(crate) fn vote_answer(&self, kind: MessageKind, to: u64, grant: bool) -> Message {
        let (commit, hint_term) = (self.log.commit(), self.commit_term());
        Message {
            reject: !grant,
            commit,
            hint_term,
            ..self.message(kind, to)
        }
    }

    fn commit_term(&self) -> u64 {
        self.log.term(self.log.commit()).unwrap_or_default()
    }

    /// Whoever asks for a vote or answers says what it knows to be committed, and an entry that is in
    /// this log too is then committed here.
    ///
    /// Without that a group can be stuck: a voter that has applied its own removal never campaigns, but
    /// may refuse, for an uncommitted entry more, the only one that still can; and that one asks it for
    /// its vote because it does not know that the removal was committed.
    pub(crate) fn learn_commit(&mut self, message: &Message) {
        if self.plants(Planted::VoteHidesCommit) {
            return;
        }
        let known = message.commit > self.log.commit()
            && self.log.matches(message.commit, message.hint_term);
        if !known || matches!(self.state, State::Leader(_)) {
            return;
        }
        self.log.commit_to(message.commit);
        if !matches!(self.state, State::Follower) && !self.may_campaign() {
            self.become_follower(self.term, 0);
        }
    }

    /// Among equal logs the lower priority gives way; a transfer and a longer log overrule it.
    fn yields_to(&self, message: &Message) -> bool {
        message.transfer
            || message.priority >= self.config.priority
            || (message.log_term, message.index) > (self.log.last_term(), self.log.last_index())
    }

    /// A message of the leader of this term came in.
    pub(crate) fn hear_leader(&mut self, leader: u64) -> Result<(), crate::StepError> {
        let what = "a second leader in one term";
        if matches!(self.state, State::Leader(_)) || (self.leader != 0 && self.leader != leader) {
            return Err(crate::StepError::Safety { from: leader, what });
        }
        if matches!(self.state, State::Follower) {
            self.set_leader(leader);
        } else {
            self.become_follower(self.term, leader);
        }
        let known = self.contact.filter(|contact| contact.term == self.term);
        let voided = known.map_or(0, |contact| contact.voided);
        self.contact = Some(Contact {
            at: self.now,
            term: self.term,
            voided,
        });
        self.timer_base = self.now;
        Ok(())
    }

    /// When the leader's silence is up, counted from what it said last.
    pub fn election_deadline(&self) -> Mono {
        self.timer_base + self.timeout
    }
}

fn accepts_append(message: &Message) -> bool {
    message.kind == MessageKind::AppendResponse as i32 && !message.reject
}
