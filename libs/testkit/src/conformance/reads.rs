//! Cases about what reads show.

use storage::{Key, Value};

use super::{CaseContext, Failure, Outcome, ensure, names, show};

pub(super) async fn a_transaction_reads_its_own_snapshot(context: CaseContext) -> Outcome {
    context.put("a", "old").await?;
    let mut early = context.kv.begin().await?;
    context.write(&[("a", Some("new")), ("b", Some("born"))]).await?;
    let a = early.get(&context.key("a")).await?;
    ensure!(a.as_deref() == Some(b"old"), "a later write shows: {}", show(a.as_deref()));
    let b = early.get(&context.key("b")).await?;
    ensure!(b.is_none(), "a later birth shows: {}", show(b.as_deref()));
    let seen = early.scan(context.all(), 10).await?;
    ensure!(names(&context, &seen) == ["a"], "a later birth shows in a scan: {seen:?}");
    context.expect("a", Some("new")).await
}

pub(super) async fn a_snapshot_shows_its_moment_and_stays(context: CaseContext) -> Outcome {
    context.put("a", "1").await?;
    let first = context.kv.timestamp().await?;
    context.put("a", "2").await?;
    let second = context.kv.timestamp().await?;
    context.write(&[("a", None)]).await?;
    let third = context.kv.timestamp().await?;
    for (at, expected) in
        [(first, Some("1")), (second, Some("2")), (third, None), (first, Some("1"))]
    {
        let mut snapshot = context.kv.snapshot(at);
        ensure!(snapshot.read_ts() == at, "a snapshot is at {:?}, not {at:?}", snapshot.read_ts());
        let a = snapshot.get(&context.key("a")).await?;
        ensure!(
            a.as_deref() == expected.map(str::as_bytes),
            "at {at:?} it should be {expected:?}, is {}",
            show(a.as_deref())
        );
    }
    Ok(())
}

pub(super) async fn a_transaction_sees_its_own_writes(context: CaseContext) -> Outcome {
    context
        .write(&[("a", Some("a")), ("b", Some("b")), ("c", Some("c")), ("d", Some("d"))])
        .await?;
    let mut txn = context.kv.begin().await?;
    // The transaction has read the first key before it changes it, but not the others.
    txn.get(&context.key("b")).await?;
    txn.delete(context.key("b"));
    txn.put(context.key("bb"), b"new".to_vec());
    txn.put(context.key("c"), b"changed".to_vec());
    txn.delete(context.key("d"));
    txn.put(context.key("d"), b"back".to_vec());
    txn.put(context.key("e"), b"brief".to_vec());
    txn.delete(context.key("e"));
    let expected: Vec<(Key, Value)> = [("a", "a"), ("bb", "new"), ("c", "changed"), ("d", "back")]
        .map(|(name, value)| (context.key(name), value.as_bytes().to_vec()))
        .into();
    let scanned = txn.scan(context.all(), 100).await?;
    ensure!(scanned == expected, "a scan shows {scanned:?}");
    let first_two = txn.scan(context.all(), 2).await?;
    ensure!(first_two == expected[..2], "a scan of two shows {first_two:?}");
    let keys = ["a", "b", "bb", "c", "d", "e"].map(|name| context.key(name));
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
    let now = context.kv.timestamp().await?;
    let after = context.kv.snapshot(now).scan(context.all(), 100).await?;
    ensure!(after == expected, "after the commit stands {after:?}");
    Ok(())
}

pub(super) async fn an_empty_value_is_a_value(context: CaseContext) -> Outcome {
    context.put("empty", "").await?;
    context.expect("empty", Some("")).await?;
    context.expect("missing", None).await?;
    let now = context.kv.timestamp().await?;
    let mut snapshot = context.kv.snapshot(now);
    let keys = vec![context.key("empty"), context.key("missing")];
    let got = snapshot.batch_get(keys).await?;
    ensure!(got == [(context.key("empty"), Value::new())], "a batch get shows {got:?}");
    let scanned = context.kv.snapshot(now).scan(context.all(), 10).await?;
    ensure!(scanned == [(context.key("empty"), Value::new())], "a scan shows {scanned:?}");
    Ok(())
}

pub(super) async fn a_deleted_key_is_gone(context: CaseContext) -> Outcome {
    context.put("a", "1").await?;
    context.write(&[("a", None), ("never", None)]).await?;
    context.expect("a", None).await?;
    context.expect("never", None).await?;
    context.put("a", "2").await?;
    context.expect("a", Some("2")).await
}

pub(super) async fn keys_of_any_bytes_keep_their_order(context: CaseContext) -> Outcome {
    // Lengths around the 8-byte groups of TiKV's key encoding, and the bytes that it treats
    // specially.
    let mut keys: Vec<Key> = Vec::new();
    for length in 0..=17 {
        for byte in [0x00, b'k', 0xfe, 0xff] {
            keys.push(context.key(vec![byte; length]));
        }
    }
    keys.sort();
    keys.dedup();
    let mut txn = context.kv.begin().await?;
    for key in &keys {
        txn.put(key.clone(), key.clone());
    }
    txn.commit().await?;
    let now = context.kv.timestamp().await?;
    let pairs = context.kv.snapshot(now).scan(context.all(), 1_000).await?;
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

pub(super) async fn a_scan_honours_bounds_and_limit(context: CaseContext) -> Outcome {
    let pairs = ["a", "b", "c", "d", "e"].map(|name| (name, Some(name)));
    context.write(&pairs).await?;
    let now = context.kv.timestamp().await?;
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
        let found = context.kv.snapshot(now).scan(context.range(start, end), limit).await?;
        ensure!(
            names(&context, &found) == expected,
            "a scan of {start}..{end} up to {limit} shows {:?}",
            names(&context, &found)
        );
    }
    Ok(())
}

pub(super) async fn a_scan_pages_through_many_keys(context: CaseContext) -> Outcome {
    const KEYS: usize = 700;
    const PAGE: u32 = 64;
    let names: Vec<String> = (0..KEYS).map(|number| format!("{number:05}")).collect();
    for chunk in names.chunks(200) {
        let pairs: Vec<(&str, Option<&str>)> =
            chunk.iter().map(|name| (name.as_str(), Some("v"))).collect();
        context.write(&pairs).await?;
    }
    let now = context.kv.timestamp().await?;
    let mut range = context.all();
    let mut seen: Vec<Key> = Vec::new();
    loop {
        let page = context.kv.snapshot(now).scan(range.clone(), PAGE).await?;
        let last = page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
        seen.extend(page.into_iter().map(|(key, _)| key));
        if last {
            break;
        }
        range.start = seen.last().cloned().unwrap_or_default();
        range.start.push(0);
    }
    let expected: Vec<Key> = names.iter().map(|name| context.key(name)).collect();
    ensure!(seen == expected, "{} keys come back of {KEYS}, or in another order", seen.len());
    Ok(())
}

pub(super) async fn a_batch_get_returns_what_is_there(context: CaseContext) -> Outcome {
    context.write(&[("a", Some("1")), ("c", Some("3"))]).await?;
    let now = context.kv.timestamp().await?;
    let mut snapshot = context.kv.snapshot(now);
    let asked = ["c", "missing", "a", "c"].map(|name| context.key(name));
    let mut got = snapshot.batch_get(asked.to_vec()).await?;
    got.sort_unstable();
    let expected = [(context.key("a"), b"1".to_vec()), (context.key("c"), b"3".to_vec())];
    ensure!(got == expected, "a batch get shows {got:?}");
    let nothing = snapshot.batch_get(Vec::new()).await?;
    ensure!(nothing.is_empty(), "a batch get of nothing shows {nothing:?}");
    // The same snapshot may answer from a cache. A new one cannot.
    let again = snapshot.batch_get(vec![context.key("a"), context.key("missing")]).await?;
    ensure!(again == expected[..1], "asked again, it shows {again:?}");
    let a = context.kv.snapshot(now).get(&context.key("a")).await?;
    a.filter(|value| value == b"1")
        .map(|_| ())
        .ok_or_else(|| Failure::Wrong("a get and a batch get differ".to_owned()))
}

/// The answer exceeds gRPC's usual limit of 4 MiB.
pub(super) async fn a_large_answer_arrives_whole(context: CaseContext) -> Outcome {
    const BYTES: usize = 1 << 20;
    let keys: Vec<Key> = (0..6_u8).map(|number| context.key([number])).collect();
    for key in &keys {
        let mut txn = context.kv.begin().await?;
        txn.put(key.clone(), vec![b'x'; BYTES]);
        txn.commit().await?;
    }
    let now = context.kv.timestamp().await?;
    let got = context.kv.snapshot(now).batch_get(keys.clone()).await?;
    let scanned = context.kv.snapshot(now).scan(context.all(), 10).await?;
    for (what, pairs) in [("batch get", got), ("scan", scanned)] {
        let whole = pairs.iter().filter(|(_, value)| value.len() == BYTES).count();
        ensure!(whole == keys.len(), "a {what} shows {whole} of {} values", keys.len());
    }
    Ok(())
}
