//! `till tx`: what became of a transaction, what blocks it, and how to bring it to an end.

use std::{
    error::Error,
    fmt::{self, Write as _},
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::{Subcommand, value_parser};
use proto::{
    coordinator::v1::{
        BranchReport, ExplainTransactionRequest, ListUnresolvedRequest, LogReport, Outcome,
        ResolveByIdRequest, TransactionReport, explain_transaction_request::Subject,
        transaction_service_client::TransactionServiceClient,
    },
    participant::v1::{BranchState, Vote, vote::Vote as Is},
    types::v1::Branch,
};
use rpc::{
    access::Identity,
    net::{Endpoint, GrpcNet},
    status::Failure as Refusal,
    tls::TlsArgs,
};
use tonic::{Status, transport::Channel};
use types::{ErrorKind, OrderId, Role, TxId};

use crate::common::Failure;

/// Exit code of `tx list` when something is unresolved, and of `tx resolve` when it still is.
const UNRESOLVED: u8 = 2;

/// Whom to ask, and what.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Address of a coordinator. Any replica gives the same answers.
    #[arg(long, global = true, env = "TILL_COORDINATOR", value_name = "HOST:PORT",
          default_value_t = Endpoint::usual(Role::Coordinator))]
    coordinator: Endpoint,
    /// Milliseconds to wait for the answer.
    #[arg(long, global = true, env = "TILL_TX_TIMEOUT_MS", default_value_t = 30_000,
          value_name = "MILLISECONDS", value_parser = value_parser!(u64).range(1..=600_000))]
    timeout_ms: u64,
    /// Certificates; ours must be an operator's.
    #[command(flatten)]
    tls: TlsArgs,
    /// What to ask.
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Clone, Subcommand)]
enum Question {
    /// Print what is known of a transaction, or of the transactions of an order; exit code 1 if
    /// nothing is known.
    Explain {
        /// A TxId as logs show it; anything else is an order.
        #[arg(value_name = "TX_ID|ORDER_ID")]
        subject: String,
    },
    /// List transactions with a vote that has no outcome yet; exit code 2 if there are any.
    List {
        /// List unresolved transactions. There is no other list, so this changes nothing.
        #[arg(long)]
        unresolved: bool,
        /// List only transactions whose deadline passed at least this many milliseconds ago. 0
        /// lists all.
        #[arg(long, default_value_t = 0, value_name = "MILLISECONDS")]
        overdue_ms: u64,
        /// List at most this many, the oldest first.
        #[arg(long, default_value_t = 100, value_name = "COUNT",
              value_parser = value_parser!(u32).range(1..=1_000))]
        limit: u32,
    },
    /// Find out a transaction's outcome, and decide it if nobody did; exit code 2 if it is too
    /// early to decide.
    Resolve {
        /// As logs show it.
        tx_id: TxId,
    },
}

/// Asks, and prints the answer.
pub(crate) async fn run(args: &Args) -> Result<ExitCode, Failure> {
    let net = GrpcNet::with_tls(args.tls.load()?);
    let time = Duration::from_millis(args.timeout_ms);
    let mut coordinator = Coordinator::at(&args.coordinator, &net, time);
    let (text, code) = match &args.question {
        Question::Explain { subject } => (coordinator.explain(subject).await?, 0),
        Question::List { unresolved: _, overdue_ms, limit } => {
            coordinator.list(*overdue_ms, *limit).await?
        }
        Question::Resolve { tx_id } => coordinator.resolve(*tx_id).await?,
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::from(code))
}

/// Why a coordinator gave no answer: it refused, or the call did not get that far.
#[derive(Debug)]
struct Unanswered {
    coordinator: Endpoint,
    status: Status,
}

impl Unanswered {
    fn kind(&self) -> ErrorKind {
        Refusal::from_status(&self.status).kind
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "coordinator {}: {}", self.coordinator, self.status.message())
    }
}

impl Error for Unanswered {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.status.source()
    }
}

/// No transaction of an order is known.
#[derive(Debug, thiserror::Error)]
#[error("coordinator {coordinator}: nobody knows a transaction of order {order_id}")]
struct NoTransaction {
    coordinator: Endpoint,
    order_id: OrderId,
}

/// The coordinator that is asked.
struct Coordinator {
    endpoint: Endpoint,
    client: TransactionServiceClient<Channel>,
    time: Duration,
}

impl Coordinator {
    /// A client that accepts answers of any length that a role may send.
    fn at(endpoint: &Endpoint, net: &GrpcNet, time: Duration) -> Self {
        let callee = Identity::of(Role::Coordinator);
        let client = TransactionServiceClient::new(net.channel(Some(&callee), endpoint))
            .max_decoding_message_size(rpc::MESSAGE_BYTES_MAX);
        Self { endpoint: endpoint.clone(), client, time }
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        rpc::deadline::set(&mut request, self.time);
        request
    }

    fn answered<T>(&self, answer: Result<tonic::Response<T>, Status>) -> Result<T, Unanswered> {
        let unanswered = |status| Unanswered { coordinator: self.endpoint.clone(), status };
        answer.map(tonic::Response::into_inner).map_err(unanswered)
    }

    async fn explain(&mut self, subject: &str) -> Result<String, Failure> {
        let order_id = OrderId::new(subject)?;
        let order = Subject::OrderId(order_id.to_string());
        let found = match subject.parse::<TxId>() {
            // Ids that the order service mints look like a TxId.
            Ok(tx_id) => match self.reports(Subject::TxId(tx_id.0.to_vec().into())).await {
                Err(unknown) if unknown.kind() == ErrorKind::NotFound => {
                    match self.reports(order).await? {
                        none if none.is_empty() => return Err(unknown.into()),
                        found => found,
                    }
                }
                answer => answer?,
            },
            Err(_) => self.reports(order).await?,
        };
        if found.is_empty() {
            return Err(NoTransaction { coordinator: self.endpoint.clone(), order_id }.into());
        }
        Ok(found.iter().map(describe).collect::<Vec<_>>().join("\n"))
    }

    async fn reports(&mut self, subject: Subject) -> Result<Vec<TransactionReport>, Unanswered> {
        let request = self.request(ExplainTransactionRequest { subject: Some(subject) });
        let answer = self.client.explain_transaction(request).await;
        self.answered(answer).map(|answer| answer.transactions)
    }

    async fn list(&mut self, overdue_ms: u64, limit: u32) -> Result<(String, u8), Failure> {
        let request = self.request(ListUnresolvedRequest { overdue_ms, limit });
        let answer = self.client.list_unresolved(request).await;
        let answer = self.answered(answer)?;
        if answer.transactions.is_empty() {
            return Ok(("nothing is unresolved\n".to_owned(), 0));
        }
        let mut text = answer.transactions.iter().map(describe).collect::<Vec<_>>().join("\n");
        if answer.left_out > 0 {
            writeln!(text, "\nand {} more", answer.left_out)?;
        }
        Ok((text, UNRESOLVED))
    }

    async fn resolve(&mut self, tx_id: TxId) -> Result<(String, u8), Failure> {
        let request = self.request(ResolveByIdRequest { tx_id: tx_id.0.to_vec().into() });
        let answer = self.client.resolve_by_id(request).await;
        let answer = self.answered(answer)?;
        let outcome = answer.outcome();
        let mut text = format!("transaction {tx_id}: {}\n", outcome_name(outcome));
        if !answer.missing.is_empty() {
            let missing: Vec<_> = answer.missing.iter().map(branch_name).collect();
            writeln!(text, "  before its deadline nobody decides for {}", missing.join(", "))?;
        }
        Ok((text, if outcome == Outcome::Undecided { UNRESOLVED } else { 0 }))
    }
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Unspecified => "UNKNOWN",
        Outcome::Undecided => "UNDECIDED",
        Outcome::Committed => "COMMITTED",
        Outcome::Aborted => "ABORTED",
    }
}

fn branch_name(branch: &Branch) -> String {
    format!("{}/{}", branch.service, branch.shard)
}

fn tx_name(bytes: &[u8]) -> String {
    TxId::from_slice(bytes).map_or_else(|_| "an unreadable TxId".to_owned(), |id| id.to_string())
}

/// Describes one transaction in lines for people.
fn describe(report: &TransactionReport) -> String {
    let mut text =
        format!("transaction {}: {}\n", tx_name(&report.tx_id), outcome_name(report.outcome()));
    let mut line = |line: String| {
        text.push_str("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    };
    if !report.order_id.is_empty() {
        line(format!("order {}", report.order_id));
    }
    if let Some(tx) = &report.tx {
        if !tx.request_id.is_empty() {
            line(format!("request id {}", tx.request_id));
        }
        line(format!("votes were due until {}", tx.deadline_ms));
    }
    for branch in &report.branches {
        line(describe_branch(branch));
    }
    for log in &report.logs {
        for each in describe_log(log) {
            line(each);
        }
    }
    text
}

fn describe_branch(report: &BranchReport) -> String {
    let name = report.branch.as_ref().map(branch_name).unwrap_or_default();
    if !report.problem.is_empty() {
        return format!("{name:<16} not known: {}", report.problem);
    }
    let state = match report.state() {
        BranchState::Unspecified => "?",
        BranchState::Absent => "ABSENT",
        BranchState::Prepared => "PREPARED",
        BranchState::Committed => "COMMITTED",
        BranchState::Aborted => "ABORTED",
    };
    let vote = report.vote.as_ref().map(describe_vote).unwrap_or_default();
    let since =
        if report.since_ms > 0 { format!("since {}", report.since_ms) } else { String::new() };
    let blocked = if report.blocked_by.is_empty() {
        String::new()
    } else {
        format!("behind {} since {}", tx_name(&report.blocked_by), report.blocked_since_ms)
    };
    format!("{name:<16} {state:<10} {vote:<12} {since} {blocked}")
}

fn describe_vote(vote: &Vote) -> String {
    match &vote.vote {
        Some(Is::Yes(_)) => "YES".to_owned(),
        Some(Is::No(no)) => format!("NO {}", no.reason),
        Some(Is::Contended(_)) => "CONTENDED".to_owned(),
        Some(Is::Fenced(_)) => "FENCED".to_owned(),
        None => String::new(),
    }
}

fn describe_log(log: &LogReport) -> Vec<String> {
    let attempt = match log.attempt {
        0 => "resolution".to_owned(),
        attempt => format!("attempt {attempt}"),
    };
    let ended = match log.ended_ms.checked_sub(log.began_ms) {
        Some(took) if log.ended_ms > 0 => format!("over after {took} ms"),
        Some(_) | None => "going on".to_owned(),
    };
    let outcome = if log.outcome.is_empty() { "no answer yet" } else { &log.outcome };
    let mut lines = vec![format!(
        "log: {attempt}, began {}, {ended}, {outcome}, kept as {}",
        log.began_ms,
        log.reasons.join(", ")
    )];
    if !log.trace_id.is_empty() {
        lines.push(format!("     trace {}", log.trace_id));
    }
    let steps = log.steps.iter().map(|step| format!("  {:>6} ms  {}", step.after_ms, step.what));
    lines.extend(steps);
    if log.steps_left_out > 0 {
        lines.push(format!("     and {} more steps", log.steps_left_out));
    }
    lines
}

#[cfg(test)]
mod tests {
    use proto::{
        coordinator::v1::{
            ExplainTransactionResponse, GetAuditRequest, GetAuditResponse, ListUnresolvedResponse,
            LogStep, ResolveByIdResponse, RunTransactionRequest, RunTransactionResponse,
            transaction_service_server::{TransactionService, TransactionServiceServer},
        },
        participant::v1::vote::No,
        types::v1::TxMeta,
    };
    use tonic::{Request, Response, transport::server::TcpIncoming};

    use super::*;

    /// A coordinator that knows this many unresolved transactions, each of an order with a long
    /// name.
    struct Busy(usize);

    type Reply<T> = Result<Response<T>, Status>;

    #[tonic::async_trait]
    impl TransactionService for Busy {
        async fn run_transaction(
            &self,
            _: Request<RunTransactionRequest>,
        ) -> Reply<RunTransactionResponse> {
            Err(Status::unimplemented(""))
        }

        async fn explain_transaction(
            &self,
            _: Request<ExplainTransactionRequest>,
        ) -> Reply<ExplainTransactionResponse> {
            Err(Status::unimplemented(""))
        }

        async fn list_unresolved(
            &self,
            _: Request<ListUnresolvedRequest>,
        ) -> Reply<ListUnresolvedResponse> {
            let order_id = "o".repeat(1024);
            let report = TransactionReport { order_id, ..TransactionReport::default() };
            let transactions = vec![report; self.0];
            Ok(Response::new(ListUnresolvedResponse { transactions, left_out: 0 }))
        }

        async fn resolve_by_id(
            &self,
            _: Request<ResolveByIdRequest>,
        ) -> Reply<ResolveByIdResponse> {
            Err(Status::unimplemented(""))
        }

        async fn get_audit(&self, _: Request<GetAuditRequest>) -> Reply<GetAuditResponse> {
            Err(Status::unimplemented(""))
        }
    }

    #[tokio::test]
    async fn an_answer_of_more_than_4_mib_is_taken() {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let endpoint = Endpoint::from(incoming.local_addr().unwrap());
        let server = tonic::transport::Server::builder()
            .add_service(TransactionServiceServer::new(Busy(5 * 1024)))
            .serve_with_incoming(incoming);
        let server = tokio::spawn(server);
        let time = Duration::from_secs(10);
        let mut coordinator = Coordinator::at(&endpoint, &GrpcNet::default(), time);
        let (text, code) = coordinator.list(0, 10_000).await.unwrap();
        assert!(text.len() > 5 * 1024 * 1024 && code == UNRESOLVED, "{} bytes", text.len());
        server.abort();
    }

    #[test]
    fn a_report_names_every_vote_and_who_is_in_the_way() {
        let branch = |service: &str| Some(Branch { service: service.to_owned(), shard: 3 });
        let no = No { reason: "OUT_OF_STOCK".to_owned(), ..No::default() };
        let report = TransactionReport {
            tx_id: vec![1; 16].into(),
            tx: Some(TxMeta { deadline_ms: 5_000, ..TxMeta::default() }),
            outcome: Outcome::Aborted.into(),
            order_id: "o-1".to_owned(),
            branches: vec![
                BranchReport {
                    branch: branch("stock"),
                    state: BranchState::Aborted.into(),
                    vote: Some(Vote { vote: Some(Is::No(no)) }),
                    since_ms: 4_000,
                    ..BranchReport::default()
                },
                BranchReport {
                    branch: branch("payment"),
                    state: BranchState::Absent.into(),
                    blocked_by: vec![2; 16].into(),
                    blocked_since_ms: 3_500,
                    ..BranchReport::default()
                },
                BranchReport {
                    branch: branch("loyalty"),
                    problem: "gives no answer".to_owned(),
                    ..BranchReport::default()
                },
            ],
            logs: vec![LogReport {
                attempt: 2,
                began_ms: 3_000,
                ended_ms: 3_900,
                outcome: "REFUSED".to_owned(),
                reasons: vec!["RETRIED".to_owned()],
                steps: vec![LogStep { after_ms: 7, what: "stock/3: sent Prepare".to_owned() }],
                ..LogReport::default()
            }],
        };
        let expected = "\
transaction 01010101-0101-0101-0101-010101010101: ABORTED
  order o-1
  votes were due until 5000
  stock/3          ABORTED    NO OUT_OF_STOCK since 4000
  payment/3        ABSENT                   behind 02020202-0202-0202-0202-020202020202 since 3500
  loyalty/3        not known: gives no answer
  log: attempt 2, began 3000, over after 900 ms, REFUSED, kept as RETRIED
         7 ms  stock/3: sent Prepare
";
        assert_eq!(describe(&report), expected);
    }
}
