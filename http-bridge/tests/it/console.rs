//! The console: its files, and what each listener tells to whom.

use axum::body::Body;
use proto::{
    coordinator::v1::{
        AuditFinding, AuditVerdict, BranchReport, GetAuditResponse, LogReport, LogStep, Outcome,
        TransactionReport,
    },
    participant::v1::{BranchState, Vote, vote},
    types::v1::Branch,
};
use serde_json::json;
use testkit::net::request;
use tower::ServiceExt as _;
use types::Reason;

use crate::{
    keys::{KEY, guard},
    shop::{Answer, Front, Trouble},
};

const TX_ID: &str = "01010101-0101-0101-0101-010101010101";
const OPERATIONS: [&str; 4] = [
    "GET /console/api/unresolved",
    "GET /console/api/audit",
    "GET /console/api/transactions/1",
    "POST /console/api/transactions/01010101-0101-0101-0101-010101010101/resolve",
];

/// A call through the operators' listener.
async fn operate(front: &Front, call: &str, headers: &[(&str, &str)]) -> Answer {
    let console = front.bridge.operators_console();
    Answer::of(console.oneshot(request::<Body>(call, headers)).await.unwrap()).await
}

/// A shop in which order "1" was bought, and the coordinator logged how.
fn explained() -> Front {
    let front = Front::filled();
    let branch = BranchReport {
        branch: Some(Branch { service: "order".to_owned(), shard: 2 }),
        state: BranchState::Prepared.into(),
        vote: Some(Vote { vote: Some(vote::Vote::Yes(vote::Yes::default())) }),
        problem: String::new(),
        ..BranchReport::default()
    };
    let what = "order/2: sends again: 10.1.2.3 refused".to_owned();
    let log = LogReport {
        attempt: 1,
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
        steps: vec![LogStep { after_ms: 3, what }],
        ..LogReport::default()
    };
    front.world.state().reports.push(TransactionReport {
        tx_id: vec![1; 16].into(),
        outcome: Outcome::Undecided.into(),
        order_id: "1".to_owned(),
        branches: vec![branch],
        logs: vec![log],
        ..TransactionReport::default()
    });
    front
}

#[tokio::test]
async fn its_files_are_whole_typed_and_asked_for_once() {
    let front = Front::new();
    let page = front.call("GET /console").await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let mut files = vec!["/console".to_owned()];
    let quoted = page.text().split('"').filter(|text| text.starts_with("/console/"));
    files.extend(quoted.map(str::to_owned));
    files.extend(
        ["api", "dom", "live", "operate", "shop", "transaction"]
            .map(|name| format!("/console/{name}.js")),
    );
    assert_eq!(files.len(), 10);
    for path in &files {
        let file = front.call(&format!("GET {path}")).await;
        let kind = match path.rsplit_once('.').map_or("", |(_, ending)| ending) {
            "" => "text/html; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            _ => "image/svg+xml",
        };
        assert_eq!((file.status.as_u16(), file.header("content-type")), (200, kind), "{path}");
        assert!(!file.text().contains("https://"), "{path} names another server");
        assert_eq!(file.header("cache-control"), "no-cache");
        let known = [("if-none-match", file.header("etag"))];
        let again = front.call_with(&format!("GET {path}"), &known).await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0), "{path}");
        assert_eq!(again.header("etag"), file.header("etag"));
        let changed = front.call_with(&format!("GET {path}"), &[("if-none-match", "\"0\"")]).await;
        assert_eq!(changed.body, file.body);
    }
    assert_eq!(front.call("GET /console/").await.header("location"), "/console");
    assert_eq!(front.call("GET /console/nothing.js").await.status, 404);
}

#[tokio::test]
async fn nothing_inline_runs_and_nothing_comes_from_elsewhere() {
    let front = explained();
    let paths = ["/console", "/console/app.js", "/console/api/state", "/console/api/audit"];
    for path in paths {
        let answer = front.call(&format!("GET {path}")).await;
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{path}: {policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    }
    let page = front.call("GET /console").await;
    for inline in ["<style", " style=", " onclick=", "javascript:"] {
        assert!(!page.text().contains(inline), "{inline}");
    }
    let scripts = page.text().matches("<script").count();
    assert_eq!(scripts, page.text().matches("<script type=\"module\" src=\"/console/").count());
    assert_eq!(front.call("GET /console/api/state").await.header("cache-control"), "no-store");
}

#[tokio::test]
async fn what_is_for_operators_is_refused_to_the_public() {
    let front = explained();
    for call in OPERATIONS {
        let answer = front.call_with(call, &[("till-console", "1")]).await;
        assert_eq!(answer.outcome(), (403, "FORBIDDEN".to_owned()), "{call}");
    }
    let asked = ["ExplainTransaction", "ListUnresolved", "ResolveById", "GetAudit"];
    for method in asked {
        assert!(front.world.calls(method).is_empty(), "{method}");
    }
    let state = front.call("GET /console/api/state").await.json();
    assert_eq!((&state["shop"], &state["operator"]), (&json!(true), &json!(false)));
    let state = operate(&front, "GET /console/api/state", &[]).await.json();
    assert_eq!((&state["shop"], &state["operator"]), (&json!(false), &json!(true)));
}

#[tokio::test]
async fn the_api_key_opens_the_public_listener_to_operators() {
    let front = explained();
    let _directory = guard(&front);
    let right = format!("Bearer {KEY}");
    let refused = [&[][..], &[("authorization", "Bearer another-key-of-this-test")]];
    for call in OPERATIONS {
        for headers in refused {
            let headers = [headers, &[("till-console", "1")]].concat();
            let answer = front.call_with(call, &headers).await;
            assert_eq!(answer.outcome(), (401, "NO_API_KEY".to_owned()), "{call} {headers:?}");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
    for method in ["ExplainTransaction", "ListUnresolved", "ResolveById", "GetAudit"] {
        assert!(front.world.calls(method).is_empty(), "{method}");
    }
    let state = front.call("GET /console/api/state").await.json();
    assert_eq!((&state["operator"], &state["operator_key"]), (&json!(false), &json!(true)));

    for call in OPERATIONS {
        let headers = [("till-console", "1"), ("authorization", right.as_str())];
        assert_eq!(front.call_with(call, &headers).await.status, 200, "{call}");
    }
    assert_eq!(front.world.state().resolved, [vec![1; 16]]);
    let state = front.call_with("GET /console/api/state", &[("authorization", &right)]).await;
    assert_eq!(state.json()["operator"], true);
    // The key does not replace the header that pages of other sites cannot send.
    let answer = front.call_with(OPERATIONS[3], &[("authorization", &right)]).await;
    assert_eq!(answer.json()["field"], "Till-Console");
    // No key is needed on the operators' listener, or for what everybody may see.
    assert_eq!(operate(&front, OPERATIONS[0], &[]).await.status, 200);
    assert_eq!(front.call("GET /console/api/orders/1/transactions").await.status, 200);
}

#[tokio::test]
async fn a_buyer_sees_the_votes_and_nothing_internal() {
    let front = explained();
    let answer = front.call("GET /console/api/orders/1/transactions").await;
    assert_eq!(answer.status, 200);
    let told = &answer.json()["transactions"][0];
    assert_eq!((&told["tx_id"], &told["outcome"]), (&json!(TX_ID), &json!("UNDECIDED")));
    assert_eq!(told["branches"][0]["branch"], "order/2");
    assert_eq!(told["branches"][0]["vote"], "YES");
    assert_eq!(told["logs"][0]["steps"][0]["what"], "sends again");
    for inside in ["10.1.2.3", "4bf92f35"] {
        assert!(!answer.text().contains(inside), "{inside}");
    }
    let none = front.call("GET /console/api/orders/2/transactions").await;
    assert_eq!(none.json(), json!({ "transactions": [], "left_out": 0 }));
}

#[tokio::test]
async fn operators_see_all_of_it_by_transaction_and_by_order() {
    let front = explained();
    for subject in [TX_ID, "1"] {
        let answer =
            operate(&front, &format!("GET /console/api/transactions/{subject}"), &[]).await;
        assert!(answer.text().contains("10.1.2.3"), "{subject}: {}", answer.text());
        assert_eq!(answer.json()["transactions"][0]["tx_id"], TX_ID);
    }
    // An order whose id could also be a transaction's.
    let order = "67c054f7-a3e1-59c6-975e-1ceca741e7f3";
    front.world.state().reports[0].order_id = order.to_owned();
    let answer = operate(&front, &format!("GET /console/api/transactions/{order}"), &[]).await;
    assert_eq!(answer.json()["transactions"][0]["order_id"], order);
    let none = operate(&front, "GET /console/api/transactions/nobody", &[]).await;
    assert_eq!(none.json()["transactions"], json!([]));
    let listed = operate(&front, "GET /console/api/unresolved", &[]).await.json();
    assert_eq!(listed["transactions"][0]["tx_id"], TX_ID);
}

#[tokio::test]
async fn resolving_asks_for_a_header_that_no_other_page_can_send() {
    let front = explained();
    let call = OPERATIONS[3];
    let answer = operate(&front, call, &[]).await;
    assert_eq!(answer.outcome(), (400, "INVALID_ARGUMENT".to_owned()));
    assert_eq!(answer.json()["field"], "Till-Console");
    assert!(front.world.state().resolved.is_empty());
    let asked = operate(&front, &call.replace("POST", "OPTIONS"), &[]).await;
    assert_eq!(asked.header("access-control-allow-origin"), "");

    let answer = operate(&front, call, &[("till-console", "1")]).await;
    assert_eq!(answer.json(), json!({ "outcome": "COMMITTED", "missing": [] }));
    assert_eq!(front.world.state().resolved, [vec![1; 16]]);
    let unknown = call.replace("0101", "0202");
    let answer = operate(&front, &unknown, &[("till-console", "1")]).await;
    assert_eq!(answer.outcome(), (404, "TRANSACTION_UNKNOWN".to_owned()));
    let malformed =
        operate(&front, "POST /console/api/transactions/x/resolve", &[("till-console", "1")]).await;
    assert_eq!(malformed.json()["field"], "subject");
}

#[tokio::test]
async fn the_latest_audit_of_all_replicas_is_told() {
    let front = explained();
    let finding = AuditFinding { invariant: "I2".to_owned(), count: 3 };
    let last = |at_ms, findings| AuditVerdict { at_ms, took_ms: 5, unresolved: 1, findings };
    {
        let mut state = front.world.state();
        let said = |verdict| GetAuditResponse { every_s: 60, last: Some(verdict) };
        state.audits.insert("coordinator-0:1".to_owned(), said(last(7, Vec::new())));
        state.audits.insert("coordinator-1:1".to_owned(), said(last(9, vec![finding])));
    }
    let audit = operate(&front, "GET /console/api/audit", &[]).await.json();
    let verdict = json!({ "at_ms": 9, "took_ms": 5, "unresolved": 1,
        "findings": [{ "invariant": "I2", "count": 3 }] });
    assert_eq!(audit, json!({ "every_s": 60, "last": verdict, "silent": 0 }));

    front.world.plan("coordinator-1", "GetAudit", Trouble::LoseRequest, 1);
    let audit = operate(&front, "GET /console/api/audit", &[]).await.json();
    assert_eq!((&audit["silent"], &audit["last"]["at_ms"]), (&json!(1), &json!(7)));
    front.world.plan("coordinator", "GetAudit", Trouble::Say(Reason::Unavailable), 2);
    assert_eq!(operate(&front, "GET /console/api/audit", &[]).await.status, 503);
}

#[tokio::test]
async fn counts_are_served_by_both_listeners_and_name_their_process() {
    let front = Front::filled();
    assert_eq!(front.call("GET /stock/find/1").await.status, 200);
    let stats = front.call("GET /console/api/stats").await.json();
    // Tests set up no metrics. The tests of `stats`, of telemetry and of the browser check that
    // requests count.
    assert_eq!((&stats["in_flight"], &stats["requests"]), (&json!(0), &json!(0)));
    let again = operate(&front, "GET /console/api/stats", &[]).await.json();
    assert_eq!(again["replica"], stats["replica"]);
    let other = Front::new().call("GET /console/api/stats").await.json();
    assert_ne!(other["replica"], stats["replica"]);
}
