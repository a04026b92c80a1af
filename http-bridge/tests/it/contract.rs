//! The description and the server agree.

use std::collections::BTreeSet;

use axum::body::Body;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::{conformance::Contract, shop::Front};

/// Served, but not part of the API. The last two are how axum stores the answer to unknown paths.
const UNDOCUMENTED: [&str; 6] =
    ["/openapi.json", "/docs", "/docs/", "/docs/{*path}", "/", "/{*__private__axum_fallback}"];

fn methods() -> [Method; 8] {
    [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::HEAD,
        Method::OPTIONS,
        Method::TRACE,
    ]
}

/// Every path that the router knows, taken from its debug output.
fn routed(front: &Front) -> BTreeSet<String> {
    let printed = format!("{:?}", front.bridge.router());
    let quoted = printed.split('"').skip(1).step_by(2);
    quoted.filter(|text| text.starts_with('/')).map(str::to_owned).collect()
}

#[tokio::test]
async fn every_route_is_documented_and_every_documented_one_is_served() {
    let front = Front::filled();
    let contract = Contract::of_this_version();
    let documented: BTreeSet<String> =
        contract.operations().into_iter().map(|(_, path)| path).collect();
    let mut served = routed(&front);
    // The console is for its own page; `console` checks what it answers.
    served.retain(|path| !path.starts_with("/console"));
    for path in UNDOCUMENTED {
        assert!(served.remove(path), "{path} is served");
    }
    assert_eq!(served, documented);
    assert_eq!(documented.len(), 24);

    for path in &documented {
        let filled = path.replace("{slug}", "internal").replace(['{', '}'], "");
        for method in methods() {
            let mut expected = contract.operation(&method, path).is_some();
            expected |= method == Method::HEAD && contract.operation(&Method::GET, path).is_some();
            let request = Request::builder().method(&method).uri(&filled);
            let answer = front.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(answer.status != 405, expected, "{method} {path}: {}", answer.status);
        }
    }
}

#[tokio::test]
async fn documented_limits_are_the_ones_that_hold() {
    let front = Front::new();
    let contract = Contract::of_this_version();
    for (method, path) in contract.operations() {
        let operation = contract.operation(&method, &path).unwrap();
        let parameters: Vec<&Value> = operation["parameters"].as_array().unwrap().iter().collect();
        for parameter in &parameters {
            let name = parameter["name"].as_str().unwrap();
            if parameter["in"] != "path" || name == "slug" {
                continue;
            }
            let others = parameters.iter().filter(|other| other["name"] != name);
            let base = others.fold(path.clone(), |path, other| {
                let value = match other["schema"]["type"].as_str() {
                    Some("integer") => "1",
                    _ => "none",
                };
                path.replace(&format!("{{{}}}", other["name"].as_str().unwrap()), value)
            });
            for (value, fits) in edges(&parameter["schema"]) {
                if fits && name == "n" && value != "0" {
                    // Ten million records would take too long.
                    continue;
                }
                let call = base.replace(&format!("{{{name}}}"), &value);
                let answer = front.call(&format!("{method} {call}")).await;
                let named = answer.status == 400 && answer.json()["field"] == name;
                assert_eq!(!named, fits, "{method} {call}: {:?}", answer.outcome());
            }
        }
    }
}

/// Texts at the limits of what a schema allows, and whether they fit.
fn edges(schema: &Value) -> Vec<(String, bool)> {
    if schema["type"] == "integer" {
        let (least, most) =
            (schema["minimum"].as_u64().unwrap(), schema["maximum"].as_u64().unwrap());
        let mut edges = vec![
            (least.to_string(), true),
            (most.to_string(), true),
            ((most + 1).to_string(), false),
            ("x".to_owned(), false),
        ];
        if least > 0 {
            edges.push(((least - 1).to_string(), false));
        }
        return edges;
    }
    let (least, most) =
        (schema["minLength"].as_u64().unwrap(), schema["maxLength"].as_u64().unwrap());
    assert_eq!(least, 1, "an empty segment is another path");
    let most = usize::try_from(most).unwrap();
    vec![
        ("x".to_owned(), true),
        ("x".repeat(most), true),
        ("x".repeat(most + 1), false),
        ("a%2Fb".to_owned(), false),
        ("%01".to_owned(), false),
    ]
}

#[tokio::test]
async fn the_description_is_served_as_it_is() {
    let front = Front::new();
    let served = front.call("GET /openapi.json").await;
    assert_eq!(served.header("content-type"), "application/json");
    assert_eq!(served.json(), *Contract::of_this_version().document());
}

#[tokio::test]
async fn the_pages_for_people_come_from_the_binary() {
    let front = Front::new();
    assert!(front.call("GET /docs").await.status.is_redirection());
    let page = front.call("GET /docs/").await;
    assert!(page.text().contains("swagger-ui"), "{}", page.text());
    assert!(!page.text().contains("https://"), "nothing is loaded from elsewhere");
    assert_eq!(front.call("GET /docs/swagger-ui-bundle.js").await.status, 200);
}

#[test]
fn every_operation_says_what_it_needs_to() {
    let contract = Contract::of_this_version();
    let mut ids = BTreeSet::new();
    for (method, path) in contract.operations() {
        let operation = contract.operation(&method, &path).unwrap();
        let call = format!("{method} {path}");
        assert!(ids.insert(operation["operationId"].to_string()), "{call}");
        assert!(operation["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{call}");
        assert!(operation["tags"][0].is_string(), "{call}");
        let named: Vec<&str> = operation["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .inspect(|parameter| assert!(parameter["description"].is_string(), "{call}"))
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        let key = named.contains(&"Idempotency-Key");
        assert_eq!(key, method != Method::GET, "{call}");
        for name in path.split(['{', '}']).skip(1).step_by(2) {
            assert!(named.contains(&name), "{call}: {name}");
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            let description = response["description"].as_str().unwrap();
            assert!(!description.is_empty(), "{call} {status}");
            assert!(response["content"].is_object(), "{call} {status}");
            assert!(response["headers"]["X-Request-Id"].is_object(), "{call} {status}");
            let when = response["headers"]["Retry-After"].is_object();
            assert_eq!(when, status == "429" || status == "503", "{call} {status}");
        }
    }
}

/// Finds every `items` within a value that is just false or true.
fn bare(value: &Value, at: &str, found: &mut Vec<String>) {
    if at.ends_with("/items") && value.is_boolean() {
        found.push(at.to_owned());
    }
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, below)| bare(below, &format!("{at}/{name}"), found));
        }
        Value::Array(list) => list.iter().for_each(|below| bare(below, at, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn generators_of_clients_find_nothing_that_they_do_not_know() {
    let contract = Contract::of_this_version();
    let mut found = Vec::new();
    bare(contract.document(), "", &mut found);
    assert_eq!(found, [""; 0], "openapi-python-client wants a schema there");

    let items = &contract.document()["components"]["schemas"]["OrderFound"]["properties"]["items"];
    for (value, fits) in [
        (json!([["4", 2], ["9", 1]]), true),
        (json!([]), true),
        (json!([["4"]]), false),
        (json!([["4", 2, 3]]), false),
        (json!([[4, 2]]), false),
        (json!([["4", "2"]]), false),
    ] {
        assert_eq!(contract.check_value(items, &value).is_ok(), fits, "{value}");
    }
}

#[test]
fn no_collection_that_is_generated_carries_a_key_of_its_own() {
    let contract = Contract::of_this_version();
    let mut keys = 0;
    for (method, path) in contract.operations() {
        let operation = contract.operation(&method, &path).unwrap();
        for parameter in operation["parameters"].as_array().unwrap() {
            if parameter["name"] != "Idempotency-Key" {
                continue;
            }
            keys += 1;
            assert_eq!(parameter["required"], false, "{method} {path}");
            for from in ["example", "examples", "default", "pattern", "format", "enum"] {
                let made = parameter.get(from).or_else(|| parameter["schema"].get(from));
                assert_eq!(made, None, "{method} {path}: a key would be made of it");
            }
        }
    }
    assert!(keys > 10, "{keys}");
}

#[test]
fn examples_keep_the_schemas_they_illustrate() {
    let contract = Contract::of_this_version();
    let mut checked = 0;
    for (method, path) in contract.operations() {
        let operation = contract.operation(&method, &path).unwrap();
        for (status, response) in operation["responses"].as_object().unwrap() {
            for content in response["content"].as_object().unwrap().values() {
                let named = content["examples"].as_object().into_iter().flatten();
                let values = named.map(|(_, example)| &example["value"]);
                for value in values.chain(content.get("example")) {
                    let kept = contract.check_value(&content["schema"], value);
                    assert_eq!(kept, Ok(()), "{method} {path} {status}");
                    if status.parse::<u64>().unwrap() >= 400 {
                        assert_eq!(value["status"].to_string(), *status, "{method} {path}");
                    }
                    checked += 1;
                }
            }
        }
        for parameter in operation["parameters"].as_array().unwrap() {
            if let Some(example) = parameter.get("example") {
                assert_eq!(contract.check_value(&parameter["schema"], example), Ok(()));
            }
        }
    }
    assert!(checked > 100, "{checked}");
}

#[test]
fn the_validator_sees_what_is_wrong() {
    let contract = Contract::of_this_version();
    let check = |status: u16, content_type: &str, body: Value| {
        let mut headers = http::HeaderMap::new();
        headers.insert("content-type", content_type.parse().unwrap());
        headers.insert("x-request-id", "x".parse().unwrap());
        let status = status.try_into().unwrap();
        contract.check(
            &Method::GET,
            "/stock/find/1",
            status,
            &headers,
            &serde_json::to_vec(&body).unwrap(),
        )
    };
    let good = json!({ "stock": 1, "price": 1 });
    assert_eq!(check(200, "application/json", good.clone()), Ok(()));
    assert!(check(200, "text/plain", good.clone()).is_err());
    assert!(check(201, "application/json", good).is_err());
    for bad in [
        json!({ "stock": 1 }),
        json!({ "stock": "1", "price": 1 }),
        json!({ "stock": -1, "price": 1 }),
        json!({ "stock": 1.5, "price": 1 }),
        json!([]),
    ] {
        assert!(check(200, "application/json", bad.clone()).is_err(), "{bad}");
    }
    let problem = json!({ "type": "/problems/x", "title": "x", "status": 404, "detail": "x" });
    assert!(check(404, "application/problem+json", problem).is_err(), "a reason is missing");
}
