//! The calls of `pdpb.PD` and `keyspacepb.Keyspace` as data: one [`Request`] and one [`Response`]
//! variant each, and a marker type per call in [`calls`] for whoever serves them over gRPC.

use flotilla_proto::keyspacepb as ks;
use flotilla_proto::pdpb as pd;

use crate::status::{Code, Status};
use crate::{internal, view};

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

    /// Unwraps the answer.
    ///
    /// # Errors
    /// The status that ends the call; [`Code::Internal`] if `answer` belongs to another call.
    fn response(answer: Response) -> Result<Self::Response, Status>;
}

macro_rules! calls {
    ($( $(#[$doc:meta])* $name:ident($request:ty) -> $response:ty; )*) => {
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
        }

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
    GetMembers(pd::GetMembersRequest) -> pd::GetMembersResponse;
    /// Which service mode PD runs in. Answered by every member, whatever the cluster id.
    GetClusterInfo(pd::GetClusterInfoRequest) -> pd::GetClusterInfoResponse;
    /// Registers the first store and region.
    Bootstrap(pd::BootstrapRequest) -> pd::BootstrapResponse;
    /// Whether the first store and region are registered.
    IsBootstrapped(pd::IsBootstrappedRequest) -> pd::IsBootstrappedResponse;
    /// A batch of ids that nobody else gets.
    AllocID(pd::AllocIdRequest) -> pd::AllocIdResponse;
    /// A store by id.
    GetStore(pd::GetStoreRequest) -> pd::GetStoreResponse;
    /// Registers or updates a store.
    PutStore(pd::PutStoreRequest) -> pd::PutStoreResponse;
    /// All stores.
    GetAllStores(pd::GetAllStoresRequest) -> pd::GetAllStoresResponse;
    /// A store's statistics.
    StoreHeartbeat(pd::StoreHeartbeatRequest) -> pd::StoreHeartbeatResponse;
    /// The region that holds a key.
    GetRegion(pd::GetRegionRequest) -> pd::GetRegionResponse;
    /// The region before the one that holds a key.
    GetPrevRegion(pd::GetRegionRequest) -> pd::GetRegionResponse;
    /// A region by id.
    GetRegionByID(pd::GetRegionByIdRequest) -> pd::GetRegionResponse;
    /// One message of the `QueryRegion` stream.
    QueryRegion(pd::QueryRegionRequest) -> pd::QueryRegionResponse;
    /// Regions in key order.
    ScanRegions(pd::ScanRegionsRequest) -> pd::ScanRegionsResponse;
    /// Regions of several ranges.
    BatchScanRegions(pd::BatchScanRegionsRequest) -> pd::BatchScanRegionsResponse;
    /// Ids for a split into two.
    AskSplit(pd::AskSplitRequest) -> pd::AskSplitResponse;
    /// Ids for a split into several.
    AskBatchSplit(pd::AskBatchSplitRequest) -> pd::AskBatchSplitResponse;
    /// A split into two was applied.
    ReportSplit(pd::ReportSplitRequest) -> pd::ReportSplitResponse;
    /// A split into several was applied.
    ReportBatchSplit(pd::ReportBatchSplitRequest) -> pd::ReportBatchSplitResponse;
    /// The cluster's id and replica count.
    GetClusterConfig(pd::GetClusterConfigRequest) -> pd::GetClusterConfigResponse;
    /// Changes the replica count.
    PutClusterConfig(pd::PutClusterConfigRequest) -> pd::PutClusterConfigResponse;
    /// Spreads regions over stores, best effort.
    ScatterRegion(pd::ScatterRegionRequest) -> pd::ScatterRegionResponse;
    /// The operator that runs on a region.
    GetOperator(pd::GetOperatorRequest) -> pd::GetOperatorResponse;
    /// Splits regions at keys.
    SplitRegions(pd::SplitRegionsRequest) -> pd::SplitRegionsResponse;
    /// Splits regions at keys, then scatters them.
    SplitAndScatterRegions(pd::SplitAndScatterRegionsRequest) -> pd::SplitAndScatterRegionsResponse;
    /// The timestamp below which old versions may be gone.
    GetGCSafePoint(pd::GetGcSafePointRequest) -> pd::GetGcSafePointResponse;
    /// Raises that timestamp.
    UpdateGCSafePoint(pd::UpdateGcSafePointRequest) -> pd::UpdateGcSafePointResponse;
    /// Holds that timestamp back for one service.
    UpdateServiceGCSafePoint(pd::UpdateServiceGcSafePointRequest) -> pd::UpdateServiceGcSafePointResponse;
    /// Reads items below [`crate::CONFIG_PATH`].
    LoadGlobalConfig(pd::LoadGlobalConfigRequest) -> pd::LoadGlobalConfigResponse;
    /// Records items below [`crate::CONFIG_PATH`].
    StoreGlobalConfig(pd::StoreGlobalConfigRequest) -> pd::StoreGlobalConfigResponse;
    /// A keyspace by name.
    LoadKeyspace(ks::LoadKeyspaceRequest) -> ks::LoadKeyspaceResponse;
    /// All keyspaces with a name.
    LookupKeyspace(ks::LookupKeyspaceRequest) -> ks::LookupKeyspaceResponse;
    /// A keyspace by id.
    LoadKeyspaceByID(ks::LoadKeyspaceByIdRequest) -> ks::LoadKeyspaceResponse;
    /// Enables, disables, archives or buries a keyspace.
    UpdateKeyspaceState(ks::UpdateKeyspaceStateRequest) -> ks::UpdateKeyspaceStateResponse;
    /// Keyspaces in id order.
    GetAllKeyspaces(ks::GetAllKeyspacesRequest) -> ks::GetAllKeyspacesResponse;

    /// Not gRPC: the timestamp oracle ran out of room (see [`crate::Oracle`]).
    ExtendWindow(internal::ExtendWindow) -> internal::WindowExtended;
    /// Not gRPC: `POST /pd/api/v2/keyspaces`.
    CreateKeyspace(internal::CreateKeyspace) -> internal::CreatedKeyspace;
    /// Not gRPC: the body of a `GET` below `/pd/api`.
    View(internal::ViewKind) -> view::View;
}
