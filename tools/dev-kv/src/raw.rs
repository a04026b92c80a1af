//! The raw RPCs: single versions, no transactions, optional expiry. Raw keys are kept apart from
//! transactional ones. Column families other than the default are refused, because dev-kv does not
//! have them.

use crate::engine::{CriticalSection, EngineError, UpdateError};
use crate::kv::{Kv, Stop, WRITE_BYTES_MAX, too_large};
use crate::model::KEY_BYTES_MAX;
use crate::regions::{Keys, Region};
use crate::store::KeyRange;
use crate::wire::kvrpcpb::{self, ApiVersion};
use bytes::Bytes;
use tonic::{Response, Status};

/// Turns a result into a response. A refusal's text becomes the `string` in its error field, or a
/// `status` where it has no such field.
macro_rules! answer {
    ($result:expr, $response:ident, string) => {
        match $result {
            Ok(response) => Ok(Response::new(response)),
            Err(Refused::Stop(Stop::Region(error))) => Ok(Response::new(kvrpcpb::$response {
                region_error: Some(*error),
                ..kvrpcpb::$response::default()
            })),
            Err(Refused::Text(error)) => {
                Ok(Response::new(kvrpcpb::$response { error, ..kvrpcpb::$response::default() }))
            }
            Err(Refused::Stop(Stop::Keys(errors))) => Err(Status::internal(format!("{errors:?}"))),
            Err(Refused::Stop(Stop::Status(status))) => Err(status),
        }
    };
    ($result:expr, $response:ident, status) => {
        match $result {
            Ok(response) => Ok(Response::new(response)),
            Err(Refused::Stop(Stop::Region(error))) => Ok(Response::new(kvrpcpb::$response {
                region_error: Some(*error),
                ..kvrpcpb::$response::default()
            })),
            Err(Refused::Text(error)) => Err(Status::invalid_argument(error)),
            Err(Refused::Stop(Stop::Keys(errors))) => Err(Status::internal(format!("{errors:?}"))),
            Err(Refused::Stop(Stop::Status(status))) => Err(status),
        }
    };
}

/// Why a raw request was not carried out.
enum Refused {
    Stop(Stop),
    Text(String),
}

impl From<Stop> for Refused {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<EngineError> for Refused {
    fn from(error: EngineError) -> Self {
        Self::Stop(error.into())
    }
}

impl From<UpdateError> for Refused {
    fn from(error: UpdateError) -> Self {
        Self::Stop(error.into())
    }
}

/// How a client's raw keys compare with region boundaries. With a keyspace, clients encode them for
/// PD.
fn keys_of(context: Option<&kvrpcpb::Context>) -> Keys {
    match context.map(kvrpcpb::Context::api_version) {
        Some(ApiVersion::V2) => Keys::Plain,
        Some(ApiVersion::V1 | ApiVersion::V1ttl) | None => Keys::AsGiven,
    }
}

fn check<'a>(
    kv: &Kv,
    rpc: &str,
    context: Option<&kvrpcpb::Context>,
    keys: impl IntoIterator<Item = &'a Bytes>,
    family: &str,
) -> Result<Region, Refused> {
    if !matches!(family, "" | "default") {
        return Err(Refused::Text(format!("column family {family:?} is not known")));
    }
    let region =
        kv.cluster.regions().check(context, keys, keys_of(context)).map_err(Stop::Region)?;
    if let Some(error) = kv.faults.region_error(rpc, &region) {
        return Err(Stop::Region(error).into());
    }
    Ok(region)
}

/// Refuses keys and requests that are too large for TiKV.
fn check_sizes<'a>(
    region: &Region,
    pairs: impl Iterator<Item = (&'a Bytes, usize)>,
) -> Result<(), Refused> {
    let mut total = 0;
    for (key, value) in pairs {
        if key.len() > KEY_BYTES_MAX {
            return Err(Refused::Text(format!(
                "key of {} bytes is too large: at most {KEY_BYTES_MAX}",
                key.len()
            )));
        }
        total += key.len() + value;
    }
    if total > WRITE_BYTES_MAX {
        return Err(Stop::Region(too_large(region, total)).into());
    }
    Ok(())
}

impl Kv {
    /// The expiry of a value that lives for `ttl` seconds, in unix seconds; zero means never.
    fn expiry(&self, ttl: u64) -> u64 {
        if ttl == 0 { 0 } else { self.engine.unix_seconds().saturating_add(ttl) }
    }

    fn alive(&self, row: Option<(Bytes, u64)>) -> Option<(Bytes, u64)> {
        let now = self.engine.unix_seconds();
        row.filter(|(_, expiry)| *expiry == 0 || *expiry > now)
    }

    async fn change_raw(&self, change: impl Fn(&mut CriticalSection<'_>)) -> Result<(), Refused> {
        self.engine
            .update(&[], |section| {
                change(section);
                Ok(((), Vec::new()))
            })
            .await?;
        Ok(())
    }
}

pub(crate) async fn get(
    kv: &Kv,
    request: kvrpcpb::RawGetRequest,
) -> Result<Response<kvrpcpb::RawGetResponse>, Status> {
    let result = async {
        let keys = [request.key];
        check(kv, "RawGet", request.context.as_ref(), &keys, &request.cf)?;
        let row = kv.engine.read_raw(&keys).await?.into_iter().next();
        let mut response = kvrpcpb::RawGetResponse::default();
        match kv.alive(row.flatten()) {
            Some((value, _)) => response.value = value,
            None => response.not_found = true,
        }
        Ok(response)
    };
    answer!(result.await, RawGetResponse, string)
}

pub(crate) async fn batch_get(
    kv: &Kv,
    request: kvrpcpb::RawBatchGetRequest,
) -> Result<Response<kvrpcpb::RawBatchGetResponse>, Status> {
    let result = async {
        check(kv, "RawBatchGet", request.context.as_ref(), &request.keys, &request.cf)?;
        let rows = kv.engine.read_raw(&request.keys).await?;
        let pairs = request
            .keys
            .into_iter()
            .zip(rows)
            .filter_map(|(key, row)| kv.alive(row).map(|(value, _)| pair(key, value)))
            .collect();
        Ok(kvrpcpb::RawBatchGetResponse { pairs, ..kvrpcpb::RawBatchGetResponse::default() })
    };
    answer!(result.await, RawBatchGetResponse, status)
}

fn pair(key: Bytes, value: Bytes) -> kvrpcpb::KvPair {
    kvrpcpb::KvPair { error: None, key, value }
}

pub(crate) async fn put(
    kv: &Kv,
    request: kvrpcpb::RawPutRequest,
) -> Result<Response<kvrpcpb::RawPutResponse>, Status> {
    let result = async {
        let region = check(kv, "RawPut", request.context.as_ref(), [&request.key], &request.cf)?;
        check_sizes(&region, [(&request.key, request.value.len())].into_iter())?;
        let expiry = kv.expiry(request.ttl);
        kv.change_raw(|section| {
            section.write_raw(request.key.clone(), Some((request.value.clone(), expiry)));
        })
        .await?;
        Ok(kvrpcpb::RawPutResponse::default())
    };
    answer!(result.await, RawPutResponse, string)
}

pub(crate) async fn batch_put(
    kv: &Kv,
    request: kvrpcpb::RawBatchPutRequest,
) -> Result<Response<kvrpcpb::RawBatchPutResponse>, Status> {
    let result = async {
        let keys = request.pairs.iter().map(|pair| &pair.key);
        let region = check(kv, "RawBatchPut", request.context.as_ref(), keys, &request.cf)?;
        let sizes = request.pairs.iter().map(|pair| (&pair.key, pair.value.len()));
        check_sizes(&region, sizes)?;
        // One TTL for all pairs, one for each, or the older field. Any other number is a mistake.
        let ttls = &request.ttls;
        if ttls.len() > 1 && ttls.len() != request.pairs.len() {
            return Err(Refused::Text(format!(
                "{} ttls for {} pairs",
                ttls.len(),
                request.pairs.len()
            )));
        }
        let expiry = |position: usize| {
            let ttl = match ttls.as_slice() {
                [] => request.ttl,
                [one] => *one,
                each => each.get(position).copied().unwrap_or_default(),
            };
            kv.expiry(ttl)
        };
        kv.change_raw(|section| {
            for (position, pair) in request.pairs.iter().enumerate() {
                let value = (pair.value.clone(), expiry(position));
                section.write_raw(pair.key.clone(), Some(value));
            }
        })
        .await?;
        Ok(kvrpcpb::RawBatchPutResponse::default())
    };
    answer!(result.await, RawBatchPutResponse, string)
}

pub(crate) async fn delete(
    kv: &Kv,
    request: kvrpcpb::RawDeleteRequest,
) -> Result<Response<kvrpcpb::RawDeleteResponse>, Status> {
    let result = async {
        let keys = [request.key];
        check(kv, "RawDelete", request.context.as_ref(), &keys, &request.cf)?;
        kv.change_raw(|section| {
            for key in &keys {
                section.write_raw(key.clone(), None);
            }
        })
        .await?;
        Ok(kvrpcpb::RawDeleteResponse::default())
    };
    answer!(result.await, RawDeleteResponse, string)
}

pub(crate) async fn batch_delete(
    kv: &Kv,
    request: kvrpcpb::RawBatchDeleteRequest,
) -> Result<Response<kvrpcpb::RawBatchDeleteResponse>, Status> {
    let result = async {
        check(kv, "RawBatchDelete", request.context.as_ref(), &request.keys, &request.cf)?;
        kv.change_raw(|section| {
            for key in &request.keys {
                section.write_raw(key.clone(), None);
            }
        })
        .await?;
        Ok(kvrpcpb::RawBatchDeleteResponse::default())
    };
    answer!(result.await, RawBatchDeleteResponse, string)
}

pub(crate) async fn scan(
    kv: &Kv,
    request: kvrpcpb::RawScanRequest,
) -> Result<Response<kvrpcpb::RawScanResponse>, Status> {
    let result = async {
        let context = request.context.as_ref();
        let region = check(kv, "RawScan", context, [], &request.cf)?;
        let kvs = scan_range(
            kv,
            &region,
            keys_of(context),
            (request.start_key, request.end_key),
            &Direction {
                reverse: request.reverse,
                key_only: request.key_only,
                limit: request.limit,
            },
        )
        .await?;
        Ok(kvrpcpb::RawScanResponse { kvs, ..kvrpcpb::RawScanResponse::default() })
    };
    answer!(result.await, RawScanResponse, status)
}

struct Direction {
    reverse: bool,
    key_only: bool,
    limit: u32,
}

/// Scans the part of a range that lies in the region. In reverse, the start is the exclusive upper
/// bound.
async fn scan_range(
    kv: &Kv,
    region: &Region,
    keys: Keys,
    (start, end): (Bytes, Bytes),
    how: &Direction,
) -> Result<Vec<kvrpcpb::KvPair>, Refused> {
    let (low, high) = if how.reverse { (end, start) } else { (start, end) };
    let (low, high) = region.clip(low, high, keys);
    let limit = usize::try_from(how.limit).unwrap_or(usize::MAX);
    let rows = kv
        .engine
        .scan_raw(KeyRange::new(low, high), how.reverse, limit, kv.engine.unix_seconds())
        .await?;
    Ok(rows
        .into_iter()
        .map(|(key, value)| pair(key, if how.key_only { Bytes::new() } else { value }))
        .collect())
}

pub(crate) async fn batch_scan(
    kv: &Kv,
    request: kvrpcpb::RawBatchScanRequest,
) -> Result<Response<kvrpcpb::RawBatchScanResponse>, Status> {
    let result = async {
        let context = request.context.as_ref();
        let region = check(kv, "RawBatchScan", context, [], &request.cf)?;
        let how = Direction {
            reverse: request.reverse,
            key_only: request.key_only,
            limit: request.each_limit,
        };
        let mut kvs = Vec::new();
        for range in request.ranges {
            let bounds = (range.start_key, range.end_key);
            kvs.extend(scan_range(kv, &region, keys_of(context), bounds, &how).await?);
        }
        Ok(kvrpcpb::RawBatchScanResponse { kvs, ..kvrpcpb::RawBatchScanResponse::default() })
    };
    answer!(result.await, RawBatchScanResponse, status)
}

pub(crate) async fn delete_range(
    kv: &Kv,
    request: kvrpcpb::RawDeleteRangeRequest,
) -> Result<Response<kvrpcpb::RawDeleteRangeResponse>, Status> {
    let result = async {
        let context = request.context.as_ref();
        let region = check(kv, "RawDeleteRange", context, [], &request.cf)?;
        let (start, end) = region.clip(request.start_key, request.end_key, keys_of(context));
        kv.engine.delete_raw_range(KeyRange::new(start, end)).await?;
        Ok(kvrpcpb::RawDeleteRangeResponse::default())
    };
    answer!(result.await, RawDeleteRangeResponse, string)
}

pub(crate) async fn key_ttl(
    kv: &Kv,
    request: kvrpcpb::RawGetKeyTtlRequest,
) -> Result<Response<kvrpcpb::RawGetKeyTtlResponse>, Status> {
    let result = async {
        let keys = [request.key];
        check(kv, "RawGetKeyTTL", request.context.as_ref(), &keys, &request.cf)?;
        let row = kv.engine.read_raw(&keys).await?.into_iter().next();
        let mut response = kvrpcpb::RawGetKeyTtlResponse::default();
        match kv.alive(row.flatten()) {
            Some((_, 0)) => {} // never expires
            Some((_, expiry)) => {
                response.ttl = expiry.saturating_sub(kv.engine.unix_seconds());
            }
            None => response.not_found = true,
        }
        Ok(response)
    };
    answer!(result.await, RawGetKeyTtlResponse, string)
}

pub(crate) async fn compare_and_swap(
    kv: &Kv,
    request: kvrpcpb::RawCasRequest,
) -> Result<Response<kvrpcpb::RawCasResponse>, Status> {
    let result = async {
        let region =
            check(kv, "RawCompareAndSwap", request.context.as_ref(), [&request.key], &request.cf)?;
        check_sizes(&region, [(&request.key, request.value.len())].into_iter())?;
        let expiry = kv.expiry(request.ttl);
        let expected = (!request.previous_not_exist).then(|| request.previous_value.clone());
        let (succeed, previous) = kv
            .engine
            .update(&[], |section| {
                let row = section.raw(&request.key).map_err(EngineError::from)?;
                let previous = kv.alive(row).map(|(value, _)| value);
                let succeed = previous == expected;
                if succeed {
                    let value = (request.value.clone(), expiry);
                    section.write_raw(request.key.clone(), Some(value));
                }
                Ok(((succeed, previous), Vec::new()))
            })
            .await?;
        Ok(kvrpcpb::RawCasResponse {
            succeed,
            previous_not_exist: previous.is_none(),
            previous_value: previous.unwrap_or_default(),
            ..kvrpcpb::RawCasResponse::default()
        })
    };
    answer!(result.await, RawCasResponse, string)
}
