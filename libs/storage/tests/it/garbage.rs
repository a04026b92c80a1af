//! Tests garbage collection by the rules of PD 8.5 and of PD 9: the same call does what each of
//! them requires.

use dev_kv::{
    PdVersion,
    wire::pdpb::{UpdateServiceGcSafePointRequest, pd_client::PdClient},
};
use storage::{Kv, janitor};
use types::Timestamp;

use crate::{server::Server, tikv::connect};

const VERSIONS: [PdVersion; 2] = [PdVersion::V8_5, PdVersion::V9];

/// Announces, as a backup does, that old versions are needed from `at` on. 0 seconds withdraw that.
async fn announce(server: &Server, at: Timestamp, seconds: i64) {
    let mut pd = PdClient::connect(format!("http://{}", server.endpoint())).await.unwrap();
    let request = UpdateServiceGcSafePointRequest {
        header: None,
        service_id: "backup".into(),
        ttl: seconds,
        safe_point: at.0,
    };
    pd.update_service_gc_safe_point(request).await.unwrap();
}

async fn put(kv: &dyn Kv, value: &str) -> Timestamp {
    let mut txn = kv.begin().await.unwrap();
    txn.put(b"k".to_vec(), value.as_bytes().to_vec());
    txn.commit().await.unwrap();
    kv.timestamp().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_announced_holds_the_safe_point_back_until_it_ends() {
    for version in VERSIONS {
        let server = Server::start_as(version);
        let kv = connect(server.endpoint()).await;
        let first = put(kv.as_ref(), "1").await;
        assert_eq!(kv.collect_garbage(first).await, Ok(first), "{version:?}");
        let backup = put(kv.as_ref(), "2").await;
        announce(&server, backup, 3_600).await;
        let last = put(kv.as_ref(), "3").await;
        assert_eq!(kv.collect_garbage(last).await, Ok(backup), "{version:?}");
        let seen = kv.snapshot(backup).get(b"k").await.unwrap();
        assert_eq!(seen.as_deref(), Some(&b"2"[..]), "{version:?}");
        announce(&server, backup, 0).await;
        assert_eq!(kv.collect_garbage(last).await, Ok(last), "{version:?}");
        // A late janitor asks for an earlier safe point.
        assert!(kv.collect_garbage(first).await.is_ok(), "{version:?}");
        assert_eq!(kv.collect_garbage(last).await, Ok(last), "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_janitor_sweeps_with_either() {
    for version in VERSIONS {
        let server = Server::start_as(version);
        let kv = connect(server.endpoint()).await;
        put(kv.as_ref(), "1").await;
        for _ in 0..2 {
            let config = janitor::JanitorConfig { life_ms: 0, ..janitor::JanitorConfig::default() };
            let swept = janitor::sweep(kv.as_ref(), config).await.unwrap();
            let millisecond = swept.at.physical();
            assert_eq!(swept.safe_point.map(Timestamp::physical), Ok(millisecond), "{version:?}");
        }
    }
}

/// A PD before 9 answers UNIMPLEMENTED to the calls of 9, and gets those that it knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_version_of_pd_is_asked_by_its_own_calls() {
    const BEFORE_9: [&str; 2] = ["UpdateServiceGCSafePoint", "UpdateGCSafePoint"];
    const SINCE_9: &str = "AdvanceGCSafePoint";
    for version in VERSIONS {
        let server = Server::start_as(version);
        let kv = connect(server.endpoint()).await;
        let at = put(kv.as_ref(), "1").await;
        for call in BEFORE_9.into_iter().chain([SINCE_9]) {
            server.look_out_for(call).await;
        }
        assert_eq!(kv.collect_garbage(at).await, Ok(at), "{version:?}");
        for call in BEFORE_9 {
            let expected = version == PdVersion::V8_5;
            assert_eq!(server.was_called(call).await, expected, "{call} of {version:?}");
        }
        let expected = version == PdVersion::V9;
        assert_eq!(server.was_called(SINCE_9).await, expected, "{SINCE_9} of {version:?}");
    }
}
