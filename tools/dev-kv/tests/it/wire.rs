//! Hand-written messages, for cases that the real client cannot be made to produce.

use crate::support::{Server, whole};
use bytes::Bytes;
use dev_kv::wire::kvrpcpb::{self, Op};
use dev_kv::wire::tikvpb::tikv_client::TikvClient;
use tikv_client::TransactionClient;
use tonic::transport::Channel;

/// A connection to a store with a single region.
#[derive(Clone)]
pub(crate) struct Wire {
    pub(crate) kv: TikvClient<Channel>,
}

/// Milliseconds as a timestamp.
pub(crate) fn ms(milliseconds: u64) -> u64 {
    milliseconds << 18
}

pub(crate) fn mutation(op: Op, key: &str, value: &str) -> kvrpcpb::Mutation {
    kvrpcpb::Mutation {
        op: op.into(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        assertion: 0,
    }
}

pub(crate) fn put(key: &str, value: &str) -> kvrpcpb::Mutation {
    mutation(Op::Put, key, value)
}

pub(crate) fn bytes(keys: &[&str]) -> Vec<Bytes> {
    keys.iter().map(|key| Bytes::copy_from_slice(key.as_bytes())).collect()
}

/// A prewrite whose primary is its first key.
pub(crate) fn prewrite(
    start_ts: u64,
    mutations: Vec<kvrpcpb::Mutation>,
) -> kvrpcpb::PrewriteRequest {
    kvrpcpb::PrewriteRequest {
        context: whole(),
        primary_lock: mutations[0].key.clone(),
        mutations,
        start_version: start_ts,
        lock_ttl: 3_000,
        txn_size: u64::MAX,
        ..kvrpcpb::PrewriteRequest::default()
    }
}

/// A server on a new store, a real client of it, and a connection to it.
pub(crate) async fn started() -> (Server, TransactionClient, Wire) {
    let server = Server::start().await;
    let (client, wire) = (server.client().await, Wire::new(&server).await);
    (server, client, wire)
}

impl Wire {
    pub(crate) async fn new(server: &Server) -> Self {
        Self { kv: server.kv().await }
    }

    /// A connection to the store at this address.
    pub(crate) async fn at(address: &str) -> Self {
        Self { kv: TikvClient::connect(format!("http://{address}")).await.unwrap() }
    }

    pub(crate) async fn send(
        &self,
        request: kvrpcpb::PrewriteRequest,
    ) -> kvrpcpb::PrewriteResponse {
        self.kv.clone().kv_prewrite(request).await.unwrap().into_inner()
    }

    /// Sends a prewrite that has to succeed.
    pub(crate) async fn prewrite(&self, start_ts: u64, mutations: Vec<kvrpcpb::Mutation>) {
        let response = self.send(prewrite(start_ts, mutations)).await;
        assert_eq!(response, kvrpcpb::PrewriteResponse::default());
    }

    /// Sends a prewrite that has to be refused; returns its errors.
    pub(crate) async fn refused(
        &self,
        start_ts: u64,
        mutations: Vec<kvrpcpb::Mutation>,
    ) -> Vec<kvrpcpb::KeyError> {
        let response = self.send(prewrite(start_ts, mutations)).await;
        assert!(!response.errors.is_empty(), "not refused");
        response.errors
    }

    pub(crate) async fn commit(
        &self,
        keys: &[&str],
        start_version: u64,
        commit_version: u64,
    ) -> Result<(), kvrpcpb::KeyError> {
        let request = kvrpcpb::CommitRequest {
            context: whole(),
            start_version,
            keys: bytes(keys),
            commit_version,
        };
        let response = self.kv.clone().kv_commit(request).await.unwrap().into_inner();
        response.error.map_or(Ok(()), Err)
    }

    pub(crate) async fn rollback(
        &self,
        keys: &[&str],
        start_version: u64,
    ) -> Result<(), kvrpcpb::KeyError> {
        let request =
            kvrpcpb::BatchRollbackRequest { context: whole(), start_version, keys: bytes(keys) };
        let response = self.kv.clone().kv_batch_rollback(request).await.unwrap().into_inner();
        response.error.map_or(Ok(()), Err)
    }

    pub(crate) async fn get(
        &self,
        key: &str,
        version: u64,
    ) -> Result<Option<String>, kvrpcpb::KeyError> {
        let request = kvrpcpb::GetRequest {
            context: whole(),
            key: Bytes::copy_from_slice(key.as_bytes()),
            version,
        };
        let response = self.kv.clone().kv_get(request).await.unwrap().into_inner();
        assert_eq!(response.region_error, None);
        match response.error {
            Some(error) => Err(error),
            None if response.not_found => Ok(None),
            None => Ok(Some(String::from_utf8(response.value.to_vec()).unwrap())),
        }
    }

    pub(crate) async fn status(
        &self,
        primary: &str,
        lock_ts: u64,
        current_ts: u64,
    ) -> kvrpcpb::CheckTxnStatusResponse {
        let request = kvrpcpb::CheckTxnStatusRequest {
            context: whole(),
            primary_key: Bytes::copy_from_slice(primary.as_bytes()),
            lock_ts,
            caller_start_ts: current_ts,
            current_ts,
            rollback_if_not_exist: true,
            verify_is_primary: true,
            ..kvrpcpb::CheckTxnStatusRequest::default()
        };
        self.kv.clone().kv_check_txn_status(request).await.unwrap().into_inner()
    }

    pub(crate) async fn locks(&self) -> Vec<kvrpcpb::LockInfo> {
        let request = kvrpcpb::ScanLockRequest {
            context: whole(),
            max_version: u64::MAX,
            limit: 1_000,
            ..kvrpcpb::ScanLockRequest::default()
        };
        self.kv.clone().kv_scan_lock(request).await.unwrap().into_inner().locks
    }

    pub(crate) async fn resolve(&self, start_version: u64, commit_version: u64) {
        let request = kvrpcpb::ResolveLockRequest {
            context: whole(),
            start_version,
            commit_version,
            ..kvrpcpb::ResolveLockRequest::default()
        };
        let response = self.kv.clone().kv_resolve_lock(request).await.unwrap().into_inner();
        assert_eq!(response, kvrpcpb::ResolveLockResponse::default());
    }
}
