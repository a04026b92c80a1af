//! The end of a journal as one writer knows it.

use crate::{Author, EARLY_MS, Head, LIFE_MAX_MS, TRUST_MS, Writer};

/// The result of a look at the head and at the entry after the last known one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// No entry follows, so the known state is current.
    Current,
    /// Another writer has appended, or one of this writer's undetermined runs has landed. Take the
    /// entries from this number on.
    Behind(u64),
    /// The next entry is trimmed, so everything known is void. Take the entries from this number
    /// on.
    Lost(u64),
}

/// The fate of appends whose outcome was unknown (J3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// There were none.
    Settled,
    /// This run stands, and no other one ever will.
    Stands(Author),
    /// None of them will ever stand, because another entry has their place. Their calls run again.
    Void,
    /// Each may still land, unless another entry takes their place. Their calls run again, at the
    /// same number.
    Open,
    /// The entry in their place is trimmed, so nobody can tell whether it was theirs. Their calls
    /// never run again.
    Unknown,
}

/// The journal is in a state that its writers cannot have left. No retry helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// An entry is missing.
    #[error("entry {expected} is missing, entry {found} follows")]
    Gap {
        /// The number that should have followed.
        expected: u64,
        /// The number that was found.
        found: u64,
    },
    /// The predecessor that an entry names is not the entry before it.
    #[error("entry {0} was appended to another entry than the one that stands before it")]
    Predecessor(u64),
    /// The records show more than the journal has.
    #[error("the journal ends at entry {last}, and its head says that it went up to {flushed}")]
    Short {
        /// The last entry that stands.
        last: u64,
        /// The last entry that the records show, by the head.
        flushed: u64,
    },
}

/// The end of a journal as one writer knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Tail {
    seq: u64,
    author: Option<Author>,
    /// Start of the last KV transaction that showed or appended entry `seq` as the last one, in
    /// milliseconds. `None` once the trust is used up.
    known_at: Option<u64>,
    /// Commit of the last entry that this writer appended, in milliseconds; 0 after a look or a
    /// restart.
    committed_ms: u64,
    /// Appends of unknown outcome, all for the place after `seq`.
    undetermined: Vec<Author>,
}

impl Tail {
    /// Number of the last entry; 0 before the first.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// Who wrote the last entry; none if that is not known.
    #[must_use]
    pub const fn author(&self) -> Option<Author> {
        self.author
    }

    /// Whether this writer wrote the last entry.
    #[must_use]
    pub fn is_by(&self, writer: &Writer) -> bool {
        self.author.is_some_and(|author| author.writer == *writer)
    }

    /// Whether the outcome of some append is unknown.
    #[must_use]
    pub const fn is_undetermined(&self) -> bool {
        !self.undetermined.is_empty()
    }

    /// Begins a KV transaction at `start_ms`. Returns whether it may append without a look: the
    /// tail was known at most [`TRUST_MS`] ago, no append is undetermined, and the transaction
    /// started at most [`EARLY_MS`] before the last entry was committed. This uses up the trust
    /// until [`Tail::appended`] or [`Tail::looked`] renews it. Neither a conflict nor a checkpoint
    /// does.
    pub fn begin(&mut self, start_ms: u64) -> bool {
        let known_at = self.known_at.take();
        self.undetermined.is_empty()
            && known_at.is_some_and(|at| start_ms.saturating_sub(at) <= TRUST_MS)
            && self.committed_ms.saturating_sub(start_ms) <= EARLY_MS
    }

    /// Judges a look: the head, and the author of the entry after the last known one if it stands,
    /// both read at one timestamp. An entry below the head's oldest does not stand.
    pub fn look(&mut self, head: &Head, next: Option<Author>) -> (Look, Fate) {
        let next_seq = self.seq.saturating_add(1);
        let lost = head.oldest > next_seq;
        let fate = match next {
            _ if self.undetermined.is_empty() => Fate::Settled,
            _ if lost => Fate::Unknown,
            None => Fate::Open,
            Some(author) if self.undetermined.contains(&author) => Fate::Stands(author),
            Some(_) => Fate::Void,
        };
        if fate != Fate::Open {
            self.undetermined.clear();
        }
        let look = match next {
            _ if lost => {
                self.restart(head);
                Look::Lost(head.oldest)
            }
            Some(_) => Look::Behind(next_seq),
            None => Look::Current,
        };
        (look, fate)
    }

    /// Forgets what is known. The head's oldest entry must be taken next.
    pub fn restart(&mut self, head: &Head) {
        *self = Self { seq: head.oldest.saturating_sub(1), ..Self::default() };
    }

    /// Takes the next entry, which names its author and the author of the entry before it (J4).
    ///
    /// # Errors
    /// [`Damage`]; then nothing is taken, and no retry helps.
    pub fn take(
        &mut self,
        seq: u64,
        author: Author,
        previous: Option<Author>,
    ) -> Result<(), Damage> {
        let expected = self.seq.saturating_add(1);
        if seq != expected {
            return Err(Damage::Gap { expected, found: seq });
        }
        // The predecessor of the first entry that stands is not known, and releases before 0.2 did
        // not record predecessors.
        if self.author.is_some() && previous.is_some() && self.author != previous {
            return Err(Damage::Predecessor(seq));
        }
        self.seq = seq;
        self.author = Some(author);
        Ok(())
    }

    /// Ends a look by the KV transaction that began at `start_ms`: all entries that it showed are
    /// taken, and it appends nothing.
    pub const fn looked(&mut self, start_ms: u64) {
        self.known_at = Some(start_ms);
        self.committed_ms = 0;
    }

    /// The store says that the append of entry `seq + 1` is committed. Returns whether that counts.
    /// A commit more than [`LIFE_MAX_MS`] after its start does not, and its outcome is unknown.
    #[must_use]
    pub fn appended(&mut self, author: Author, start_ms: u64, commit_ms: u64) -> bool {
        if commit_ms.saturating_sub(start_ms) > LIFE_MAX_MS {
            self.undetermined(author);
            return false;
        }
        *self = Self {
            seq: self.seq.saturating_add(1),
            author: Some(author),
            known_at: Some(start_ms),
            committed_ms: commit_ms,
            undetermined: Vec::new(),
        };
        true
    }

    /// The outcome of the append of entry `seq + 1` is unknown: it may have landed, or may still
    /// land.
    pub fn undetermined(&mut self, author: Author) {
        self.known_at = None;
        self.undetermined.push(author);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Author = Author { writer: [1; 16], run: 1 };
    const THEM: Author = Author { writer: [2; 16], run: 1 };

    fn known(seq: u64, author: Author, at_ms: u64) -> Tail {
        Tail { seq, author: Some(author), known_at: Some(at_ms), ..Tail::default() }
    }

    #[test]
    fn trust_ends_exactly_where_it_says_and_is_used_up() {
        let mut tail = known(3, US, 10_000);
        assert!(tail.begin(10_000 + TRUST_MS));
        assert!(!tail.begin(10_000 + TRUST_MS), "it was used up");
        tail.looked(20_000);
        assert!(!tail.begin(20_001 + TRUST_MS));
    }

    #[test]
    fn trust_counts_from_the_start_of_an_append_and_never_from_its_commit() {
        let mut tail = known(3, US, 10_000);
        assert!(tail.begin(10_500));
        assert!(tail.appended(US, 10_500, 13_000));
        assert!(!tail.begin(13_000));
    }

    #[test]
    fn an_append_may_begin_before_the_one_before_it_is_committed_but_not_long_before() {
        let appended = |commit_ms| {
            let mut tail = known(3, US, 10_000);
            assert!(tail.begin(10_500));
            assert!(tail.appended(US, 10_500, commit_ms));
            tail
        };
        assert!(appended(10_501 + EARLY_MS).begin(10_501));
        assert!(!appended(10_502 + EARLY_MS).begin(10_501));
        let mut tail = appended(20_000);
        tail.looked(20_001);
        assert!(tail.begin(20_001), "the look has shown the entry");
    }

    #[test]
    fn nothing_is_trusted_while_an_append_is_undetermined() {
        let mut tail = known(3, US, 10_000);
        tail.undetermined(US);
        tail.looked(10_000);
        assert!(!tail.begin(10_001));
    }

    #[test]
    fn a_commit_counts_up_to_the_life_of_a_kv_transaction() {
        let mut tail = known(3, US, 0);
        assert!(tail.clone().appended(US, 0, LIFE_MAX_MS));
        assert!(!tail.appended(US, 0, LIFE_MAX_MS + 1));
        assert_eq!((tail.seq(), tail.is_undetermined()), (3, true));
    }

    #[test]
    fn a_look_tells_what_became_of_an_append() {
        let head = Head::default();
        let undetermined = || {
            let mut tail = known(3, THEM, 0);
            tail.undetermined(US);
            tail.undetermined(Author { run: 2, ..US });
            tail
        };
        let ours = Author { run: 2, ..US };
        assert_eq!(undetermined().look(&head, Some(ours)), (Look::Behind(4), Fate::Stands(ours)));
        assert_eq!(undetermined().look(&head, Some(THEM)), (Look::Behind(4), Fate::Void));
        let mut open = undetermined();
        assert_eq!(open.look(&head, None), (Look::Current, Fate::Open));
        assert!(open.is_undetermined(), "it may land yet");
        let trimmed = Head { oldest: 5, ..head };
        assert_eq!(undetermined().look(&trimmed, Some(ours)), (Look::Lost(5), Fate::Unknown));
        let last = Head { oldest: 4, ..head };
        assert_eq!(undetermined().look(&last, Some(ours)), (Look::Behind(4), Fate::Stands(ours)));
    }

    #[test]
    fn entries_are_taken_in_a_row_each_after_the_one_that_it_was_appended_to() {
        let mut tail = Tail::default();
        tail.restart(&Head { oldest: 7, ..Head::default() });
        assert_eq!(tail.take(8, US, None), Err(Damage::Gap { expected: 7, found: 8 }));
        assert_eq!(tail.take(7, US, Some(THEM)), Ok(()), "what stood before is not known");
        assert_eq!(tail.take(8, US, Some(THEM)), Err(Damage::Predecessor(8)));
        assert_eq!(tail.take(8, THEM, Some(US)), Ok(()));
        assert_eq!(tail.take(9, US, None), Ok(()), "an older release says nothing of it");
        assert!(tail.is_by(&US.writer));
    }
}
