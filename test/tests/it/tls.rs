//! A shop that encrypts every hop, the store's included: it sells, and a caller without permission
//! is refused.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use prost_reflect::DescriptorPool;
use proto::{
    coordinator::v1::{
        CheckoutRequest, ListUnresolvedRequest, ResolveRequest,
        coordinator_service_client::CoordinatorServiceClient,
        transaction_service_client::TransactionServiceClient,
    },
    participant::v1::{
        AbortRequest, ApplyRequest, CommitRequest, DescribeRequest, PrepareRequest,
        participant_service_client::ParticipantServiceClient,
    },
    payment::v1::{GetUserRequest, payment_service_client::PaymentServiceClient},
    stock::v1::{GetItemRequest, SubtractStockRequest, stock_service_client::StockServiceClient},
};
use rpc::{access, net::GrpcNet};
use tonic::{Code, transport::Channel};
use types::Role;

use system_test::process::{executable, free_block, till};
use testkit::certificates::Authority;

/// Processes that are killed when this is dropped.
struct Shop {
    authority: Authority,
    children: Vec<Child>,
    base: u16,
}

impl Shop {
    fn start() -> Self {
        let mut shop =
            Self { authority: Authority::default(), children: Vec::new(), base: free_block() };
        shop.authority.for_store("store");
        shop.authority.for_store("store-client");
        let path = |file: &str| shop.authority.path(file).display().to_string();
        let kv = format!("127.0.0.1:{}", shop.base + 60);
        let store = [
            ("listen", kv.clone()),
            ("data-dir", path("data")),
            ("tls-ca-file", path("ca.pem")),
            ("tls-cert-file", path("store.pem")),
            ("tls-key-file", path("store.key")),
        ];
        let flags = store.map(|(flag, value)| [format!("--{flag}"), value]).concat();
        shop.run("dev-kv", flags);
        for role in Role::ALL {
            let mut flags = vec!["--listen".to_owned(), shop.address(role.name())];
            flags.extend(shop.authority.flags(role.name()));
            for callee in role.calls().iter().map(|callee| callee.name()) {
                flags.extend([format!("--{callee}-endpoints"), shop.address(callee)]);
            }
            if role.keeps_state() {
                flags.extend(["--pd-endpoints".to_owned(), kv.clone()]);
                flags.extend(shop.authority.store_flags());
            }
            shop.run(role.name(), flags);
        }
        shop.wait();
        shop
    }

    fn run(&mut self, role: &str, flags: Vec<String>) {
        let log = fs::File::create(self.authority.path(&format!("{role}.log"))).unwrap();
        let child = Command::new(executable())
            .arg(role)
            .args(flags)
            .env_remove("PD_ENDPOINTS")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    /// Waits until every role reports ready to a caller without a certificate.
    fn wait(&self) {
        let begun = Instant::now();
        let ca = self.authority.path("ca.pem").display().to_string();
        for role in Role::ALL.map(Role::name) {
            let endpoint = self.address(role);
            let how = if role == "http-bridge" { "--http" } else { "--service=" };
            let ready = || till(&["health", "--endpoint", &endpoint, how, "--tls-ca-file", &ca]);
            while !ready().status.success() {
                let log = fs::read_to_string(self.authority.path(&format!("{role}.log"))).unwrap();
                assert!(begun.elapsed() < Duration::from_mins(2), "{role} is not ready:\n{log}");
                sleep(Duration::from_millis(50));
            }
        }
    }

    fn address(&self, role: &str) -> String {
        let role = Role::named(role).unwrap();
        let is_rest = role == Role::HttpBridge;
        let above = if is_rest { 0 } else { 100 + role.port() - Role::Coordinator.port() };
        format!("127.0.0.1:{}", self.base + above)
    }

    /// Makes a request; returns the status and the body of the answer.
    fn rest(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address("http-bridge")).unwrap();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, body.to_owned())
    }

    /// A channel to a role, with the certificate of `caller`.
    fn channel(&self, caller: &str, role: &str) -> Channel {
        let tls = self.authority.settings(caller).load().unwrap();
        let endpoint = self.address(role).parse().unwrap();
        GrpcNet::with_tls(tls).channel(Some(&role.parse().unwrap()), &endpoint)
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// The code of an answer; OK if the call succeeded.
fn code<T>(answer: Result<T, tonic::Status>) -> Code {
    answer.err().map_or(Code::Ok, |status| status.code())
}

/// The code that one identity gets for each kind of call, in the order of [`EDGES`].
async fn codes(shop: &Shop, caller: &str) -> Vec<Code> {
    let channel = |role| shop.channel(caller, role);
    let mut stock = StockServiceClient::new(channel("stock"));
    let mut payment = PaymentServiceClient::new(channel("payment"));
    let mut branch = ParticipantServiceClient::new(channel("stock"));
    let mut coordinator = CoordinatorServiceClient::new(channel("coordinator"));
    let mut transactions = TransactionServiceClient::new(channel("coordinator"));
    let checkout = CheckoutRequest { order_id: "0".to_owned(), ..CheckoutRequest::default() };
    let subtract = SubtractStockRequest::default();
    vec![
        code(stock.get_item(GetItemRequest { item_id: "0".to_owned() }).await),
        code(stock.subtract_stock(subtract).await),
        code(payment.get_user(GetUserRequest { user_id: "0".to_owned() }).await),
        code(branch.describe(DescribeRequest {}).await),
        code(branch.prepare(PrepareRequest::default()).await),
        code(branch.commit(CommitRequest::default()).await),
        code(branch.abort(AbortRequest::default()).await),
        code(branch.apply(ApplyRequest::default()).await),
        code(coordinator.checkout(checkout).await),
        code(coordinator.resolve(ResolveRequest::default()).await),
        code(transactions.list_unresolved(ListUnresolvedRequest::default()).await),
    ]
}

/// The calls that [`codes`] makes, and who may make them.
const EDGES: [(&str, &[&str]); 11] = [
    ("GetItem", &["http-bridge", "order", "client/app"]),
    ("SubtractStock", &["http-bridge", "client/app"]),
    ("GetUser", &["http-bridge", "client/app"]),
    ("Describe", &["http-bridge", "order", "coordinator", "client/app", "operator/ann"]),
    ("Prepare", &["coordinator"]),
    ("Commit", &["coordinator"]),
    ("Abort", &["coordinator"]),
    ("Apply", &["coordinator"]),
    ("Checkout", &["http-bridge", "client/app"]),
    ("Resolve", &["order", "stock", "payment"]),
    ("ListUnresolved", &["operator/ann", "http-bridge"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_shop_sells_and_refuses_callers_without_a_right() {
    let shop = Shop::start();
    for path in [
        "/stock/batch_init/10/100/5",
        "/payment/batch_init/10/1000",
        "/orders/batch_init/10/10/10/5",
        "/orders/checkout/0",
    ] {
        assert_eq!(shop.rest("POST", path).0, 200, "{path}");
    }
    let (status, order) = shop.rest("GET", "/orders/find/0");
    assert!(status == 200 && order.contains("\"paid\":true"), "{status} {order}");
    // The order service asks stock for the price.
    let (status, answer) = shop.rest("POST", "/orders/addItem/1/3/2");
    assert_eq!(status, 200, "{answer}");

    let callers = ["http-bridge", "order", "stock", "payment", "coordinator"];
    for caller in callers.into_iter().chain(["client/app", "operator/ann"]) {
        for ((call, allowed), code) in EDGES.into_iter().zip(codes(&shop, caller).await) {
            let refused = code == Code::PermissionDenied;
            assert_eq!(refused, !allowed.contains(&caller), "{caller} {call}: {code}");
            assert_ne!(code, Code::Unavailable, "{caller} {call}");
        }
    }
    the_tools_need_the_right_certificate(&shop);
}

fn the_tools_need_the_right_certificate(shop: &Shop) {
    let endpoint = shop.address("coordinator");
    let list = |flags: &[String]| {
        let mut args = vec!["tx", "list", "--unresolved", "--overdue-ms", "10000"];
        args.extend(["--coordinator", &endpoint]);
        args.extend(flags.iter().map(String::as_str));
        till(&args)
    };
    let told = list(&shop.authority.flags("operator/ann"));
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let told = list(&shop.authority.flags("stock"));
    assert_eq!(told.status.code(), Some(1), "a service is no operator");
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(said.contains("may not call"), "{said}");

    let kv = format!("127.0.0.1:{}", shop.base + 60);
    let mut args = vec!["audit", "--pd-endpoints", &kv];
    let flags = shop.authority.store_flags();
    args.extend(flags.iter().map(String::as_str));
    let audit = till(&args);
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
}

fn may_call(caller: &str, path: &str) -> bool {
    let peer = access::Peer(Some(caller.parse().unwrap()));
    access::check(Some(&peer), path).is_ok()
}

#[test]
fn every_method_has_somebody_who_may_call_it() {
    let callers = ["coordinator", "order", "stock", "http-bridge", "client", "operator"];
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
    let mut methods = 0;
    for service in pool.services() {
        for method in service.methods() {
            let path = format!("/{}/{}", service.full_name(), method.name());
            assert!(callers.iter().any(|caller| may_call(caller, &path)), "nobody may call {path}");
            methods += 1;
        }
    }
    assert!(methods > 25, "{methods}");
}

/// The gRPC services of a role.
fn services(role: &str) -> Vec<String> {
    match role {
        "coordinator" => ["CoordinatorService", "TransactionService"]
            .map(|name| format!("till.coordinator.v1.{name}"))
            .to_vec(),
        "http-bridge" => Vec::new(),
        service => {
            let mut name = service.to_owned();
            name[..1].make_ascii_uppercase();
            vec![
                format!("till.{service}.v1.{name}Service"),
                "till.participant.v1.ParticipantService".to_owned(),
            ]
        }
    }
}

#[test]
fn network_policies_of_the_chart_say_the_same() {
    let helpers =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../helm-config/till/templates/_helpers.tpl");
    let helpers = fs::read_to_string(helpers).unwrap();
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
    let roles = ["order", "stock", "payment", "coordinator", "http-bridge"];
    for caller in roles {
        let row = helpers.lines().find(|line| line.starts_with(&format!("{caller}:"))).unwrap();
        let (_, calls) = row.split_once("calls: [").unwrap();
        let calls: Vec<&str> = calls.trim_end_matches("]}").split(", ").collect();
        for callee in roles {
            // A role asks Describe only of roles that it calls for something else.
            let needed = services(callee).iter().any(|service| {
                let service = pool.get_service_by_name(service).unwrap();
                let mut methods = service.methods().filter(|method| method.name() != "Describe");
                methods.any(|method| {
                    let path = format!("/{}/{}", service.full_name(), method.name());
                    may_call(caller, &path)
                })
            });
            assert_eq!(calls.contains(&callee), needed, "{caller} -> {callee}");
        }
    }
}

#[test]
fn a_role_does_not_start_with_the_certificate_of_another() {
    let authority = Authority::default();
    for (role, other) in [
        ("order", "stock"),
        ("stock", "payment"),
        ("payment", "order"),
        ("coordinator", "client/app"),
        ("http-bridge", "coordinator"),
    ] {
        let mut args = vec![role, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        let flags = authority.flags(other);
        args.extend(flags.iter().map(String::as_str));
        let ended = till(&args);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{role}: {said}");
        let file = format!("{}.pem is not for us", other.replace('/', "-"));
        let whose = format!("it is {other}'s, not {role}'s");
        assert!(said.contains(&file) && said.contains(&whose), "{role}: {said}");
    }
    // Nor does the store start with a role's certificate, for which its callers would take it to be
    // that role.
    let flags = authority.flags("order");
    let mut args = vec!["dev-kv", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    args.extend(flags.iter().map(String::as_str));
    let ended = till(&args);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(1) && said.contains("order's, not dev-kv's"), "{said}");
}
