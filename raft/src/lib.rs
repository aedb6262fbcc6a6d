//! The consensus core of one raft group. Pure: it reads no clock, disk, socket or random source, and
//! starts no thread. Time, messages and completions go in; a [`Ready`] comes out.
//!
//! # What you owe a group
//!
//! 1. **Time**: [`Raft::tick`] about every [`Config::tick`], and the same monotonic clock as `now` in
//!    every other call. Deadlines are decided by `now`, never by the number of ticks.
//! 2. **Messages**: hand every message for this peer to [`Raft::step`]. Loss, delay, repetition and
//!    reordering are fine. Say what you lost with [`Raft::report_unreachable`], and what became of
//!    each snapshot message with [`Raft::report_snapshot`].
//! 3. **Writes**: after any call, while [`Raft::has_ready`], take a [`Ready`]. Write its
//!    `hard_state`, `snapshot` and `entries` in one batch, Readys in their order, several in flight if
//!    you like. When one is durable, call [`Raft::persisted`] with its number, which covers all
//!    before it. A write that fails ends the store.
//! 4. **Sending**: `send_now` at once; `send_after_write` once this Ready and all before it are
//!    durable. That order is the whole of what keeps promises across a crash (contracts: C3).
//! 5. **Applying**: apply `committed` in order and report with [`Raft::applied`]. For an entry of kind
//!    `CONF_CHANGE`, call [`Raft::apply_conf_change`] with its configuration first. Install a
//!    `snapshot` once its Ready is durable, then report its index as applied; what is committed after
//!    it comes later.
//! 6. **Reads**: answer a granted read when its index is applied. Answer from the lease only while
//!    `now` is before [`Raft::lease_until`], asked after every call.
//! 7. **The log**: everything handed out is read through your [`LogView`], which never blocks: it may
//!    answer that a fetch is under way, and you owe [`Raft::fetched`] for it. Truncate only what is
//!    applied.
//! 8. **A seed** that differs at every start, and a restart from what is durable, nothing less.
//!
//! # The shortest group
//!
//! ```
//! use flotilla_proto::clock::Mono;
//! use flotilla_proto::raft::{ConfState, EntryKind, HardState};
//! use flotilla_raft::{Config, INITIAL_INDEX, INITIAL_TERM, MemLog, Raft, Restart};
//!
//! let config = Config { id: 1, seed: 42, ..Config::default() };
//! let restart = Restart {
//!     hard_state: HardState { term: INITIAL_TERM, vote: 0, commit: INITIAL_INDEX },
//!     conf: ConfState { voters: vec![1], ..ConfState::default() },
//!     applied: INITIAL_INDEX,
//! };
//! let now = Mono(0);
//! let mut raft = Raft::new(config, restart, MemLog::starting_at(INITIAL_INDEX, INITIAL_TERM), now)?;
//! assert!(raft.campaign(now));
//! let mut applied = Vec::new();
//! let mut run = |raft: &mut Raft<MemLog>| {
//!     while raft.has_ready() {
//!         let ready = raft.ready(now);
//!         raft.persisted(now, ready.number); // after the write, which this group has nowhere to make
//!         if let Some(last) = ready.committed.last().map(|entry| entry.index) {
//!             applied.extend(ready.committed);
//!             raft.applied(now, last);
//!         }
//!     }
//! };
//! run(&mut raft);
//! assert!(raft.is_leader());
//! let id = raft.propose(now, EntryKind::Data, "a write".into())?;
//! run(&mut raft);
//! assert_eq!(applied.last().map(|entry| entry.index), Some(id.index));
//! assert_eq!(raft.lease_until(), Some(now + raft.config().lease));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//!
//! `first <= snapshot + 1`, `applied <= handed out <= commit <= last`. `committed` never passes what is
//! durable here, and an entry that is more than data is handed out only after a hard state with a
//! commit at or above it is durable (contracts: C4). Entries are not copied: payloads are
//! [`bytes::Bytes`] from proposal to apply.
//!
//! # Where things are
//!
//! | file | what |
//! |---|---|
//! | `raft` | the state, `new`, `tick`, `step`, `propose` |
//! | `election` | campaigns, votes, changes of role |
//! | `replication`, `progress` | appends and their answers; pace and windows |
//! | `log`, `log_view`, `mem_log` | the unstable tail and the watermarks; the view's contract; one in memory |
//! | `heartbeat`, `leader` | confirmation rounds, check-quorum, the lease |
//! | `read_index` | reads, local and forwarded |
//! | `membership`, `conf`, `quorum` | changes of members; configurations; majorities |
//! | `transfer`, `snapshot` | handing over; catching up by state |
//! | `ready`, `status` | output and completions; looking in |
//! | `planted` | rules that a test can break on purpose |

mod conf;
mod config;
mod election;
mod error;
mod heartbeat;
mod leader;
mod log;
mod log_view;
mod mem_log;
mod membership;
mod planted;
mod progress;
pub mod quorum;
mod raft;
mod read_index;
mod ready;
mod replication;
mod snapshot;
mod status;
mod transfer;

pub use conf::{ConfError, ConfRequest, MemberChange, Transition};
pub use config::{
    CLOCK_DRIFT_PERCENT, Config, ConfigError, MEMBERS_MAX, READ_ROUNDS_INFLIGHT_MAX,
    READS_PENDING_MAX,
};
pub use error::{ProposeError, ReadError, StartError, StepError, TransferError};
pub use log_view::{FetchFor, LogView, Lookup, Ticket};
pub use mem_log::MemLog;
pub use planted::PLANTED;
#[cfg(feature = "planted")]
pub use planted::Planted;
pub use progress::Pace;
pub use raft::{INITIAL_INDEX, INITIAL_TERM, LogId, Raft, Restart, Role};
pub use ready::{ReadGrant, Ready, RoleChange};
pub use status::{PeerStatus, Status};
