//! Checkouts.

use std::time::Duration;

use proto::order::v1::Order;
use testkit::branch;
use types::{ErrorKind, Reason, ShardId, Timestamp, Vote, shard_of};

use crate::{
    fake::{ScriptedVote, Trouble},
    shop::{Shop, no},
};

const TIME: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn a_checkout_is_answered_at_the_commit_point_and_told_the_primary_first() {
    let shop = Shop::open();
    let paid = shop.checkout(TIME).await.unwrap();
    assert!(!paid.already_paid);
    assert_eq!(paid.tx_id.len(), 16);
    let mut before = shop.log();
    before.sort();
    assert_eq!(before, ["order prepare yes", "payment prepare yes", "stock prepare yes"]);
    shop.quiet().await;
    let primary = shop.when("order commit committed");
    for other in ["stock commit committed", "payment commit committed"] {
        assert!(primary < shop.when(other), "{:?}", shop.log());
        assert!(shop.when(other) < shop.when("order forget"));
    }
    assert_eq!(shop.log().len(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_paid_order_is_a_success_and_nobody_is_asked() {
    let shop = Shop::open();
    shop.checkout(TIME).await.unwrap();
    shop.quiet().await;
    let asked = shop.stock.asked().len();
    let again = shop.checkout(TIME).await.unwrap();
    assert!(again.already_paid && again.tx_id.is_empty());
    assert_eq!(shop.stock.asked().len(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_answered_when_everything_is_given_back() {
    let shop = Shop::open();
    shop.payment.verdicts([no(Reason::OutOfCredit)]);
    let failure = shop.checkout(TIME).await.unwrap_err();
    assert_eq!((failure.kind, &*failure.reason), (ErrorKind::Rejected, "OUT_OF_CREDIT"));
    // Everything is given back by the time of the answer.
    assert_eq!(shop.order.prepared() + shop.stock.prepared(), 0);
    assert!(shop.when("order abort aborted") < shop.when("stock abort aborted"));
    assert_eq!(shop.order.refusals(), [Some("OUT_OF_CREDIT".to_owned())]);
    assert_eq!(shop.stock.refusals(), [None]);
    shop.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_before_anything_began_is_left_with_the_order_first() {
    let shop = Shop::open();
    shop.order.set_order(Order {
        user_id: "u".to_owned(),
        etag: "as read".to_owned(),
        ..Order::default()
    });
    let failure = shop.checkout(TIME).await.unwrap_err();
    assert_eq!((failure.kind, &*failure.reason), (ErrorKind::Rejected, "EMPTY_ORDER"));
    assert_eq!(shop.order.refusals(), [Some("EMPTY_ORDER".to_owned())]);
    assert!(shop.stock.asked().is_empty() && shop.payment.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_order_that_changed_is_read_again_whatever_others_said() {
    let shop = Shop::open();
    shop.order.verdicts([ScriptedVote::Changed]);
    shop.stock.verdicts([no(Reason::OutOfStock)]);
    shop.checkout(TIME).await.unwrap();
    shop.quiet().await;
    // The stock judged lines that no longer exist, so its refusal must bind nobody.
    assert!(shop.order.refusals().iter().all(Option::is_none), "{:?}", shop.order.refusals());
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_a_new_transaction_with_the_same_priority() {
    let shop = Shop::open();
    shop.stock.verdicts([ScriptedVote::Vote(Vote::Fenced)]);
    shop.checkout(TIME).await.unwrap();
    shop.quiet().await;
    let asked = shop.order.asked();
    assert_eq!(asked.len(), 2);
    assert_ne!(asked[0].tx_id, asked[1].tx_id);
    assert_eq!(asked[0].priority, asked[1].priority);
    assert_eq!(asked[0].call, asked[1].call);
    assert!(asked[0].deadline <= asked[1].deadline);
    let began = Timestamp(asked[0].priority.begin_ts).physical();
    assert_eq!(asked[0].deadline.since(began), 2_000);
}

#[tokio::test(start_paused = true)]
async fn a_contended_checkout_waits_until_its_blocker_is_out_of_the_way() {
    let shop = Shop::open();
    let blocker = shop.foreign();
    for (fake, name) in [(&shop.order, "order"), (&shop.stock, "stock"), (&shop.payment, "payment")]
    {
        fake.prepare_for(&blocker, &branch(name));
    }
    let contended = Vote::Contended { blocker: Box::new(blocker.clone()) };
    shop.stock.verdicts([ScriptedVote::Vote(contended)]);
    let began = shop.clock.now();
    // Nobody else ends the blocker. All its votes are YES, so the checkout commits it once its
    // deadline has passed.
    shop.checkout(TIME).await.unwrap();
    let took = shop.clock.now().since(began);
    assert!((2_000..3_000).contains(&took), "{took} ms");
    shop.quiet().await;
    assert_eq!(shop.count("order commit committed"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_contended_checkout_goes_on_as_soon_as_its_blocker_is_out_of_the_way() {
    let shop = Shop::open();
    let blocker = shop.foreign();
    let places = [(&shop.order, "order"), (&shop.stock, "stock"), (&shop.payment, "payment")];
    for (fake, name) in places {
        fake.prepare_for(&blocker, &branch(name));
    }
    let contended = Vote::Contended { blocker: Box::new(blocker.clone()) };
    shop.stock.verdicts([ScriptedVote::Vote(contended)]);
    let began = shop.clock.now();
    let (paid, ()) = tokio::join!(shop.checkout(TIME), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(shop.order.asked().len(), 1, "it was in the way until now");
        for (fake, name) in places {
            fake.commit_and_forget(&blocker, &branch(name));
        }
    });
    paid.unwrap();
    let took = shop.clock.now().since(began);
    assert!((500..800).contains(&took), "long before the blocker's deadline: {took} ms");
    shop.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_checkout_goes_where_things_lie_once_a_service_has_other_shards() {
    let shop = Shop::open();
    let stock_shard = |attempt: usize| {
        let asked = shop.order.asked();
        let stock = branch("stock").service;
        let place = asked[attempt].branches.iter().find(|place| place.service == stock);
        place.unwrap().shard
    };
    let shards = (2..100).find(|shards| shard_of("a", *shards) != ShardId(0)).unwrap();
    shop.stock.verdicts([no(Reason::WrongShard)]);
    let (paid, ()) = tokio::join!(shop.checkout(TIME), async {
        // The stock's description is known by now.
        tokio::time::sleep(Duration::from_millis(15)).await;
        shop.stock.reshard(shards);
    });
    paid.unwrap();
    shop.quiet().await;
    assert_eq!(shop.order.asked().len(), 2);
    assert_eq!(stock_shard(0), ShardId(0));
    assert_eq!(stock_shard(1), shard_of("a", shards));
}

#[tokio::test(start_paused = true)]
async fn contention_is_retried_and_never_told_however_often_it_is_met() {
    let contended = |shop: &Shop, times| {
        let vote = Vote::Contended { blocker: Box::new(shop.foreign()) };
        shop.stock.verdicts(std::iter::repeat_n(ScriptedVote::Vote(vote), times));
    };
    let shop = Shop::open();
    contended(&shop, 12);
    shop.checkout(TIME).await.unwrap();
    assert_eq!(shop.order.asked().len(), 13);
    shop.quiet().await;
    let shop = Shop::open();
    contended(&shop, 10_000);
    let failure = shop.checkout(Duration::from_secs(8)).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Unavailable, "{failure:?}");
    assert!(shop.order.asked().len() > 12);
    assert!(shop.order.refusals().iter().all(Option::is_none), "{:?}", shop.order.refusals());
    shop.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn an_order_that_somebody_else_has_bought_meanwhile_is_a_success() {
    let shop = Shop::open();
    shop.order.verdicts([no(Reason::AlreadyPaid)]);
    // The stock sold its last unit to that checkout.
    shop.stock.verdicts([no(Reason::OutOfStock)]);
    let (told, ()) = tokio::join!(shop.checkout(TIME), async {
        // The order was read by now, and is not locked yet.
        tokio::time::sleep(Duration::from_millis(15)).await;
        assert!(shop.order.asked().is_empty());
        shop.order.set_order(Order { paid: true, etag: "paid".to_owned(), ..Order::default() });
    });
    assert!(told.unwrap().already_paid);
    assert_eq!(shop.order.asked().len(), 1);
    assert!(shop.order.refusals().iter().all(Option::is_none), "{:?}", shop.order.refusals());
    shop.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_branch_that_waits_in_a_lane_delays_no_other_call() {
    let shop = Shop::open();
    shop.stock.verdicts([ScriptedVote::Wait(Duration::from_millis(700))]);
    let began = shop.clock.now();
    let (slow, foreign) = tokio::join!(shop.checkout(TIME), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let meta = shop.foreign();
        shop.resolve_tx(&meta).await;
        shop.clock.now().since(began)
    });
    slow.unwrap();
    assert!(foreign < 200, "asking the same shard took {foreign} ms");
    assert!(shop.clock.now().since(began) >= 700);
    shop.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_is_sent_again() {
    for trouble in [Trouble::Lost, Trouble::ReplyLost] {
        let shop = Shop::open();
        for fake in [&shop.order, &shop.stock, &shop.payment] {
            fake.troubles([trouble; 3]);
        }
        shop.checkout(TIME).await.unwrap();
        shop.quiet().await;
        for fake in [&shop.order, &shop.stock, &shop.payment] {
            assert_eq!(fake.asked().len(), 1, "no second vote");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn phase_two_goes_on_until_every_branch_has_acknowledged() {
    let shop = Shop::open();
    shop.payment.verdicts([ScriptedVote::Wait(Duration::from_millis(200))]);
    let (paid, ()) = tokio::join!(shop.checkout(TIME), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        // The stock has voted by now, and answers nothing from here on.
        shop.stock.freeze(true);
    });
    paid.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(shop.count("order commit committed"), 1);
    assert_eq!(shop.count("order forget"), 0, "the stock has not acknowledged");
    shop.stock.freeze(false);
    shop.quiet().await;
    assert_eq!(shop.count("order forget"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_stops_nothing() {
    let shop = Shop::open();
    let gone = tokio::time::timeout(Duration::from_millis(5), shop.checkout(TIME)).await;
    assert!(gone.is_err(), "it was to be cut off amid the votes");
    assert_eq!(shop.count("order commit committed"), 0);
    shop.quiet().await;
    assert_eq!(shop.count("order commit committed"), 1);
    assert_eq!(shop.count("order forget"), 1);
}

#[tokio::test(start_paused = true)]
async fn missing_votes_are_fenced_and_the_order_tried_again() {
    let shop = Shop::open();
    let (paid, ()) = tokio::join!(shop.checkout(TIME), async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        shop.stock.freeze(true);
        tokio::time::sleep(Duration::from_secs(4)).await;
        shop.stock.freeze(false);
    });
    paid.unwrap();
    shop.quiet().await;
    assert_eq!(shop.count("order commit committed"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_vote_that_hangs_is_fenced_when_its_deadline_is_over() {
    let shop = Shop::open();
    // The vote waits in the lane for longer than a call may take, while the shard answers everybody
    // else.
    shop.stock.verdicts([ScriptedVote::Wait(Duration::from_secs(20))]);
    let began = shop.clock.now();
    shop.checkout(TIME).await.unwrap();
    let took = shop.clock.now().since(began);
    assert!((2_000..2_500).contains(&took), "{took} ms");
    assert_eq!(shop.count("stock fence aborted"), 1, "{:?}", shop.log());
    shop.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_is_not_known_in_time_is_said_to_be_unknown() {
    let shop = Shop::open();
    shop.stock.freeze(true);
    let time = Duration::from_secs(5);
    let began = shop.clock.now();
    let failure = shop.checkout(time).await.unwrap_err();
    assert_eq!((failure.kind, &*failure.reason), (ErrorKind::Unavailable, "OUTCOME_UNKNOWN"));
    assert!(shop.clock.now().since(began) < 5_000, "before the caller gives up");
    shop.stock.freeze(false);
    shop.quiet().await;
}

/// The order waits for another checkout for longer than one read may take.
#[tokio::test(start_paused = true)]
async fn a_replica_whose_order_waits_keeps_its_shards() {
    let shop = Shop::open();
    shop.order.keep_readers_waiting(Duration::from_secs(6));
    shop.checkout(Duration::from_secs(15)).await.unwrap_err();
    assert_eq!(shop.replicas_called("/till.order.v1.OrderService/GetOrder"), 1);
    shop.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn an_order_that_cannot_be_read_is_unavailable_in_time_and_nothing_was_begun() {
    for is_frozen in [true, false] {
        let shop = Shop::open();
        shop.order.freeze(is_frozen);
        shop.order.troubles([Trouble::Lost; 1_000]);
        let began = shop.clock.now();
        let failure = shop.checkout(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!((failure.kind, &*failure.reason), (ErrorKind::Unavailable, "UNAVAILABLE"));
        assert!(shop.clock.now().since(began) < 5_000, "before the caller gives up");
        assert_eq!(shop.log(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkout_that_waits_for_a_blocker_ends_in_time() {
    let shop = Shop::open();
    let blocker = shop.foreign();
    shop.order.prepare_for(&blocker, &branch("order"));
    let contended = Vote::Contended { blocker: Box::new(blocker) };
    shop.stock.verdicts([ScriptedVote::Vote(contended)]);
    let began = shop.clock.now();
    let (refused, ()) = tokio::join!(shop.checkout(Duration::from_secs(6)), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // The blocker cannot be ended without the payment service.
        shop.payment.freeze(true);
    });
    let failure = refused.unwrap_err();
    assert_eq!((failure.kind, &*failure.reason), (ErrorKind::Unavailable, "UNAVAILABLE"));
    assert!(shop.clock.now().since(began) < 6_000, "before the caller gives up");
    shop.payment.freeze(false);
    shop.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn messages_to_a_shard_go_together_while_others_are_under_way() {
    let shop = Shop::open();
    let checkouts = (0..300).map(|_| shop.checkout(TIME));
    for paid in futures::future::join_all(checkouts).await {
        paid.unwrap();
    }
    shop.quiet().await;
    let (applies, operations) = shop.stock.traffic();
    assert!(operations >= 600, "{operations}");
    assert!(applies * 10 < operations, "{operations} operations in {applies} calls");
}
