//! Cases about timestamps.

use std::collections::BTreeSet;

use tokio::task::JoinSet;
use types::Timestamp;

use super::{CaseContext, Failure, Outcome, ensure};

pub(super) async fn timestamps_rise_under_concurrency(context: CaseContext) -> Outcome {
    let before = context.kv.timestamp().await?;
    let mut tasks: JoinSet<Result<Timestamp, Failure>> = JoinSet::new();
    for _ in 0..32 {
        let context = context.clone();
        tasks.spawn(async move {
            let mut last = before;
            for _ in 0..20 {
                let next = context.kv.timestamp().await?;
                ensure!(next > last, "{next:?} came after {last:?}");
                last = next;
            }
            Ok(last)
        });
    }
    let mut latest = before;
    for outcome in tasks.join_all().await {
        latest = latest.max(outcome?);
    }
    let after = context.kv.timestamp().await?;
    ensure!(after > latest, "{after:?} came after {latest:?}");
    Ok(())
}

pub(super) async fn each_transaction_begins_at_its_own_moment(context: CaseContext) -> Outcome {
    let before = context.kv.timestamp().await?;
    let mut tasks: JoinSet<Result<Timestamp, Failure>> = JoinSet::new();
    for _ in 0..64 {
        let context = context.clone();
        tasks.spawn(async move {
            let start = context.kv.begin().await?.read_ts();
            Ok(start)
        });
    }
    let mut starts = BTreeSet::new();
    for outcome in tasks.join_all().await {
        let start = outcome?;
        ensure!(start > before, "{start:?} began after {before:?}");
        ensure!(starts.insert(start), "two transactions began at {start:?}");
    }
    let after = context.kv.timestamp().await?;
    ensure!(
        starts.last().is_some_and(|last| after > *last),
        "{after:?} came after {:?}",
        starts.last()
    );
    Ok(())
}

/// Real-time order, which lanes and reads rely on: a timestamp requested after a commit was
/// acknowledged, by any task, shows that commit.
pub(super) async fn what_is_committed_is_seen_from_then_on(context: CaseContext) -> Outcome {
    let mut tasks: JoinSet<Outcome> = JoinSet::new();
    for task in 0..4_u8 {
        let context = context.clone();
        tasks.spawn(async move {
            let key = context.key([task]);
            let other = context.key([task, b'2']);
            for step in 0..25_u8 {
                let mut txn = context.kv.begin().await?;
                txn.put(key.clone(), vec![step]);
                txn.put(other.clone(), vec![step]);
                let begun = txn.read_ts();
                let committed = txn.commit().await?;
                let at = context.kv.timestamp().await?;
                ensure!(
                    begun < committed && committed < at,
                    "begun at {begun:?}, committed at {committed:?}, seen at {at:?}"
                );
                let seen = context.kv.snapshot(committed).get(&key).await?;
                ensure!(seen == Some(vec![step]), "at its commit timestamp stands {seen:?}");
                let mut snapshot = context.kv.snapshot(at);
                for key in [&key, &other] {
                    let seen = snapshot.get(key).await?;
                    ensure!(
                        seen == Some(vec![step]),
                        "step {step} committed, then at {at:?} stands {seen:?}"
                    );
                }
            }
            Ok(())
        });
    }
    for outcome in tasks.join_all().await {
        outcome?;
    }
    Ok(())
}
