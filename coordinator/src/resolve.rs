//! Finds the outcome of a transaction that another process began.

use std::time::Duration;

use futures::FutureExt as _;
use proto::participant::v1::{
    QueryRequest, operation::Operation as Op, operation_result::Result as OpResult,
};
use rpc::retry::Backoff;
use twopc::message::Outcome;
use types::{BranchState, TxMeta};

use crate::state::Coordinator;

/// Shortest and longest pause before a transaction is queried again.
const QUERY_PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// How far our clock may lag behind the store's, in milliseconds. The store is asked for the time
/// only once our clock is within this of the deadline, or past it.
const CLOCK_DOUBT_MS: u64 = 1_000;

/// The outcome of a resolution; `None` if the transaction broke the protocol or the process is
/// stopping.
pub type Resolution = Option<Outcome>;

impl Coordinator {
    /// Finds the outcome of a transaction, and completes it if that is due. Past the deadline it
    /// fences the branches that have not voted; before, it only asks them.
    pub async fn resolve(&self, meta: TxMeta) -> Resolution {
        let tx_id = meta.tx_id;
        let begin = || {
            // A separate task, so that it ends and leaves the list even if every caller goes away.
            let this = self.clone();
            let task = self.spawn(async move {
                let resolution = this.resolve_alone(meta).await;
                this.resolving().end(&tx_id);
                resolution
            });
            task.map(|ended| ended.unwrap_or(None)).boxed()
        };
        self.resolving().join(tx_id, begin).await
    }

    async fn resolve_alone(&self, meta: TxMeta) -> Resolution {
        let may_fence = self.is_past(&meta).await;
        match self.begin_resolution(meta, may_fence).await {
            Ok(Ok(ended)) => Some(ended.outcome),
            // The driver has logged any violation. A driver that is gone was stopped with the
            // process.
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Whether the deadline has passed by the store's clock. Our own clock only saves early calls
    /// to the store.
    async fn is_past(&self, meta: &TxMeta) -> bool {
        if self.now().plus_ms(CLOCK_DOUBT_MS) < meta.deadline {
            return false;
        }
        match self.kv().timestamp().await {
            Ok(now) => now.physical() > meta.deadline,
            Err(_) => false,
        }
    }

    /// Waits until a transaction is out of the way: queries it before its deadline, and resolves it
    /// after.
    pub(crate) async fn wait_for(&self, meta: &TxMeta) {
        let mut backoff = Backoff::new(self.entropy(), QUERY_PAUSE.0, QUERY_PAUSE.1);
        loop {
            if self.now() > meta.deadline {
                self.resolve(meta.clone()).await;
                return;
            }
            if self.is_out_of_the_way(meta).await {
                return;
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    async fn is_out_of_the_way(&self, meta: &TxMeta) -> bool {
        let Some(primary) = meta.primary() else { return true };
        let query = Op::Query(QueryRequest {
            tx: Some(meta.into()),
            branch: Some(primary.into()),
            fence: false,
        });
        match self.participants().send(primary, query.into(), false).await {
            Ok(OpResult::Query(response)) => {
                let state = proto::convert::branch_state(response.state);
                state.is_ok_and(|state| state != BranchState::Prepared)
            }
            Ok(
                OpResult::Prepare(_)
                | OpResult::Commit(_)
                | OpResult::Abort(_)
                | OpResult::Forget(_)
                | OpResult::Read(_)
                | OpResult::Refuse(_)
                | OpResult::Error(_)
                | OpResult::Waiting(_),
            )
            | Err(_) => false,
        }
    }
}
