//! Tests placement drivers that hang, refuse, have no name or are replaced: the backend goes on
//! with the others.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use storage::{
    Kv as _,
    tikv::{TikvConfig, TikvKv, TikvTls},
};
use tokio::{net::TcpListener, time::timeout};

use crate::server::Server;

/// Longest that a step may take if one member works. Each member that hangs is given up after
/// `PATIENCE_MS`.
const SOON: Duration = Duration::from_secs(5);
const PATIENCE_MS: u64 = 1_500;

fn config(endpoints: Vec<String>) -> TikvConfig {
    let mut config = TikvConfig::new(endpoints);
    config.request_timeout_ms = PATIENCE_MS;
    config.timestamp_timeout_ms = 500;
    config.call_timeout_ms = 3_000;
    config
}

/// A store with `members` placement drivers.
fn start(members: usize) -> Server {
    Server::start_configured(|config| {
        config.pd_listen = vec!["127.0.0.1:0".parse().unwrap(); members - 1];
    })
}

async fn until_it_answers(kv: &TikvKv) {
    let begun = Instant::now();
    while let Err(error) = timeout(SOON, kv.timestamp()).await.unwrap() {
        assert!(begun.elapsed() < SOON, "{error}");
    }
}

#[tokio::test]
async fn a_role_starts_beside_endpoints_that_hang_refuse_or_have_no_name() {
    let server = Server::start();
    // It accepts connections and never answers, like a stopped process.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = Server::reserve();
    let useless = [
        silent.local_addr().unwrap().to_string(),
        refusing.endpoint().to_string(),
        "pd.invalid:2379".to_owned(),
    ];
    for other in &useless {
        for endpoints in [
            vec![server.endpoint().to_string(), other.clone()],
            vec![other.clone(), server.endpoint().to_string()],
        ] {
            let kv = TikvKv::connect(config(endpoints)).await.unwrap();
            until_it_answers(&kv).await;
        }
    }
    let endpoints = [&useless[..], &[server.endpoint().to_string()]].concat();
    until_it_answers(&TikvKv::connect(config(endpoints)).await.unwrap()).await;
}

/// The client alone would ask each member that PD lists before it turns to the leader.
#[tokio::test]
async fn a_role_starts_while_a_member_hangs_that_it_was_not_told_of() {
    for (leader, hanging) in [(1, 2), (1, 3), (2, 1), (3, 1), (3, 2)] {
        let server = start(3);
        server.member(leader, Some(false), true).await;
        server.member(hanging, Some(true), false).await;
        let endpoints = server.members().await;
        let index = usize::try_from(leader).unwrap() - 1;
        let kv = TikvKv::connect(config(vec![endpoints[index].clone()])).await.unwrap();
        until_it_answers(&kv).await;
        let kv = TikvKv::connect(config(endpoints)).await.unwrap();
        until_it_answers(&kv).await;
    }
}

#[tokio::test]
async fn a_backend_follows_a_new_leader_while_the_old_one_hangs() {
    let server = start(3);
    let kv = TikvKv::connect(config(server.members().await)).await.unwrap();
    until_it_answers(&kv).await;
    // Each member hangs in turn, so that the hanging one is at every place in the list.
    for next in [2, 3, 1, 2] {
        let leader = (next + 1) % 3 + 1;
        server.member(leader, Some(true), false).await;
        let outcome = timeout(SOON * 3, kv.timestamp()).await.expect("a call is bounded in time");
        assert!(outcome.is_err(), "nobody leads that answers");
        server.member(next, None, true).await;
        until_it_answers(&kv).await;
        server.member(leader, Some(false), false).await;
    }
}

#[tokio::test]
async fn a_role_that_was_told_of_a_follower_alone_finds_the_leader() {
    let server = start(3);
    let members = server.members().await;
    for (leader, told) in [(1, 2), (1, 3), (2, 3), (3, 1)] {
        server.member(leader, None, true).await;
        let kv = TikvKv::connect(config(vec![members[told - 1].clone()])).await.unwrap();
        until_it_answers(&kv).await;
    }
}

/// The only member that it was told of is the one that hangs.
#[tokio::test]
async fn a_backend_follows_a_new_leader_that_only_the_old_one_told_it_of() {
    let server = start(3);
    let members = server.members().await;
    let kv = TikvKv::connect(config(vec![members[0].clone()])).await.unwrap();
    until_it_answers(&kv).await;
    server.member(1, Some(true), false).await;
    server.member(2, None, true).await;
    until_it_answers(&kv).await;
}

#[tokio::test]
async fn addresses_of_two_stores_are_not_connected_to() {
    let one = Server::start();
    // Clusters are told apart by the millisecond in which they began. The first one has begun once
    // it answers.
    let first = TikvKv::connect(config(vec![one.endpoint().to_string()])).await.unwrap();
    until_it_answers(&first).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    let other = Server::start();
    let endpoints = vec![one.endpoint().to_string(), other.endpoint().to_string()];
    let kv = TikvKv::connect(config(endpoints)).await.unwrap();
    assert!(timeout(SOON * 3, kv.timestamp()).await.unwrap().is_err());
}

fn file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../tools/dev-kv/tests/it/tls", name].iter().collect()
}

#[tokio::test]
async fn with_tls_a_member_that_hangs_is_got_past_as_well() {
    let (ca, cert, key) = (file("ours-ca.pem"), file("ours.pem"), file("ours.key"));
    let server = Server::start_configured(|config| {
        config.pd_listen = vec!["127.0.0.1:0".parse().unwrap(); 2];
        config.pd_hanging = vec![2];
        let (ca, cert, key) = (Some(ca.clone()), cert.clone(), key.clone());
        config.tls = Some(dev_kv::TlsPaths { cert, key, ca });
    });
    let mut config = config(vec![server.endpoint().to_string()]);
    config.tls = Some(TikvTls { ca, cert, key });
    until_it_answers(&TikvKv::connect(config).await.unwrap()).await;
}
