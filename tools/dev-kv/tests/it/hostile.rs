//! Requests that no client sends: arbitrary bytes and arbitrary messages. Each gets an answer, and
//! the server goes on.

use crate::support::{Server, get, put, whole};
use bytes::Bytes;
use dev_kv::wire::{kvrpcpb, pdpb};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use prost::Message as _;
use std::time::Duration;
use tokio::time::timeout;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// A codec that passes bytes through.
#[derive(Debug, Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        bytes::BufMut::put(buffer, item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = tonic::Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, tonic::Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length)))
    }
}

const RPCS: [&str; 33] = [
    "/tikvpb.Tikv/KvGet",
    "/tikvpb.Tikv/KvScan",
    "/tikvpb.Tikv/KvPrewrite",
    "/tikvpb.Tikv/KvPessimisticLock",
    "/tikvpb.Tikv/KVPessimisticRollback",
    "/tikvpb.Tikv/KvTxnHeartBeat",
    "/tikvpb.Tikv/KvCheckTxnStatus",
    "/tikvpb.Tikv/KvCheckSecondaryLocks",
    "/tikvpb.Tikv/KvCommit",
    "/tikvpb.Tikv/KvBatchGet",
    "/tikvpb.Tikv/KvBatchRollback",
    "/tikvpb.Tikv/KvScanLock",
    "/tikvpb.Tikv/KvResolveLock",
    "/tikvpb.Tikv/UnsafeDestroyRange",
    "/tikvpb.Tikv/RawGet",
    "/tikvpb.Tikv/RawBatchGet",
    "/tikvpb.Tikv/RawPut",
    "/tikvpb.Tikv/RawBatchPut",
    "/tikvpb.Tikv/RawDelete",
    "/tikvpb.Tikv/RawBatchDelete",
    "/tikvpb.Tikv/RawScan",
    "/tikvpb.Tikv/RawDeleteRange",
    "/tikvpb.Tikv/RawBatchScan",
    "/tikvpb.Tikv/RawGetKeyTTL",
    "/tikvpb.Tikv/RawCompareAndSwap",
    "/pdpb.PD/GetMembers",
    "/pdpb.PD/GetStore",
    "/pdpb.PD/GetAllStores",
    "/pdpb.PD/GetRegion",
    "/pdpb.PD/GetRegionByID",
    "/pdpb.PD/ScanRegions",
    "/pdpb.PD/GetGCSafePoint",
    "/keyspacepb.Keyspace/LoadKeyspace",
];

async fn call(
    channel: &tonic::transport::Channel,
    path: &str,
    body: Bytes,
) -> Result<Bytes, tonic::Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let call = grpc.unary(tonic::Request::new(body), path.parse().unwrap(), Plain);
    let answer = timeout(Duration::from_secs(20), call).await;
    answer.expect("no answer").map(tonic::Response::into_inner)
}

fn any_key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..4),
        Just(vec![0xff; 8]),
        Just(vec![7; 9_000]),
    ]
    .prop_map(Bytes::from)
}

fn any_ts() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..40, Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()]
}

/// A context, mostly that of the only region.
fn any_context() -> impl Strategy<Value = Option<kvrpcpb::Context>> {
    prop_oneof![
        8 => Just(whole()),
        1 => Just(None),
        1 => (any::<u64>(), any::<i32>()).prop_map(|(region_id, api_version)| {
            Some(kvrpcpb::Context { region_id, api_version, ..whole().unwrap() })
        }),
    ]
}

fn keys() -> impl Strategy<Value = Vec<Bytes>> {
    proptest::collection::vec(any_key(), 0..5)
}

fn any_mutation() -> impl Strategy<Value = kvrpcpb::Mutation> {
    (-1..8i32, any_key(), any_key(), 0..4i32)
        .prop_map(|(op, key, value, assertion)| kvrpcpb::Mutation { op, key, value, assertion })
}

type Call = (&'static str, Vec<u8>);

fn any_prewrite() -> impl Strategy<Value = Call> {
    let parts = (
        any_context(),
        proptest::collection::vec(any_mutation(), 0..5),
        any_key(),
        (any_ts(), any_ts(), any_ts(), any_ts()),
        (any::<bool>(), any::<bool>()),
        (keys(), proptest::collection::vec(-1..4i32, 0..6)),
    );
    parts.prop_map(|(context, mutations, primary_lock, ts, flags, (secondaries, actions))| {
        let request = kvrpcpb::PrewriteRequest {
            context,
            mutations,
            primary_lock,
            start_version: ts.0,
            lock_ttl: ts.1,
            for_update_ts: if ts.2 % 3 == 0 { 0 } else { ts.2 },
            min_commit_ts: ts.3,
            use_async_commit: flags.0,
            try_one_pc: flags.1,
            secondaries,
            pessimistic_actions: actions,
            ..kvrpcpb::PrewriteRequest::default()
        };
        ("/tikvpb.Tikv/KvPrewrite", request.encode_to_vec())
    })
}

fn any_settle() -> impl Strategy<Value = Call> {
    (any_context(), keys(), any_ts(), any_ts(), 0..4u8).prop_map(
        |(context, keys, start_version, commit_version, kind)| match kind {
            0 => {
                let request =
                    kvrpcpb::CommitRequest { context, start_version, keys, commit_version };
                ("/tikvpb.Tikv/KvCommit", request.encode_to_vec())
            }
            1 => {
                let request = kvrpcpb::BatchRollbackRequest { context, start_version, keys };
                ("/tikvpb.Tikv/KvBatchRollback", request.encode_to_vec())
            }
            2 => {
                let request = kvrpcpb::CheckSecondaryLocksRequest { context, keys, start_version };
                ("/tikvpb.Tikv/KvCheckSecondaryLocks", request.encode_to_vec())
            }
            _ => {
                let request = kvrpcpb::ResolveLockRequest {
                    context,
                    start_version,
                    commit_version,
                    keys,
                    ..kvrpcpb::ResolveLockRequest::default()
                };
                ("/tikvpb.Tikv/KvResolveLock", request.encode_to_vec())
            }
        },
    )
}

fn any_read() -> impl Strategy<Value = Call> {
    (any_context(), keys(), any_ts(), any_key(), any_key(), any::<(u32, bool)>()).prop_map(
        |(context, keys, version, start_key, end_key, (limit, reverse))| {
            if limit % 2 == 0 {
                let request = kvrpcpb::BatchGetRequest { context, keys, version };
                return ("/tikvpb.Tikv/KvBatchGet", request.encode_to_vec());
            }
            let request = kvrpcpb::ScanRequest {
                context,
                start_key,
                end_key,
                version,
                limit,
                reverse,
                key_only: false,
            };
            ("/tikvpb.Tikv/KvScan", request.encode_to_vec())
        },
    )
}

fn any_status() -> impl Strategy<Value = Call> {
    (any_context(), any_key(), any_ts(), any_ts(), any::<[bool; 4]>()).prop_map(
        |(context, primary_key, lock_ts, current_ts, flags)| {
            let request = kvrpcpb::CheckTxnStatusRequest {
                context,
                primary_key,
                lock_ts,
                caller_start_ts: lock_ts ^ current_ts,
                current_ts,
                rollback_if_not_exist: flags[0],
                force_sync_commit: flags[1],
                resolving_pessimistic_lock: flags[2],
                verify_is_primary: flags[3],
            };
            ("/tikvpb.Tikv/KvCheckTxnStatus", request.encode_to_vec())
        },
    )
}

fn any_pessimistic() -> impl Strategy<Value = Call> {
    (any_context(), proptest::collection::vec(any_mutation(), 0..4), any_key(), any_ts(), any_ts())
        .prop_map(|(context, mutations, primary_lock, start_version, for_update_ts)| {
            let request = kvrpcpb::PessimisticLockRequest {
                context,
                mutations,
                primary_lock,
                start_version,
                for_update_ts,
                wait_timeout: -1,
                return_values: true,
                ..kvrpcpb::PessimisticLockRequest::default()
            };
            ("/tikvpb.Tikv/KvPessimisticLock", request.encode_to_vec())
        })
}

fn any_raw() -> impl Strategy<Value = Call> {
    (any_context(), keys(), any_ts(), any_key(), any::<(u32, bool)>()).prop_map(
        |(context, keys, ttl, end_key, (limit, reverse))| {
            if reverse {
                let start_key = keys.first().cloned().unwrap_or_default();
                let request = kvrpcpb::RawScanRequest {
                    context,
                    start_key,
                    end_key,
                    limit,
                    reverse: limit % 2 == 0,
                    ..kvrpcpb::RawScanRequest::default()
                };
                return ("/tikvpb.Tikv/RawScan", request.encode_to_vec());
            }
            let pairs = keys
                .into_iter()
                .map(|key| kvrpcpb::KvPair { error: None, value: key.clone(), key })
                .collect();
            let ttls = vec![ttl; usize::try_from(limit % 4).unwrap()];
            let request = kvrpcpb::RawBatchPutRequest {
                context,
                pairs,
                ttls,
                ..kvrpcpb::RawBatchPutRequest::default()
            };
            ("/tikvpb.Tikv/RawBatchPut", request.encode_to_vec())
        },
    )
}

fn any_noise() -> impl Strategy<Value = Call> {
    (0..RPCS.len(), proptest::collection::vec(any::<u8>(), 0..60))
        .prop_map(|(rpc, body)| (RPCS[rpc], body))
}

fn any_pd() -> impl Strategy<Value = Call> {
    (any_key(), any_key(), any::<i32>()).prop_map(|(start_key, end_key, limit)| {
        let request = pdpb::ScanRegionsRequest { header: None, start_key, end_key, limit };
        ("/pdpb.PD/ScanRegions", request.encode_to_vec())
    })
}

fn any_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        6 => any_prewrite(),
        4 => any_settle(),
        4 => any_read(),
        3 => any_status(),
        2 => any_pessimistic(),
        2 => any_raw(),
        4 => any_noise(),
        1 => any_pd(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_message_and_no_bytes_end_the_server() {
    let server = Server::start().await;
    let channel = server.channel().await;
    let mut runner = TestRunner::deterministic();
    let calls = any_call();
    let mut answered = 0;
    // PROPTEST_CASES can ask for more.
    let cases = ProptestConfig::default().cases.max(4_000);
    for _ in 0..cases {
        let (path, body) = calls.new_tree(&mut runner).unwrap().current();
        match call(&channel, path, Bytes::from(body)).await {
            Ok(_) => answered += 1,
            Err(status) => {
                // A panic in a handler resets its stream, which shows as Unknown or Cancelled.
                let proper = matches!(
                    status.code(),
                    tonic::Code::Internal
                        | tonic::Code::InvalidArgument
                        | tonic::Code::FailedPrecondition
                        | tonic::Code::Unknown
                );
                assert!(proper, "{path}: {status:?}");
                assert!(!status.message().contains("h2 protocol error"), "{path}: {status:?}");
            }
        }
    }
    assert!(answered > cases / 2, "only {answered} answered");
    let client = server.client().await;
    put(&client, "after all that", "it works").await;
    assert_eq!(get(&client, "after all that").await.as_deref(), Some("it works"));
    let server = server.restart(|_| {}).await;
    let client = server.client().await;
    assert_eq!(get(&client, "after all that").await.as_deref(), Some("it works"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_told_as_such() {
    let server = Server::start().await;
    let wire = crate::wire::Wire::new(&server).await;
    let large = crate::wire::put("k", &"v".repeat(9 << 20));
    let response = wire.send(crate::wire::prewrite(10, vec![large])).await;
    assert!(response.region_error.unwrap().raft_entry_too_large.is_some());
    let long = crate::wire::put(&"k".repeat(9_000), "v");
    let response = wire.send(crate::wire::prewrite(10, vec![long])).await;
    assert!(response.errors[0].abort.contains("too large"));
    server.stop().await;
}
