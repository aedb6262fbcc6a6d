//! Which store is where: asked of PD, and remembered for as long as PD cannot be asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_pd_client::{PdClient, PdError};
use flotilla_proto::metapb::{Store, StoreState};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::timeout;

/// How long PD may take to tell an address. Then what was known before is tried again.
const ASK_MAX: Duration = Duration::from_millis(500);

/// What PD says of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is a member, and listens here (`host:port`).
    At(String),
    /// It is none: it never was, or was removed.
    NoMember,
}

/// Asks PD for a store.
pub type Ask = Arc<dyn Fn(u64) -> BoxFuture<'static, Result<Found, PdError>> + Send + Sync>;

/// Why a store cannot be dialled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoAddress {
    #[error("PD knows no store {0}, or it was removed")]
    NoMember(u64),
    #[error("the address of store {store} is not known, and PD cannot be asked: {why}")]
    NotKnown { store: u64, why: String },
}

#[derive(Clone, Debug)]
struct Known {
    found: Found,
    /// It did not work: PD is asked before it is used again.
    doubted: bool,
}

/// Addresses of stores.
pub struct Book {
    stores: Mutex<BTreeMap<u64, Known>>,
    ask: Ask,
}

impl std::fmt::Debug for Book {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Book").field(&self.stores).finish()
    }
}

/// What PD's record of a store says.
fn found(store: &Store) -> Found {
    if store.state() == StoreState::Tombstone {
        Found::NoMember
    } else {
        Found::At(store.address.clone())
    }
}

impl Book {
    /// An empty book that asks by `ask`.
    pub fn new(ask: Ask) -> Self {
        Self {
            stores: Mutex::default(),
            ask,
        }
    }

    /// A book that asks `pd`.
    pub fn of(pd: PdClient) -> Self {
        Self::new(Arc::new(move |store| {
            let pd = pd.clone();
            Box::pin(async move {
                match pd.get_store(store).await {
                    Ok((store, _)) => Ok(found(&store)),
                    // PD is there and refuses: it knows no such store.
                    Err(PdError::Refused { .. }) => Ok(Found::NoMember),
                    Err(error) => Err(error),
                }
            })
        }))
    }

    /// What was remembered from an earlier run: used until PD says otherwise.
    pub fn remember(&self, stores: impl IntoIterator<Item = (u64, String)>) {
        let mut known = self.stores.lock();
        for (store, address) in stores {
            known.entry(store).or_insert(Known {
                found: Found::At(address),
                doubted: false,
            });
        }
    }

    /// Where a store says that it listens: used where PD has said nothing, or what did not work.
    pub(super) fn heard(&self, store: u64, address: String) {
        let mut known = self.stores.lock();
        let entry = known.get(&store);
        let better = entry.is_none_or(|known| known.doubted && known.found != Found::NoMember);
        if better && !address.is_empty() {
            let (found, doubted) = (Found::At(address), false);
            known.insert(store, Known { found, doubted });
        }
    }

    /// Whether its address was ever known here.
    pub(crate) fn knows(&self, store: u64) -> bool {
        self.stores.lock().contains_key(&store)
    }

    /// What PD says of all stores.
    pub fn learn(&self, stores: &[Store]) {
        let mut known = self.stores.lock();
        for store in stores {
            let doubted = false;
            let found = found(store);
            known.insert(store.id, Known { found, doubted });
        }
    }

    /// Where a store was last, without asking anybody.
    pub fn last_known(&self, store: u64) -> Option<String> {
        match &self.stores.lock().get(&store)?.found {
            Found::At(address) => Some(address.clone()),
            Found::NoMember => None,
        }
    }

    /// All stores that are members as far as is known here, ascending.
    pub fn members(&self) -> Vec<(u64, String)> {
        let known = self.stores.lock();
        let at = |(id, known): (&u64, &Known)| match &known.found {
            Found::At(address) => Some((*id, address.clone())),
            Found::NoMember => None,
        };
        known.iter().filter_map(at).collect()
    }

    /// Its address did not work, or somebody else answered there.
    pub(super) fn doubt(&self, store: u64) {
        if let Some(known) = self.stores.lock().get_mut(&store) {
            known.doubted = true;
        }
    }

    /// Where to dial a store.
    pub(super) async fn address(&self, store: u64) -> Result<String, NoAddress> {
        let before = self.stores.lock().get(&store).cloned();
        if let Some(Known {
            found: Found::At(address),
            doubted: false,
        }) = &before
        {
            return Ok(address.clone());
        }
        match (self.ask(store).await, before.map(|known| known.found)) {
            (Ok(Found::At(address)), _) => Ok(address),
            (Ok(Found::NoMember), _) => Err(NoAddress::NoMember(store)),
            (Err(_), Some(Found::At(address))) => Ok(address),
            (Err(why), _) => Err(NoAddress::NotKnown { store, why }),
        }
    }

    /// Whether a store is a member; `None`: PD cannot be asked now.
    pub(super) async fn is_member(&self, store: u64) -> Option<bool> {
        let known = self.stores.lock().get(&store).cloned();
        if known.is_some_and(|known| known.found != Found::NoMember) {
            return Some(true);
        }
        // It may have joined since.
        let found = self.ask(store).await.ok()?;
        Some(found != Found::NoMember)
    }

    async fn ask(&self, store: u64) -> Result<Found, String> {
        match timeout(ASK_MAX, (self.ask)(store)).await {
            Ok(Ok(found)) => {
                let doubted = false;
                let known = Known {
                    found: found.clone(),
                    doubted,
                };
                self.stores.lock().insert(store, known);
                Ok(found)
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("it does not answer".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PD's answers, one after the other; then it cannot be asked.
    fn book(answers: impl Into<Vec<Option<Found>>>) -> Book {
        let answers = Mutex::new(answers.into().into_iter());
        Book::new(Arc::new(move |_| {
            let next = answers.lock().next().flatten();
            Box::pin(std::future::ready(next.ok_or(PdError::Malformed {
                call: "GetStore",
                what: "nothing",
            })))
        }))
    }

    fn at(address: &str) -> Option<Found> {
        Some(Found::At(address.to_owned()))
    }

    #[tokio::test]
    async fn pd_is_asked_when_nothing_is_known_or_it_did_not_work() {
        let book = book([at("a:1"), at("b:2"), None, Some(Found::NoMember)]);
        assert_eq!(book.address(7).await.as_deref(), Ok("a:1"));
        assert_eq!(book.address(7).await.as_deref(), Ok("a:1"), "remembered");
        book.doubt(7);
        assert_eq!(book.address(7).await.as_deref(), Ok("b:2"));
        book.doubt(7);
        let last = book.address(7).await;
        assert_eq!(last.as_deref(), Ok("b:2"), "PD cannot be asked");
        assert_eq!(book.address(7).await, Err(NoAddress::NoMember(7)));
        assert_eq!(book.last_known(7), None);
    }

    #[tokio::test]
    async fn what_a_store_says_of_itself_counts_where_pd_has_said_nothing() {
        let book = book([at("pd:7")]);
        book.heard(7, String::new());
        assert!(!book.knows(7));
        book.heard(8, "own:8".to_owned());
        assert_eq!(book.address(8).await.as_deref(), Ok("own:8"));
        assert_eq!(book.address(7).await.as_deref(), Ok("pd:7"));
        book.heard(7, "own:7".to_owned());
        assert_eq!(book.last_known(7).as_deref(), Some("pd:7"));
        book.doubt(7);
        book.heard(7, "own:7".to_owned());
        assert_eq!(book.last_known(7).as_deref(), Some("own:7"));
    }

    #[tokio::test]
    async fn who_is_no_member_is_known_only_from_pd() {
        let book = book([None, Some(Found::NoMember), at("a:1"), None]);
        let unknown = book.address(7).await.expect_err("nothing is known");
        assert!(matches!(unknown, NoAddress::NotKnown { store: 7, .. }));
        assert_eq!(book.is_member(7).await, Some(false));
        assert_eq!(book.is_member(7).await, Some(true), "it has joined");
        assert_eq!(book.is_member(8).await, None);
        book.remember([(7, "old:1".to_owned()), (8, "b:2".to_owned())]);
        let members = [(7, "a:1".to_owned()), (8, "b:2".to_owned())];
        assert_eq!(book.members(), members);
    }
}
