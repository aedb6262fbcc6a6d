//! The group's state and its ways in: time, messages, and what may be asked of it.

use flotilla_proto::clock::Mono;
use flotilla_proto::raft::{ConfState, Entry, EntryKind, HardState, Message, MessageKind};
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use bytes::Bytes;

use crate::conf::Conf;
use crate::config::Config;
use crate::election::Ballot;
use crate::error::{ProposeError, StartError, StepError};
use crate::leader::Leader;
use crate::log::Log;
use crate::log_view::{LogView, Ticket};
use crate::planted::Planted;
use crate::read_index::Forwarded;
use crate::ready::{ReadGrant, RoleChange};
use crate::replication::check_entries;
use crate::snapshot::check_snapshot;

/// Index and term of a fresh region before its first entry (contracts: C33).
pub const INITIAL_INDEX: u64 = 5;
/// See [`INITIAL_INDEX`]. No election is ever held in this term: the first leader's is the next one.
pub const INITIAL_TERM: u64 = 5;

/// Terms and indexes beyond this are refused: no group ever gets there, and nothing overflows.
pub(crate) const NUMBER_MAX: u64 = u64::MAX / 4;

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The term it was proposed in.
    pub term: u64,
    /// Its place in the log.
    pub index: u64,
}

/// What a replica is to its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows, or waits for somebody to follow. Learners are followers too.
    Follower,
    /// Asks whether it could win, without raising the term (thesis 9.6).
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// What a replica is started with, as found on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restart {
    /// The newest durable hard state; all zero for a replica that knows nothing yet.
    pub hard_state: HardState,
    /// The configuration as of `applied`. Empty: the replica does not know its group. It votes and
    /// takes a snapshot, and nothing else (contracts: C33).
    pub conf: ConfState,
    /// Entries up to here are applied; what follows up to the commit index is handed out again. May
    /// be above the hard state's commit, never above the log's end.
    pub applied: u64,
}

/// When a leader was heard of last: a promise not to vote for others for a while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contact {
    pub(crate) at: Mono,
    /// The leader's term, which this replica may have left since.
    pub(crate) term: u64,
    /// Transfers of that leader up to this attempt were given up.
    pub(crate) voided: u64,
}

/// A role with what belongs to it.
#[derive(Debug)]
pub(crate) enum State {
    Follower,
    PreCandidate(Ballot),
    Candidate(Ballot),
    Leader(Box<Leader>),
}

/// One replica of one group. See the crate's page for what its caller owes it.
#[derive(Debug)]
pub struct Raft<L> {
    pub(crate) config: Config,
    pub(crate) rng: SplitMix64,
    /// The latest time seen; never falls.
    pub(crate) now: Mono,
    /// Invariant: never falls. Durable where `log.durable().term` equals it.
    pub(crate) term: u64,
    /// Whom this replica voted for in `term`; 0: nobody. Set at most once per term.
    pub(crate) vote: u64,
    /// Who leads `term`, as far as known; 0: unknown.
    pub(crate) leader: u64,
    pub(crate) state: State,
    pub(crate) conf: Conf,
    pub(crate) log: Log<L>,
    /// The election timeout runs from here.
    pub(crate) timer_base: Mono,
    /// Redrawn whenever the term or the role changes. Shorter than the shortest election timeout only
    /// while this replica campaigns: see `try_again_soon`.
    pub(crate) timeout: std::time::Duration,
    /// Elections that began early since a leader was heard of.
    pub(crate) soon_again: u32,
    /// The last leader heard of, in whatever term. Votes are refused to others for the shortest
    /// election timeout after it.
    pub(crate) contact: Option<Contact>,
    /// What was promised before the last restart is not known: for the shortest election timeout from
    /// here on nothing overrules loyalty.
    pub(crate) restarted: Option<Mono>,
    /// As the leader last said it; see [`Raft::min_matched`].
    pub(crate) min_matched: u64,
    /// Reads that wait for the leader's answer.
    pub(crate) forwarded: Forwarded,
    // ---- what the next Ready will carry ----
    pub(crate) ready_number: u64,
    pub(crate) send_now: Vec<Message>,
    pub(crate) after_write: Vec<Message>,
    pub(crate) grants: Vec<ReadGrant>,
    pub(crate) reads_failed: Vec<u64>,
    pub(crate) snapshot_wanted: Vec<u64>,
    pub(crate) reported: RoleChange,
}

impl<L: LogView> Raft<L> {
    /// A replica as it was left.
    ///
    /// # Errors
    /// A configuration that cannot work, or a stored state that contradicts itself.
    pub fn new(config: Config, restart: Restart, view: L, now: Mono) -> Result<Self, StartError> {
        config.validate()?;
        let Restart {
            hard_state,
            conf,
            applied,
        } = restart;
        let conf = Conf::parse(&conf)?;
        check_stored(&view, hard_state, applied)?;
        let rng = SplitMix64::seed_from_u64(config.seed);
        let log = Log::new(view, hard_state, applied, config.committed_bytes_max);
        let promised = hard_state.term > INITIAL_TERM;
        let mut raft = Self {
            rng,
            now,
            term: hard_state.term,
            vote: hard_state.vote,
            leader: 0,
            state: State::Follower,
            conf,
            log,
            timer_base: now,
            timeout: config.election_timeout_min,
            soon_again: 0,
            contact: promised.then_some(Contact {
                at: now,
                term: hard_state.term,
                voided: 0,
            }),
            restarted: promised.then_some(now),
            min_matched: 0,
            forwarded: Forwarded::default(),
            ready_number: 0,
            send_now: Vec::new(),
            after_write: Vec::new(),
            grants: Vec::new(),
            reads_failed: Vec::new(),
            snapshot_wanted: Vec::new(),
            reported: RoleChange {
                role: Role::Follower,
                leader: None,
                term: hard_state.term,
            },
            config,
        };
        raft.forwarded.number = raft.rng.next_u64() >> 1;
        raft.redraw_timeout();
        Ok(raft)
    }

    /// Breaks a rule on purpose; see [`Planted`].
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, rule: Planted) {
        self.log.plant.rule = Some(rule);
        if rule == Planted::RestartForgetsPromise {
            (self.contact, self.restarted) = (None, None);
        }
        if rule == Planted::ReadNumbersRestart {
            self.forwarded.number = 0;
        }
    }

    /// Whether `rule` is broken here.
    pub(crate) fn plants(&self, rule: Planted) -> bool {
        self.log.plant.breaks(rule)
    }

    // ---- time ----

    /// Time goes on. To be called about every [`Config::tick`], or whenever
    /// [`Raft::next_deadline`] has passed; a call with nothing due costs a comparison.
    pub fn tick(&mut self, now: Mono) {
        self.advance(now);
        if self
            .next_deadline()
            .is_none_or(|deadline| self.now < deadline)
        {
            return;
        }
        match self.state {
            State::Leader(_) => self.tick_leader(),
            _ => self.tick_follower(),
        }
    }

    /// When `tick` has something to do next. `None`: never, until a message comes.
    pub fn next_deadline(&self) -> Option<Mono> {
        match &self.state {
            State::Leader(leader) => {
                let transfer = leader.transfer.map(|transfer| transfer.deadline);
                Some(transfer.map_or(leader.next_heartbeat, |at| at.min(leader.next_heartbeat)))
            }
            _ => {
                let election = (!self.conf.is_unknown()).then_some(self.timer_base + self.timeout);
                match (election, self.forwarded.deadline(&self.config)) {
                    (Some(election), Some(reads)) => Some(election.min(reads)),
                    (one, other) => one.or(other),
                }
            }
        }
    }

    fn tick_follower(&mut self) {
        self.retry_forwarded();
        if self.conf.is_unknown() || self.now < self.timer_base + self.timeout {
            return;
        }
        if self.may_campaign() {
            self.start_election();
        } else {
            self.timer_base = self.now;
        }
    }

    pub(crate) fn advance(&mut self, now: Mono) {
        self.now = self.now.max(now);
    }

    pub(crate) fn redraw_timeout(&mut self) {
        self.timeout = self.config.election_timeout_min + self.jitter();
    }

    /// Drawn anew: up to the election timeout's span, exclusive.
    pub(crate) fn jitter(&mut self) -> std::time::Duration {
        let span = self.config.election_timeout_max - self.config.election_timeout_min;
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX).max(1);
        std::time::Duration::from_nanos(self.rng.next_u64() % nanos)
    }

    // ---- messages ----

    /// Takes in a message of another replica.
    ///
    /// # Errors
    /// The message was not taken in; at most its term was. [`StepError::Safety`] is for the store to
    /// act on; the others are logged and forgotten.
    pub fn step(&mut self, now: Mono, message: Message) -> Result<(), StepError> {
        self.advance(now);
        let kind = self.check_message(&message)?;
        if is_vote(kind) {
            self.learn_commit(&message);
        }
        if message.term > self.term {
            if !self.meet_newer_term(kind, &message) {
                return Ok(());
            }
        } else if message.term < self.term {
            self.answer_older_term(kind, &message);
            return Ok(());
        }
        match kind {
            MessageKind::PreVote | MessageKind::Vote => self.on_vote_request(kind, &message),
            MessageKind::PreVoteResponse | MessageKind::VoteResponse => {
                self.on_vote(kind, &message)
            }
            MessageKind::Append => return self.on_append(message),
            MessageKind::AppendResponse => return self.on_append_response(&message),
            MessageKind::Heartbeat => return self.on_heartbeat(&message),
            MessageKind::HeartbeatResponse => return self.on_heartbeat_response(&message),
            MessageKind::Snapshot => return self.on_snapshot(message),
            MessageKind::TimeoutNow => self.on_timeout_now(&message),
            MessageKind::ReadIndex => self.on_read_index(&message),
            MessageKind::ReadIndexResponse => self.on_read_index_response(&message),
            MessageKind::TransferLeader => self.on_transfer_request(&message),
            MessageKind::Unspecified => {}
        }
        Ok(())
    }

    fn check_message(&self, message: &Message) -> Result<MessageKind, StepError> {
        let Message { from, to, .. } = *message;
        let id = self.config.id;
        if to != id || from == id {
            return Err(StepError::Misrouted { from, to, id });
        }
        let malformed = |what| StepError::Malformed { from, what };
        if from == 0 || message.term == 0 {
            return Err(malformed("it names no sender or no term"));
        }
        let numbers = [
            message.term,
            message.index,
            message.log_term,
            message.commit,
            message.hint_index,
        ];
        if numbers.iter().any(|number| *number > NUMBER_MAX) {
            return Err(malformed("a term or index beyond all bounds"));
        }
        let kind = MessageKind::try_from(message.kind).unwrap_or_default();
        let shape = match kind {
            MessageKind::Unspecified => Err("unknown kind"),
            MessageKind::Append => check_entries(message),
            MessageKind::Snapshot => check_snapshot(message),
            _ => Ok(()),
        };
        shape.map(|()| kind).map_err(malformed)
    }

    /// A message of a newer term. Returns whether to go on with it.
    fn meet_newer_term(&mut self, kind: MessageKind, message: &Message) -> bool {
        match kind {
            // Asks about a term that nobody has entered yet.
            MessageKind::PreVote => true,
            MessageKind::PreVoteResponse if !message.reject => true,
            // An answer to an earlier question of this replica must not unseat the leader it has by now.
            MessageKind::PreVoteResponse if !matches!(self.state, State::PreCandidate(_)) => false,
            // The term is not even looked at: that is what keeps a healthy leader.
            MessageKind::Vote if self.is_loyal(message) => false,
            MessageKind::Append | MessageKind::Heartbeat | MessageKind::Snapshot => {
                self.become_follower(message.term, message.from);
                true
            }
            _ => {
                self.become_follower(message.term, 0);
                true
            }
        }
    }

    /// A message of an older term gets an answer where silence would leave its sender stuck: a
    /// leader that was replaced, a candidate that fell behind.
    fn answer_older_term(&mut self, kind: MessageKind, message: &Message) {
        let answer = match kind {
            MessageKind::Append | MessageKind::Heartbeat | MessageKind::Snapshot => {
                let kind = MessageKind::AppendResponse;
                Message {
                    reject: true,
                    ..self.message(kind, message.from)
                }
            }
            MessageKind::PreVote => {
                self.vote_answer(MessageKind::PreVoteResponse, message.from, false)
            }
            MessageKind::Vote => self.vote_answer(MessageKind::VoteResponse, message.from, false),
            _ => return,
        };
        self.send_once_term_is_durable(answer);
    }

    // ---- proposals ----

    /// Appends an entry, if this replica leads.
    ///
    /// # Errors
    /// Refused before anything was appended: definitely not applied.
    pub fn propose(
        &mut self,
        now: Mono,
        kind: EntryKind,
        data: Bytes,
    ) -> Result<LogId, ProposeError> {
        self.advance(now);
        if kind == EntryKind::ConfChange {
            return Err(ProposeError::WrongKind);
        }
        let limit = self.config.uncommitted_bytes_max;
        let leader = self.check_proposal()?;
        if leader.uncommitted > 0 && leader.uncommitted + data.len() as u64 > limit {
            return Err(ProposeError::TooManyUncommitted {
                bytes: leader.uncommitted,
            });
        }
        Ok(self.push(kind, data))
    }

    /// This replica may append for others.
    pub(crate) fn check_proposal(&self) -> Result<&Leader, ProposeError> {
        match &self.state {
            State::Leader(leader) => match leader.transfer {
                Some(transfer) => Err(ProposeError::Transferring { to: transfer.to }),
                None => Ok(leader),
            },
            _ => Err(ProposeError::NotLeader {
                leader: self.leader(),
            }),
        }
    }

    /// Appends an entry of the leader's own term; it leaves with the next Ready.
    pub(crate) fn push(&mut self, kind: EntryKind, data: Bytes) -> LogId {
        let id = LogId {
            term: self.term,
            index: self.log.last_index() + 1,
        };
        if let State::Leader(leader) = &mut self.state {
            leader.uncommitted += data.len() as u64;
            leader.replicate = true;
        }
        self.log.push(Entry {
            term: id.term,
            index: id.index,
            kind: kind as i32,
            data,
        });
        id
    }

    /// A fetch that the log view began is done: the look-up that wanted it is repeated. A ticket
    /// of an earlier role or term is ignored.
    pub fn fetched(&mut self, now: Mono, ticket: Ticket) {
        self.advance(now);
        self.log.fetched(ticket);
        if let State::Leader(leader) = &mut self.state {
            for peer in &mut leader.peers {
                if peer
                    .fetching
                    .take_if(|fetching| *fetching == ticket)
                    .is_some()
                {
                    leader.replicate = true;
                }
            }
        }
    }

    /// Changes the priority of this replica; see [`Config::priority`].
    pub fn set_priority(&mut self, priority: i64) {
        self.config.priority = priority;
    }

    // ---- sending ----

    /// A message of the current term to `to`.
    pub(crate) fn message(&self, kind: MessageKind, to: u64) -> Message {
        Message {
            kind: kind as i32,
            from: self.config.id,
            to,
            term: self.term,
            ..Message::default()
        }
    }

    /// What a message says of its sender's term must survive a crash (contracts: C3).
    pub(crate) fn send_once_term_is_durable(&mut self, message: Message) {
        if self.log.durable().term == self.term {
            self.send_now.push(message);
        } else {
            self.after_write.push(message);
        }
    }
}

fn is_vote(kind: MessageKind) -> bool {
    use MessageKind::{PreVote, PreVoteResponse, Vote, VoteResponse};
    matches!(kind, PreVote | PreVoteResponse | Vote | VoteResponse)
}

fn check_stored<L: LogView>(view: &L, state: HardState, applied: u64) -> Result<(), StartError> {
    let (first, last) = (view.first_index(), view.last_index());
    let broken = if first > last + 1 {
        "the log ends before it begins"
    } else if view.term(last).is_none() {
        "the term of the last index is unknown"
    } else if view.term(last).is_some_and(|term| term > state.term) {
        "the log is newer than the hard state"
    } else if state.commit > last {
        "committed beyond the end of the log"
    } else if applied > last {
        "applied beyond the end of the log"
    } else if applied + 1 < first {
        "the log was truncated beyond the applied index"
    } else {
        return Ok(());
    };
    Err(StartError::Inconsistent {
        what: broken,
        applied,
        commit: state.commit,
        first,
        last,
    })
}
