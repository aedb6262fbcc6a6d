//! Removing stores: offline, emptied by operators, then a tombstone.

use flotilla_proto::metapb::{Store, StoreState};

use crate::call::{Call, calls};
use crate::changes::{Change, Done, Then, whole};
use crate::effect::{Event, RequestToken};
use crate::internal::{SetStoreState, SetStoreStateError, StoreStateSet};
use crate::leading::Leading;
use crate::records::{self, Mod};
use crate::reply::Cx;

impl Leading {
    pub(crate) fn plan_store_state(
        &self,
        cx: &Cx<'_>,
        token: RequestToken,
        request: SetStoreState,
    ) -> (Vec<Mod>, Done) {
        let (mods, then, result) = match self.check_store_state(cx, request) {
            Ok(None) => (Vec::new(), Vec::new(), Ok(())),
            Ok(Some(store)) => {
                let (mods, then) = changed(store);
                (mods, then, Ok(()))
            }
            Err(error) => (Vec::new(), Vec::new(), Err(error)),
        };
        let answer = calls::SetStoreState::answer(StoreStateSet(result));
        whole(token, mods, Some(answer), then)
    }

    /// The store's new row, if it changes.
    fn check_store_state(
        &self,
        cx: &Cx<'_>,
        request: SetStoreState,
    ) -> Result<Option<Store>, SetStoreStateError> {
        let SetStoreState { store, offline } = request;
        let known = self.durable.stores.get(&store);
        let known = known.ok_or(SetStoreStateError::Unknown { store })?;
        let wanted = if offline {
            StoreState::Offline
        } else {
            StoreState::Up
        };
        match known.state() {
            StoreState::Tombstone => return Err(SetStoreStateError::Tombstone { store }),
            state if state == wanted => return Ok(None),
            StoreState::Up => self.check_enough(cx, store)?,
            StoreState::Offline => {}
        }
        Ok(Some(Store {
            state: wanted as i32,
            ..known.clone()
        }))
    }

    /// Without `store` there are as many stores as regions have replicas.
    fn check_enough(&self, cx: &Cx<'_>, store: u64) -> Result<(), SetStoreStateError> {
        use flotilla_pd_plan::StoreState::Down;
        let cluster = self.cluster(cx);
        let stays = cluster.stores.iter().filter(|(_, view)| view.state.stays());
        let needed = cluster.rules.voters(false, stays.clone().count());
        let left = stays.filter(|(id, view)| **id != store && view.state != Down);
        let left = left.count();
        if left < needed {
            return Err(SetStoreStateError::TooFew {
                store,
                left,
                needed,
            });
        }
        Ok(())
    }

    /// Stores that were to be emptied and are: they are tombstones from now on.
    pub(crate) fn bury_empty_stores(&mut self, cx: &mut Cx<'_>) {
        if !self.changes.is_idle() {
            return;
        }
        let stores = self.durable.stores.values();
        let empty = stores.map(|store| store.id).find(|id| self.is_empty(*id));
        if let Some(store) = empty {
            self.change(cx, Change::Bury(store));
        }
    }

    pub(crate) fn plan_bury(&self, store: u64) -> (Vec<Mod>, Done) {
        let (mods, then) = match self.durable.stores.get(&store) {
            Some(known) if self.is_empty(store) => changed(Store {
                state: StoreState::Tombstone as i32,
                ..known.clone()
            }),
            _ => (Vec::new(), Vec::new()),
        };
        let done = Done {
            token: None,
            response: None,
            then,
        };
        (mods, done)
    }

    /// `store` is offline, and no region has a peer there: all regions have reported.
    fn is_empty(&self, store: u64) -> bool {
        let known = self.durable.stores.get(&store);
        let offline = known.is_some_and(|store| store.state() == StoreState::Offline);
        let on_meta = self.meta.as_ref().is_none_or(|meta| {
            let mut peers = meta.region.peers.iter();
            peers.any(|peer| peer.store_id == store)
        });
        let all = !self.routes.has_holes();
        offline && all && !on_meta && self.routes.load(store).regions == 0
    }
}

/// The row of a store with a new state.
pub(crate) fn changed(store: Store) -> (Vec<Mod>, Vec<Then>) {
    let event = Event::StoreState {
        store: store.id,
        state: store.state().as_str_name(),
    };
    (vec![records::put_store(&store)], vec![Then::Event(event)])
}
