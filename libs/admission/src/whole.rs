//! Withholds each gRPC message until all of it has arrived.
//!
//! A message begins with its length, and the decoder reserves that much memory at once. A caller
//! could have megabytes reserved by announcing a message of which nothing comes.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use crate::held::Share;

/// Bytes before each message: one says whether it is compressed, four its length, big-endian.
const PREFIX: usize = 5;

/// A request's body, whose data frames come in whole messages.
pub(crate) struct Whole<B> {
    body: B,
    arriving: Arriving,
    /// Parts of a message that has not arrived completely.
    withheld: Vec<Bytes>,
    ready: VecDeque<Frame<Bytes>>,
    /// The share of a stream, which holds no more than is withheld.
    of_stream: Option<Arc<Share>>,
}

impl<B> Whole<B> {
    /// The body, whose decoder refuses messages of more than `longest` bytes.
    pub(crate) fn new(body: B, longest: usize, of_stream: Option<Arc<Share>>) -> Self {
        let arriving = Arriving { longest, prefix: [0; PREFIX], of_prefix: 0, missing: 0 };
        Self { body, arriving, withheld: Vec::new(), ready: VecDeque::new(), of_stream }
    }

    /// Takes what has arrived. Returns or releases what is complete.
    fn take(&mut self, mut data: Bytes) -> Option<Frame<Bytes>> {
        let complete = data.split_to(self.arriving.read(&data));
        // Most messages are one frame.
        let is_alone = self.withheld.is_empty();
        let complete = (!complete.is_empty()).then(|| Frame::data(complete));
        if complete.is_some() {
            self.release();
            if let Some(share) = &self.of_stream {
                share.keep(data.len());
            }
        }
        if !data.is_empty() {
            self.withheld.push(data);
        }
        if is_alone {
            return complete;
        }
        self.ready.extend(complete);
        None
    }

    fn release(&mut self) {
        self.ready.extend(self.withheld.drain(..).map(Frame::data));
    }
}

impl<B: Body<Data = Bytes, Error = Status> + Unpin> Body for Whole<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        while this.ready.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        if let Some(frame) = this.take(data) {
                            return Poll::Ready(Some(Ok(frame)));
                        }
                    }
                    Err(trailers) => {
                        this.release();
                        this.ready.push_back(trailers);
                    }
                },
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None if this.withheld.is_empty() => return Poll::Ready(None),
                // The decoder says what is wrong with half a message.
                None => this.release(),
            }
        }
        Poll::Ready(this.ready.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty() && self.withheld.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// What has arrived of the current message.
#[derive(Debug)]
struct Arriving {
    /// Longest message that the decoder does not refuse, in bytes.
    longest: usize,
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that have arrived.
    of_prefix: usize,
    /// Bytes of the message that have not arrived, once its prefix has.
    missing: usize,
}

impl Arriving {
    /// Reads the next bytes. Returns how many of them complete messages, or are of no use to wait
    /// for: the decoder refuses a message that is too long by its prefix.
    fn read(&mut self, data: &[u8]) -> usize {
        let mut at = 0;
        let mut complete = 0;
        while at < data.len() {
            let rest = &data[at..];
            if self.of_prefix < PREFIX {
                let more = rest.len().min(PREFIX - self.of_prefix);
                self.prefix[self.of_prefix..][..more].copy_from_slice(&rest[..more]);
                self.of_prefix += more;
                at += more;
                let [_, length @ ..] = self.prefix;
                self.missing = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            } else {
                let more = rest.len().min(self.missing);
                self.missing -= more;
                at += more;
            }
            if self.of_prefix == PREFIX {
                if self.missing == 0 {
                    self.of_prefix = 0;
                    complete = at;
                } else if self.missing > self.longest {
                    complete = data.len();
                }
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _, stream};
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    /// A message of this length, with its prefix.
    fn message(len: u32) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(len.to_be_bytes());
        bytes.resize(PREFIX + usize::try_from(len).unwrap(), 7);
        bytes
    }

    /// The lengths of the data frames that come of these chunks, and whether the body ends.
    fn frames(chunks: &[&[u8]], ends: bool) -> (Vec<usize>, bool) {
        let chunks = chunks.iter().map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk))));
        let chunks = stream::iter(chunks.collect::<Vec<_>>());
        let chunks = if ends { chunks.boxed() } else { chunks.chain(stream::pending()).boxed() };
        let mut body = Whole::new(StreamBody::new(chunks), 64 << 20, None);
        let mut lengths = Vec::new();
        loop {
            match body.frame().now_or_never() {
                Some(Some(frame)) => lengths.push(frame.unwrap().into_data().unwrap().len()),
                Some(None) => return (lengths, true),
                None => return (lengths, false),
            }
        }
    }

    #[test]
    fn a_message_that_is_announced_and_does_not_come_is_withheld() {
        let announced = &message(64 << 20)[..PREFIX];
        assert_eq!(frames(&[announced], false), (vec![], false));
        assert_eq!(
            frames(&[&announced[..2], &announced[2..], &[7; 1_000]], false),
            (vec![], false)
        );
    }

    #[test]
    fn messages_pass_once_they_are_complete() {
        let (small, large) = (message(3), message(1_000));
        assert_eq!(frames(&[&small], false), (vec![8], false), "at once");
        assert_eq!(frames(&[&message(0)], false), (vec![PREFIX], false));
        assert_eq!(frames(&[&large[..4], &large[4..500], &large[500..]], true).0, [4, 496, 505]);
        let both = [small.clone(), large.clone()].concat();
        assert_eq!(frames(&[&both[..10], &both[10..]], true), (vec![8, 2, 1_003], true));
        assert_eq!(frames(&[&[small.clone(), small].concat()], true), (vec![16], true));
    }

    #[test]
    fn the_longest_message_passes_once_it_is_complete() {
        let longest = message(64 << 20);
        let (most, last) = longest.split_at(longest.len() - 1);
        assert_eq!(frames(&[most], false), (vec![], false));
        assert_eq!(frames(&[most, last], false), (vec![most.len(), 1], false));
    }

    #[test]
    fn messages_before_one_that_is_cut_off_pass_on_their_own() {
        let two_and_a_half = [message(3), message(4), message(9)[..7].to_vec()].concat();
        assert_eq!(frames(&[&two_and_a_half], false), (vec![8 + 9], false));
        assert_eq!(frames(&[&two_and_a_half], true), (vec![8 + 9, 7], true));
    }

    #[test]
    fn what_the_decoder_has_to_refuse_is_passed_on() {
        let too_long = [&[0], &u32::MAX.to_be_bytes()[..]].concat();
        assert_eq!(frames(&[&too_long, &[7; 10]], false), (vec![5, 10], false));
        let by_one = [&[0], &((64_u32 << 20) + 1).to_be_bytes()[..]].concat();
        assert_eq!(frames(&[&by_one], false), (vec![5], false));
        assert_eq!(frames(&[&message(9)[..7]], true), (vec![7], true), "it ends within a message");
    }
}
