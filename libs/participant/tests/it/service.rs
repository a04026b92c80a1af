//! The gRPC face: what can never be answered with YES has an end all the same.

use std::sync::Arc;

use participant::service::Participant;
use prost::Message as _;
use proto::{
    participant::v1::{
        self as wire, participant_service_server::ParticipantService, vote::Vote as WireVote,
    },
    stock::v1::{HoldStock, hold_stock::Line},
};
use stock::app::Stock;
use tonic::Request;
use types::{Branch, ShardId, TxMeta, shard_of};

use crate::shop::{Shop, branch};

const SHARDS: u16 = 4;

fn open(shop: &Shop) -> Participant<Stock> {
    Participant::new(Arc::new(Stock), shop.shards(SHARDS))
}

fn on(shop: &Shop, number: u8, shard: u16) -> (TxMeta, Branch) {
    let here = Branch { shard: ShardId(shard), ..branch("stock") };
    (TxMeta { branches: [branch("order"), here.clone()].into(), ..shop.tx(number) }, here)
}

/// Asks for a vote; the reason if it is NO.
async fn vote(
    service: &Participant<Stock>,
    (meta, branch): &(TxMeta, Branch),
    payload: Vec<u8>,
) -> Option<String> {
    let (tx, branch) = (Some(meta.into()), Some(branch.into()));
    let request = wire::PrepareRequest { tx, branch, payload: payload.into() };
    let response = service.prepare(Request::new(request)).await.unwrap().into_inner();
    match response.vote.unwrap().vote.unwrap() {
        WireVote::No(no) => Some(no.reason),
        WireVote::Yes(_) | WireVote::Contended(_) | WireVote::Fenced(_) => None,
    }
}

async fn query(service: &Participant<Stock>, (meta, branch): &(TxMeta, Branch)) -> i32 {
    let (tx, branch) = (Some(meta.into()), Some(branch.into()));
    let request = wire::QueryRequest { tx, branch, fence: false };
    service.query(Request::new(request)).await.unwrap().into_inner().state
}

fn units(item: &str) -> Vec<u8> {
    HoldStock { lines: vec![Line { item_id: item.to_owned(), quantity: 1 }] }.encode_to_vec()
}

const ABORTED: i32 = wire::BranchState::Aborted as i32;

#[tokio::test(start_paused = true)]
async fn a_shard_that_does_not_exist_is_against_every_transaction() {
    let shop = Shop::new();
    let service = open(&shop);
    let nowhere = on(&shop, 1, 4_000);
    assert_eq!(query(&service, &nowhere).await, ABORTED);
    assert_eq!(vote(&service, &nowhere, units("a")).await.as_deref(), Some("WRONG_SHARD"));
    let (tx, branch) = (Some((&nowhere.0).into()), Some((&nowhere.1).into()));
    let abort = wire::AbortRequest { tx, branch, ..wire::AbortRequest::default() };
    let state = service.abort(Request::new(abort)).await.unwrap().into_inner().state;
    assert_eq!(state, ABORTED);
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_does_not_decode_is_a_durable_no() {
    let shop = Shop::new();
    let service = open(&shop);
    let here = on(&shop, 1, 0);
    for payload in [vec![0xff; 3], HoldStock::default().encode_to_vec()] {
        assert_eq!(vote(&service, &here, payload).await.as_deref(), Some("INVALID_ARGUMENT"));
    }
    assert_eq!(query(&service, &here).await, ABORTED);
    assert_eq!(query(&open(&shop), &here).await, ABORTED, "another replica knows it");
}

#[tokio::test(start_paused = true)]
async fn what_lies_on_another_shard_is_not_held_here() {
    let shop = Shop::new();
    let service = open(&shop);
    let right = shard_of("a", SHARDS).0;
    let wrong = on(&shop, 1, (right + 1) % SHARDS);
    assert_eq!(vote(&service, &wrong, units("a")).await.as_deref(), Some("WRONG_SHARD"));
    let here = on(&shop, 2, right);
    assert_eq!(vote(&service, &here, units("a")).await.as_deref(), Some("UNKNOWN_ITEM"));
}
