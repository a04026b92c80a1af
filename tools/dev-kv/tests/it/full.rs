//! A full disk: reads and timestamps go on, writes are refused until there is room.

use crate::support::{Process, Server, eventually, free_address, get, now, optimistic, put, whole};
use crate::wire::{Wire, prewrite};
use dev_kv::wire::kvrpcpb::GetRequest;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tikv_client::TransactionClient;

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_write_reads_go_on_and_writes_come_back() {
    let failing = Arc::new(AtomicBool::new(false));
    let switch = failing.clone();
    let server = Server::start_with(move |config| {
        config.sync_probe = Some(Arc::new(move |_: &Path| {
            if switch.load(Ordering::SeqCst) {
                return Err(std::io::Error::other("the disk is full"));
            }
            Ok(())
        }));
    })
    .await;
    let client = server.client().await;
    put(&client, "k", "before").await;
    let version = now(&client).await;
    failing.store(true, Ordering::SeqCst);
    let mut txn = client.begin_with_options(optimistic()).await.unwrap();
    txn.put("k".to_owned(), "during").await.unwrap();
    txn.commit().await.unwrap_err();
    let wire = Wire::new(&server).await;
    eventually("reads are served", async || {
        let request = GetRequest { context: whole(), key: "k".into(), version };
        let answer = wire.kv.clone().kv_get(request).await;
        answer.is_ok_and(|answer| &answer.get_ref().value[..] == b"before")
    })
    .await;
    let refused = wire.send(prewrite(version, vec![crate::wire::put("x", "")])).await;
    let reason = refused.region_error.unwrap().server_is_busy.unwrap().reason;
    assert!(reason.contains("the disk is full"), "{reason}");
    failing.store(false, Ordering::SeqCst);
    eventually("writes are accepted again", async || {
        let mut txn = client.begin_with_options(optimistic()).await.unwrap();
        txn.put("other".to_owned(), "after").await.unwrap();
        txn.commit().await.is_ok()
    })
    .await;
    assert_eq!(get(&client, "other").await.as_deref(), Some("after"));
    server.stop().await;
}

/// The closest to a full disk without a disk of its own: a limit on the size of files.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_writes_fail_reads_go_on_and_nothing_is_damaged() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("kv");
    let address = free_address();
    let process = Process::start(&address, &data).await;
    let client = TransactionClient::new(vec![address.clone()]).await.unwrap();
    put(&client, "first", "kept").await;
    let version = now(&client).await;
    process.stop();
    let mut limited = Command::new("bash");
    limited
        .arg("-c")
        .arg("ulimit -S -f 1024; exec \"$0\" \"$@\"")
        .arg(env!("CARGO_BIN_EXE_dev-kv"))
        .args(["--listen", &address, "--data-dir"])
        .arg(&data);
    let process = Process::spawn(limited, &address).await;
    let client = TransactionClient::new(vec![address.clone()]).await.unwrap();
    let mut kept = Vec::new();
    let mut failed = None;
    for round in 0..400 {
        let mut txn = client.begin_with_options(optimistic().try_one_pc()).await.unwrap();
        txn.put(format!("k{round:03}"), vec![b'v'; 8_000]).await.unwrap();
        match txn.commit().await {
            Ok(_) => kept.push(format!("k{round:03}")),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    assert!(failed.is_some(), "a megabyte took {} writes of eight thousand bytes", kept.len());
    assert!(!kept.is_empty());
    while_full(&address, version).await;
    let limit = Command::new("prlimit")
        .args(["--pid", &process.child.id().to_string(), "--fsize=unlimited:"])
        .status();
    assert!(limit.unwrap().success());
    eventually("writes come back by themselves", async || {
        let mut txn = client.begin_with_options(optimistic()).await.unwrap();
        txn.put("back".to_owned(), "again").await.unwrap();
        txn.commit().await.is_ok()
    })
    .await;
    process.kill();
    let process = Process::start(&address, &data).await;
    let client = TransactionClient::new(vec![address.clone()]).await.unwrap();
    assert_eq!(get(&client, "first").await.as_deref(), Some("kept"));
    for key in &kept {
        assert_eq!(get(&client, key).await.map(|value| value.len()), Some(8_000), "{key}");
    }
    assert_eq!(get(&client, "back").await.as_deref(), Some("again"));
    put(&client, "last", "written").await;
    process.stop();
}

/// Runs longer than timestamps were reserved in advance. Every read and every timestamp is answered
/// at once, and every write is refused with its reason.
async fn while_full(address: &str, version: u64) {
    let client = TransactionClient::new(vec![address.to_owned()]).await.unwrap();
    let wire = Wire::at(address).await;
    let read = async || {
        let request = GetRequest { context: whole(), key: "first".into(), version };
        wire.kv.clone().kv_get(request).await.unwrap().into_inner()
    };
    // After a failed write the store is opened again, which takes a moment.
    eventually("the store is open again", async || read().await.region_error.is_none()).await;
    let began = Instant::now();
    let mut last = 0;
    while began.elapsed() < Duration::from_secs(5) {
        let found = read().await;
        assert_eq!((found.region_error, &found.value[..]), (None, &b"kept"[..]));
        let asked = Instant::now();
        let now = now(&client).await;
        assert!(now > last, "timestamps go up");
        assert!(asked.elapsed() < Duration::from_secs(1), "a timestamp took {:?}", asked.elapsed());
        last = now;
        let refused = wire.send(prewrite(now, vec![crate::wire::put("x", "")])).await;
        let reason = refused.region_error.unwrap().server_is_busy.unwrap().reason;
        assert!(reason.contains("writes fail"), "{reason}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A separate file system, where one can be mounted.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "till-test"]).arg(at);
        let mounted = mount.stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
    }
}

/// Needs root. Without it, the limit on files has to do.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_file_system_without_room_reads_and_timestamps_go_on_until_there_is_some() {
    let directory = TempDir::new().unwrap();
    let Some(disk) = Disk::mount(directory.path(), "60m") else { return };
    let data = disk.0.join("kv");
    let address = free_address();
    let process = Process::start(&address, &data).await;
    let client = TransactionClient::new(vec![address.clone()]).await.unwrap();
    put(&client, "first", "kept").await;
    let version = now(&client).await;
    let filler = disk.0.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    let mut failed = false;
    for round in 0..100 {
        let mut txn = client.begin_with_options(optimistic().try_one_pc()).await.unwrap();
        txn.put(format!("k{round:03}"), vec![b'v'; 8_000]).await.unwrap();
        failed = txn.commit().await.is_err();
        if failed {
            break;
        }
    }
    assert!(failed, "the disk was not full");
    while_full(&address, version).await;
    std::fs::remove_file(&filler).unwrap();
    eventually("writes come back by themselves", async || {
        let mut txn = client.begin_with_options(optimistic()).await.unwrap();
        txn.put("back".to_owned(), "again").await.unwrap();
        txn.commit().await.is_ok()
    })
    .await;
    assert!(!data.join("dev-kv.room").exists(), "what was written to see whether there is room");
    process.kill();
    let process = Process::start(&address, &data).await;
    let client = TransactionClient::new(vec![address.clone()]).await.unwrap();
    assert_eq!(get(&client, "first").await.as_deref(), Some("kept"));
    assert_eq!(get(&client, "back").await.as_deref(), Some("again"));
    process.stop();
}
