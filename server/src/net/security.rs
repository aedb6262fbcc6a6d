//! Who may ask what, by the certificate that the caller has shown.

use std::fmt;
use std::net::SocketAddr;

use flotilla_tls::{Certificate, Tls};

use super::seldom::Seldom;
use crate::config::Names;

/// What a caller may be. Whoever is a node is an admin too, and whoever is an admin is a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads and writes, and asks PD where the data are.
    Client,
    /// Sees the pages and changes the cluster.
    Admin,
    /// Is one of the cluster's nodes, or joins it.
    Node,
}

impl Role {
    /// The setting that names who is one.
    fn setting(self) -> &'static str {
        match self {
            Self::Client => "security.client-names",
            Self::Admin => "security.admin-names",
            Self::Node => "security.node-names",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "read or write",
            Self::Admin => "see the pages or change the cluster",
            Self::Node => "act as a node",
        })
    }
}

/// Which certificates of the CA are whose.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// Nodes.
    pub node: Names,
    /// Admins, besides nodes; `None`: nobody.
    pub admin: Option<Names>,
    /// Clients, besides admins; `None`: everybody.
    pub client: Option<Names>,
}

impl Allowed {
    /// The most that somebody with these names may be.
    fn role(&self, names: &[String]) -> Option<Role> {
        if self.node.has_any(names) {
            Some(Role::Node)
        } else if self
            .admin
            .as_ref()
            .is_some_and(|admins| admins.has_any(names))
        {
            Some(Role::Admin)
        } else {
            let client = self.client.as_ref();
            client
                .is_none_or(|clients| clients.has_any(names))
                .then_some(Role::Client)
        }
    }
}

/// What a listener with TLS needs to know.
#[derive(Debug)]
pub struct Security {
    /// The node's certificate.
    pub tls: Tls,
    /// Who may what.
    pub allowed: Allowed,
}

/// Who is at the other end of a connection.
#[derive(Debug)]
pub(super) struct Caller {
    addr: SocketAddr,
    /// Of its certificate; `None`: it has shown none.
    names: Option<Vec<String>>,
    role: Option<Role>,
}

/// Of all listeners of the process: a caller that is refused mostly asks again at once.
static REFUSED: Seldom = Seldom::new();

impl Caller {
    pub(super) fn new(addr: SocketAddr, shown: Option<Certificate>, allowed: &Allowed) -> Self {
        let names = shown.map(|certificate| certificate.names);
        let role = names.as_ref().and_then(|names| allowed.role(names));
        Self { addr, names, role }
    }

    /// Whether it is at least a `role`; otherwise why not.
    pub(super) fn check(&self, role: Role) -> Result<(), Refused> {
        if self.role >= Some(role) {
            return Ok(());
        }
        let refused = match &self.names {
            None => Refused::NoCertificate,
            Some(names) => Refused::NotNamed {
                names: names.join(", "),
                role,
            },
        };
        REFUSED.tell(|missed| {
            tracing::warn!(client = %self.addr, why = %refused, missed, "refused a request");
        });
        Err(refused)
    }
}

/// Why a request is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// It has to show one.
    #[error(
        "connect with a certificate that the CA of this cluster has signed; without one only /health is served"
    )]
    NoCertificate,
    /// It is for others.
    #[error("the certificate of {names} may not {role}: {} does not name it", role.setting())]
    NotNamed {
        /// Of the certificate.
        names: String,
        /// What it would have to be.
        role: Role,
    },
}

/// Calls of `pdpb.PD` that clients make; the others are those of stores.
const PD_OF_CLIENTS: [&str; 22] = [
    "BatchScanRegions",
    "GetAllStores",
    "GetClusterConfig",
    "GetClusterInfo",
    "GetExternalTimestamp",
    "GetGCSafePoint",
    "GetMembers",
    "GetMinTS",
    "GetOperator",
    "GetPrevRegion",
    "GetRegion",
    "GetRegionByID",
    "GetStore",
    "IsBootstrapped",
    "LoadGlobalConfig",
    "QueryRegion",
    "ScanRegions",
    "ScatterRegion",
    "SplitAndScatterRegions",
    "SplitRegions",
    "Tso",
    "UpdateGCSafePoint",
];

/// What a caller has to be for the method of a gRPC service; `None`: nothing. What is not known here
/// is for nodes only.
pub(super) fn needed(path: &str) -> Option<Role> {
    let (service, method) = path
        .trim_start_matches('/')
        .split_once('/')
        .unwrap_or((path, ""));
    match service {
        "grpc.health.v1.Health" => None,
        "tikvpb.Tikv" => Some(Role::Client),
        "pdpb.PD" if PD_OF_CLIENTS.contains(&method) => Some(Role::Client),
        "keyspacepb.Keyspace" if method != "UpdateKeyspaceState" => Some(Role::Client),
        "keyspacepb.Keyspace" | "flotilla.admin.v1.Placement" | "flotilla.admin.v1.Node" => {
            Some(Role::Admin)
        }
        _ => Some(Role::Node),
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::admin::{node_server, placement_server};
    use flotilla_proto::keyspacepb::keyspace_server;
    use flotilla_proto::pdpb::pd_server;
    use flotilla_proto::raft::peers_server;
    use flotilla_proto::tikvpb::tikv_server;

    use super::*;

    #[test]
    fn every_call_has_a_role_and_an_unknown_one_is_for_nodes() {
        use Role::{Admin, Client, Node};
        for (service, method, role) in [
            ("grpc.health.v1.Health", "Check", None),
            (tikv_server::SERVICE_NAME, "RawPut", Some(Client)),
            (tikv_server::SERVICE_NAME, "BatchCommands", Some(Client)),
            (pd_server::SERVICE_NAME, "Tso", Some(Client)),
            (pd_server::SERVICE_NAME, "GetMembers", Some(Client)),
            (pd_server::SERVICE_NAME, "AllocID", Some(Node)),
            (pd_server::SERVICE_NAME, "PutStore", Some(Node)),
            (pd_server::SERVICE_NAME, "RegionHeartbeat", Some(Node)),
            (keyspace_server::SERVICE_NAME, "LoadKeyspace", Some(Client)),
            (
                keyspace_server::SERVICE_NAME,
                "UpdateKeyspaceState",
                Some(Admin),
            ),
            (placement_server::SERVICE_NAME, "SetStoreState", Some(Admin)),
            (node_server::SERVICE_NAME, "ShowPeer", Some(Admin)),
            (peers_server::SERVICE_NAME, "Messages", Some(Node)),
            ("of.Tomorrow", "Do", Some(Node)),
        ] {
            assert_eq!(
                needed(&format!("/{service}/{method}")),
                role,
                "{service}/{method}"
            );
        }
    }

    fn caller(names: Option<&[&str]>) -> Caller {
        let named = |names: &str| names.parse().expect("names");
        let allowed = Allowed {
            node: named("node"),
            admin: Some(named("ops-*")),
            client: Some(named("app, *.apps.example")),
        };
        let shown = names.map(|names| Certificate {
            common_name: None,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            serial: String::new(),
            not_before: std::time::UNIX_EPOCH,
            not_after: std::time::UNIX_EPOCH,
        });
        let addr = "192.0.2.1:1".parse().expect("an address");
        Caller::new(addr, shown, &allowed)
    }

    #[test]
    fn a_caller_may_what_one_of_its_names_may() {
        for (names, role) in [
            (&["node"][..], Some(Role::Node)),
            (&["app", "node"], Some(Role::Node)),
            (&["nodes"], None),
            (&["Node"], None),
            (&["ops-1", "10.0.0.1"], Some(Role::Admin)),
            (&["app"], Some(Role::Client)),
            (&["a.apps.example"], Some(Role::Client)),
            (&["stranger"], None),
            (&[], None),
        ] {
            assert_eq!(caller(Some(names)).role, role, "{names:?}");
        }
    }

    #[test]
    fn a_refusal_names_the_certificate_and_the_setting() {
        let refused = caller(Some(&["app", "10.0.0.1"])).check(Role::Node);
        let text = refused.expect_err("no node").to_string();
        assert_eq!(
            text,
            "the certificate of app, 10.0.0.1 may not act as a node: security.node-names does not name it"
        );
        assert_eq!(
            caller(None).check(Role::Client),
            Err(Refused::NoCertificate)
        );
        assert_eq!(caller(Some(&["node"])).check(Role::Client), Ok(()));
    }
}
