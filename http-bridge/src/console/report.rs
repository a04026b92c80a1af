//! A coordinator's report on transactions, in the form that the page shows.

use proto::{
    coordinator::v1::{
        BranchReport, LogReport, LogStep, Outcome as WireOutcome, TransactionReport,
    },
    participant::v1::{BranchState, Vote, vote::Vote as Is},
    types::v1::Branch,
};
use serde::Serialize;
use types::TxId;

/// Who reads the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// Anybody who uses the public console. Sees no trace ids and no error messages of services.
    Public,
    /// An operator: sees everything.
    Operator,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Outcome {
    Unknown,
    Undecided,
    Committed,
    Aborted,
}

impl From<WireOutcome> for Outcome {
    fn from(outcome: WireOutcome) -> Self {
        match outcome {
            WireOutcome::Unspecified => Self::Unknown,
            WireOutcome::Undecided => Self::Undecided,
            WireOutcome::Committed => Self::Committed,
            WireOutcome::Aborted => Self::Aborted,
        }
    }
}

/// What the page shows of one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Transaction {
    tx_id: String,
    outcome: Outcome,
    order_id: String,
    /// Unix milliseconds until which votes were due; 0 when unknown.
    deadline_ms: u64,
    branches: Vec<Said>,
    logs: Vec<Log>,
}

/// What one branch reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Said {
    branch: String,
    service: String,
    state: &'static str,
    /// Empty when the branch gave none or forgot it.
    vote: &'static str,
    /// Reason of a NO vote; empty otherwise.
    reason: String,
    since_ms: u64,
    /// The transaction that the branch waits or waited for; empty for none.
    blocked_by: String,
    /// Why the branch could not be asked; empty if it was.
    problem: String,
}

/// A coordinator's log of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Log {
    /// Number of the attempt, from 1; 0 for a resolution by another process.
    attempt: u32,
    trace_id: String,
    began_ms: u64,
    /// Unix milliseconds; 0 while the attempt goes on.
    ended_ms: u64,
    outcome: String,
    reasons: Vec<String>,
    steps: Vec<Step>,
    steps_left_out: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Step {
    after_ms: u64,
    /// Empty when the step concerns all branches.
    branch: String,
    what: String,
}

impl Transaction {
    pub(super) fn of(report: &TransactionReport, audience: Audience) -> Self {
        Self {
            tx_id: tx_name(&report.tx_id),
            outcome: report.outcome().into(),
            order_id: report.order_id.clone(),
            deadline_ms: report.tx.as_ref().map_or(0, |tx| tx.deadline_ms),
            branches: report.branches.iter().map(|branch| said(branch, audience)).collect(),
            logs: report.logs.iter().map(|log| noted(log, audience)).collect(),
        }
    }
}

/// The id as text; empty when there is none.
fn tx_name(bytes: &[u8]) -> String {
    TxId::from_slice(bytes).map_or_else(|_| String::new(), |id| id.to_string())
}

pub(super) fn branch_name(branch: &Branch) -> String {
    format!("{}/{}", branch.service, branch.shard)
}

fn said(report: &BranchReport, audience: Audience) -> Said {
    let (vote, reason) = report.vote.as_ref().map_or(("", ""), vote);
    let problem = match audience {
        Audience::Public if !report.problem.is_empty() => "could not be asked",
        Audience::Public | Audience::Operator => &report.problem,
    };
    Said {
        branch: report.branch.as_ref().map(branch_name).unwrap_or_default(),
        service: report.branch.as_ref().map(|branch| branch.service.clone()).unwrap_or_default(),
        state: match report.state() {
            BranchState::Unspecified => "UNKNOWN",
            BranchState::Absent => "ABSENT",
            BranchState::Prepared => "PREPARED",
            BranchState::Committed => "COMMITTED",
            BranchState::Aborted => "ABORTED",
        },
        vote,
        reason: reason.to_owned(),
        since_ms: report.since_ms,
        blocked_by: tx_name(&report.blocked_by),
        problem: problem.to_owned(),
    }
}

fn vote(vote: &Vote) -> (&'static str, &str) {
    match &vote.vote {
        Some(Is::Yes(_)) => ("YES", ""),
        Some(Is::No(no)) => ("NO", &no.reason),
        Some(Is::Contended(_)) => ("CONTENDED", ""),
        Some(Is::Fenced(_)) => ("FENCED", ""),
        None => ("", ""),
    }
}

fn noted(log: &LogReport, audience: Audience) -> Log {
    Log {
        attempt: log.attempt,
        trace_id: if audience == Audience::Operator { log.trace_id.clone() } else { String::new() },
        began_ms: log.began_ms,
        ended_ms: log.ended_ms,
        outcome: log.outcome.clone(),
        reasons: log.reasons.clone(),
        steps: log.steps.iter().map(|step| taken(step, audience)).collect(),
        steps_left_out: log.steps_left_out,
    }
}

/// Splits a step: `stock/3: sent Prepare` belongs to the branch `stock/3`.
fn taken(step: &LogStep, audience: Audience) -> Step {
    let (branch, what) = match step.what.split_once(": ") {
        Some((branch, what)) if is_branch(branch) => (branch, what),
        Some(_) | None => ("", step.what.as_str()),
    };
    // A second colon introduces an error message of a service.
    let what = match (audience, what.split_once(':')) {
        (Audience::Public, Some((before, _))) => before,
        (Audience::Public, None) | (Audience::Operator, _) => what,
    };
    Step { after_ms: step.after_ms, branch: branch.to_owned(), what: what.to_owned() }
}

fn is_branch(text: &str) -> bool {
    text.split_once('/').is_some_and(|(service, shard)| {
        !service.is_empty() && shard.parse::<u16>().is_ok() && !text.contains(' ')
    })
}

#[cfg(test)]
mod tests {
    use proto::participant::v1::vote::No;

    use super::*;

    fn report() -> TransactionReport {
        TransactionReport {
            tx_id: vec![1; 16].into(),
            outcome: WireOutcome::Aborted.into(),
            order_id: "o-1".to_owned(),
            branches: vec![
                BranchReport {
                    branch: Some(Branch { service: "stock".to_owned(), shard: 3 }),
                    state: BranchState::Aborted.into(),
                    vote: Some(Vote { vote: Some(Is::No(no("OUT_OF_STOCK"))) }),
                    blocked_by: vec![2; 16].into(),
                    ..BranchReport::default()
                },
                BranchReport {
                    branch: Some(Branch { service: "loyalty".to_owned(), shard: 0 }),
                    problem: "10.0.0.7 refused the connection".to_owned(),
                    ..BranchReport::default()
                },
            ],
            logs: vec![LogReport {
                attempt: 1,
                trace_id: "4bf9".to_owned(),
                steps: [
                    "stock/3: sent Prepare",
                    "stock/3: sends again: 10.0.0.7: gone",
                    "broken: x",
                ]
                .map(|what| LogStep { after_ms: 1, what: what.to_owned() })
                .into(),
                ..LogReport::default()
            }],
            ..TransactionReport::default()
        }
    }

    fn no(reason: &str) -> No {
        No { reason: reason.to_owned(), ..No::default() }
    }

    #[test]
    fn a_report_is_told_branch_by_branch_and_step_by_step() {
        let told = Transaction::of(&report(), Audience::Operator);
        assert_eq!(told.tx_id, "01010101-0101-0101-0101-010101010101");
        let stock = &told.branches[0];
        assert_eq!((stock.branch.as_str(), stock.state, stock.vote), ("stock/3", "ABORTED", "NO"));
        assert_eq!(stock.reason, "OUT_OF_STOCK");
        assert_eq!(stock.blocked_by, "02020202-0202-0202-0202-020202020202");
        let steps: Vec<_> = told.logs[0].steps.iter().map(|s| (&*s.branch, &*s.what)).collect();
        let again = ("stock/3", "sends again: 10.0.0.7: gone");
        assert_eq!(steps, [("stock/3", "sent Prepare"), again, ("", "broken: x")]);
    }

    #[test]
    fn the_public_does_not_learn_what_services_said_of_their_troubles() {
        let told = serde_json::to_string(&Transaction::of(&report(), Audience::Public)).unwrap();
        for inside in ["10.0.0.7", "4bf9", "broken: x"] {
            assert!(!told.contains(inside), "{inside}: {told}");
        }
        assert!(told.contains("sends again") && told.contains("OUT_OF_STOCK"), "{told}");
    }
}
