//! Reads of single keys.

use flotilla_engine::StateReader;
use flotilla_proto::kvrpcpb::{
    KvPair, RawBatchGetRequest, RawBatchGetResponse, RawGetKeyTtlRequest, RawGetKeyTtlResponse,
    RawGetRequest, RawGetResponse,
};

use super::scan::AnswerSize;
use super::{Space, visible_row};
use crate::command::{Read, View};
use crate::failure::Failure;
use crate::limits::ROWS_PER_DEADLINE_CHECK;

impl Read for RawGetRequest {
    fn read<R: StateReader + ?Sized>(&self, view: &View<'_, R>) -> Result<RawGetResponse, Failure> {
        let space = Space::new(view.scope, self.context.as_ref(), &self.cf)?;
        let row = visible_row(view, space.cf, &space.key(&self.key)?)?;
        Ok(RawGetResponse {
            not_found: row.is_none(),
            value: row.map(|row| row.value).unwrap_or_default(),
            ..RawGetResponse::default()
        })
    }
}

impl Read for RawBatchGetRequest {
    /// The keys that have a value, in the order of the request.
    fn read<R: StateReader + ?Sized>(
        &self,
        view: &View<'_, R>,
    ) -> Result<RawBatchGetResponse, Failure> {
        let space = Space::new(view.scope, self.context.as_ref(), &self.cf)?;
        let mut pairs = Vec::new();
        let mut size = AnswerSize::default();
        for (count, key) in (1u32..).zip(&self.keys) {
            if count.is_multiple_of(ROWS_PER_DEADLINE_CHECK) && (view.expired)() {
                return Err(Failure::deadline_exceeded());
            }
            if let Some(row) = visible_row(view, space.cf, &space.key(key)?)? {
                let pair = KvPair {
                    key: key.clone(),
                    value: row.value,
                    ..KvPair::default()
                };
                size.add(&pair)?;
                pairs.push(pair);
            }
        }
        Ok(RawBatchGetResponse {
            pairs,
            ..RawBatchGetResponse::default()
        })
    }
}

impl Read for RawGetKeyTtlRequest {
    /// The seconds a row has left; 0 is for ever.
    fn read<R: StateReader + ?Sized>(
        &self,
        view: &View<'_, R>,
    ) -> Result<RawGetKeyTtlResponse, Failure> {
        let space = Space::new(view.scope, self.context.as_ref(), &self.cf)?;
        let row = visible_row(view, space.cf, &space.key(&self.key)?)?;
        Ok(RawGetKeyTtlResponse {
            not_found: row.is_none(),
            // A visible row expires later than now.
            ttl: row
                .and_then(|row| row.expiry)
                .map_or(0, |expiry| expiry - view.scope.now),
            ..RawGetKeyTtlResponse::default()
        })
    }
}
