//! A client's call and its attempts: they end in time, never contradict each other, and sell what
//! was read.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use coordinator::Extras;
use proto::{
    coordinator::v1::{
        BranchRequest, CheckoutRequest, ClaimRequestIdRequest, RunTransactionRequest,
        coordinator_service_server::CoordinatorService as _,
        transaction_service_server::TransactionService as _,
    },
    order::v1::Order,
    types::v1::Branch,
};
use rpc::{call::CallMeta, status::Failure};
use testkit::branch;
use tonic::{Code, Request};
use types::{ErrorKind, Reason, Refusal, TxId, UnixMillis, Vote};

use crate::{
    fake::{ScriptedVote, Trouble},
    shop::{Shop, no},
};

const TIME: Duration = Duration::from_secs(30);

fn with_loyalty() -> Shop {
    let participants = vec!["loyalty=loyalty-0:1,loyalty-1:1".parse().unwrap()];
    Shop::open_with(&Extras { participants, ..Extras::default() })
}

async fn run(shop: &Shop, branches: &[(&str, u32)]) -> Result<TxId, Failure> {
    let asks = branches.iter().map(|(service, shard)| BranchRequest {
        branch: Some(Branch { service: (*service).to_owned(), shard: *shard }),
        payload: Bytes::new(),
    });
    let request = RunTransactionRequest { branches: asks.collect(), request_id: String::new() };
    match shop.coordinator.run_transaction(Request::new(request)).await {
        Ok(response) => Ok(TxId::from_slice(&response.into_inner().tx_id).unwrap()),
        Err(status) => Err(Failure::from_status(&status)),
    }
}

/// Checks out with this end of the call.
async fn until(shop: &Shop, not_after: UnixMillis) -> Result<(), Failure> {
    let mut request =
        Request::new(CheckoutRequest { order_id: "o".to_owned(), ..CheckoutRequest::default() });
    CallMeta { not_after: Some(not_after), ..CallMeta::default() }.set(&mut request);
    shop.send_checkout(request, TIME).await.map(|_| ())
}

#[tokio::test(start_paused = true)]
async fn a_plan_whose_coordinator_was_cut_off_takes_effect_once() {
    let shop = with_loyalty();
    for fake in [&shop.loyalty, &shop.payment] {
        // Messages take effect, and the replies are lost.
        fake.troubles([Trouble::ReplyLost; 100]);
    }
    let (told, first) = tokio::join!(run(&shop, &[("loyalty", 0), ("payment", 0)]), async {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        let first = shop.payment.asked()[0].clone();
        shop.loyalty.commit_and_forget(&first, &branch("loyalty"));
        shop.payment.commit_and_forget(&first, &branch("payment"));
        shop.loyalty.heal();
        shop.payment.heal();
        first.tx_id
    });
    assert_eq!(told, Ok(first));
    shop.quiet().await;
    let charged: Vec<_> = shop.payment.committed();
    assert_eq!(charged, [first]);
}

#[tokio::test(start_paused = true)]
async fn a_plan_with_a_shard_that_does_not_exist_is_refused_before_anything_is_held() {
    let shop = with_loyalty();
    for plan in [[("loyalty", 0), ("payment", 4_000)], [("stock", 1), ("payment", 0)]] {
        let failure = run(&shop, &plan).await.unwrap_err();
        assert_eq!(failure.kind, ErrorKind::InvalidInput, "{failure:?}");
        assert!(failure.metadata["branches.branch.shard"].contains("has no shard"), "{failure:?}");
    }
    for fake in [&shop.loyalty, &shop.stock, &shop.payment] {
        assert!(fake.asked().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_votes_before_its_end_or_never() {
    let shop = Shop::open();
    let now = shop.clock.now();
    until(&shop, now.plus_ms(700)).await.unwrap();
    assert_eq!(shop.order.asked()[0].deadline, now.plus_ms(700), "earlier than the vote window");
    shop.quiet().await;
    let shop = Shop::open();
    let now = shop.clock.now();
    until(&shop, now.plus_ms(30_000)).await.unwrap();
    let window = shop.order.asked()[0].deadline.since(now);
    assert!((2_000..2_500).contains(&window), "{window}");
    shop.quiet().await;
    let shop = Shop::open();
    for over in [UnixMillis(1), shop.clock.now()] {
        let failure = until(&shop, over).await.unwrap_err();
        assert_eq!((failure.kind, &*failure.reason), (ErrorKind::Unavailable, "UNAVAILABLE"));
    }
    let failure = until(&shop, shop.clock.now().plus_ms(121_000)).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::InvalidInput);
    assert!(shop.order.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn no_attempt_of_a_call_outlives_its_end() {
    let shop = Shop::open();
    shop.stock.verdicts(std::iter::repeat_n(ScriptedVote::Vote(Vote::Fenced), 1_000));
    let now = shop.clock.now();
    let failure = until(&shop, now.plus_ms(5_000)).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Unavailable);
    shop.quiet().await;
    let asked = shop.order.asked();
    assert!(asked.len() > 1, "it was tried again");
    assert!(asked.iter().all(|meta| meta.deadline <= now.plus_ms(5_000)), "{asked:?}");
    assert!(asked.iter().all(|meta| meta.call == asked[0].call), "one call");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_without_a_transaction_is_remembered_by_the_order() {
    let shop = Shop::open();
    shop.order.remove_order();
    let failure = shop.checkout(TIME).await.unwrap_err();
    assert_eq!((failure.kind, &*failure.reason), (ErrorKind::NotFound, "ORDER_NOT_FOUND"));
    assert_eq!(shop.order.refusals(), [Some("ORDER_NOT_FOUND".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_success_is_told_again_after_its_order_was_overwritten_or_removed() {
    let shop = Shop::open();
    let paid = shop.checkout(TIME).await.unwrap();
    shop.quiet().await;
    // The order is overwritten first, and removed later.
    let fresh = Order { user_id: "u".to_owned(), etag: "fresh".to_owned(), ..Order::default() };
    shop.order.set_order(fresh);
    assert_eq!(shop.checkout(TIME).await.unwrap().tx_id, paid.tx_id, "an empty one");
    shop.order.remove_order();
    assert_eq!(shop.checkout(TIME).await.unwrap().tx_id, paid.tx_id, "none at all");
    assert_eq!(shop.order.refusals(), Vec::<Option<String>>::new());
    assert_eq!(shop.payment.committed().len(), 1);
}

/// Checks out with these tokens as `if_match`, under a new request id.
async fn matching(shop: &Shop, tokens: &[&str]) -> Result<bool, Reason> {
    let if_match = tokens.iter().map(|token| (*token).to_owned()).collect();
    let request = CheckoutRequest { if_match, ..CheckoutRequest::default() };
    match shop.checkout_as(request, TIME).await {
        Ok(response) => Ok(response.already_paid),
        Err(failure) => Err(Reason::parse(&failure.reason).unwrap()),
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_is_bought_as_the_token_says_or_not_at_all() {
    let shop = Shop::open();
    assert_eq!(matching(&shop, &["earlier"]).await, Err(Reason::OrderModified));
    assert_eq!(matching(&shop, &["earlier", "later"]).await, Err(Reason::OrderModified));
    assert!(shop.order.asked().is_empty(), "nothing was tried");
    assert_eq!(matching(&shop, &["earlier", "as read"]).await, Ok(false));
    shop.quiet().await;
    // A paid order was sold with the content of one token, and has another token since.
    let paid = Order {
        paid: true,
        etag: "paid".to_owned(),
        sold_etag: "as read".to_owned(),
        ..Order::default()
    };
    shop.order.set_order(paid);
    for (tokens, expected) in [
        (&["as read"][..], Ok(true)),
        (&["paid"], Ok(true)),
        (&["*"], Ok(true)),
        (&[], Ok(true)),
        (&["earlier"], Err(Reason::OrderModified)),
    ] {
        assert_eq!(matching(&shop, tokens).await, expected, "{tokens:?}");
    }
    shop.order.remove_order();
    assert_eq!(matching(&shop, &["*"]).await, Err(Reason::OrderNotFound));
}

#[tokio::test(start_paused = true)]
async fn an_order_that_changes_while_it_is_locked_is_not_bought_by_the_old_token() {
    let shop = Shop::open();
    shop.order.verdicts([ScriptedVote::Changed]);
    assert_eq!(matching(&shop, &["as read"]).await, Err(Reason::OrderModified));
    shop.quiet().await;
    assert_eq!(shop.order.asked().len(), 1, "nothing is tried again");
    shop.order.verdicts([ScriptedVote::Changed]);
    assert_eq!(matching(&shop, &[]).await, Ok(false), "without a token it is read again");
    shop.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn an_order_service_without_etags_is_refused() {
    let shop = Shop::open();
    shop.order.set_order(Order { user_id: "u".to_owned(), version: 1, ..Order::default() });
    let failure = shop.checkout(Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Unavailable, "{failure:?}");
    assert!(shop.order.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_an_unanswered_attempt_waits_for_what_that_one_may_hold() {
    for (unanswered, least, most) in [(0, 0, 300), (1, 3_000, 4_000)] {
        let shop = Shop::open();
        shop.payment.verdicts([no(Reason::OutOfCredit)]);
        let now = shop.clock.now();
        let request =
            CheckoutRequest { unanswered_at_ms: unanswered * now.0, ..CheckoutRequest::default() };
        let failure = shop.checkout_as(request, TIME).await.unwrap_err();
        assert_eq!(failure.reason, "OUT_OF_CREDIT");
        let took = shop.clock.now().since(now);
        assert!((least..most).contains(&took), "{took} ms");
        shop.quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn votes_get_more_time_while_the_store_is_slow() {
    let shop = Shop::open();
    // Votes that take three seconds miss a window of two.
    shop.stock.freeze(true);
    let (paid, ()) = tokio::join!(shop.checkout(TIME), async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(3)).await;
            shop.stock.freeze(false);
            tokio::time::sleep(Duration::from_millis(100)).await;
            shop.stock.freeze(true);
        }
        shop.stock.freeze(false);
    });
    paid.unwrap();
    shop.quiet().await;
    let asked = shop.order.asked();
    let windows: Vec<u64> = asked
        .iter()
        .map(|meta| meta.deadline.since(types::Timestamp(meta.priority.begin_ts).physical()))
        .collect();
    assert!(windows.len() > 1 && windows.last() > windows.first(), "{windows:?}");
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_refuses_a_plan_remembers_it_before_the_client_is_told() {
    let shop = with_loyalty();
    shop.payment.verdicts([no(Reason::OutOfCredit)]);
    let told = run(&shop, &[("payment", 0), ("loyalty", 0)]).await.unwrap_err();
    assert_eq!(told.reason, "OUT_OF_CREDIT");
    assert_eq!(shop.payment.refusals(), [Some("OUT_OF_CREDIT".to_owned())]);
    // A primary that learns the refusal from an Abort needs no second message.
    shop.loyalty.verdicts([no(Reason::OutOfStock)]);
    let told = run(&shop, &[("payment", 0), ("loyalty", 0)]).await.unwrap_err();
    assert_eq!(told.reason, "OUT_OF_STOCK");
    let told = ["OUT_OF_CREDIT", "OUT_OF_STOCK"].map(|reason| Some(reason.to_owned()));
    assert_eq!(shop.payment.refusals(), told);
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_that_a_lane_sits_on_hold_up_no_votes() {
    let shop = with_loyalty();
    shop.payment.sit_on_commits(Duration::from_secs(3));
    let began = shop.clock.now();
    for _ in 0..5 {
        run(&shop, &[("loyalty", 0), ("payment", 0)]).await.unwrap();
    }
    let took = shop.clock.now().since(began);
    assert!(took < 1_000, "{took} ms");
    shop.quiet().await;
    assert_eq!(shop.payment.committed().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_a_refusal_that_another_attempt_contradicts() {
    let shop = with_loyalty();
    let first = TxId([9; 16]);
    shop.loyalty.verdicts([no(Reason::OutOfStock)]);
    shop.payment.overtake(first);
    assert_eq!(run(&shop, &[("payment", 0), ("loyalty", 0)]).await, Ok(first));
    shop.stock.verdicts([no(Reason::OutOfStock)]);
    shop.order.overtake(first);
    assert_eq!(shop.checkout(TIME).await.unwrap().tx_id, first.0.to_vec());
    shop.quiet().await;
}

/// The reason is the participant's own. The NO arrives as a vote, or a query finds it.
#[tokio::test(start_paused = true)]
async fn a_foreign_refusal_is_remembered_before_the_client_is_told() {
    let blocked =
        || ScriptedVote::Vote(Vote::No { reason: "BLOCKED".to_owned(), metadata: BTreeMap::new() });
    for is_lost in [false, true] {
        let shop = with_loyalty();
        shop.loyalty.verdicts([blocked()]);
        if is_lost {
            shop.loyalty.troubles([Trouble::ReplyLost]);
        }
        let told = run(&shop, &[("payment", 0), ("loyalty", 0)]).await.unwrap_err();
        assert_eq!(told.reason, "BLOCKED");
        assert_eq!(shop.payment.refusals(), [Some("BLOCKED".to_owned())], "lost: {is_lost}");
        // Another attempt succeeds just before the refusal is noted.
        let first = TxId([9; 16]);
        shop.loyalty.verdicts([blocked()]);
        shop.payment.overtake(first);
        assert_eq!(run(&shop, &[("payment", 0), ("loyalty", 0)]).await, Ok(first));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_which_the_call_is_tried_again_is_not_remembered() {
    let shop = Shop::open();
    shop.stock.verdicts([no(Reason::WrongShard)]);
    shop.checkout(TIME).await.unwrap();
    assert_eq!(shop.order.refusals(), [None]);
    shop.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_its_primary_cannot_remember_is_told_or_ends_the_attempt() {
    for (answer, reason) in
        [(Code::Unimplemented, "OUT_OF_STOCK"), (Code::InvalidArgument, "UNAVAILABLE")]
    {
        let shop = with_loyalty();
        shop.loyalty.verdicts([no(Reason::OutOfStock)]);
        shop.payment.forget_refusals(answer);
        let began = shop.clock.now();
        let told = run(&shop, &[("payment", 0), ("loyalty", 0)]).await.unwrap_err();
        assert_eq!(told.reason, reason);
        let took = shop.clock.now().since(began);
        assert!(took < 1_000, "{took} ms");
        shop.quiet().await;
    }
    // Any other error may be temporary, so the call is not refused.
    let shop = with_loyalty();
    shop.loyalty.verdicts([no(Reason::OutOfStock)]);
    shop.payment.forget_refusals(Code::Unavailable);
    let told = run(&shop, &[("payment", 0), ("loyalty", 0)]).await.unwrap_err();
    assert_eq!(told.reason, "OUTCOME_UNKNOWN", "a refusal that is not durable is not certain");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_over_is_told_so_at_once() {
    let shop = Shop::open();
    let now = shop.clock.now();
    let request =
        CheckoutRequest { order_id: "o".to_owned(), unanswered_at_ms: now.0, ..Default::default() };
    let mut request = Request::new(request);
    CallMeta { not_after: Some(now), ..CallMeta::default() }.set(&mut request);
    let failure = shop.send_checkout(request, TIME).await.unwrap_err();
    assert_eq!(failure.reason, "UNAVAILABLE");
    let took = shop.clock.now().since(now);
    assert!(took < 1_000, "nothing of it may be held: {took} ms");
}

#[tokio::test(start_paused = true)]
async fn what_an_id_is_claimed_for_has_1_to_1024_bytes() {
    let shop = Shop::open();
    for (len, fits) in [(0, false), (1, true), (1_024, true), (1_025, false), (5_000, false)] {
        let request =
            ClaimRequestIdRequest { request_id: format!("id-{len}"), call: "c".repeat(len) };
        let claimed = shop.coordinator.claim_request_id(Request::new(request)).await;
        let failure = claimed.err().map(|status| Failure::from_status(&status));
        assert_eq!(failure.is_none(), fits, "{len}");
        assert!(failure.is_none_or(|failure| failure.fields[0].0 == "call"));
    }
}

/// Here only the vote names the transaction that succeeded, because this primary remembers no
/// refusals.
#[tokio::test(start_paused = true)]
async fn a_primary_whose_vote_names_the_transaction_that_succeeded_is_believed() {
    let shop = with_loyalty();
    let first = TxId([9; 16]);
    shop.payment.forget_refusals(Code::Unimplemented);
    let done = Refusal::new(Reason::AlreadyDone).with("tx_id", first);
    shop.payment.verdicts([ScriptedVote::Vote((&done).into())]);
    assert_eq!(run(&shop, &[("payment", 0), ("loyalty", 0)]).await, Ok(first));
    // Nobody else knows.
    shop.loyalty.verdicts([ScriptedVote::Vote((&done).into())]);
    let told = run(&shop, &[("payment", 0), ("loyalty", 0)]).await.unwrap_err();
    assert_eq!(told.reason, "ALREADY_DONE");
}
