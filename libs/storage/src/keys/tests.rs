//! The layout of keys never changes: stores already hold keys like the ones written here in hex.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::codec::hex;

/// A shard of each role.
fn roles(shard: u16) -> [Space; Role::ALL.len()] {
    Role::ALL.map(|role| Space::of(role, ShardId(shard)))
}

const KINDS: [Kind; 11] = [
    Kind::Head,
    Kind::Journal,
    Kind::Item,
    Kind::User,
    Kind::Order,
    Kind::Payment,
    Kind::RequestClaim,
    Kind::Schema,
    Kind::Lease,
    Kind::TransactionLog,
    Kind::Answer,
];

#[test]
fn stored_keys_never_change() {
    for (key, expected) in [
        (Space::STORE.record(Kind::Schema, b""), "54000073"),
        (Space::STORE.record(Kind::Lease, b"j"), "5400006c6a"),
        (Space::of(Role::Coordinator, ShardId(0)).record(Kind::RequestClaim, b"r"), "6300007272"),
        (Space::of(Role::Coordinator, ShardId(0)).record(Kind::TransactionLog, b"t"), "6300007474"),
        (Space::of(Role::Order, ShardId(1)).head(), "6f000101"),
        (Space::of(Role::Order, ShardId(1)).record(Kind::Order, b"7"), "6f00016f37"),
        (Space::of(Role::Payment, ShardId(2)).record(Kind::User, b"u"), "7000027575"),
        (Space::of(Role::Payment, ShardId(2)).record(Kind::Payment, b"u/o"), "70000279752f6f"),
        (Space::of(Role::Stock, ShardId(4_095)).record(Kind::Item, b"i"), "730fff6969"),
        (Space::of(Role::Stock, ShardId(3)).record(Kind::Answer, b"k"), "730003616b"),
        (Space::of(Role::Stock, ShardId(3)).journal(258), "730003020000000000000102"),
    ] {
        assert_eq!(hex(&key), expected);
    }
}

#[test]
fn no_two_spaces_or_kinds_share_a_prefix() {
    let mut seen = BTreeSet::new();
    for shard in [0, 1, 255, 256, 4_095] {
        let store = (shard == 0).then_some(Space::STORE);
        for space in store.into_iter().chain(roles(shard)) {
            for kind in KINDS {
                let prefix = space.record(kind, b"");
                assert_eq!(prefix.len(), 4, "all prefixes are of one length");
                assert!(seen.insert(prefix), "{space:?} {kind:?}");
            }
        }
    }
}

#[test]
fn a_head_sorts_before_everything_in_its_shard() {
    for space in roles(7) {
        for kind in KINDS {
            assert!(space.head() <= space.record(kind, b""), "{kind:?}");
        }
    }
}

proptest! {
    #[test]
    fn a_range_holds_its_kind_and_nothing_else(
        role in 0..Role::ALL.len(), shard in 0..4_096_u16, kind in 0..KINDS.len(),
        other_role in 0..Role::ALL.len(), other_shard in 0..4_096_u16, other in 0..KINDS.len(),
        id in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let space = roles(shard)[role];
        let range = space.range(KINDS[kind]);
        prop_assert!(range.contains(&space.record(KINDS[kind], &id)));
        let stranger = roles(other_shard)[other_role].record(KINDS[other], &id);
        let same = (role, shard, kind) == (other_role, other_shard, other);
        prop_assert_eq!(range.contains(&stranger), same);
    }

    #[test]
    fn stripping_gives_back_the_record_and_only_ones_own(
        shard in 0..4_096_u16, other in 0..4_096_u16,
        id in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let space = Space::of(Role::Stock, ShardId(shard));
        let record = record_key(Kind::Item, &id);
        let key = space.key(&record);
        prop_assert_eq!(space.strip(&key), Some(record.as_slice()));
        let stranger = Space::of(Role::Stock, ShardId(other));
        prop_assert_eq!(stranger.strip(&key).is_some(), shard == other);
        prop_assert_eq!(Space::of(Role::Order, ShardId(shard)).strip(&key), None);
    }

    #[test]
    fn journals_sort_by_their_number(left in any::<u64>(), right in any::<u64>()) {
        let space = Space::of(Role::Order, ShardId(1));
        prop_assert_eq!(left.cmp(&right), space.journal(left).cmp(&space.journal(right)));
    }
}
