//! What clients asked, and what they heard: a second opinion on linearizability, from outside.
//!
//! The model-based rules know where in the log every operation is. This one knows only what a user
//! does: when a request was sent, when its answer was heard, what it said. It cuts the history by key,
//! and looks for any order that explains it ([`search`]).

pub mod search;
mod sessions;

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_kv::KeyMode;
use flotilla_proto::kvrpcpb::{
    RawBatchGetResponse, RawCasResponse, RawGetKeyTtlResponse, RawGetResponse, RawScanResponse,
};
use flotilla_proto::metapb::Region;
use flotilla_raftstore::region::contains;
use prost::Message as _;

use crate::checkers::answers::OpId;
use crate::client::Request;
use crate::rules::Checks;
use search::{Act, Op};

/// The column family that tools write to without being recorded.
const TOOLS_CF: &str = "write";

/// How a call ended, for whoever made it.
#[derive(Clone, Debug)]
pub enum Heard {
    /// The response, encoded.
    Response(Vec<u8>),
    /// It was definitely not applied.
    NotApplied,
}

/// Who calls, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caller {
    /// Its number.
    pub client: u64,
    /// The peer that it reads at, whoever leads; `None`: it asks the leader.
    pub replica: Option<u64>,
}

#[derive(Debug)]
struct Call {
    invoked: u64,
    caller: Caller,
    request: Request,
    /// The region that it was sent to: one that serves it serves these keys.
    region: Region,
    heard: Option<(u64, Heard)>,
}

/// All calls of a run.
#[derive(Debug, Default)]
pub struct History {
    calls: BTreeMap<OpId, Call>,
}

/// A key of a column family, as users write it.
pub type Key = (String, Bytes);

impl History {
    /// A request is sent, in a step.
    pub fn invoked(
        &mut self,
        (op, step): (OpId, u64),
        caller: Caller,
        request: &Request,
        region: &Region,
    ) {
        let call = Call {
            invoked: step,
            caller,
            request: request.clone(),
            region: region.clone(),
            heard: None,
        };
        self.calls.insert(op, call);
    }

    /// Its end is heard, in a step.
    pub fn heard(&mut self, op: OpId, step: u64, heard: Heard) {
        if let Some(call) = self.calls.get_mut(&op) {
            call.heard = Some((step, heard));
        }
    }

    /// Calls so far.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Nobody has called.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// What happened to each key where leaders were asked: what replicas alone have shown has no place in
    /// that order. `keys`: all that range requests may reach.
    pub fn by_key(&self, mode: KeyMode, keys: &[Bytes]) -> BTreeMap<Key, Vec<Op>> {
        let mut histories = self.with_replicas(mode, keys);
        for ops in histories.values_mut() {
            ops.retain(|op| self.calls[&op.id].caller.replica.is_none());
        }
        histories
    }

    /// No client sees less of a key than it has seen before (faults: 41).
    pub fn check_sessions(&self, mode: KeyMode, keys: &[Bytes], checks: &mut Checks) {
        for (key, ops) in self.with_replicas(mode, keys) {
            let caller = |op: &Op| self.calls[&op.id].caller;
            sessions::check(&key, &ops, caller, checks);
        }
    }

    fn with_replicas(&self, mode: KeyMode, keys: &[Bytes]) -> BTreeMap<Key, Vec<Op>> {
        let mut histories: BTreeMap<Key, Vec<Op>> = BTreeMap::new();
        for (id, call) in &self.calls {
            let heard = call.heard.as_ref();
            let response = match heard {
                Some((_, Heard::Response(response))) => Some(&response[..]),
                Some((_, Heard::NotApplied)) => continue,
                None => None,
            };
            let returned = heard.map(|(step, _)| *step);
            for (key, act) in call.acts(mode, keys, response) {
                let op = Op {
                    id: *id,
                    invoked: call.invoked,
                    returned,
                    act,
                };
                histories.entry(key).or_default().push(op);
            }
        }
        histories.retain(|(cf, _), _| cf != TOOLS_CF);
        histories
    }
}

impl Call {
    /// What it does to each key, or did as its response says. A read whose response nobody heard does
    /// nothing.
    fn acts(&self, mode: KeyMode, keys: &[Bytes], response: Option<&[u8]>) -> Vec<(Key, Act)> {
        let inside = |key: &Bytes| contains(&self.region, &mode.physical(key));
        let within = |start: &Bytes, end: &Bytes| -> Vec<Bytes> {
            let reached =
                |key: &&Bytes| *key >= start && (end.is_empty() || *key < end) && inside(key);
            keys.iter().filter(reached).cloned().collect()
        };
        let place = |cf: &str, key: &Bytes| (family(cf).to_owned(), key.clone());
        match &self.request {
            Request::Put(put) => {
                let act = Act::write(&put.value, put.ttl);
                vec![(place(&put.cf, &put.key), act)]
            }
            Request::BatchPut(batch) => {
                let ttl = batch.ttls.first().copied().unwrap_or(0);
                // Of several writes to one key the last one stays.
                let last: BTreeMap<Key, Act> = batch
                    .pairs
                    .iter()
                    .map(|pair| (place(&batch.cf, &pair.key), Act::write(&pair.value, ttl)))
                    .collect();
                last.into_iter().collect()
            }
            Request::Delete(delete) => vec![(place(&delete.cf, &delete.key), Act::Delete)],
            Request::BatchDelete(batch) => {
                let mut keys = batch.keys.clone();
                keys.sort();
                keys.dedup();
                let delete = |key: &Bytes| (place(&batch.cf, key), Act::Delete);
                keys.iter().map(delete).collect()
            }
            Request::DeleteRange(range) => {
                let keys = within(&range.start_key, &range.end_key);
                let delete = |key: &Bytes| (place(&range.cf, key), Act::Delete);
                keys.iter().map(delete).collect()
            }
            Request::Cas(swap) => {
                let found = response.and_then(|response| RawCasResponse::decode(response).ok());
                let expected = (!swap.previous_not_exist).then(|| swap.previous_value.clone());
                let new = (!swap.delete).then(|| (swap.value.clone(), swap.ttl > 0));
                let act = match found {
                    Some(found) if !found.succeed => {
                        Act::Read((!found.previous_not_exist).then_some(found.previous_value))
                    }
                    // Removing what is not there writes nothing, also over a row that has expired.
                    Some(_) if expected.is_none() && new.is_none() => Act::Read(None),
                    None if expected.is_none() && new.is_none() => return Vec::new(),
                    _ => Act::Swap { expected, new },
                };
                vec![(place(&swap.cf, &swap.key), act)]
            }
            request => match response {
                Some(response) => reads(request, response, &within, &place),
                None => Vec::new(),
            },
        }
    }
}

/// What a read has shown of each key.
fn reads(
    request: &Request,
    response: &[u8],
    within: &dyn Fn(&Bytes, &Bytes) -> Vec<Bytes>,
    place: &dyn Fn(&str, &Bytes) -> Key,
) -> Vec<(Key, Act)> {
    match request {
        Request::Get(get) => {
            let Ok(found) = RawGetResponse::decode(response) else {
                return Vec::new();
            };
            let value = (!found.not_found).then_some(found.value);
            vec![(place(&get.cf, &get.key), Act::Read(value))]
        }
        Request::KeyTtl(get) => {
            let Ok(found) = RawGetKeyTtlResponse::decode(response) else {
                return Vec::new();
            };
            vec![(place(&get.cf, &get.key), Act::Exists(!found.not_found))]
        }
        Request::BatchGet(get) => {
            let Ok(found) = RawBatchGetResponse::decode(response) else {
                return Vec::new();
            };
            let found: BTreeMap<&Bytes, &Bytes> = found
                .pairs
                .iter()
                .map(|pair| (&pair.key, &pair.value))
                .collect();
            let mut keys = get.keys.clone();
            keys.sort();
            keys.dedup();
            let read = |key: &Bytes| {
                let value = found.get(key).map(|value| (*value).clone());
                (place(&get.cf, key), Act::Read(value))
            };
            keys.iter().map(read).collect()
        }
        Request::Scan(scan) => {
            let Ok(found) = RawScanResponse::decode(response) else {
                return Vec::new();
            };
            let (low, high) = match scan.reverse {
                true => (&scan.end_key, &scan.start_key),
                false => (&scan.start_key, &scan.end_key),
            };
            let rows: BTreeMap<&Bytes, &Bytes> = found
                .kvs
                .iter()
                .map(|pair| (&pair.key, &pair.value))
                .collect();
            let full = found.kvs.len() >= scan.limit as usize;
            let last = found.kvs.last().map(|pair| &pair.key);
            // Behind the last row of a full answer nobody looked.
            let looked = |key: &Bytes| match (full, last) {
                (false, _) => true,
                (true, None) => false,
                (true, Some(last)) if scan.reverse => key >= last,
                (true, Some(last)) => key <= last,
            };
            let read = |key: &Bytes| {
                let value = rows.get(key).map(|value| (*value).clone());
                let act = match scan.key_only {
                    true => Act::Exists(value.is_some()),
                    false => Act::Read(value),
                };
                (place(&scan.cf, key), act)
            };
            let keys = within(low, high);
            keys.iter().filter(|key| looked(key)).map(read).collect()
        }
        _ => Vec::new(),
    }
}

/// A column family by its full name.
fn family(cf: &str) -> &str {
    if cf.is_empty() { "default" } else { cf }
}
