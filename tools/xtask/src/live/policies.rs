//! Network policies where something enforces them. Every edge of the table works, and every other
//! one is refused, as seen from pods that carry the roles' labels.

use std::{collections::BTreeMap, time::Duration};

use crate::roles::{self, Role};

use super::{
    bases,
    chart::{OURS, Release},
    machine::wait,
};

const METRICS: u16 = 9100;
const STORE: u16 = 2379;
/// CoreDNS' readiness port; roles may only ask it for names.
const NAMES_READY: u16 = 8181;
/// A namespace that may read metrics, and one that reaches only the bridge.
const MONITORING: &str = "monitoring";
const ELSEWHERE: &str = "elsewhere";

/// A pod that asks, and the role that it poses as.
struct Asker {
    namespace: &'static str,
    pod: String,
    role: Option<&'static str>,
}

/// A connection to try, and whether it is allowed.
struct Question {
    what: String,
    address: String,
    port: u16,
    may: bool,
}

/// Tries every connection from every pod.
pub(crate) fn check(release: &Release<'_>) -> Result<String, String> {
    let askers = askers(release)?;
    let done = ask_all(release, &askers);
    for Asker { namespace, pod, .. } in &askers {
        release.node.kubectl(&["--namespace", namespace, "delete", "pod", pod, "--now"])?;
    }
    done
}

fn ask_all(release: &Release<'_>, askers: &[Asker]) -> Result<String, String> {
    let addresses = addresses(release)?;
    let (mut allowed, mut refused) = (0, 0);
    for asker in askers {
        let questions = questions(release, asker, &addresses)?;
        let answers = ask(release, asker, &questions)?;
        for (question, is_reached) in questions.iter().zip(answers) {
            if is_reached != question.may {
                let word = if is_reached { "reached" } else { "did not reach" };
                return Err(format!("{} {word} {}", asker.pod, question.what));
            }
            if question.may { allowed += 1 } else { refused += 1 }
        }
    }
    Ok(format!("{allowed} edges work, {refused} are refused, from {} pods", askers.len()))
}

/// A pod with the labels of each role, and two without a role. They are never ready, so that no
/// service lists them.
fn askers(release: &Release<'_>) -> Result<Vec<Asker>, String> {
    let mut askers: Vec<Asker> = roles::NAMES
        .into_iter()
        .map(|role| Asker {
            namespace: release.namespace,
            pod: format!("as-{role}"),
            role: Some(role),
        })
        .collect();
    for namespace in [MONITORING, ELSEWHERE] {
        if release.node.kubectl(&["get", "namespace", namespace]).is_err() {
            release.node.kubectl(&["create", "namespace", namespace])?;
        }
        askers.push(Asker { namespace, pod: "as-nobody".to_owned(), role: None });
    }
    for asker in &askers {
        let labels = asker.role.map_or("{app: nobody}".to_owned(), |role| {
            format!(
                "{{app.kubernetes.io/name: till, app.kubernetes.io/instance: till, \
                 app.kubernetes.io/component: {role}}}"
            )
        });
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {}, labels: {labels}}}\nspec:\n  \
             automountServiceAccountToken: false\n  terminationGracePeriodSeconds: 0\n  \
             securityContext: {{runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{type: RuntimeDefault}}}}\n  \
             containers:\n  - name: shell\n    image: {}\n    command: [sleep, \"600\"]\n    \
             readinessProbe: {{exec: {{command: [\"false\"]}}, periodSeconds: 600}}\n    \
             securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}\n",
            asker.pod,
            bases::SHELL_IMAGE,
        );
        release.node.apply(asker.namespace, &pod)?;
    }
    for asker in &askers {
        wait("an asker does not run", Duration::from_mins(1), || {
            let phase = release.node.kubectl(&[
                "--namespace",
                asker.namespace,
                "get",
                "pod",
                &asker.pod,
                "--output",
                "jsonpath={.status.phase}",
            ])?;
            if phase == "Running" { Ok(()) } else { Err(format!("{}: {phase}", asker.pod)) }
        })?;
    }
    // The firewall learns of pods shortly after they start.
    std::thread::sleep(Duration::from_secs(3));
    Ok(askers)
}

/// Addresses of a pod of each role, of the store, and of the DNS server.
fn addresses(release: &Release<'_>) -> Result<BTreeMap<&'static str, String>, String> {
    let mut found = BTreeMap::new();
    for role in roles::NAMES {
        let pod = release.of(role)?.into_iter().find(|pod| {
            pod["metadata"]["name"].as_str().is_some_and(|name| !name.starts_with("as-"))
        });
        let address = pod.and_then(|pod| pod["status"]["podIP"].as_str().map(str::to_owned));
        found.insert(role, address.ok_or_else(|| format!("no {role} runs"))?);
    }
    let address = |namespace: &str, pod: &str| {
        release.node.kubectl(&[
            "--namespace",
            namespace,
            "get",
            "pod",
            pod,
            "--output",
            "jsonpath={.status.podIP}",
        ])
    };
    found.insert("store", address(release.namespace, "store-0")?);
    let names = release.node.list("kube-system", "pods", "k8s-app=kube-dns")?;
    let names = names.first().and_then(|pod| pod["status"]["podIP"].as_str()).ok_or("no names")?;
    found.insert("names", names.to_owned());
    Ok(found)
}

fn questions(
    release: &Release<'_>,
    asker: &Asker,
    addresses: &BTreeMap<&'static str, String>,
) -> Result<Vec<Question>, String> {
    let mut questions = Vec::new();
    let mut put = |what: String, place: &str, port: u16, may: bool| {
        questions.push(Question { what, address: addresses[place].clone(), port, may });
    };
    for Role { name: callee, port, callers, .. } in roles::ROLES {
        let may = match asker.role {
            Some(role) => callers.contains(&role),
            None => callee == "http-bridge",
        };
        // kube-router counts a packet between two pods of one policy as allowed by it, whichever of
        // them sends it, and the bridge's policy lets everybody in.
        if callee != "http-bridge" || asker.role != Some(callee) {
            put(format!("{callee}:{port}"), callee, port, may);
        }
        let may = asker.role.is_none() && asker.namespace == MONITORING;
        put(format!("{callee}'s metrics"), callee, METRICS, may);
    }
    let needs_store = asker.role.is_none_or(|role| role != "http-bridge");
    put("the store".to_owned(), "store", STORE, needs_store);
    if asker.role.is_some() {
        put("another port of the names".to_owned(), "names", NAMES_READY, false);
        let api = release.node.kubectl(&[
            "--namespace",
            "default",
            "get",
            "service",
            "kubernetes",
            "--output",
            "jsonpath={.spec.clusterIP}",
        ])?;
        questions.push(Question {
            what: "the API server".to_owned(),
            address: api,
            port: 443,
            may: false,
        });
    }
    Ok(questions)
}

/// Tries each connection for up to 2 s; true if it is made.
fn ask(release: &Release<'_>, asker: &Asker, questions: &[Question]) -> Result<Vec<bool>, String> {
    // curl prints the time until the connection was made, or 0. What is spoken over it does not
    // matter.
    let connect = |Question { address, port, .. }: &Question| {
        let limits = "--connect-timeout 2 --max-time 3";
        format!(
            "curl -s -o /dev/null -w '%{{time_connect}}\\n' {limits} http://{address}:{port}/ || true\n"
        )
    };
    let script: String = questions.iter().map(connect).collect();
    let said = release.node.kubectl(&[
        "--namespace",
        asker.namespace,
        "exec",
        &asker.pod,
        "--",
        "sh",
        "-c",
        &script,
    ])?;
    let answers: Vec<bool> = said.lines().map(|time| time != "0.000000").collect();
    if answers.len() == questions.len() {
        Ok(answers)
    } else {
        Err(format!("{} answers to {} questions: {said}, {OURS}", answers.len(), questions.len()))
    }
}
