//! Answers operators: explains a transaction, lists the unresolved ones, and resolves one.
//!
//! It combines the live journals of our own services, the answers of other participants, and the
//! log.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use audit::journal::{Said, Transaction, Transactions};
use bytes::Bytes;
use proto::{
    convert,
    coordinator::v1::{
        BranchReport, LogReport, LogStep, Outcome as WireOutcome, TransactionReport,
    },
    participant::v1::{
        BranchState as WireState, QueryRequest, QueryResponse, operation::Operation as Op,
        operation_result::Result as OpResult,
    },
    types::v1 as wire,
};
use storage::record::{TransactionLog, transaction_log::Step};
use types::{
    Branch, BranchState, Classify, ErrorKind, OrderId, Reason, Role, TxId, TxMeta, UnixMillis, Vote,
};

use crate::{resolve::Resolution, state::Coordinator, tx_log};

/// Upper limit on waiting for a participant whose journal we cannot read.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Upper limit on the transactions reported for one order.
const REPORTED_MAX: usize = 100;

/// The subject of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// One transaction.
    Transaction(TxId),
    /// All transactions that tried to buy this order.
    Order(OrderId),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The journals cannot be read. Retry.
    #[error("cannot read the journals: {0}")]
    Journals(#[from] audit::AuditError),
    /// The order cannot be read. Retry.
    #[error("cannot read the order: {0}")]
    Order(#[from] audit::lookup::LookupError),
    /// The log cannot be read. Retry.
    #[error("cannot read the log: {0}")]
    Log(#[from] storage::KvError),
    /// Neither the journals nor the log know the transaction.
    #[error("nobody knows the transaction {0}; whatever it was, it holds nothing")]
    Unknown(TxId),
    /// A rule of the protocol was broken. An operator must look into it.
    #[error("the transaction {0} broke the protocol")]
    Broken(TxId),
}

impl Classify for OperatorError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Journals(_) | Self::Order(_) | Self::Log(_) => ErrorKind::Unavailable,
            Self::Unknown(_) => ErrorKind::NotFound,
            Self::Broken(_) => ErrorKind::Internal,
        }
    }

    fn reason(&self) -> std::borrow::Cow<'static, str> {
        match self {
            Self::Journals(_) | Self::Order(_) | Self::Log(_) => {
                Reason::Unavailable.as_str().into()
            }
            Self::Unknown(_) => "TRANSACTION_UNKNOWN".into(),
            Self::Broken(_) => Reason::Internal.as_str().into(),
        }
    }
}

impl Coordinator {
    /// Reads the live journals.
    async fn survey(&self) -> Result<Transactions, OperatorError> {
        let name = format!("explain-{:016x}", self.entropy().next_u64());
        let (_, transactions) = audit::run::survey(&**self.kv(), &name).await?;
        Ok(transactions)
    }

    /// Everything known of a transaction, or of an order's newest transactions, oldest first.
    ///
    /// # Errors
    /// [`OperatorError`]; a retry helps if the store did not answer.
    pub async fn explain(
        &self,
        subject: &Subject,
    ) -> Result<Vec<TransactionReport>, OperatorError> {
        let mut transactions = self.survey().await?;
        let mut ids = BTreeSet::new();
        let logs = match subject {
            Subject::Transaction(tx_id) => {
                ids.insert(*tx_id);
                tx_log::read(&**self.kv(), Some(*tx_id)).await?
            }
            Subject::Order(order_id) => {
                ids.extend(transactions_of_order(&transactions, order_id));
                let mut logs = tx_log::read(&**self.kv(), None).await?;
                logs.retain(|log| log.order_id == order_id.as_str());
                logs
            }
        };
        let mut by_id: BTreeMap<TxId, Vec<TransactionLog>> = BTreeMap::new();
        for log in logs {
            if let Some(tx_id) = log_tx_id(&log) {
                ids.insert(tx_id);
                by_id.entry(tx_id).or_default().push(log);
            }
        }
        if let Subject::Order(order_id) = subject
            && let Some(order) = audit::lookup::order(&**self.kv(), order_id).await?
            && let Some(Ok(tx_id)) = order.paid.map(|paid| TxId::from_slice(&paid.tx_id))
        {
            ids.insert(tx_id);
            transactions.note_paid(tx_id, order_id.as_str());
        }
        let mut reports = Vec::new();
        for tx_id in ids.into_iter().rev().take(REPORTED_MAX).rev() {
            let logs = by_id.remove(&tx_id).unwrap_or_default();
            let mut report = report(tx_id, transactions.get(tx_id), &logs);
            self.ask_others(&mut report).await;
            settle(&mut report, transactions.get(tx_id), &logs);
            let known = report.tx.is_some() || report.outcome() != WireOutcome::Unspecified;
            if known {
                reports.push(report);
            }
        }
        if let (Subject::Transaction(tx_id), true) = (subject, reports.is_empty()) {
            return Err(OperatorError::Unknown(*tx_id));
        }
        Ok(reports)
    }

    /// The transactions that have a vote but no outcome, and whose deadline passed at least
    /// `overdue_ms` ago; 0 for all. Returns the first `limit` of them by TxId, hence the oldest,
    /// and the number left out.
    ///
    /// # Errors
    /// [`OperatorError`]; retry.
    pub async fn unresolved(
        &self,
        overdue_ms: u64,
        limit: usize,
    ) -> Result<(Vec<TransactionReport>, u64), OperatorError> {
        let transactions = self.survey().await?;
        let now = self.now();
        let open = transactions.iter().filter(|(_, transaction)| {
            let deadline = transaction.meta.as_ref().map_or(UnixMillis(0), |meta| meta.deadline);
            let due = overdue_ms == 0 || now.since(deadline) >= overdue_ms;
            due && transaction.is_unresolved()
        });
        let mut open: Vec<_> = open.collect();
        let left_out = open.len().saturating_sub(limit);
        open.truncate(limit);
        let reports = open.into_iter().map(|(tx_id, transaction)| {
            let mut report = report(tx_id, Some(transaction), &[]);
            settle(&mut report, Some(transaction), &[]);
            report
        });
        Ok((reports.collect(), u64::try_from(left_out).unwrap_or(u64::MAX)))
    }

    /// Resolves a transaction by its id alone, and tells its branches the outcome.
    ///
    /// # Errors
    /// [`OperatorError`]; a retry helps if the store did not answer.
    pub async fn resolve_by_id(
        &self,
        tx_id: TxId,
    ) -> Result<(TxMeta, twopc::message::Outcome), OperatorError> {
        let known = self.survey().await?;
        let mut meta = known.get(tx_id).and_then(|transaction| transaction.meta.clone());
        if meta.is_none() {
            let logs = tx_log::read(&**self.kv(), Some(tx_id)).await?;
            meta = logs.iter().find_map(log_meta);
        }
        let meta = meta.ok_or(OperatorError::Unknown(tx_id))?;
        let resolution: Resolution = self.resolve(meta.clone()).await;
        Ok((meta, resolution.ok_or(OperatorError::Broken(tx_id))?))
    }

    /// Asks the branches whose journals we cannot read.
    async fn ask_others(&self, report: &mut TransactionReport) {
        let Some(tx) = report.tx.clone() else { return };
        for branch in &mut report.branches {
            let Some(named) = &branch.branch else { continue };
            if Role::named(&named.service).is_some_and(Role::is_service) {
                continue;
            }
            match self.query(&tx, named).await {
                Ok(answer) => {
                    branch.state = answer.state;
                    branch.vote = answer.vote;
                }
                Err(problem) => branch.problem = problem,
            }
        }
    }

    async fn query(
        &self,
        tx: &wire::TxMeta,
        named: &wire::Branch,
    ) -> Result<QueryResponse, String> {
        let branch: Branch = named.try_into().map_err(|_| "has no proper name".to_owned())?;
        let (tx, named) = (Some(tx.clone()), Some(named.clone()));
        let query = Op::Query(QueryRequest { tx, branch: named, fence: false });
        match tokio::time::timeout(
            QUERY_TIMEOUT,
            self.participants().send(&branch, query.into(), false),
        )
        .await
        {
            Ok(Ok(OpResult::Query(answer))) => Ok(answer),
            Ok(Ok(_)) => Err("gave an answer to another question".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("gives no answer".to_owned()),
        }
    }
}

/// Transactions whose primary holds or held this order.
fn transactions_of_order(transactions: &Transactions, order_id: &OrderId) -> Vec<TxId> {
    let wants = |transaction: &Transaction| {
        transaction.primary().is_some_and(|said| said.hold == order_id.as_str().as_bytes())
    };
    transactions.iter().filter(|(_, each)| wants(each)).map(|(tx_id, _)| tx_id).collect()
}

fn log_tx_id(log: &TransactionLog) -> Option<TxId> {
    TxId::from_slice(&log.tx.as_ref()?.tx_id).ok()
}

fn log_meta(log: &TransactionLog) -> Option<TxMeta> {
    audit::journal::meta(log.tx.as_ref()).ok()
}

/// What the journals and the log say, branch by branch.
fn report(tx_id: TxId, known: Option<&Transaction>, logs: &[TransactionLog]) -> TransactionReport {
    let meta = known.and_then(|known| known.meta.clone());
    let meta = meta.or_else(|| logs.iter().find_map(log_meta));
    let branches = match (&meta, known) {
        (Some(meta), _) => meta.branches.to_vec(),
        (None, Some(known)) => known.branches.keys().cloned().collect(),
        (None, None) => Vec::new(),
    };
    let said = |branch: &Branch| known.and_then(|known| known.branches.get(branch));
    let branches = branches.iter().enumerate().map(|(index, branch)| {
        let waits = logs.iter().find_map(|log| wait_of(log, index));
        branch_report(branch, said(branch), waits)
    });
    let order_id = known.and_then(|known| {
        let hold = known.primary().map(|said| &said.hold[..]).unwrap_or_default();
        known.paid_order.clone().or_else(|| String::from_utf8(hold.to_vec()).ok())
    });
    let logged = logs.iter().map(|log| log.order_id.clone()).find(|id| !id.is_empty());
    TransactionReport {
        tx_id: tx_id.0.to_vec().into(),
        tx: meta.as_ref().map(Into::into),
        outcome: WireOutcome::Unspecified.into(),
        order_id: order_id.filter(|id| !id.is_empty()).or(logged).unwrap_or_default(),
        branches: branches.collect(),
        logs: logs.iter().map(log_report).collect(),
    }
}

/// The transaction for which the branch at `index` first waited, and since when.
fn wait_of(log: &TransactionLog, index: usize) -> Option<(Bytes, u64)> {
    let ours = |step: &&Step| usize::try_from(step.seat).is_ok_and(|at| at == index);
    let step = log.steps.iter().filter(ours).find(|step| !step.blocked_by.is_empty())?;
    Some((step.blocked_by.clone(), log.began_ms.saturating_add(step.after_ms)))
}

fn branch_report(
    branch: &Branch,
    said: Option<&Said>,
    waits: Option<(Bytes, u64)>,
) -> BranchReport {
    let contended = said.and_then(|said| match &said.vote {
        Some(Vote::Contended { blocker }) => {
            Some((blocker.tx_id.0.to_vec().into(), said.since.physical().0))
        }
        Some(Vote::Yes { .. } | Vote::No { .. } | Vote::Fenced) | None => None,
    });
    let (blocked_by, blocked_since_ms) = contended.or(waits).unwrap_or_default();
    let state = said.map_or(BranchState::Absent, |said| said.state);
    BranchReport {
        branch: Some(branch.into()),
        state: WireState::from(state).into(),
        vote: said.and_then(|said| said.vote.as_ref()).map(Into::into),
        since_ms: said.map_or(0, |said| said.since.physical().0),
        blocked_by,
        blocked_since_ms,
        problem: String::new(),
    }
}

fn log_report(log: &TransactionLog) -> LogReport {
    let step = |step: &Step| LogStep { after_ms: step.after_ms, what: step.what.clone() };
    LogReport {
        attempt: log.attempt,
        trace_id: log.trace_id.clone(),
        began_ms: log.began_ms,
        ended_ms: log.ended_ms,
        outcome: log.outcome.clone(),
        reasons: log.reasons.clone(),
        steps: log.steps.iter().map(step).collect(),
        steps_left_out: log.steps_left_out,
    }
}

/// Derives the outcome from the state of every branch, or from the log if no branch remembers.
fn settle(report: &mut TransactionReport, known: Option<&Transaction>, logs: &[TransactionLog]) {
    let states = report.branches.iter().map(|branch| convert::branch_state(branch.state).ok());
    let states: Vec<_> = states.collect();
    let is_paid = known.is_some_and(|known| known.paid_order.is_some());
    let all_yes = !states.is_empty()
        && states
            .iter()
            .all(|state| matches!(state, Some(BranchState::Prepared | BranchState::Committed)));
    let outcome = match states.first().copied().flatten() {
        _ if is_paid => WireOutcome::Committed,
        Some(BranchState::Committed) => WireOutcome::Committed,
        Some(BranchState::Aborted) => WireOutcome::Aborted,
        // P2: while the primary is PREPARED, the outcome is that of all the votes.
        Some(BranchState::Prepared) if all_yes => WireOutcome::Committed,
        Some(BranchState::Prepared) => WireOutcome::Undecided,
        Some(BranchState::Absent) | None => forgotten(&states, logs),
    };
    report.outcome = outcome.into();
}

/// The outcome if the primary knows nothing, because it has forgotten or never knew.
fn forgotten(states: &[Option<BranchState>], logs: &[TransactionLog]) -> WireOutcome {
    let logged = logs.iter().map(|log| log.outcome.as_str()).find(|text| !text.is_empty());
    if states.contains(&Some(BranchState::Committed)) {
        // P2: no branch is committed before the primary.
        return WireOutcome::Committed;
    }
    match logged {
        Some("COMMITTED") => WireOutcome::Committed,
        Some("REFUSED" | "CONTENDED" | "FENCED") => WireOutcome::Aborted,
        _ if states.contains(&Some(BranchState::Prepared)) => WireOutcome::Undecided,
        Some(_) | None => WireOutcome::Unspecified,
    }
}
