//! Breadth-first search, so the first counter-example is a shortest one.

use std::{mem, time::Instant};

use rustc_hash::FxHashSet;

use crate::{scope::Scope, steps::Step, world::World};

/// The result of a search.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) states: usize,
    /// Whether the whole scope was explored.
    pub(crate) is_whole: bool,
    pub(crate) depth: usize,
    pub(crate) seconds: f32,
    /// The events that it came across, one bit each.
    pub(crate) seen: u16,
    /// A shortest path to a broken rule, and the problem.
    pub(crate) broken: Option<(Vec<Step>, String)>,
}

/// Explores every state in scope. Stops at the first step that breaks a rule, or beyond `most`
/// states.
pub(crate) fn explore(scope: &Scope, most: usize) -> Found {
    let begun = Instant::now();
    let mut visited = FxHashSet::default();
    // For each state but the first: its predecessor, and the step between them.
    let mut steps: Vec<(usize, Step)> = Vec::new();
    let first = World::new(scope);
    visited.insert(first.print(scope));
    let mut frontier = vec![(0, first)];
    let (mut depth, mut seen) = (0, 0);
    let mut next = Vec::new();
    let mut broken = None;
    let mut is_whole = true;
    'all: while !frontier.is_empty() {
        for (index, world) in mem::take(&mut frontier) {
            world.successors(scope, &mut next);
            for (step, result) in next.drain(..) {
                match result {
                    Ok(world) => {
                        seen |= world.seen;
                        if visited.insert(world.print(scope)) {
                            steps.push((index, step));
                            frontier.push((steps.len(), world));
                        }
                    }
                    Err(problem) => {
                        steps.push((index, step));
                        broken = Some((path(&steps), problem));
                        break 'all;
                    }
                }
            }
            if visited.len() > most {
                is_whole = false;
                break 'all;
            }
        }
        depth += 1;
    }
    let seconds = begun.elapsed().as_secs_f32();
    Found { states: visited.len(), is_whole, depth, seconds, seen, broken }
}

/// The steps that lead to the last state.
fn path(steps: &[(usize, Step)]) -> Vec<Step> {
    let mut path = Vec::new();
    let mut index = steps.len();
    while index > 0 {
        let (before, step) = steps[index - 1];
        path.push(step);
        index = before;
    }
    path.reverse();
    path
}
