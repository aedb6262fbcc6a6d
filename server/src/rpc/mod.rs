//! The gRPC services.
//!
//! `kv` carries a command of `flotilla-kv` out: checks, latches, local reads, proposals. `tikv` is
//! the service in front of it, `batch` the same calls over one stream. `pd` and `keyspace` hand
//! their calls to the placement driver; `forward` hands them to the node that leads it. `admin` is
//! what `flotilla ctl` asks beyond that.

/// Hands unary calls over to PD; their messages are in the module `$messages`.
macro_rules! pd_calls {
    ($messages:ident; $($method:ident($call:ident: $request:ident) -> $response:ident;)+) => {$(
        fn $method<'a, 'b>(
            &'a self,
            request: Request<$messages::$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<$messages::$response>, Status>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async move {
                let answer = self.pd.call::<calls::$call>(request.into_inner()).await;
                answer.map(Response::new).map_err(status)
            })
        }
    )+};
}

mod admin;
mod batch;
mod deadline;
mod envelope;
mod forward;
mod keyspace;
mod kv;
mod pd;
mod stopping;
mod tikv;

pub use admin::{NodeService, PlacementService};
pub use forward::{Forwarding, Leader};
pub use keyspace::KeyspaceService;
pub use kv::Kv;
pub use pd::PdService;
pub use stopping::{StopStreams, Stopping};
pub use tikv::TikvService;
