//! Cases about dead writers and old versions.

use std::time::Duration;

use storage::{KvError, Value};
use tokio::time::{sleep, timeout};

use super::{CaseContext, Failure, Outcome, conflicts::add_once, ensure, number};

pub(super) async fn a_dropped_transaction_has_no_effect(context: CaseContext) -> Outcome {
    context.put("a", "1").await?;
    let mut txn = context.kv.begin().await?;
    txn.get(&context.key("a")).await?;
    txn.put(context.key("a"), b"2".to_vec());
    txn.delete(context.key("b"));
    drop(txn);
    context.expect("a", Some("1")).await?;
    context.put("a", "3").await?;
    context.expect("a", Some("3")).await
}

/// A commit whose future is dropped halfway, as when its process dies, does not block others for
/// long.
pub(super) async fn a_dead_writers_locks_are_cleared(context: CaseContext) -> Outcome {
    context.put("a", "0").await?;
    for step in 0..6_u64 {
        let mut txn = context.kv.begin().await?;
        txn.put(context.key("a"), format!("dead {step}").into_bytes());
        txn.put(context.key("b"), format!("dead {step}").into_bytes());
        let died = timeout(Duration::from_micros(step * 700), txn.commit());
        drop(died.await);
        let both = alive_within(&context, Duration::from_secs(30)).await?;
        ensure!(both.0 == both.1 || step == 0, "a torn transaction shows: {both:?}");
        context.write(&[("a", Some("alive")), ("b", Some("alive"))]).await?;
    }
    Ok(())
}

/// Reads both keys as soon as locks allow, within a limit.
async fn alive_within(
    context: &CaseContext,
    limit: Duration,
) -> Result<(Option<Value>, Option<Value>), Failure> {
    let read = async {
        loop {
            let at = context.kv.timestamp().await?;
            let mut snapshot = context.kv.snapshot(at);
            let a = snapshot.get(&context.key("a")).await;
            let b = snapshot.get(&context.key("b")).await;
            match (a, b) {
                (Ok(a), Ok(b)) => return Ok((a, b)),
                (Err(KvError::Locked | KvError::Unavailable(_)), _)
                | (_, Err(KvError::Locked | KvError::Unavailable(_))) => {
                    sleep(Duration::from_millis(100)).await;
                }
                (Err(error), _) | (_, Err(error)) => return Err(Failure::Kv(error)),
            }
        }
    };
    timeout(limit, read)
        .await
        .unwrap_or_else(|_| Err(Failure::Wrong("a dead writer's locks stand".to_owned())))
}

/// How to settle an undetermined commit: a new transaction reads the marker and writes it again.
/// The effect then happens once, whatever the first one did or will still do.
pub(super) async fn an_undetermined_commit_is_settled_by_its_marker(
    context: CaseContext,
) -> Outcome {
    const STEPS: u64 = 24;
    for step in 0..STEPS {
        let marker = format!("marker/{step}");
        let mut txn = context.kv.begin().await?;
        let before = number(txn.get(&context.key("counter")).await?.as_deref())?;
        txn.put(context.key(&marker), Value::new());
        txn.put(context.key("counter"), (before + 1).to_string().into_bytes());
        // The commit is given up before it is sent, on the way, or when it is done.
        let given_up = timeout(Duration::from_micros(step * 250), txn.commit()).await;
        if !matches!(given_up, Ok(Ok(_))) {
            add_once(&context, "counter", &marker).await?;
        }
    }
    let count = number(context.newest("counter").await?.as_deref())?;
    ensure!(count == STEPS, "{STEPS} increments made {count}");
    // Nothing lands afterwards either.
    sleep(Duration::from_millis(300)).await;
    let count = number(context.newest("counter").await?.as_deref())?;
    ensure!(count == STEPS, "later, {STEPS} increments made {count}");
    Ok(())
}

pub(super) async fn garbage_collection_keeps_the_newest(context: CaseContext) -> Outcome {
    context.put("a", "1").await?;
    context.put("a", "2").await?;
    context.write(&[("gone", Some("1")), ("old", Some("1"))]).await?;
    context.write(&[("gone", None)]).await?;
    let safe_point = context.kv.timestamp().await?;
    context.put("a", "3").await?;
    context.kv.collect_garbage(safe_point).await?;
    context.expect("a", Some("3")).await?;
    context.expect("old", Some("1")).await?;
    context.expect("gone", None).await?;
    // A snapshot at the safe point itself still shows everything.
    let mut snapshot = context.kv.snapshot(safe_point);
    let a = snapshot.get(&context.key("a")).await?;
    ensure!(a.as_deref() == Some(b"2"), "at the safe point stands {a:?}");
    context.put("a", "4").await?;
    context.expect("a", Some("4")).await
}

pub(super) async fn an_older_safe_point_is_harmless(context: CaseContext) -> Outcome {
    let older = context.kv.timestamp().await?;
    context.put("a", "1").await?;
    let newer = context.kv.timestamp().await?;
    context.kv.collect_garbage(newer).await?;
    context.kv.collect_garbage(older).await?;
    context.expect("a", Some("1")).await
}
