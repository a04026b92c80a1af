//! Where messages begin and end in what a client sends: enough of HTTP/1.1 and HTTP/2 to tell
//! whether a message is incomplete. Only timeouts and the count of held memory depend on it; hyper
//! reads the messages themselves.

#[cfg(test)]
mod tests;

/// The preface that begins an HTTP/2 connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How the length of an HTTP/1.1 body is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// This many bytes, most often 0.
    Length(u64),
    /// The last chunk ends it.
    Chunked,
}

/// What has arrived on one connection.
#[derive(Debug)]
pub(super) enum Inbound {
    /// Too little to tell the version.
    Unknown {
        /// Bytes of the preface received so far.
        preface: usize,
    },
    Http1(Lines),
    Http2(Frames),
}

impl Default for Inbound {
    fn default() -> Self {
        Self::Unknown { preface: 0 }
    }
}

impl Inbound {
    /// Records the bytes that were read.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        match self {
            Self::Unknown { preface } => {
                let left = PREFACE.get(*preface..).unwrap_or_default();
                let same = left.iter().zip(bytes).take_while(|(a, b)| a == b).count();
                if same == left.len() {
                    let mut frames = Frames::default();
                    frames.read(bytes.get(same..).unwrap_or_default());
                    *self = Self::Http2(frames);
                } else if same == bytes.len() {
                    *preface += same;
                } else {
                    let mut lines = Lines::default();
                    lines.read(PREFACE.get(..*preface).unwrap_or_default());
                    lines.read(bytes);
                    *self = Self::Http1(lines);
                }
            }
            Self::Http1(lines) => lines.read(bytes),
            Self::Http2(frames) => frames.read(bytes),
        }
    }
}

/// HTTP/1.1: heads, each of which ends with a blank line, and the bytes after them.
#[derive(Debug)]
pub(super) struct Lines {
    /// A head has begun. Blank lines before it do not count.
    begun: bool,
    /// At the beginning of a line.
    fresh: bool,
    /// The last byte ended a blank line.
    ended: bool,
    /// Bytes after the head. None until the head has ended, or when its end was not seen.
    behind: Option<u64>,
}

impl Default for Lines {
    fn default() -> Self {
        Self { begun: false, fresh: true, ended: false, behind: None }
    }
}

impl Lines {
    fn read(&mut self, bytes: &[u8]) {
        if let Some(behind) = &mut self.behind {
            *behind = behind.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        }
        for (index, byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' if self.fresh && self.begun => {
                    self.ended = true;
                    let left = bytes.len() - index - 1;
                    self.behind.get_or_insert(u64::try_from(left).unwrap_or(u64::MAX));
                }
                b'\n' => {
                    self.fresh = true;
                    self.ended = false;
                }
                b'\r' => self.ended = false,
                _ => {
                    self.begun = true;
                    self.fresh = false;
                    self.ended = false;
                }
            }
        }
    }

    /// Records that the message was answered. True when it is complete and only complete ones
    /// follow it. Either way, the next bytes count as a new head.
    pub(super) fn answered(&mut self, body: Body) -> bool {
        let whole = match (body, self.behind) {
            (Body::Length(length), Some(behind)) if behind == length => true,
            // Several messages arrived at once, or chunks, which end with a blank line.
            (Body::Length(0) | Body::Chunked, _) => self.ended,
            (Body::Length(_), _) => false,
        };
        *self = Self { begun: !whole, behind: None, ..*self };
        whole
    }
}

/// HTTP/2: frames, and blocks of headers that span several frames.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; Self::HEAD],
    /// Bytes of this frame's head received so far.
    filled: usize,
    /// Bytes of this frame's payload still to come.
    left: usize,
    /// The frame's block of headers continues in the next frame.
    open: bool,
    /// The first frame has arrived completely.
    begun: bool,
}

impl Frames {
    const HEAD: usize = 9;
    const HEADERS: u8 = 0x1;
    const CONTINUATION: u8 = 0x9;
    const END_HEADERS: u8 = 0x4;

    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let wanted =
                if self.filled < Self::HEAD { Self::HEAD - self.filled } else { self.left };
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            bytes = later;
            if self.filled < Self::HEAD {
                let end = self.filled + now.len();
                if let Some(room) = self.head.get_mut(self.filled..end) {
                    room.copy_from_slice(now);
                }
                self.filled = end;
                if self.filled == Self::HEAD {
                    let [a, b, c, kind, flags, ..] = self.head;
                    self.left = (usize::from(a) << 16) | (usize::from(b) << 8) | usize::from(c);
                    if kind == Self::HEADERS || kind == Self::CONTINUATION {
                        self.open = flags & Self::END_HEADERS == 0;
                    }
                }
            } else {
                self.left -= now.len();
            }
            if self.filled == Self::HEAD && self.left == 0 {
                self.filled = 0;
                self.begun = true;
            }
        }
    }

    /// True between two frames, unless a block of headers spans them.
    pub(super) fn is_between(&self) -> bool {
        self.begun && self.filled == 0 && !self.open
    }
}
