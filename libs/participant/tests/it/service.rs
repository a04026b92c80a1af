//! Tests the gRPC service: a Prepare that can never get a YES can still be resolved.

use std::{collections::BTreeMap, sync::Arc};

use participant::{
    core::Limits, lane::LaneError, role::Parts, service::Participant, shards::OpError,
};
use prost::Message as _;
use proto::{
    participant::v1::{
        self as wire, participant_service_server::ParticipantService, vote::Vote as WireVote,
    },
    stock::v1::{HoldStock, hold_stock::Line},
};
use rpc::{
    net::{GrpcNet, Net},
    status::Failure,
    store_time::StoreTime,
};
use stock::records::Stock;
use testkit::{SeededEntropy, branch};
use tonic::{Code, Request};
use types::{Branch, Classify, ErrorKind, Reason, Refusal, ShardId, TxMeta, shard_of};

use crate::shop::Shop;

const SHARDS: u16 = 4;

fn open(shop: &Shop) -> Participant<Stock> {
    Participant::new(Arc::new(Stock), shop.shards(SHARDS))
}

fn on(shop: &Shop, number: u8, shard: u16) -> (TxMeta, Branch) {
    let here = Branch { shard: ShardId(shard), ..branch("stock") };
    (TxMeta { branches: [branch("order"), here.clone()].into(), ..shop.tx(number) }, here)
}

/// Asks for a vote. Returns the reason of a NO.
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

#[tokio::test(start_paused = true)]
async fn a_primary_commits_by_the_receipts_of_all_branches_alone() {
    let shop = Shop::new();
    let service = open(&shop);
    let (meta, here) = on(&shop, 1, 0);
    let other = branch("order");
    let meta = TxMeta { branches: [here.clone(), other.clone()].into(), ..meta };
    let commit = async |branches: &[&Branch]| {
        let receipts = branches.iter().map(|branch| wire::Receipt {
            branch: Some((*branch).into()),
            ..wire::Receipt::default()
        });
        let (tx, branch) = (Some((&meta).into()), Some((&here).into()));
        let request = wire::CommitRequest { tx, branch, receipts: receipts.collect() };
        let answer = service.commit(Request::new(request)).await;
        answer.map(|answer| answer.into_inner().state()).map_err(|status| status.code())
    };
    for wrong in [&[][..], &[&here], &[&other, &here], &[&here, &other, &other]] {
        assert_eq!(commit(wrong).await, Err(Code::InvalidArgument), "{wrong:?}");
    }
    assert_eq!(commit(&[&here, &other]).await, Ok(wire::BranchState::Committed));
}

#[tokio::test(start_paused = true)]
async fn a_service_says_its_name_and_how_many_shards_it_has() {
    let shop = Shop::new();
    let described = open(&shop).describe(Request::new(wire::DescribeRequest {})).await.unwrap();
    let described = described.into_inner();
    assert_eq!((described.service.as_str(), described.shards), ("stock", u32::from(SHARDS)));
}

#[test]
fn a_failed_operation_says_why_as_its_refusal_or_lane_does() {
    fn said(error: &impl Classify) -> (ErrorKind, String, BTreeMap<String, String>) {
        (error.kind(), error.reason().into_owned(), error.metadata())
    }
    let refusal = Refusal::new(Reason::OutOfStock).with("item_id", "a");
    assert_eq!(said(&OpError::Refused(refusal.clone())), said(&refusal));
    assert_eq!(said(&OpError::Lane(LaneError::Overloaded)), said(&LaneError::Overloaded));
}

#[test]
fn a_shard_of_many_keeps_its_part_of_the_records() {
    let whole = Limits { records: 100_000, waiters: 7, ..Limits::default() };
    for (shards, records) in [(0, 100_000), (1, 100_000), (10, 10_000), (1_000, 4_096)] {
        let one = whole.of_one(shards);
        assert_eq!((one.records, one.waiters), (records, 7), "of {shards}");
    }
}

/// A caller may know of fewer or more shards than there are.
#[tokio::test(start_paused = true)]
async fn parts_of_a_whole_are_of_the_shards_that_there_are() {
    let shop = Shop::new();
    let net: Arc<dyn Net> = Arc::new(GrpcNet::default());
    let parts = Parts {
        domain: Arc::new(Stock),
        shards: shop.shards(SHARDS),
        store_time: StoreTime::default(),
        net,
        entropy: Arc::new(SeededEntropy::new(1)),
    };
    let wanted = |named: &[u32], known| match parts.wanted_shards(named, known) {
        Ok(shards) => Ok(shards.into_iter().map(|shard| shard.0).collect::<Vec<_>>()),
        Err(status) => Err(Failure::from_status(&status).reason),
    };
    for known in [0, 4] {
        assert_eq!(wanted(&[], known), Ok(vec![0, 1, 2, 3]));
        assert_eq!(wanted(&[3, 0, 3], known), Ok(vec![0, 3]));
        assert_eq!(wanted(&[0, 4], known), Err("INVALID_ARGUMENT".to_owned()));
    }
    for known in [1, 3, 5, 70_000] {
        assert_eq!(wanted(&[], known), Err("WRONG_SHARD".to_owned()), "{known}");
    }
}
