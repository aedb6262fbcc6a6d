//! When the first of some nodes takes a write.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::kvrpcpb as k;
use flotilla_tests::client::Request;
use tokio::time::timeout;

use super::{Door, PATIENCE, PAUSE, Reach, Told, send};
use crate::RUNTIME;
use crate::back_off::back_off;
use crate::dice::Dice;
use crate::node::eventually;
use crate::route::Route;

/// Somebody who asks every node of some whether it takes a write, again and again.
pub(crate) struct Prober {
    reach: Reach,
    route: Route,
    others: Vec<String>,
    dice: Dice,
}

impl Prober {
    /// One that knows its way while everything answers.
    #[track_caller]
    pub(crate) fn new(doors: Vec<Door>, others: Vec<String>, dice: Dice) -> Self {
        let mut reach = Reach::new(doors);
        let route = eventually("a way to a key", || {
            RUNTIME.block_on(async {
                let route = reach.route(b"a").await?;
                reach.addr_of(route.leader.store_id).await?;
                for other in &others {
                    reach.link(other).await?;
                }
                Some(route)
            })
        });
        Self {
            reach,
            route,
            others,
            dice,
        }
    }

    /// When the first of them had taken a write.
    pub(crate) fn first_accepted(mut self) -> std::time::Instant {
        let value = Bytes::from(self.dice.any().to_string());
        let asking = self.others.iter().map(|addr| {
            let link = self.reach.links.remove(addr).expect("it was dialled");
            let mut stores = self.reach.stores.iter().filter(|(_, at)| *at == addr);
            let (store, _) = stores.next().expect("it is a store");
            let mut peers = self.route.region.peers.iter();
            let peer = peers
                .find(|peer| peer.store_id == *store)
                .expect("it has a replica");
            let context = Route {
                leader: *peer,
                ..self.route.clone()
            }
            .context();
            let put = k::RawPutRequest {
                key: "a/probe".into(),
                value: value.clone(),
                ..Default::default()
            };
            Box::pin(async move {
                let request = Request::Put(put);
                while !matches!(
                    send(link.clone(), request.clone(), context.clone(), PATIENCE).await,
                    Told::Done(_)
                ) {
                    back_off(PAUSE).await;
                }
            })
        });
        let asking: Vec<_> = asking.collect();
        RUNTIME.block_on(async {
            let first = futures::future::select_all(asking);
            timeout(Duration::from_secs(60), first)
                .await
                .expect("one of them leads");
        });
        std::time::Instant::now()
    }
}
