//! `pd.peers`: where PD can be asked, for a start whose store has no peer of the meta region, or whose
//! meta region has no leader yet (contracts: C30).

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flotilla_pd_client::PdClient;
use flotilla_proto::metapb::{Peer, PeerRole};
use flotilla_raftstore::region::META_REGION;
use serde::{Deserialize, Serialize};

use super::Book;
use crate::store::Store;

const NAME: &str = "pd.peers";
const NAME_NEW: &str = "pd.peers.new";
/// What the file opens with.
const HEADER: &str =
    "# Where PD can be asked. Rewritten by Flotilla whenever it changes. Do not edit.\n";
/// How often the members of the meta region are looked at; nothing announces them.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often PD is asked for the addresses of all stores, in looks.
const ASK_EVERY: u32 = 10;

/// The whole file. Ids are text: TOML's integers have 63 bits.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Peers {
    store: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    id: String,
    address: String,
}

/// What the file in `folder` says; nothing if there is none. One that cannot be read is as good as
/// none: `--join` says the same.
pub fn read(folder: &Path) -> Vec<(u64, String)> {
    let path = folder.join(NAME);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot be read; going on without it");
            return Vec::new();
        }
    };
    match toml::from_str::<Peers>(&text) {
        Ok(peers) => {
            let entry = |entry: Entry| Some((entry.id.parse().ok()?, entry.address));
            peers.store.into_iter().filter_map(entry).collect()
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "is damaged; going on without it");
            Vec::new()
        }
    }
}

/// Puts `stores` in place of what the file said: all of it or, after a crash, nothing.
///
/// # Errors
/// The disk's.
pub fn write(folder: &Path, stores: &[(u64, String)]) -> io::Result<()> {
    let entry = |(id, address): &(u64, String)| Entry {
        id: id.to_string(),
        address: address.clone(),
    };
    let peers = Peers {
        store: stores.iter().map(entry).collect(),
    };
    let text = toml::to_string(&peers).expect("text and digits");
    let new = folder.join(NAME_NEW);
    let mut file = File::create(&new)?;
    file.write_all(format!("{HEADER}{text}").as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, folder.join(NAME))?;
    File::open(folder)?.sync_all()
}

/// Keeps the file and the addresses up to date, until it is dropped.
pub(crate) async fn keep(store: Arc<Store>, book: Arc<Book>, pd: PdClient) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut written, mut told) = (None, 0);
    for look in 0u32.. {
        looks.tick().await;
        // Without an address for each of them the meta region may not find a leader again.
        let missing = members(&store, |_| true).iter().any(|id| !book.knows(*id));
        if missing || look.is_multiple_of(ASK_EVERY) {
            match pd.get_all_stores(false).await {
                Ok(stores) => book.learn(&stores),
                Err(error) => tracing::debug!(%error, "PD does not tell the stores"),
            }
        }
        let voters = members(&store, |peer| peer.role() == PeerRole::Voter).len();
        if std::mem::replace(&mut told, voters) != voters {
            tracing::info!(voters, "PD's own region has voters");
        }
        let stores = askable(&store, &book);
        // With one store nobody has to be asked.
        if written.as_ref() == Some(&stores) || (written.is_none() && stores.len() < 2) {
            continue;
        }
        let (folder, to_write) = (store.path.clone(), stores.clone());
        match tokio::task::spawn_blocking(move || write(&folder, &to_write)).await {
            Ok(Ok(())) => written = Some(stores),
            Ok(Err(error)) => tracing::warn!(%error, "cannot write {NAME}"),
            Err(_) => return,
        }
    }
}

/// The meta region's members if this store is one; otherwise every member of the cluster: all of
/// them forward to PD.
fn askable(store: &Store, book: &Book) -> Vec<(u64, String)> {
    let (mut stores, members) = (book.members(), members(store, |_| true));
    stores.retain(|(id, _)| members.is_empty() || members.contains(id));
    stores
}

/// The stores of those of the meta region's peers that are `meant`, if one is here.
fn members(store: &Store, meant: impl Fn(&Peer) -> bool) -> Vec<u64> {
    let serving = store.runtime.delegates.serving(META_REGION);
    let peers = serving.map(|serving| serving.region.peers.clone());
    let peers = peers.unwrap_or_default().into_iter();
    peers.filter(meant).map(|peer| peer.store_id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_anything_else_is_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        assert_eq!(read(path), []);
        let stores = [(1, "a:1".to_owned()), (u64::MAX, "[::1]:2".to_owned())];
        for written in [&stores[..], &stores[..1]] {
            write(path, written).expect("written");
            assert_eq!(read(path), written);
        }
        assert!(!path.join(NAME_NEW).exists());
        fs::write(path.join(NAME), "store = 7").expect("damaged");
        assert_eq!(read(path), []);
    }
}
