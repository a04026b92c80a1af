use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, stream};
use http_body::Body as _;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::time::advance;
use tonic::Code;

use super::*;
use crate::{Held, Limits};

const PATIENCE: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;
/// Bytes of each request that are not counted.
const FREE: usize = 16 * 1024;
/// What one byte of gzip may become.
const INFLATED: usize = 1_032;

/// Room for so many bytes.
fn held(bytes_max: usize) -> Held {
    Held::new(Limits {
        bytes_max,
        patience: PATIENCE,
        overloaded: || Status::resource_exhausted("too much is held"),
        unfinished: || Status::deadline_exceeded("it does not come"),
    })
}

/// A message of this length, with its prefix.
fn message(len: usize) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(len).unwrap().to_be_bytes());
    bytes.resize(bytes.len() + len, 7);
    bytes
}

fn chunks(chunks: &[&[u8]]) -> Vec<Result<Frame<Bytes>, Status>> {
    chunks.iter().map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect()
}

/// A body of these frames, which then ends or stays open.
fn body(
    frames: Vec<Result<Frame<Bytes>, Status>>,
    ends: bool,
    share: &Arc<Share>,
    messages: Messages,
) -> Bounded {
    let frames = stream::iter(frames);
    let frames = if ends { frames.boxed() } else { frames.chain(stream::pending()).boxed() };
    Bounded::new(Body::new(StreamBody::new(frames)), Arc::clone(share), messages, 64 * MIB)
}

fn share(held: &Held) -> Arc<Share> {
    Arc::new(held.share(&http::HeaderMap::new()))
}

/// The lengths of the data frames that come at once, and whether the body ends.
fn lengths(mut body: Bounded) -> (Vec<usize>, bool) {
    let mut lengths = Vec::new();
    loop {
        match body.frame().now_or_never() {
            Some(Some(frame)) => lengths.push(frame.unwrap().into_data().unwrap().len()),
            Some(None) => return (lengths, true),
            None => return (lengths, false),
        }
    }
}

/// What comes of these chunks of one request.
fn of_one(parts: &[&[u8]], ends: bool) -> (Vec<usize>, bool) {
    lengths(body(chunks(parts), ends, &share(&held(usize::MAX)), Messages::One))
}

#[tokio::test]
async fn a_message_is_withheld_until_all_of_it_has_come() {
    let announced = &message(64 * MIB)[..5];
    assert_eq!(of_one(&[announced], false), (vec![], false));
    let begun = [&announced[..2], &announced[2..], &[7; 1_000]];
    assert_eq!(of_one(&begun, false), (vec![], false));
    let (small, large) = (message(3), message(1_000));
    assert_eq!(of_one(&[&small], false), (vec![8], false), "at once");
    assert_eq!(of_one(&[&large[..4], &large[4..500], &large[500..]], true).0, [1_005]);
    let both = [small.clone(), large].concat();
    assert_eq!(of_one(&[&both[..10], &both[10..]], true), (vec![8, 1_005], true));
    let longest = message(64 * MIB);
    let (most, last) = longest.split_at(longest.len() - 1);
    assert_eq!(of_one(&[most], false), (vec![], false));
    assert_eq!(of_one(&[most, last], false), (vec![longest.len()], false));
}

#[tokio::test]
async fn what_the_decoder_has_to_refuse_is_passed_on() {
    let too_long = message(64 * MIB + 1);
    assert_eq!(of_one(&[&too_long[..5], &[7; 10]], false), (vec![5, 10], false));
    let half = &message(9)[..7];
    assert_eq!(of_one(&[half], true), (vec![7], true), "it ends within a message");
    let two_and_a_half = [&message(3)[..], &message(4), half].concat();
    assert_eq!(of_one(&[&two_and_a_half], true), (vec![17, 7], true));
}

#[tokio::test]
async fn trailers_and_errors_come_after_what_came_before_them() {
    let held = held(usize::MAX);
    let trailers = Frame::trailers(http::HeaderMap::new());
    let mut frames = chunks(&[&message(9)[..7]]);
    frames.push(Ok(trailers));
    let mut read = body(frames, true, &share(&held), Messages::One);
    assert_eq!(read.frame().await.unwrap().unwrap().into_data().unwrap().len(), 7);
    assert!(!read.is_end_stream(), "the trailers are left");
    assert!(read.frame().await.unwrap().unwrap().is_trailers());
    assert!(read.frame().await.is_none());
    assert!(read.frame().await.is_none(), "polled again");
    assert!(read.is_end_stream());
    let mut frames = chunks(&[&message(9)[..7]]);
    frames.push(Err(Status::cancelled("reset")));
    let mut read = body(frames, true, &share(&held), Messages::One);
    assert_eq!(read.frame().await.unwrap().unwrap_err().code(), Code::Cancelled);
    assert!(read.frame().await.is_none());
}

#[tokio::test]
async fn a_body_without_messages_is_passed_on_as_it_comes() {
    let held = held(FREE);
    let json = format!("{{\n  \"{}", "x".repeat(FREE));
    let read = body(chunks(&[json.as_bytes()]), false, &share(&held), Messages::None);
    assert_eq!(lengths(read), (vec![json.len()], false));
}

/// The next frame's length, or the code of its error.
async fn next(body: &mut Bounded) -> Result<usize, Code> {
    let frame = body.frame().await.unwrap();
    frame.map(|frame| frame.data_ref().map_or(0, Bytes::len)).map_err(|status| status.code())
}

#[tokio::test(start_paused = true)]
async fn all_requests_together_hold_so_much_until_they_are_answered() {
    let held = held(100);
    let plain = |share: &Arc<Share>, lengths: &[usize]| {
        let zeros: Vec<_> = lengths.iter().map(|length| vec![0; *length]).collect();
        let zeros: Vec<_> = zeros.iter().map(Vec::as_slice).collect();
        body(chunks(&zeros), false, share, Messages::None)
    };
    let (of_first, of_second) = (share(&held), share(&held));
    let mut first = plain(&of_first, &[FREE, 60]);
    let mut second = plain(&of_second, &[FREE + 40, 1]);
    assert_eq!(next(&mut first).await, Ok(FREE));
    assert_eq!(next(&mut first).await, Ok(60));
    assert_eq!(next(&mut second).await, Ok(FREE + 40), "as much as may be");
    assert_eq!(next(&mut second).await, Err(Code::ResourceExhausted));
    drop(first);
    let mut third = plain(&share(&held), &[FREE + 1]);
    assert_eq!(next(&mut third).await, Err(Code::ResourceExhausted), "it is not answered yet");
    drop(of_first);
    let mut fourth = plain(&share(&held), &[FREE + 60]);
    assert_eq!(next(&mut fourth).await, Ok(FREE + 60), "nothing of the refused is counted");
}

#[tokio::test(start_paused = true)]
async fn what_is_compressed_counts_as_what_it_may_become() {
    let held = held(10 * INFLATED);
    for (encoding, second) in
        [(None, Ok(9)), (Some("identity"), Ok(9)), (Some("gzip"), Err(Code::ResourceExhausted))]
    {
        let mut headers = http::HeaderMap::new();
        if let Some(encoding) = encoding {
            headers.insert("grpc-encoding", encoding.parse().unwrap());
        }
        let share = Arc::new(held.share(&headers));
        let mut read = body(chunks(&[&[9; 9], &[9; 9]]), false, &share, Messages::None);
        assert_eq!(next(&mut read).await, Ok(9));
        assert_eq!(next(&mut read).await, second, "{encoding:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_holds_what_has_come_of_its_current_message() {
    let held = held(100);
    let long = message(FREE + 50);
    let share_of_stream = share(&held);
    // The second frame has the end of one message and the beginning of the next.
    let parts = [&long[..10], &[&long[10..], &long[..10]].concat(), &long[10..], &long];
    let read = body(chunks(&parts), false, &share_of_stream, Messages::Many);
    assert_eq!(lengths(read), (vec![long.len(); 3], false));
    let mut open = body(chunks(&[&long[..FREE + 40]]), false, &share_of_stream, Messages::Many);
    assert!(open.frame().now_or_never().is_none());
    let mut other = body(chunks(&[&vec![0; FREE + 61]]), false, &share(&held), Messages::None);
    assert_eq!(next(&mut other).await, Err(Code::ResourceExhausted), "40 bytes are held");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_come_is_given_up() {
    let held = held(100);
    for begun in [&b""[..], &message(9)[..7]] {
        let began = Instant::now();
        let mut read = body(chunks(&[begun]), false, &share(&held), Messages::One);
        assert_eq!(next(&mut read).await, Err(Code::DeadlineExceeded), "{begun:?}");
        assert_eq!(began.elapsed(), PATIENCE);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_may_pause_between_messages_and_not_within_one() {
    let held = held(100);
    let mut between = body(chunks(&[&message(3)]), false, &share(&held), Messages::Many);
    assert_eq!(next(&mut between).await, Ok(8));
    advance(PATIENCE * 10).await;
    assert!(between.frame().now_or_never().is_none());
    let parts = [&message(3)[..], &message(3)[..4]];
    let mut within = body(chunks(&parts), false, &share(&held), Messages::Many);
    assert_eq!(next(&mut within).await, Ok(8));
    assert_eq!(next(&mut within).await, Err(Code::DeadlineExceeded));
}

#[tokio::test(start_paused = true)]
async fn each_message_of_a_stream_has_its_own_time() {
    let held = held(100);
    let half = PATIENCE * 2 / 3;
    let slow = stream::iter(chunks(&[&message(3)[..4], &message(3)[4..], &message(3)[..4]]))
        .then(move |frame| sleep(half).map(|()| frame))
        .chain(stream::pending());
    let slow = Body::new(StreamBody::new(slow));
    let mut read = Bounded::new(slow, share(&held), Messages::Many, 64 * MIB);
    let began = Instant::now();
    assert_eq!(next(&mut read).await, Ok(8));
    assert_eq!(next(&mut read).await, Err(Code::DeadlineExceeded));
    assert_eq!(began.elapsed(), half * 3 + PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn what_came_while_the_process_was_stopped_is_read() {
    let held = held(100);
    let (sender, frames) = futures::channel::mpsc::unbounded();
    let mut read =
        Bounded::new(Body::new(StreamBody::new(frames)), share(&held), Messages::One, 64 * MIB);
    assert!(read.frame().now_or_never().is_none());
    advance(PATIENCE * 2).await;
    assert!(read.frame().now_or_never().is_none(), "the timer is late");
    sender.unbounded_send(chunks(&[&message(3)]).remove(0)).unwrap();
    assert_eq!(next(&mut read).await, Ok(8));
    assert_eq!(next(&mut read).await, Err(Code::DeadlineExceeded));
    drop(sender);
}
