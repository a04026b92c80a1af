//! The chart's network policies, judged by what Kubernetes makes of them: who reaches whom. The
//! store's pods have the labels that tidb-operator gives them.

use serde_json::{Value, json};

use super::{
    chart::Helm,
    values::{cluster, operator_labels, rendered},
};
use crate::{
    report::{Part, Tally},
    roles::{self, Role},
    workspace::Workspace,
};

/// Where the release is, and where the deploy scripts install the operator.
const HERE: &str = "till";
const OPERATOR: &str = "tidb-admin";
const ELSEWHERE: &str = "elsewhere";

const PD: u16 = 2379;
const PD_PEER: u16 = 2380;
const TIKV: u16 = 20160;
const TIKV_STATUS: u16 = 20180;
const DISCOVERY: u16 = 10261;
/// Of the discovery pod: passes calls on to PD.
const PROXY: u16 = 10262;

/// A pod as policies see it.
#[derive(Debug, Clone)]
struct Pod {
    namespace: &'static str,
    labels: Value,
}

impl Pod {
    fn new(namespace: &'static str, labels: Value) -> Self {
        Self { namespace, labels }
    }

    fn role(release: &str, role: &str) -> Self {
        let labels = json!({
            "app.kubernetes.io/name": "till",
            "app.kubernetes.io/instance": release,
            "app.kubernetes.io/component": role,
        });
        Self::new(HERE, labels)
    }

    /// A pod with the same labels in another namespace.
    fn elsewhere(&self) -> Self {
        Self { namespace: ELSEWHERE, labels: self.labels.clone() }
    }
}

/// Checks the edges of the roles, of the store and of DNS.
pub(super) fn check(workspace: &Workspace) -> Part {
    let helm = Helm::ready(workspace)?;
    let mut tally = Tally::default();
    let objects = rendered(&helm, "till", &json!({}))?;
    tally.check("the roles call each other", role_edges(&objects));
    tally.check("the roles ask for names, on OpenShift too", names(&objects));
    for instance in ["", "shop-db"] {
        let objects = rendered(&helm, "till", &store(&json!({}), instance))?;
        let result = store_edges(&objects, instance);
        tally.check(&format!("who uses the store reaches it, instance {instance:?}"), result);
    }
    tally.check("who reaches the store, by values", store_values(&helm));
    Ok(tally)
}

fn store(policy: &Value, instance: &str) -> Value {
    json!({
        "networkPolicy": {"tidbCluster": policy},
        "store": {"tidbCluster": {"instance": instance}},
    })
}

fn role_edges(objects: &[Value]) -> Result<(), String> {
    let pod = |role: &str| Pod::role("till", role);
    for Role { name, port, callers, .. } in roles::ROLES.iter().filter(|role| role.port != 8000) {
        for caller in roles::NAMES.iter().filter(|caller| *caller != name) {
            expect(objects, &pod(caller), &pod(name), &[*port], callers.contains(caller))?;
            expect(objects, &pod(caller).elsewhere(), &pod(name), &[*port], false)?;
            expect(objects, &Pod::role("other", caller), &pod(name), &[*port], false)?;
        }
    }
    Ok(())
}

/// A service's port is not always its pods': OpenShift's DNS listens on 5353 behind 53.
fn names(objects: &[Value]) -> Result<(), String> {
    let kubernetes = Pod::new("kube-system", json!({"k8s-app": "kube-dns"}));
    let openshift =
        Pod::new("openshift-dns", json!({"dns.operator.openshift.io/daemonset-dns": "default"}));
    for role in roles::NAMES {
        let asker = Pod::role("till", role);
        for (server, port) in [(&kubernetes, 53), (&openshift, 5353)] {
            for protocol in ["UDP", "TCP"] {
                if !is_reached(objects, &asker, server, port, protocol) {
                    return Err(format!("{role} does not reach {server:?} by {protocol} {port}"));
                }
            }
            expect(objects, &asker, server, &[443, 8181], false)?;
            expect(objects, &asker, &Pod::new(server.namespace, json!({})), &[port], false)?;
        }
    }
    Ok(())
}

/// Checks that the store's pods are of this instance, if one is given; that roles, the operator and
/// the store's own pods reach what they need; and that nobody else does.
fn store_edges(objects: &[Value], instance: &str) -> Result<(), String> {
    let cluster = cluster(objects)?;
    let pod = |component: &str| Pod::new(HERE, operator_labels(cluster, component));
    let (pd, tikv, discovery) = (pod("pd"), pod("tikv"), pod("discovery"));
    let found = &pd.labels["app.kubernetes.io/instance"];
    if !instance.is_empty() && found != instance {
        return Err(format!("the store's pods are of instance {found}"));
    }
    let everything = [
        (&pd, vec![PD, PD_PEER]),
        (&tikv, vec![TIKV, TIKV_STATUS]),
        (&discovery, vec![DISCOVERY, PROXY]),
    ];
    let users = roles::grpc().map(|role| role.name).chain(["test"]);
    for user in users.map(|role| Pod::role("till", role)) {
        expect(objects, &user, &pd, &[PD], true)?;
        expect(objects, &user, &tikv, &[TIKV], true)?;
        expect(objects, &user, &pd, &[PD_PEER], false)?;
        expect(objects, &user, &tikv, &[TIKV_STATUS], false)?;
        expect(objects, &user, &discovery, &[DISCOVERY, PROXY], false)?;
    }
    let operator = Pod::new(OPERATOR, json!({"app.kubernetes.io/name": "tidb-operator"}));
    for insider in [&pd, &tikv, &discovery, &operator] {
        for (place, ports) in &everything {
            expect(objects, insider, place, ports, true)?;
        }
    }
    let mut labels = operator_labels(cluster, "monitor");
    labels["app.kubernetes.io/instance"] = json!("watch");
    let monitor = Pod::new(HERE, labels);
    expect(objects, &monitor, &pd, &[PD], true)?;
    expect(objects, &monitor, &tikv, &[TIKV_STATUS], true)?;
    expect(objects, &monitor, &tikv, &[TIKV], false)?;
    let mut of_another = pod("tikv");
    of_another.labels["app.kubernetes.io/instance"] = json!("another");
    let strangers = [
        Pod::role("till", "http-bridge"),
        Pod::role("other", "order"),
        Pod::role("till", "order").elsewhere(),
        Pod::new(HERE, json!({"app": "stranger"})),
        Pod::new(ELSEWHERE, json!({"app": "stranger"})),
        Pod::new("monitoring", json!({"app": "prometheus"})),
        monitor.elsewhere(),
        pd.elsewhere(),
        of_another,
    ];
    for stranger in &strangers {
        for (place, ports) in &everything {
            expect(objects, stranger, place, ports, false)?;
        }
    }
    Ok(())
}

/// What values change: nobody is held back, somebody else is let in, the operator is elsewhere.
fn store_values(helm: &Helm<'_>) -> Result<(), String> {
    let backup = Pod::new(HERE, json!({"app.kubernetes.io/component": "backup"}));
    let operator = Pod::new(OPERATOR, json!({"app.kubernetes.io/name": "tidb-operator"}));
    let namespace = json!({"matchLabels": {"kubernetes.io/metadata.name": ELSEWHERE}});
    let cases = [
        (json!({"enabled": false}), [true, true, true]),
        (json!({"from": [{"podSelector": {"matchLabels": backup.labels}}]}), [true, true, false]),
        (json!({"operatorFrom": [{"namespaceSelector": namespace}]}), [false, false, true]),
    ];
    for (policy, wanted) in cases {
        let objects = rendered(helm, "till", &store(&policy, ""))?;
        let pod = |component| cluster(&objects).map(|one| operator_labels(one, component));
        for (component, port) in [("pd", PD), ("tikv", TIKV), ("discovery", PROXY)] {
            let place = Pod::new(HERE, pod(component)?);
            for (who, may) in [&backup, &operator, &operator.elsewhere()].into_iter().zip(wanted) {
                expect(&objects, who, &place, &[port], may)?;
            }
        }
    }
    Ok(())
}

fn expect(
    objects: &[Value],
    from: &Pod,
    to: &Pod,
    ports: &[u16],
    wanted: bool,
) -> Result<(), String> {
    for port in ports {
        if is_reached(objects, from, to, *port, "TCP") != wanted {
            let word = if wanted { "does not reach" } else { "reaches" };
            return Err(format!("{from:?} {word} {to:?}:{port}"));
        }
    }
    Ok(())
}

/// A connection needs both ends: the policies of its origin and those of its goal.
fn is_reached(objects: &[Value], from: &Pod, to: &Pod, port: u16, protocol: &str) -> bool {
    is_let(objects, "Egress", from, to, port, protocol)
        && is_let(objects, "Ingress", to, from, port, protocol)
}

/// Whether the policies that select `own` allow this direction. Without any, everything is allowed.
fn is_let(
    objects: &[Value],
    direction: &str,
    own: &Pod,
    other: &Pod,
    port: u16,
    protocol: &str,
) -> bool {
    let policies = objects.iter().filter(|object| object["kind"] == "NetworkPolicy");
    let mut selecting = policies
        .filter(|policy| {
            let types = policy["spec"]["policyTypes"].as_array();
            own.namespace == HERE
                && is_selected(&policy["spec"]["podSelector"], &own.labels)
                && types.is_some_and(|types| types.iter().any(|one| one == direction))
        })
        .peekable();
    if selecting.peek().is_none() {
        return true;
    }
    let (rules, peers) = if direction == "Egress" { ("egress", "to") } else { ("ingress", "from") };
    selecting.filter_map(|policy| policy["spec"][rules].as_array()).flatten().any(|rule| {
        let ports = rule["ports"].as_array();
        let is_port = |one: &Value| {
            one["port"] == port && one["protocol"].as_str().unwrap_or("TCP") == protocol
        };
        let peers = rule[peers].as_array();
        ports.is_none_or(|ports| ports.iter().any(is_port))
            && peers.is_none_or(|peers| peers.iter().any(|peer| is_peer(peer, other)))
    })
}

/// Addresses are of nobody here.
fn is_peer(peer: &Value, other: &Pod) -> bool {
    if !peer["ipBlock"].is_null() {
        return false;
    }
    let namespace = &peer["namespaceSelector"];
    let labels = json!({"kubernetes.io/metadata.name": other.namespace});
    let is_there =
        if namespace.is_null() { other.namespace == HERE } else { is_selected(namespace, &labels) };
    is_there && is_selected(&peer["podSelector"], &other.labels)
}

/// A label selector; one that is not there selects everything. Of expressions the chart has only
/// `In`.
fn is_selected(selector: &Value, labels: &Value) -> bool {
    let wanted = selector["matchLabels"].as_object();
    let expressions = selector["matchExpressions"].as_array();
    let is_in = |one: &Value| {
        let key = one["key"].as_str().unwrap_or_default();
        let values = one["values"].as_array();
        one["operator"] == "In" && values.is_some_and(|list| list.contains(&labels[key]))
    };
    wanted.into_iter().flatten().all(|(name, value)| labels[name] == *value)
        && expressions.into_iter().flatten().all(is_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_holds_back_what_it_does_not_list() {
        let policy = json!({
            "kind": "NetworkPolicy",
            "spec": {
                "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["a"]}]},
                "policyTypes": ["Ingress"],
                "ingress": [{"ports": [{"port": 1}], "from": [{"podSelector": {"matchLabels": {"app": "b"}}}]}],
            },
        });
        let pod = |app: &str| Pod::new(HERE, json!({"app": app}));
        let reached = |from: &Pod, to: &Pod, port| {
            is_reached(std::slice::from_ref(&policy), from, to, port, "TCP")
        };
        assert!(reached(&pod("b"), &pod("a"), 1));
        assert!(!reached(&pod("b"), &pod("a"), 2));
        assert!(!reached(&pod("c"), &pod("a"), 1));
        assert!(!reached(&pod("b").elsewhere(), &pod("a"), 1));
        // Not selected, or in a namespace without policies.
        assert!(reached(&pod("c"), &pod("b"), 2));
        assert!(reached(&pod("c"), &pod("a").elsewhere(), 2));
    }
}
