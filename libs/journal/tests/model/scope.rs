//! What a search covers, and the rule that it leaves out.

/// A rule that the lanes or the store leave out on purpose. The crate's own code stays unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Break {
    /// An append puts its entry instead of inserting it.
    AppendWithoutInsert,
    /// Trust counts from when the lane hears that its append is committed.
    TrustFromReply,
    /// Trust counts from the commit of an append.
    TrustFromCommit,
    /// A lane appends without a look although one of its appends is undetermined.
    TrustWhileUndetermined,
    /// The calls of an undetermined append run again although the append stands.
    UndeterminedForgotten,
    /// The conflict of a rerun counts as the outcome of the earlier runs.
    ConflictSettles,
    /// Calls run again although nobody can know their fate.
    UnknownRunsAgain,
    /// An operation is answered "expired" while an earlier run of it may still land.
    ExpiredWhileUndetermined,
    /// A look believes that the lane's own entry stands although it is below the head's oldest.
    BelowOldestBelieved,
    /// A look ignores the head's oldest.
    LookWithoutOldest,
    /// A read relies on what the lane knew, without a look.
    ReadWithoutLook,
    /// A row is loaded from its record although there is a newer image.
    LoadWithoutOverlay,
    /// A durable piece renews trust, as an append does.
    CheckpointRenewsTrust,
    /// A durable piece drops images while a batch is running.
    PruneUnderBatch,
    /// A piece writes images of an append that is in flight.
    PieceIncludesInFlight,
    /// A piece leaves out its first row.
    PieceSkipsRow,
    /// A piece goes on although it finds another head than the one it was made for.
    PieceIgnoresHead,
    /// Entries that the records do not show are trimmed.
    TrimAboveFlushed,
    /// An entry is trimmed by its own age instead of its successor's.
    TrimByOwnAge,
    /// Entries are trimmed although the facts in them are needed.
    TrimForgetsFacts,
    /// A fact counts as carried forward while the entry that carries it is still in flight.
    CarriedBeforeDurable,
    /// The last entry is trimmed by its own age.
    LastEntryTrimmed,
    /// A reader from outside takes the records alone for the truth.
    OutsideWithoutOverlay,
    /// A reader from outside reads the records at a later timestamp than the journal.
    OutsideAtTwoTimestamps,
    /// A commit counts however late it is.
    LateYesBelieved,
    /// A KV transaction that was begun early is used however late the append before it was
    /// committed.
    EarlyBelieved,
    /// A look beside the batches is believed although it shows entries that the lane does not know.
    BesideBelieved,
    /// A KV transaction that was begun early reads rows that are not in memory.
    EarlyReads,
}

/// What may happen besides appends and pieces that land.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feature {
    /// Lanes look with nothing to write, and read rows.
    Reads,
    /// The outcome of an append may stay undetermined.
    Doubts,
    /// The store may refuse an append, and a lane may never hear of its piece.
    Failures,
    /// Operation 0 leaves a fact that must not be lost before it expires.
    Facts,
    /// Lanes keep the rows that they have read.
    Caches,
    /// A lane may stop between the start of a KV transaction and its actions in it.
    Split,
    /// The shard has no head yet: the first append writes it.
    Fresh,
    /// A lane may begin its next KV transaction while an append is under way.
    Early,
    /// A lane may look beside its batches, and read when it has heard what the look shows.
    Beside,
}

/// Bounds of a search.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope {
    /// Number of operations. They arrive in order, each at either lane.
    pub(crate) ops: u8,
    /// How many undetermined appends may be in flight at once.
    pub(crate) stray_appends: usize,
    /// How many pieces that their lanes have given up may be in flight at once.
    pub(crate) stray_pieces: usize,
    /// How many times lanes may restart.
    pub(crate) crashes: u8,
    /// How far time may jump in one step, in milliseconds.
    pub(crate) ticks: &'static [u64],
    /// Budgets of pieces, in bytes.
    pub(crate) budgets: &'static [usize],
    /// What else may happen.
    pub(crate) with: &'static [Feature],
    /// The rule that is left out.
    pub(crate) without: Option<Break>,
}

/// Time jumps, in milliseconds, that reach the bounds of trust, trim age, the life of a KV
/// transaction and garbage collection.
pub(crate) const TICKS: &[u64] = &[900, 5_000, 61_000, 601_000];

impl Scope {
    /// A small scope to extend.
    pub(crate) const SMALL: Self = Self {
        ops: 2,
        stray_appends: 1,
        stray_pieces: 0,
        crashes: 0,
        ticks: TICKS,
        budgets: &[1],
        with: &[Feature::Reads, Feature::Doubts, Feature::Failures],
        without: None,
    };

    pub(crate) fn has(&self, feature: Feature) -> bool {
        self.with.contains(&feature)
    }

    pub(crate) fn lacks(&self, rule: Break) -> bool {
        self.without == Some(rule)
    }
}
