//! Plans supplied by callers, and checkouts with further participants.

use std::time::Duration;

use bytes::Bytes;
use coordinator::Extras;
use proto::{
    coordinator::v1::{
        BranchRequest, RunTransactionRequest, transaction_service_server::TransactionService,
    },
    types::v1::Branch,
};
use rpc::status::Failure;
use testkit::branch;
use tonic::Request;
use types::{ErrorKind, Service, TxId, Vote};

use crate::{
    fake::ScriptedVote,
    shop::{Shop, no},
};

const TIME: Duration = Duration::from_secs(30);

/// Settings that register loyalty. Pass its name as well to add it to every checkout.
fn extras(in_checkouts: &[&str]) -> Extras {
    Extras {
        participants: vec!["loyalty=loyalty-0:1,loyalty-1:1".parse().unwrap()],
        checkout_participants: in_checkouts
            .iter()
            .map(|name| Service::new(name).unwrap())
            .collect(),
        ..Extras::default()
    }
}

fn asks(service: &str) -> BranchRequest {
    let branch = Branch { service: service.to_owned(), shard: 0 };
    BranchRequest { branch: Some(branch), payload: Bytes::from_static(b"whatever") }
}

async fn run(shop: &Shop, services: &[&str]) -> Result<TxId, Failure> {
    let branches = services.iter().map(|service| asks(service)).collect();
    let request = RunTransactionRequest { branches, request_id: "once".to_owned() };
    match shop.coordinator.run_transaction(Request::new(request)).await {
        Ok(response) => Ok(TxId::from_slice(&response.into_inner().tx_id).unwrap()),
        Err(status) => Err(Failure::from_status(&status)),
    }
}

#[tokio::test(start_paused = true)]
async fn a_plan_happens_at_every_branch_and_its_first_is_the_primary() {
    let shop = Shop::open_with(&extras(&[]));
    let tx_id = run(&shop, &["loyalty", "payment"]).await.unwrap();
    shop.quiet().await;
    let asked = shop.loyalty.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].tx_id, asked[0].primary()), (tx_id, Some(&branch("loyalty"))));
    assert_eq!(asked[0].call.as_ref().unwrap().id.as_str(), "once");
    assert!(shop.when("loyalty commit committed") < shop.when("payment commit committed"));
    assert_eq!(shop.stock.asked().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_somebody_refuses_happens_nowhere() {
    let shop = Shop::open_with(&extras(&[]));
    shop.payment.verdicts([no("NOT_ON_SUNDAYS")]);
    let failure = run(&shop, &["loyalty", "payment"]).await.unwrap_err();
    assert_eq!((failure.kind, &*failure.reason), (ErrorKind::Rejected, "NOT_ON_SUNDAYS"));
    assert_eq!(shop.loyalty.prepared(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_is_only_in_the_way_is_tried_again_with_the_same_priority() {
    let shop = Shop::open_with(&extras(&[]));
    let blocker = Box::new(shop.foreign());
    shop.payment.verdicts([ScriptedVote::Vote(Vote::Contended { blocker })]);
    let tx_id = run(&shop, &["loyalty", "payment"]).await.unwrap();
    let asked = shop.payment.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].priority, asked[1].priority);
    assert_ne!(asked[0].tx_id, asked[1].tx_id);
    assert_eq!(asked[1].tx_id, tx_id);
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_makes_no_sense_is_refused_and_its_field_named() {
    let shop = Shop::open_with(&extras(&[]));
    for (services, field) in [
        (&[][..], "branches"),
        (&["loyalty", "loyalty"], "branches"),
        (&["loyalty", "unheard-of"], "branches.branch.service"),
    ] {
        let failure = run(&shop, services).await.unwrap_err();
        assert_eq!(failure.kind, ErrorKind::InvalidInput);
        assert_eq!(failure.fields[0].0, field);
    }
    assert_eq!(shop.log(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_plan_has_at_most_256_branches() {
    let shop = Shop::open_with(&extras(&[]));
    for (count, field) in [(256, "branches.branch.shard"), (257, "branches")] {
        let branches = (0..count).map(|shard| BranchRequest {
            branch: Some(Branch { service: "loyalty".to_owned(), shard }),
            payload: Bytes::new(),
        });
        let request = RunTransactionRequest { branches: branches.collect(), ..<_>::default() };
        let status = shop.coordinator.run_transaction(Request::new(request)).await.unwrap_err();
        let failure = Failure::from_status(&status);
        assert_eq!(failure.kind, ErrorKind::InvalidInput);
        let named = failure.fields.first().map(|(name, _)| name.as_str());
        let named = named.or_else(|| failure.metadata.keys().next().map(String::as_str));
        assert_eq!(named, Some(field), "{count}: {failure:?}");
    }
    assert!(shop.loyalty.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn plans_of_other_content_are_other_calls() {
    let call = async |services: &[&str]| {
        let shop = Shop::open_with(&extras(&[]));
        run(&shop, services).await.unwrap();
        shop.quiet().await;
        shop.loyalty.asked()[0].call.clone().unwrap()
    };
    let one = call(&["loyalty", "payment"]).await;
    let again = call(&["loyalty", "payment"]).await;
    let other = call(&["loyalty", "stock"]).await;
    assert_eq!(one.fingerprint, again.fingerprint);
    assert_eq!(one.id, other.id);
    assert_ne!(one.fingerprint, other.fingerprint, "one id does not make them one call");
}

#[tokio::test(start_paused = true)]
async fn an_extra_participant_is_asked_and_may_refuse() {
    let shop = Shop::open_with(&extras(&["loyalty"]));
    shop.loyalty.verdicts([no("LOYALTY_BLOCKED")]);
    let failure = shop.checkout(TIME).await.unwrap_err();
    assert_eq!((failure.kind, &*failure.reason), (ErrorKind::Rejected, "LOYALTY_BLOCKED"));
    assert_eq!(shop.order.prepared() + shop.stock.prepared() + shop.payment.prepared(), 0);
    shop.checkout(TIME).await.unwrap();
    shop.quiet().await;
    assert!(shop.when("order commit committed") < shop.when("loyalty commit committed"));
    assert_eq!(shop.loyalty.asked()[1].branches.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_only_registered_is_in_no_checkout() {
    let shop = Shop::open_with(&extras(&[]));
    shop.checkout(TIME).await.unwrap();
    shop.quiet().await;
    assert_eq!(shop.loyalty.asked().len(), 0);
}
