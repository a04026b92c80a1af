use super::super::codec::{Current, STEPS_MAX};
use super::super::{Directory, RowChange, StoreConfig};
use super::*;
use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

fn open() -> (TempDir, Store) {
    let directory = TempDir::new().unwrap();
    let config = StoreConfig { block_cache_bytes: 1 << 20, memtable_bytes: 1 << 20 };
    let taken = Arc::new(Directory::take(directory.path()).unwrap());
    let store = Store::open(taken, config, None).unwrap();
    (directory, store)
}

/// Writes the records of a key one by one, as the engine does.
fn write(store: &Store, key: &Bytes, records: impl IntoIterator<Item = Version>) -> Current {
    let mut current = Current::default();
    for version in records {
        let value = Bytes::from(version.commit_ts.0.to_be_bytes().to_vec());
        let (displaced, milestone) = current.add(version, value);
        let mut changes = vec![RowChange::Current(key.clone(), Some(current.clone()))];
        if milestone {
            changes.push(RowChange::Milestone(key.clone(), version.commit_ts));
        }
        changes.extend(displaced.into_iter().map(|row| RowChange::History(key.clone(), row)));
        store.apply(&changes, false).unwrap();
    }
    current
}

fn put(commit_ts: u64) -> Version {
    Version { commit_ts: Ts(commit_ts), start_ts: Ts(commit_ts - 1), kind: Kind::Put }
}

/// What a reader at `version` sees in the rows on disk.
fn read(store: &Store, key: &[u8], version: Ts) -> Option<Version> {
    match store.current(key).unwrap().newest_data()? {
        newest if newest.commit_ts <= version => Some(newest),
        newest => store.history_at(key, newest.commit_ts, version).unwrap().map(|row| row.version),
    }
}

#[test]
fn a_read_far_below_walks_no_further_than_from_one_milestone_to_the_next() {
    let (_directory, store) = open();
    let key = Bytes::from_static(b"hot");
    write(&store, &key, (1..=1000).map(|round| put(round * 10)));
    for version in (10..9_000).step_by(7).map(Ts) {
        assert_eq!(read(&store, &key, version), Some(put(version.0 / 10 * 10)));
        let milestone = store.milestone_after(&key, version).unwrap().unwrap();
        let passed = (milestone.0 - version.0) / 10;
        assert!(
            passed <= u64::from(STEPS_MAX),
            "{passed} records from {milestone:?} to {version:?}"
        );
    }
    assert_eq!(read(&store, &key, Ts(9)), None);
    // Neighbouring keys do not find its milestones.
    assert_eq!(store.milestone_after(b"ho", Ts(0)).unwrap(), None);
    assert_eq!(store.milestone_after(b"hot\0", Ts(0)).unwrap(), None);
}

#[test]
fn a_range_of_keys_finds_its_history_and_no_others() {
    let (_directory, store) = open();
    for key in ["a", "b", "bb", "c"] {
        write(&store, &Bytes::from(key), [put(10), put(20), put(30)]);
    }
    let range = KeyRange::new(Bytes::from_static(b"b"), Bytes::from_static(b"c"));
    let found: Vec<Vec<u8>> = store.scan_history_keys(&range).map(Result::unwrap).collect();
    let keys: Vec<_> = found.iter().map(|row| codec::history_user_key(row).unwrap()).collect();
    assert_eq!(keys, [b"b".to_vec(), b"bb".to_vec(), b"b".to_vec(), b"bb".to_vec()]);
}

/// A record's kind, the time from the record before it to its start, and from its start to its
/// commit.
fn any_step() -> impl Strategy<Value = (Kind, u64, u64)> {
    let kind = prop_oneof![4 => Just(Kind::Put), 1 => Just(Kind::Delete), 2 => Just(Kind::Lock)];
    (kind, 1..4u64, 1..4u64)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Records are written in the order of commits, or with two of them swapped, as a faulty client
    /// may do. Every read and every search finds what a plain list of records says.
    #[test]
    fn walks_find_what_a_list_of_records_says(
        steps in proptest::collection::vec(any_step(), 1..150),
        exchanged in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let (_directory, store) = open();
        let key = Bytes::from_static(b"k");
        let mut time = 0;
        let mut records: Vec<Version> = steps
            .into_iter()
            .map(|(kind, wait, work)| {
                let start_ts = Ts(time + wait);
                time += wait + work;
                Version { commit_ts: Ts(time), start_ts, kind }
            })
            .collect();
        let sorted = records.clone();
        if let Some(place) = exchanged.map(|place| place.index(records.len())).filter(|place| *place > 0) {
            records.swap(place - 1, place);
        }
        let current = write(&store, &key, records);
        for version in (0..=time + 1).map(Ts) {
            let expected = sorted
                .iter()
                .rfind(|record| record.commit_ts <= version && record.kind != Kind::Lock)
                .copied();
            prop_assert_eq!(read(&store, &key, version), expected, "at {:?}", version);
        }
        let newest: Vec<Version> = current.lock.into_iter().chain(current.newest_data()).collect();
        for record in sorted.iter().filter(|record| !newest.contains(record)) {
            let later = newest.iter().map(|version| version.commit_ts).collect();
            let found = store.history_of(&key, later, record.start_ts).unwrap();
            prop_assert_eq!(found, Some(*record));
        }
    }
}
