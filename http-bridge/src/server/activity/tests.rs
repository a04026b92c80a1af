use std::time::Duration;

use tokio::time::advance;

use super::*;

const PATIENCE: Patience = Patience {
    header_read: Duration::from_secs(30),
    keep_alive_idle: Duration::from_mins(10),
    max_age: Duration::from_hours(2),
    connections_max: 1,
    lame_duck: Duration::ZERO,
    drain: Duration::ZERO,
};

fn activity() -> Arc<Activity> {
    Arc::new(Activity::new(Instant::now(), None))
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept_for_long() {
    let activity = activity();
    drop(activity.begin(Version::HTTP_11));
    advance(Duration::from_secs(599)).await;
    assert_eq!(activity.verdict(&PATIENCE), Verdict::Keep);
    advance(Duration::from_secs(1)).await;
    assert_eq!(activity.verdict(&PATIENCE), Verdict::Leave);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_cut() {
    let activity = activity();
    advance(Duration::from_secs(100)).await;
    activity.read(b"GE");
    advance(Duration::from_secs(29)).await;
    activity.read(b"T");
    assert_eq!(activity.verdict(&PATIENCE), Verdict::Keep);
    advance(Duration::from_secs(1)).await;
    assert_eq!(activity.verdict(&PATIENCE), Verdict::Cut);
}

#[tokio::test(start_paused = true)]
async fn a_request_being_served_may_take_its_time() {
    let activity = activity();
    activity.read(b"GET / HTTP/1.1\r\n\r\n");
    let busy = activity.begin(Version::HTTP_11);
    activity.read(b"body");
    advance(Duration::from_hours(1)).await;
    assert_eq!(activity.verdict(&PATIENCE), Verdict::Keep);
    drop(busy);
    assert_eq!(activity.verdict(&PATIENCE), Verdict::Keep);
}

#[tokio::test(start_paused = true)]
async fn http2_is_left_to_its_pings() {
    for begin in [true, false] {
        let activity = activity();
        if begin {
            drop(activity.begin(Version::HTTP_2));
        } else {
            activity.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        }
        activity.read(b"frame");
        advance(Duration::from_hours(1)).await;
        assert_eq!(activity.verdict(&PATIENCE), Verdict::Keep);
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_check_never_misses_a_head_that_begins_now() {
    let activity = activity();
    let by = Instant::now() + PATIENCE.header_read;
    assert!(activity.next_check(&PATIENCE) <= by);
    advance(Duration::from_secs(599)).await;
    let last = Instant::now() + Duration::from_secs(1);
    assert_eq!(activity.next_check(&PATIENCE), last);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_of_its_answer_is_cut() {
    let activity = activity();
    activity.read(b"GET / HTTP/1.1\r\n\r\n");
    let _busy = activity.begin(Version::HTTP_11);
    activity.wrote(&Poll::<()>::Pending);
    advance(Duration::from_secs(29)).await;
    activity.wrote(&Poll::<()>::Pending);
    assert_eq!(activity.verdict(&PATIENCE), Verdict::Keep);
    advance(Duration::from_secs(1)).await;
    assert_eq!(activity.verdict(&PATIENCE), Verdict::Cut);
    activity.wrote(&Poll::Ready(()));
    assert_eq!(activity.verdict(&PATIENCE), Verdict::Keep);
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_over_http2_is_left() {
    let until = Instant::now() + Duration::from_secs(100);
    let activity = Arc::new(Activity::new(Instant::now(), Some(until)));
    drop(activity.begin(Version::HTTP_2));
    advance(Duration::from_secs(99)).await;
    assert_eq!(activity.verdict(&PATIENCE), Verdict::Keep);
    advance(Duration::from_secs(1)).await;
    assert_eq!(activity.verdict(&PATIENCE), Verdict::Leave);
}
