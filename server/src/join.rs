//! A new store joins a cluster: any of its nodes says which cluster it is, and gives the store its id.

use std::net::SocketAddr;
use std::time::Duration;

use flotilla_engine::StoreIds;
use flotilla_pd::LOGICAL_BITS;
use flotilla_pd_client::{ClientConfig, PdClient, PdError};
use flotilla_proto::clock::Wall;
use flotilla_proto::metapb::StoreState;
use flotilla_tls::Dial;

use crate::config::HostPort;
use crate::store::clock;

/// How long a node with data of its own asks the node of `--join` whether it is of the same cluster.
const CHECK_MAX: Duration = Duration::from_secs(1);

/// How far the clock of a new node may be off. Timestamps of PD run a little ahead of its clock.
const CLOCK_OFF_MAX: Duration = Duration::from_secs(60);

/// Why a node does not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It was told to join itself.
    #[error(
        "join = {0} is this node's own address: give that of a node that serves, or none to create a cluster"
    )]
    Oneself(HostPort),
    /// The data folder belongs to another cluster than the node that was to be joined.
    #[error(
        "the data folder belongs to cluster {own}, and the node at {join} to cluster {other}: give the address of a \
         node of its own cluster, or an empty data folder"
    )]
    OtherCluster {
        /// The folder's.
        own: u64,
        /// The other node's.
        other: u64,
        /// Its address.
        join: HostPort,
    },
    /// The clocks differ by too much.
    #[error(
        "the clock of this machine is {} {} that of the cluster, and at most {} are taken: set it (NTP), then start \
         again",
        humantime::format_duration(*.off), if *.ahead { "ahead of" } else { "behind" },
        humantime::format_duration(CLOCK_OFF_MAX)
    )]
    Clock {
        /// By how much.
        off: Duration,
        /// Ours is the later one.
        ahead: bool,
    },
    /// The node was asked in vain.
    #[error("cannot join by {join}: {source}")]
    Pd {
        /// Who was asked.
        join: HostPort,
        /// What came of it.
        source: PdError,
    },
}

/// What a new store is told.
#[derive(Debug)]
pub struct Joined {
    /// The cluster's id and the store's own.
    pub ids: StoreIds,
    /// All stores that are there, with their addresses.
    pub stores: Vec<(u64, String)>,
}

/// Asks the node at `join` for an id. Nothing is created here yet, and nothing there but the id.
///
/// # Errors
/// See [`JoinError`].
pub async fn ask(
    join: &HostPort,
    bound: SocketAddr,
    advertised: &HostPort,
    dial: &Dial,
) -> Result<Joined, JoinError> {
    refuse_oneself(join, bound, advertised).await?;
    let failed = |source| JoinError::Pd {
        join: join.clone(),
        source,
    };
    let config = ClientConfig {
        dial: dial.clone(),
        ..ClientConfig::new(vec![join.to_string()])
    };
    let pd = PdClient::new(config).map_err(failed)?;
    let cluster_id = pd.cluster_id().await.map_err(failed)?;
    let stamp = *pd.tso(1).await.map_err(failed)?.end();
    check_clock(clock::wall(), Wall(stamp >> LOGICAL_BITS))?;
    let stores = pd.get_all_stores(true).await.map_err(failed)?;
    let store_id = *pd.alloc_id(1).await.map_err(failed)?.start();
    let live = stores
        .into_iter()
        .filter(|store| store.state() != StoreState::Tombstone);
    Ok(Joined {
        ids: StoreIds {
            cluster_id,
            store_id,
        },
        stores: live.map(|store| (store.id, store.address)).collect(),
    })
}

/// A node with data of its own needs nobody to join; one of another cluster is a mistake all the same.
///
/// # Errors
/// [`JoinError::Oneself`], [`JoinError::OtherCluster`].
pub async fn check(
    join: &HostPort,
    bound: SocketAddr,
    advertised: &HostPort,
    ids: StoreIds,
    dial: &Dial,
) -> Result<(), JoinError> {
    refuse_oneself(join, bound, advertised).await?;
    let config = ClientConfig {
        cluster_id: Some(ids.cluster_id),
        give_up_after: CHECK_MAX,
        dial: dial.clone(),
        ..ClientConfig::new(vec![join.to_string()])
    };
    let failed = |source| JoinError::Pd {
        join: join.clone(),
        source,
    };
    match PdClient::new(config).map_err(failed)?.cluster_id().await {
        Err(PdError::OtherCluster {
            expected, found, ..
        }) => Err(JoinError::OtherCluster {
            own: expected,
            other: found,
            join: join.clone(),
        }),
        Err(error) => {
            tracing::warn!(%join, %error, "the node to join does not answer; the data folder says enough");
            Ok(())
        }
        Ok(_) => {
            tracing::warn!(%join, "the data folder holds a store already: join is not needed, going on without it");
            Ok(())
        }
    }
}

/// Timestamps and times to live come from the clocks of the machines: of whichever leads.
fn check_clock(own: Wall, cluster: Wall) -> Result<(), JoinError> {
    let off = Duration::from_millis(own.0.abs_diff(cluster.0));
    let ahead = own > cluster;
    if off > CLOCK_OFF_MAX {
        return Err(JoinError::Clock { off, ahead });
    }
    Ok(())
}

async fn refuse_oneself(
    join: &HostPort,
    bound: SocketAddr,
    advertised: &HostPort,
) -> Result<(), JoinError> {
    // One that cannot be resolved is not oneself; connecting says what is wrong with it.
    let resolved: Vec<SocketAddr> = match tokio::net::lookup_host(join.to_string()).await {
        Ok(found) => found.collect(),
        Err(_) => Vec::new(),
    };
    let here = |addr: &SocketAddr| {
        let wildcard = bound.ip().is_unspecified() && addr.ip().is_loopback();
        addr.port() == bound.port() && (addr.ip() == bound.ip() || wildcard)
    };
    if join == advertised || resolved.iter().any(here) {
        return Err(JoinError::Oneself(join.clone()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_far_off_is_refused_with_how_far() {
        #[track_caller]
        fn check(own: u64, cluster: u64, expected: Option<&str>) {
            let refused = check_clock(Wall(own), Wall(cluster)).err();
            let refused = refused.map(|error| error.to_string());
            let fits = match (&refused, expected) {
                (Some(text), Some(part)) => text.contains(part),
                (None, None) => true,
                _ => false,
            };
            assert!(fits, "{refused:?} instead of {expected:?}");
        }
        let limit = 60_000;
        check(0, 0, None);
        check(limit, 0, None);
        check(0, limit, None);
        check(limit + 1, 0, Some("is 1m 1ms ahead of that of the cluster"));
        check(0, 2 * limit, Some("is 2m behind that of the cluster"));
    }
}
