//! Who may do what over TLS. An authority of the test's own makes the certificates.

use std::{fs, time::Duration};

use rpc::{
    access::Identity,
    net::{GrpcNet, Net as _, Transport},
    tls::TlsArgs,
};
use testkit::certificates::Authority;
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};
use types::{ErrorKind, Role};

use crate::shop::{PATIENCE, SERVING, Shop, call, call_path, options};

fn serving(args: &TlsArgs) -> Shop {
    let mut options = options();
    options.tls = args.load_to_serve().unwrap();
    let shop = Shop::open(options);
    shop.readiness.ready();
    shop
}

fn connect(args: &TlsArgs, callee: &str, shop: &Shop) -> Transport {
    let net = GrpcNet::with_tls(args.load().unwrap());
    net.connect_to(&callee.parse().unwrap(), &shop.address.into())
}

const PREPARE: &str = "/till.participant.v1.ParticipantService/Prepare";
const GET_ITEM: &str = "/till.stock.v1.StockService/GetItem";

#[tokio::test]
async fn callers_may_do_what_their_certificate_lets_them() {
    let authority = Authority::default();
    let shop = serving(&authority.settings("stock"));
    // An allowed call fails because no such service is here, which shows that it was let through.
    for (caller, path, kind) in [
        ("coordinator", PREPARE, ErrorKind::Internal),
        ("order", PREPARE, ErrorKind::Forbidden),
        ("http-bridge", PREPARE, ErrorKind::Forbidden),
        ("operator/ann", PREPARE, ErrorKind::Forbidden),
        ("http-bridge", GET_ITEM, ErrorKind::Internal),
        ("order", GET_ITEM, ErrorKind::Internal),
        ("payment", GET_ITEM, ErrorKind::Forbidden),
    ] {
        let transport = connect(&authority.settings(caller), "stock", &shop);
        let failure = call_path(&transport, path, PATIENCE).await.unwrap_err();
        assert_eq!(failure.kind, kind, "{caller} {path}: {failure}");
    }
}

#[tokio::test]
async fn calls_of_a_bundle_are_judged_one_by_one() {
    let authority = Authority::default();
    let shop = serving(&authority.settings("stock"));
    for (caller, kinds) in [
        ("http-bridge", [ErrorKind::Internal, ErrorKind::Forbidden]),
        // The coordinator may not send bundles, so its calls are sent alone.
        ("coordinator", [ErrorKind::Forbidden, ErrorKind::Internal]),
        ("operator/ann", [ErrorKind::Forbidden, ErrorKind::Forbidden]),
    ] {
        let net = GrpcNet::with_tls(authority.settings(caller).load().unwrap()).bundling();
        let transport = net.connect_to(&Identity::of(Role::Stock), &shop.address.into());
        let calls = [GET_ITEM, PREPARE].map(|path| call_path(&transport, path, PATIENCE));
        let told = futures::future::join_all(calls).await;
        let told: Vec<_> = told.into_iter().map(|told| told.unwrap_err().kind).collect();
        assert_eq!(told, kinds, "{caller}");
    }
}

#[tokio::test]
async fn a_caller_without_a_certificate_learns_how_we_are_and_nothing_else() {
    let authority = Authority::default();
    let shop = serving(&authority.settings("stock"));
    let transport = connect(&authority.uncertified(), "stock", &shop);
    let failure = call_path(&transport, GET_ITEM, PATIENCE).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Forbidden);
    assert_eq!(shop.health_over(transport, "").await.unwrap(), SERVING);
}

#[tokio::test]
async fn a_caller_of_another_authority_is_not_let_in() {
    let (authority, other) = (Authority::default(), Authority::default());
    let shop = serving(&authority.settings("stock"));
    // This caller trusts us, and shows a certificate that we do not trust.
    let mut args = other.settings("coordinator");
    args.tls_ca_file = authority.settings("order").tls_ca_file;
    let transport = connect(&args, "stock", &shop);
    let failure = call_path(&transport, PREPARE, PATIENCE).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Unavailable, "{failure}");
    assert!(shop.health_over(transport, "").await.is_err());
}

#[tokio::test]
async fn a_callee_must_be_the_one_that_is_meant() {
    let (authority, other) = (Authority::default(), Authority::default());
    let caller = authority.settings("coordinator");
    let reach = async |args: &TlsArgs, callee: &str| {
        let shop = serving(args);
        call_path(&connect(&caller, callee, &shop), PREPARE, PATIENCE).await.unwrap_err().kind
    };
    assert_eq!(reach(&authority.settings("stock"), "stock").await, ErrorKind::Internal);
    assert_eq!(reach(&authority.settings("stock"), "payment").await, ErrorKind::Unavailable);
    let loyalty = authority.settings("participant/loyalty");
    assert_eq!(reach(&loyalty, "participant/loyalty").await, ErrorKind::Internal);
    assert_eq!(reach(&loyalty, "participant/other").await, ErrorKind::Unavailable);
    assert_eq!(reach(&other.settings("stock"), "stock").await, ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_connection_that_names_no_service_accepts_any_service() {
    let authority = Authority::default();
    let net = GrpcNet::with_tls(authority.settings("operator").load().unwrap());
    let shop = serving(&authority.settings("payment"));
    let transport = net.connect(&shop.address.into());
    assert_eq!(shop.health_over(transport, "").await.unwrap(), SERVING);
    let person = serving(&authority.settings("client/x"));
    assert!(person.health_over(net.connect(&person.address.into()), "").await.is_err());
}

#[tokio::test]
async fn plain_callers_are_not_answered() {
    let authority = Authority::default();
    let shop = serving(&authority.settings("stock"));
    let plain = GrpcNet::default().connect(&shop.address.into());
    let failure = call(&plain, "Echo", Duration::from_secs(2)).await.unwrap_err();
    assert!(failure.is_transient(), "{failure}");
}

#[tokio::test]
async fn without_client_certificates_there_is_no_authorisation() {
    let authority = Authority::default();
    let shop = serving(&TlsArgs { tls_no_client_auth: true, ..authority.settings("stock") });
    let transport = connect(&authority.uncertified(), "stock", &shop);
    assert_eq!(call(&transport, "Echo", PATIENCE).await.unwrap().text, "hello");
}

#[tokio::test]
async fn a_callers_slow_handshake_keeps_nobody_waiting() {
    let authority = Authority::default();
    let shop = serving(&authority.settings("stock"));
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(shop.address).await.unwrap());
    }
    let transport = connect(&authority.settings("order"), "stock", &shop);
    let health = timeout(Duration::from_secs(3), shop.health_over(transport, ""));
    assert_eq!(health.await.unwrap().unwrap(), SERVING);
}

#[tokio::test]
async fn a_handshake_that_does_not_come_ends_its_connection() {
    let authority = Authority::default();
    let shop = serving(&authority.settings("stock"));
    let mut silent = TcpStream::connect(shop.address).await.unwrap();
    let mut said = Vec::new();
    let ended = timeout(Duration::from_secs(15), silent.read_to_end(&mut said)).await;
    assert!(ended.is_ok(), "it is still open");
}

#[tokio::test]
async fn so_many_handshakes_go_on_at_once_and_no_more() {
    let authority = Authority::default();
    let shop = serving(&authority.settings("stock"));
    let caller = authority.settings("order");
    let is_served = async || {
        let health = shop.health_over(connect(&caller, "stock", &shop), "");
        matches!(timeout(Duration::from_millis(500), health).await, Ok(Ok(SERVING)))
    };
    let mut silent = Vec::new();
    for _ in 0..256 {
        silent.push(TcpStream::connect(shop.address).await.unwrap());
    }
    assert!(!is_served().await, "there is a place for one more");
    drop(silent);
    let freed = async {
        while !is_served().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, freed).await.expect("their places are free again");
}

#[tokio::test]
async fn certificates_that_changed_count_for_new_connections() {
    let authority = Authority::default();
    let args = authority.settings("stock");
    let tls = args.load_to_serve().unwrap().unwrap();
    let mut options = options();
    options.tls = Some(tls.clone());
    let shop = Shop::open(options);
    shop.readiness.ready();
    let caller = authority.settings("coordinator");
    let net = GrpcNet::with_tls(caller.load().unwrap());
    let reach = async |callee: Role| {
        let transport = net.connect_to(&Identity::of(callee), &shop.address.into());
        call_path(&transport, PREPARE, PATIENCE).await.unwrap_err().kind
    };
    assert_eq!(reach(Role::Stock).await, ErrorKind::Internal);
    assert!(!tls.reload().unwrap(), "nothing has changed");

    // A half-written file changes nothing.
    fs::write(authority.path("stock.pem"), "-----BEGIN CERTIFICATE-----\nMII").unwrap();
    tls.reload().unwrap_err();
    assert_eq!(reach(Role::Stock).await, ErrorKind::Internal);
    // Nor does a certificate without its key.
    authority.write("other", &["spiffe://till/payment"]);
    fs::copy(authority.path("other.pem"), authority.path("stock.pem")).unwrap();
    tls.reload().unwrap_err();
    assert_eq!(reach(Role::Stock).await, ErrorKind::Internal);

    fs::copy(authority.path("other.key"), authority.path("stock.key")).unwrap();
    assert!(tls.reload().unwrap());
    assert_eq!(reach(Role::Stock).await, ErrorKind::Unavailable);
    assert_eq!(reach(Role::Payment).await, ErrorKind::Internal);
}

#[tokio::test(start_paused = true)]
async fn files_are_looked_at_without_being_asked() {
    let authority = Authority::default();
    let shop = serving(&authority.settings("stock"));
    let caller = authority.settings("coordinator");
    authority.write("stock", &["spiffe://till/payment"]);
    tokio::time::sleep(Duration::from_secs(25)).await;
    tokio::time::resume();
    let transport = connect(&caller, "payment", &shop);
    let failure = call_path(&transport, PREPARE, PATIENCE).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Internal, "{failure}");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_and_not_quoted() {
    let authority = Authority::default();
    let refused = |args: &TlsArgs| {
        let error = args.load_to_serve().unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error} {source:?} {error:?}")
    };
    let args = authority.settings("stock");
    authority.write("nobody", &["https://example.com"]);
    assert!(refused(&authority.args("nobody")).contains("nobody.pem"));
    authority.write("both", &["spiffe://till/stock", "spiffe://till/coordinator"]);
    assert!(refused(&authority.args("both")).contains("several"));
    assert!(refused(&authority.uncertified()).contains("--tls-cert-file"));
    let missing = TlsArgs { tls_ca_file: Some("/nowhere/ca.pem".into()), ..args.clone() };
    assert!(refused(&missing).contains("/nowhere/ca.pem"));

    let secret = fs::read_to_string(authority.path("stock.key")).unwrap();
    let secret = secret.lines().nth(1).unwrap().to_owned();
    fs::write(authority.path("stock.key"), format!("-----BEGIN PRIVATE KEY-----\n{secret}!"))
        .unwrap();
    let said = refused(&args);
    assert!(said.contains("stock.key") && !said.contains(&secret), "{said}");
    fs::copy(authority.path("ca.pem"), authority.path("stock.pem")).unwrap();
    assert!(!format!("{args:?}").contains(&secret));
}
