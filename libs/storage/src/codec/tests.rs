use super::*;
use crate::record;

fn item() -> record::ItemRecord {
    record::ItemRecord {
        price: 1,
        available: 2,
        supplied: 300,
        incarnation: 4,
        incarnation_change: 5,
    }
}

#[test]
fn a_value_is_a_format_byte_and_a_message() {
    let value = encode(&item());
    assert_eq!(hex(&value), "010801100218ac0220042805", "stored values never change");
    assert_eq!(decode::<record::ItemRecord>(b"k", &value), Ok(item()));
}

#[test]
fn what_is_not_understood_is_corrupt_never_a_guess() {
    for value in [&b""[..], &[0], &[2, 8, 1], &[FORMAT_1, 0xff], &[FORMAT_1, 8]] {
        let found = decode::<record::ItemRecord>(b"k", value);
        assert!(
            matches!(&found, Err(KvError::Corrupt { key, .. }) if key == "6b"),
            "{value:?}: {found:?}"
        );
    }
}

#[test]
fn a_long_message_is_compressed_and_a_damaged_one_is_refused() {
    let entry = |rows: u8| record::JournalEntry {
        images: (0..rows)
            .map(|row| record::Image { row: vec![row; 9].into(), value: vec![1; 40].into() })
            .collect(),
        ..Default::default()
    };
    let (short, long) = (encode_packed(&entry(1)), encode_packed(&entry(99)));
    assert_eq!((short[0], long[0]), (FORMAT_1, FORMAT_4));
    assert!(long.len() < encode(&entry(99)).len() / 2);
    for (rows, value) in [(1, &short), (99, &long)] {
        assert_eq!(decode_packed(b"k", value), Ok(entry(rows)));
    }
    let refused = |value: &[u8]| {
        let found = decode_packed::<record::JournalEntry>(b"k", value);
        assert!(matches!(found, Err(KvError::Corrupt { .. })), "{found:?}");
    };
    refused(&[FORMAT_4]);
    refused(&[FORMAT_4, 0xff, 0xff, 0xff, 0xff, 0]);
    refused(&long[..long.len() - 1]);
    refused(&[FORMAT_2, 1]);
}

#[test]
fn a_field_of_a_later_program_is_skipped() {
    let mut value = encode(&item());
    value.extend_from_slice(&[0x98, 0x06, 7]); // field 99
    assert_eq!(decode::<record::ItemRecord>(b"k", &value), Ok(item()));
}
