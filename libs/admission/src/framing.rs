//! Where gRPC messages begin and end in a body.

/// Bytes before each gRPC message: one says whether it is compressed, four its length, big-endian.
pub const PREFIX_BYTES: usize = 5;

/// Progress of the current message.
#[derive(Debug)]
pub(crate) struct Framing {
    /// Longest message that the decoder accepts, in bytes.
    longest: usize,
    prefix: [u8; PREFIX_BYTES],
    /// Bytes of the prefix that have arrived.
    of_prefix: usize,
    /// Bytes of the message that have not arrived, once its prefix has.
    missing: usize,
    /// Whether a message is too long. The bytes after it do not matter.
    is_refused: bool,
}

impl Framing {
    pub(crate) fn new(longest: usize) -> Self {
        Self { longest, prefix: [0; PREFIX_BYTES], of_prefix: 0, missing: 0, is_refused: false }
    }

    /// Whether a message has begun and not ended.
    pub(crate) const fn is_within_a_message(&self) -> bool {
        self.of_prefix > 0
    }

    /// Reads the next bytes. Returns how many of them can be passed on: those that complete
    /// messages, and those of a message that is too long, which the decoder refuses by its prefix.
    pub(crate) fn read(&mut self, data: &[u8]) -> usize {
        let mut at = 0;
        let mut complete = 0;
        while at < data.len() && !self.is_refused {
            let rest = &data[at..];
            if self.of_prefix < PREFIX_BYTES {
                let more = rest.len().min(PREFIX_BYTES - self.of_prefix);
                self.prefix[self.of_prefix..][..more].copy_from_slice(&rest[..more]);
                self.of_prefix += more;
                at += more;
                let [_, length @ ..] = self.prefix;
                self.missing = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                self.is_refused = self.of_prefix == PREFIX_BYTES && self.missing > self.longest;
            } else {
                let more = rest.len().min(self.missing);
                self.missing -= more;
                at += more;
            }
            if self.of_prefix == PREFIX_BYTES && self.missing == 0 {
                self.of_prefix = 0;
                complete = at;
            }
        }
        if self.is_refused { data.len() } else { complete }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes of each chunk can be passed on, and whether a message is left unfinished.
    fn completed(chunks: &[&[u8]]) -> (Vec<usize>, bool) {
        let mut framing = Framing::new(100);
        let completed = chunks.iter().map(|chunk| framing.read(chunk)).collect();
        (completed, framing.is_within_a_message())
    }

    #[test]
    fn a_message_is_complete_with_its_last_byte() {
        let message = [0, 0, 0, 0, 3, 7, 7, 7];
        assert_eq!(completed(&[&message]), (vec![8], false));
        assert_eq!(completed(&[&message[..7], &message[7..]]), (vec![0, 1], false));
        assert_eq!(completed(&[&message[..2], &message[2..5], &message[5..]]).0, [0, 0, 3]);
        assert_eq!(completed(&[&message[..1]]), (vec![0], true));
        assert_eq!(completed(&[&message[..5]]), (vec![0], true));
        assert_eq!(completed(&[&[0, 0, 0, 0, 0]]), (vec![5], false), "an empty message");
    }

    #[test]
    fn of_several_messages_the_whole_ones_are_complete() {
        let message = [0, 0, 0, 0, 1, 7];
        let two_and_a_half = [message, message, message].concat();
        assert_eq!(completed(&[&two_and_a_half[..14]]), (vec![12], true));
    }

    #[test]
    fn what_the_decoder_has_to_refuse_is_complete_at_once() {
        assert_eq!(completed(&[&[0, 0, 0, 0, 100], &[7; 99], &[7]]).0, [0, 0, 1], "the longest");
        assert_eq!(completed(&[&[0, 0, 0, 0, 101], &[7; 9]]).0, [5, 9], "longer by one");
        assert_eq!(completed(&[&[0, 255, 255, 255, 255]]).0, [5]);
    }
}
