use std::time::Duration;

use http::HeaderValue;
use tempfile::TempDir;

use super::*;

const ONE: &str = "0123456789abcdef";
const OTHER: &str = "fedcba9876543210-longer";

fn file(content: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    fs::write(&path, content).unwrap();
    (directory, path)
}

fn told(values: &[&str]) -> HeaderMap {
    values
        .iter()
        .map(|value| (header::AUTHORIZATION, HeaderValue::from_str(value).unwrap()))
        .collect()
}

#[tokio::test]
async fn any_key_of_the_file_is_admitted_and_nothing_else() {
    let (_directory, path) = file(&format!("{ONE}\r\n\n  {OTHER}  \n"));
    let keys = Keys::load(&path).unwrap();
    let admitted = |values: &[&str]| keys.admit(&told(values));
    assert!(admitted(&[&format!("Bearer {ONE}")]));
    assert!(admitted(&[&format!("bearer {OTHER}")]));
    for wrong in [
        String::new(),
        ONE.to_owned(),
        "Bearer ".to_owned(),
        format!("Basic {ONE}"),
        format!("Bearer {ONE}x"),
        format!("Bearer {}", &ONE[1..]),
        format!("Bearer  {ONE}"),
        format!("Bearer {}", ONE.to_ascii_uppercase()),
    ] {
        assert!(!admitted(&[&wrong]), "{wrong:?}");
    }
    let right = format!("Bearer {ONE}");
    assert!(!admitted(&[&right, &right]), "two are one too many");
    assert!(!admitted(&[]));
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_and_not_quoted() {
    for content in
        ["", "\n\n", "short", &format!("{ONE}\nwith a blank inside it"), "0123456789abcdé!"]
    {
        let (_directory, path) = file(content);
        let said = format!("{0} {0:?}", Keys::load(&path).unwrap_err());
        assert!(said.contains("keys"), "{said}");
        assert!(!content.trim().lines().any(|line| said.contains(line)), "{said}");
    }
    assert!(Keys::load(Path::new("/nowhere/keys")).is_err());
}

#[tokio::test]
async fn keys_are_not_shown() {
    let (_directory, path) = file(ONE);
    let keys = Keys::load(&path).unwrap();
    assert!(!format!("{keys:?} {keys:#?}").contains(ONE));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_replaced_counts_no_more() {
    let (_directory, path) = file(ONE);
    let keys = Keys::load(&path).unwrap();
    let counts = |key| keys.admit(&told(&[&format!("Bearer {key}")]));
    fs::write(&path, "bad").unwrap();
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(counts(ONE), "a file that cannot be used changes nothing");
    fs::write(&path, OTHER).unwrap();
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(counts(OTHER));
    assert!(!counts(ONE));
}

#[test]
fn only_reading_is_free() {
    for (method, wants) in [
        (Method::GET, false),
        (Method::HEAD, false),
        (Method::OPTIONS, false),
        (Method::POST, true),
        (Method::DELETE, true),
        (Method::PUT, true),
        (Method::PATCH, true),
        (Method::from_bytes(b"PURGE").unwrap(), true),
    ] {
        assert_eq!(changes(&method), wants, "{method}");
    }
}
