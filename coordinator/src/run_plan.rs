//! Runs plans that callers supply, with retries while other transactions are in the way.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rpc::retry::Backoff;
use tokio::time::Instant;
use types::{Branch, ClientCall, Mutation, Reason, Refusal, TxId, fnv1a};

use crate::{
    attempts::{AGAIN, Attempted, Attempts},
    error::CheckoutError,
    state::Coordinator,
    tx_log::AttemptInfo,
};

/// A transaction as planned by its caller.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The participants; the primary comes first.
    pub branches: Arc<[Branch]>,
    /// The payload of each branch, in the same order.
    pub payloads: Vec<Bytes>,
}

impl Planned {
    /// The content of the call, as a hash of the branches and payloads.
    pub(crate) fn call_description(&self) -> String {
        let mut bytes = Vec::new();
        for (branch, payload) in self.branches.iter().zip(&self.payloads) {
            bytes.extend_from_slice(format!("{branch} {} ", payload.len()).as_bytes());
            bytes.extend_from_slice(payload);
        }
        format!("RunTransaction/{:x}", fnv1a(&bytes))
    }
}

impl Coordinator {
    /// Runs a plan within `time`, and retries it until the result is definite.
    ///
    /// # Errors
    /// [`CheckoutError`]: refused by a participant, or nothing definite in time; INVALID_ARGUMENT
    /// for a branch that does not exist.
    pub async fn run_plan(
        &self,
        plan: &Planned,
        call: ClientCall,
        trace_id: Option<String>,
        time: Duration,
    ) -> Result<TxId, CheckoutError> {
        let info = AttemptInfo { trace_id, ..AttemptInfo::default() };
        let mut attempts = Attempts::new(self, call, info, time);
        self.check_branches(&plan.branches, attempts.until()).await?;
        loop {
            let began = self.timestamp().await?;
            attempts.admit(began)?;
            let branches = Arc::clone(&plan.branches);
            match attempts.run(began, branches, plan.payloads.clone()).await? {
                Attempted::Committed(tx_id) => return Ok(tx_id),
                Attempted::Refused(refusals) => {
                    let Some(primary) = plan.branches.first() else {
                        return Err(CheckoutError::Unavailable);
                    };
                    return attempts.refuse(primary, began, refusals).await;
                }
                Attempted::Again(blockers) => attempts.pause("transaction", &blockers).await?,
            }
        }
    }

    /// Refuses a plan with a branch that does not exist, before anything is held. Such a branch
    /// would never vote.
    async fn check_branches(
        &self,
        branches: &[Branch],
        until: Instant,
    ) -> Result<(), CheckoutError> {
        let mut backoff = Backoff::new(self.entropy(), AGAIN.0, AGAIN.1);
        for branch in branches {
            let shards = loop {
                match self.participants().shards(&branch.service).await {
                    Ok(shards) => break shards,
                    Err(error) => tracing::debug!(%error, %branch, "not described yet"),
                }
                let pause = backoff.pause();
                if Instant::now() + pause >= until {
                    return Err(CheckoutError::Unavailable);
                }
                tokio::time::sleep(pause).await;
            };
            if branch.shard.0 >= shards && !Mutation::ShardsUnchecked.is_on() {
                let problem = format!("{} has no shard {}", branch.service, branch.shard);
                let refusal = Refusal::new(Reason::InvalidArgument);
                return Err(refusal.with("branches.branch.shard", problem).into());
            }
        }
        Ok(())
    }
}
