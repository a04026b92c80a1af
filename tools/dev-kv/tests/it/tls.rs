//! TLS by file paths. `tls/make.sh` has made the files.

use crate::support::{Server, get, put};
use dev_kv::TlsPaths;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tikv_client::TransactionClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject as _};

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
async fn a_client_of_the_right_authority_may_still_be_refused() {
    let ours = std::fs::read_to_string(file("ours.pem")).unwrap();
    for admits in [true, false] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let server = Server::start_with(|config| {
            config.tls = Some(TlsPaths {
                cert: file("ours.pem"),
                key: file("ours.key"),
                ca: Some(file("ours-ca.pem")),
            });
            config.admit = Some(Arc::new(move |certificate: &[u8]| {
                noted.lock().unwrap().push(certificate.to_vec());
                if admits { Ok(()) } else { Err("not on the list".to_owned()) }
            }));
        })
        .await;
        let config = tikv_client::Config::default().with_security(
            file("ours-ca.pem"),
            file("ours.pem"),
            file("ours.key"),
        );
        let client = TransactionClient::new_with_config(vec![server.address.clone()], config);
        let client = tokio::time::timeout(Duration::from_secs(20), client).await.unwrap();
        assert_eq!(client.is_ok(), admits);
        let shown = CertificateDer::from_pem_slice(ours.as_bytes()).unwrap();
        assert_eq!(seen.lock().unwrap().first().map(Vec::as_slice), Some(&*shown));
        drop(client);
        server.stop().await;
    }
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

/// The time limit is ten seconds. That on a first request begins only after the handshake.
#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_does_not_end_is_cut() {
    let server = Server::start_with(|config| {
        let (cert, key) = (file("ours.pem"), file("ours.key"));
        config.tls = Some(TlsPaths { cert, key, ca: None });
        config.bounds.first_request = Duration::from_mins(10);
    })
    .await;
    // The head of a record that holds the beginning of a handshake, and no more.
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
    let cut = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut [0; 64])).await;
    assert!(matches!(cut, Ok(Ok(0) | Err(_))), "{cut:?}");
    server.stop().await;
}
