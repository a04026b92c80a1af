//! What the edge accepts, and the field that it names when it does not.

use proto::{convert, participant::v1 as participant, types::v1 as wire};
use types::{BranchState, TxMeta, Vote};

fn meta() -> wire::TxMeta {
    wire::TxMeta {
        tx_id: vec![7; 16].into(),
        priority: Some(wire::Priority { begin_ts: 1, nonce: 2 }),
        deadline_ms: 3,
        branches: vec![
            wire::Branch { service: "order".to_owned(), shard: 1 },
            wire::Branch { service: "stock".to_owned(), shard: 2 },
        ],
        request_id: "r".to_owned(),
        request_fingerprint: 7,
        not_after_ms: 9,
        call_id: "~c".to_owned(),
        call_began_ts: 9,
    }
}

#[test]
fn a_transaction_survives_the_way_there_and_back() {
    let there = TxMeta::try_from(&meta()).unwrap();
    assert_eq!(wire::TxMeta::from(&there), meta());
    assert!(there.is_primary(&there.branches[0]) && !there.is_primary(&there.branches[1]));
}

#[test]
fn what_does_not_convert_is_named() {
    type Break = fn(&mut wire::TxMeta);
    let breaks: [(&str, Break); 8] = [
        ("tx_id", |meta| meta.tx_id = vec![7; 15].into()),
        ("tx.priority", |meta| meta.priority = None),
        ("tx.branches", |meta| meta.branches.clear()),
        ("tx.branches", |meta| meta.branches[1] = meta.branches[0].clone()),
        ("branch.service", |meta| meta.branches[0].service = "Order".to_owned()),
        ("branch.shard", |meta| meta.branches[0].shard = 65_536),
        ("request_id", |meta| meta.request_id = "r".repeat(129)),
        ("call_id", |meta| meta.call_id = "c".repeat(129)),
    ];
    for (field, change) in breaks {
        let mut broken = meta();
        change(&mut broken);
        assert_eq!(TxMeta::try_from(&broken).unwrap_err().field, field);
    }
    assert_eq!(convert::tx_meta(None).unwrap_err().field, "tx");
    assert_eq!(convert::quantity("amount", 0, 1).unwrap_err().field, "amount");
    assert_eq!(convert::money("price", 1 << 53, 0).unwrap_err().field, "price");
    assert_eq!(convert::item_id("item_id", "a/b").unwrap_err().field, "item_id");
    assert_eq!(convert::batch_numbers(9_999_999, 1), Ok(9_999_999..10_000_000));
    for (first, count) in [(0, 10_000_001), (10_000_000, 1), (u64::MAX, 1)] {
        assert_eq!(convert::batch_numbers(first, count).unwrap_err().field, "count");
    }
}

#[test]
fn a_transaction_has_1_to_256_branches_all_different() {
    let with = |count: u32| {
        let branch = |shard| wire::Branch { service: "stock".to_owned(), shard };
        wire::TxMeta { branches: (0..count).map(branch).collect(), ..meta() }
    };
    // Few and many are compared in different ways.
    for count in [2, 8, 9, 256] {
        assert!(TxMeta::try_from(&with(count)).is_ok(), "{count}");
        let mut twice = with(count);
        twice.branches.last_mut().unwrap().shard = 0;
        assert_eq!(TxMeta::try_from(&twice).unwrap_err().field, "tx.branches", "{count}");
    }
    assert_eq!(TxMeta::try_from(&with(257)).unwrap_err().field, "tx.branches");
}

#[test]
fn what_a_call_does_not_tell_stays_unknown() {
    let bare = wire::TxMeta { not_after_ms: 0, call_id: String::new(), call_began_ts: 0, ..meta() };
    let call = TxMeta::try_from(&bare).unwrap().call.unwrap();
    assert_eq!((call.not_after, call.call_id, call.began), (None, None, None));
    // Release 0.1 hashes no calls.
    let unhashed = wire::TxMeta { request_fingerprint: 0, ..meta() };
    assert_eq!(TxMeta::try_from(&unhashed).unwrap().call, None);
    assert_eq!(
        TxMeta::try_from(&wire::TxMeta { request_id: String::new(), ..meta() }).unwrap().call,
        None
    );
}

#[test]
fn votes_and_states_survive_the_way_there_and_back() {
    let blocker = Box::new(TxMeta::try_from(&meta()).unwrap());
    let metadata = [("item_id".to_owned(), "1".to_owned())].into();
    for vote in [
        Vote::Yes { receipt: vec![1, 2] },
        Vote::No { reason: "OUT_OF_STOCK".to_owned(), metadata },
        Vote::Contended { blocker },
        Vote::Fenced,
    ] {
        let there = participant::Vote::from(&vote);
        assert_eq!(convert::vote(Some(&there)).unwrap(), vote);
    }
    for state in
        [BranchState::Absent, BranchState::Prepared, BranchState::Committed, BranchState::Aborted]
    {
        let there = participant::BranchState::from(state);
        assert_eq!(convert::branch_state(there.into()).unwrap(), state);
        assert_eq!(i64::from(convert::branch_state_number(state)), i64::from(i32::from(there)));
    }
    assert!(convert::branch_state(0).is_err() && convert::branch_state(99).is_err());
}
