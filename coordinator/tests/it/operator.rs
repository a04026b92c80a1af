//! The answers to operators, and the log of transactions.

use std::{sync::Arc, time::Duration};

use coordinator::{
    Extras,
    tx_log::{self, AttemptInfo, LogSettings, LogStep, TxLog},
};
use prost::Message as _;
use proto::{
    coordinator::v1::{
        BranchReport, ExplainTransactionRequest, ListUnresolvedRequest, Outcome,
        ResolveByIdRequest, TransactionReport, explain_transaction_request::Subject,
        transaction_service_server::TransactionService,
    },
    participant::v1::{BranchState, Vote as WireVote, vote},
};
use rpc::status::Failure;
use storage::{
    keys::Space,
    record::{JournalEntry, TransactionLog, TxEvent, tx_event},
    schema,
    shard::{Head, append},
};
use testkit::branch;
use tonic::Request;
use types::{ErrorKind, Reason, Role, ShardId, Timestamp, TxId, TxMeta};

use crate::shop::{Shop, no};

const TIME: Duration = Duration::from_secs(30);

/// Settings that log every transaction.
fn keeps_all() -> Extras {
    let log = LogSettings { sample_one_in: 1, ..LogSettings::default() };
    Extras {
        participants: vec!["loyalty=loyalty-0:1,loyalty-1:1".parse().unwrap()],
        log,
        ..Extras::default()
    }
}

async fn explain(shop: &Shop, subject: Subject) -> Result<Vec<TransactionReport>, Failure> {
    let request = ExplainTransactionRequest { subject: Some(subject) };
    match shop.coordinator.explain_transaction(Request::new(request)).await {
        Ok(response) => Ok(response.into_inner().transactions),
        Err(status) => Err(Failure::from_status(&status)),
    }
}

fn by_id(tx_id: TxId) -> Subject {
    Subject::TxId(tx_id.0.to_vec().into())
}

/// Writes an event to a service's journal, as a lane would have.
async fn journal(shop: &Shop, owner: Role, event: tx_event::Event) {
    schema::open(&*shop.kv, Some(1)).await.unwrap();
    let space = Space::of(owner, ShardId(0));
    let mut txn = shop.kv.begin().await.unwrap();
    let entry = JournalEntry {
        events: vec![TxEvent { event: Some(event) }],
        start_ts: Timestamp::from_physical(shop.clock.now()).0,
        ..JournalEntry::default()
    };
    append(&mut *txn, space, 1, &entry, Some(&Head::default()));
    txn.commit().await.unwrap();
}

/// A transaction for which loyalty has voted YES, the order is locked, and stock voted CONTENDED
/// behind `blocker`.
async fn stuck(shop: &Shop, blocker: TxId) -> TxMeta {
    let branches = ["order", "stock", "loyalty"].map(branch).into();
    let meta = TxMeta { branches, ..shop.foreign() };
    shop.loyalty.prepare_for(&meta, &branch("loyalty"));
    shop.order.prepare_for(&meta, &branch("order"));
    let prepared = tx_event::Prepared {
        tx: Some((&meta).into()),
        hold: b"o".to_vec().into(),
        ..tx_event::Prepared::default()
    };
    journal(shop, Role::Order, tx_event::Event::Prepared(prepared)).await;
    let blocker = TxMeta { tx_id: blocker, ..shop.foreign() };
    let vote = WireVote::from(&types::Vote::Contended { blocker: Box::new(blocker) });
    let fenced = tx_event::Fenced { tx: Some((&meta).into()), vote: vote.encode_to_vec().into() };
    journal(shop, Role::Stock, tx_event::Event::Fenced(fenced)).await;
    meta
}

#[tokio::test(start_paused = true)]
async fn an_explanation_names_each_vote_and_the_blocker() {
    let shop = Shop::open_with(&keeps_all());
    let meta = stuck(&shop, TxId([9; 16])).await;
    let of_order = explain(&shop, Subject::OrderId("o".to_owned())).await.unwrap();
    let told = explain(&shop, by_id(meta.tx_id)).await.unwrap();
    assert_eq!(told, of_order);
    let [told] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((told.outcome(), told.order_id.as_str()), (Outcome::Undecided, "o"));
    let states: Vec<_> = told.branches.iter().map(BranchReport::state).collect();
    assert_eq!(states, [BranchState::Prepared, BranchState::Aborted, BranchState::Prepared]);
    let stock = &told.branches[1];
    assert!(matches!(stock.vote.as_ref().unwrap().vote, Some(vote::Vote::Contended(_))));
    assert_eq!(stock.blocked_by, vec![9; 16]);
    assert_eq!((stock.blocked_since_ms, stock.since_ms), (stock.since_ms, 1_700_000_000_000));
    assert!(told.branches.iter().all(|branch| branch.problem.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn what_is_unresolved_is_listed_and_can_be_resolved_by_its_id() {
    let shop = Shop::open_with(&keeps_all());
    let meta = stuck(&shop, TxId([9; 16])).await;
    let list = async |overdue_ms| {
        let request = ListUnresolvedRequest { overdue_ms, limit: 0 };
        let answer = shop.coordinator.list_unresolved(Request::new(request)).await;
        answer.unwrap().into_inner().transactions
    };
    let listed = list(0).await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].tx_id, meta.tx_id.0.to_vec());
    assert_eq!(list(1).await.len(), 0, "not overdue yet");
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(list(1).await.len(), 1);
    let request = ResolveByIdRequest { tx_id: meta.tx_id.0.to_vec().into() };
    let answer = TransactionService::resolve_by_id(&shop.coordinator, Request::new(request)).await;
    assert_eq!(answer.unwrap().into_inner().outcome(), Outcome::Aborted);
    shop.quiet().await;
    assert_eq!(shop.loyalty.prepared(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_list_has_at_most_a_thousand_transactions() {
    let shop = Shop::open_with(&keeps_all());
    for (limit, fits) in [(1_000, true), (1_001, false), (u32::MAX, false)] {
        let request = ListUnresolvedRequest { overdue_ms: 0, limit };
        let listed = shop.coordinator.list_unresolved(Request::new(request)).await;
        let failure = listed.err().map(|status| Failure::from_status(&status));
        assert_eq!(failure.is_none(), fits, "{limit}");
        assert!(failure.is_none_or(|failure| failure.fields[0].0 == "limit"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_transaction_is_not_found() {
    let shop = Shop::open_with(&keeps_all());
    let failure = explain(&shop, by_id(TxId([5; 16]))).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::NotFound);
    let none = explain(&shop, Subject::OrderId("nobody".to_owned())).await.unwrap();
    assert_eq!(none, []);
    let request = ResolveByIdRequest { tx_id: vec![5; 16].into() };
    let failure = TransactionService::resolve_by_id(&shop.coordinator, Request::new(request)).await;
    assert_eq!(Failure::from_status(&failure.unwrap_err()).kind, ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_checkout_is_explained_when_all_branches_have_forgotten_it() {
    let shop = Shop::open_with(&keeps_all());
    shop.payment.verdicts([no(Reason::OutOfCredit)]);
    shop.checkout(TIME).await.unwrap_err();
    let paid = TxId::from_slice(&shop.checkout(TIME).await.unwrap().tx_id).unwrap();
    shop.quiet().await;
    shop.coordinator.log().write(&*shop.kv).await;
    let told = explain(&shop, Subject::OrderId("o".to_owned())).await.unwrap();
    let outcomes: Vec<_> = told.iter().map(TransactionReport::outcome).collect();
    assert_eq!(outcomes, [Outcome::Aborted, Outcome::Committed]);
    assert_eq!(told[1].tx_id, paid.0.to_vec());
    // No journal names the branches any more, but the log does.
    for (told, meta) in told.iter().zip(shop.order.asked()) {
        assert_eq!(told.tx, Some((&meta).into()));
        assert_eq!(told.branches.len(), 3);
    }
    let log = &told[0].logs[0];
    assert_eq!((log.attempt, log.outcome.as_str()), (1, "REFUSED"));
    let heard = log.steps.iter().any(|step| step.what == "payment/0: heard NO OUT_OF_CREDIT");
    assert!(heard, "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn only_what_somebody_may_ask_about_is_kept() {
    let settings = LogSettings { records_max: 100, slow_ms: 500, sample_one_in: 0 };
    let shop = Shop::open_with(&Extras { log: settings, ..Extras::default() });
    shop.checkout(TIME).await.unwrap();
    shop.quiet().await;
    shop.coordinator.log().write(&*shop.kv).await;
    assert_eq!(tx_log::read(&*shop.kv, None).await.unwrap(), []);

    let log = TxLog::new(settings, Arc::clone(&shop.clock));
    let first = |attempt| AttemptInfo { attempt, ..AttemptInfo::default() };
    let quick = log.open(&shop.foreign(), first(1));
    quick.step(0, || LogStep::Answered("COMMITTED"));
    quick.end();
    let retried = log.open(&shop.foreign(), first(2));
    retried.end();
    let resolved = log.open(&shop.foreign(), first(0));
    resolved.step(0, || LogStep::Answered("COMMITTED"));
    resolved.end();
    let only_asked = log.open(&shop.foreign(), first(0));
    only_asked.step(0, || LogStep::Answered("UNDECIDED"));
    only_asked.end();
    let awaited = log.open(&shop.foreign(), AttemptInfo { keep: true, ..first(1) });
    awaited.step(0, || LogStep::Answered("COMMITTED"));
    awaited.end();
    let slow = log.open(&shop.foreign(), first(1));
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(log.write(&*shop.kv).await, 4);
    let reasons = async || {
        let kept = tx_log::read(&*shop.kv, None).await.unwrap();
        let told = |log: TransactionLog| (log.reasons.concat(), log.outcome, log.ended_ms > 0);
        kept.into_iter().map(told).collect::<Vec<_>>()
    };
    let kept = |reason: &str, outcome: &str, over| (reason.to_owned(), outcome.to_owned(), over);
    let first = [
        kept("RETRIED", "", true),
        kept("RESOLVED", "COMMITTED", true),
        kept("ASKED", "COMMITTED", true),
        kept("SLOW", "", false),
    ];
    assert_eq!(reasons().await, first);
    slow.end();
    assert_eq!(log.write(&*shop.kv).await, 1);
    assert_eq!(reasons().await[3], kept("SLOW", "", true), "one note, brought up to date");
}

#[tokio::test(start_paused = true)]
async fn the_log_keeps_about_as_many_as_it_may() {
    let settings = LogSettings { records_max: 20, slow_ms: 500, sample_one_in: 1 };
    let shop = Shop::open();
    let log = TxLog::new(settings, Arc::clone(&shop.clock));
    let stop = tokio_util::sync::CancellationToken::new();
    let keeping = log.clone().keep(Arc::clone(&shop.kv), stop.clone().cancelled_owned());
    let keeping = tokio::spawn(keeping);
    for round in 0..10_u8 {
        for number in 0..10_u8 {
            let tx_id = TxId([round * 10 + number; 16]);
            let meta = TxMeta { tx_id, ..shop.foreign() };
            let log_entry = log.open(&meta, AttemptInfo { attempt: 1, ..AttemptInfo::default() });
            log_entry.step(0, || LogStep::Sent("Prepare"));
            log_entry.end();
        }
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
    stop.cancel();
    keeping.await.unwrap();
    let kept = tx_log::read(&*shop.kv, None).await.unwrap();
    assert!((20..=25).contains(&kept.len()), "{}", kept.len());
    let last = kept.last().unwrap().tx.as_ref().unwrap();
    assert_eq!(last.tx_id, vec![99; 16], "the oldest go");
}
