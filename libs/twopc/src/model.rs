//! Exhaustive check of the protocol: the same machines and tables that the roles link, in a small
//! world.
//!
//! Goal: no reachable state breaks an invariant of docs/protocol.md, and each rule is needed.
//! Method: breadth-first search over every order of events. The network keeps every request ever
//! sent and may deliver each one at any time, any number of times, or never. Any reply may be late
//! or lost. A machine that is never scheduled again has crashed. The deadline may pass at any
//! moment, and tables may forget what they are allowed to at any moment after it. Removing a rule
//! must yield a counter-example.
//!
//! Modules: `world` is one state and what may happen in it; `search` explores the states.

#![allow(clippy::arithmetic_side_effects, reason = "small numbers, and tests panic on overflow")]

mod search;
mod world;

use self::{
    search::{Found, explore},
    world::{Actor, Kind, Loose, Scope, World},
};
use crate::rules::Rule;

const COORDINATOR: (usize, Actor) = (0, Actor::Coordinator);
const ASKER: (usize, Actor) = (0, Actor::Asker);

fn holds(scope: &Scope) -> usize {
    let Found { states, broken } = explore(scope);
    assert_eq!(broken, None, "after {states} states");
    println!("{states} states, no counter-example");
    states
}

fn breaks(scope: &Scope) -> Vec<String> {
    let Found { states, broken } = explore(scope);
    let (trace, what) = broken.unwrap_or_else(|| panic!("no counter-example in {states} states"));
    println!("{what}\n  {}", trace.join("\n  "));
    trace
}

fn one(branches: u16, actors: &[(usize, Actor)]) -> Scope {
    Scope {
        branches,
        actors: actors.to_vec(),
        shop: false,
        verdicts: 4,
        forgetful: true,
        without: None,
        loose: None,
        states_max: 5_000_000,
    }
}

#[test]
fn one_transaction_is_safe_where_tables_forget() {
    assert!(holds(&one(2, &[COORDINATOR, ASKER])) > 100_000);
    assert!(holds(&Scope { verdicts: 3, ..one(3, &[COORDINATOR]) }) > 10_000);
}

#[test]
fn two_resolvers_and_the_coordinator_never_disagree() {
    let scope = one(2, &[COORDINATOR, ASKER, ASKER]);
    assert!(holds(&Scope { forgetful: false, verdicts: 2, ..scope }) > 100_000);
}

#[test]
fn three_branches_never_disagree() {
    let scope = one(3, &[COORDINATOR, ASKER]);
    assert!(holds(&Scope { forgetful: false, verdicts: 2, ..scope }) > 100_000);
}

#[test]
fn two_checkouts_of_one_order_buy_it_once() {
    let actors = [COORDINATOR, (1, Actor::Coordinator)];
    assert!(holds(&Scope { shop: true, forgetful: false, ..one(2, &actors) }) > 10_000);
}

#[test]
fn every_rule_of_the_machine_is_needed() {
    for rule in [
        Rule::PrimaryFirst,
        Rule::AdoptWhatStands,
        Rule::FencedVoteIsNoEvidence,
        Rule::AllVotes,
        Rule::TimeoutDecidesNothing,
        Rule::AnswerAfterAborts,
    ] {
        println!("without {rule:?}:");
        breaks(&Scope { without: Some(rule), ..one(2, &[COORDINATOR, ASKER]) });
    }
    let actors = [COORDINATOR, (1, Actor::Coordinator)];
    let shop = Scope { shop: true, forgetful: false, ..one(2, &actors) };
    println!("without {:?}:", Rule::PrimarysWord);
    breaks(&Scope { without: Some(Rule::PrimarysWord), ..shop });
}

#[test]
fn every_rule_of_the_table_is_needed() {
    for loose in Loose::ALL {
        println!("loose {loose:?}:");
        breaks(&Scope { loose: Some(loose), ..one(2, &[COORDINATOR, ASKER]) });
    }
}

#[test]
fn the_search_sees_both_outcomes() {
    let scope = one(2, &[COORDINATOR]);
    let mut seen = std::collections::BTreeSet::new();
    search::visit(&scope, |world: &World| {
        seen.extend(world.answers());
    });
    let seen: Vec<&str> = seen.into_iter().collect();
    assert_eq!(seen, ["committed", "contended", "fenced", "refused"]);
}

#[test]
fn every_message_comes_right_after_every_other_one() {
    let scope = Scope { verdicts: 2, ..one(2, &[COORDINATOR, ASKER]) };
    let met = search::meetings(&scope);
    for first in Kind::ALL {
        let then = Kind::ALL.map(|then| if met.contains(&(first, then)) { 'x' } else { '.' });
        println!("{first:?}, then: {}", then.iter().collect::<String>());
    }
    assert_eq!(met.len(), Kind::ALL.len().pow(2));
}
