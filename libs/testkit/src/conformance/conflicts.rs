//! Cases about concurrent writers.

use std::time::Duration;

use storage::{CommitError, Key, Value};
use tokio::{task::JoinSet, time::sleep};
use types::Timestamp;

use super::{CaseContext, Failure, Outcome, ensure, number};

/// Fails unless a commit was rejected as a conflict.
fn expect_conflict(outcome: &Result<Timestamp, CommitError>, what: &str) -> Outcome {
    ensure!(*outcome == Err(CommitError::Conflict), "{what} should conflict: {outcome:?}");
    Ok(())
}

pub(super) async fn of_two_writers_the_first_to_commit_wins(context: CaseContext) -> Outcome {
    for elder_first in [true, false] {
        let name = if elder_first { "elder" } else { "younger" };
        context.put(name, "0").await?;
        let mut elder = context.kv.begin().await?;
        let mut younger = context.kv.begin().await?;
        elder.get(&context.key(name)).await?;
        younger.get(&context.key(name)).await?;
        elder.put(context.key(name), b"elder".to_vec());
        younger.put(context.key(name), b"younger".to_vec());
        let (first, second) = if elder_first { (elder, younger) } else { (younger, elder) };
        first.commit().await?;
        expect_conflict(&second.commit().await, "the second commit")?;
        context.expect(name, Some(name)).await?;
    }
    Ok(())
}

pub(super) async fn blind_writes_conflict(context: CaseContext) -> Outcome {
    let mut first = context.kv.begin().await?;
    let mut second = context.kv.begin().await?;
    first.put(context.key("a"), b"1".to_vec());
    second.put(context.key("other"), b"2".to_vec());
    second.put(context.key("a"), b"2".to_vec());
    first.commit().await?;
    expect_conflict(&second.commit().await, "a blind write")?;
    context.expect("a", Some("1")).await?;
    context.expect("other", None).await
}

pub(super) async fn an_insert_finds_what_its_snapshot_does_not_show(
    context: CaseContext,
) -> Outcome {
    // The value is older than the transaction: only an insert conflicts with it.
    context.put("a", "1").await?;
    let mut inserting = context.kv.begin().await?;
    inserting.put(context.key("beside"), b"2".to_vec());
    inserting.insert(context.key("a"), b"2".to_vec());
    expect_conflict(&inserting.commit().await, "an insert of what is there")?;
    context.expect("a", Some("1")).await?;
    context.expect("beside", None).await?;
    // The value is newer than the transaction.
    let mut inserting = context.kv.begin().await?;
    inserting.insert(context.key("b"), b"2".to_vec());
    context.put("b", "1").await?;
    expect_conflict(&inserting.commit().await, "an insert of what came meanwhile")?;
    // Keys that never had a value, and keys whose value was removed, can be inserted.
    let mut removing = context.kv.begin().await?;
    removing.delete(context.key("b"));
    removing.commit().await?;
    let mut inserting = context.kv.begin().await?;
    inserting.insert(context.key("b"), b"3".to_vec());
    inserting.insert(context.key("c"), b"3".to_vec());
    inserting.commit().await?;
    context.expect("b", Some("3")).await?;
    context.expect("c", Some("3")).await
}

pub(super) async fn removals_conflict(context: CaseContext) -> Outcome {
    context.put("a", "1").await?;
    let mut putting = context.kv.begin().await?;
    let mut removing = context.kv.begin().await?;
    let mut again = context.kv.begin().await?;
    removing.delete(context.key("a"));
    putting.put(context.key("a"), b"2".to_vec());
    again.delete(context.key("a"));
    removing.commit().await?;
    expect_conflict(&putting.commit().await, "a put after a removal")?;
    expect_conflict(&again.commit().await, "a removal after a removal")?;
    context.expect("a", None).await?;
    // A key without a value can be removed, and that conflicts too.
    let mut putting = context.kv.begin().await?;
    putting.put(context.key("never"), b"2".to_vec());
    context.write(&[("never", None)]).await?;
    expect_conflict(&putting.commit().await, "a put after a removal of nothing")
}

pub(super) async fn reads_alone_do_not_conflict(context: CaseContext) -> Outcome {
    context.write(&[("a", Some("1")), ("b", Some("1"))]).await?;
    let mut left = context.kv.begin().await?;
    let mut right = context.kv.begin().await?;
    left.get(&context.key("b")).await?;
    right.get(&context.key("a")).await?;
    left.put(context.key("a"), b"2".to_vec());
    right.put(context.key("b"), b"2".to_vec());
    left.commit().await?;
    right.commit().await?;
    context.expect("a", Some("2")).await?;
    context.expect("b", Some("2")).await
}

pub(super) async fn disjoint_writes_do_not_conflict(context: CaseContext) -> Outcome {
    let mut open = Vec::new();
    for number in 0..8_u8 {
        let mut txn = context.kv.begin().await?;
        txn.put(context.key([number]), vec![number]);
        open.push(txn);
    }
    for txn in open {
        txn.commit().await?;
    }
    Ok(())
}

pub(super) async fn nothing_written_always_commits(context: CaseContext) -> Outcome {
    let mut reader = context.kv.begin().await?;
    reader.get(&context.key("a")).await?;
    context.put("a", "1").await?;
    reader.commit().await?;
    context.kv.begin().await?.commit().await?;
    context.expect("a", Some("1")).await
}

/// 240 keys of 200 bytes and two of 40,000, which takes several prewrite requests.
pub(super) async fn a_big_batch_is_one_transaction(context: CaseContext) -> Outcome {
    let key = |number: u32| context.key(format!("{number:05}"));
    let sizes = |number: u32| if number < 2 { 40_000 } else { 200 };
    let before = context.kv.timestamp().await?;
    let mut txn = context.kv.begin().await?;
    for number in 0..242 {
        txn.put(key(number), vec![b'x'; sizes(number)]);
    }
    txn.commit().await?;
    let after = context.kv.timestamp().await?;
    let seen = context.kv.snapshot(after).scan(context.all(), 1_000).await?;
    let expected: Vec<(Key, Value)> =
        (0..242).map(|number| (key(number), vec![b'x'; sizes(number)])).collect();
    ensure!(seen == expected, "{} keys of 242 stand", seen.len());
    let earlier = context.kv.snapshot(before).scan(context.all(), 1_000).await?;
    ensure!(earlier.is_empty(), "{} keys show before they were written", earlier.len());
    // One conflicting key rejects the whole batch.
    let mut loser = context.kv.begin().await?;
    for number in 0..242 {
        loser.put(key(number), vec![b'y'; sizes(number)]);
    }
    context.put("00137", "mine").await?;
    expect_conflict(&loser.commit().await, "a batch with one key in conflict")?;
    let now = context.kv.timestamp().await?;
    let seen = context.kv.snapshot(now).scan(context.all(), 1_000).await?;
    let torn = seen.iter().filter(|(_, value)| value.first() == Some(&b'y'));
    ensure!(torn.count() == 0, "a batch that was turned down shows");
    Ok(())
}

/// Adds to a number until that certainly happened exactly once. A marker written along with it
/// proves it.
pub(super) async fn add_once(context: &CaseContext, counter: &str, marker: &str) -> Outcome {
    for attempt in 0..400_u64 {
        sleep(Duration::from_millis((attempt * 7) % 50)).await;
        let mut txn = context.kv.begin().await?;
        let settled = txn.get(&context.key(marker)).await?.is_some();
        if settled {
            return Ok(());
        }
        let before = number(txn.get(&context.key(counter)).await?.as_deref())?;
        txn.put(context.key(marker), Value::new());
        txn.put(context.key(counter), (before + 1).to_string().into_bytes());
        match txn.commit().await {
            Ok(_) => return Ok(()),
            // The next attempt either sees this one or prevents it.
            Err(CommitError::Conflict | CommitError::Failed(_) | CommitError::Undetermined(_)) => {}
        }
    }
    Err(Failure::Wrong("starved".to_owned()))
}

pub(super) async fn racing_increments_lose_none(context: CaseContext) -> Outcome {
    const TASKS: u64 = 6;
    const EACH: u64 = 12;
    let mut tasks: JoinSet<Outcome> = JoinSet::new();
    for task in 0..TASKS {
        let context = context.clone();
        tasks.spawn(async move {
            for step in 0..EACH {
                add_once(&context, "counter", &format!("marker/{task}/{step}")).await?;
            }
            Ok(())
        });
    }
    for outcome in tasks.join_all().await {
        outcome?;
    }
    let count = number(context.newest("counter").await?.as_deref())?;
    ensure!(count == TASKS * EACH, "{} increments made {count}", TASKS * EACH);
    Ok(())
}

pub(super) async fn transfers_keep_the_sum_at_every_moment(context: CaseContext) -> Outcome {
    const ACCOUNTS: u64 = 5;
    const START: u64 = 100;
    let name = |account: u64| format!("account/{}", account % ACCOUNTS);
    for account in 0..ACCOUNTS {
        context.put(&name(account), &START.to_string()).await?;
    }
    let mut tasks: JoinSet<Outcome> = JoinSet::new();
    for task in 0..4_u64 {
        let context = context.clone();
        tasks.spawn(async move {
            for step in 0..15_u64 {
                let from = context.key(name(task + step));
                let to = context.key(name(task + step * 3 + 1));
                if from == to {
                    continue;
                }
                let mut txn = context.kv.begin().await?;
                let has = number(txn.get(&from).await?.as_deref())?;
                let had = number(txn.get(&to).await?.as_deref())?;
                let amount = has.min(step + 1);
                txn.put(from, (has - amount).to_string().into_bytes());
                txn.put(to, (had + amount).to_string().into_bytes());
                // A transfer may or may not land, but never in part.
                drop(txn.commit().await);
            }
            Ok(())
        });
    }
    for look in 0..40 {
        let at = context.kv.timestamp().await?;
        let pairs =
            context.kv.snapshot(at).scan(context.range("account/", "account0"), 100).await?;
        let mut sum = 0;
        for (_, value) in &pairs {
            sum += number(Some(value))?;
        }
        ensure!(sum == ACCOUNTS * START, "look {look} at {at:?} sees a sum of {sum}");
    }
    for outcome in tasks.join_all().await {
        outcome?;
    }
    Ok(())
}
