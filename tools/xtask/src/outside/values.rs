//! The chart with unusual values: numbers stay integers, names are valid for any release name, and
//! each case of tools/xtask/chart.yaml is right.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::{Map, Value, json};

use super::chart::{self, Helm};
use crate::{
    files,
    report::{Part, Tally},
    roles,
    workspace::Workspace,
};

/// The largest integer that a float holds exactly, and so the largest possible value.
const INTEGER_MAX: u64 = (1 << 53) - 1;
/// Release names that helm allows, and that are no valid name of a Service, or that YAML takes for
/// something else unless they are quoted.
const RELEASES: [&str; 8] = ["7.shop", "a.b", "42", "9-to-5", "on", "y", "null", "true"];

pub(super) fn check(workspace: &Workspace) -> Part {
    let helm = Helm::ready(workspace)?;
    let mut tally = Tally::default();
    tally.check("numbers render as integers", numbers(&helm));
    for release in RELEASES {
        let annotations = json!({"example.com/number": 42});
        let own_name = json!({
            "fullnameOverride": "",
            "bridge": {"service": {"annotations": annotations}},
        });
        let result = rendered(&helm, release, &own_name).and_then(|objects| names(&objects));
        tally.check(&format!("a release called {release}"), result);
    }
    tally.check("two releases share no object and no secret", apart(&helm));
    tally.check("an ingress of the default class", ingress(&helm));
    for instance in ["", "shop-db"] {
        let values = json!({"store": {"tidbCluster": {"instance": instance}}});
        let objects = rendered(&helm, "till", &values)?;
        let result = notes_select_store(&helm, &values, &objects);
        tally.check(&format!("NOTES select the store's pods, instance {instance:?}"), result);
    }
    tally.check("NodeLocal DNSCache by docs/deploy.md", node_local_dns(&helm));
    tally.check("time-outs and ports fit each other", fits(&helm));
    for case in chart::cases(workspace)?["cases"].as_array().into_iter().flatten() {
        tally.check(&case["name"].to_string(), copes(&helm, case));
    }
    tally.check("values.schema.json", chart::described(workspace));
    Ok(tally)
}

/// Renders a release with these values on top of those that turn everything on.
pub(super) fn rendered(
    helm: &Helm<'_>,
    release: &str,
    values: &Value,
) -> Result<Vec<Value>, String> {
    let file = written(helm, &values.to_string())?;
    let text = helm.release(release, &[chart::EVERYTHING, &file])?;
    super::yaml(helm.workspace, &text)
}

/// Writes values to a file. Returns its path.
fn written(helm: &Helm<'_>, values: &str) -> Result<String, String> {
    let file = helm.workspace.scratch("rendered")?.join("values.yaml");
    files::write(&file, values)?;
    Ok(file.to_string_lossy().into_owned())
}

/// Sets every number of the schema to its largest, and checks that each appears unchanged.
/// Exceptions are time-outs, which are added up, and defaults, which roles override.
fn numbers(helm: &Helm<'_>) -> Result<(), String> {
    let schema = chart::schema(helm.workspace)?;
    let mut given = BTreeMap::new();
    let mut values = largest(&schema, &schema, "", &mut given).unwrap_or_default();
    // As many as the fewest: the values that turn everything on have less.
    values["roles"]["stock"]["autoscaling"]["maxReplicas"] = json!(1000);
    let objects = rendered(helm, "till", &values)?;
    let mut found = BTreeSet::new();
    for object in &objects {
        scalars(object, &mut found);
    }
    let is_derived = |path: &str| path.ends_with("Ms") || path.starts_with(".defaults");
    for (path, number) in given {
        if !is_derived(&path) && !found.contains(&number.to_string()) {
            return Err(format!("{path}: {number} is nowhere"));
        }
    }
    let odd = found.iter().find(|text| is_exponent(text));
    odd.map_or(Ok(()), |text| Err(format!("rendered as {text}")))
}

/// Values that set every number of a schema to the largest that it allows. `given` gets each by its
/// path. Numbers without a limit all differ.
fn largest(
    root: &Value,
    schema: &Value,
    path: &str,
    given: &mut BTreeMap<String, u64>,
) -> Option<Value> {
    if let Some(reference) = schema["$ref"].as_str() {
        return largest(root, root.pointer(reference.trim_start_matches('#'))?, path, given);
    }
    let is = |kind: &str| match &schema["type"] {
        Value::String(only) => only == kind,
        Value::Array(several) => several.iter().any(|one| one == kind),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    };
    if is("object") {
        let mut made = Map::new();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if let Some(value) = largest(root, property, &format!("{path}.{name}"), given) {
                made.insert(name.clone(), value);
            }
        }
        if let Some(value) =
            largest(root, &schema["additionalProperties"], &format!("{path}.*"), given)
        {
            // A valid name for a variable, a label and an annotation.
            let name = if path == ".roles" { roles::NAMES[0] } else { "TILL_LARGE" };
            made.insert(name.to_owned(), value);
        }
        return (!made.is_empty()).then_some(Value::Object(made));
    }
    if !is("integer") && !is("number") {
        return None;
    }
    let number = schema["maximum"].as_u64().unwrap_or(INTEGER_MAX - given.len() as u64);
    given.insert(path.to_owned(), number);
    Some(json!(number))
}

/// Collects every text and every number, as text.
fn scalars(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(list) => list.iter().for_each(|item| scalars(item, found)),
        Value::Object(map) => map.values().for_each(|item| scalars(item, found)),
        Value::String(text) => drop(found.insert(text.clone())),
        Value::Null | Value::Bool(_) | Value::Number(_) => drop(found.insert(value.to_string())),
    }
}

/// A number such as 8.64e+07.
fn is_exponent(text: &str) -> bool {
    let has_exponent = text.contains("e+") || text.contains("E+");
    has_exponent && text.parse::<f64>().is_ok()
}

/// Names must be texts, those of Services must follow RFC 1035, and labels, annotations and the selectors of Services must
/// be texts.
fn names(objects: &[Value]) -> Result<(), String> {
    let mut services = 0;
    for object in objects {
        let metadata = &object["metadata"];
        if !metadata["name"].is_string() {
            return Err(format!("a {} of {metadata}", object["kind"]));
        }
        texts("label", &metadata["labels"])?;
        texts("annotation", &metadata["annotations"])?;
        if object["kind"] == "Service" {
            texts("label of the selector", &object["spec"]["selector"])?;
            let name = metadata["name"].as_str().unwrap_or_default();
            let is_valid = name.len() <= 63
                && name.starts_with(|first: char| first.is_ascii_lowercase())
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
                && !name.ends_with('-');
            if !is_valid {
                return Err(format!("a Service called {name}"));
            }
            services += 1;
        }
    }
    if services > 0 { Ok(()) } else { Err("no Service".to_owned()) }
}

/// Checks that two releases in one namespace have nothing in common: what one makes, and each secret
/// that it has made for it, has a name that the other does not use. Those of the first are called as
/// the pages call them.
fn apart(helm: &Helm<'_>) -> Result<(), String> {
    let own = json!({"fullnameOverride": ""});
    let of = |release: &str| rendered(helm, release, &own).map(|objects| made(&objects));
    let (first, second) = (of("till")?, of("shop")?);
    if let Some((kind, name)) = first.intersection(&second).next() {
        return Err(format!("both have the {kind} {name}"));
    }
    let secrets = roles::NAMES.map(|role| format!("till-grpc-{role}"));
    let mut wanted = secrets.iter().map(String::as_str).chain(["till-tls"]);
    let missing = wanted.find(|name| !first.contains(&("Secret".to_owned(), (*name).to_owned())));
    missing.map_or(Ok(()), |name| Err(format!("no secret {name}")))
}

/// Kind and name of every object, and of every secret that cert-manager makes of one.
fn made(objects: &[Value]) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let own = |object: &Value| (text(&object["kind"]), text(&object["metadata"]["name"]));
    let certificates = objects.iter().filter(|object| object["kind"] == "Certificate");
    let secrets = certificates
        .map(|certificate| ("Secret".to_owned(), text(&certificate["spec"]["secretName"])));
    objects.iter().map(own).chain(secrets).collect()
}

/// Checks that every value of a map is a text.
fn texts(what: &str, map: &Value) -> Result<(), String> {
    let odd = map.as_object().into_iter().flatten().find(|(_, value)| !value.is_string());
    odd.map_or(Ok(()), |(name, value)| Err(format!("the {what} {name} is {value}")))
}

/// Renders the values of a case, and looks for what they must lead to.
fn copes(helm: &Helm<'_>, case: &Value) -> Result<(), String> {
    let rendered = rendered(helm, "till", &case["values"]);
    if !case["says"].is_null() {
        return chart::refused(rendered, &case["says"]);
    }
    let objects = rendered?;
    for wanted in case["has"].as_array().ok_or("a case that checks nothing")? {
        let role = |pod: &Value| pod["metadata"]["labels"]["app.kubernetes.io/component"].clone();
        let is_meant = |pod: &&Value| {
            let (role, of) = (role(pod), &wanted["of"]);
            let is_one = of.as_array().is_some_and(|several| several.contains(&role));
            (of.is_null() || *of == role || is_one) && wanted["others"] != role
        };
        let pods: Vec<&Value> = objects.iter().filter_map(pod).filter(is_meant).collect();
        if pods.is_empty() {
            return Err(format!("no pod for {wanted}"));
        }
        let places = wanted.as_object().into_iter().flatten();
        for (place, value) in places.filter(|(key, _)| !["of", "others"].contains(&key.as_str())) {
            for pod in &pods {
                let found = at(pod, place);
                if found.is_empty() || found.iter().any(|one| *one != value) {
                    return Err(format!("{}: {place} is {found:?}, not {value}", role(pod)));
                }
            }
        }
    }
    Ok(())
}

/// Metadata and specification of the pods that an object is or makes.
fn pod(object: &Value) -> Option<&Value> {
    match object["kind"].as_str()? {
        "Pod" => Some(object),
        "Deployment" => Some(&object["spec"]["template"]),
        _ => None,
    }
}

/// What is at a place: null if there is nothing. In a list a part of the place is a number, the name
/// of an element, or `*` for all of them.
fn at<'a>(value: &'a Value, place: &str) -> Vec<&'a Value> {
    let Some((part, rest)) = place.split_once('/').or((!place.is_empty()).then_some((place, "")))
    else {
        return vec![value];
    };
    let list = value.as_array();
    if let (Some(list), "*") = (list, part) {
        return list.iter().flat_map(|element| at(element, rest)).collect();
    }
    let element = match (list, part.parse::<usize>()) {
        (Some(list), Ok(number)) => list.get(number),
        (Some(list), Err(_)) => list.iter().find(|element| element["name"] == part),
        (None, _) => value.get(part),
    };
    at(element.unwrap_or(&Value::Null), rest)
}

fn ingress(helm: &Helm<'_>) -> Result<(), String> {
    let objects = rendered(helm, "till", &json!({"ingress": {"className": ""}}))?;
    let ingress = objects.iter().find(|object| object["kind"] == "Ingress").ok_or("no Ingress")?;
    let class = &ingress["spec"]["ingressClassName"];
    if class.is_null() { Ok(()) } else { Err(format!("ingressClassName {class}")) }
}

/// Checks what no run of the chart shows: no pod is killed before it has drained; the ingress waits
/// longer than the bridge, and repeats POSTs only if it mints the request ids itself; roles can
/// reach their collector.
fn fits(helm: &Helm<'_>) -> Result<(), String> {
    for is_minted in [true, false] {
        let objects = rendered(helm, "till", &json!({"ingress": {"mintsRequestId": is_minted}}))?;
        let ingress =
            objects.iter().find(|object| object["kind"] == "Ingress").ok_or("no Ingress")?;
        let own = |name: &str| {
            let annotation = format!("nginx.ingress.kubernetes.io/{name}");
            ingress["metadata"]["annotations"][annotation].as_str()
        };
        let patience = own("proxy-read-timeout").and_then(|text| text.parse::<u64>().ok());
        let patience = patience.ok_or("the ingress has no patience")?.saturating_mul(1000);
        if own("proxy-next-upstream").is_some() != is_minted {
            return Err("repeats POSTs where request ids are not its own".to_owned());
        }
        for deployment in objects.iter().filter(|object| object["kind"] == "Deployment") {
            let pod = &deployment["spec"]["template"]["spec"];
            let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap_or(0) * 1000;
            let millis = |name: &str| variable(pod, name)?.parse::<u64>().ok();
            let drain = millis("TILL_LAME_DUCK_MS").zip(millis("TILL_DRAIN_TIMEOUT_MS"));
            let drain = drain.map(|(lame, drain)| lame + drain).ok_or("no drain")?;
            let slowest =
                millis("TILL_REQUEST_TIMEOUT_MS").max(millis("TILL_BATCH_INIT_TIMEOUT_MS"));
            if drain >= grace || slowest.is_some_and(|slowest| slowest >= patience) {
                return Err(format!(
                    "{}: {drain} of {grace}, {slowest:?}",
                    deployment["metadata"]["name"]
                ));
            }
            let trusts = variable(pod, "TILL_TRUST_REQUEST_ID") == Some("true");
            if slowest.is_some() && trusts != is_minted {
                return Err("the bridge takes request ids of others".to_owned());
            }
        }
        // The port of the endpoint in the values that turn everything on.
        let lets_out = |policy: &&Value| {
            let rules = policy["spec"]["egress"].as_array();
            rules.into_iter().flatten().any(|rule| rule["ports"][0]["port"] == 4317)
        };
        let policies = objects.iter().filter(|object| object["kind"] == "NetworkPolicy");
        if policies.filter(lets_out).count() != 5 {
            return Err("not every role is let out to the collector".to_owned());
        }
    }
    Ok(())
}

fn variable<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    let list = pod["containers"][0]["env"].as_array()?;
    list.iter().find(|one| one["name"] == name)?["value"].as_str()
}

/// The labels that tidb-operator v1 gives to a component's pods. The instance is the TidbCluster's
/// label of that name, or else the cluster's own name.
pub(crate) fn operator_labels(cluster: &Value, component: &str) -> Value {
    let metadata = &cluster["metadata"];
    let own = &metadata["labels"]["app.kubernetes.io/instance"];
    let instance = if own.is_string() { own } else { &metadata["name"] };
    json!({
        "app.kubernetes.io/name": "tidb-cluster",
        "app.kubernetes.io/managed-by": "tidb-operator",
        "app.kubernetes.io/instance": instance,
        "app.kubernetes.io/component": component,
    })
}

pub(super) fn cluster(objects: &[Value]) -> Result<&Value, String> {
    let cluster = objects.iter().find(|object| object["kind"] == "TidbCluster");
    cluster.ok_or_else(|| "no TidbCluster".to_owned())
}

/// Checks that what helm prints after an installation selects the pods of the store.
fn notes_select_store(helm: &Helm<'_>, values: &Value, objects: &[Value]) -> Result<(), String> {
    let labels = operator_labels(cluster(objects)?, "pd");
    let instance = labels["app.kubernetes.io/instance"].as_str().unwrap_or_default();
    let file = written(helm, &values.to_string())?;
    let notes = helm.notes("till", &[chart::EVERYTHING, &file])?;
    let wanted = format!("get pods --selector app.kubernetes.io/instance={instance}");
    let is_there = notes.lines().any(|line| line.ends_with(&wanted));
    if is_there { Ok(()) } else { Err(format!("no `{wanted}` in: {notes}")) }
}

/// Checks that the values on the page let every role out to NodeLocal DNSCache.
fn node_local_dns(helm: &Helm<'_>) -> Result<(), String> {
    let page = helm.workspace.read(Path::new("docs/deploy.md"))?.unwrap_or_default();
    let values = page
        .split_once("With NodeLocal DNSCache")
        .and_then(|(_, rest)| rest.split_once("```yaml\n"))
        .and_then(|(_, rest)| rest.split_once("```"));
    let (values, _) = values.ok_or("the page does not say what it needs")?;
    let file = written(helm, values)?;
    let text = helm.release("till", &[chart::EVERYTHING, &file])?;
    let objects = super::yaml(helm.workspace, &text)?;
    let cache = json!({"ipBlock": {"cidr": "169.254.20.10/32"}});
    let lets_out = |policy: &&Value| {
        let mut rules = policy["spec"]["egress"].as_array().into_iter().flatten();
        rules.any(|rule| rule["ports"][0]["port"] == 53 && rule["to"] == json!([cache]))
    };
    let policies = objects.iter().filter(|object| object["kind"] == "NetworkPolicy");
    let count = policies.filter(lets_out).count();
    if count == 5 { Ok(()) } else { Err(format!("{count} roles are let out to it")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_have_exponents() {
        assert!(is_exponent("8.64e+07"));
        assert!(!is_exponent("86400000"));
        assert!(!is_exponent("price+tax"));
    }

    #[test]
    fn a_place_leads_to_what_is_there() {
        let value = json!({"list": [{"name": "a", "x": 1}, {"name": "b", "x": 2}], "empty": []});
        assert_eq!(at(&value, "list/0/x"), [&json!(1)]);
        assert_eq!(at(&value, "list/b/x"), [&json!(2)]);
        assert_eq!(at(&value, "list/*/x"), [&json!(1), &json!(2)]);
        assert_eq!(at(&value, "list/c/x"), [&Value::Null]);
        assert_eq!(at(&value, "gone/0"), [&Value::Null]);
        assert!(at(&value, "empty/*").is_empty());
    }

    #[test]
    fn the_operator_takes_the_label_before_the_name() {
        let cluster = json!({"metadata": {"name": "till-store"}});
        assert_eq!(operator_labels(&cluster, "pd")["app.kubernetes.io/instance"], "till-store");
        let labels = json!({"app.kubernetes.io/instance": "till"});
        let cluster = json!({"metadata": {"name": "till-store", "labels": labels}});
        assert_eq!(operator_labels(&cluster, "pd")["app.kubernetes.io/instance"], "till");
    }
}
