//! The timestamp oracle: physical milliseconds and a counter. Timestamps never repeat or go back.
//!
//! A ceiling on disk is above every timestamp given out. A restart begins at the ceiling, and so
//! above all earlier timestamps, even if the clock went back meanwhile. [`Oracle`] is pure; the
//! engine owns it, its clock, and the persistence of the ceiling.

use crate::model::Ts;

/// How far above the clock the ceiling is put, in milliseconds.
pub(crate) const WINDOW_MS: u64 = 3_000;

/// Upper bound of the counter within one millisecond, exclusive.
const LOGICAL_END: u64 = 1 << Ts::LOGICAL_BITS;

/// The oracle's state.
#[derive(Debug)]
pub(crate) struct Oracle {
    /// Unix milliseconds of the last timestamp.
    physical: u64,
    /// Its counter.
    logical: u64,
    /// Timestamps stay below this millisecond. It is on disk.
    ceiling: u64,
}

impl Oracle {
    /// An oracle after a restart, with the ceiling found on disk (zero for a new store).
    pub(crate) fn resume(ceiling: u64) -> Self {
        Self { physical: ceiling, logical: 0, ceiling }
    }

    /// Gives out `count` timestamps and returns the last of them; none when the ceiling has to be
    /// raised first, or `count` does not fit a millisecond. `now_ms` may be wrong in any way.
    pub(crate) fn take(&mut self, now_ms: u64, count: u64) -> Option<Ts> {
        if count == 0 || count >= LOGICAL_END {
            return None;
        }
        let last_allowed = self.ceiling.checked_sub(1)?;
        let mut physical = self.physical.max(now_ms.min(last_allowed));
        let mut logical = if physical > self.physical { count } else { self.logical + count };
        if logical >= LOGICAL_END {
            physical += 1;
            logical = count;
        }
        if physical > last_allowed {
            return None;
        }
        self.physical = physical;
        self.logical = logical;
        Some(Ts(physical << Ts::LOGICAL_BITS | logical))
    }

    /// Gives out nothing at or below `ts` from now on, unless `ts` is at or above the ceiling.
    pub(crate) fn skip_past(&mut self, ts: Ts) {
        let physical = ts.physical().0;
        if physical < self.ceiling && self.latest() < ts {
            self.physical = physical;
            self.logical = ts.0 & (LOGICAL_END - 1);
        }
    }

    /// The last timestamp given out.
    pub(crate) fn latest(&self) -> Ts {
        Ts(self.physical << Ts::LOGICAL_BITS | self.logical)
    }

    /// The ceiling to put on disk next, if one is due, and whether it is urgent: without it nothing
    /// more can be given out at the present time.
    pub(crate) fn wanted_ceiling(&self, now_ms: u64) -> Option<(u64, bool)> {
        let at = now_ms.max(self.physical);
        let wanted = at.saturating_add(WINDOW_MS);
        if at.saturating_add(1) >= self.ceiling {
            Some((wanted, true))
        } else if at.saturating_add(WINDOW_MS / 2) >= self.ceiling {
            Some((wanted, false))
        } else {
            None
        }
    }

    /// Timestamps stay below this millisecond.
    pub(crate) fn ceiling(&self) -> u64 {
        self.ceiling
    }

    /// Notes that this ceiling is on disk. Never lowers the ceiling.
    pub(crate) fn raise(&mut self, ceiling: u64) {
        self.ceiling = self.ceiling.max(ceiling);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn started(now: u64) -> Oracle {
        let mut oracle = Oracle::resume(0);
        oracle.raise(now + WINDOW_MS);
        oracle
    }

    #[test]
    fn a_batch_ends_at_the_answer() {
        let mut oracle = started(1_000);
        let first = oracle.take(1_000, 64).unwrap();
        let second = oracle.take(1_000, 10).unwrap();
        assert_eq!(second.0, first.0 + 10);
    }

    #[test]
    fn a_full_millisecond_goes_on_in_the_next() {
        let mut oracle = started(1_000);
        let mut last = Ts(0);
        for _ in 0..20_000 {
            let ts = oracle.take(1_000, 64).unwrap();
            assert!(ts.0 - 64 >= last.0, "the batch reaches below {last:?}");
            last = ts;
        }
        assert!(last.physical().0 > 1_000);
    }

    #[test]
    fn without_a_ceiling_nothing_is_given_out() {
        let mut oracle = Oracle::resume(5_000);
        assert_eq!(oracle.take(9_000, 1), None);
        assert_eq!(oracle.wanted_ceiling(9_000), Some((9_000 + WINDOW_MS, true)));
    }

    #[test]
    fn a_restart_with_an_older_clock_stays_ahead() {
        let mut before = started(10_000);
        let last = before.take(12_000, 1).unwrap();
        let mut after = Oracle::resume(10_000 + WINDOW_MS);
        let (ceiling, _) = after.wanted_ceiling(1_000).unwrap();
        after.raise(ceiling);
        assert!(after.take(1_000, 1).unwrap() > last);
    }

    #[test]
    fn skipping_leaves_everything_older_unused() {
        let mut oracle = started(1_000);
        let target = Ts((1_500 << Ts::LOGICAL_BITS) + 77);
        oracle.skip_past(target);
        assert!(oracle.take(1_000, 1).unwrap() > target);
    }

    proptest! {
        #[test]
        fn never_back_and_never_above_the_ceiling(
            steps in proptest::collection::vec((0u64..20_000, 1u64..2_000, any::<bool>()), 1..400),
        ) {
            let mut oracle = Oracle::resume(0);
            let mut ceiling = 0;
            let mut last = Ts(0);
            for (now, count, restart) in steps {
                if restart {
                    oracle = Oracle::resume(ceiling);
                }
                if let Some((wanted, _)) = oracle.wanted_ceiling(now) {
                    oracle.raise(wanted);
                    ceiling = ceiling.max(wanted);
                }
                let ts = oracle.take(now, count).expect("the ceiling was just looked after");
                prop_assert!(ts.0 - count >= last.0);
                prop_assert!(ts.physical().0 < ceiling);
                last = ts;
            }
        }
    }
}
