use std::time::Duration;

use tokio::time::advance;

use super::*;

const PATIENCE: ConnectionTimeouts = ConnectionTimeouts {
    header_read: Duration::from_secs(30),
    keep_alive_idle: Duration::from_mins(10),
    max_age: Duration::from_hours(2),
    grace: Duration::from_secs(90),
    connections_max: 1,
    lame_duck: Duration::ZERO,
    drain: Duration::ZERO,
};

const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn aging(until: Option<Instant>) -> Arc<Activity> {
    Arc::new(Activity::new(Instant::now(), until, Held::default()))
}

fn activity() -> Arc<Activity> {
    aging(None)
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept_for_long() {
    let activity = activity();
    activity.read(HEAD);
    drop(activity.begin(Body::Length(0)));
    advance(Duration::from_secs(599)).await;
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Keep);
    advance(Duration::from_secs(1)).await;
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Leave);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_cut() {
    let activity = activity();
    advance(Duration::from_secs(100)).await;
    activity.read(b"GE");
    advance(Duration::from_secs(29)).await;
    activity.read(b"T");
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Keep);
    advance(Duration::from_secs(1)).await;
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Cut);
}

#[tokio::test(start_paused = true)]
async fn a_request_being_served_may_take_its_time() {
    let activity = activity();
    activity.read(HEAD);
    let busy = activity.begin(Body::Length(4));
    activity.read(b"body");
    advance(Duration::from_hours(1)).await;
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Keep);
    drop(busy);
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Keep);
}

#[tokio::test(start_paused = true)]
async fn what_has_begun_behind_a_request_is_a_head() {
    let activity = activity();
    activity.read(&[HEAD, b"GET /ne"].concat());
    let busy = activity.begin(Body::Length(0));
    advance(Duration::from_mins(1)).await;
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Keep);
    drop(busy);
    advance(Duration::from_secs(29)).await;
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Keep);
    advance(Duration::from_secs(1)).await;
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Cut);
}

#[tokio::test(start_paused = true)]
async fn over_http2_the_preface_and_every_frame_have_to_be_whole_in_time() {
    const OPEN_HEADERS: &[u8] = &[0, 0, 2, 1, 0, 0, 0, 0, 1, b'h', b'e'];
    for part in [
        &PREFACE[..20],
        PREFACE,
        &[PREFACE, &SETTINGS[..5]].concat(),
        &[PREFACE, SETTINGS, &SETTINGS[..1]].concat(),
        &[PREFACE, SETTINGS, OPEN_HEADERS].concat(),
    ] {
        for streams in [false, true] {
            let activity = activity();
            let open = streams.then(|| activity.open());
            activity.read(part);
            advance(Duration::from_secs(29)).await;
            assert_eq!(activity.action(&PATIENCE), ConnectionAction::Keep, "{part:?}");
            advance(Duration::from_secs(1)).await;
            assert_eq!(activity.action(&PATIENCE), ConnectionAction::Cut, "{part:?}");
            drop(open);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_over_http2_is_left_whatever_it_pings() {
    let activity = activity();
    activity.read(&[PREFACE, SETTINGS].concat());
    let open = activity.open();
    advance(Duration::from_hours(1)).await;
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Keep);
    drop(open);
    for _ in 0..599 {
        advance(Duration::from_secs(1)).await;
        activity.read(SETTINGS);
    }
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Keep);
    advance(Duration::from_secs(1)).await;
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Leave);
}

/// hyper's buffer stays as long as it once was.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_holds_a_long_buffer_is_left_soon() {
    let activity = activity();
    activity.read(PREFACE);
    activity.read(SETTINGS);
    let stream = activity.open();
    // A DATA frame of 9,000 bytes, which comes in two parts.
    let frame = [&[0, 0x23, 0x28, 0, 0, 0, 0, 0, 1][..], &[7; 9_000]].concat();
    assert!(activity.read(&frame[..8_500]));
    assert!(activity.read(&frame[8_500..]));
    advance(Duration::from_secs(100)).await;
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Keep, "a stream is open");
    drop(stream);
    assert!(activity.next_check(&PATIENCE) <= Instant::now() + PATIENCE.header_read);
    advance(PATIENCE.header_read).await;
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Leave);
}

#[tokio::test(start_paused = true)]
async fn no_more_of_long_heads_is_held_than_may_be() {
    let held = Held::default();
    let connect = || Arc::new(Activity::new(Instant::now(), None, held.clone()));
    let long = [b'a'; HEAD_BYTES_FREE + 1];
    let mut connections = Vec::new();
    loop {
        let activity = connect();
        if !activity.read(&long) {
            break;
        }
        connections.push(activity);
    }
    assert_eq!(connections.len(), crate::held::HELD_BYTES_MAX / BUFFER_BYTES);
    assert!(connect().read(&long[1..]), "a short head is not counted");
    connections.pop();
    assert!(connect().read(&long));
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
    activity.read(HEAD);
    let _busy = activity.begin(Body::Length(0));
    activity.wrote(&Poll::<()>::Pending);
    advance(Duration::from_secs(29)).await;
    activity.wrote(&Poll::<()>::Pending);
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Keep);
    advance(Duration::from_secs(1)).await;
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Cut);
    activity.wrote(&Poll::Ready(()));
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Keep);
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_over_http2_is_left_and_after_its_grace_cut() {
    let activity = aging(Some(Instant::now() + Duration::from_secs(100)));
    activity.read(&[PREFACE, SETTINGS].concat());
    let _open = activity.open();
    advance(Duration::from_secs(99)).await;
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Keep);
    advance(Duration::from_secs(1)).await;
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Leave);
    advance(Duration::from_secs(89)).await;
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Leave);
    advance(Duration::from_secs(1)).await;
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Cut);
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_over_http1_is_kept_while_it_is_idle() {
    let activity = aging(Some(Instant::now() + Duration::from_secs(100)));
    activity.read(HEAD);
    let busy = activity.begin(Body::Length(0));
    advance(Duration::from_secs(191)).await;
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Cut, "it is answered for too long");
    drop(busy);
    assert_eq!(activity.action(&PATIENCE), ConnectionAction::Keep);
}
