//! Breadth-first search, so that the counter-example found is a shortest one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::world::{Kind, Print, Scope, World};
use crate::message::BranchIndex;

/// What the search came to.
#[derive(Debug)]
pub(super) struct Found {
    /// Different states seen.
    pub(super) states: usize,
    /// A shortest way to a broken invariant, and which.
    pub(super) broken: Option<(Vec<String>, String)>,
}

/// Explores every state in scope, or up to the first broken invariant.
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

/// Shows every state in scope to `look`.
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

/// Which kind of message came right after which other one at one branch, in every order of events in scope.
pub(super) fn meetings(scope: &Scope) -> BTreeSet<(Kind, Kind)> {
    // By state: what may have come to a branch right before it.
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
