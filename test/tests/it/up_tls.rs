//! `till up --tls-dir` runs a whole shop that encrypts every hop. Tests it, and the commands that
//! ask it.

use std::{fs, path::Path, time::Duration};

use proto::{
    participant::v1::{PrepareRequest, participant_service_client::ParticipantServiceClient},
    stock::v1::{GetItemRequest, stock_service_client::StockServiceClient},
};
use rpc::{
    net::{Endpoint, GrpcNet},
    tls::TlsDir,
};
use storage::{
    Kv as _,
    tikv::{TikvConfig, TikvKv, TikvTls},
};
use tokio::time::timeout;
use tonic::Code;

use system_test::process::{Shop, post, till};

fn file(directory: &Path, name: &str) -> String {
    directory.join(name).display().to_string()
}

/// Flags of a certificate for calling roles (`tls`) or the store (`store`).
fn flags(kind: &str, directory: &Path, name: &str) -> Vec<String> {
    let [ca, own, key] = ["ca.pem".to_owned(), format!("{name}.pem"), format!("{name}.key")];
    [("ca", ca), ("cert", own), ("key", key)]
        .into_iter()
        .flat_map(|(what, name)| [format!("--{kind}-{what}-file"), file(directory, &name)])
        .collect()
}

fn net(directory: &Path, name: &str) -> GrpcNet {
    let settings = TlsDir::new(directory.to_owned()).args(name);
    GrpcNet::with_tls(settings.load().unwrap())
}

fn run(line: &[&str], flags: &[String]) -> (Option<i32>, String) {
    let mut line = line.to_vec();
    line.extend(flags.iter().map(String::as_str));
    let ended = till(&line);
    let said = [ended.stdout, ended.stderr].concat();
    (ended.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// Whether the store answers a caller with this certificate.
async fn reaches_the_store(shop: &Shop, directory: &Path, name: &str) -> bool {
    let files = TlsDir::new(directory.to_owned());
    let mut config = TikvConfig::new(vec![shop.store()]);
    config.tls =
        Some(TikvTls { ca: files.ca(), cert: files.certificate(name), key: files.key(name) });
    let kv = TikvKv::connect(config).await.unwrap();
    timeout(Duration::from_secs(5), kv.timestamp()).await.is_ok_and(|answer| answer.is_ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_runs_an_encrypted_shop_and_the_others_ask_it() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("tls");
    let shop = Shop::start_with(&["--tls-dir", &directory.display().to_string()]);
    for path in [
        "/stock/batch_init/10/100/5",
        "/payment/batch_init/10/1000",
        "/orders/batch_init/10/10/10/5",
        "/orders/checkout/0",
    ] {
        assert_eq!(post(shop.rest(), path), 200, "{path}");
    }

    // Calls in the clear get no answer.
    let stock: Endpoint = shop.address("stock").trim_start_matches("http://").parse().unwrap();
    let item = || GetItemRequest { item_id: "0".to_owned() };
    let mut plain = StockServiceClient::new(GrpcNet::default().channel(None, &stock));
    assert!(plain.get_item(item()).await.is_err());
    // A client may read, a participant may not prepare at another one, and a coordinator may.
    let client = net(&directory, "client").channel(None, &stock);
    assert!(StockServiceClient::new(client).get_item(item()).await.is_ok());
    let mut codes = Vec::new();
    for name in ["payment", "client", "operator", "coordinator"] {
        let channel = net(&directory, name).channel(None, &stock);
        let mut branch = ParticipantServiceClient::new(channel);
        codes.push(branch.prepare(PrepareRequest::default()).await.unwrap_err().code());
    }
    let refused = Code::PermissionDenied;
    assert_eq!(codes, [refused, refused, refused, Code::InvalidArgument]);

    let coordinator = shop.address("coordinator").replace("http://", "");
    let list = ["tx", "list", "--overdue-ms", "10000", "--coordinator", &coordinator];
    let (code, said) = run(&list, &flags("tls", &directory, "operator"));
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = run(&list, &flags("tls", &directory, "client"));
    assert!(code == Some(1) && said.contains("may not call"), "{said}");
    let (code, said) = run(&[&list[..], &["--timeout-ms", "2000"]].concat(), &[]);
    assert_eq!(code, Some(1), "{said}");

    for (name, may) in [
        ("order", true),
        ("coordinator", true),
        ("operator", true),
        ("client", false),
        ("http-bridge", false),
        // The store's own certificate, which has no identity.
        ("dev-kv", false),
    ] {
        assert_eq!(reaches_the_store(&shop, &directory, name).await, may, "{name}");
    }
    let log = shop.log("dev-kv");
    assert!(log.contains("client may not call this: it may not use the store"), "{log}");

    let audit = ["audit", "--pd-endpoints", &shop.store()];
    let (code, said) = run(&audit, &flags("store", &directory, "operator"));
    assert!(code == Some(0) && said.contains("1 paid"), "{said}");

    let (pid, rest) = (shop.pid().to_string(), format!("http://{}", shop.rest()));
    let bench = ["bench", "--grpc", "--pid", &pid, "--target", &rest, "--concurrency", "4"];
    let small = ["--orders", "200", "--items", "20", "--accounts", "20", "--warm-up-ms", "0"];
    let certificates = ["--duration-ms", "500", "--tls-dir", &directory.display().to_string()];
    let report = file(place.path(), "report.json");
    let line = [&bench[..], &small, &certificates, &["--json", &report]].concat();
    let (code, said) = run(&line, &[]);
    assert_eq!(code, Some(0), "{said}");
    let report = fs::read_to_string(report).unwrap();
    assert!(report.contains("\"clean\": true"), "{report}");
}
