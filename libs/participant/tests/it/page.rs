//! Tests that docs/rest.md tells the limits of what shards hold, and of how roles send their calls.

use std::path::Path;

fn text(file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(file)).unwrap()
}

/// The page's row of limits that begins with this.
fn row<'a>(page: &'a str, of: &str) -> &'a str {
    let begins = format!("| {of}");
    page.lines()
        .find(|line| line.starts_with(&begins))
        .unwrap_or_else(|| panic!("docs/rest.md has no row of {of}"))
}

#[test]
fn what_an_item_and_a_user_hold_has_its_limits_on_the_page() {
    let page = text("docs/rest.md");
    assert_eq!(types::AMOUNT_MAX, (1 << 53) - 1);
    let at_a_time = row(&page, "the units of an item, the credit of a user |");
    assert!(at_a_time.contains("| 2^53 - 1 at a time"), "{at_a_time}");
    // What was ever added is counted in 64 bits.
    let ever = row(&page, "what an item or user ever got");
    assert!(ever.contains("| 2^64 - 1, less what was taken off"), "{ever}");
    for row in [at_a_time, ever] {
        assert!(row.ends_with("| 409 `OVERFLOW` |"), "{row}");
    }
}

/// The constants are private, so they are read in the source.
#[test]
fn a_bundle_has_its_limits_on_the_page() {
    let (page, source) = (text("docs/rest.md"), text("libs/rpc/src/bundle.rs"));
    for limit in ["const CALLS_MAX: usize = 256;", "const BYTES_MAX: usize = 1024 * 1024;"] {
        assert!(source.contains(limit), "libs/rpc/src/bundle.rs has no `{limit}`");
    }
    let bundle = row(&page, "a bundle, in which roles send calls");
    assert!(
        bundle.contains("| 256 calls, 1 MiB | `INVALID_ARGUMENT`, `OUT_OF_RANGE`;"),
        "{bundle}"
    );
}
