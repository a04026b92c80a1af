//! What must hold of Kubernetes objects beyond their schemas: rules that a reviewer would check by eye.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::report::Tally;

/// Who calls whom, and on which port each listens, as ARCHITECTURE.md has it. Written down once more, apart
/// from the chart, so that a slip there is seen.
pub(super) const CALLS: &[(&str, u64, &[&str])] = &[
    ("coordinator", 7000, &["order", "stock", "payment"]),
    ("http-bridge", 8000, &["coordinator", "order", "stock", "payment"]),
    ("order", 7100, &["stock", "coordinator"]),
    ("payment", 7300, &["coordinator"]),
    ("stock", 7200, &["coordinator"]),
];

const COMPONENT: &str = "app.kubernetes.io/component";

/// Checks all objects of one rendering.
pub(super) fn check(what: &str, objects: &[Value], tally: &mut Tally) {
    let mut rule = |name: &str, result: Result<(), String>| {
        tally.check(&format!("{name}, with {what}"), result);
    };
    rule("pods are locked down", all(pods(objects), locked_down));
    rule("roles are probed, and end in time", all(pods(objects), probed));
    rule("roles prove who they are", all(pods(objects), proves_itself));
    rule("operators find every role", all(pods(objects), answers_operators));
    rule("callers find whom they call", all(pods(objects), |pod| finds(pod, objects)));
    rule("a budget and a service for each role", each_role_has(objects));
    rule("policies allow exactly who calls whom", policies(objects));
    rule("telemetry gets to its collector", all(pods(objects), |pod| tells(pod, objects)));
    rule("the ingress outwaits the bridge", ingress(objects));
}

fn all<'a>(
    items: impl Iterator<Item = &'a Value>,
    check: impl Fn(&Value) -> Result<(), String>,
) -> Result<(), String> {
    let mut seen = false;
    for item in items {
        seen = true;
        check(item).map_err(|problem| format!("{}: {problem}", item["metadata"]["name"]))?;
    }
    if seen { Ok(()) } else { Err("nothing to look at".to_owned()) }
}

fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

fn pods(objects: &[Value]) -> impl Iterator<Item = &Value> {
    of_kind(objects, "Deployment")
}

fn expect(what: &str, holds: bool) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// The same for any pods at all.
pub(super) fn all_locked_down(objects: &[Value]) -> Result<(), String> {
    objects
        .iter()
        .filter(|object| object["spec"]["template"]["spec"] != Value::Null)
        .try_for_each(locked_down)
}

fn locked_down(workload: &Value) -> Result<(), String> {
    let pod = &workload["spec"]["template"]["spec"];
    let context = &pod["securityContext"];
    expect("not as root", context["runAsNonRoot"] == true && context["runAsUser"] == 65532)?;
    expect("seccomp", context["seccompProfile"]["type"] == "RuntimeDefault")?;
    expect("no token", pod["automountServiceAccountToken"] == false)?;
    // TILL_STOCK_PORT=tcp://... would be taken for a setting.
    expect("no variables of services", pod["enableServiceLinks"] == false)?;
    for container in pod["containers"].as_array().into_iter().flatten() {
        let context = &container["securityContext"];
        expect("drops ALL", context["capabilities"]["drop"] == serde_json::json!(["ALL"]))?;
        expect("read-only root", context["readOnlyRootFilesystem"] == true)?;
        expect("no escalation", context["allowPrivilegeEscalation"] == false)?;
        let resources = &container["resources"];
        let has = |name: &str| {
            resources[name]["cpu"] != Value::Null && resources[name]["memory"] != Value::Null
        };
        expect("requests and limits", has("requests") && has("limits"))?;
    }
    Ok(())
}

fn container(workload: &Value) -> &Value {
    &workload["spec"]["template"]["spec"]["containers"][0]
}

fn variables(workload: &Value) -> BTreeMap<&str, &str> {
    let list = container(workload)["env"].as_array();
    list.into_iter()
        .flatten()
        .filter_map(|entry| Some((entry["name"].as_str()?, entry["value"].as_str()?)))
        .collect()
}

fn probed(workload: &Value) -> Result<(), String> {
    let container = container(workload);
    let port = &container["ports"][0]["containerPort"];
    if component(&workload["metadata"]["labels"]) == "http-bridge" {
        expect("alive", container["livenessProbe"]["httpGet"]["path"] == "/healthz")?;
        expect("ready", container["readinessProbe"]["httpGet"]["path"] == "/readyz")?;
    } else {
        // Alive is not ready: a store that is away must not get anybody restarted.
        let (mut live, mut ready) = (
            serde_json::json!({"grpc": {"port": port, "service": "till.live"}}),
            serde_json::json!({"grpc": {"port": port, "service": ""}}),
        );
        if variables(workload).contains_key("TILL_TLS_CA_FILE") {
            // The kubelet's own speak no TLS.
            let there = format!("127.0.0.1:{port}");
            let ask = ["/usr/local/bin/till", "health", "--endpoint", &there];
            let alive = [&ask[..], &["--service", "till.live"]].concat();
            live = serde_json::json!({"exec": {"command": alive}});
            ready = serde_json::json!({"exec": {"command": ask}});
        }
        for (probe, wanted) in [("livenessProbe", &live), ("readinessProbe", &ready)] {
            let way = wanted.as_object().and_then(|wanted| wanted.iter().next());
            let (way, wanted) = way.ok_or("no way to ask")?;
            expect(probe, container[probe][way] == *wanted)?;
        }
    }
    let variables = variables(workload);
    let millis = |name: &str| variables.get(name).and_then(|text| text.parse::<u64>().ok());
    let needed = millis("TILL_LAME_DUCK_MS").zip(millis("TILL_DRAIN_TIMEOUT_MS"));
    let needed = needed.map(|(lame, drain)| lame.saturating_add(drain)).ok_or("no drain")?;
    let grace = &workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"];
    let grace = grace.as_u64().unwrap_or(0).saturating_mul(1000);
    expect("killed before it has drained", grace > needed)
}

/// Either everybody shows a certificate, or plain text was chosen by name; files are where a secret is.
fn proves_itself(workload: &Value) -> Result<(), String> {
    let variables = variables(workload);
    let files: Vec<_> = variables.iter().filter(|(name, _)| name.ends_with("_FILE")).collect();
    let mounts = container(workload)["volumeMounts"].as_array();
    let paths: Vec<&str> =
        mounts.into_iter().flatten().filter_map(|mount| mount["mountPath"].as_str()).collect();
    for (name, file) in files {
        let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
        expect(&format!("nothing is mounted for {name}"), paths.contains(&folder))?;
    }
    let has = |name: &str| variables.contains_key(name);
    let tls = ["CA", "CERT", "KEY"].map(|what| has(&format!("TILL_TLS_{what}_FILE")));
    expect("three files or none", tls == [tls[0]; 3])?;
    let listens_by_grpc = component(&workload["metadata"]["labels"]) != "http-bridge";
    expect("certificates or --insecure", has("TILL_INSECURE") == (listens_by_grpc && !tls[0]))
}

/// The admin listener is on the port that everybody is told of, and nobody's work is.
fn answers_operators(workload: &Value) -> Result<(), String> {
    let listens = variables(workload).get("TILL_ADMIN_LISTEN").copied().unwrap_or_default();
    expect("on port 9100", listens.ends_with(":9100"))?;
    let ports = container(workload)["ports"].as_array();
    let named = |port: &&Value| port["name"] == "metrics" && port["containerPort"] == 9100;
    expect("a port called metrics", ports.is_some_and(|list| list.iter().any(|p| named(&p))))
}

/// Every TILL_..._ENDPOINTS names a service that is there, is headless, and has that port.
fn finds(workload: &Value, objects: &[Value]) -> Result<(), String> {
    let role = component(&workload["metadata"]["labels"]);
    let wanted: BTreeSet<String> = called_by(role)
        .iter()
        .map(|callee| format!("TILL_{}_ENDPOINTS", callee.to_uppercase()))
        .collect();
    let mut seen = BTreeSet::new();
    for (name, value) in variables(workload) {
        if !name.starts_with("TILL_") || !name.ends_with("_ENDPOINTS") {
            continue;
        }
        seen.insert(name.to_owned());
        let (service, port) = value
            .strip_prefix("dns:")
            .and_then(|target| target.split_once(':'))
            .ok_or_else(|| format!("{name}={value}"))?;
        let found =
            of_kind(objects, "Service").find(|object| object["metadata"]["name"] == service);
        let spec = &found.ok_or_else(|| format!("{name}: no service {service}"))?["spec"];
        expect("headless", spec["clusterIP"] == "None")?;
        expect("its port", spec["ports"][0]["port"].as_u64() == port.parse().ok())?;
    }
    expect("whom it calls", seen == wanted)
}

/// Where a collector is named, it is named with its protocol, and the role's policy lets it out to that port.
/// Else nothing of telemetry is said at all.
fn tells(workload: &Value, objects: &[Value]) -> Result<(), String> {
    let variables = variables(workload);
    let Some(endpoint) = variables.get("OTEL_EXPORTER_OTLP_ENDPOINT") else {
        return expect("no endpoint", !variables.keys().any(|name| name.starts_with("OTEL_")));
    };
    expect("its protocol", variables.contains_key("OTEL_EXPORTER_OTLP_PROTOCOL"))?;
    let (scheme, rest) = endpoint.split_once("://").ok_or("no URL")?;
    let host = rest.split('/').next().unwrap_or_default();
    let own = if scheme == "https" { 443 } else { 80 };
    let port = host.split_once(':').map_or(Some(own), |(_, port)| port.parse::<u64>().ok());
    let role = component(&workload["metadata"]["labels"]);
    let labels = |policy: &&Value| component(&policy["spec"]["podSelector"]["matchLabels"]) == role;
    let Some(policy) = of_kind(objects, "NetworkPolicy").find(labels) else {
        return Ok(());
    };
    let rules = policy["spec"]["egress"].as_array();
    let mut ports =
        rules.into_iter().flatten().filter_map(|rule| rule["ports"].as_array()).flatten();
    expect("is let out to its port", ports.any(|found| found["port"].as_u64() == port))
}

fn called_by(role: &str) -> &'static [&'static str] {
    CALLS.iter().find(|(name, _, _)| *name == role).map_or(&[], |(_, _, calls)| calls)
}

fn component(labels: &Value) -> &str {
    labels[COMPONENT].as_str().unwrap_or_default()
}

fn each_role_has(objects: &[Value]) -> Result<(), String> {
    for kind in ["Deployment", "PodDisruptionBudget", "Service"] {
        for (role, _, _) in CALLS {
            let labels = |object: &&Value| component(&object["metadata"]["labels"]) == *role;
            expect(
                &format!("one {kind} for {role}"),
                of_kind(objects, kind).filter(labels).count() == 1,
            )?;
        }
    }
    Ok(())
}

/// One edge that a policy lets through: at whom it is, in or out, whom it names, which port.
type Edge = (String, &'static str, String, u64);

/// Compares the edges that the policies let through with the table. Probes come from a node's address, DNS,
/// the store and callers of the bridge are outside the table.
fn policies(objects: &[Value]) -> Result<(), String> {
    let mut found = BTreeSet::new();
    let mut policies = 0;
    for policy in of_kind(objects, "NetworkPolicy") {
        policies += 1;
        let spec = &policy["spec"];
        expect("both ways", spec["policyTypes"] == serde_json::json!(["Ingress", "Egress"]))?;
        let role = component(&spec["podSelector"]["matchLabels"]);
        for (list, way, peers) in [("ingress", "from", "from"), ("egress", "to", "to")] {
            for rule in spec[list].as_array().into_iter().flatten() {
                edges(role, way, &rule[peers], &rule["ports"], &mut found);
            }
        }
        let is_open = |rule: &Value| rule["from"].is_null() && role != "http-bridge";
        let open = spec["ingress"].as_array().is_some_and(|rules| rules.iter().any(is_open));
        expect("nobody is let in unnamed", !open)?;
    }
    if policies == 0 {
        return Ok(());
    }
    let mut wanted: BTreeSet<Edge> = BTreeSet::new();
    for (role, _, calls) in CALLS {
        for (callee, port, _) in CALLS.iter().filter(|(callee, _, _)| calls.contains(callee)) {
            wanted.insert(((*role).to_owned(), "to", (*callee).to_owned(), *port));
            wanted.insert(((*callee).to_owned(), "from", (*role).to_owned(), *port));
        }
    }
    let odd: Vec<_> = found.symmetric_difference(&wanted).collect();
    expect(&format!("unlike the table: {odd:?}"), odd.is_empty())?;
    expect("one policy for each role", policies == CALLS.len())
}

fn edges(role: &str, way: &'static str, peers: &Value, ports: &Value, found: &mut BTreeSet<Edge>) {
    for peer in peers.as_array().into_iter().flatten() {
        let labels = &peer["podSelector"]["matchLabels"];
        if labels["app.kubernetes.io/name"] != "till" {
            continue;
        }
        for port in ports.as_array().into_iter().flatten() {
            let port = port["port"].as_u64().unwrap_or(0);
            found.insert((role.to_owned(), way, component(labels).to_owned(), port));
        }
    }
}

fn ingress(objects: &[Value]) -> Result<(), String> {
    let bridge = pods(objects)
        .find(|object| component(&object["metadata"]["labels"]) == "http-bridge")
        .ok_or("no bridge")?;
    let variables = variables(bridge);
    for ingress in of_kind(objects, "Ingress") {
        let annotations = &ingress["metadata"]["annotations"];
        let own = |name: &str| annotations[format!("nginx.ingress.kubernetes.io/{name}")].as_str();
        let seconds = own("proxy-read-timeout").and_then(|text| text.parse::<u64>().ok());
        let millis = seconds.unwrap_or(0).saturating_mul(1000);
        for name in ["TILL_REQUEST_TIMEOUT_MS", "TILL_BATCH_INIT_TIMEOUT_MS"] {
            let deadline = variables.get(name).and_then(|text| text.parse::<u64>().ok());
            expect(name, deadline.is_some_and(|deadline| deadline < millis))?;
        }
        // A POST may be repeated only where its request id is the controller's.
        let repeats =
            own("proxy-next-upstream").is_some_and(|text| text.contains("non_idempotent"));
        let trusts = variables.get("TILL_TRUST_REQUEST_ID") == Some(&"true");
        expect("repeats what it may not", repeats == trusts)?;
    }
    Ok(())
}
