use super::super::{Directory, RowChange, Store, StoreConfig, inspect, journal};
use super::*;
use bytes::Bytes;
use std::sync::Arc;
use tempfile::TempDir;

const CONFIG: StoreConfig = StoreConfig { block_cache_bytes: 1 << 20, memtable_bytes: 1 << 20 };

/// A store with this many writes, closed again: its directory and its only journal.
fn written(writes: u8) -> (TempDir, PathBuf) {
    let temporary = TempDir::new().unwrap();
    let directory = Arc::new(Directory::take(temporary.path()).unwrap());
    let store = Store::open(directory, CONFIG, None).unwrap();
    for write in 1..=writes {
        store.apply(&[raw(write)], false).unwrap();
    }
    drop(store);
    let journal = temporary.path().join("data/0.jnl");
    (temporary, journal)
}

fn raw(write: u8) -> RowChange {
    let value = Bytes::from(vec![write; 40]);
    RowChange::Raw(Bytes::from(vec![b'r', write]), Some((value, 0)))
}

/// The journal's content before its zeros, and where its batches begin.
fn parts(journal: &Path) -> (Vec<u8>, Vec<u64>) {
    let mut opened = Journal::open(journal).unwrap();
    let mut starts = vec![0];
    while starts[starts.len() - 1] < opened.end {
        starts.push(opened.batch(starts[starts.len() - 1]).unwrap().end);
    }
    starts.pop();
    let mut content = Vec::new();
    read_at(opened.file.get_ref(), 0, opened.end, &mut content).unwrap();
    (content, starts)
}

fn judged(directory: &Path) -> Result<(), String> {
    inspect(&Directory::take(directory).unwrap()).map_err(|error| error.to_string())
}

#[test]
fn a_flipped_bit_anywhere_is_refused_by_the_marks_and_nearly_anywhere_without_them() {
    let (directory, journal) = written(5);
    let (content, starts) = parts(&journal);
    let last = *starts.last().unwrap();
    let whole = journal::inspect(&directory.path().join("data")).unwrap();
    for place in 0..content.len() {
        for bit in 0..8 {
            let mut flipped = content.clone();
            flipped[place] ^= 1 << bit;
            fs::write(&journal, &flipped).unwrap();
            let found = journal::inspect(journal.parent().unwrap());
            // The number that orders batches has no checksum. If it stays larger than those before
            // and smaller than those after, everything reads as before.
            let harmless = found.as_ref().is_ok_and(|found| *found == whole);
            assert!(harmless || judged(directory.path()).is_err(), "byte {place}, bit {bit}");
            match found {
                Ok(found) => assert!(harmless, "byte {place}, bit {bit}: {found:?}"),
                Err(error) => {
                    let error = error.to_string();
                    let named = starts.iter().any(|at| error.contains(&format!("at byte {at}:")));
                    assert!(named && error.contains("0.jnl"), "{error}");
                }
            }
            if harmless {
                let number = starts.iter().any(|at| (at + 5..at + 9).contains(&(place as u64)));
                assert!(number, "byte {place}, bit {bit} makes no difference");
            }
        }
    }
    assert!(last > 0);
}

#[test]
fn a_journal_cut_anywhere_is_refused_by_the_marks_and_has_a_torn_tail_without_them() {
    let (directory, journal) = written(4);
    let (content, starts) = parts(&journal);
    let marks = directory.path().join(super::super::marks::FILE);
    let known = fs::read(&marks).unwrap();
    for length in 0..content.len() {
        // The rest is zeros if the file was allocated in advance, or else nothing.
        for zeros in [0, 1_000] {
            let mut cut = content[..length].to_vec();
            cut.resize(length + zeros, 0);
            fs::write(&journal, cut).unwrap();
            fs::write(&marks, &known).unwrap();
            let written = starts.iter().filter(|at| **at > 0 && **at <= length as u64).count();
            if written > 0 {
                let error = judged(directory.path()).unwrap_err();
                assert!(error.contains("but 4 was acknowledged"), "{length}: {error}");
                assert!(error.contains("dev-kv.marks"), "{length}: {error}");
            }
            fs::remove_file(&marks).unwrap();
            judged(directory.path()).unwrap();
            let found = journal::inspect(journal.parent().unwrap()).unwrap();
            let end = *starts.iter().rfind(|at| **at <= length as u64).unwrap();
            let tail =
                content[..length].iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64 + 1;
            let torn = (tail > end && length > 0).then(|| (end, tail - end));
            assert_eq!(found.torn.map(|torn| (torn.offset, torn.bytes)), torn, "{length}");
            assert_eq!(found.last.map_or(0, |last| last.number), written as u64, "{length}");
        }
    }
    // Writes that are missing in the journal are noticed when the tables are read.
    fs::write(&journal, []).unwrap();
    fs::write(&marks, &known).unwrap();
    for _ in 0..2 {
        let taken = Arc::new(Directory::take(directory.path()).unwrap());
        let error = Store::open(taken, CONFIG, None).unwrap_err().to_string();
        assert!(error.contains("write 0 is the last one there, but 4"), "{error}");
    }
}

#[test]
fn sectors_that_never_reached_the_disk_are_a_torn_tail_only_behind_everything_else() {
    let temporary = TempDir::new().unwrap();
    let directory = Arc::new(Directory::take(temporary.path()).unwrap());
    let store = Store::open(directory, CONFIG, None).unwrap();
    let long = |key: &'static str| {
        RowChange::Raw(Bytes::from(key), Some((Bytes::from(vec![7; 5_000]), 0)))
    };
    store.apply(&[long("a")], false).unwrap();
    store.apply(&[long("b")], false).unwrap();
    drop(store);
    let journal = temporary.path().join("data/0.jnl");
    fs::remove_file(temporary.path().join(super::super::marks::FILE)).unwrap();
    let (content, starts) = parts(&journal);
    let second = usize::try_from(starts[1]).unwrap();
    let mut torn = content.clone();
    torn[second.next_multiple_of(512) + 512..][..512].fill(0);
    fs::write(&journal, &torn).unwrap();
    let found = journal::inspect(journal.parent().unwrap()).unwrap();
    assert_eq!(found.torn.unwrap().offset, starts[1]);
    assert_eq!(found.last.unwrap().number, 1);
    let mut damaged = content;
    damaged[512..1024].fill(0);
    fs::write(&journal, &damaged).unwrap();
    let error = judged(temporary.path()).unwrap_err();
    assert!(error.contains("at byte 0:") && error.contains("follows at byte"), "{error}");
}

#[test]
fn missing_journals_are_refused() {
    let (directory, journal) = written(3);
    let content = fs::read(&journal).unwrap();
    fs::remove_file(&journal).unwrap();
    let error = judged(directory.path()).unwrap_err();
    assert!(error.contains("0.jnl is missing"), "{error}");
    fs::write(&journal, &content).unwrap();
    fs::write(journal.with_file_name("2.jnl"), []).unwrap();
    let error = judged(directory.path()).unwrap_err();
    assert!(error.contains("1.jnl is missing"), "{error}");
    fs::remove_file(journal.with_file_name("2.jnl")).unwrap();
    judged(directory.path()).unwrap();
    fs::remove_dir_all(directory.path().join("data")).unwrap();
    let error = judged(directory.path()).unwrap_err();
    assert!(error.contains("3 was acknowledged"), "{error}");
}

#[test]
fn a_write_missing_between_two_is_refused() {
    let (directory, journal) = written(4);
    let (content, starts) = parts(&journal);
    let [second, third] = [1, 2].map(|place| usize::try_from(starts[place]).unwrap());
    fs::write(&journal, [&content[..second], &content[third..]].concat()).unwrap();
    let error = judged(directory.path()).unwrap_err();
    assert!(error.contains("write 3 follows write 1"), "{error}");
}

#[test]
fn a_torn_write_with_a_journal_behind_it_is_refused() {
    let (directory, journal) = written(2);
    let (mut content, starts) = parts(&journal);
    content.truncate(usize::try_from(starts[1]).unwrap() + 20);
    fs::write(&journal, &content).unwrap();
    fs::remove_file(directory.path().join(super::super::marks::FILE)).unwrap();
    fs::write(journal.with_file_name("1.jnl"), [0; 100]).unwrap();
    judged(directory.path()).unwrap();
    fs::write(journal.with_file_name("1.jnl"), &content[..20]).unwrap();
    let error = judged(directory.path()).unwrap_err();
    assert!(error.contains("torn, but") && error.contains("1.jnl"), "{error}");
}

/// A store of a release that did not number its writes opens, and numbers them from then on.
#[test]
fn a_store_without_numbers_opens_and_gets_them() {
    let temporary = TempDir::new().unwrap();
    fs::write(temporary.path().join("dev-kv.format"), "dev-kv format 2\n").unwrap();
    let db = fjall::Database::builder(temporary.path().join("data")).open().unwrap();
    let table = db.keyspace("raw", fjall::KeyspaceCreateOptions::default).unwrap();
    let mut batch = fjall::OwnedWriteBatch::with_capacity(db.clone(), 1)
        .durability(Some(fjall::PersistMode::SyncData));
    batch.insert(&table, b"kold".as_slice(), b"\0\0\0\0\0\0\0\0value".as_slice());
    batch.commit().unwrap();
    drop((table, db));
    for round in 1..=2 {
        let taken = Arc::new(Directory::take(temporary.path()).unwrap());
        let store = Store::open(Arc::clone(&taken), CONFIG, None).unwrap();
        assert_eq!(store.raw(b"old").unwrap(), Some((Bytes::from("value"), 0)));
        store.apply(&[raw(1)], false).unwrap();
        assert_eq!(taken.marks().held().writes, round);
    }
    let found = journal::inspect(&temporary.path().join("data")).unwrap();
    assert_eq!(found.last.unwrap().number, 2);
}
