//! Tests of the rules over a naive store, which is a map of versions. Most go through single
//! situations. A property test runs random transactions and compares what readers see with a
//! separate history.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

/// The naive store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Naive {
    locks: BTreeMap<Bytes, Lock>,
    versions: BTreeMap<(Bytes, Ts), (Version, Bytes)>,
    rollbacks: BTreeSet<(Bytes, Ts)>,
}

impl Naive {
    fn records(&self, key: &Bytes) -> impl DoubleEndedIterator<Item = &(Version, Bytes)> {
        self.versions.range((key.clone(), Ts(0))..=(key.clone(), TS_MAX)).map(|(_, record)| record)
    }

    fn apply(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Lock(key, lock) => {
                    self.locks.insert(key, *lock);
                }
                Effect::Unlock(key) => {
                    self.locks.remove(&key);
                }
                Effect::Write(key, version, value) => {
                    self.versions.insert((key, version.commit_ts), (version, value));
                }
                Effect::Rollback(key, start_ts) => {
                    self.rollbacks.insert((key, start_ts));
                }
            }
        }
    }

    /// What a reader sees, or the lock that blocks it.
    fn read(&self, key: &Bytes, version: Ts) -> Result<Option<Bytes>, Box<Lock>> {
        if let Some(lock) = self.locks.get(key)
            && blocks_read(key, lock, version, &[])
        {
            return Err(Box::new(lock.clone()));
        }
        Ok(self
            .records(key)
            .rev()
            .find(|(record, _)| record.commit_ts <= version && record.kind != Kind::Lock)
            .and_then(|(record, value)| (record.kind == Kind::Put).then(|| value.clone())))
    }

    /// Runs an operation and applies its effects.
    fn run<T>(
        &mut self,
        operation: impl FnOnce(&mut Self, &mut Vec<Effect>) -> Outcome<T, Self>,
    ) -> Result<T, Vec<Refusal>> {
        let mut effects = Vec::new();
        let before = self.clone();
        let result = operation(self, &mut effects);
        assert_eq!(*self, before, "a decision changes nothing by itself");
        match result {
            Ok(answer) => {
                self.apply(effects);
                Ok(answer)
            }
            Err(Failure::Refused(refusals)) => Err(refusals),
            Err(Failure::View(never)) => match never {},
        }
    }
}

impl View for Naive {
    type Error = Infallible;

    fn key(&mut self, key: &Bytes) -> Result<KeyState<'_>, Infallible> {
        let newest = self.records(key).next_back().map(|(version, _)| *version);
        let newest_data = self
            .records(key)
            .rev()
            .map(|(version, _)| *version)
            .find(|version| version.kind != Kind::Lock);
        Ok(KeyState { lock: self.locks.get(key), newest, newest_data })
    }

    fn commit_of(&mut self, key: &Bytes, start_ts: Ts) -> Result<Option<Version>, Infallible> {
        Ok(self
            .records(key)
            .map(|(version, _)| *version)
            .find(|version| version.start_ts == start_ts))
    }

    fn rolled_back(&mut self, key: &Bytes, start_ts: Ts) -> Result<bool, Infallible> {
        Ok(self.rollbacks.contains(&(key.clone(), start_ts)))
    }

    fn newest_value(&mut self, key: &Bytes) -> Result<Option<Bytes>, Infallible> {
        Ok(self
            .records(key)
            .rev()
            .find(|(version, _)| version.kind != Kind::Lock)
            .and_then(|(version, value)| (version.kind == Kind::Put).then(|| value.clone())))
    }
}

fn key(name: &'static str) -> Bytes {
    Bytes::from_static(name.as_bytes())
}

fn put(name: &'static str, value: &'static str) -> Mutation {
    Mutation {
        op: MutationOp::Put,
        key: key(name),
        value: key(value),
        action: PessimisticAction::Skip,
    }
}

fn with_op(op: MutationOp, name: &'static str) -> Mutation {
    Mutation { op, key: key(name), value: Bytes::new(), action: PessimisticAction::Skip }
}

/// A prewrite of an optimistic transaction whose primary is its first key.
fn request(start_ts: u64, mutations: Vec<Mutation>) -> Prewrite {
    Prewrite {
        primary: mutations[0].key.clone(),
        mutations,
        start_ts: Ts(start_ts),
        ttl_ms: 3_000,
        for_update_ts: Ts(0),
        min_commit_ts: Ts(0),
        txn_size: 1,
        async_commit: None,
        one_phase: false,
    }
}

fn status_question(primary: &'static str, lock_ts: u64, current_ts: Ts) -> CheckStatus {
    CheckStatus {
        primary: key(primary),
        lock_ts: Ts(lock_ts),
        caller_start_ts: current_ts,
        current_ts,
        rollback_if_not_exist: true,
        force_sync_commit: false,
        resolving_pessimistic_lock: false,
        verify_is_primary: true,
    }
}

/// A timestamp at this millisecond.
fn at_ms(milliseconds: u64) -> Ts {
    Ts(milliseconds << Ts::LOGICAL_BITS)
}

fn prewrite_on(kv: &mut Naive, request: &Prewrite) -> Result<prewrite::Prewritten, Vec<Refusal>> {
    kv.run(|kv, out| prewrite(kv, request, Ts(0), out))
}

fn commit_on(
    kv: &mut Naive,
    names: &[&'static str],
    start_ts: u64,
    commit_ts: u64,
) -> Result<(), Vec<Refusal>> {
    let keys: Vec<Bytes> = names.iter().map(|name| key(name)).collect();
    kv.run(|kv, out| commit(kv, &keys, Ts(start_ts), Ts(commit_ts), out))
}

fn roll_back_on(kv: &mut Naive, names: &[&'static str], start_ts: u64) -> Result<(), Vec<Refusal>> {
    let keys: Vec<Bytes> = names.iter().map(|name| key(name)).collect();
    kv.run(|kv, out| rollback(kv, &keys, Ts(start_ts), out))
}

fn conflict_reason(result: &Result<prewrite::Prewritten, Vec<Refusal>>) -> Option<ConflictReason> {
    match result.as_ref().unwrap_err().as_slice() {
        [Refusal::Conflict { reason, .. }] => Some(*reason),
        _ => None,
    }
}

#[test]
fn the_first_of_two_writers_wins() {
    let mut kv = Naive::default();
    prewrite_on(&mut kv, &request(10, vec![put("a", "1")])).unwrap();
    let locked = prewrite_on(&mut kv, &request(11, vec![put("a", "2")])).unwrap_err();
    assert!(matches!(locked.as_slice(), [Refusal::Locked { .. }]));
    commit_on(&mut kv, &["a"], 10, 20).unwrap();
    let late = prewrite_on(&mut kv, &request(11, vec![put("a", "2")]));
    assert_eq!(
        late.unwrap_err(),
        [Refusal::Conflict {
            start_ts: Ts(11),
            conflict_start_ts: Ts(10),
            conflict_commit_ts: Ts(20),
            key: key("a"),
            primary: key("a"),
            reason: ConflictReason::Optimistic,
        }]
    );
    prewrite_on(&mut kv, &request(21, vec![put("a", "2")])).unwrap();
}

#[test]
fn all_locks_in_the_way_are_told_at_once_and_nothing_is_written() {
    let mut kv = Naive::default();
    prewrite_on(&mut kv, &request(10, vec![put("a", ""), put("c", "")])).unwrap();
    let before = kv.clone();
    let mutations = vec![put("a", ""), put("b", ""), put("c", "")];
    let refusals = prewrite_on(&mut kv, &request(11, mutations)).unwrap_err();
    assert_eq!(refusals.len(), 2);
    assert_eq!(kv, before);
}

#[test]
fn a_locked_key_that_was_only_read_conflicts_too() {
    let mut kv = Naive::default();
    prewrite_on(&mut kv, &request(10, vec![with_op(MutationOp::Lock, "a")])).unwrap();
    commit_on(&mut kv, &["a"], 10, 20).unwrap();
    assert_eq!(kv.read(&key("a"), Ts(30)), Ok(None));
    let result = prewrite_on(&mut kv, &request(15, vec![put("a", "1")]));
    assert_eq!(conflict_reason(&result), Some(ConflictReason::Optimistic));
}

#[test]
fn an_insert_needs_absence_and_a_deletion_makes_it() {
    let mut kv = Naive::default();
    let insert = || Mutation { op: MutationOp::Insert, ..put("a", "1") };
    prewrite_on(&mut kv, &request(10, vec![insert()])).unwrap();
    commit_on(&mut kv, &["a"], 10, 11).unwrap();
    let refused = prewrite_on(&mut kv, &request(12, vec![insert()])).unwrap_err();
    assert_eq!(refused, [Refusal::AlreadyExists(key("a"))]);
    let check = with_op(MutationOp::CheckNotExists, "a");
    let refused = prewrite_on(&mut kv, &request(12, vec![check.clone()])).unwrap_err();
    assert_eq!(refused, [Refusal::AlreadyExists(key("a"))]);
    let delete = with_op(MutationOp::Delete, "a");
    prewrite_on(&mut kv, &request(13, vec![delete])).unwrap();
    commit_on(&mut kv, &["a"], 13, 14).unwrap();
    prewrite_on(&mut kv, &request(15, vec![check])).unwrap();
    assert!(kv.locks.is_empty(), "a check writes nothing");
    prewrite_on(&mut kv, &request(16, vec![insert()])).unwrap();
}

#[test]
fn repeated_requests_change_nothing_and_succeed() {
    let mut kv = Naive::default();
    let prewritten = request(10, vec![put("a", "1"), put("b", "2")]);
    prewrite_on(&mut kv, &prewritten).unwrap();
    let before = kv.clone();
    prewrite_on(&mut kv, &prewritten).unwrap();
    assert_eq!(kv, before);
    commit_on(&mut kv, &["a", "b"], 10, 20).unwrap();
    let before = kv.clone();
    commit_on(&mut kv, &["a", "b"], 10, 20).unwrap();
    commit_on(&mut kv, &["a"], 10, 99).unwrap();
    prewrite_on(&mut kv, &prewritten).unwrap();
    assert_eq!(kv, before, "what was committed stands, without new locks");
    roll_back_on(&mut kv, &["c"], 30).unwrap();
    let before = kv.clone();
    roll_back_on(&mut kv, &["c"], 30).unwrap();
    assert_eq!(kv, before);
}

#[test]
fn a_rolled_back_transaction_can_neither_prewrite_nor_commit() {
    let mut kv = Naive::default();
    roll_back_on(&mut kv, &["a"], 10).unwrap();
    let result = prewrite_on(&mut kv, &request(10, vec![put("a", "1")]));
    assert_eq!(conflict_reason(&result), Some(ConflictReason::SelfRolledBack));
    let refused = commit_on(&mut kv, &["a"], 10, 20).unwrap_err();
    assert!(matches!(refused.as_slice(), [Refusal::LockNotFound { .. }]));
}

#[test]
fn a_commit_is_whole_or_not_at_all() {
    let mut kv = Naive::default();
    prewrite_on(&mut kv, &request(10, vec![put("a", "1"), put("b", "2")])).unwrap();
    let before = kv.clone();
    commit_on(&mut kv, &["a", "b", "c"], 10, 20).unwrap_err();
    assert_eq!(kv, before);
    let refused = commit_on(&mut kv, &["a"], 10, 10).unwrap_err();
    assert!(matches!(refused.as_slice(), [Refusal::Abort(_)]));
}

#[test]
fn what_is_committed_is_not_rolled_back() {
    let mut kv = Naive::default();
    prewrite_on(&mut kv, &request(10, vec![put("a", "1"), put("b", "2")])).unwrap();
    commit_on(&mut kv, &["a"], 10, 20).unwrap();
    let before = kv.clone();
    let refused = roll_back_on(&mut kv, &["b", "a"], 10).unwrap_err();
    assert!(matches!(refused.as_slice(), [Refusal::Abort(text)] if text.contains("Committed")));
    assert_eq!(kv, before, "not even the key that could be");
}

#[test]
fn a_commit_below_the_promised_timestamp_is_refused() {
    let mut kv = Naive::default();
    let floor = Prewrite { min_commit_ts: Ts(50), ..request(10, vec![put("a", "1")]) };
    prewrite_on(&mut kv, &floor).unwrap();
    assert_eq!(
        commit_on(&mut kv, &["a"], 10, 49).unwrap_err(),
        [Refusal::CommitTsExpired {
            start_ts: Ts(10),
            attempted: Ts(49),
            key: key("a"),
            min_commit_ts: Ts(50),
        }]
    );
    assert_eq!(kv.read(&key("a"), Ts(49)), Ok(None), "not in this reader's way");
    assert!(kv.read(&key("a"), Ts(50)).is_err());
    commit_on(&mut kv, &["a"], 10, 50).unwrap();
}

#[test]
fn one_phase_commits_leave_no_lock_and_repeat_their_timestamp() {
    let mut kv = Naive::default();
    let one = Prewrite { one_phase: true, ..request(10, vec![put("a", "1"), put("b", "2")]) };
    let first = kv.run(|kv, out| prewrite(kv, &one, Ts(20), out)).unwrap();
    assert_eq!(first.one_phase_commit_ts, Ts(20));
    assert!(kv.locks.is_empty());
    let again = kv.run(|kv, out| prewrite(kv, &one, Ts(30), out)).unwrap();
    assert_eq!(again, first);
    assert_eq!(kv.versions.len(), 2);
}

#[test]
fn an_async_commit_keeps_its_secondaries_on_the_primary() {
    let mut kv = Naive::default();
    let request = Prewrite {
        async_commit: Some(vec![key("b")]),
        ..request(10, vec![put("a", "1"), put("b", "2")])
    };
    let done = kv.run(|kv, out| prewrite(kv, &request, Ts(20), out)).unwrap();
    assert_eq!(done.min_commit_ts, Ts(20));
    assert_eq!(kv.locks[&key("a")].secondaries, [key("b")]);
    assert!(kv.locks[&key("b")].secondaries.is_empty());
    // A reader never ends it, whatever its age.
    let status =
        kv.run(|kv, out| check_txn_status(kv, &status_question("a", 10, TS_MAX), out)).unwrap();
    assert!(matches!(status, TxnStatus::Alive(_, Action::None)));
    let keys = [key("b")];
    let secondaries = kv.run(|kv, out| check_secondary_locks(kv, &keys, Ts(10), out)).unwrap();
    assert!(matches!(secondaries, SecondaryStatus::Locked(locks) if locks.len() == 1));
}

#[test]
fn a_missing_secondary_ends_an_async_commit_for_good() {
    let mut kv = Naive::default();
    let keys = [key("b")];
    let status = kv.run(|kv, out| check_secondary_locks(kv, &keys, Ts(10), out)).unwrap();
    assert_eq!(status, SecondaryStatus::RolledBack);
    let result = prewrite_on(&mut kv, &request(10, vec![put("b", "2")]));
    assert_eq!(conflict_reason(&result), Some(ConflictReason::SelfRolledBack));
}

#[test]
fn a_lock_lives_through_the_last_millisecond_of_its_life() {
    let started = at_ms(1_000);
    let mut kv = Naive::default();
    prewrite_on(&mut kv, &request(started.0, vec![put("a", "1")])).unwrap();
    let ask = |kv: &mut Naive, now: Ts| {
        kv.run(|kv, out| check_txn_status(kv, &status_question("a", started.0, now), out)).unwrap()
    };
    let alive = ask(&mut kv, at_ms(4_000));
    assert!(matches!(alive, TxnStatus::Alive(lock, Action::None) if lock.ttl_ms == 3_000));
    assert_eq!(ask(&mut kv, at_ms(4_001)), TxnStatus::RolledBack(Action::TtlExpireRollback));
    assert_eq!(ask(&mut kv, at_ms(4_001)), TxnStatus::RolledBack(Action::None));
    commit_on(&mut kv, &["a"], started.0, at_ms(5_000).0).unwrap_err();
}

#[test]
fn heart_beats_prolong_and_never_shorten() {
    let mut kv = Naive::default();
    prewrite_on(&mut kv, &request(10, vec![put("a", "1")])).unwrap();
    let beat =
        |kv: &mut Naive, name, ttl| kv.run(|kv, out| heart_beat(kv, &key(name), Ts(10), ttl, out));
    assert_eq!(beat(&mut kv, "a", 9_000), Ok(9_000));
    assert_eq!(beat(&mut kv, "a", 1_000), Ok(9_000));
    let refused = beat(&mut kv, "b", 1_000).unwrap_err();
    assert!(matches!(refused.as_slice(), [Refusal::TxnNotFound { .. }]));
}

#[test]
fn a_transaction_without_a_trace_is_barred_only_when_asked_for() {
    let mut kv = Naive::default();
    let ask = |kv: &mut Naive, rollback_if_not_exist, resolving_pessimistic_lock| {
        let question = CheckStatus {
            rollback_if_not_exist,
            resolving_pessimistic_lock,
            ..status_question("a", 10, TS_MAX)
        };
        kv.run(|kv, out| check_txn_status(kv, &question, out))
    };
    let refused = ask(&mut kv, false, false).unwrap_err();
    assert!(matches!(refused.as_slice(), [Refusal::TxnNotFound { .. }]));
    assert_eq!(ask(&mut kv, true, true), Ok(TxnStatus::RolledBack(Action::LockNotExistDoNothing)));
    assert!(kv.rollbacks.is_empty());
    assert_eq!(ask(&mut kv, true, false), Ok(TxnStatus::RolledBack(Action::LockNotExistRollback)));
    assert!(prewrite_on(&mut kv, &request(10, vec![put("a", "1")])).is_err());
}

#[test]
fn a_lock_of_another_primary_is_not_ended_by_mistake() {
    let mut kv = Naive::default();
    prewrite_on(&mut kv, &request(10, vec![put("a", "1"), put("b", "2")])).unwrap();
    let before = kv.clone();
    let refused =
        kv.run(|kv, out| check_txn_status(kv, &status_question("b", 10, TS_MAX), out)).unwrap_err();
    assert!(matches!(refused.as_slice(), [Refusal::PrimaryMismatch { .. }]));
    assert_eq!(kv, before);
}

fn lock_request(start_ts: u64, for_update_ts: u64, name: &'static str) -> LockRequest {
    LockRequest {
        keys: vec![(key(name), false)],
        primary: key(name),
        start_ts: Ts(start_ts),
        ttl_ms: 20_000,
        for_update_ts: Ts(for_update_ts),
        min_commit_ts: Ts(0),
        return_values: true,
    }
}

#[test]
fn a_pessimistic_lock_excludes_writers_and_lets_readers_pass() {
    let mut kv = Naive::default();
    let take = |kv: &mut Naive, request: &LockRequest| {
        kv.run(|kv, out| pessimistic_lock(kv, request, out))
    };
    assert_eq!(take(&mut kv, &lock_request(10, 10, "a")), Ok(vec![None]));
    assert_eq!(take(&mut kv, &lock_request(10, 12, "a")), Ok(vec![None]));
    let refused = take(&mut kv, &lock_request(11, 11, "a")).unwrap_err();
    assert!(matches!(refused.as_slice(), [Refusal::Locked { .. }]));
    assert_eq!(kv.read(&key("a"), Ts(50)), Ok(None));
    let pessimistic = Prewrite {
        for_update_ts: Ts(12),
        mutations: vec![Mutation { action: PessimisticAction::HoldsLock, ..put("a", "1") }],
        ..request(10, vec![put("a", "1")])
    };
    prewrite_on(&mut kv, &pessimistic).unwrap();
    commit_on(&mut kv, &["a"], 10, 20).unwrap();
    let refused = take(&mut kv, &lock_request(11, 19, "a")).unwrap_err();
    assert!(matches!(
        refused.as_slice(),
        [Refusal::Conflict { reason: ConflictReason::PessimisticRetry, .. }]
    ));
    assert_eq!(take(&mut kv, &lock_request(11, 20, "a")), Ok(vec![Some(key("1"))]));
    let keys = [key("a")];
    kv.run(|kv, out| pessimistic_rollback(kv, &keys, Ts(11), Ts(19), out)).unwrap();
    assert!(!kv.locks.is_empty(), "taken later than that");
    kv.run(|kv, out| pessimistic_rollback(kv, &keys, Ts(11), Ts(20), out)).unwrap();
    assert!(kv.locks.is_empty());
}

#[test]
fn a_pessimistic_prewrite_needs_the_lock_it_claims() {
    let mut kv = Naive::default();
    prewrite_on(&mut kv, &request(5, vec![put("a", "0")])).unwrap();
    commit_on(&mut kv, &["a"], 5, 30).unwrap();
    let claims = Prewrite {
        for_update_ts: Ts(12),
        mutations: vec![Mutation { action: PessimisticAction::HoldsLock, ..put("a", "1") }],
        ..request(10, vec![put("a", "1")])
    };
    let refused = prewrite_on(&mut kv, &claims).unwrap_err();
    assert!(
        matches!(refused.as_slice(), [Refusal::Abort(text)] if text.contains("PessimisticLockNotFound"))
    );
    // There is no commit since its start, so the lost lock did no harm.
    let claims = Prewrite { start_ts: Ts(40), for_update_ts: Ts(40), ..claims };
    prewrite_on(&mut kv, &claims).unwrap();
}

#[test]
fn resolving_finishes_what_is_held_and_leaves_the_rest() {
    let mut kv = Naive::default();
    prewrite_on(&mut kv, &request(10, vec![put("a", "1"), put("b", "2")])).unwrap();
    commit_on(&mut kv, &["a"], 10, 20).unwrap();
    let keys = [key("a"), key("b")];
    kv.run(|kv, out| resolve(kv, &keys, Ts(10), Ts(20), out)).unwrap();
    assert_eq!(kv.read(&key("b"), Ts(20)), Ok(Some(key("2"))));
    kv.run(|kv, out| resolve(kv, &keys, Ts(10), Ts(0), out)).unwrap();
    assert_eq!(kv.read(&key("a"), Ts(20)), Ok(Some(key("1"))));
    assert!(kv.rollbacks.is_empty());
}

/// A step of some transaction.
#[derive(Debug, Clone)]
enum Step {
    Begin { keys: Vec<u8>, one_phase: bool },
    Prewrite { txn: usize, part: bool },
    Commit { txn: usize },
    Rollback { txn: usize },
    Expire { txn: usize },
    Read { key: u8, back: u64 },
}

fn any_step() -> impl Strategy<Value = Step> {
    let txn = 0usize..8;
    prop_oneof![
        2 => (proptest::collection::vec(0u8..4, 1..4), any::<bool>())
            .prop_map(|(keys, one_phase)| Step::Begin { keys, one_phase }),
        4 => (txn.clone(), any::<bool>()).prop_map(|(txn, part)| Step::Prewrite { txn, part }),
        3 => txn.clone().prop_map(|txn| Step::Commit { txn }),
        1 => txn.clone().prop_map(|txn| Step::Rollback { txn }),
        1 => txn.prop_map(|txn| Step::Expire { txn }),
        4 => (0u8..4, 0u64..20).prop_map(|(key, back)| Step::Read { key, back }),
    ]
}

/// A transaction as its client remembers it.
#[derive(Debug)]
struct Remembered {
    request: Prewrite,
    prewritten: bool,
    committed: Option<u64>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// An acknowledged commit is in the history from its timestamp on, as a whole. A reader that is
    /// answered sees exactly the history at its timestamp, and so does every later reader at it.
    #[test]
    fn readers_see_the_history_of_answered_commits(
        steps in proptest::collection::vec(any_step(), 1..80),
    ) {
        let mut kv = Naive::default();
        let mut clock = 0u64;
        let mut tick = || { clock += 10; clock };
        let mut txns: Vec<Remembered> = Vec::new();
        let mut history: BTreeMap<(Bytes, u64), Bytes> = BTreeMap::new();
        let mut seen: Vec<(Bytes, u64, Option<Bytes>)> = Vec::new();
        for step in steps {
            match step {
                Step::Begin { keys, one_phase } => {
                    let start_ts = tick();
                    let keys: BTreeSet<u8> = keys.into_iter().collect();
                    let mutations = keys.into_iter().map(|name| Mutation {
                        op: MutationOp::Put,
                        key: Bytes::from(vec![name]),
                        value: Bytes::from(start_ts.to_be_bytes().to_vec()),
                        action: PessimisticAction::Skip,
                    }).collect();
                    let request = Prewrite { one_phase, ..request(start_ts, mutations) };
                    txns.push(Remembered { request, prewritten: false, committed: None });
                }
                Step::Prewrite { txn, part } => {
                    let fresh = Ts(tick());
                    let Some(txn) = txns.get_mut(txn) else { continue };
                    let mut sent = txn.request.clone();
                    let partial = part && !sent.one_phase && sent.mutations.len() > 1;
                    if partial {
                        sent.mutations.pop();
                    }
                    if let Ok(done) = kv.run(|kv, out| prewrite(kv, &sent, fresh, out)) {
                        if sent.one_phase {
                            let commit_ts = done.one_phase_commit_ts.0;
                            prop_assert!(txn.committed.is_none_or(|first| first == commit_ts));
                            txn.committed = Some(commit_ts);
                        } else if !partial {
                            txn.prewritten = true;
                        }
                    }
                }
                Step::Commit { txn } => {
                    let commit_ts = tick();
                    let Some(txn) = txns.get_mut(txn) else { continue };
                    if !txn.prewritten {
                        continue;
                    }
                    let keys: Vec<Bytes> =
                        txn.request.mutations.iter().map(|mutation| mutation.key.clone()).collect();
                    let start_ts = txn.request.start_ts;
                    let result = kv.run(|kv, out| commit(kv, &keys, start_ts, Ts(commit_ts), out));
                    if result.is_ok() {
                        txn.committed.get_or_insert(commit_ts);
                    } else {
                        prop_assert!(txn.committed.is_none(), "a repeated commit was refused");
                    }
                }
                Step::Rollback { txn } => {
                    let Some(txn) = txns.get(txn) else { continue };
                    let keys: Vec<Bytes> =
                        txn.request.mutations.iter().map(|mutation| mutation.key.clone()).collect();
                    let start_ts = txn.request.start_ts;
                    let result = kv.run(|kv, out| rollback(kv, &keys, start_ts, out));
                    prop_assert_eq!(result.is_err(), txn.committed.is_some());
                }
                Step::Expire { txn } => {
                    let Some(txn) = txns.get(txn) else { continue };
                    let start_ts = txn.request.start_ts;
                    let question = CheckStatus {
                        primary: txn.request.primary.clone(),
                        ..status_question("", start_ts.0, TS_MAX)
                    };
                    let status = kv.run(|kv, out| check_txn_status(kv, &question, out)).unwrap();
                    match txn.committed {
                        Some(commit_ts) => {
                            prop_assert_eq!(status, TxnStatus::Committed(Ts(commit_ts)));
                        }
                        None => prop_assert!(matches!(status, TxnStatus::RolledBack(_))),
                    }
                }
                Step::Read { key, back } => {
                    let version = tick().saturating_sub(back * 7);
                    let name = Bytes::from(vec![key]);
                    if let Ok(value) = kv.read(&name, Ts(version)) {
                        seen.push((name, version, value));
                    }
                }
            }
            for txn in &txns {
                if let Some(commit_ts) = txn.committed {
                    for mutation in &txn.request.mutations {
                        history.insert((mutation.key.clone(), commit_ts), mutation.value.clone());
                    }
                }
            }
        }
        for (name, version, value) in seen {
            let expected = history
                .range((name.clone(), 0)..=(name.clone(), version))
                .next_back()
                .map(|(_, value)| value.clone());
            prop_assert_eq!(value, expected, "key {:?} at {}", name, version);
        }
        prop_assert_eq!(kv.versions.len(), history.len(), "versions nobody was told of");
    }
}
