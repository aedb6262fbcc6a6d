//! The headers of responses (wire, section 3.1): always there, with an error only when there is one.

use flotilla_proto::clock::{Mono, Wall};
use flotilla_proto::pdpb::{Error, ErrorType, ResponseHeader};
use flotilla_proto::{keyspacepb, pdpb};

use crate::call::{Call, Response};
use crate::effect::{Effect, Event, RequestToken};
use crate::machine::Config;
use crate::status::Status;

/// A response with a header.
pub(crate) trait Reply: Default {
    fn header_mut(&mut self) -> &mut Option<ResponseHeader>;
}

macro_rules! reply {
    ($($response:ty),* $(,)?) => {
        $(impl Reply for $response {
            fn header_mut(&mut self) -> &mut Option<ResponseHeader> {
                &mut self.header
            }
        })*
    };
}

reply! {
    pdpb::GetMembersResponse,
    pdpb::GetClusterInfoResponse,
    pdpb::BootstrapResponse,
    pdpb::IsBootstrappedResponse,
    pdpb::AllocIdResponse,
    pdpb::GetStoreResponse,
    pdpb::PutStoreResponse,
    pdpb::GetAllStoresResponse,
    pdpb::StoreHeartbeatResponse,
    pdpb::RegionHeartbeatResponse,
    pdpb::GetRegionResponse,
    pdpb::QueryRegionResponse,
    pdpb::ScanRegionsResponse,
    pdpb::BatchScanRegionsResponse,
    pdpb::AskSplitResponse,
    pdpb::AskBatchSplitResponse,
    pdpb::ReportSplitResponse,
    pdpb::ReportBatchSplitResponse,
    pdpb::GetClusterConfigResponse,
    pdpb::PutClusterConfigResponse,
    pdpb::ScatterRegionResponse,
    pdpb::GetOperatorResponse,
    pdpb::SplitRegionsResponse,
    pdpb::SplitAndScatterRegionsResponse,
    pdpb::GetGcSafePointResponse,
    pdpb::UpdateGcSafePointResponse,
    pdpb::UpdateServiceGcSafePointResponse,
    keyspacepb::LoadKeyspaceResponse,
    keyspacepb::LookupKeyspaceResponse,
    keyspacepb::UpdateKeyspaceStateResponse,
    keyspacepb::GetAllKeyspacesResponse,
}

/// Why a call gets no proper answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// An application error, in the response's header.
    Header(ErrorType, String),
    /// The call fails as a whole.
    Status(Status),
}

impl Refusal {
    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Self::Header(ErrorType::Unknown, message.into())
    }

    pub(crate) fn not_bootstrapped() -> Self {
        Self::Header(
            ErrorType::NotBootstrapped,
            "cluster is not bootstrapped".to_owned(),
        )
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// What a handler answers before it is wrapped.
pub(crate) type Answer<R> = Result<R, Refusal>;

/// What a handler may use of the world: the time, and the list of effects.
pub(crate) struct Cx<'a> {
    pub(crate) now: Mono,
    pub(crate) wall: Wall,
    pub(crate) config: &'a Config,
    pub(crate) proposals: &'a mut u64,
    pub(crate) out: &'a mut Vec<Effect>,
}

impl Cx<'_> {
    /// Completes `result` with its header.
    pub(crate) fn response<C>(&self, result: Answer<C::Response>) -> Response
    where
        C: Call,
        C::Response: Reply,
    {
        let (mut response, error) = match result {
            Ok(response) => (response, None),
            Err(Refusal::Header(kind, message)) => {
                let error = Error {
                    r#type: kind as i32,
                    message,
                };
                (C::Response::default(), Some(error))
            }
            Err(Refusal::Status(status)) => return Response::Status(status),
        };
        let cluster_id = self.config.cluster_id;
        *response.header_mut() = Some(ResponseHeader { cluster_id, error });
        C::answer(response)
    }

    /// Answers a call whose response has a header.
    pub(crate) fn reply<C>(&mut self, token: RequestToken, result: Answer<C::Response>)
    where
        C: Call,
        C::Response: Reply,
    {
        let response = self.response::<C>(result);
        self.answer(token, response);
    }

    pub(crate) fn answer(&mut self, token: RequestToken, response: Response) {
        self.out.push(Effect::Answer { token, response });
    }

    pub(crate) fn refuse(&mut self, token: RequestToken, status: Status) {
        self.answer(token, Response::Status(status));
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.out.push(Effect::Event(event));
    }
}
