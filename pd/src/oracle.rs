//! The timestamp oracle: strictly rising timestamps out of a window that is durable before it is
//! used (contracts: C20).
//!
//! A timestamp is `physical << 18 | logical`. The machine persists an exclusive upper bound of the
//! physical part ahead of time and hands the room below it to the [`Oracle`], which serves requests
//! from memory. A new leader starts at the old bound, so nothing below it is ever handed out twice.

use std::time::Duration;

use flotilla_proto::clock::{Mono, Wall};
use flotilla_proto::pdpb;

use crate::status::{Code, Status};

/// Bits of the logical part.
pub const LOGICAL_BITS: u32 = 18;

/// The logical part is below this.
pub const LOGICAL_END: u64 = 1 << LOGICAL_BITS;

/// Most timestamps of one request: a batch never crosses a physical step, and logical starts at 1.
pub const TSO_BATCH_MAX: u32 = (LOGICAL_END - 1) as u32;

/// The physical part is at most this, in milliseconds, so that a timestamp fits 63 bits.
pub const PHYSICAL_MAX_MS: u64 = (1 << (63 - LOGICAL_BITS)) - 1;

/// How fast the physical part may run ahead of the wall clock: one step of 1 ms in this span.
/// Without it a greedy client could push time away from the lock TTLs that are compared with it.
pub const STEP_AHEAD_EVERY: Duration = Duration::from_millis(1);

/// What the machine tells its oracle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OracleCommand {
    /// Serve, in `term`, physical parts of [from_ms, limit_ms).
    Open {
        /// The meta region's term.
        term: u64,
        /// The durable bound before this leader's own: above all that was ever handed out.
        from_ms: u64,
        /// The durable bound now, exclusive.
        limit_ms: u64,
    },
    /// The durable bound rose.
    Extend {
        /// The term of the matching `Open`; ignored if that is over.
        term: u64,
        /// The durable bound now, exclusive.
        limit_ms: u64,
    },
    /// Serve no more.
    Close,
}

/// Hands out timestamps. One per node, behind a mutex of the server's; every call is short.
#[derive(Debug)]
pub struct Oracle {
    cluster_id: u64,
    open: Option<Window>,
    /// Above the physical part of everything this process handed out in earlier terms.
    floor_ms: u64,
}

#[derive(Debug)]
struct Window {
    term: u64,
    /// Invariant: physical_ms < limit_ms <= durable bound.
    physical_ms: u64,
    /// The last logical part used at `physical_ms`. Invariant: below [`LOGICAL_END`].
    logical: u64,
    limit_ms: u64,
    /// When `physical_ms` last stepped ahead of the wall clock.
    stepped: Option<Mono>,
}

/// A batch of timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The term whose lease must hold *after* the allocation for the batch to be used.
    pub term: u64,
    /// Milliseconds since the epoch.
    pub physical_ms: u64,
    /// The largest of the batch; the smallest is `logical - count + 1`, at least 1.
    pub logical: u64,
    /// How many.
    pub count: u32,
}

impl Batch {
    /// The largest timestamp of the batch as one number.
    pub fn last(self) -> u64 {
        (self.physical_ms << LOGICAL_BITS) | self.logical
    }

    /// The smallest timestamp of the batch as one number.
    pub fn first(self) -> u64 {
        self.last() - u64::from(self.count) + 1
    }

    /// The largest timestamp in its wire form.
    pub fn timestamp(self) -> pdpb::Timestamp {
        pdpb::Timestamp {
            physical: i64::try_from(self.physical_ms).unwrap_or(i64::MAX),
            logical: i64::try_from(self.logical).unwrap_or(i64::MAX),
            suffix_bits: 0,
        }
    }
}

/// Why there is no timestamp.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OracleError {
    /// The durable window is used up. Send [`crate::calls::ExtendWindow`] to the machine, and try
    /// again when it is answered; end the stream with its status if it fails.
    #[error("the timestamp window is used up to {above_ms} ms")]
    NeedWindow {
        /// For [`crate::ExtendWindow`].
        above_ms: u64,
    },
    /// Every timestamp of this millisecond is used, and the wall clock has not moved on. Try again
    /// at `retry_at`.
    #[error("all timestamps of this millisecond are used")]
    Exhausted {
        /// When there will be more.
        retry_at: Mono,
    },
    /// Ends the call or stream.
    #[error(transparent)]
    Refused(#[from] Status),
}

impl Oracle {
    /// A closed oracle for the cluster `cluster_id`.
    pub fn new(cluster_id: u64) -> Self {
        Self {
            cluster_id,
            open: None,
            floor_ms: 0,
        }
    }

    /// Takes what the machine says.
    ///
    /// # Panics
    /// If a window opens at or below something this process handed out: serving it could repeat a
    /// timestamp.
    pub fn command(&mut self, command: OracleCommand) {
        match command {
            OracleCommand::Open {
                term,
                from_ms,
                limit_ms,
            } => {
                self.close();
                assert!(
                    from_ms >= self.floor_ms,
                    "timestamp window opens at {from_ms} ms, below {} ms",
                    self.floor_ms
                );
                assert!(
                    from_ms < limit_ms,
                    "empty timestamp window [{from_ms}, {limit_ms})"
                );
                self.open = Some(Window {
                    term,
                    physical_ms: from_ms,
                    logical: 0,
                    limit_ms,
                    stepped: None,
                });
            }
            OracleCommand::Extend { term, limit_ms } => {
                if let Some(window) = self.open.as_mut().filter(|window| window.term == term) {
                    window.limit_ms = window.limit_ms.max(limit_ms);
                }
            }
            OracleCommand::Close => self.close(),
        }
    }

    fn close(&mut self) {
        if let Some(window) = self.open.take() {
            self.floor_ms = window.physical_ms + 1;
        }
    }

    /// Takes `count` timestamps. The caller must check the lease of [`Batch::term`] *afterwards*,
    /// with a fresh clock reading, and drop the batch if it does not hold.
    ///
    /// # Errors
    /// See [`OracleError`].
    pub fn allocate(&mut self, now: Mono, wall: Wall, count: u32) -> Result<Batch, OracleError> {
        if count == 0 {
            let status = Status::new(Code::InvalidArgument, "tso count should be positive");
            return Err(status.into());
        }
        if count > TSO_BATCH_MAX {
            let why = format!("tso count {count} is above {TSO_BATCH_MAX}");
            return Err(Status::new(Code::InvalidArgument, why).into());
        }
        let window = self.open.as_mut().ok_or_else(Status::not_leader)?;
        window.follow(wall);
        if window.logical + u64::from(count) >= LOGICAL_END {
            window.step_ahead(now)?;
        }
        window.logical += u64::from(count);
        assert!(window.physical_ms < window.limit_ms && window.logical < LOGICAL_END);
        Ok(Batch {
            term: window.term,
            physical_ms: window.physical_ms,
            logical: window.logical,
            count,
        })
    }

    /// Allocates, and gives it out only if the lease still holds after that (contracts: C20).
    fn grant(
        &mut self,
        now: Mono,
        wall: Wall,
        count: u32,
        leads: impl FnOnce(u64) -> bool,
    ) -> Result<Batch, OracleError> {
        let batch = self.allocate(now, wall, count)?;
        if leads(batch.term) {
            Ok(batch)
        } else {
            Err(Status::not_leader().into())
        }
    }

    /// Serves one message of a `Tso` stream. `leads` is asked after the allocation whether this
    /// node's lease as leader of the meta region in that term holds; it must read the clock itself.
    ///
    /// # Errors
    /// See [`OracleError`]; [`OracleError::Refused`] ends the stream.
    pub fn serve(
        &mut self,
        now: Mono,
        wall: Wall,
        request: &pdpb::TsoRequest,
        leads: impl FnOnce(u64) -> bool,
    ) -> Result<pdpb::TsoResponse, OracleError> {
        self.check_cluster(request.header.as_ref())?;
        let batch = self.grant(now, wall, request.count, leads)?;
        Ok(pdpb::TsoResponse {
            header: Some(self.header()),
            count: batch.count,
            timestamp: Some(batch.timestamp()),
        })
    }

    /// Serves `GetMinTS`: one fresh timestamp (wire, section 3.3). `leads` as in [`Oracle::serve`].
    ///
    /// # Errors
    /// See [`OracleError`].
    pub fn serve_min_ts(
        &mut self,
        now: Mono,
        wall: Wall,
        request: &pdpb::GetMinTsRequest,
        leads: impl FnOnce(u64) -> bool,
    ) -> Result<pdpb::GetMinTsResponse, OracleError> {
        self.check_cluster(request.header.as_ref())?;
        let batch = self.grant(now, wall, 1, leads)?;
        Ok(pdpb::GetMinTsResponse {
            header: Some(self.header()),
            timestamp: Some(batch.timestamp()),
        })
    }

    fn header(&self) -> pdpb::ResponseHeader {
        pdpb::ResponseHeader {
            cluster_id: self.cluster_id,
            error: None,
        }
    }

    fn check_cluster(&self, header: Option<&pdpb::RequestHeader>) -> Result<(), Status> {
        let got = header.map_or(0, |header| header.cluster_id);
        if got == self.cluster_id {
            Ok(())
        } else {
            Err(Status::cluster_mismatch(self.cluster_id, got))
        }
    }
}

impl Window {
    /// Moves with the wall clock, never backwards, never beyond what is durable.
    fn follow(&mut self, wall: Wall) {
        let reach = wall.0.min(self.limit_ms - 1);
        if reach > self.physical_ms {
            self.physical_ms = reach;
            self.logical = 0;
        }
    }

    /// Takes the next millisecond before the wall clock gets there.
    fn step_ahead(&mut self, now: Mono) -> Result<(), OracleError> {
        if self.physical_ms + 1 >= self.limit_ms {
            return Err(OracleError::NeedWindow {
                above_ms: self.physical_ms,
            });
        }
        if let Some(stepped) = self.stepped
            && now - stepped < STEP_AHEAD_EVERY
        {
            return Err(OracleError::Exhausted {
                retry_at: stepped + STEP_AHEAD_EVERY,
            });
        }
        self.stepped = Some(now);
        self.physical_ms += 1;
        self.logical = 0;
        Ok(())
    }
}
