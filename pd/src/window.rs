//! The durable bound of timestamps, kept ahead of time (contracts: C20).

use flotilla_proto::clock::Wall;

use crate::call::{Call, calls};
use crate::effect::{Effect, ProposalToken, RequestToken};
use crate::internal::{ExtendWindow, WindowExtended};
use crate::leading::Leading;
use crate::limits::{TSO_WINDOW, TSO_WINDOW_LOW, WAITING_MAX};
use crate::oracle::{OracleCommand, PHYSICAL_MAX_MS};
use crate::records;
use crate::reply::Cx;
use crate::status::{Code, Status};

/// Who waits for the bound to move.
#[derive(Debug, Default)]
pub(crate) struct Window {
    in_flight: Option<ProposalToken>,
    /// The oracle serves: a bound of this leader's own is committed.
    open: bool,
    waiting: Vec<(RequestToken, ExtendWindow)>,
}

impl Window {
    pub(crate) fn owns(&self, token: ProposalToken) -> bool {
        self.in_flight == Some(token)
    }

    pub(crate) fn end(self, cx: &mut Cx<'_>) -> usize {
        for (token, _) in &self.waiting {
            cx.refuse(*token, Status::not_leader());
        }
        self.waiting.len()
    }
}

impl Leading {
    /// The oracle ran out of room.
    pub(crate) fn extend_window(
        &mut self,
        cx: &mut Cx<'_>,
        token: RequestToken,
        request: ExtendWindow,
    ) {
        if request.above_ms >= PHYSICAL_MAX_MS - 1 {
            let status = Status::new(Code::ResourceExhausted, "timestamps are used up");
            return cx.refuse(token, status);
        }
        if self.window.waiting.len() >= WAITING_MAX {
            let status = Status::new(
                Code::ResourceExhausted,
                "too many requests wait for timestamps",
            );
            return cx.refuse(token, status);
        }
        self.window.waiting.push((token, request));
        self.serve_window(cx);
    }

    /// Moves the bound if little is left; called on every tick.
    pub(crate) fn serve_window(&mut self, cx: &mut Cx<'_>) {
        self.answer_window(cx);
        if self.window.in_flight.is_some() {
            return;
        }
        let asked = self
            .window
            .waiting
            .iter()
            .map(|(_, request)| request.above_ms + 1)
            .max();
        let time = clamp(cx.wall).max(asked.unwrap_or(0));
        let committed = self.durable.tso_bound_ms;
        let low = time.saturating_add(TSO_WINDOW_LOW.as_millis() as u64);
        if self.window.open && asked.is_none() && committed >= low.min(PHYSICAL_MAX_MS) {
            return;
        }
        let bound = time
            .max(committed)
            .saturating_add(TSO_WINDOW.as_millis() as u64);
        let bound = bound.min(PHYSICAL_MAX_MS);
        if bound > committed {
            let token = self.propose(cx, vec![records::put_tso_bound(bound)]);
            self.window.in_flight = Some(token);
        }
    }

    /// The bound moved from `before`: the oracle may use what is below the new one.
    pub(crate) fn window_applied(&mut self, cx: &mut Cx<'_>, before: u64) {
        self.window.in_flight = None;
        let (term, limit_ms) = (self.term, self.durable.tso_bound_ms);
        let command = if self.window.open {
            OracleCommand::Extend { term, limit_ms }
        } else {
            OracleCommand::Open {
                term,
                from_ms: before,
                limit_ms,
            }
        };
        self.window.open = true;
        cx.out.push(Effect::Oracle(command));
        self.serve_window(cx);
    }

    pub(crate) fn window_refused(&mut self, cx: &mut Cx<'_>, status: &Status) {
        self.window.in_flight = None;
        for (token, _) in std::mem::take(&mut self.window.waiting) {
            cx.refuse(token, status.clone());
        }
    }

    fn answer_window(&mut self, cx: &mut Cx<'_>) {
        if !self.window.open {
            return;
        }
        let limit_ms = self.durable.tso_bound_ms;
        self.window.waiting.retain(|(token, request)| {
            let enough = limit_ms > request.above_ms + 1;
            if enough {
                cx.answer(*token, calls::ExtendWindow::answer(WindowExtended));
            }
            !enough
        });
    }
}

/// A wall clock beyond what a timestamp can hold is broken; the bound then stays at the end.
fn clamp(wall: Wall) -> u64 {
    wall.0.min(PHYSICAL_MAX_MS)
}
