//! What survives kill -9 and power loss, and that other directories are refused.

use crate::support::{Process, Server, free_address, get, http, now, optimistic, put};
use dev_kv::wire::kvrpcpb::{CommitRequest, PrewriteResponse};
use dev_kv::wire::tikvpb::tikv_client::TikvClient;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tikv_client::{Timestamp, TimestampExt as _, TransactionClient};
use tonic::transport::{Channel, Endpoint};

const ACCOUNTS: u64 = 16;
const OPENING: u64 = 1_000;
const WRITERS: u64 = 8;

/// The writes of a transfer as of `at`: two accounts, and two keys with the writer's marker.
async fn writes(
    client: &TransactionClient,
    at: Timestamp,
    writer: u64,
    round: u64,
) -> tikv_client::Result<Vec<(String, String)>> {
    let mut snapshot = client.snapshot(at, optimistic());
    let from = format!("account{:02}", (writer * 7 + round) % ACCOUNTS);
    let to = format!("account{:02}", (writer * 3 + round * 5 + 1) % ACCOUNTS);
    let read = |value: Option<Vec<u8>>| -> u64 {
        value.map_or(0, |value| String::from_utf8(value).unwrap().parse().unwrap())
    };
    let left = read(snapshot.get(from.clone()).await?);
    let right = read(snapshot.get(to.clone()).await?);
    let mut writes = Vec::new();
    if from != to && left > 0 {
        writes.push((from, (left - 1).to_string()));
        writes.push((to, (right + 1).to_string()));
    }
    writes.push((format!("marker{writer}"), round.to_string()));
    writes.push((format!("marker{writer}-copy"), round.to_string()));
    Ok(writes)
}

/// A transfer in one phase, by the real client. It counts as acknowledged only if it can be read.
/// The reason: tikv-client 0.4 may report success for a commit that it never sent, when the
/// placement driver is away (see `a_commit_that_was_never_sent_is_called_a_success`). Here the
/// driver is killed together with the store.
async fn in_one_phase(
    client: &TransactionClient,
    writer: u64,
    round: u64,
) -> tikv_client::Result<bool> {
    let mut txn = client.begin_with_options(optimistic().try_one_pc()).await?;
    for (key, value) in writes(client, txn.start_timestamp(), writer, round).await? {
        txn.put(key, value).await?;
    }
    let committed = txn.commit().await;
    if let Err(tikv_client::Error::MultipleKeyErrors(_)) = &committed {
        txn.rollback().await.ok(); // a conflict: definitely not committed
    }
    let at = committed?.expect("it wrote something");
    let marker = client.snapshot(at, optimistic()).get(format!("marker{writer}")).await?;
    Ok(marker == Some(round.to_string().into_bytes()))
}

/// A transfer in two phases, by hand. In the same situation the client would commit the other keys
/// of a transaction whose primary it never committed.
async fn in_two_phases(
    client: &TransactionClient,
    kv: &mut TikvClient<Channel>,
    writer: u64,
    round: u64,
) -> tikv_client::Result<bool> {
    let start = client.current_timestamp().await?;
    let writes = writes(client, start.clone(), writer, round).await?;
    let mutations = writes.iter().map(|(key, value)| crate::wire::put(key, value)).collect();
    let prewrite = crate::wire::prewrite(start.version(), mutations);
    let clean = |response: &PrewriteResponse| *response == PrewriteResponse::default();
    if !kv.kv_prewrite(prewrite).await.is_ok_and(|response| clean(response.get_ref())) {
        return Ok(false);
    }
    let mut commit = CommitRequest {
        context: crate::support::whole(),
        start_version: start.version(),
        keys: vec![writes[0].0.clone().into()],
        commit_version: client.current_timestamp().await?.version(),
    };
    let done = kv.kv_commit(commit.clone()).await;
    let committed = done.is_ok_and(|response| response.get_ref().error.is_none());
    if committed {
        commit.keys = writes.into_iter().skip(1).map(|(key, _)| key.into()).collect();
        kv.kv_commit(commit).await.ok(); // if it fails, readers find the primary committed
    }
    Ok(committed)
}

/// The sum of the accounts, and the markers, at one timestamp.
async fn audit(client: &TransactionClient) -> tikv_client::Result<(u64, Vec<u64>)> {
    let mut snapshot = client.snapshot(client.current_timestamp().await?, optimistic());
    let pairs = snapshot.scan("account".to_owned().."n".to_owned(), 1_000).await?;
    let values: BTreeMap<String, u64> = pairs
        .map(|pair| {
            let key = String::from_utf8(Vec::from(pair.key().clone())).unwrap();
            (key, String::from_utf8(pair.value().clone()).unwrap().parse().unwrap())
        })
        .collect();
    let sum = values.iter().filter(|(key, _)| key.starts_with("account")).map(|(_, v)| v).sum();
    let mut markers = Vec::new();
    for writer in 0..WRITERS {
        let marker = values.get(&format!("marker{writer}")).copied().unwrap_or(0);
        let copy = values.get(&format!("marker{writer}-copy")).copied().unwrap_or(0);
        assert_eq!(marker, copy, "a torn transaction of writer {writer}");
        markers.push(marker);
    }
    Ok((sum, markers))
}

/// Audits as soon as the client can read again.
async fn audit_soon(client: &TransactionClient, kill: u64) -> (u64, Vec<u64>) {
    let mut last_error = None;
    for _ in 0..40 {
        match audit(client).await {
            Ok(found) => return found,
            Err(error) => last_error = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    panic!("after kill {kill} the client does not read: {last_error:?}");
}

/// Kills the server at random moments under load. Nothing acknowledged is lost, no transfer is
/// torn, the sum stays the same, and clients from before a kill go on. `TILL_DEV_KV_KILLS=100`
/// makes a longer run.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_it_is_killed_under_load() {
    let kills = std::env::var_os("TILL_DEV_KV_KILLS")
        .and_then(|text| text.to_str()?.parse().ok())
        .unwrap_or(12u64);
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("kv");
    let address = free_address();
    let mut process = Process::start(&address, &data).await;
    let client = TransactionClient::new(vec![address.clone()]).await.unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let kv = TikvClient::new(endpoint.connect_lazy());
    let mut txn = client.begin_with_options(optimistic()).await.unwrap();
    for account in 0..ACCOUNTS {
        txn.put(format!("account{account:02}"), OPENING.to_string()).await.unwrap();
    }
    txn.commit().await.unwrap();
    let acknowledged: Arc<Vec<AtomicU64>> =
        Arc::new((0..WRITERS).map(|_| AtomicU64::new(0)).collect());
    let mut next: Vec<u64> = vec![1; usize::try_from(WRITERS).unwrap()];
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for kill in 0..kills {
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..WRITERS)
            .zip(&next)
            .map(|(writer, first)| {
                let (client, stop, first) = (client.clone(), stop.clone(), *first);
                let (acknowledged, mut kv) = (acknowledged.clone(), kv.clone());
                tokio::spawn(async move {
                    let mut round = first;
                    while !stop.load(Ordering::Relaxed) {
                        let transfer = async {
                            if round.is_multiple_of(2) {
                                in_one_phase(&client, writer, round).await
                            } else {
                                in_two_phases(&client, &mut kv, writer, round).await
                            }
                        };
                        let done = tokio::time::timeout(Duration::from_secs(20), transfer);
                        if let Ok(Ok(true)) = done.await {
                            let place = usize::try_from(writer).unwrap();
                            acknowledged[place].store(round, Ordering::SeqCst);
                        }
                        round += 1;
                    }
                    round
                })
            })
            .collect();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        tokio::time::sleep(Duration::from_millis(100 + random % 400)).await;
        stop.store(true, Ordering::Relaxed);
        process.kill();
        process = Process::start(&address, &data).await;
        // Locks left by the kill would live for seconds. The jump ends them at once.
        http(&address, "POST", "/dev-kv/v1/jump-clock", &json!({ "by_ms": 30_000 })).await;
        for (writer, task) in writers.into_iter().enumerate() {
            next[writer] = task.await.unwrap();
        }
        let (sum, markers) = audit_soon(&client, kill).await;
        assert_eq!(sum, ACCOUNTS * OPENING, "after kill {kill}");
        for (writer, marker) in markers.into_iter().enumerate() {
            let told = acknowledged[writer].load(Ordering::SeqCst);
            assert!(marker >= told, "kill {kill}: writer {writer} has {marker}, was told {told}");
            assert!(marker < next[writer], "a commit from the future");
        }
    }
    let total: u64 = acknowledged.iter().map(|told| told.load(Ordering::SeqCst)).sum();
    assert!(total > kills * 4, "only {total} transfers: that is no load");
    process.stop();
}

/// The journals and the marks as they were at the last sync.
type Image = Arc<Mutex<BTreeMap<PathBuf, Vec<u8>>>>;

/// The part of a journal that may be written; the rest is preallocated.
const JOURNAL_HEAD: usize = 4 << 20;
/// The file with the number of the last write. It is not synced, so it may be as old as the last
/// sync.
const MARKS: &str = "dev-kv.marks";

fn synced(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    found.insert(MARKS.into(), std::fs::read(data.join(MARKS)).unwrap());
    for entry in std::fs::read_dir(data.join("data")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let mut content = std::fs::read(&path).unwrap();
            assert!(content[JOURNAL_HEAD.min(content.len())..].iter().all(|byte| *byte == 0));
            content.truncate(JOURNAL_HEAD);
            found.insert(Path::new("data").join(path.file_name().unwrap()), content);
        }
    }
    found
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_tree(&path, &target);
        } else if path.extension().is_none_or(|name| name != "jnl" && name != "marks") {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// Simulates power loss: only the synced part of the journal is left, or that and a torn piece of
/// what follows. The image is taken some time after the sync and before the write is acknowledged.
/// A reply that does not wait for its sync finds an image without its data.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_with_what_was_not_synced() {
    let image: Image = Image::default();
    let taken = image.clone();
    let server = Server::start_with(move |config| {
        config.sync_probe = Some(Arc::new(move |data: &Path| {
            std::thread::sleep(Duration::from_millis(5));
            *taken.lock().unwrap() = synced(data);
            Ok(())
        }));
    })
    .await;
    let client = server.client().await;
    let directory = TempDir::new().unwrap();
    for round in 0..12u32 {
        for one_phase in [true, false] {
            let options = if one_phase { optimistic().try_one_pc() } else { optimistic() };
            let mut txn = client.begin_with_options(options).await.unwrap();
            txn.put("k".to_owned(), format!("{round} {one_phase}")).await.unwrap();
            txn.commit().await.unwrap();
            // The power fails right after the answer.
            let synced = image.lock().unwrap().clone();
            let data = directory.path().join(format!("{round}-{one_phase}"));
            copy_tree(server.data(), &data);
            for (name, mut content) in synced {
                if round.is_multiple_of(3) && name != Path::new(MARKS) {
                    // Half of a batch, from its start.
                    let end = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
                    content.truncate(end);
                    let before = content[..end - 4].windows(4).rposition(|end| end == b"FJL\x03");
                    let begins = before.map_or(0, |before| before + 4);
                    let torn = content[begins..begins + (end - begins) / 2].to_vec();
                    content.extend_from_slice(&torn);
                }
                std::fs::write(data.join(name), content).unwrap();
            }
            let after = Server::open(&data, |_| {}).await;
            let reader = after.client().await;
            // The image may hold the lock of a two-phase commit. Reading resolves it.
            let value = get(&reader, "k").await;
            assert_eq!(value, Some(format!("{round} {one_phase}")));
            assert!(now(&reader).await > now(&client).await - (1 << 18), "time went back");
            after.stop().await;
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_directory_is_refused() {
    let server = Server::start().await;
    let client = server.client().await;
    let second = Server::open(server.data(), |_| {}).await;
    let error = second.ended().await.unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
    put(&client, "k", "the first goes on").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_formats_or_programs_directory_is_refused() {
    let directory = TempDir::new().unwrap();
    let open = async |name: &str, file: &str, content: &str| {
        let data = directory.path().join(name);
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join(file), content).unwrap();
        Server::open(&data, |_| {}).await.ended().await.unwrap_err().to_string()
    };
    let error = open("older", "dev-kv.format", "dev-kv format 1\n").await;
    assert!(error.contains("format 1") && error.contains("format 2"), "{error}");
    let error = open("newer", "dev-kv.format", "dev-kv format 3\n").await;
    assert!(error.contains("format 3"), "{error}");
    let error = open("broken", "dev-kv.format", "\0\0").await;
    assert!(error.contains("not written by dev-kv"), "{error}");
    let error = open("theirs", "thesis.txt", "chapter one").await;
    assert!(error.contains("not written by dev-kv"), "{error}");
}

/// A caller may give up at any time. Its request takes effect as a whole or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn requests_whose_caller_gave_up_land_whole_or_not_at_all() {
    let server = Server::start_with(|config| {
        config.sync_probe = Some(Arc::new(|_: &Path| {
            std::thread::sleep(Duration::from_millis(8));
            Ok(())
        }));
    })
    .await;
    let wire = crate::wire::Wire::new(&server).await;
    let client = server.client().await;
    for round in 0..60u64 {
        let start = now(&client).await;
        let keys = ["a", "b", "c"].map(|key| format!("{key}{round}"));
        let mutations = keys.iter().map(|key| crate::wire::put(key, "v")).collect();
        let mut request = crate::wire::prewrite(start, mutations);
        request.try_one_pc = true;
        let mut kv = wire.kv.clone();
        let call = tokio::spawn(async move { kv.kv_prewrite(request).await });
        tokio::time::sleep(Duration::from_millis(round % 16)).await;
        call.abort();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut landed = 0;
    for round in 0..60u64 {
        let mut found = 0;
        for key in ["a", "b", "c"] {
            found += usize::from(get(&client, &format!("{key}{round}")).await.is_some());
        }
        assert!(found == 0 || found == 3, "{found} of 3 keys of round {round}");
        landed += usize::from(found == 3);
    }
    assert!(landed > 0, "every call was aborted before it was sent");
    server.stop().await;
}
