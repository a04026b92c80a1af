use super::*;
use tempfile::TempDir;

#[test]
fn they_come_back_as_they_were_and_never_fall() {
    let directory = TempDir::new().unwrap();
    let marks = Marks::open(directory.path()).unwrap();
    assert_eq!(marks.held(), Held::default());
    for writes in 1..=5 {
        marks.wrote(writes).unwrap();
        assert_eq!(Marks::open(directory.path()).unwrap().held().writes, writes);
    }
    marks.raise_ceiling(70).unwrap();
    marks.raise_ceiling(60).unwrap();
    let found = Marks::open(directory.path()).unwrap().held();
    assert_eq!(found, Held { writes: 5, ceiling: 70 });
}

#[test]
fn one_damaged_copy_leaves_the_other_and_two_are_refused() {
    let directory = TempDir::new().unwrap();
    let marks = Marks::open(directory.path()).unwrap();
    for writes in 1..=4 {
        marks.wrote(writes).unwrap();
    }
    let path = directory.path().join(FILE);
    let whole = fs::read(&path).unwrap();
    for copy in [0, 512] {
        for byte in 0..LENGTH {
            let mut damaged = whole.clone();
            damaged[copy + byte] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            let writes = Marks::open(directory.path()).unwrap().held().writes;
            assert!([3, 4].contains(&writes), "{writes} with byte {byte} of {copy} damaged");
            damaged[512 - copy + byte] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            let error = Marks::open(directory.path()).unwrap_err().to_string();
            assert!(error.contains("dev-kv.marks is damaged"), "{error}");
        }
    }
}
