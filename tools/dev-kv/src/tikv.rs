//! The store's service: maps each RPC of TiKV that dev-kv offers to its implementation.

use crate::kv::{Kv, Stop};
use crate::raw;
use crate::store::KeyRange;
use crate::traffic::Asked;
use crate::wire::kvrpcpb;
use crate::wire::tikvpb::tikv_server::Tikv;
use tonic::{Request, Response, Status};

/// Puts a [`Stop`] into the response's error fields. A status stays a status.
macro_rules! answer {
    ($result:expr, $response:ident, $($field:ident)?) => {
        match $result {
            Ok(response) => Ok(Response::new(response)),
            Err(Stop::Region(error)) => Ok(Response::new(kvrpcpb::$response {
                region_error: Some(*error),
                ..kvrpcpb::$response::default()
            })),
            Err(Stop::Keys(errors)) => Ok(Response::new(answer!(@keys errors, $response, $($field)?))),
            Err(Stop::Status(status)) => Err(status),
        }
    };
    (@keys $errors:ident, $response:ident, error) => {
        kvrpcpb::$response {
            error: $errors.into_iter().next(),
            ..kvrpcpb::$response::default()
        }
    };
    (@keys $errors:ident, $response:ident, errors) => {
        kvrpcpb::$response {
            errors: $errors,
            ..kvrpcpb::$response::default()
        }
    };
}

#[tonic::async_trait]
impl Tikv for Kv {
    async fn kv_get(
        &self,
        request: Request<kvrpcpb::GetRequest>,
    ) -> Result<Response<kvrpcpb::GetResponse>, Status> {
        answer!(self.get(request.into_inner()).await, GetResponse, error)
    }

    async fn kv_scan(
        &self,
        request: Request<kvrpcpb::ScanRequest>,
    ) -> Result<Response<kvrpcpb::ScanResponse>, Status> {
        answer!(self.scan(request.into_inner()).await, ScanResponse, error)
    }

    async fn kv_prewrite(
        &self,
        request: Request<kvrpcpb::PrewriteRequest>,
    ) -> Result<Response<kvrpcpb::PrewriteResponse>, Status> {
        let request = request.into_inner();
        let asked = Asked::by(&request);
        let result = self.prewrite(request).await;
        if let Ok(done) = &result {
            self.engine.counters().traffic.prewritten(asked, done.one_pc_commit_ts > 0);
        }
        answer!(result, PrewriteResponse, errors)
    }

    async fn kv_pessimistic_lock(
        &self,
        request: Request<kvrpcpb::PessimisticLockRequest>,
    ) -> Result<Response<kvrpcpb::PessimisticLockResponse>, Status> {
        answer!(self.pessimistic_lock(request.into_inner()).await, PessimisticLockResponse, errors)
    }

    async fn kv_pessimistic_rollback(
        &self,
        request: Request<kvrpcpb::PessimisticRollbackRequest>,
    ) -> Result<Response<kvrpcpb::PessimisticRollbackResponse>, Status> {
        answer!(
            self.pessimistic_rollback(request.into_inner()).await,
            PessimisticRollbackResponse,
            errors
        )
    }

    async fn kv_txn_heart_beat(
        &self,
        request: Request<kvrpcpb::TxnHeartBeatRequest>,
    ) -> Result<Response<kvrpcpb::TxnHeartBeatResponse>, Status> {
        answer!(self.heart_beat(request.into_inner()).await, TxnHeartBeatResponse, error)
    }

    async fn kv_check_txn_status(
        &self,
        request: Request<kvrpcpb::CheckTxnStatusRequest>,
    ) -> Result<Response<kvrpcpb::CheckTxnStatusResponse>, Status> {
        answer!(self.check_txn_status(request.into_inner()).await, CheckTxnStatusResponse, error)
    }

    async fn kv_check_secondary_locks(
        &self,
        request: Request<kvrpcpb::CheckSecondaryLocksRequest>,
    ) -> Result<Response<kvrpcpb::CheckSecondaryLocksResponse>, Status> {
        answer!(
            self.check_secondary_locks(request.into_inner()).await,
            CheckSecondaryLocksResponse,
            error
        )
    }

    async fn kv_commit(
        &self,
        request: Request<kvrpcpb::CommitRequest>,
    ) -> Result<Response<kvrpcpb::CommitResponse>, Status> {
        answer!(self.commit(request.into_inner()).await, CommitResponse, error)
    }

    async fn kv_batch_get(
        &self,
        request: Request<kvrpcpb::BatchGetRequest>,
    ) -> Result<Response<kvrpcpb::BatchGetResponse>, Status> {
        answer!(self.batch_get(request.into_inner()).await, BatchGetResponse, error)
    }

    async fn kv_batch_rollback(
        &self,
        request: Request<kvrpcpb::BatchRollbackRequest>,
    ) -> Result<Response<kvrpcpb::BatchRollbackResponse>, Status> {
        answer!(self.batch_rollback(request.into_inner()).await, BatchRollbackResponse, error)
    }

    async fn kv_scan_lock(
        &self,
        request: Request<kvrpcpb::ScanLockRequest>,
    ) -> Result<Response<kvrpcpb::ScanLockResponse>, Status> {
        answer!(self.scan_lock(request.into_inner()).await, ScanLockResponse, error)
    }

    async fn kv_resolve_lock(
        &self,
        request: Request<kvrpcpb::ResolveLockRequest>,
    ) -> Result<Response<kvrpcpb::ResolveLockResponse>, Status> {
        answer!(self.resolve_lock(request.into_inner()).await, ResolveLockResponse, error)
    }

    async fn unsafe_destroy_range(
        &self,
        request: Request<kvrpcpb::UnsafeDestroyRangeRequest>,
    ) -> Result<Response<kvrpcpb::UnsafeDestroyRangeResponse>, Status> {
        let request = request.into_inner();
        let range = KeyRange::new(request.start_key, request.end_key);
        let done = self.engine.destroy_range(range).await;
        Ok(Response::new(kvrpcpb::UnsafeDestroyRangeResponse {
            error: done.err().map_or_else(String::new, |error| error.to_string()),
            ..kvrpcpb::UnsafeDestroyRangeResponse::default()
        }))
    }

    async fn raw_get(
        &self,
        request: Request<kvrpcpb::RawGetRequest>,
    ) -> Result<Response<kvrpcpb::RawGetResponse>, Status> {
        raw::get(self, request.into_inner()).await
    }

    async fn raw_batch_get(
        &self,
        request: Request<kvrpcpb::RawBatchGetRequest>,
    ) -> Result<Response<kvrpcpb::RawBatchGetResponse>, Status> {
        raw::batch_get(self, request.into_inner()).await
    }

    async fn raw_put(
        &self,
        request: Request<kvrpcpb::RawPutRequest>,
    ) -> Result<Response<kvrpcpb::RawPutResponse>, Status> {
        raw::put(self, request.into_inner()).await
    }

    async fn raw_batch_put(
        &self,
        request: Request<kvrpcpb::RawBatchPutRequest>,
    ) -> Result<Response<kvrpcpb::RawBatchPutResponse>, Status> {
        raw::batch_put(self, request.into_inner()).await
    }

    async fn raw_delete(
        &self,
        request: Request<kvrpcpb::RawDeleteRequest>,
    ) -> Result<Response<kvrpcpb::RawDeleteResponse>, Status> {
        raw::delete(self, request.into_inner()).await
    }

    async fn raw_batch_delete(
        &self,
        request: Request<kvrpcpb::RawBatchDeleteRequest>,
    ) -> Result<Response<kvrpcpb::RawBatchDeleteResponse>, Status> {
        raw::batch_delete(self, request.into_inner()).await
    }

    async fn raw_scan(
        &self,
        request: Request<kvrpcpb::RawScanRequest>,
    ) -> Result<Response<kvrpcpb::RawScanResponse>, Status> {
        raw::scan(self, request.into_inner()).await
    }

    async fn raw_delete_range(
        &self,
        request: Request<kvrpcpb::RawDeleteRangeRequest>,
    ) -> Result<Response<kvrpcpb::RawDeleteRangeResponse>, Status> {
        raw::delete_range(self, request.into_inner()).await
    }

    async fn raw_batch_scan(
        &self,
        request: Request<kvrpcpb::RawBatchScanRequest>,
    ) -> Result<Response<kvrpcpb::RawBatchScanResponse>, Status> {
        raw::batch_scan(self, request.into_inner()).await
    }

    async fn raw_get_key_ttl(
        &self,
        request: Request<kvrpcpb::RawGetKeyTtlRequest>,
    ) -> Result<Response<kvrpcpb::RawGetKeyTtlResponse>, Status> {
        raw::key_ttl(self, request.into_inner()).await
    }

    async fn raw_compare_and_swap(
        &self,
        request: Request<kvrpcpb::RawCasRequest>,
    ) -> Result<Response<kvrpcpb::RawCasResponse>, Status> {
        raw::compare_and_swap(self, request.into_inner()).await
    }
}
