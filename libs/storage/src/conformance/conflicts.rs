//! Cases about concurrent writers.

use std::time::Duration;

use tokio::{task::JoinSet, time::sleep};
use types::Timestamp;

use super::{Bench, Failure, Outcome, ensure, number};
use crate::kv::{CommitError, Key, Value};

/// Fails unless a commit was rejected as a conflict.
fn expect_conflict(outcome: &Result<Timestamp, CommitError>, what: &str) -> Outcome {
    ensure!(*outcome == Err(CommitError::Conflict), "{what} should conflict: {outcome:?}");
    Ok(())
}

pub(super) async fn of_two_writers_the_first_to_commit_wins(bench: Bench) -> Outcome {
    for elder_first in [true, false] {
        let name = if elder_first { "elder" } else { "younger" };
        bench.put(name, "0").await?;
        let mut elder = bench.kv.begin().await?;
        let mut younger = bench.kv.begin().await?;
        elder.get(&bench.key(name)).await?;
        younger.get(&bench.key(name)).await?;
        elder.put(bench.key(name), b"elder".to_vec());
        younger.put(bench.key(name), b"younger".to_vec());
        let (first, second) = if elder_first { (elder, younger) } else { (younger, elder) };
        first.commit().await?;
        expect_conflict(&second.commit().await, "the second commit")?;
        bench.expect(name, Some(name)).await?;
    }
    Ok(())
}

pub(super) async fn blind_writes_conflict(bench: Bench) -> Outcome {
    let mut first = bench.kv.begin().await?;
    let mut second = bench.kv.begin().await?;
    first.put(bench.key("a"), b"1".to_vec());
    second.put(bench.key("other"), b"2".to_vec());
    second.put(bench.key("a"), b"2".to_vec());
    first.commit().await?;
    expect_conflict(&second.commit().await, "a blind write")?;
    bench.expect("a", Some("1")).await?;
    bench.expect("other", None).await
}

pub(super) async fn an_insert_finds_what_its_snapshot_does_not_show(bench: Bench) -> Outcome {
    // The value is older than the transaction: only an insert conflicts with it.
    bench.put("a", "1").await?;
    let mut inserting = bench.kv.begin().await?;
    inserting.put(bench.key("beside"), b"2".to_vec());
    inserting.insert(bench.key("a"), b"2".to_vec());
    expect_conflict(&inserting.commit().await, "an insert of what is there")?;
    bench.expect("a", Some("1")).await?;
    bench.expect("beside", None).await?;
    // The value is newer than the transaction.
    let mut inserting = bench.kv.begin().await?;
    inserting.insert(bench.key("b"), b"2".to_vec());
    bench.put("b", "1").await?;
    expect_conflict(&inserting.commit().await, "an insert of what came meanwhile")?;
    // Keys that never had a value, and keys whose value was removed, can be inserted.
    let mut removing = bench.kv.begin().await?;
    removing.delete(bench.key("b"));
    removing.commit().await?;
    let mut inserting = bench.kv.begin().await?;
    inserting.insert(bench.key("b"), b"3".to_vec());
    inserting.insert(bench.key("c"), b"3".to_vec());
    inserting.commit().await?;
    bench.expect("b", Some("3")).await?;
    bench.expect("c", Some("3")).await
}

pub(super) async fn removals_conflict(bench: Bench) -> Outcome {
    bench.put("a", "1").await?;
    let mut putting = bench.kv.begin().await?;
    let mut removing = bench.kv.begin().await?;
    let mut again = bench.kv.begin().await?;
    removing.delete(bench.key("a"));
    putting.put(bench.key("a"), b"2".to_vec());
    again.delete(bench.key("a"));
    removing.commit().await?;
    expect_conflict(&putting.commit().await, "a put after a removal")?;
    expect_conflict(&again.commit().await, "a removal after a removal")?;
    bench.expect("a", None).await?;
    // A key without a value can be removed, and that conflicts too.
    let mut putting = bench.kv.begin().await?;
    putting.put(bench.key("never"), b"2".to_vec());
    bench.write(&[("never", None)]).await?;
    expect_conflict(&putting.commit().await, "a put after a removal of nothing")
}

pub(super) async fn reads_alone_do_not_conflict(bench: Bench) -> Outcome {
    bench.write(&[("a", Some("1")), ("b", Some("1"))]).await?;
    let mut left = bench.kv.begin().await?;
    let mut right = bench.kv.begin().await?;
    left.get(&bench.key("b")).await?;
    right.get(&bench.key("a")).await?;
    left.put(bench.key("a"), b"2".to_vec());
    right.put(bench.key("b"), b"2".to_vec());
    left.commit().await?;
    right.commit().await?;
    bench.expect("a", Some("2")).await?;
    bench.expect("b", Some("2")).await
}

pub(super) async fn disjoint_writes_do_not_conflict(bench: Bench) -> Outcome {
    let mut open = Vec::new();
    for number in 0..8_u8 {
        let mut txn = bench.kv.begin().await?;
        txn.put(bench.key([number]), vec![number]);
        open.push(txn);
    }
    for txn in open {
        txn.commit().await?;
    }
    Ok(())
}

pub(super) async fn nothing_written_always_commits(bench: Bench) -> Outcome {
    let mut reader = bench.kv.begin().await?;
    reader.get(&bench.key("a")).await?;
    bench.put("a", "1").await?;
    reader.commit().await?;
    bench.kv.begin().await?.commit().await?;
    bench.expect("a", Some("1")).await
}

/// 240 keys of 200 bytes and two of 40,000, which takes several prewrite requests.
pub(super) async fn a_big_batch_is_one_transaction(bench: Bench) -> Outcome {
    let key = |number: u32| bench.key(format!("{number:05}"));
    let sizes = |number: u32| if number < 2 { 40_000 } else { 200 };
    let before = bench.kv.timestamp().await?;
    let mut txn = bench.kv.begin().await?;
    for number in 0..242 {
        txn.put(key(number), vec![b'x'; sizes(number)]);
    }
    txn.commit().await?;
    let after = bench.kv.timestamp().await?;
    let seen = bench.kv.snapshot(after).scan(bench.all(), 1_000).await?;
    let expected: Vec<(Key, Value)> =
        (0..242).map(|number| (key(number), vec![b'x'; sizes(number)])).collect();
    ensure!(seen == expected, "{} keys of 242 stand", seen.len());
    let earlier = bench.kv.snapshot(before).scan(bench.all(), 1_000).await?;
    ensure!(earlier.is_empty(), "{} keys show before they were written", earlier.len());
    // One conflicting key rejects the whole batch.
    let mut loser = bench.kv.begin().await?;
    for number in 0..242 {
        loser.put(key(number), vec![b'y'; sizes(number)]);
    }
    bench.put("00137", "mine").await?;
    expect_conflict(&loser.commit().await, "a batch with one key in conflict")?;
    let now = bench.kv.timestamp().await?;
    let seen = bench.kv.snapshot(now).scan(bench.all(), 1_000).await?;
    let torn = seen.iter().filter(|(_, value)| value.first() == Some(&b'y'));
    ensure!(torn.count() == 0, "a batch that was turned down shows");
    Ok(())
}

/// Adds to a number until that certainly happened exactly once. A marker written along with it
/// proves it.
pub(super) async fn add_once(bench: &Bench, counter: &str, marker: &str) -> Outcome {
    for attempt in 0..400_u64 {
        sleep(Duration::from_millis((attempt * 7) % 50)).await;
        let mut txn = bench.kv.begin().await?;
        let settled = txn.get(&bench.key(marker)).await?.is_some();
        if settled {
            return Ok(());
        }
        let before = number(txn.get(&bench.key(counter)).await?.as_deref())?;
        txn.put(bench.key(marker), Value::new());
        txn.put(bench.key(counter), (before + 1).to_string().into_bytes());
        match txn.commit().await {
            Ok(_) => return Ok(()),
            // The next attempt either sees this one or prevents it.
            Err(CommitError::Conflict | CommitError::Failed(_) | CommitError::Undetermined(_)) => {}
        }
    }
    Err(Failure::Wrong("starved".to_owned()))
}

pub(super) async fn racing_increments_lose_none(bench: Bench) -> Outcome {
    const TASKS: u64 = 6;
    const EACH: u64 = 12;
    let mut tasks: JoinSet<Outcome> = JoinSet::new();
    for task in 0..TASKS {
        let bench = bench.clone();
        tasks.spawn(async move {
            for step in 0..EACH {
                add_once(&bench, "counter", &format!("marker/{task}/{step}")).await?;
            }
            Ok(())
        });
    }
    for outcome in tasks.join_all().await {
        outcome?;
    }
    let count = number(bench.newest("counter").await?.as_deref())?;
    ensure!(count == TASKS * EACH, "{} increments made {count}", TASKS * EACH);
    Ok(())
}

pub(super) async fn transfers_keep_the_sum_at_every_moment(bench: Bench) -> Outcome {
    const ACCOUNTS: u64 = 5;
    const START: u64 = 100;
    let name = |account: u64| format!("account/{}", account % ACCOUNTS);
    for account in 0..ACCOUNTS {
        bench.put(&name(account), &START.to_string()).await?;
    }
    let mut tasks: JoinSet<Outcome> = JoinSet::new();
    for task in 0..4_u64 {
        let bench = bench.clone();
        tasks.spawn(async move {
            for step in 0..15_u64 {
                let from = bench.key(name(task + step));
                let to = bench.key(name(task + step * 3 + 1));
                if from == to {
                    continue;
                }
                let mut txn = bench.kv.begin().await?;
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
        let at = bench.kv.timestamp().await?;
        let pairs = bench.kv.snapshot(at).scan(bench.range("account/", "account0"), 100).await?;
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
