//! TLS by file paths; `tls/make.sh` made the files.

use crate::support::{Server, get, put};
use dev_kv::TlsPaths;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tikv_client::TransactionClient;

fn file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/it/tls", name].iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_authority_only_those_it_vouches_for_are_served() {
    let server = Server::start_with(|config| {
        config.tls = Some(TlsPaths {
            cert: file("ours.pem"),
            key: file("ours.key"),
            ca: Some(file("ours-ca.pem")),
        });
    })
    .await;
    let connect = async |identity: Option<&str>| {
        let mut config = tikv_client::Config::default();
        if let Some(name) = identity {
            let (cert, key) = (file(&format!("{name}.pem")), file(&format!("{name}.key")));
            config = config.with_security(file("ours-ca.pem"), cert, key);
        }
        let client = TransactionClient::new_with_config(vec![server.address.clone()], config);
        tokio::time::timeout(Duration::from_secs(20), client).await.unwrap()
    };
    let client = connect(Some("ours")).await.unwrap();
    put(&client, "k", "over tls").await;
    assert_eq!(get(&client, "k").await.as_deref(), Some("over tls"));
    assert!(connect(Some("theirs")).await.is_err(), "another authority's client was served");
    assert!(connect(None).await.is_err(), "a client without tls was served");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_there_is_named() {
    let data = TempDir::new().unwrap();
    let server = Server::open(&data.path().join("kv"), |config| {
        config.tls = Some(TlsPaths { cert: file("nowhere.pem"), key: file("ours.key"), ca: None });
    })
    .await;
    let error = server.ended().await.unwrap_err().to_string();
    assert!(error.contains("nowhere.pem"), "{error}");
}
