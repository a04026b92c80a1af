//! Where messages begin and end in what a client sends: enough of HTTP/1.1 and HTTP/2 to tell whether one
//! is half come. What it says is used for time-outs alone; hyper reads the messages themselves.

#[cfg(test)]
mod tests;

/// How HTTP/2 begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How the length of an HTTP/1.1 body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// This many bytes; most often none.
    Length(u64),
    /// By its last chunk.
    Chunked,
}

/// What has come in on one connection.
#[derive(Debug)]
pub(super) enum Inbound {
    /// Less than says which version it is.
    Unknown {
        /// Bytes of the preface so far.
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
    /// Takes note of what came.
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

/// HTTP/1.1: heads, which end with a blank line, and what stands behind them.
#[derive(Debug)]
pub(super) struct Lines {
    /// Something of a head has come; blank lines before it do not count.
    begun: bool,
    /// At the beginning of a line.
    fresh: bool,
    /// The last byte ended a blank line.
    ended: bool,
    /// Bytes behind the head; none while it has not ended, or where its end was not seen.
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

    /// The message that began was answered: true when it is whole and nothing but whole ones stands behind it.
    /// What comes next is a new head either way.
    pub(super) fn answered(&mut self, body: Body) -> bool {
        let whole = match (body, self.behind) {
            (Body::Length(length), Some(behind)) if behind == length => true,
            // Several messages came at once, or chunks, whose end is a blank line.
            (Body::Length(0) | Body::Chunked, _) => self.ended,
            (Body::Length(_), _) => false,
        };
        *self = Self { begun: !whole, behind: None, ..*self };
        whole
    }
}

/// HTTP/2: frames, and blocks of headers that span several of them.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; Self::HEAD],
    /// Bytes of the head of this frame.
    filled: usize,
    /// Bytes of its payload that have yet to come.
    left: usize,
    /// Its block of headers goes on in the next frame.
    open: bool,
    /// The first one has come.
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

    /// True between two frames, neither of which is a part of what the other began.
    pub(super) fn is_between(&self) -> bool {
        self.begun && self.filled == 0 && !self.open
    }
}
