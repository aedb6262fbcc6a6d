//! The calls of `pdpb.PD` and `keyspacepb.Keyspace` as data: one [`Request`] and one [`Response`]
//! variant each, and a marker type per call in [`calls`] for whoever serves them over gRPC.

use flotilla_proto::keyspacepb as ks;
use flotilla_proto::pdpb as pd;

use crate::status::{Code, Status};
use crate::{api, internal, view};

/// One call, seen from whoever carries it between a socket and the machine.
pub trait Call {
    /// The message that comes in.
    type Request;
    /// The message that goes out.
    type Response;
    /// The gRPC method name, or a name of our own for calls that are not gRPC.
    const NAME: &'static str;

    /// Wraps the message for [`crate::Input::Request`].
    fn request(message: Self::Request) -> Request;

    /// Wraps what came out.
    fn answer(message: Self::Response) -> Response;

    /// Unwraps the answer.
    ///
    /// # Errors
    /// The status that ends the call; [`Code::Internal`] if `answer` belongs to another call.
    fn response(answer: Response) -> Result<Self::Response, Status>;
}

/// The cluster id a message names: `checked` messages have a header that must name this cluster.
macro_rules! cluster_of {
    (checked $message:ident) => {
        Some(
            $message
                .header
                .as_ref()
                .map_or(0, |header| header.cluster_id),
        )
    };
    ($other:ident $message:ident) => {{
        let _ = $message;
        None
    }};
}

/// The header of a response: `open` calls have none.
macro_rules! header_of {
    (open $message:ident) => {{
        let _ = $message;
        None
    }};
    ($other:ident $message:ident) => {
        $message.header.as_ref()
    };
}

/// `checked` calls name the cluster they are for, `anyone` may make the others that have a header,
/// `open` calls have none.
macro_rules! calls {
    ($( $(#[$doc:meta])* $check:ident $name:ident($request:ty) -> $response:ty; )*) => {
        /// What PD can be asked.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Request {
            $( $(#[$doc])* $name(Box<$request>), )*
        }

        /// What PD answers.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Response {
            $(
                #[doc = concat!("Answers [`Request::", stringify!($name), "`].")]
                $name(Box<$response>),
            )*
            /// Any call or stream may end with a status instead.
            Status(Status),
        }

        impl Request {
            /// The name of the call.
            pub fn name(&self) -> &'static str {
                match self { $( Self::$name(_) => stringify!($name), )* }
            }

            /// The cluster the call is meant for, if it must name one; 0 if it fails to.
            pub(crate) fn cluster_id(&self) -> Option<u64> {
                match self { $( Self::$name(message) => cluster_of!($check message), )* }
            }
        }

        impl Response {
            /// The response's header; `None` for a status and for calls without headers.
            pub fn header(&self) -> Option<&pd::ResponseHeader> {
                match self {
                    $( Self::$name(message) => header_of!($check message), )*
                    Self::Status(_) => None,
                }
            }
        }

        /// The names of all calls.
        pub const CALL_NAMES: &[&str] = &[ $( stringify!($name), )* ];

        /// A marker type for each call; see [`Call`].
        pub mod calls {
            use super::*;
            $(
                $(#[$doc])*
                #[derive(Clone, Copy, Debug)]
                pub struct $name;

                impl Call for $name {
                    type Request = $request;
                    type Response = $response;
                    const NAME: &'static str = stringify!($name);

                    fn request(message: $request) -> Request {
                        Request::$name(Box::new(message))
                    }

                    fn answer(message: $response) -> Response {
                        Response::$name(Box::new(message))
                    }

                    fn response(answer: Response) -> Result<$response, Status> {
                        match answer {
                            Response::$name(message) => Ok(*message),
                            Response::Status(status) => Err(status),
                            _ => Err(Status::new(
                                Code::Internal,
                                concat!(stringify!($name), " was answered by another call's response"),
                            )),
                        }
                    }
                }
            )*
        }
    };
}

calls! {
    /// Who serves PD. Answered by every member, whatever the cluster id.
    anyone GetMembers(pd::GetMembersRequest) -> pd::GetMembersResponse;
    /// Which service mode PD runs in. Answered by every member, whatever the cluster id.
    anyone GetClusterInfo(pd::GetClusterInfoRequest) -> pd::GetClusterInfoResponse;
    /// Registers the first store and region.
    checked Bootstrap(pd::BootstrapRequest) -> pd::BootstrapResponse;
    /// Whether the first store and region are registered.
    checked IsBootstrapped(pd::IsBootstrappedRequest) -> pd::IsBootstrappedResponse;
    /// A batch of ids that nobody else gets.
    checked AllocID(pd::AllocIdRequest) -> pd::AllocIdResponse;
    /// A store by id.
    checked GetStore(pd::GetStoreRequest) -> pd::GetStoreResponse;
    /// Registers or updates a store.
    checked PutStore(pd::PutStoreRequest) -> pd::PutStoreResponse;
    /// All stores.
    checked GetAllStores(pd::GetAllStoresRequest) -> pd::GetAllStoresResponse;
    /// A store's statistics.
    checked StoreHeartbeat(pd::StoreHeartbeatRequest) -> pd::StoreHeartbeatResponse;
    /// The region that holds a key.
    checked GetRegion(pd::GetRegionRequest) -> pd::GetRegionResponse;
    /// The region before the one that holds a key.
    checked GetPrevRegion(pd::GetRegionRequest) -> pd::GetRegionResponse;
    /// A region by id.
    checked GetRegionByID(pd::GetRegionByIdRequest) -> pd::GetRegionResponse;
    /// One message of the `QueryRegion` stream.
    checked QueryRegion(pd::QueryRegionRequest) -> pd::QueryRegionResponse;
    /// Regions in key order.
    checked ScanRegions(pd::ScanRegionsRequest) -> pd::ScanRegionsResponse;
    /// Regions of several ranges.
    checked BatchScanRegions(pd::BatchScanRegionsRequest) -> pd::BatchScanRegionsResponse;
    /// Ids for a split into two.
    checked AskSplit(pd::AskSplitRequest) -> pd::AskSplitResponse;
    /// Ids for a split into several.
    checked AskBatchSplit(pd::AskBatchSplitRequest) -> pd::AskBatchSplitResponse;
    /// A split into two was applied.
    checked ReportSplit(pd::ReportSplitRequest) -> pd::ReportSplitResponse;
    /// A split into several was applied.
    checked ReportBatchSplit(pd::ReportBatchSplitRequest) -> pd::ReportBatchSplitResponse;
    /// The cluster's id and replica count.
    checked GetClusterConfig(pd::GetClusterConfigRequest) -> pd::GetClusterConfigResponse;
    /// Changes the replica count.
    checked PutClusterConfig(pd::PutClusterConfigRequest) -> pd::PutClusterConfigResponse;
    /// Spreads regions over stores, best effort.
    checked ScatterRegion(pd::ScatterRegionRequest) -> pd::ScatterRegionResponse;
    /// The operator that runs on a region.
    checked GetOperator(pd::GetOperatorRequest) -> pd::GetOperatorResponse;
    /// Splits regions at keys.
    checked SplitRegions(pd::SplitRegionsRequest) -> pd::SplitRegionsResponse;
    /// Splits regions at keys, then scatters them.
    checked SplitAndScatterRegions(pd::SplitAndScatterRegionsRequest) -> pd::SplitAndScatterRegionsResponse;
    /// The timestamp below which old versions may be gone.
    checked GetGCSafePoint(pd::GetGcSafePointRequest) -> pd::GetGcSafePointResponse;
    /// Raises that timestamp.
    checked UpdateGCSafePoint(pd::UpdateGcSafePointRequest) -> pd::UpdateGcSafePointResponse;
    /// Holds that timestamp back for one service.
    checked UpdateServiceGCSafePoint(pd::UpdateServiceGcSafePointRequest) -> pd::UpdateServiceGcSafePointResponse;
    /// Reads items below [`crate::CONFIG_PATH`].
    open LoadGlobalConfig(pd::LoadGlobalConfigRequest) -> pd::LoadGlobalConfigResponse;
    /// Records items below [`crate::CONFIG_PATH`].
    open StoreGlobalConfig(pd::StoreGlobalConfigRequest) -> pd::StoreGlobalConfigResponse;
    /// A keyspace by name.
    checked LoadKeyspace(ks::LoadKeyspaceRequest) -> ks::LoadKeyspaceResponse;
    /// All keyspaces with a name.
    checked LookupKeyspace(ks::LookupKeyspaceRequest) -> ks::LookupKeyspaceResponse;
    /// A keyspace by id.
    checked LoadKeyspaceByID(ks::LoadKeyspaceByIdRequest) -> ks::LoadKeyspaceResponse;
    /// Enables, disables, archives or buries a keyspace.
    checked UpdateKeyspaceState(ks::UpdateKeyspaceStateRequest) -> ks::UpdateKeyspaceStateResponse;
    /// Keyspaces in id order.
    checked GetAllKeyspaces(ks::GetAllKeyspacesRequest) -> ks::GetAllKeyspacesResponse;

    /// Not gRPC: the timestamp oracle ran out of room (see [`crate::Oracle`]).
    open ExtendWindow(internal::ExtendWindow) -> internal::WindowExtended;
    /// Not gRPC: `POST /pd/api/v2/keyspaces`.
    open CreateKeyspace(internal::CreateKeyspace) -> internal::CreatedKeyspace;
    /// Not gRPC: the operators that run and those that ended last.
    open ListOperators(internal::ListOperators) -> view::OperatorsView;
    /// Not gRPC: changes a region as asked.
    open AddOperator(internal::AddOperator) -> internal::OperatorAdded;
    /// Not gRPC: ends the operator that runs on a region.
    open CancelOperator(internal::CancelOperator) -> internal::OperatorCancelled;
    /// Not gRPC: removes a store, or takes that back.
    open SetStoreState(internal::SetStoreState) -> internal::StoreStateSet;
    /// Not gRPC: moves all leaders away from a store, or lets them come again.
    open EvictLeaders(internal::EvictLeaders) -> internal::LeadersEvicted;
    /// Not gRPC: the settings.
    open GetConfig(internal::GetConfig) -> internal::ConfigRead;
    /// Not gRPC: changes settings.
    open SetConfig(internal::SetConfig) -> internal::ConfigSet;
    /// Not gRPC: the placement rules.
    open GetRules(internal::GetRules) -> internal::RulesRead;
    /// Not gRPC: adds or replaces placement rules.
    open SetRules(internal::SetRules) -> internal::RulesSet;
    /// Not gRPC: deletes a placement rule.
    open DeleteRule(internal::DeleteRule) -> internal::RuleDeleted;
    /// Not gRPC: the planners that balance.
    open ListSchedulers(internal::ListSchedulers) -> view::SchedulersView;
    /// Not gRPC: pauses, removes or adds one of them.
    open ChangeScheduler(internal::ChangeScheduler) -> internal::SchedulerChanged;
    /// Not gRPC: the regions with the most load.
    open HotRegions(internal::HotRegions) -> view::HotRegionsView;
    /// Not gRPC: the operators of one region.
    open RegionHistory(internal::RegionHistory) -> view::OperatorsView;
    /// Not gRPC: a request of the JSON API.
    open Http(api::HttpRequest) -> api::HttpAnswer;
}
