//! Breadth-first search, so the first counter-example is a shortest one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::world::{Kind, Print, Scope, World};
use crate::message::BranchIndex;

/// The result of a search.
#[derive(Debug)]
pub(super) struct Found {
    /// Number of different states seen.
    pub(super) states: usize,
    /// A shortest path to a broken invariant, and which invariant it breaks.
    pub(super) broken: Option<(Vec<String>, String)>,
}

/// Explores every state in scope. Stops at the first broken invariant.
pub(super) fn explore(scope: &Scope) -> Found {
    let mut seen = BTreeSet::new();
    let mut steps: Vec<(usize, super::world::Step)> = Vec::new();
    let mut queue = VecDeque::new();
    let start = World::new(scope);
    seen.insert(start.print());
    queue.push_back((usize::MAX, start));
    while let Some((index, world)) = queue.pop_front() {
        for (step, next) in world.successors(scope) {
            if !seen.insert(next.print()) {
                continue;
            }
            steps.push((index, step));
            let here = steps.len().saturating_sub(1);
            if let Err(what) = next.check() {
                let trace = trace(scope, &steps, here);
                return Found { states: seen.len(), broken: Some((trace, what)) };
            }
            assert!(seen.len() <= scope.states_max, "the world is larger than was bounded");
            queue.push_back((here, next));
        }
    }
    Found { states: seen.len(), broken: None }
}

/// Calls `look` with every state in scope.
pub(super) fn visit(scope: &Scope, mut look: impl FnMut(&World)) {
    let mut seen = BTreeSet::new();
    let mut queue = VecDeque::from([World::new(scope)]);
    while let Some(world) = queue.pop_front() {
        look(&world);
        for (_, next) in world.successors(scope) {
            if seen.insert(next.print()) {
                queue.push_back(next);
            }
        }
    }
}

/// The pairs of message kinds that can arrive one right after the other at one branch, over every
/// order of events in scope.
pub(super) fn meetings(scope: &Scope) -> BTreeSet<(Kind, Kind)> {
    // For each state, the messages that may have arrived just before it, with their branch.
    let mut before: BTreeMap<Print, BTreeSet<(BranchIndex, Kind)>> = BTreeMap::new();
    visit(scope, |world| {
        for (step, next) in world.successors(scope) {
            before.entry(next.print()).or_default().extend(step.message());
        }
    });
    let mut met = BTreeSet::new();
    visit(scope, |world| {
        let Some(before) = before.get(&world.print()) else { return };
        for (step, _) in world.successors(scope) {
            let Some((index, kind)) = step.message() else { continue };
            met.extend(
                before.iter().filter(|(of, _)| *of == index).map(|(_, first)| (*first, kind)),
            );
        }
    });
    met
}

fn trace(scope: &Scope, steps: &[(usize, super::world::Step)], mut index: usize) -> Vec<String> {
    let mut trace = Vec::new();
    while let Some((parent, step)) = steps.get(index) {
        trace.push(step.show(scope));
        index = *parent;
    }
    trace.reverse();
    trace
}
