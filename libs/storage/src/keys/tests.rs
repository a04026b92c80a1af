//! The layout of keys never changes: stores already hold keys like the ones written here in hex.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::codec::hex;

const OWNERS: [Owner; 5] =
    [Owner::Store, Owner::Coordinator, Owner::Order, Owner::Payment, Owner::Stock];
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
        (Space::new(Owner::Store, ShardId(0)).record(Kind::Schema, b""), "54000073"),
        (Space::new(Owner::Store, ShardId(0)).record(Kind::Lease, b"j"), "5400006c6a"),
        (Space::new(Owner::Coordinator, ShardId(0)).record(Kind::RequestClaim, b"r"), "6300007272"),
        (
            Space::new(Owner::Coordinator, ShardId(0)).record(Kind::TransactionLog, b"t"),
            "6300007474",
        ),
        (Space::new(Owner::Order, ShardId(1)).head(), "6f000101"),
        (Space::new(Owner::Order, ShardId(1)).record(Kind::Order, b"7"), "6f00016f37"),
        (Space::new(Owner::Payment, ShardId(2)).record(Kind::User, b"u"), "7000027575"),
        (Space::new(Owner::Payment, ShardId(2)).record(Kind::Payment, b"u/o"), "70000279752f6f"),
        (Space::new(Owner::Stock, ShardId(4_095)).record(Kind::Item, b"i"), "730fff6969"),
        (Space::new(Owner::Stock, ShardId(3)).record(Kind::Answer, b"k"), "730003616b"),
        (Space::new(Owner::Stock, ShardId(3)).journal(258), "730003020000000000000102"),
    ] {
        assert_eq!(hex(&key), expected);
    }
}

#[test]
fn no_two_spaces_or_kinds_share_a_prefix() {
    let mut seen = BTreeSet::new();
    for owner in OWNERS {
        for shard in [0, 1, 255, 256, 4_095] {
            for kind in KINDS {
                let prefix = Space::new(owner, ShardId(shard)).record(kind, b"");
                assert_eq!(prefix.len(), 4, "all prefixes are of one length");
                assert!(seen.insert(prefix), "{owner:?} {shard} {kind:?}");
            }
        }
    }
}

#[test]
fn a_head_sorts_before_everything_in_its_shard() {
    for owner in OWNERS {
        let space = Space::new(owner, ShardId(7));
        for kind in KINDS {
            assert!(space.head() <= space.record(kind, b""), "{kind:?}");
        }
    }
}

proptest! {
    #[test]
    fn a_range_holds_its_kind_and_nothing_else(
        owner in 0..OWNERS.len(), shard in 0..4_096_u16, kind in 0..KINDS.len(),
        other_owner in 0..OWNERS.len(), other_shard in 0..4_096_u16, other in 0..KINDS.len(),
        id in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let space = Space::new(OWNERS[owner], ShardId(shard));
        let range = space.range(KINDS[kind]);
        prop_assert!(range.contains(&space.record(KINDS[kind], &id)));
        let stranger = Space::new(OWNERS[other_owner], ShardId(other_shard)).record(KINDS[other], &id);
        let same = (owner, shard, kind) == (other_owner, other_shard, other);
        prop_assert_eq!(range.contains(&stranger), same);
    }

    #[test]
    fn stripping_gives_back_the_record_and_only_ones_own(
        shard in 0..4_096_u16, other in 0..4_096_u16,
        id in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let space = Space::new(Owner::Stock, ShardId(shard));
        let record = record_key(Kind::Item, &id);
        let key = space.key(&record);
        prop_assert_eq!(space.strip(&key), Some(record.as_slice()));
        let stranger = Space::new(Owner::Stock, ShardId(other));
        prop_assert_eq!(stranger.strip(&key).is_some(), shard == other);
        prop_assert_eq!(Space::new(Owner::Order, ShardId(shard)).strip(&key), None);
    }

    #[test]
    fn journals_sort_by_their_number(left in any::<u64>(), right in any::<u64>()) {
        let space = Space::new(Owner::Order, ShardId(1));
        prop_assert_eq!(left.cmp(&right), space.journal(left).cmp(&space.journal(right)));
    }
}
