//! Which damage to a data directory is refused, and which is accepted.

use crate::support::{Process, Server, free_address, get, put};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tikv_client::TransactionClient;

const KEYS: usize = 20;

/// A directory with some keys, left by kill -9, with its only journal and the journal's content.
async fn killed() -> (TempDir, PathBuf, Vec<u8>) {
    let directory = TempDir::new().unwrap();
    let address = free_address();
    let process = Process::start(&address, directory.path()).await;
    let client = TransactionClient::new(vec![address]).await.unwrap();
    for key in 0..KEYS {
        put(&client, &format!("k{key:02}"), "value").await;
    }
    process.kill();
    let journal = directory.path().join("data/0.jnl");
    let mut content = std::fs::read(&journal).unwrap();
    content.truncate(content.iter().rposition(|byte| *byte != 0).unwrap() + 1);
    (directory, journal, content)
}

/// Why the server does not start.
async fn refused(data: &Path) -> String {
    let server = Server::open(data, |_| {}).await;
    let ended = tokio::time::timeout(Duration::from_secs(10), server.ended()).await;
    ended.expect("it starts").unwrap_err().to_string()
}

/// Checks that the server starts and has every key.
async fn opens_whole(data: &Path) {
    let server = Server::open(data, |_| {}).await;
    let client = server.client().await;
    for key in 0..KEYS {
        assert_eq!(get(&client, &format!("k{key:02}")).await.as_deref(), Some("value"));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_is_refused_with_file_and_offset_and_stays_as_it_is() {
    let (directory, journal, content) = killed().await;
    // The trailer, a tag and a length somewhere in the middle. The engine takes each for the end.
    let magic = |from: usize| {
        from + content[from..].windows(4).position(|bytes| bytes == b"FJL\x03").unwrap()
    };
    let trailer = magic(content.len() / 2);
    for place in [trailer, trailer + 4, trailer + 5, trailer + 17, trailer + 28, trailer + 40] {
        let mut damaged = content.clone();
        damaged[place] ^= 0x40;
        std::fs::write(&journal, &damaged).unwrap();
        let error = refused(directory.path()).await;
        assert!(error.contains("0.jnl is damaged at byte "), "{error}");
        assert!(error.contains("Restore the data directory"), "{error}");
        assert_eq!(std::fs::read(&journal).unwrap(), damaged, "what is refused is not changed");
    }
    std::fs::write(&journal, &content).unwrap();
    opens_whole(directory.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_without_its_format_is_refused_and_opens_once_that_is_back() {
    let (directory, _, _) = killed().await;
    let format = directory.path().join("dev-kv.format");
    let content = std::fs::read(&format).unwrap();
    std::fs::remove_file(&format).unwrap();
    let error = refused(directory.path()).await;
    assert!(error.contains("dev-kv.format is missing"), "{error}");
    assert!(!format.exists(), "what is refused is not changed");
    std::fs::write(&format, content).unwrap();
    opens_whole(directory.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_lost_its_end_or_itself_is_refused_and_what_is_left_opens_as_told() {
    let (directory, journal, content) = killed().await;
    std::fs::write(&journal, &content[..content.len() / 2]).unwrap();
    let error = refused(directory.path()).await;
    assert!(error.contains("0.jnl ends at byte") && error.contains("was acknowledged"), "{error}");
    std::fs::remove_file(&journal).unwrap();
    let error = refused(directory.path()).await;
    assert!(error.contains("0.jnl is missing"), "{error}");
    let error = refused(directory.path()).await;
    assert!(error.contains("0.jnl is missing"), "the second start is no better: {error}");
    std::fs::write(&journal, &content[..content.len() / 2]).unwrap();
    std::fs::remove_file(directory.path().join("dev-kv.marks")).unwrap();
    let server = Server::open(directory.path(), |_| {}).await;
    let client = server.client().await;
    assert_eq!(get(&client, "k00").await.as_deref(), Some("value"));
    assert_eq!(get(&client, &format!("k{:02}", KEYS - 1)).await, None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_torn_tail_of_the_last_write_is_dropped_and_its_bytes_are_logged() {
    let (directory, journal, content) = killed().await;
    // A piece of a batch, from its start.
    let last = content.len() - 4;
    let begins = 4 + content[..last].windows(4).rposition(|bytes| bytes == b"FJL\x03").unwrap();
    let piece = &content[begins..begins + (content.len() - begins) / 2];
    // Zeros at the end of a journal are preallocated room.
    let bytes = piece.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    std::fs::write(&journal, [&content[..], piece].concat()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dev-kv"));
    command.args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(directory.path());
    let log = directory.path().join("log");
    command.stderr(Stdio::from(std::fs::File::create(&log).unwrap()));
    let mut child = command.spawn().unwrap();
    let read = || std::fs::read_to_string(&log).unwrap();
    crate::support::eventually("it serves", async || read().contains("dev-kv serves")).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let log = read();
    let told = log.lines().find(|line| line.contains("torn")).expect("the torn tail is logged");
    for part in ["0.jnl", &format!("{}", content.len()), &format!("{bytes}")] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    opens_whole(directory.path()).await;
}
