//! Cases about what reads show.

use super::{Bench, Failure, Outcome, ensure, names, show};
use crate::kv::{Key, Value};

pub(super) async fn a_transaction_reads_its_own_snapshot(bench: Bench) -> Outcome {
    bench.put("a", "old").await?;
    let mut early = bench.kv.begin().await?;
    bench.write(&[("a", Some("new")), ("b", Some("born"))]).await?;
    let a = early.get(&bench.key("a")).await?;
    ensure!(a.as_deref() == Some(b"old"), "a later write shows: {}", show(a.as_deref()));
    let b = early.get(&bench.key("b")).await?;
    ensure!(b.is_none(), "a later birth shows: {}", show(b.as_deref()));
    let seen = early.scan(bench.all(), 10).await?;
    ensure!(names(&bench, &seen) == ["a"], "a later birth shows in a scan: {seen:?}");
    bench.expect("a", Some("new")).await
}

pub(super) async fn a_snapshot_shows_its_moment_and_stays(bench: Bench) -> Outcome {
    bench.put("a", "1").await?;
    let first = bench.kv.timestamp().await?;
    bench.put("a", "2").await?;
    let second = bench.kv.timestamp().await?;
    bench.write(&[("a", None)]).await?;
    let third = bench.kv.timestamp().await?;
    for (at, expected) in
        [(first, Some("1")), (second, Some("2")), (third, None), (first, Some("1"))]
    {
        let mut snapshot = bench.kv.snapshot(at);
        ensure!(snapshot.read_ts() == at, "a snapshot is at {:?}, not {at:?}", snapshot.read_ts());
        let a = snapshot.get(&bench.key("a")).await?;
        ensure!(
            a.as_deref() == expected.map(str::as_bytes),
            "at {at:?} it should be {expected:?}, is {}",
            show(a.as_deref())
        );
    }
    Ok(())
}

pub(super) async fn a_transaction_sees_its_own_writes(bench: Bench) -> Outcome {
    bench.write(&[("a", Some("a")), ("b", Some("b")), ("c", Some("c")), ("d", Some("d"))]).await?;
    let mut txn = bench.kv.begin().await?;
    // The transaction has read the first key before it changes it, but not the others.
    txn.get(&bench.key("b")).await?;
    txn.delete(bench.key("b"));
    txn.put(bench.key("bb"), b"new".to_vec());
    txn.put(bench.key("c"), b"changed".to_vec());
    txn.delete(bench.key("d"));
    txn.put(bench.key("d"), b"back".to_vec());
    txn.put(bench.key("e"), b"brief".to_vec());
    txn.delete(bench.key("e"));
    let expected: Vec<(Key, Value)> = [("a", "a"), ("bb", "new"), ("c", "changed"), ("d", "back")]
        .map(|(name, value)| (bench.key(name), value.as_bytes().to_vec()))
        .into();
    let scanned = txn.scan(bench.all(), 100).await?;
    ensure!(scanned == expected, "a scan shows {scanned:?}");
    let first_two = txn.scan(bench.all(), 2).await?;
    ensure!(first_two == expected[..2], "a scan of two shows {first_two:?}");
    let keys = ["a", "b", "bb", "c", "d", "e"].map(|name| bench.key(name));
    let mut got = txn.batch_get(keys.to_vec()).await?;
    got.sort_unstable();
    ensure!(got == expected, "a batch get shows {got:?}");
    for key in keys {
        let got = txn.get(&key).await?;
        let want = expected.iter().find(|(known, _)| *known == key);
        ensure!(
            got.as_ref() == want.map(|(_, value)| value),
            "a get shows {}",
            show(got.as_deref())
        );
    }
    txn.commit().await?;
    let now = bench.kv.timestamp().await?;
    let after = bench.kv.snapshot(now).scan(bench.all(), 100).await?;
    ensure!(after == expected, "after the commit stands {after:?}");
    Ok(())
}

pub(super) async fn an_empty_value_is_a_value(bench: Bench) -> Outcome {
    bench.put("empty", "").await?;
    bench.expect("empty", Some("")).await?;
    bench.expect("missing", None).await?;
    let now = bench.kv.timestamp().await?;
    let mut snapshot = bench.kv.snapshot(now);
    let keys = vec![bench.key("empty"), bench.key("missing")];
    let got = snapshot.batch_get(keys).await?;
    ensure!(got == [(bench.key("empty"), Value::new())], "a batch get shows {got:?}");
    let scanned = bench.kv.snapshot(now).scan(bench.all(), 10).await?;
    ensure!(scanned == [(bench.key("empty"), Value::new())], "a scan shows {scanned:?}");
    Ok(())
}

pub(super) async fn a_deleted_key_is_gone(bench: Bench) -> Outcome {
    bench.put("a", "1").await?;
    bench.write(&[("a", None), ("never", None)]).await?;
    bench.expect("a", None).await?;
    bench.expect("never", None).await?;
    bench.put("a", "2").await?;
    bench.expect("a", Some("2")).await
}

pub(super) async fn keys_of_any_bytes_keep_their_order(bench: Bench) -> Outcome {
    // Lengths around the 8-byte groups of TiKV's key encoding, and the bytes that it treats
    // specially.
    let mut keys: Vec<Key> = Vec::new();
    for length in 0..=17 {
        for byte in [0x00, b'k', 0xfe, 0xff] {
            keys.push(bench.key(vec![byte; length]));
        }
    }
    keys.sort();
    keys.dedup();
    let mut txn = bench.kv.begin().await?;
    for key in &keys {
        txn.put(key.clone(), key.clone());
    }
    txn.commit().await?;
    let now = bench.kv.timestamp().await?;
    let pairs = bench.kv.snapshot(now).scan(bench.all(), 1_000).await?;
    let found: Vec<Key> = pairs.iter().map(|(key, _)| key.clone()).collect();
    ensure!(
        found == keys,
        "{} keys were written, {} come back, or in another order",
        keys.len(),
        found.len()
    );
    ensure!(pairs.iter().all(|(key, value)| key == value), "a key has another's value");
    Ok(())
}

pub(super) async fn a_scan_honours_bounds_and_limit(bench: Bench) -> Outcome {
    let pairs = ["a", "b", "c", "d", "e"].map(|name| (name, Some(name)));
    bench.write(&pairs).await?;
    let now = bench.kv.timestamp().await?;
    for (start, end, limit, expected) in [
        ("a", "f", 10, vec!["a", "b", "c", "d", "e"]),
        ("b", "d", 10, vec!["b", "c"]),
        ("aa", "cc", 10, vec!["b", "c"]),
        ("a", "f", 2, vec!["a", "b"]),
        ("c", "f", 1, vec!["c"]),
        ("a", "f", 0, vec![]),
        ("c", "c", 10, vec![]),
        ("d", "b", 10, vec![]),
        ("x", "z", 10, vec![]),
    ] {
        let found = bench.kv.snapshot(now).scan(bench.range(start, end), limit).await?;
        ensure!(
            names(&bench, &found) == expected,
            "a scan of {start}..{end} up to {limit} shows {:?}",
            names(&bench, &found)
        );
    }
    Ok(())
}

pub(super) async fn a_scan_pages_through_many_keys(bench: Bench) -> Outcome {
    const KEYS: usize = 700;
    const PAGE: u32 = 64;
    let names: Vec<String> = (0..KEYS).map(|number| format!("{number:05}")).collect();
    for chunk in names.chunks(200) {
        let pairs: Vec<(&str, Option<&str>)> =
            chunk.iter().map(|name| (name.as_str(), Some("v"))).collect();
        bench.write(&pairs).await?;
    }
    let now = bench.kv.timestamp().await?;
    let mut range = bench.all();
    let mut seen: Vec<Key> = Vec::new();
    loop {
        let page = bench.kv.snapshot(now).scan(range.clone(), PAGE).await?;
        let last = page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
        seen.extend(page.into_iter().map(|(key, _)| key));
        if last {
            break;
        }
        range.start = seen.last().cloned().unwrap_or_default();
        range.start.push(0);
    }
    let expected: Vec<Key> = names.iter().map(|name| bench.key(name)).collect();
    ensure!(seen == expected, "{} keys come back of {KEYS}, or in another order", seen.len());
    Ok(())
}

pub(super) async fn a_batch_get_returns_what_is_there(bench: Bench) -> Outcome {
    bench.write(&[("a", Some("1")), ("c", Some("3"))]).await?;
    let now = bench.kv.timestamp().await?;
    let mut snapshot = bench.kv.snapshot(now);
    let asked = ["c", "missing", "a", "c"].map(|name| bench.key(name));
    let mut got = snapshot.batch_get(asked.to_vec()).await?;
    got.sort_unstable();
    let expected = [(bench.key("a"), b"1".to_vec()), (bench.key("c"), b"3".to_vec())];
    ensure!(got == expected, "a batch get shows {got:?}");
    let nothing = snapshot.batch_get(Vec::new()).await?;
    ensure!(nothing.is_empty(), "a batch get of nothing shows {nothing:?}");
    // The same snapshot may answer from a cache. A new one cannot.
    let again = snapshot.batch_get(vec![bench.key("a"), bench.key("missing")]).await?;
    ensure!(again == expected[..1], "asked again, it shows {again:?}");
    let a = bench.kv.snapshot(now).get(&bench.key("a")).await?;
    a.filter(|value| value == b"1")
        .map(|_| ())
        .ok_or_else(|| Failure::Wrong("a get and a batch get differ".to_owned()))
}

/// The answer exceeds gRPC's usual limit of 4 MiB.
pub(super) async fn a_large_answer_arrives_whole(bench: Bench) -> Outcome {
    const BYTES: usize = 1 << 20;
    let keys: Vec<Key> = (0..6_u8).map(|number| bench.key([number])).collect();
    for key in &keys {
        let mut txn = bench.kv.begin().await?;
        txn.put(key.clone(), vec![b'x'; BYTES]);
        txn.commit().await?;
    }
    let now = bench.kv.timestamp().await?;
    let got = bench.kv.snapshot(now).batch_get(keys.clone()).await?;
    let scanned = bench.kv.snapshot(now).scan(bench.all(), 10).await?;
    for (what, pairs) in [("batch get", got), ("scan", scanned)] {
        let whole = pairs.iter().filter(|(_, value)| value.len() == BYTES).count();
        ensure!(whole == keys.len(), "a {what} shows {whole} of {} values", keys.len());
    }
    Ok(())
}
