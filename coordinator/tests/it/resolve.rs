//! The resolution of a transaction that another process began.

use std::time::Duration;

use proto::coordinator::v1::Outcome;
use testkit::branch;
use types::BranchState;

use crate::shop::Shop;

#[tokio::test(start_paused = true)]
async fn before_the_deadline_a_stranger_only_asks() {
    let shop = Shop::open();
    let meta = shop.foreign();
    shop.order.prepare_for(&meta, &branch("order"));
    shop.stock.prepare_for(&meta, &branch("stock"));
    let (outcome, missing) = shop.resolve_tx(&meta).await;
    assert_eq!((outcome, missing), (Outcome::Undecided, vec![branch("payment")]));
    assert_eq!(shop.payment.known(&meta, &branch("payment")), BranchState::Absent, "no fence");
}

#[tokio::test(start_paused = true)]
async fn past_the_deadline_a_branch_without_a_vote_is_fenced() {
    let shop = Shop::open();
    let meta = shop.foreign();
    shop.order.prepare_for(&meta, &branch("order"));
    shop.stock.prepare_for(&meta, &branch("stock"));
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(shop.resolve_tx(&meta).await, (Outcome::Aborted, Vec::new()));
    // When a decision is answered, it is durable at every branch.
    for (fake, name) in [(&shop.order, "order"), (&shop.stock, "stock"), (&shop.payment, "payment")]
    {
        assert_eq!(fake.known(&meta, &branch(name)), BranchState::Aborted, "{name}");
    }
    shop.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn all_votes_are_an_outcome_at_any_time() {
    let shop = Shop::open();
    let meta = shop.foreign();
    for (fake, name) in [(&shop.order, "order"), (&shop.stock, "stock"), (&shop.payment, "payment")]
    {
        fake.prepare_for(&meta, &branch(name));
    }
    assert_eq!(shop.resolve_tx(&meta).await, (Outcome::Committed, Vec::new()));
    assert_eq!(shop.stock.known(&meta, &branch("stock")), BranchState::Committed);
    assert_eq!(shop.resolve_tx(&meta).await, (Outcome::Committed, Vec::new()), "again");
    shop.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn concurrent_callers_share_one_resolution() {
    let shop = Shop::open();
    let meta = shop.foreign();
    let asks = (0..50).map(|_| shop.resolve_tx(&meta));
    for (outcome, _) in futures::future::join_all(asks).await {
        assert_eq!(outcome, Outcome::Undecided);
    }
    assert_eq!(shop.count("order query absent"), 1);
    shop.resolve_tx(&meta).await;
    assert_eq!(shop.count("order query absent"), 2, "a later one asks anew");
}

#[tokio::test(start_paused = true)]
async fn a_resolution_goes_on_when_its_caller_is_gone() {
    let shop = Shop::open();
    let meta = shop.foreign();
    shop.order.prepare_for(&meta, &branch("order"));
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let asked = shop.resolve_tx(&meta);
    assert!(tokio::time::timeout(Duration::from_millis(15), asked).await.is_err());
    shop.quiet().await;
    assert_eq!(shop.order.known(&meta, &branch("order")), BranchState::Aborted);
}
