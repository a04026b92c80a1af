//! The store's calls. Each one checks region and sizes, asks the engine, and converts the answer.

use crate::cluster::Cluster;
use crate::convert::{action, key_error, lock_info, prewrite};
use crate::engine::{Engine, EngineError, ScanRequest, UpdateError};
use crate::faults::Faults;
use crate::model::{self, CheckStatus, LockRequest, Refusal, SecondaryStatus, Ts, TxnStatus};
use crate::regions::{Keys, Region};
use crate::store::KeyRange;
use crate::wire::{errorpb, kvrpcpb};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::Status;

/// Bytes that one request may write; TiKV's limit for a raft entry.
pub(crate) const WRITE_BYTES_MAX: usize = 8 << 20;

/// How long a pessimistic lock waits when the client does not say.
const LOCK_WAIT_DEFAULT: Duration = Duration::from_secs(1);
/// The longest wait that a client may ask for.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);
/// How often a waiter looks again, in case it missed the wake-up.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// The store's service.
#[derive(Debug, Clone)]
pub(crate) struct Kv {
    pub(crate) engine: Arc<Engine>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) faults: Arc<Faults>,
}

type RegionError = Box<errorpb::Error>;

/// Why a call has no answer.
pub(crate) enum Stop {
    /// The region cannot serve it; the client tries elsewhere or later.
    Region(RegionError),
    /// The rules forbid it.
    Keys(Vec<kvrpcpb::KeyError>),
    /// The call failed.
    Status(Status),
}

impl From<RegionError> for Stop {
    fn from(error: RegionError) -> Self {
        Self::Region(error)
    }
}

impl From<EngineError> for Stop {
    fn from(error: EngineError) -> Self {
        match error {
            // Nothing was done, and nothing can be until there is space.
            EngineError::ReadOnly(why) => Self::Region(busy(format!("writes fail: {why}"))),
            // The outcome is unknown.
            EngineError::WriteFailed(_) => Self::Status(Status::unavailable(error.to_string())),
            EngineError::ReadFailed(_) | EngineError::WindowUsedUp => {
                Self::Status(Status::internal(error.to_string()))
            }
        }
    }
}

impl From<UpdateError> for Stop {
    fn from(error: UpdateError) -> Self {
        match error {
            UpdateError::Refused(refusals) => {
                Self::Keys(refusals.into_iter().map(key_error).collect())
            }
            UpdateError::Engine(error) => error.into(),
        }
    }
}

pub(crate) fn busy(reason: String) -> RegionError {
    Box::new(errorpb::Error {
        message: "server is busy".to_owned(),
        server_is_busy: Some(errorpb::ServerIsBusy { reason, backoff_ms: 0 }),
        ..errorpb::Error::default()
    })
}

pub(crate) fn too_large(region: &Region, bytes: usize) -> RegionError {
    Box::new(errorpb::Error {
        message: format!("{bytes} bytes are too large for one request"),
        raft_entry_too_large: Some(errorpb::RaftEntryTooLarge {
            region_id: region.id,
            entry_size: bytes as u64,
        }),
        ..errorpb::Error::default()
    })
}

impl Kv {
    /// Checks a request that names transactional keys.
    async fn check(
        &self,
        rpc: &str,
        context: Option<&kvrpcpb::Context>,
        keys: &[Bytes],
    ) -> Result<Region, Stop> {
        if self.faults.splits(rpc)
            && let Some(key) = keys.first()
        {
            self.cluster.split(key).await?;
        }
        let region = self.cluster.regions().check(context, keys, Keys::Plain)?;
        if let Some(error) = self.faults.region_error(rpc, &region) {
            return Err(error.into());
        }
        Ok(region)
    }

    /// Checks the timestamp of a read. One far in the future would push later commits that far
    /// ahead.
    fn version(&self, version: u64) -> Result<Ts, Stop> {
        let version = Ts(version);
        if self.engine.is_far_future(version) {
            let text = format!("read timestamp {} is far in the future", version.0);
            return Err(Stop::Keys(vec![key_error(Refusal::Abort(text))]));
        }
        Ok(version)
    }

    pub(crate) async fn get(
        &self,
        request: kvrpcpb::GetRequest,
    ) -> Result<kvrpcpb::GetResponse, Stop> {
        let keys = [request.key];
        self.check("KvGet", request.context.as_ref(), &keys).await?;
        let bypass = bypass(request.context.as_ref());
        let version = self.version(request.version)?;
        let answers = self.engine.read(&keys, version, bypass).await?;
        let mut response = kvrpcpb::GetResponse::default();
        for (key, answer) in keys.into_iter().zip(answers) {
            match answer {
                Ok(Some(value)) => response.value = value,
                Ok(None) => response.not_found = true,
                Err(lock) => response.error = Some(locked(key, lock)),
            }
        }
        Ok(response)
    }

    pub(crate) async fn batch_get(
        &self,
        request: kvrpcpb::BatchGetRequest,
    ) -> Result<kvrpcpb::BatchGetResponse, Stop> {
        self.check("KvBatchGet", request.context.as_ref(), &request.keys).await?;
        let bypass = bypass(request.context.as_ref());
        let version = self.version(request.version)?;
        let answers = self.engine.read(&request.keys, version, bypass).await?;
        let mut pairs = Vec::with_capacity(answers.len());
        for (key, answer) in request.keys.into_iter().zip(answers) {
            match answer {
                Ok(Some(value)) => pairs.push(kvrpcpb::KvPair { error: None, key, value }),
                Ok(None) => {}
                Err(lock) => pairs.push(locked_pair(key, lock)),
            }
        }
        Ok(kvrpcpb::BatchGetResponse { pairs, ..kvrpcpb::BatchGetResponse::default() })
    }

    pub(crate) async fn scan(
        &self,
        request: kvrpcpb::ScanRequest,
    ) -> Result<kvrpcpb::ScanResponse, Stop> {
        let region = self.check("KvScan", request.context.as_ref(), &[]).await?;
        let bypass = bypass(request.context.as_ref()).to_vec();
        let (low, high) = if request.reverse {
            (request.end_key, request.start_key)
        } else {
            (request.start_key, request.end_key)
        };
        let (low, high) = region.clip(low, high, Keys::Plain);
        let scan = ScanRequest {
            range: KeyRange::new(low, high),
            limit: usize::try_from(request.limit).unwrap_or(usize::MAX),
            version: self.version(request.version)?,
            reverse: request.reverse,
            bypass,
        };
        let scanned = self.engine.scan(scan).await?;
        let pairs = scanned
            .into_iter()
            .map(|(key, value)| match value {
                Ok(value) => kvrpcpb::KvPair {
                    error: None,
                    key,
                    value: if request.key_only { Bytes::new() } else { value },
                },
                Err(lock) => locked_pair(key, lock),
            })
            .collect();
        Ok(kvrpcpb::ScanResponse { pairs, ..kvrpcpb::ScanResponse::default() })
    }

    pub(crate) async fn prewrite(
        &self,
        request: kvrpcpb::PrewriteRequest,
    ) -> Result<kvrpcpb::PrewriteResponse, Stop> {
        let keys: Vec<Bytes> =
            request.mutations.iter().map(|mutation| mutation.key.clone()).collect();
        let region = self.check("KvPrewrite", request.context.as_ref(), &keys).await?;
        let bytes = request
            .mutations
            .iter()
            .map(|mutation| mutation.key.len() + mutation.value.len())
            .sum();
        if bytes > WRITE_BYTES_MAX {
            return Err(too_large(&region, bytes).into());
        }
        let mut request = prewrite(request).map_err(Stop::Status)?;
        if (request.one_phase || request.async_commit.is_some())
            && self.faults.falls_back("KvPrewrite")
        {
            request.one_phase = false;
            request.async_commit = None;
        }
        let needs_ts = request.one_phase || request.async_commit.is_some();
        if needs_ts {
            self.engine.prepare_timestamps().await?;
        }
        let done = self
            .engine
            .update(&keys, |section| {
                let fresh = if needs_ts { section.fresh_ts()? } else { Ts(0) };
                let mut effects = Vec::with_capacity(request.mutations.len());
                let done = model::prewrite(section, &request, fresh, &mut effects)?;
                Ok((done, effects))
            })
            .await?;
        Ok(kvrpcpb::PrewriteResponse {
            min_commit_ts: done.min_commit_ts.0,
            one_pc_commit_ts: done.one_phase_commit_ts.0,
            ..kvrpcpb::PrewriteResponse::default()
        })
    }

    pub(crate) async fn commit(
        &self,
        request: kvrpcpb::CommitRequest,
    ) -> Result<kvrpcpb::CommitResponse, Stop> {
        self.check("KvCommit", request.context.as_ref(), &request.keys).await?;
        let start_ts = Ts(request.start_version);
        let commit_ts = Ts(request.commit_version);
        if self.faults.commit_ts_expires("KvCommit") {
            let key = request.keys.first().cloned().unwrap_or_default();
            return Err(Stop::Keys(vec![key_error(Refusal::CommitTsExpired {
                start_ts,
                attempted: commit_ts,
                key,
                min_commit_ts: Ts(commit_ts.0.saturating_add(1)),
            })]));
        }
        self.engine
            .update(&request.keys, |section| {
                let mut effects = Vec::with_capacity(2 * request.keys.len());
                model::commit(section, &request.keys, start_ts, commit_ts, &mut effects)?;
                Ok(((), effects))
            })
            .await?;
        Ok(kvrpcpb::CommitResponse {
            commit_version: commit_ts.0,
            ..kvrpcpb::CommitResponse::default()
        })
    }

    pub(crate) async fn batch_rollback(
        &self,
        request: kvrpcpb::BatchRollbackRequest,
    ) -> Result<kvrpcpb::BatchRollbackResponse, Stop> {
        self.check("KvBatchRollback", request.context.as_ref(), &request.keys).await?;
        let start_ts = Ts(request.start_version);
        self.engine
            .update(&request.keys, |section| {
                let mut effects = Vec::new();
                model::rollback(section, &request.keys, start_ts, &mut effects)?;
                Ok(((), effects))
            })
            .await?;
        Ok(kvrpcpb::BatchRollbackResponse::default())
    }

    pub(crate) async fn check_txn_status(
        &self,
        request: kvrpcpb::CheckTxnStatusRequest,
    ) -> Result<kvrpcpb::CheckTxnStatusResponse, Stop> {
        let keys = [request.primary_key.clone()];
        self.check("KvCheckTxnStatus", request.context.as_ref(), &keys).await?;
        let question = CheckStatus {
            primary: request.primary_key,
            lock_ts: Ts(request.lock_ts),
            caller_start_ts: Ts(request.caller_start_ts),
            current_ts: Ts(request.current_ts),
            rollback_if_not_exist: request.rollback_if_not_exist,
            force_sync_commit: request.force_sync_commit,
            resolving_pessimistic_lock: request.resolving_pessimistic_lock,
            verify_is_primary: request.verify_is_primary,
        };
        let status = self
            .engine
            .update(&keys, |section| {
                let mut effects = Vec::new();
                let status = model::check_txn_status(section, &question, &mut effects)?;
                Ok((status, effects))
            })
            .await?;
        // Only these three shapes are legal; clients panic on others.
        let mut response = kvrpcpb::CheckTxnStatusResponse::default();
        match status {
            TxnStatus::RolledBack(done) => response.action = action(done),
            TxnStatus::Committed(commit_ts) => response.commit_version = commit_ts.0,
            TxnStatus::Alive(lock, done) => {
                // Zero would look like no lock to the client.
                response.lock_ttl = lock.ttl_ms.max(1);
                response.action = action(done);
                response.lock_info = Some(lock_info(&question.primary, &lock));
            }
        }
        Ok(response)
    }

    pub(crate) async fn check_secondary_locks(
        &self,
        request: kvrpcpb::CheckSecondaryLocksRequest,
    ) -> Result<kvrpcpb::CheckSecondaryLocksResponse, Stop> {
        self.check("KvCheckSecondaryLocks", request.context.as_ref(), &request.keys).await?;
        let start_ts = Ts(request.start_version);
        let status = self
            .engine
            .update(&request.keys, |section| {
                let mut effects = Vec::new();
                let status =
                    model::check_secondary_locks(section, &request.keys, start_ts, &mut effects)?;
                Ok((status, effects))
            })
            .await?;
        let mut response = kvrpcpb::CheckSecondaryLocksResponse::default();
        match status {
            SecondaryStatus::Locked(locks) => {
                response.locks = locks.iter().map(|(key, lock)| lock_info(key, lock)).collect();
            }
            SecondaryStatus::Committed(commit_ts) => response.commit_ts = commit_ts.0,
            SecondaryStatus::RolledBack => {}
        }
        Ok(response)
    }

    pub(crate) async fn scan_lock(
        &self,
        request: kvrpcpb::ScanLockRequest,
    ) -> Result<kvrpcpb::ScanLockResponse, Stop> {
        let region = self.check("KvScanLock", request.context.as_ref(), &[]).await?;
        let (start, end) = region.clip(request.start_key, request.end_key, Keys::Plain);
        let limit = match usize::try_from(request.limit) {
            Ok(0) | Err(_) => usize::MAX, // TiKV: no limit
            Ok(limit) => limit,
        };
        let locks = self
            .engine
            .scan_locks(&KeyRange::new(start, end), Ts(request.max_version), limit)
            .await?;
        Ok(kvrpcpb::ScanLockResponse {
            locks: locks.iter().map(|(key, lock)| lock_info(key, lock)).collect(),
            ..kvrpcpb::ScanLockResponse::default()
        })
    }

    pub(crate) async fn resolve_lock(
        &self,
        request: kvrpcpb::ResolveLockRequest,
    ) -> Result<kvrpcpb::ResolveLockResponse, Stop> {
        let region = self.check("KvResolveLock", request.context.as_ref(), &request.keys).await?;
        let within = KeyRange { start: region.start, end: region.end };
        let mut decided: Vec<(Ts, Ts)> =
            request.txn_infos.iter().map(|info| (Ts(info.txn), Ts(info.status))).collect();
        if decided.is_empty() {
            decided.push((Ts(request.start_version), Ts(request.commit_version)));
        }
        for (start_ts, commit_ts) in decided {
            self.engine
                .update(&[], |section| {
                    let keys: Vec<Bytes> = section
                        .locks_of(start_ts)
                        .into_iter()
                        .filter(|key| within.contains(key))
                        .filter(|key| request.keys.is_empty() || request.keys.contains(key))
                        .collect();
                    let mut effects = Vec::with_capacity(2 * keys.len());
                    model::resolve(section, &keys, start_ts, commit_ts, &mut effects)?;
                    Ok(((), effects))
                })
                .await?;
        }
        Ok(kvrpcpb::ResolveLockResponse::default())
    }

    pub(crate) async fn pessimistic_lock(
        &self,
        request: kvrpcpb::PessimisticLockRequest,
    ) -> Result<kvrpcpb::PessimisticLockResponse, Stop> {
        let keys: Vec<Bytes> =
            request.mutations.iter().map(|mutation| mutation.key.clone()).collect();
        self.check("KvPessimisticLock", request.context.as_ref(), &keys).await?;
        let until = Instant::now() + lock_wait(request.wait_timeout);
        let lock = LockRequest {
            keys: request
                .mutations
                .iter()
                .map(|mutation| {
                    let must_not_exist = mutation.assertion == kvrpcpb::Assertion::NotExist as i32;
                    (mutation.key.clone(), must_not_exist)
                })
                .collect(),
            primary: request.primary_lock,
            start_ts: Ts(request.start_version),
            ttl_ms: request.lock_ttl,
            for_update_ts: Ts(request.for_update_ts),
            min_commit_ts: Ts(request.min_commit_ts),
            return_values: request.return_values,
        };
        let values = loop {
            let result = self
                .engine
                .update(&keys, |section| {
                    let mut effects = Vec::with_capacity(lock.keys.len());
                    let values = model::pessimistic_lock(section, &lock, &mut effects)?;
                    Ok((values, effects))
                })
                .await;
            let left = until.saturating_duration_since(Instant::now());
            match result {
                Err(UpdateError::Refused(refusals))
                    if matches!(refusals.as_slice(), [Refusal::Locked { .. }])
                        && !left.is_zero() =>
                {
                    self.engine.some_unlock(left.min(LOCK_POLL)).await;
                }
                other => break other?,
            }
        };
        let mut response = kvrpcpb::PessimisticLockResponse::default();
        for value in values {
            response.not_founds.push(value.is_none());
            response.values.push(value.unwrap_or_default());
        }
        Ok(response)
    }

    pub(crate) async fn pessimistic_rollback(
        &self,
        request: kvrpcpb::PessimisticRollbackRequest,
    ) -> Result<kvrpcpb::PessimisticRollbackResponse, Stop> {
        self.check("KVPessimisticRollback", request.context.as_ref(), &request.keys).await?;
        let start_ts = Ts(request.start_version);
        let for_update_ts = Ts(request.for_update_ts);
        self.engine
            .update(&request.keys, |section| {
                let mut effects = Vec::new();
                model::pessimistic_rollback(
                    section,
                    &request.keys,
                    start_ts,
                    for_update_ts,
                    &mut effects,
                )?;
                Ok(((), effects))
            })
            .await?;
        Ok(kvrpcpb::PessimisticRollbackResponse::default())
    }

    pub(crate) async fn heart_beat(
        &self,
        request: kvrpcpb::TxnHeartBeatRequest,
    ) -> Result<kvrpcpb::TxnHeartBeatResponse, Stop> {
        let keys = [request.primary_lock];
        self.check("KvTxnHeartBeat", request.context.as_ref(), &keys).await?;
        let [primary] = &keys;
        let start_ts = Ts(request.start_version);
        let lock_ttl = self
            .engine
            .update(&keys, |section| {
                let mut effects = Vec::new();
                let ttl = model::heart_beat(
                    section,
                    primary,
                    start_ts,
                    request.advise_lock_ttl,
                    &mut effects,
                )?;
                Ok((ttl, effects))
            })
            .await?;
        Ok(kvrpcpb::TxnHeartBeatResponse { lock_ttl, ..kvrpcpb::TxnHeartBeatResponse::default() })
    }
}

fn bypass(context: Option<&kvrpcpb::Context>) -> &[u64] {
    context.map_or(&[], |context| context.resolved_locks.as_slice())
}

fn locked(key: Bytes, lock: Box<model::Lock>) -> kvrpcpb::KeyError {
    key_error(Refusal::Locked { key, lock })
}

fn locked_pair(key: Bytes, lock: Box<model::Lock>) -> kvrpcpb::KvPair {
    kvrpcpb::KvPair { error: Some(locked(key.clone(), lock)), key, value: Bytes::new() }
}

/// The wait that a client asks for in milliseconds: zero means the default, less means no wait.
fn lock_wait(milliseconds: i64) -> Duration {
    match u64::try_from(milliseconds) {
        Ok(0) => LOCK_WAIT_DEFAULT,
        Ok(asked) => Duration::from_millis(asked).min(LOCK_WAIT_MAX),
        Err(_) => Duration::ZERO,
    }
}
