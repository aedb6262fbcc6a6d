//! The service `keyspacepb.Keyspace`, part of the placement driver.

use std::pin::Pin;

use flotilla_pd::calls;
use flotilla_proto::keyspacepb as k;
use flotilla_proto::keyspacepb::keyspace_server::Keyspace;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::pd::status;
use crate::placement::PdHandle;

/// The service.
#[derive(Clone, Debug)]
pub struct KeyspaceService {
    pd: PdHandle,
}

impl KeyspaceService {
    /// The service in front of `pd`.
    pub fn new(pd: PdHandle) -> Self {
        Self { pd }
    }
}

#[tonic::async_trait]
impl Keyspace for KeyspaceService {
    async fn watch_keyspaces(
        &self,
        _: Request<k::WatchKeyspacesRequest>,
    ) -> Result<Response<BoxStream<k::WatchKeyspacesResponse>>, Status> {
        Err(Status::unimplemented(
            "WatchKeyspaces is not offered by this placement driver: ask again now and then",
        ))
    }

    pd_calls! {
        k;
        load_keyspace(LoadKeyspace: LoadKeyspaceRequest) -> LoadKeyspaceResponse;
        lookup_keyspace(LookupKeyspace: LookupKeyspaceRequest) -> LookupKeyspaceResponse;
        load_keyspace_by_id(LoadKeyspaceByID: LoadKeyspaceByIdRequest) -> LoadKeyspaceResponse;
        update_keyspace_state(UpdateKeyspaceState: UpdateKeyspaceStateRequest) -> UpdateKeyspaceStateResponse;
        get_all_keyspaces(GetAllKeyspaces: GetAllKeyspacesRequest) -> GetAllKeyspacesResponse;
    }
}
