//! Tests what real processes send to a collector.
//!
//! Goal: one checkout is one trace from its REST call to every KV transaction that it needs,
//! batches say which requests they carry, a process that is told to end first sends what is left,
//! and a collector that is away disturbs nobody. Method: an OTLP collector in this process, roles
//! that would send nothing for ten minutes, and SIGTERM.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Command, Stdio},
    slice, thread,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tonic::transport::{Identity, ServerTlsConfig};

use system_test::process::{Shop, end, executable, free_block};
use testkit::certificates::Authority;

use crate::collector::{Collector, Sent, Span};

const CHECKOUT: &str = "till.coordinator.v1.CoordinatorService/Checkout";
const APPLY: &str = "till.participant.v1.ParticipantService/Apply";

/// With these variables a process sends nothing until it ends.
const AT_THE_END: [(&str, &str); 4] = [
    ("OTEL_BSP_SCHEDULE_DELAY", "600000"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "100000"),
    ("OTEL_BLRP_SCHEDULE_DELAY", "600000"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "600000"),
];

/// Id of the caller's span, in each trace.
const CALLER: u64 = 0xca11;

/// Makes a REST call in the caller's trace `trace`. It must succeed.
fn post(port: u16, path: &str, trace: u128) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\
         traceparent: 00-{trace:032x}-{CALLER:016x}-01\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
}

/// Fills a shop with a hundred orders of one item each.
fn fill(port: u16) {
    post(port, "/stock/batch_init/10/1000/5", 1);
    post(port, "/payment/batch_init/10/100000", 2);
    post(port, "/orders/batch_init/100/10/10/5", 3);
}

/// The spans of a trace.
struct Tree<'a>(Vec<&'a Span>);

impl<'a> Tree<'a> {
    fn of(sent: &'a Sent, trace: u128) -> Self {
        let trace = trace.to_be_bytes();
        Self(sent.spans.iter().filter(|span| span.trace == trace).collect())
    }

    fn below(&self, parent: &[u8], name: &str) -> Vec<&'a Span> {
        let is_it = |span: &&&Span| span.parent == parent && span.name == name;
        self.0.iter().filter(is_it).copied().collect()
    }

    /// The one span of this name below `parent`.
    fn only(&self, parent: &[u8], name: &str, service: &str, kind: SpanKind) -> &'a Span {
        let found = self.below(parent, name);
        let [span] = found[..] else {
            panic!("{} times {name} below {parent:x?} in {:#?}", found.len(), self.0)
        };
        assert_eq!((span.service.as_str(), span.kind), (service, kind), "{name}");
        span
    }
}

/// Trace of a checkout that runs alone, and then traces of enough simultaneous ones to make
/// batches.
const ALONE: u128 = 0xa;
const AT_ONCE: std::ops::Range<u128> = 0x20..0x40;

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_is_one_trace_and_what_is_left_is_sent_at_the_end() {
    let (collector, endpoint) = Collector::grpc(None).await;
    let mut variables = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20key"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=a%20test%2C%20of%20ours"),
    ];
    variables.extend(AT_THE_END);
    let mut shop = Shop::start_within(&variables);
    let port = shop.http_port();
    fill(port);
    post(port, "/orders/checkout/0", ALONE);
    let buyers = AT_ONCE.map(|trace| {
        thread::spawn(move || post(port, &format!("/orders/checkout/{trace}"), trace))
    });
    buyers.collect::<Vec<_>>().into_iter().for_each(|buyer| buyer.join().unwrap());
    collector.look(|sent| assert!(sent.metrics.is_empty() && sent.logs.is_empty()));

    shop.end();

    collector.look(|sent| {
        everything_came(sent);
        a_lone_checkout_is_a_tree(sent);
        batches_are_linked(sent);
    });
}

fn everything_came(sent: &Sent) {
    let roles = ["coordinator", "order", "stock", "payment", "http-bridge"];
    for role in roles.map(|role| format!("till-{role}")) {
        assert!(sent.spans.iter().any(|span| span.service == role), "spans of {role}");
        assert!(sent.metrics.iter().any(|(service, _)| *service == role), "metrics of {role}");
        assert!(sent.logs.iter().any(|(service, _)| *service == role), "logs of {role}");
    }
    // Metrics are sent from the same pipeline as /metrics, so one of them is enough.
    let counted = sent.metrics.iter().any(|(service, metric)| {
        service == "till-coordinator" && metric.name == "till.checkouts" && metric.data.is_some()
    });
    assert!(counted, "checkouts are counted");
    assert!(!sent.keys.is_empty() && sent.keys.iter().all(|key| key == "a key"), "{:?}", sent.keys);
    for resource in &sent.resources {
        assert_eq!(resource["deployment.environment.name"], "a test, of ours");
        assert!(resource.contains_key("service.instance.id"), "{resource:?}");
    }
    // A process's own chores make no traces.
    assert!(
        sent.spans.iter().all(|span| span.name != "batch of a lane" || !span.parent.is_empty())
    );
}

fn a_lone_checkout_is_a_tree(sent: &Sent) {
    let tree = Tree::of(sent, ALONE);
    let route = "POST /orders/checkout/{order_id}";
    let rest = tree.only(&CALLER.to_be_bytes(), route, "till-http-bridge", SpanKind::Server);
    assert_eq!(rest.told("http.response.status_code"), "200");
    assert_eq!(rest.told("http.route"), "/orders/checkout/{order_id}");
    let asks = tree.only(&rest.id, CHECKOUT, "till-http-bridge", SpanKind::Client);
    assert_eq!(asks.told("rpc.response.status_code"), "OK");
    let asked = tree.only(&asks.id, CHECKOUT, "till-coordinator", SpanKind::Server);
    let whole = tree.only(&asked.id, "transaction", "till-coordinator", SpanKind::Internal);
    assert_eq!(
        (whole.told("till.order.id"), whole.told("till.tx.outcome")),
        ("0".into(), "committed".into())
    );

    let mut services = BTreeSet::new();
    for prepare in tree.below(&whole.id, "prepare") {
        let branch = prepare.told("till.branch");
        let (service, _) = branch.split_once('/').unwrap();
        services.insert(service.to_owned());
        let role = format!("till-{service}");
        let batch =
            tree.only(&prepare.id, "batch of messages", "till-coordinator", SpanKind::Internal);
        assert_eq!(batch.links, slice::from_ref(&prepare.id));
        let sends = tree.only(&batch.id, APPLY, "till-coordinator", SpanKind::Client);
        let taken = tree.only(&sends.id, APPLY, &role, SpanKind::Server);
        let lane = tree.only(&taken.id, "batch of a lane", &role, SpanKind::Internal);
        assert_eq!(
            (lane.told("till.branch"), lane.links.as_slice()),
            (branch, slice::from_ref(&taken.id))
        );
        let stored = tree.only(&lane.id, "kv transaction", &role, SpanKind::Internal);
        assert_eq!(stored.told("till.kv.outcome"), "committed");
        let commit = tree.only(&stored.id, "commit", &role, SpanKind::Client);
        assert_eq!(commit.told("db.system.name"), "tikv");
    }
    let expected = ["order", "payment", "stock"].map(str::to_owned);
    assert_eq!(services, BTreeSet::from(expected));
}

/// Every batch of messages and every batch of a lane links to the requests that it carries.
fn batches_are_linked(sent: &Sent) {
    let linked = |name: &str| {
        let batches = sent.spans.iter().filter(|span| span.name == name);
        batches.flat_map(|batch| batch.links.iter()).collect::<BTreeSet<_>>()
    };
    let (by_mail, by_lanes) = (linked("batch of messages"), linked("batch of a lane"));
    for trace in AT_ONCE {
        let tree = Tree::of(sent, trace);
        let prepares: Vec<_> = tree.0.iter().filter(|span| span.name == "prepare").collect();
        assert!(prepares.len() >= 3, "{prepares:#?}");
        assert!(prepares.iter().all(|prepare| by_mail.contains(&prepare.id)));
    }
    let arrived =
        sent.spans.iter().filter(|span| span.name == APPLY && span.kind == SpanKind::Server);
    for apply in arrived {
        assert!(by_lanes.contains(&apply.id), "{apply:?}");
    }
    let shared =
        |name: &str| sent.spans.iter().any(|span| span.name == name && span.links.len() > 1);
    assert!(shared("batch of messages"), "32 checkouts at once share no message");
    assert!(sent.spans.iter().all(|span| span.links.len() <= 128));
}

/// Runs a store with these variables until it listens, then ends it; returns how long the end took.
fn run_store(variables: &[(&str, &str)]) -> Duration {
    let directory = tempfile::tempdir().unwrap();
    let port = free_block();
    let mut store = Command::new(executable())
        .args(["dev-kv", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
        .arg(directory.path())
        .envs(variables.iter().copied())
        .envs(AT_THE_END)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the store does not listen");
        thread::sleep(Duration::from_millis(20));
    }
    let told = Instant::now();
    end(&mut store);
    told.elapsed()
}

fn came(collector: &Collector) {
    collector.look(|sent| {
        assert!(sent.metrics.iter().any(|(service, _)| service == "till-dev-kv"));
        assert!(sent.logs.iter().any(|(service, _)| service == "till-dev-kv"));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn telemetry_goes_over_http_unless_told_otherwise() {
    let (collector, endpoint) = Collector::http().await;
    run_store(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=1"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
    ]);
    came(&collector);
    collector.look(|sent| assert!(sent.keys.iter().all(|key| key == "1"), "{:?}", sent.keys));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_believed_when_the_authority_that_was_named_vouches_for_it() {
    let authority = Authority::default();
    authority.for_store("collector");
    let read = |file: &str| std::fs::read(authority.path(file)).unwrap();
    let identity = Identity::from_pem(read("collector.pem"), read("collector.key"));
    let tls = ServerTlsConfig::new().identity(identity);
    let (collector, endpoint) = Collector::grpc(Some(tls)).await;
    let ca = authority.path("ca.pem");
    let mut variables = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ];
    run_store(&variables);
    collector.look(|sent| assert!(sent.metrics.is_empty() && sent.logs.is_empty()));
    variables.push(("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.to_str().unwrap()));
    run_store(&variables);
    came(&collector);
}

#[test]
fn a_collector_that_is_away_is_in_nobodys_way_and_is_told_of_once() {
    // This collector accepts connections and says nothing, which is worse than one that refuses.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let mut shop = Shop::start_within(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "200"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "50"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
    ]);
    fill(shop.http_port());
    for order in 0..20 {
        post(shop.http_port(), &format!("/orders/checkout/{order}"), 0x200 + order);
    }
    thread::sleep(Duration::from_secs(2));
    let begun = Instant::now();
    shop.end();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    for role in ["coordinator", "order", "stock", "payment", "http-bridge"] {
        let log = shop.log(role);
        let told = log.lines().filter(|line| line.contains("telemetry cannot be sent"));
        assert_eq!(told.count(), 1, "{log}");
    }
}

#[test]
fn what_is_not_understood_is_refused_at_the_start_by_its_name() {
    let secret = "Authorization: Bearer secret";
    for (variable, value, seen) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon", true),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1", true),
        ("OTEL_EXPORTER_OTLP_HEADERS", secret, false),
        ("OTEL_RESOURCE_ATTRIBUTES", "secret", false),
        ("TILL_LOG", "inof", true),
    ] {
        for command in ["dev-kv --listen 127.0.0.1:0", "order --print-config", "up --print-config"]
        {
            let output = Command::new(executable())
                .args(command.split(' '))
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
                .env(variable, value)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(64), "{command} with {variable}");
            let told = String::from_utf8(output.stderr).unwrap();
            assert!(told.contains(variable), "{command}: {told}");
            assert_eq!(told.contains(value), seen, "{command}: {told}");
            assert!(!told.contains("secret"), "{command}: {told}");
        }
    }
}

/// Starts a process with these variables, which must get past its telemetry. Returns its standard
/// error.
fn starts(variables: &[(&str, &str)]) -> String {
    let output = Command::new(executable())
        .args(["dev-kv", "--listen", "127.0.0.1:0", "--data-dir", "/dev/null/nowhere"])
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    // It fails at its data directory, which cannot exist.
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn what_switches_telemetry_off_is_true_alone_and_anything_odd_is_told() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    let odd = starts(&[endpoint, ("OTEL_SDK_DISABLED", "1")]);
    assert!(odd.contains("WARN") && odd.contains("OTEL_SDK_DISABLED"), "{odd}");
    for plain in ["True", "false", ""] {
        let said = starts(&[endpoint, ("OTEL_SDK_DISABLED", plain)]);
        assert!(!said.contains("OTEL_SDK_DISABLED"), "{said}");
    }
}
