//! The timestamp oracle as clients see it.

use crate::support::{Server, now};
use dev_kv::wire::pdpb;
use futures::StreamExt as _;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

/// The answers of one stream to requests with these counts, each as (count, last timestamp).
async fn ask(server: &Server, counts: Vec<u32>) -> Vec<(u32, u64)> {
    let requests =
        counts.into_iter().map(|count| pdpb::TsoRequest { count, ..pdpb::TsoRequest::default() });
    let mut pd = server.pd().await;
    let answers = pd.tso(futures::stream::iter(requests)).await.unwrap().into_inner();
    answers
        .map(|answer| {
            let answer = answer.unwrap();
            let ts = answer.timestamp.unwrap();
            let number = |number: i64| u64::try_from(number).unwrap();
            (answer.count, number(ts.physical) << 18 | number(ts.logical))
        })
        .collect()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_get_different_timestamps() {
    let server = Server::start().await;
    let client = server.client().await;
    let callers: Vec<_> = (0..256)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { now(&client).await })
        })
        .collect();
    let mut seen = std::collections::BTreeSet::new();
    for caller in callers {
        assert!(seen.insert(caller.await.unwrap()), "given out twice");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_millisecond_goes_on_in_the_next_and_counts_come_back() {
    let server = Server::start().await;
    let counts: Vec<u32> = (0..60).map(|at| if at % 2 == 0 { 1 } else { 200_000 }).collect();
    let mut last = 0;
    for ((count, ts), asked) in ask(&server, counts.clone()).await.into_iter().zip(counts) {
        assert_eq!(count, asked);
        assert!(ts - u64::from(count) >= last, "a batch reaches below the one before");
        assert!(ts & 0x3_ffff >= u64::from(count) - 1, "the batch crosses a millisecond");
        last = ts;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn latency_delays_each_request_of_an_open_stream_and_delays_overlap() {
    let server = Server::start().await;
    let (sender, requests) = futures::channel::mpsc::unbounded();
    let mut answers = server.pd().await.tso(requests).await.unwrap().into_inner();
    let delay = json!({ "kind": "latency", "delay": { "fixed": 300 } });
    server.fault(json!({ "rpc": "Tso", "fault": delay })).await;
    let began = Instant::now();
    for _ in 0..20 {
        let request = pdpb::TsoRequest { count: 1, ..pdpb::TsoRequest::default() };
        sender.unbounded_send(request).unwrap();
    }
    for _ in 0..20 {
        answers.next().await.unwrap().unwrap();
        assert!(began.elapsed() >= Duration::from_millis(300));
    }
    assert!(began.elapsed() < Duration::from_secs(3), "the delays add up");
    server.stop().await;
}

/// Clients keep their stream of requests open, and a timestamp may be late.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_neither_for_open_streams_nor_for_late_timestamps() {
    let server = Server::start().await;
    let request = || pdpb::TsoRequest { count: 1, ..pdpb::TsoRequest::default() };
    let (idle, requests) = futures::channel::mpsc::unbounded();
    let mut answers = server.pd().await.tso(requests).await.unwrap().into_inner();
    idle.unbounded_send(request()).unwrap();
    answers.next().await.unwrap().unwrap();
    let (late, requests) = futures::channel::mpsc::unbounded();
    let _never = server.pd().await.tso(requests).await.unwrap();
    let delay = json!({ "kind": "latency", "delay": { "fixed": 300_000 } });
    server.fault(json!({ "rpc": "Tso", "fault": delay })).await;
    late.unbounded_send(request()).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    server.stop().await;
    assert!(began.elapsed() < Duration::from_secs(3), "it took {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_the_clock_set_back_stays_ahead() {
    let server = Server::start().await;
    server.tell("/dev-kv/v1/jump-clock", json!({ "by_ms": 3_600_000 })).await;
    let before = ask(&server, vec![1]).await[0].1;
    // The new process knows nothing of the jump, so its clock is an hour behind.
    let server = server.restart(|_| {}).await;
    let after = ask(&server, vec![1]).await[0].1;
    assert!(after > before);
    server.tell("/dev-kv/v1/jump-clock", json!({ "by_ms": -3_600_000 })).await;
    assert!(ask(&server, vec![1]).await[0].1 > after);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_stream_is_silent_until_it_thaws() {
    let server = Server::start().await;
    let client = server.client().await;
    now(&client).await;
    server.tell("/dev-kv/v1/freeze-tso", json!({ "for_ms": 700 })).await;
    let started = Instant::now();
    now(&client).await;
    assert!(started.elapsed() >= Duration::from_millis(600));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_senseless_count_ends_the_stream_only() {
    let server = Server::start().await;
    for count in [0, 1 << 18, u32::MAX] {
        let request = pdpb::TsoRequest { count, ..pdpb::TsoRequest::default() };
        let mut pd = server.pd().await;
        let requests = futures::stream::iter([request]);
        let mut answers = pd.tso(requests).await.unwrap().into_inner();
        let status = answers.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    }
    assert_eq!(ask(&server, vec![64]).await.len(), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_client_is_turned_away() {
    let server = Server::start().await;
    let header = Some(pdpb::RequestHeader { cluster_id: 12_345, sender_id: 0 });
    let request = pdpb::GetStoreRequest { header, store_id: 1 };
    let status = server.pd().await.get_store(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    server.stop().await;
}

/// Raises the ceiling of timestamps in the file that takes it while the disk is full, as if the
/// process had been killed then. Each of its two records is a magic number, the record's turn, the
/// number of writes, the ceiling and a checksum.
fn mark_ceiling(data: &Path, ceiling: u64) {
    let path = data.join("dev-kv.marks");
    let mut file = std::fs::read(&path).unwrap();
    for place in [0, 512] {
        let record = &mut file[place..place + 40];
        record[24..32].copy_from_slice(&ceiling.to_be_bytes());
        let checksum = xxh3_64(&record[..32]);
        record[32..].copy_from_slice(&checksum.to_be_bytes());
    }
    std::fs::write(path, file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn timestamps_go_on_above_what_was_given_out_while_the_disk_was_full() {
    let directory = tempfile::TempDir::new().unwrap();
    let data = directory.path().join("kv");
    let server = Server::open(&data, |_| {}).await;
    let before = now(&server.client().await).await >> 18;
    server.stop().await;
    let ceiling = before + 3_600_000;
    mark_ceiling(&data, ceiling);
    let server = Server::open(&data, |_| {}).await;
    let after = now(&server.client().await).await >> 18;
    assert!(after >= ceiling, "{after} is below {ceiling}");
    server.stop().await;
}
