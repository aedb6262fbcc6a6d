//! The way to a key, for clients that find it by themselves.

use flotilla_proto::kvrpcpb as k;
use flotilla_proto::metapb::{Peer, Region};

/// Where a key is.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) region: Region,
    pub(crate) leader: Peer,
}

impl Route {
    /// What a request to it carries.
    pub(crate) fn context(&self) -> k::Context {
        k::Context {
            region_id: self.region.id,
            region_epoch: self.region.region_epoch,
            peer: Some(self.leader),
            ..k::Context::default()
        }
    }

    pub(crate) fn holds(&self, key: &[u8]) -> bool {
        let end = &self.region.end_key;
        *key >= self.region.start_key[..] && (end.is_empty() || *key < end[..])
    }
}
