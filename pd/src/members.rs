//! Who serves PD: every store's node does, the leader of the meta region itself, the others by
//! forwarding (design, section 6).

use flotilla_proto::metapb::{Store, StoreState};
use flotilla_proto::pdpb::{
    GetClusterInfoResponse, GetMembersResponse, Member, ResponseHeader, ServiceMode,
};

use crate::genesis::ADVERTISED_VERSION;
use crate::machine::Config;

/// The answer to `GetMembers` from what a node knows: `stores` as it last learnt them, and the
/// store whose node leads the meta region, if it knows one. Answered by every node, whatever the
/// caller's cluster id (wire, section 3.2).
pub fn members_response(
    config: &Config,
    stores: &[Store],
    leader_store: Option<u64>,
) -> GetMembersResponse {
    let mut response = members(config, stores.iter(), leader_store);
    response.header = Some(ResponseHeader {
        cluster_id: config.cluster_id,
        error: None,
    });
    response
}

pub(crate) fn members<'a>(
    config: &Config,
    stores: impl Iterator<Item = &'a Store>,
    leader_store: Option<u64>,
) -> GetMembersResponse {
    let mut members: Vec<Member> = stores
        .filter(|store| store.id != config.store_id && store.state != StoreState::Tombstone as i32)
        .map(|store| member(config, store.id, &store.address))
        .collect();
    members.push(member(config, config.store_id, &config.advertise_addr));
    members.sort_by_key(|member| member.member_id);
    let leader = members
        .iter()
        .find(|member| Some(member.member_id) == leader_store)
        .cloned();
    GetMembersResponse {
        etcd_leader: leader.clone(),
        leader,
        members,
        ..GetMembersResponse::default()
    }
}

/// What a node that knows of nobody else says.
pub(crate) fn without_leader(config: &Config) -> GetMembersResponse {
    members(config, [].iter(), None)
}

pub(crate) fn cluster_info() -> GetClusterInfoResponse {
    GetClusterInfoResponse {
        service_modes: vec![ServiceMode::PdSvcMode as i32],
        ..GetClusterInfoResponse::default()
    }
}

fn member(config: &Config, store_id: u64, address: &str) -> Member {
    let scheme = if config.tls { "https" } else { "http" };
    let url = format!("{scheme}://{address}");
    Member {
        name: format!("store-{store_id}"),
        member_id: store_id,
        peer_urls: vec![url.clone()],
        client_urls: vec![url],
        binary_version: ADVERTISED_VERSION.to_owned(),
        ..Member::default()
    }
}
