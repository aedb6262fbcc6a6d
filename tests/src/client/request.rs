//! Requests as clients send them, and how a store runs each through the command logic.

use bytes::Bytes;
use flotilla_engine::StateReader;
use flotilla_kv::{Failure, KeyMode, Lock, Proposal, Read, ReadWrite, Scope, View, Write};
use flotilla_proto::kvrpcpb::{
    ApiVersion, Context, RawBatchDeleteRequest, RawBatchGetRequest, RawBatchPutRequest,
    RawBatchScanRequest, RawCasRequest, RawChecksumRequest, RawDeleteRangeRequest,
    RawDeleteRequest, RawGetKeyTtlRequest, RawGetRequest, RawPutRequest, RawScanRequest,
};
use flotilla_proto::store::Mod;
use prost::Message;

use crate::checkers::answers::Compared;

/// A request. Its context is made when it is sent.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the protocol's own names")]
pub enum Request {
    Get(RawGetRequest),
    BatchGet(RawBatchGetRequest),
    KeyTtl(RawGetKeyTtlRequest),
    Scan(RawScanRequest),
    BatchScan(RawBatchScanRequest),
    Checksum(RawChecksumRequest),
    Put(RawPutRequest),
    BatchPut(RawBatchPutRequest),
    Delete(RawDeleteRequest),
    BatchDelete(RawBatchDeleteRequest),
    DeleteRange(RawDeleteRangeRequest),
    Cas(RawCasRequest),
}

/// What a request needs of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A state to read.
    Read,
    /// Its latches, then a proposal.
    Write,
    /// Its latches, a state to read, then a proposal.
    ReadWrite,
}

/// What a request wants written, with its answer once that is done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The changes; none: the answer stands already.
    pub mods: Vec<Mod>,
    /// The response, encoded.
    pub response: Vec<u8>,
    /// What a compare-and-swap found.
    pub compared: Option<Compared>,
}

fn plan<A: Message>(proposal: Proposal<A>, compared: Option<Compared>) -> Plan {
    Plan {
        response: proposal.response.encode_to_vec(),
        mods: proposal.mods,
        compared,
    }
}

impl Request {
    /// What it needs.
    pub fn need(&self) -> Need {
        match self {
            Self::Cas(_) => Need::ReadWrite,
            Self::Get(_)
            | Self::BatchGet(_)
            | Self::KeyTtl(_)
            | Self::Scan(_)
            | Self::BatchScan(_)
            | Self::Checksum(_) => Need::Read,
            _ => Need::Write,
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Get(_) => "get",
            Self::BatchGet(_) => "batch get",
            Self::KeyTtl(_) => "key ttl",
            Self::Scan(_) => "scan",
            Self::BatchScan(_) => "batch scan",
            Self::Checksum(_) => "checksum",
            Self::Put(_) => "put",
            Self::BatchPut(_) => "batch put",
            Self::Delete(_) => "delete",
            Self::BatchDelete(_) => "batch delete",
            Self::DeleteRange(_) => "delete range",
            Self::Cas(_) => "swap",
        }
    }

    /// A user key by which the region is found.
    pub fn key(&self) -> Bytes {
        match self {
            Self::Get(request) => request.key.clone(),
            Self::BatchGet(request) => request.keys.first().cloned().unwrap_or_default(),
            Self::KeyTtl(request) => request.key.clone(),
            // In reverse the first key is the upper, exclusive end.
            Self::Scan(request) if request.reverse => request.end_key.clone(),
            Self::Scan(request) => request.start_key.clone(),
            Self::BatchScan(request) => request
                .ranges
                .first()
                .map(|range| range.start_key.clone())
                .unwrap_or_default(),
            Self::Checksum(request) => request
                .ranges
                .first()
                .map(|range| range.start_key.clone())
                .unwrap_or_default(),
            Self::Put(request) => request.key.clone(),
            Self::BatchPut(request) => request
                .pairs
                .first()
                .map(|pair| pair.key.clone())
                .unwrap_or_default(),
            Self::Delete(request) => request.key.clone(),
            Self::BatchDelete(request) => request.keys.first().cloned().unwrap_or_default(),
            Self::DeleteRange(request) => request.start_key.clone(),
            Self::Cas(request) => request.key.clone(),
        }
    }

    /// Sets the API version that the cluster's key mode asks for.
    pub fn for_mode(mut self, mode: KeyMode) -> Self {
        let version = match mode {
            KeyMode::Plain => ApiVersion::V1,
            KeyMode::Encoded => ApiVersion::V2,
        };
        let context = Some(Context {
            api_version: version.into(),
            ..Context::default()
        });
        let own = match &mut self {
            Self::Get(request) => &mut request.context,
            Self::BatchGet(request) => &mut request.context,
            Self::KeyTtl(request) => &mut request.context,
            Self::Scan(request) => &mut request.context,
            Self::BatchScan(request) => &mut request.context,
            Self::Checksum(request) => &mut request.context,
            Self::Put(request) => &mut request.context,
            Self::BatchPut(request) => &mut request.context,
            Self::Delete(request) => &mut request.context,
            Self::BatchDelete(request) => &mut request.context,
            Self::DeleteRange(request) => &mut request.context,
            Self::Cas(request) => &mut request.context,
        };
        *own = context;
        self
    }

    /// The latches it takes; `None` for a read.
    pub fn lock(&self) -> Option<Lock> {
        match self {
            Self::Put(request) => Some(request.lock()),
            Self::BatchPut(request) => Some(request.lock()),
            Self::Delete(request) => Some(request.lock()),
            Self::BatchDelete(request) => Some(request.lock()),
            Self::DeleteRange(request) => Some(request.lock()),
            Self::Cas(request) => Some(request.lock()),
            _ => None,
        }
    }

    /// Runs a read; the response, encoded.
    ///
    /// # Errors
    /// The command's own.
    ///
    /// # Panics
    /// If the request is no read.
    pub fn read<R: StateReader + ?Sized>(&self, view: &View<'_, R>) -> Result<Vec<u8>, Failure> {
        match self.clone() {
            Self::Get(request) => request.read(view).map(|response| response.encode_to_vec()),
            Self::BatchGet(request) => request.read(view).map(|response| response.encode_to_vec()),
            Self::KeyTtl(request) => request.read(view).map(|response| response.encode_to_vec()),
            Self::Scan(request) => request.read(view).map(|response| response.encode_to_vec()),
            Self::BatchScan(request) => request.read(view).map(|response| response.encode_to_vec()),
            Self::Checksum(request) => request.read(view).map(|response| response.encode_to_vec()),
            other => panic!("{} is no read", other.name()),
        }
    }

    /// What a write proposes.
    ///
    /// # Errors
    /// The command's own.
    ///
    /// # Panics
    /// If the request is no write.
    pub fn plan(&self, scope: &Scope<'_>) -> Result<Plan, Failure> {
        match self.clone() {
            Self::Put(request) => request.plan(scope).map(|proposal| plan(proposal, None)),
            Self::BatchPut(request) => request.plan(scope).map(|proposal| plan(proposal, None)),
            Self::Delete(request) => request.plan(scope).map(|proposal| plan(proposal, None)),
            Self::BatchDelete(request) => request.plan(scope).map(|proposal| plan(proposal, None)),
            Self::DeleteRange(request) => request.plan(scope).map(|proposal| plan(proposal, None)),
            other => panic!("{} is no write", other.name()),
        }
    }

    /// What a compare-and-swap proposes.
    ///
    /// # Errors
    /// The command's own.
    ///
    /// # Panics
    /// If the request is none.
    pub fn decide<R: StateReader + ?Sized>(&self, view: &View<'_, R>) -> Result<Plan, Failure> {
        let Self::Cas(request) = self.clone() else {
            panic!("{} is no compare-and-swap", self.name());
        };
        let proposal = request.decide(view)?;
        let response = &proposal.response;
        let compared = Compared {
            seconds: view.scope.now,
            value: (!response.previous_not_exist).then(|| response.previous_value.clone()),
        };
        Ok(plan(proposal, Some(compared)))
    }
}
