//! Goal: every path through the machine does what docs/protocol.md says. Method: one text table for
//! each path, `input => outputs`. An input answers the message that is outstanding at its index.

use std::fmt::Write as _;

use types::{Branch, BranchState, Priority, Service, ShardId, TxId, TxMeta, UnixMillis, Vote};

use super::Transaction;
use crate::message::{BranchIndex, Input, Message, MessageId, Outcome, Output, Reply};

/// A transaction of `count` branches.
pub(crate) fn meta(number: u8, count: u16) -> TxMeta {
    let service = Service::new("some").unwrap();
    let branch = |shard| Branch { service: service.clone(), shard: ShardId(shard) };
    TxMeta {
        tx_id: TxId([number; 16]),
        priority: Priority { begin_ts: u64::from(number), nonce: 0 },
        deadline: UnixMillis(1),
        branches: (0..count).map(branch).collect(),
        call: None,
    }
}

fn vote(word: &str) -> Option<Vote> {
    Some(match word {
        "yes" => Vote::Yes { receipt: vec![7] },
        "no" => Vote::No { reason: "NO".to_owned(), metadata: std::collections::BTreeMap::new() },
        "contended" => Vote::Contended { blocker: Box::new(meta(9, 1)) },
        "fenced" => Vote::Fenced,
        _ => return None,
    })
}

fn reply(words: &str) -> Reply {
    let (first, second) = words.split_once(' ').unwrap_or((words, ""));
    if let Some(vote) = vote(first) {
        return Reply::Vote(vote);
    }
    let state = |word| match word {
        "absent" => BranchState::Absent,
        "prepared" => BranchState::Prepared,
        "committed" => BranchState::Committed,
        "aborted" => BranchState::Aborted,
        word => panic!("no state {word:?}"),
    };
    match first {
        "forgotten" => Reply::Forgotten,
        "acked" => Reply::Acked(state(second)),
        _ => Reply::State(state(first), vote(second)),
    }
}

fn show(outputs: &[Output], pending: &mut [MessageId]) -> String {
    let mut text = String::new();
    for output in outputs {
        let shown = match output {
            Output::Send { index, message_id, message } => {
                pending[*index] = *message_id;
                match message {
                    Message::Prepare => format!("{index}:prepare"),
                    Message::Commit { receipts } => format!("{index}:commit{}", receipts.len()),
                    Message::Abort { evidence: None } => format!("{index}:abort"),
                    Message::Abort { evidence: Some(by) } => format!("{index}:abort({by})"),
                    Message::Query { fence: false } => format!("{index}:query"),
                    Message::Query { fence: true } => format!("{index}:fence"),
                    Message::Forget => format!("{index}:forget"),
                }
            }
            Output::Answer(Outcome::Committed) => "COMMITTED".to_owned(),
            Output::Answer(Outcome::Refused(votes)) => {
                let indexes: Vec<BranchIndex> = votes.iter().map(|vote| vote.index).collect();
                format!("REFUSED{indexes:?}")
            }
            Output::Answer(Outcome::Contended(_)) => "CONTENDED".to_owned(),
            Output::Answer(Outcome::Fenced) => "FENCED".to_owned(),
            Output::Answer(Outcome::Undecided(missing)) => format!("UNDECIDED{missing:?}"),
            Output::Violation(violation) => format!("<{violation}>"),
            Output::Finished => ".".to_owned(),
        };
        let space = if text.is_empty() { "" } else { " " };
        write!(text, "{space}{shown}").unwrap();
    }
    text
}

/// Runs a table. The first line says how the machine starts, with its outputs. Every other line is
/// an input, with its outputs.
fn check(table: &str) {
    let mut lines = table.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| {
        let (input, outputs) = line.split_once("=>").unwrap_or_else(|| panic!("{line:?}"));
        (line, input.trim(), outputs.trim())
    });
    let (_, start, expected) = lines.next().unwrap();
    let (how, count) = start.split_once(' ').unwrap();
    let meta = meta(1, count.parse().unwrap());
    let mut pending = vec![MessageId::default(); meta.branches.len()];
    let mut out = Vec::new();
    let mut answered = false;
    let mut machine = match how {
        "begin" => Transaction::begin(&meta, &mut out),
        "resolver" => Transaction::resolve(&meta, true, &mut out),
        "observer" => Transaction::resolve(&meta, false, &mut out),
        how => panic!("no start {how:?}"),
    };
    assert_eq!(show(&out, &mut pending), expected, "{start}");
    for (line, input, expected) in lines {
        let input = match input.split_once(' ') {
            None => Input::DeadlinePassed,
            Some((index, words)) => {
                let index: BranchIndex = index.parse().unwrap();
                Input::Reply { index, message_id: pending[index], reply: reply(words) }
            }
        };
        out.clear();
        machine.step(input, &mut out);
        assert_eq!(show(&out, &mut pending), expected, "{line}");
        answered |= out.iter().any(|output| matches!(output, Output::Answer(_)));
        assert_eq!(machine.is_answered(), answered, "{line}");
    }
    let ends = table.trim_end().ends_with('.');
    assert_eq!(machine.is_finished(), ends, "{table}");
}

#[test]
fn all_yes_is_answered_at_once_and_the_primary_is_told_first() {
    check(
        "begin 3           => 0:prepare 1:prepare 2:prepare
         1 yes             =>
         0 yes             =>
         2 yes             => 0:commit3 COMMITTED
         0 acked committed => 1:commit0 2:commit0
         2 acked committed =>
         1 acked committed => 0:forget
         0 forgotten       => .",
    );
}

#[test]
fn a_transaction_of_one_branch_needs_nobody_else() {
    check(
        "begin 1           => 0:prepare
         0 yes             => 0:commit1 COMMITTED
         0 acked committed => 0:forget
         0 forgotten       => .",
    );
}

#[test]
fn a_refusal_is_answered_after_every_abort() {
    check(
        "begin 3         => 0:prepare 1:prepare 2:prepare
         0 yes           =>
         1 no            => 0:abort(1)
         0 acked aborted => 2:abort
         2 acked aborted => REFUSED[1] 0:forget
         0 forgotten     => .",
    );
}

#[test]
fn a_refusal_waits_for_the_primarys_word() {
    check(
        "begin 2         => 0:prepare 1:prepare
         1 no            =>
         0 yes           => 0:abort(1)
         0 acked aborted => REFUSED[1] 0:forget
         0 forgotten     => .",
    );
    check(
        "begin 2     => 0:prepare 1:prepare
         1 no        =>
         0 contended => CONTENDED 0:forget
         0 forgotten => .",
    );
    check(
        "begin 2     => 0:prepare 1:prepare
         1 no        =>
         deadline    => 0:query
         0 absent    => 1:query
         1 aborted no => 0:fence
         0 aborted   => FENCED 0:forget
         0 forgotten => .",
    );
}

#[test]
fn the_primarys_own_no_is_the_outcome() {
    check(
        "begin 3         => 0:prepare 1:prepare 2:prepare
         1 yes           =>
         0 no            => 1:abort 2:abort
         1 acked aborted =>
         2 acked aborted => REFUSED[0] 0:forget
         0 forgotten     => .",
    );
}

#[test]
fn contention_does_not_wait_and_a_no_wins_over_it() {
    check(
        "begin 3         => 0:prepare 1:prepare 2:prepare
         1 contended     => 0:abort(1)
         0 acked aborted => 2:abort
         2 acked aborted => CONTENDED 0:forget
         0 forgotten     => .",
    );
    check(
        "begin 3         => 0:prepare 1:prepare 2:prepare
         2 no            =>
         1 contended     =>
         0 yes           => 0:abort(1)
         0 acked aborted => REFUSED[2] 0:forget
         0 forgotten     => .",
    );
}

#[test]
fn a_fenced_vote_is_asked_about_before_it_counts() {
    check(
        "begin 3            => 0:prepare 1:prepare 2:prepare
         0 yes              =>
         1 fenced           => 1:fence 2:fence
         2 prepared yes     =>
         1 aborted          => 0:abort(1)
         0 acked aborted    => 2:abort
         2 acked aborted    => FENCED 0:forget
         0 forgotten        => .",
    );
    check(
        "begin 2            => 0:prepare 1:prepare
         0 yes              =>
         1 fenced           => 1:fence
         1 prepared yes     => 0:commit2
         0 acked committed  => COMMITTED 1:commit0
         1 acked committed  => 0:forget
         0 forgotten        => .",
    );
}

#[test]
fn past_the_deadline_missing_votes_are_fenced() {
    check(
        "begin 3         => 0:prepare 1:prepare 2:prepare
         0 yes           =>
         1 yes           =>
         deadline        => 2:fence
         2 aborted       => 0:abort(2)
         0 acked aborted => 1:abort
         1 acked aborted => FENCED 0:forget
         0 forgotten     => .",
    );
}

#[test]
fn a_deadline_after_the_commit_point_changes_nothing() {
    check(
        "begin 1           => 0:prepare
         0 yes             => 0:commit1 COMMITTED
         deadline          =>
         0 acked committed => 0:forget
         0 forgotten       => .",
    );
}

#[test]
fn a_coordinator_adopts_an_outcome_that_another_resolver_wrote() {
    // A resolver saw every vote, including the one that did not reach this machine.
    check(
        "begin 2           => 0:prepare 1:prepare
         0 yes             =>
         1 fenced          => 1:fence
         1 aborted         => 0:abort(1)
         0 acked committed => COMMITTED 0:forget
         0 forgotten       => .",
    );
}

#[test]
fn a_resolver_adopts_a_final_primary() {
    check(
        "resolver 2            => 0:query
         0 committed yes   => 1:commit0
         1 acked committed => COMMITTED 0:forget
         0 forgotten       => .",
    );
    check(
        "observer 2      => 0:query
         0 aborted       => 1:abort
         1 acked aborted => FENCED 0:forget
         0 forgotten     => .",
    );
}

#[test]
fn a_resolver_commits_what_all_voted_for() {
    check(
        "observer 3        => 0:query
         0 prepared yes    => 1:query 2:query
         1 prepared yes    =>
         2 prepared yes    => 0:commit3
         0 acked committed => 1:commit0 2:commit0
         1 acked committed =>
         2 acked committed => COMMITTED 0:forget
         0 forgotten       => .",
    );
}

#[test]
fn before_the_deadline_a_stranger_only_asks() {
    check(
        "observer 2 => 0:query
         0 absent   => UNDECIDED[0, 1] .",
    );
    check(
        "observer 3     => 0:query
         0 prepared yes => 1:query 2:query
         1 absent       =>
         2 prepared yes => UNDECIDED[1] .",
    );
    check(
        "observer 3      => 0:query
         0 prepared yes  => 1:query 2:query
         1 absent        =>
         2 aborted no    => 0:abort(2)
         0 acked aborted => 1:abort
         1 acked aborted => REFUSED[2] 0:forget
         0 forgotten     => .",
    );
}

#[test]
fn an_absent_primary_is_fenced_once_nobody_remembers_a_commit() {
    check(
        "resolver 3          => 0:query
         0 absent        => 1:query 2:query
         1 prepared yes  =>
         2 absent        => 0:fence
         0 aborted       => 1:abort 2:abort
         1 acked aborted =>
         2 acked aborted => FENCED 0:forget
         0 forgotten     => .",
    );
    check(
        "resolver 3         => 0:query
         0 absent       => 1:query 2:query
         1 committed    => COMMITTED .",
    );
    // The primary's vote landed between the two questions.
    check(
        "resolver 2            => 0:query
         0 absent          => 1:query
         1 absent          => 0:fence
         0 prepared yes    => 1:fence
         1 aborted         => 0:abort(1)
         0 acked aborted   => FENCED 0:forget
         0 forgotten       => .",
    );
}

#[test]
fn a_committed_branch_sends_a_resolver_back_to_the_primary() {
    check(
        "resolver 3            => 0:query
         0 prepared yes    => 1:fence 2:fence
         1 committed yes   => 0:query
         0 committed yes   => 1:commit0 2:commit0
         1 acked committed =>
         2 acked committed => COMMITTED 0:forget
         0 forgotten       => .",
    );
    check(
        "resolver 2            => 0:query
         0 prepared yes    => 1:fence
         1 committed yes   => 0:query
         0 absent          => COMMITTED .",
    );
}

#[test]
fn contradictions_are_reported_and_not_acted_on() {
    check(
        "begin 1         => 0:prepare
         0 yes           => 0:commit1 COMMITTED
         0 acked aborted => <the primary is ABORTED although every branch voted YES> .",
    );
    check(
        "begin 2           => 0:prepare 1:prepare
         0 yes             =>
         1 no              => 0:abort(1)
         0 acked committed => <the primary is COMMITTED although branch 1 voted NO> .",
    );
    check(
        "resolver 2            => 0:query
         0 aborted         => 1:abort
         1 acked committed => <branch 1 is COMMITTED although the primary is not> .",
    );
    check(
        "resolver 2          => 0:query
         0 committed     => 1:commit0
         1 acked aborted => <branch 1 is ABORTED although the primary is COMMITTED> .",
    );
    check(
        "resolver 2          => 0:query
         0 prepared yes  => 1:fence
         1 committed     => 0:query
         0 prepared yes  => <branch 1 is COMMITTED although the primary is not> .",
    );
    check(
        "begin 1 => 0:prepare
         0 acked committed => <branch 0 gave a reply that no rule allows> .",
    );
}

#[test]
fn a_reply_to_a_replaced_message_has_no_effect() {
    let mut out = Vec::new();
    assert!(!Transaction::resolve(&meta(1, 2), true, &mut Vec::new()).awaits_votes());
    let mut machine = Transaction::begin(&meta(1, 2), &mut out);
    assert!(machine.awaits_votes() && !machine.is_answered());
    let Some(Output::Send { index: 0, message_id: first, .. }) = out.first().cloned() else {
        panic!("{out:?}");
    };
    machine.step(Input::DeadlinePassed, &mut out);
    assert!(!machine.awaits_votes(), "it asks what they know");
    out.clear();
    let before = machine.clone();
    let late = Reply::Vote(Vote::Yes { receipt: Vec::new() });
    machine.step(Input::Reply { index: 0, message_id: first, reply: late.clone() }, &mut out);
    machine.step(Input::Reply { index: 7, message_id: first, reply: late }, &mut out);
    assert_eq!((machine, out), (before, Vec::new()));
}
