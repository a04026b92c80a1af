//! Runs the deploy scripts and the plain files to their end. Stand-ins replace what no package
//! registry has: minikube, the charts of tidb-operator and ingress-nginx, and the operator itself,
//! which a thread plays.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    chart::{self, Release},
    node::Node,
    policies,
    steps::Steps,
};
use crate::{command, files, outside::values::operator_labels};

const STANDINS: &str = "tools/xtask/live/standins";

/// Runs both scripts, and `kubectl apply --filename k8s/`.
pub(crate) fn run(steps: &mut Steps, node: &Node<'_>) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| operate(node, &is_over));
        steps.run("deploy-charts-minikube.sh", || minikube(node));
        steps.run("deploy-charts-cluster.sh", || cluster(node));
        steps.run("kubectl apply --filename k8s/", || plain(node));
        is_over.store(true, Ordering::Relaxed);
    });
}

fn minikube(node: &Node<'_>) -> Result<String, String> {
    removed(node, || {
        script(node, "deploy-charts-minikube.sh", &[])?;
        tested(node)
    })
}

fn cluster(node: &Node<'_>) -> Result<String, String> {
    removed(node, || {
        let small = format!("{STANDINS}/small.yaml");
        let variables = [("IMAGE", "till:0.2.0"), ("VALUES", &small)];
        script(node, "deploy-charts-cluster.sh", &variables)?;
        // Here the store is a TidbCluster's, which has a policy of its own.
        let edges = policies::check(&Release::new(node, "till"), &policies::GUARDED)?;
        Ok(format!("{}; policies: {edges}", tested(node)?))
    })
}

/// As in docs/deploy.md: the script installs the store, kubectl the rest. CPU requests are reduced
/// to fit one node.
fn plain(node: &Node<'_>) -> Result<String, String> {
    removed(node, || {
        script(node, "deploy-charts-cluster.sh --store-only", &[])?;
        let release = Release::new(node, "till");
        let folder = node.workspace.target.join("live/k8s");
        // Files of an earlier run may be gone from k8s/.
        files::empty_folder(&folder)?;
        let plain = node.workspace.root.join("k8s");
        let plain = fs::read_dir(plain).map_err(|error| error.to_string())?;
        for entry in plain.flatten().filter(|entry| entry.path().is_file()) {
            let text = files::read(entry.path())?.replace("cpu: 500m", "cpu: 20m");
            files::write(folder.join(entry.file_name()), text)?;
        }
        release.kubectl_with("apply --filename", &[&folder.display().to_string()])?;
        release.settled()?;
        let told = release.told()?;
        Ok(format!("{told}; {}", buy(&release)?))
    })
}

/// Runs the purchase of `helm test` from the machine, by a forwarded port as docs/deploy.md says.
fn buy(release: &Release<'_>) -> Result<String, String> {
    let line = format!(
        "kubectl --namespace {} port-forward service/till-http-bridge 8000:80 >/dev/null &\n\
         trap \"kill $!\" EXIT\n\
         for _ in $(seq 60); do curl --silent --fail localhost:8000/readyz >/dev/null && break; \
         sleep 0.5; done\n\
         SHOP=http://localhost:8000 sh helm-config/till/files/checkout.sh",
        release.namespace,
    );
    let mut bash = release.node.command("bash");
    let said = command::captured(bash.args(["-ec", &line]))?;
    Ok(said.lines().last().unwrap_or_default().to_owned())
}

/// Runs a script in the machine, with the stand-ins first in the PATH: they replace some of their
/// arguments, or all of what they do, and pass the rest on.
fn script(node: &Node<'_>, line: &str, variables: &[(&str, &str)]) -> Result<String, String> {
    let programs = node.workspace.root.join(STANDINS).join("bin");
    let mut bash = node.command("bash");
    let line = format!("PATH={}:$PATH; ./{line}", programs.display());
    bash.args(["-ec", &line]).envs(variables.iter().copied());
    command::captured(&mut bash)
}

/// Runs the command that the script suggests at its end.
fn tested(node: &Node<'_>) -> Result<String, String> {
    let release = Release::new(node, "till");
    let told = release.told()?;
    release.unharmed()?;
    let test = release.test(&["--logs"])?;
    Ok(format!("to its end; {told}; helm test {test}"))
}

/// Runs a step, and removes what it installed even if it fails: the next one begins with nothing.
fn removed(
    node: &Node<'_>,
    step: impl FnOnce() -> Result<String, String>,
) -> Result<String, String> {
    let told = step();
    let uninstall = "uninstall till --ignore-not-found --wait --timeout 3m";
    let uninstalled = Release::new(node, "till").helm(uninstall, &[]);
    let removed = remove(node);
    let told = told?;
    uninstalled?;
    removed?;
    Ok(told)
}

fn remove(node: &Node<'_>) -> Result<(), String> {
    for (release, namespace) in
        [("tidb-operator", "tidb-admin"), ("ingress-nginx", "ingress-nginx")]
    {
        node.helm(&format!("uninstall {release} --namespace {namespace} --ignore-not-found"), &[])?;
        let delete = format!("delete namespace {namespace} --ignore-not-found --timeout 90s");
        node.kubectl(&delete)?;
    }
    node.kubectl("delete namespace till --timeout 120s").map(drop)
}

/// Plays the operator: makes a store for each TidbCluster, with the operator's labels, and then
/// sets the condition that users wait for.
fn operate(node: &Node<'_>, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let clusters = node.kubectl("get tidbclusters --all-namespaces --output json");
        let clusters: Value =
            clusters.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        for cluster in clusters["items"].as_array().into_iter().flatten() {
            let is_ready = cluster["status"]["conditions"][0]["status"] == "True";
            // A failure is retried, and the script waits.
            if !is_ready && let Err(problem) = reconcile(node, cluster) {
                println!("stand-in for tidb-operator: {problem}");
            }
        }
        thread::sleep(Duration::from_secs(1));
    }
}

fn reconcile(node: &Node<'_>, cluster: &Value) -> Result<(), String> {
    let name = chart::name(cluster);
    let namespace = cluster["metadata"]["namespace"].as_str().unwrap_or_default();
    let file = node.workspace.root.join(Path::new(STANDINS)).join("store.yaml");
    let text = files::read(file)?;
    let text = text
        .replace("@NAME@", name)
        .replace("@NAMESPACE@", namespace)
        .replace("@LABELS@", &operator_labels(cluster, "pd").to_string());
    // Not the file of `Node::apply`, which others use meanwhile.
    let file = node.workspace.target.join("live/operator.yaml");
    files::write(&file, text)?;
    let of = |line: &str| format!("--namespace {namespace} {line}");
    node.kubectl_with(&of("apply --filename"), &[&file.display().to_string()])?;
    node.kubectl(&of(&format!("rollout status statefulset/{name}-pd --timeout 60s")))?;
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let patch = of(&format!("patch tidbcluster {name} --subresource status --type merge --patch"));
    node.kubectl_with(&patch, &[&status.to_string()]).map(drop)
}
