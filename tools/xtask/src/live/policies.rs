//! Network policies where something enforces them. Every edge of the table works, and every other
//! one is refused, as seen from pods that carry the roles' labels, in the shop's namespace and in
//! another.
//!
//! A refusal alone says nothing: nobody may listen there, or the asker may reach nothing at all. So
//! each place that refuses somebody must answer somebody else, by the same probe, and each asker
//! must reach something.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    bases,
    chart::{OURS, Release},
};
use crate::{
    command::wait,
    files,
    roles::{self, Role},
};

const METRICS: u16 = 9100;
const PD: u16 = 2379;
/// CoreDNS' readiness port; roles may only ask it for names.
const NAMES_READY: u16 = 8181;
/// A namespace that may read metrics, one that reaches only the bridge, and tidb-operator's.
const MONITORING: &str = "monitoring";
const ELSEWHERE: &str = "elsewhere";
const OPERATOR: &str = "tidb-admin";

/// The store of a release.
pub(crate) struct Store {
    pod: &'static str,
    /// Whether a policy says who reaches it.
    is_guarded: bool,
}

/// A store of the user's, which the chart knows by its address alone.
pub(crate) const OPEN: Store = Store { pod: "store-0", is_guarded: false };
/// A TidbCluster's first placement driver.
pub(crate) const GUARDED: Store = Store { pod: "till-store-pd-0", is_guarded: true };

/// A pod that asks, and the role that it poses as.
struct Asker {
    namespace: &'static str,
    pod: String,
    role: Option<&'static str>,
}

impl Asker {
    fn name(&self) -> String {
        format!("{} of {}", self.pod, self.namespace)
    }
}

/// A connection to try, and whether it is allowed.
struct Question {
    what: String,
    address: String,
    port: u16,
    may: bool,
}

/// Tries every connection from every pod.
pub(crate) fn check(release: &Release<'_>, store: &Store) -> Result<String, String> {
    let askers = askers(release, store)?;
    let done = ask_all(release, store, &askers);
    for Asker { namespace, pod, .. } in &askers {
        release.node.kubectl(&format!("--namespace {namespace} delete pod {pod} --now"))?;
    }
    done
}

fn ask_all(release: &Release<'_>, store: &Store, askers: &[Asker]) -> Result<String, String> {
    let addresses = addresses(release, store)?;
    let (mut allowed, mut refused) = (0, 0);
    let (mut reached, mut held_back) = (BTreeSet::new(), BTreeMap::new());
    for asker in askers {
        let before = allowed;
        let questions = questions(release, store, asker, &addresses)?;
        let answers = ask(release, asker, &questions)?;
        for (Question { what, address, port, may }, is_reached) in
            questions.into_iter().zip(answers)
        {
            if is_reached != may {
                let word = if is_reached { "reached" } else { "did not reach" };
                return Err(format!("{} {word} {what}", asker.name()));
            }
            if may {
                allowed += 1;
                reached.insert((address, port));
            } else {
                refused += 1;
                held_back.insert((address, port), what);
            }
        }
        if allowed == before {
            return Err(format!("{} reached nothing at all", asker.name()));
        }
    }
    if let Some((_, what)) = held_back.iter().find(|(place, _)| !reached.contains(*place)) {
        return Err(format!("nobody reached {what}, so that its refusals say nothing"));
    }
    Ok(format!(
        "{allowed} edges work, {refused} are refused, from {} pods; what refuses one answers another",
        askers.len()
    ))
}

/// Pods with the labels of each role, here and in another namespace, and pods without a role.
fn askers(release: &Release<'_>, store: &Store) -> Result<Vec<Asker>, String> {
    let mut askers = Vec::new();
    for namespace in [release.namespace, ELSEWHERE] {
        for role in roles::NAMES {
            askers.push(Asker { namespace, pod: format!("as-{role}"), role: Some(role) });
        }
    }
    let mut others = vec![release.namespace, MONITORING, ELSEWHERE];
    if store.is_guarded {
        others.push(OPERATOR);
    }
    for namespace in others {
        askers.push(Asker { namespace, pod: "as-nobody".to_owned(), role: None });
    }
    for namespace in [MONITORING, ELSEWHERE] {
        if release.node.kubectl(&format!("get namespace {namespace}")).is_err() {
            release.node.kubectl(&format!("create namespace {namespace}"))?;
        }
    }
    let file = release.node.workspace.root.join("tools/xtask/live/node/asker.yaml");
    let pod = files::read(file)?.replace("@IMAGE@", bases::SHELL_IMAGE);
    for asker in &askers {
        let labels = asker.role.map_or("{app: nobody}".to_owned(), |role| {
            format!(
                "{{app.kubernetes.io/name: till, app.kubernetes.io/instance: till, \
                 app.kubernetes.io/component: {role}}}"
            )
        });
        let pod = pod.replace("@POD@", &asker.pod).replace("@LABELS@", &labels);
        release.node.apply(asker.namespace, &pod)?;
    }
    for asker in &askers {
        wait("an asker does not run", Duration::from_mins(1), || {
            let phase = field(release, asker.namespace, &asker.pod, "{.status.phase}")?;
            if phase == "Running" { Ok(()) } else { Err(format!("{}: {phase}", asker.name())) }
        })?;
    }
    // The firewall learns of pods shortly after they start.
    std::thread::sleep(Duration::from_secs(3));
    Ok(askers)
}

/// A field of a pod, by its JSON path.
fn field(release: &Release<'_>, namespace: &str, pod: &str, path: &str) -> Result<String, String> {
    let get = format!("--namespace {namespace} get pod {pod} --output jsonpath={path}");
    release.node.kubectl(&get)
}

/// Addresses of a pod of each role, of the store, and of the DNS server.
fn addresses(
    release: &Release<'_>,
    store: &Store,
) -> Result<BTreeMap<&'static str, String>, String> {
    let mut found = BTreeMap::new();
    for role in roles::NAMES {
        let pod = release.of(role)?.into_iter().find(|pod| {
            pod["metadata"]["name"].as_str().is_some_and(|name| !name.starts_with("as-"))
        });
        let address = pod.and_then(|pod| pod["status"]["podIP"].as_str().map(str::to_owned));
        found.insert(role, address.ok_or_else(|| format!("no {role} runs"))?);
    }
    let store = field(release, release.namespace, store.pod, "{.status.podIP}")?;
    found.insert("store", store);
    let names = release.node.list("kube-system", "pods", "k8s-app=kube-dns")?;
    let names = names.first().and_then(|pod| pod["status"]["podIP"].as_str()).ok_or("no names")?;
    found.insert("names", names.to_owned());
    Ok(found)
}

fn questions(
    release: &Release<'_>,
    store: &Store,
    asker: &Asker,
    addresses: &BTreeMap<&'static str, String>,
) -> Result<Vec<Question>, String> {
    let mut questions = Vec::new();
    let mut put = |what: String, place: &str, port: u16, may: bool| {
        questions.push(Question { what, address: addresses[place].clone(), port, may });
    };
    // A role's labels say nothing in another namespace.
    let role = asker.role.filter(|_| asker.namespace == release.namespace);
    for Role { name: callee, port, callers, .. } in roles::ROLES {
        let may = match role {
            Some(role) => callers.contains(&role),
            None => callee == "http-bridge",
        };
        // kube-router counts a packet between two pods of one policy as allowed by it, whichever of
        // them sends it, and the bridge's policy lets everybody in.
        if callee != "http-bridge" || role != Some(callee) {
            put(format!("{callee}:{port}"), callee, port, may);
        }
        put(format!("{callee}'s metrics"), callee, METRICS, asker.namespace == MONITORING);
    }
    let may = match role {
        Some(role) => role != "http-bridge",
        None => !store.is_guarded || asker.namespace == OPERATOR,
    };
    put("the store".to_owned(), "store", PD, may);
    put("another port of the names".to_owned(), "names", NAMES_READY, role.is_none());
    let format = "jsonpath={.spec.clusterIP}";
    let get = format!("--namespace default get service kubernetes --output {format}");
    let api = release.node.kubectl(&get)?;
    questions.push(Question {
        what: "the API server".to_owned(),
        address: api,
        port: 443,
        may: role.is_none(),
    });
    Ok(questions)
}

/// Tries each connection for up to 2 s, all at once; true if it is made.
fn ask(release: &Release<'_>, asker: &Asker, questions: &[Question]) -> Result<Vec<bool>, String> {
    // curl prints the time until the connection was made, or 0. What is spoken over it does not
    // matter.
    let connect = |(number, Question { address, port, .. }): (usize, &Question)| {
        let limits = "--connect-timeout 2 --max-time 3";
        format!(
            "curl -s -o /dev/null -w '{number} %{{time_connect}}\\n' {limits} http://{address}:{port}/ &\n"
        )
    };
    let script: String = questions.iter().enumerate().map(connect).collect();
    let exec = format!("--namespace {} exec {} -- sh -c", asker.namespace, asker.pod);
    let said = release.node.kubectl_with(&exec, &[&format!("{script}wait")])?;
    let answers: BTreeMap<usize, bool> = said
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(number, time)| Some((number.parse().ok()?, time != "0.000000")))
        .collect();
    if answers.len() == questions.len() {
        Ok(answers.into_values().collect())
    } else {
        Err(format!("{} answers to {} questions: {said}, {OURS}", answers.len(), questions.len()))
    }
}
