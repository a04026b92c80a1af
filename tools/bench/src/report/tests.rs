use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::tally::End;

fn point(variant: &'static str, fresh: u64, end: Option<End>) -> Point {
    let begin = Instant::now();
    let mut tally = Tally::new(begin, begin + Duration::from_secs(2));
    for _ in 0..fresh {
        tally.add(begin, begin + Duration::from_millis(3), End::Done(Kind::Fresh));
    }
    tally.add(begin, begin + Duration::from_millis(1), End::Done(Kind::Repeated));
    if let Some(end) = end {
        tally.add(begin, begin, end);
    }
    let pace = Pace::Closed { callers: 8 };
    Point { verdict: Some(Verdict::default()), ..Point::of(variant, pace, tally) }
}

#[test]
fn fresh_and_repeated_checkouts_are_told_apart() {
    let json = point("till", 100, None).json();
    assert_eq!((&json["fresh_per_s"], &json["repeated_per_s"]), (&json!(50.0), &json!(0.5)));
    assert_eq!(json["latency"]["checkout"]["count"], 100);
    assert_eq!(json["latency"]["repeated_checkout"]["count"], 1);
    let p50 = json["latency"]["checkout"]["p50_us"].as_u64().unwrap();
    assert!(p50.abs_diff(3_000) < 10, "{p50}");
}

#[test]
fn a_run_with_a_problem_has_no_figures() {
    for end in [End::Failed("503".to_owned()), End::Unexplained("OUT_OF_STOCK".to_owned())] {
        let point = point("till", 100, Some(end));
        let json = point.json();
        assert_eq!(json["problems"].as_array().unwrap().len(), 1);
        assert!(json.get("fresh_per_s").is_none() && json.get("latency").is_none());
        let table = point.table();
        assert!(table.contains("no figures") && !table.contains("/s"), "{table}");
    }
}

#[test]
fn nothing_done_is_no_figure_either() {
    let begin = Instant::now();
    let mut empty = point("till", 0, None);
    empty.tally = Tally::new(begin, begin);
    assert_eq!(empty.problems().len(), 1);
}

#[test]
fn ratios_compare_what_has_figures() {
    let failed = Some(End::Failed("503".to_owned()));
    let points =
        [point("till", 100, None), point("tikv", 20, None), point("till batch=1", 50, failed)];
    let ratios = ratios(&points);
    assert_eq!(ratios.len(), 1);
    assert_eq!((&ratios[0]["to"], &ratios[0]["ratio"]), (&json!("tikv"), &json!(5.0)));
}

#[test]
fn a_table_says_what_is_not_known() {
    let table = point("till", 100, None).table();
    assert!(table.contains("the store's counters are not known"), "{table}");
    assert!(table.contains("roles are not known"), "{table}");
    assert!(table.contains("fresh checkouts: 100 in all, 50/s"), "{table}");
}

#[test]
fn a_shop_that_does_not_keep_up_is_told() {
    let mut slow = point("till", 100, None);
    slow.pace = Pace::Open { rate: 200.0, callers: 8 };
    assert!(slow.table().contains("did not keep up"));
    slow.pace = Pace::Open { rate: 50.0, callers: 8 };
    assert_eq!(slow.json()["remarks"], json!([]));
}

#[test]
fn a_bare_transaction_has_no_roles_to_tell_of() {
    let mut bare = point("tikv", 0, None);
    let begin = Instant::now();
    bare.tally = Tally::new(begin, begin + Duration::from_secs(1));
    bare.tally.add(begin, begin, End::Done(Kind::Bare));
    let table = bare.table();
    assert!(table.contains("bare_transaction") && !table.contains("not known"), "{table}");
}
