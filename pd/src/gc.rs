//! The safe point: versions older than it may be collected, unless a service holds it back
//! (wire, section 3.9, the old calls).

use flotilla_proto::clock::Wall;
use flotilla_proto::pdpb::{
    UpdateGcSafePointResponse, UpdateServiceGcSafePointRequest, UpdateServiceGcSafePointResponse,
};

use crate::changes::Plan;
use crate::leading::Leading;
use crate::limits::{SERVICE_ID_BYTES_MAX, SERVICES_MAX};
use crate::records::{self, Mod, ServiceRecord};
use crate::reply::{Answer, Refusal};
use bytes::Bytes;

/// Who is named when no service holds the safe point back.
const GC_WORKER: &[u8] = b"gc_worker";

/// A live service.
struct Holder {
    id: Bytes,
    record: ServiceRecord,
}

impl Leading {
    pub(crate) fn plan_safe_point(&self, asked: u64) -> Answer<Plan<UpdateGcSafePointResponse>> {
        self.check_bootstrapped()?;
        let before = self.durable.safe_point;
        let response = UpdateGcSafePointResponse {
            new_safe_point: before.max(asked),
            ..UpdateGcSafePointResponse::default()
        };
        let mods = if asked > before {
            vec![records::put_safe_point(asked)]
        } else {
            Vec::new()
        };
        Ok(Plan::change(response, mods))
    }

    pub(crate) fn plan_service(
        &self,
        wall: Wall,
        request: &UpdateServiceGcSafePointRequest,
    ) -> Answer<Plan<UpdateServiceGcSafePointResponse>> {
        self.check_bootstrapped()?;
        let id = &request.service_id;
        if id.is_empty() || id.len() > SERVICE_ID_BYTES_MAX {
            let text = format!(
                "a service id has 1 to {SERVICE_ID_BYTES_MAX} bytes, this one {}",
                id.len()
            );
            return Err(Refusal::unknown(text));
        }
        let now = i64::try_from(wall.seconds()).unwrap_or(i64::MAX);
        let (mut live, expired): (Vec<Holder>, Vec<Holder>) = self
            .durable
            .services
            .iter()
            .map(|(id, record)| Holder {
                id: id.clone(),
                record: record.clone(),
            })
            .partition(|holder| holder.record.expires_at > now);
        let mut mods: Vec<Mod> = expired
            .iter()
            .map(|holder| records::put_service(&holder.id, None))
            .collect();
        let minimum = live.iter().map(|holder| holder.record.safe_point).min();
        if request.ttl <= 0 {
            if live.iter().any(|holder| holder.id == *id) {
                mods.push(records::put_service(id, None));
            }
            live.retain(|holder| holder.id != *id);
        } else if minimum.is_none_or(|minimum| request.safe_point >= minimum) {
            let record = ServiceRecord {
                expires_at: now.saturating_add(request.ttl),
                safe_point: request.safe_point,
            };
            live.retain(|holder| holder.id != *id);
            if live.len() >= SERVICES_MAX {
                return Err(Refusal::unknown(format!(
                    "{SERVICES_MAX} services hold the safe point already"
                )));
            }
            mods.retain(|(key, _)| key[1..] != **id);
            mods.push(records::put_service(id, Some(&record)));
            live.push(Holder {
                id: id.clone(),
                record,
            });
        }
        Ok(Plan::change(self.lowest(&live, now), mods))
    }

    fn lowest(&self, live: &[Holder], now: i64) -> UpdateServiceGcSafePointResponse {
        let lowest = live
            .iter()
            .min_by_key(|holder| (holder.record.safe_point, holder.id.clone()));
        let (service_id, ttl, min_safe_point) = match lowest {
            None => (
                Bytes::from_static(GC_WORKER),
                i64::MAX,
                self.durable.safe_point,
            ),
            Some(Holder { id, record }) => {
                let ttl = if record.expires_at == i64::MAX {
                    i64::MAX
                } else {
                    record.expires_at - now
                };
                (id.clone(), ttl, record.safe_point)
            }
        };
        UpdateServiceGcSafePointResponse {
            service_id,
            ttl,
            min_safe_point,
            ..UpdateServiceGcSafePointResponse::default()
        }
    }
}
