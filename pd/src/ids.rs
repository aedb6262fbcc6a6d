//! Ids that never repeat: handed out only below a bound that is committed (contracts: C20).

use std::collections::VecDeque;

use flotilla_proto::metapb::Region;
use flotilla_proto::pdpb::{
    AllocIdResponse, AskBatchSplitResponse, AskSplitResponse, ErrorType, SplitId,
};

use crate::call::{Request, calls};
use crate::effect::{ProposalToken, RequestToken};
use crate::genesis::META_REGION;
use crate::leading::Leading;
use crate::limits::{ALLOC_COUNT_MAX, ID_WINDOW, PEERS_MAX, SPLIT_COUNT_MAX, WAITING_MAX};
use crate::records;
use crate::reply::{Answer, Cx, Refusal};
use crate::status::{Code, Status};

/// The allocator.
#[derive(Debug)]
pub(crate) struct Ids {
    /// The next id to hand out. Invariant: never above the committed bound.
    next: u64,
    in_flight: Option<ProposalToken>,
    /// Requests in the order they came, each with the ids it needs. Invariant: empty unless a
    /// proposal is in flight.
    waiting: VecDeque<(RequestToken, Request, u64)>,
}

impl Ids {
    pub(crate) fn new(committed_bound: u64) -> Self {
        Self {
            next: committed_bound,
            in_flight: None,
            waiting: VecDeque::new(),
        }
    }

    pub(crate) fn owns(&self, token: ProposalToken) -> bool {
        self.in_flight == Some(token)
    }

    pub(crate) fn end(self, cx: &mut Cx<'_>) -> usize {
        let count = self.waiting.len();
        for (token, _, _) in self.waiting {
            cx.refuse(token, Status::not_leader());
        }
        count
    }

    fn take(&mut self, count: u64, committed_bound: u64) -> Option<u64> {
        let end = self
            .next
            .checked_add(count)
            .filter(|end| *end <= committed_bound)?;
        let first = self.next;
        self.next = end;
        Some(first)
    }
}

impl Leading {
    /// A request that needs ids: checked at once, served at once if there are enough.
    pub(crate) fn ask_ids(&mut self, cx: &mut Cx<'_>, token: RequestToken, request: Request) {
        match self.ids_needed(&request) {
            Err(refusal) => refuse_ids(cx, token, &request, refusal),
            Ok(_) if self.ids.waiting.len() >= WAITING_MAX => {
                let status = Status::new(Code::ResourceExhausted, "too many requests wait for ids");
                cx.refuse(token, status);
            }
            Ok(count) => {
                self.ids.waiting.push_back((token, request, count));
                self.serve_ids(cx);
            }
        }
    }

    /// The bound moved: serves those who waited.
    pub(crate) fn ids_applied(&mut self, cx: &mut Cx<'_>) {
        self.ids.in_flight = None;
        self.serve_ids(cx);
    }

    pub(crate) fn ids_refused(&mut self, cx: &mut Cx<'_>, status: &Status) {
        self.ids.in_flight = None;
        for (token, _, _) in std::mem::take(&mut self.ids.waiting) {
            cx.refuse(token, status.clone());
        }
    }

    /// The first of `count` ids for peers; `None`: the bound must rise first, ask again.
    pub(crate) fn peer_ids(&mut self, cx: &mut Cx<'_>, count: u64) -> Option<u64> {
        let taken = self.ids.take(count, self.durable.id_bound);
        if taken.is_none() && self.ids.in_flight.is_none() {
            self.raise_bound(cx, count);
        }
        taken
    }

    fn raise_bound(&mut self, cx: &mut Cx<'_>, needed: u64) {
        let bound = self.ids.next.saturating_add(needed);
        let mods = vec![records::put_id_bound(bound.saturating_add(ID_WINDOW))];
        self.ids.in_flight = Some(self.propose(cx, mods));
    }

    fn serve_ids(&mut self, cx: &mut Cx<'_>) {
        if self.ids.in_flight.is_some() {
            return;
        }
        let bound = self.durable.id_bound;
        while let Some((_, _, count)) = self.ids.waiting.front() {
            let Some(first) = self.ids.take(*count, bound) else {
                break;
            };
            if let Some((token, request, count)) = self.ids.waiting.pop_front() {
                answer_ids(cx, token, &request, first, count);
            }
        }
        assert!(
            self.ids.next <= bound,
            "an id above the committed bound was handed out"
        );
        let needed: u64 = self.ids.waiting.iter().map(|(_, _, count)| count).sum();
        if needed > 0 {
            self.raise_bound(cx, needed);
        }
    }

    fn ids_needed(&self, request: &Request) -> Answer<u64> {
        match request {
            Request::AllocID(alloc) if alloc.count > ALLOC_COUNT_MAX => {
                Err(Refusal::unknown(format!(
                    "{} ids were asked for at once, at most {ALLOC_COUNT_MAX} are given",
                    alloc.count
                )))
            }
            Request::AllocID(alloc) => Ok(u64::from(alloc.count.max(1))),
            Request::AskSplit(ask) => self.split_ids(ask.region.as_ref(), 1),
            Request::AskBatchSplit(ask) => self.split_ids(ask.region.as_ref(), ask.split_count),
            _ => unreachable!("{} needs no ids", request.name()),
        }
    }

    fn split_ids(&self, region: Option<&Region>, split_count: u32) -> Answer<u64> {
        self.check_bootstrapped()?;
        let Some(region) = region else {
            let missing = "missing region for split".to_owned();
            return Err(Refusal::Header(ErrorType::RegionNotFound, missing));
        };
        if region.id == 0 || region.id == META_REGION {
            return Err(Refusal::unknown(format!(
                "region {} cannot be split",
                region.id
            )));
        }
        if region.peers.is_empty() || region.peers.len() > PEERS_MAX {
            return Err(Refusal::unknown(format!(
                "region {} has {} peers",
                region.id,
                region.peers.len()
            )));
        }
        if split_count == 0 || split_count > SPLIT_COUNT_MAX {
            return Err(Refusal::unknown(format!(
                "a region is split into 1 to {SPLIT_COUNT_MAX} new ones, not {split_count}"
            )));
        }
        let asked = region.region_epoch.unwrap_or_default();
        if let Some(known) = self.routes.get(region.id) {
            let known = known.epoch();
            if asked.version < known.version || asked.conf_ver < known.conf_ver {
                return Err(Refusal::unknown(format!(
                    "region {} is stale: it has epoch {}.{}, known is {}.{}",
                    region.id, asked.conf_ver, asked.version, known.conf_ver, known.version
                )));
            }
        }
        Ok(u64::from(split_count) * (1 + region.peers.len() as u64))
    }
}

fn refuse_ids(cx: &mut Cx<'_>, token: RequestToken, request: &Request, refusal: Refusal) {
    match request {
        Request::AllocID(_) => cx.reply::<calls::AllocID>(token, Err(refusal)),
        Request::AskSplit(_) => cx.reply::<calls::AskSplit>(token, Err(refusal)),
        _ => cx.reply::<calls::AskBatchSplit>(token, Err(refusal)),
    }
}

/// Answers with the `count` ids from `first` on.
fn answer_ids(cx: &mut Cx<'_>, token: RequestToken, request: &Request, first: u64, count: u64) {
    match request {
        Request::AllocID(alloc) => {
            let response = AllocIdResponse {
                id: first + count - 1,
                count: alloc.count.max(1),
                ..AllocIdResponse::default()
            };
            cx.reply::<calls::AllocID>(token, Ok(response));
        }
        Request::AskSplit(_) => {
            let SplitId {
                new_region_id,
                new_peer_ids,
            } = split_id(first, count);
            let response = AskSplitResponse {
                new_region_id,
                new_peer_ids,
                ..AskSplitResponse::default()
            };
            cx.reply::<calls::AskSplit>(token, Ok(response));
        }
        Request::AskBatchSplit(ask) => {
            let each = count / u64::from(ask.split_count);
            let ids = (0..u64::from(ask.split_count)).map(|nth| split_id(first + nth * each, each));
            let response = AskBatchSplitResponse {
                ids: ids.collect(),
                ..AskBatchSplitResponse::default()
            };
            cx.reply::<calls::AskBatchSplit>(token, Ok(response));
        }
        _ => unreachable!("{} needs no ids", request.name()),
    }
}

/// A region id and, in the order of the region's peers, the peer ids.
fn split_id(first: u64, count: u64) -> SplitId {
    SplitId {
        new_region_id: first,
        new_peer_ids: (first + 1..first + count).collect(),
    }
}
