//! Checks whether what clients saw of one object could have happened one call at a time.
//!
//! This is the search of Wing and Gong (1993) with the memory of Lowe (2017). It takes any call
//! that began before all unplaced calls had ended, and places it next if the model allows that. It
//! never visits the same set of placed calls in the same state twice. A call of unknown outcome may
//! take effect at any time after it began, or never. Pure.

use std::{collections::BTreeSet, fmt};

/// What calls may do, one at a time.
pub trait Model {
    /// Everything that the next call can see.
    type State: Clone + Ord;
    /// A call, together with its answer.
    type Call;

    /// The state after this call; none if it cannot have got this answer here.
    fn apply(&self, state: &Self::State, call: &Self::Call) -> Option<Self::State>;

    /// The call without its answer; none if it changes nothing.
    fn untold(&self, call: &Self::Call) -> Option<Self::Call>;

    /// True if a history that is possible with this call is also possible without it.
    fn may_go(&self, call: &Self::Call) -> bool {
        self.untold(call).is_none()
    }
}

/// A call and its interval, in steps of one clock for all clients.
#[derive(Debug, Clone)]
pub struct Span<C> {
    /// The call.
    pub call: C,
    /// The step at which it began.
    pub began: u64,
    /// The step at which it ended; none if its outcome is unknown.
    pub ended: Option<u64>,
}

impl<C: fmt::Debug> fmt::Display for Span<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ended {
            Some(ended) => write!(f, "{}-{ended} {:?}", self.began, self.call),
            None => write!(f, "{}-? {:?}", self.began, self.call),
        }
    }
}

/// The search's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Some order of the calls explains all answers.
    Linearizable,
    /// No order does. Holds the longest prefix of an order that is possible, as indices.
    Impossible(Vec<usize>),
    /// The search gave up at its bound.
    Undecided,
}

/// Most calls of one history: each is one bit of a `u128`.
const CALLS_MAX: usize = 128;
/// Most states that a search visits.
const STATES_MAX: usize = 300_000;

/// Searches for an order that explains all answers.
pub fn check<M: Model>(model: &M, initial: &M::State, spans: &[Span<M::Call>]) -> Verdict {
    if spans.len() > CALLS_MAX {
        return Verdict::Undecided;
    }
    let mut search =
        Search { model, spans, seen: BTreeSet::new(), order: Vec::new(), longest: Vec::new() };
    match search.place(0, initial) {
        Some(true) => Verdict::Linearizable,
        Some(false) => Verdict::Impossible(search.longest),
        None => Verdict::Undecided,
    }
}

/// Reduces an impossible history to a smaller one that is still impossible. It keeps what was under
/// way by the first end at which something is wrong, without the calls that make no difference and
/// with as few answers as possible. Nothing that is left out could have made the history possible.
pub fn shrink<M: Model>(
    model: &M,
    initial: &M::State,
    spans: &[Span<M::Call>],
) -> Vec<Span<M::Call>>
where
    M::Call: Clone,
{
    let is_wrong =
        |spans: &[Span<M::Call>]| matches!(check(model, initial, spans), Verdict::Impossible(_));
    let untold = |span: &Span<M::Call>| {
        let call = model.untold(&span.call)?;
        Some(Span { call, began: span.began, ended: None })
    };
    let by = |end: u64| -> Vec<_> {
        let begun = spans.iter().filter(|span| span.began <= end);
        let cut = |span: &Span<M::Call>| match span.ended {
            Some(ended) if ended > end => untold(span),
            Some(_) | None => Some(span.clone()),
        };
        begun.filter_map(cut).collect()
    };
    let mut ends: Vec<u64> = spans.iter().filter_map(|span| span.ended).collect();
    ends.sort_unstable();
    let mut left = ends.into_iter().map(by).find(|cut| is_wrong(cut)).unwrap_or(spans.to_vec());
    for at in (0..left.len()).rev() {
        let mut less = left.clone();
        let span = less.remove(at);
        if !model.may_go(&span.call) {
            let Some(untold) = untold(&span) else { continue };
            less.insert(at, untold);
        }
        if is_wrong(&less) {
            left = less;
        }
    }
    left
}

struct Search<'a, M: Model> {
    model: &'a M,
    spans: &'a [Span<M::Call>],
    seen: BTreeSet<(u128, M::State)>,
    order: Vec<usize>,
    longest: Vec<usize>,
}

impl<M: Model> Search<'_, M> {
    /// Places the rest after `placed`; none if the bound is reached.
    fn place(&mut self, placed: u128, state: &M::State) -> Option<bool> {
        let left = |index: &usize| placed & (1 << index) == 0;
        let spans = self.spans;
        // The first end among the unplaced calls: a call that began later cannot come next.
        let first_end = (0..spans.len()).filter(left).filter_map(|at| spans[at].ended).min();
        let Some(first_end) = first_end else { return Some(true) };
        if self.order.len() > self.longest.len() {
            self.longest.clone_from(&self.order);
        }
        if self.seen.len() >= STATES_MAX {
            return None;
        }
        if !self.seen.insert((placed, state.clone())) {
            return Some(false);
        }
        // Calls of known outcome come first; one of unknown outcome is placed only if it is needed.
        for known in [true, false] {
            for at in (0..spans.len()).filter(left) {
                let span = &spans[at];
                if span.ended.is_some() != known || span.began > first_end {
                    continue;
                }
                let Some(next) = self.model.apply(state, &span.call) else { continue };
                self.order.push(at);
                if self.place(placed | (1 << at), &next)? {
                    return Some(true);
                }
                self.order.pop();
            }
        }
        Some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register with write, read and compare-and-set.
    struct Register;

    #[derive(Debug, Clone, Copy)]
    enum Call {
        Write(u64),
        Read(u64),
        Swap(u64, u64),
    }

    impl Model for Register {
        type State = u64;
        type Call = Call;

        fn apply(&self, state: &u64, call: &Call) -> Option<u64> {
            match *call {
                Call::Write(value) => Some(value),
                Call::Read(value) => (value == *state).then_some(value),
                Call::Swap(from, to) => (from == *state).then_some(to),
            }
        }

        fn untold(&self, call: &Call) -> Option<Call> {
            match call {
                Call::Read(_) => None,
                Call::Write(_) | Call::Swap(..) => Some(*call),
            }
        }
    }

    fn verdict(spans: &[(Call, u64, u64)]) -> Verdict {
        let spans: Vec<_> = spans
            .iter()
            .map(|(call, began, ended)| Span {
                call: *call,
                began: *began,
                ended: (*ended > 0).then_some(*ended),
            })
            .collect();
        check(&Register, &0, &spans)
    }

    fn is_possible(spans: &[(Call, u64, u64)]) -> bool {
        verdict(spans) == Verdict::Linearizable
    }

    #[test]
    fn a_read_sees_what_was_written_before_it_began() {
        assert!(is_possible(&[(Call::Write(1), 1, 2), (Call::Read(1), 3, 4)]));
        assert!(!is_possible(&[(Call::Write(1), 1, 2), (Call::Read(0), 3, 4)]));
        assert!(!is_possible(&[(Call::Read(1), 1, 2), (Call::Write(1), 3, 4)]));
    }

    #[test]
    fn calls_that_overlap_may_come_in_any_order() {
        for seen in [0, 1] {
            assert!(is_possible(&[(Call::Write(1), 1, 4), (Call::Read(seen), 2, 3)]));
        }
        assert!(!is_possible(&[(Call::Write(1), 1, 4), (Call::Read(2), 2, 3)]));
    }

    #[test]
    fn two_reads_never_see_a_write_come_and_go() {
        let write = (Call::Write(1), 1, 10);
        assert!(is_possible(&[write, (Call::Read(0), 2, 3), (Call::Read(1), 4, 5)]));
        assert!(!is_possible(&[write, (Call::Read(1), 2, 3), (Call::Read(0), 4, 5)]));
    }

    #[test]
    fn an_unknown_outcome_may_be_either_and_may_come_late() {
        let unknown = (Call::Write(1), 1, 0);
        assert!(is_possible(&[unknown, (Call::Read(0), 2, 3), (Call::Read(1), 8, 9)]));
        assert!(is_possible(&[unknown, (Call::Read(0), 8, 9)]));
        assert!(!is_possible(&[unknown, (Call::Read(1), 2, 3), (Call::Read(0), 8, 9)]));
        assert!(!is_possible(&[(Call::Read(1), 1, 2), (Call::Write(1), 3, 0)]));
    }

    #[test]
    fn an_effect_that_happens_twice_is_found() {
        let history = [
            (Call::Swap(0, 1), 1, 2),
            (Call::Write(0), 3, 4),
            (Call::Swap(0, 1), 5, 6),
            (Call::Read(1), 7, 8),
        ];
        assert!(is_possible(&history));
        // The last swap's client was not told, but no other call can have set it to 1.
        assert!(is_possible(&[history[0], history[1], (Call::Swap(0, 1), 5, 0), history[3]]));
        let without = [history[0], history[1], history[3]];
        assert_eq!(verdict(&without), Verdict::Impossible(vec![0, 1]));
    }

    #[test]
    fn what_is_wrong_is_shown_without_what_makes_no_difference() {
        let timed = |(at, call): (u64, Call)| Span { call, began: 2 * at, ended: Some(2 * at + 1) };
        let calls = [
            Call::Write(1),
            Call::Read(1),
            Call::Write(2),
            Call::Read(2),
            Call::Read(1),
            Call::Write(3),
            Call::Read(3),
        ];
        let spans: Vec<_> = (1..).zip(calls).map(timed).collect();
        let left: Vec<String> =
            shrink(&Register, &0, &spans).iter().map(ToString::to_string).collect();
        assert_eq!(left, ["2-3 Write(1)", "6-7 Write(2)", "10-11 Read(1)"]);
    }

    #[test]
    fn many_calls_at_once_are_decided_quickly() {
        let mut spans: Vec<_> = (1..=10).map(|value| (Call::Write(value), 1, 100)).collect();
        spans.push((Call::Read(3), 101, 102));
        assert!(is_possible(&spans));
        let mut unknown: Vec<_> = (1..=10).map(|value| (Call::Write(value), 1, 0)).collect();
        unknown.push((Call::Read(99), 101, 102));
        assert!(!is_possible(&unknown));
    }
}
