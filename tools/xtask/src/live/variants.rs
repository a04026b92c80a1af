//! Other variants of the chart: encrypted, scaled by load, with a missing store, and over the data
//! of an earlier release.

use std::{fs, path::PathBuf, process::Command, thread, time::Duration};

use serde_json::Value;

use super::{
    chart::{self, OURS, Release},
    docker,
    engine::Engine,
    image,
    node::Node,
    steps::Steps,
};
use crate::{
    command::{self, wait},
    files, roles,
    workspace::Workspace,
};

/// The earlier release, whose data must still be readable.
const EARLIER: &str = "0cbe141";

/// Longest time that the chart's startup probe gives a pod, less what `helm install` waits for here.
const STARTUP_MAX: Duration = Duration::from_secs(30);

/// Mutual TLS with a secret for each role.
pub(crate) fn tls(steps: &mut Steps, node: &Node<'_>) {
    let release = Release::new(node, "tls").with(&[
        "--set",
        "grpc.tls.enabled=true",
        "--set",
        "defaults.replicas=2",
    ]);
    let is_up = steps.run("grpc.tls: helm install", || {
        let folder = node.workspace.target.join("live/certs");
        docker::make(node.workspace, &folder)?;
        release.store(image::IMAGE)?;
        for role in roles::NAMES {
            let file = |entry: &str, name: &str| {
                format!("--from-file={entry}={}", folder.join(name).display())
            };
            let files = [
                file("ca.crt", "ca.pem"),
                file("tls.crt", &format!("{role}.pem")),
                file("tls.key", &format!("{role}.key")),
            ];
            let create = format!("create secret generic till-grpc-{role}");
            release.kubectl_with(&create, &files.each_ref().map(String::as_str))?;
        }
        release.upgrade(image::IMAGE, &[])
    });
    if is_up {
        steps.run("grpc.tls: helm test --logs", || release.test(&["--logs"]));
        steps.run("grpc.tls: rolling restart under load", || {
            let mut load = release.load()?;
            thread::sleep(Duration::from_secs(3));
            release.kubectl("rollout restart deployment")?;
            release.settled()?;
            let calls = load.stretch("restart")?.within(0)?;
            Ok(format!("{calls}; {}", load.audit()?))
        });
    }
    steps.run("grpc.tls: uninstall", || release.down());
}

/// More pods while people buy, and fewer afterwards.
pub(crate) fn autoscaling(steps: &mut Steps, release: &Release<'_>) {
    steps.run("autoscaling, up and down under load", || {
        let values = [
            "roles.stock.autoscaling.enabled=true",
            "roles.stock.autoscaling.minReplicas=2",
            "roles.stock.autoscaling.maxReplicas=4",
            "roles.stock.autoscaling.cpuPercent=60",
            "roles.stock.autoscaling.scaleDownSeconds=15",
            "roles.stock.resources.requests.cpu=20m",
        ];
        let more: Vec<&str> = values.iter().flat_map(|value| ["--set", value]).collect();
        let mut load = release.load_of("64")?;
        release.upgrade(image::IMAGE, &more)?;
        let turned_on = load.stretch("turned on")?.within(0)?;
        let pods = |wanted: &dyn Fn(usize) -> bool| {
            let count = release.of("stock")?.len();
            let seen = release.kubectl("get hpa --no-headers")?;
            if wanted(count) { Ok(()) } else { Err(format!("{count} pods, {seen}")) }
        };
        wait("not scaled up", Duration::from_mins(3), || pods(&|count| count > 3))?;
        release.settled()?;
        let up = load.stretch("up")?.within(0)?;
        release.kubectl("patch hpa till-stock --patch {\"spec\":{\"maxReplicas\":2}}")?;
        wait("not scaled down", Duration::from_mins(3), || pods(&|count| count == 2))?;
        release.settled()?;
        let down = load.stretch("down")?.within(0)?;
        let books = load.audit()?;
        Ok(format!("turned on: {turned_on}; 3 to 4 pods: {up}; to 2: {down}; {books}"))
    });
}

/// With a missing store the pods say so, wait, and are not restarted.
pub(crate) fn wrong_store(steps: &mut Steps, node: &Node<'_>) {
    let release = Release::new(node, "nowhere").with(&["--set", "defaults.replicas=1"]);
    steps.run("store.pdEndpoints leads nowhere", || {
        node.kubectl("create namespace nowhere")?;
        let failed = release.upgrade(
            image::IMAGE,
            &["--set", "store.pdEndpoints={nobody.nowhere:2379}", "--timeout", "40s"],
        );
        if failed.is_ok() {
            return Err("helm install --wait succeeded".to_owned());
        }
        let said = release.kubectl("logs deployment/till-order")?;
        let line = said
            .lines()
            .find(|line| line.contains("WARN") && line.contains("nobody.nowhere:2379"))
            .ok_or_else(|| format!("no warning names the address: {said}"))?
            .to_owned();
        // The longest time until a startup probe would restart a pod has passed then.
        thread::sleep(STARTUP_MAX);
        let told = release.told()?;
        let has_started = |pod: &Value| pod["status"]["containerStatuses"][0]["started"] == true;
        if let Some(pod) = release.pods(OURS)?.iter().find(|pod| !has_started(pod)) {
            return Err(format!("{} has not started", chart::name(pod)));
        }
        release.helm("uninstall till", &[])?;
        node.kubectl("delete namespace nowhere --timeout 90s")?;
        if told.ends_with(" 0 restarts") {
            Ok(format!("helm gives up, {told}: {line}"))
        } else {
            Err(told)
        }
    });
}

/// All roles of the earlier release stop, the store's data stays, and all roles of this release
/// start. Clients keep calling.
pub(crate) fn from_earlier(steps: &mut Steps, node: &Node<'_>, engine: &Engine<'_>) {
    let tag = format!("till:{EARLIER}");
    let mut earlier = Release::new(node, "earlier").with(&["--set", "defaults.replicas=2"]);
    let is_there = steps.run(&format!("image and chart of {EARLIER}"), || {
        let (chart, executable) = build(node.workspace, EARLIER)?;
        earlier.chart = chart;
        let said = image::of_executable(node.workspace, engine, &executable, EARLIER, &tag)?;
        node.load(engine, &[&tag])?;
        Ok(said)
    });
    if !is_there {
        return;
    }
    let is_up = steps.run(&format!("{EARLIER}: helm install"), || {
        earlier.store(&tag)?;
        earlier.upgrade(&tag, &[])
    });
    steps.run(&format!("from {EARLIER}: all stop, data stays, all start"), || {
        if !is_up {
            return Err(format!("{EARLIER} is not there"));
        }
        let mut load = earlier.load()?;
        thread::sleep(Duration::from_secs(10));
        let before = load.stretch("before")?;
        before.within(0)?;
        earlier.kubectl("scale deployment --all --replicas 0")?;
        wait("pods are still there", Duration::from_mins(2), || {
            let left = node.list("earlier", "pods", OURS)?.len();
            if left == 0 { Ok(()) } else { Err(format!("{left} pods")) }
        })?;
        let now = Release::new(node, "earlier").with(&["--set", "defaults.replicas=2"]);
        now.store(image::IMAGE)?;
        now.upgrade(image::IMAGE, &[])?;
        let meanwhile = load.stretch("meanwhile")?;
        thread::sleep(Duration::from_secs(10));
        let after = load.stretch("after")?.within(0)?;
        let books = load.audit()?;
        let test = now.test(&["--logs"])?;
        Ok(format!(
            "before: {before}; stopped: {meanwhile}; after: {after}; {books}; helm test {test}"
        ))
    });
    steps.run(&format!("from {EARLIER}: uninstall"), || earlier.down());
}

/// Chart and executable of another commit, built once.
pub(crate) fn build(workspace: &Workspace, commit: &str) -> Result<(String, PathBuf), String> {
    let folder = workspace.target.join("live/earlier").join(commit);
    let source = folder.join("src");
    let executable = folder.join("till");
    if !source.exists() {
        // Without sources of its own, cargo would build those of this tree, which is further up.
        let partial = folder.join("src.partial");
        files::folder(&partial)?;
        let line = format!("git archive {commit} | tar -x -C '{}'", partial.display());
        let mut bash = Command::new("bash");
        command::captured(
            bash.args(["-eo", "pipefail", "-c", &line]).current_dir(&workspace.root),
        )?;
        fs::rename(&partial, &source).map_err(|error| error.to_string())?;
    }
    if !source.join("Cargo.toml").exists() {
        return Err(format!("{} has no sources: remove it", folder.display()));
    }
    if !executable.exists() {
        // In a target directory of its own: cargo takes crates of the same version for the same, and
        // an older source for one that it has compiled.
        let target = folder.join("target");
        let mut cargo = workspace.cargo("build --release --locked --package till");
        command::run(cargo.current_dir(&source).env("CARGO_TARGET_DIR", &target))?;
        fs::rename(target.join("release/till"), &executable).map_err(|error| error.to_string())?;
        files::no_folder(&target)?;
    }
    Ok((source.join("helm-config/till").display().to_string(), executable))
}
