//! The chart on a real Kubernetes, installed as docs/deploy.md describes: first what people do with
//! it, then upgrades, losses and pressure under load.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    bases,
    chart::{self, OURS, Release},
    docker, engine,
    engine::Engine,
    image,
    load::Load,
    machine::{Machine, Network},
    node::{self, Node},
    policies, scripts,
    steps::Steps,
    usage, variants,
};
use crate::{
    command::{self, wait},
    roles,
    workspace::Workspace,
};

/// A commit before this one that stores and sends the same formats, for a rolling upgrade from its
/// build and back. A later one may replace it; one has to when the formats change.
const OTHER: &str = "7aa8bb0";
const OTHER_IMAGE: &str = "till:7aa8bb0";

/// Runs all steps, with this executable: a path, or a cargo profile to build it by.
pub(crate) fn run(
    workspace: &Workspace,
    steps: &mut Steps,
    executable: &str,
) -> Result<(), String> {
    steps.must("packages", || engine::packages(workspace))?;
    steps.must("programs", || node::programs(workspace))?;
    docker::within(workspace, steps, Network::Own, |steps, machine| {
        on(workspace, steps, executable, machine)
    })
}

/// All that runs on the machine.
fn on(
    workspace: &Workspace,
    steps: &mut Steps,
    executable: &str,
    machine: &Machine,
) -> Result<(), String> {
    let engine = Engine::start(workspace, machine, Network::Own)?;
    steps.must("images of two builds", || images(workspace, &engine, executable))?;
    let node = steps.need("one node", || {
        let node = Node::start(workspace, machine)?;
        let version = node.kubectl("get nodes --no-headers")?;
        Ok((node, version.split_whitespace().collect::<Vec<_>>().join(" ")))
    })?;
    steps.must("images and names in the node", || {
        node.furnish(&engine, &[image::IMAGE, OTHER_IMAGE])?;
        Ok("CoreDNS answers".to_owned())
    })?;
    let release = Release::new(&node, "till");
    fresh(steps, &release)?;
    steps.run("policies, enforced", || policies::check(&release, &policies::OPEN));
    under_load(steps, &release, &engine);
    if steps.run("metrics server", || node.measure()) {
        variants::autoscaling(steps, &release);
    }
    steps.run("uninstall", || release.down());
    measured(steps, &node);
    variants::tls(steps, &node);
    variants::wrong_store(steps, &node);
    variants::from_earlier(steps, &node, &engine);
    scripts::run(steps, &node);
    Ok(())
}

/// Measures what one pod of each role uses.
fn measured(steps: &mut Steps, node: &Node<'_>) {
    let release = Release::new(node, "measured").with(&["--set", "defaults.replicas=1"]);
    let up = steps.need("one of each, to measure", || {
        release.store(image::IMAGE)?;
        let told = release.upgrade(image::IMAGE, &[])?;
        Ok((image::executable(node.workspace, "release")?, told))
    });
    if let Ok(till) = up {
        usage::measure(steps, &release, &till);
    }
    steps.run("uninstall what was measured", || release.down());
}

/// Makes the image, and that of the other build.
fn images(workspace: &Workspace, engine: &Engine<'_>, executable: &str) -> Result<String, String> {
    let (_, other) = variants::build(workspace, OTHER)?;
    let second = image::of_executable(workspace, engine, &other, OTHER, OTHER_IMAGE)?;
    let executable = image::executable(workspace, executable)?;
    let first = image::of_executable(workspace, engine, &executable, image::HEAD, image::IMAGE)?;
    let bytes = |path: &Path| fs::read(path).map_err(|error| error.to_string());
    if bytes(&executable)? == bytes(&other)? {
        return Err(format!("{OTHER_IMAGE} is the same build"));
    }
    bases::shell(workspace, engine)?;
    Ok(format!("{first}; {second}"))
}

/// Replaces every pod by one of this image, under load. The image must be of this commit.
fn roll(
    release: &Release<'_>,
    engine: &Engine<'_>,
    (commit, name): (&str, &str),
    load: &mut Load,
) -> Result<String, String> {
    image::is_of(release.node.workspace, engine, name, commit)?;
    release.unharmed()?;
    release.upgrade(name, &[])?;
    release.settled()?;
    for pod in release.pods(OURS)? {
        let found = &pod["spec"]["containers"][0]["image"];
        if found != name {
            return Err(format!("{} runs {found}", chart::name(&pod)));
        }
    }
    load.stretch("rolled")?.within(0)
}

/// The first steps of a user.
fn fresh(steps: &mut Steps, release: &Release<'_>) -> Result<(), String> {
    steps.must("store", || release.store(image::IMAGE))?;
    let is_up = steps.run("helm install, three of each role", || {
        let told = release.upgrade(image::IMAGE, &[])?;
        release.unharmed()?;
        Ok(told)
    });
    if !is_up {
        steps.run("what was said", || {
            Err(release.kubectl("get pods,events").unwrap_or_else(|problem| problem))
        });
        return Err("the chart was not installed".to_owned());
    }
    steps.run("describe, warnings", || {
        // Some probes fail while a pod has barely started: the busier the machine, the more.
        let (early, others): (Vec<String>, Vec<String>) = release
            .warnings()?
            .into_iter()
            .filter(|warning| warning.starts_with("till-"))
            .partition(|warning| warning.contains(": Unhealthy: "));
        match others.first() {
            None => Ok(format!("{} early probes, nothing else", early.len())),
            Some(first) => Err(format!("{} warnings, the first: {first}", others.len())),
        }
    });
    steps.run("helm test", || release.test(&[]));
    steps.run("helm test --logs", || release.test(&["--logs"]));
    Ok(())
}

/// Everything that can happen to a shop while people buy.
fn under_load(steps: &mut Steps, release: &Release<'_>, engine: &Engine<'_>) {
    let mut load = match release.load() {
        Ok(load) => load,
        Err(problem) => {
            steps.run("load", || Err(problem));
            return;
        }
    };
    thread::sleep(Duration::from_secs(5));
    steps.run("load alone", || load.stretch("alone")?.within(0));
    steps.run(&format!("rolling change to the build of {OTHER}"), || {
        roll(release, engine, (OTHER, OTHER_IMAGE), &mut load)
    });
    steps.run("rolling upgrade to this build", || {
        roll(release, engine, (image::HEAD, image::IMAGE), &mut load)
    });
    for role in roles::NAMES {
        steps.run(&format!("kubectl delete pod, {role}"), || deletion(release, role, &mut load));
    }
    steps.run("eviction of every pod, against the budgets", || {
        release.unharmed()?;
        let refusals = evictions(release)?;
        release.settled()?;
        let calls = load.stretch("evictions")?.within(0)?;
        Ok(format!("{refusals} evictions refused until their turn; {calls}"))
    });
    for role in roles::NAMES {
        steps.run(&format!("kill -9 in a pod, {role}"), || kill(release, role, &mut load));
    }
    steps.run("kill -9 of the store", || {
        let container = pid(release, "store-0")?;
        release.node.machine.shell(&format!("kill -9 {container}"))?;
        release.kubectl("rollout status statefulset/store --timeout 60s")?;
        thread::sleep(Duration::from_secs(10));
        load.stretch("store")?.within(200)
    });
    steps.run("the buyers' books", || load.audit());
    steps.run("restarts after all of it", || restarts(release));
    steps.run("helm test after all of it", || release.test(&["--logs"]));
}

/// Checks that the only restarts of the present pods are those of the killed processes: no probe
/// failed under load, and no pod reached its limit of memory. [`Release::unharmed`] checks
/// earlier pods.
fn restarts(release: &Release<'_>) -> Result<String, String> {
    let mut killed = 0;
    for pod in release.pods(OURS)? {
        let status = &pod["status"]["containerStatuses"][0];
        let reason = &status["lastState"]["terminated"]["reason"];
        if reason == "OOMKilled" {
            return Err(format!("{} ran out of memory", chart::name(&pod)));
        }
        killed += chart::restarts(&pod);
    }
    let warnings = release.warnings()?;
    if let Some(warning) = warnings.iter().find(|warning| warning.contains("Liveness probe failed"))
    {
        return Err(warning.clone());
    }
    let wanted = u64::try_from(roles::NAMES.len()).unwrap_or_default();
    if killed == wanted {
        Ok(format!("{killed}, those that were killed; no liveness probe failed"))
    } else {
        Err(format!("{killed} restarts, and {wanted} processes were killed"))
    }
}

/// Deletes a pod, as a drain of its node would. Reports how long it took to end, and how long it
/// may take.
fn deletion(release: &Release<'_>, role: &str, load: &mut Load) -> Result<String, String> {
    let pods = release.of(role)?;
    let pod = pods.first().ok_or("no pod")?;
    let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().ok_or("no grace period")?;
    release.unharmed()?;
    let began = Instant::now();
    release.kubectl(&format!("delete pod {} --wait=true --timeout 90s", chart::name(pod)))?;
    let took = began.elapsed();
    if took >= Duration::from_secs(grace) {
        return Err(format!("killed after its {grace} s: it did not end by itself"));
    }
    let took = took.as_secs_f64();
    release.settled()?;
    let calls = load.stretch(role)?.within(0)?;
    Ok(format!("gone after {took:.1} s of {grace}; {calls}"))
}

/// Evicts all pods, again and again until each is gone, as `kubectl drain` does; returns the number
/// of refusals. The budget of each role must have held back one of its pods.
fn evictions(release: &Release<'_>) -> Result<u64, String> {
    let mut left: Vec<String> =
        release.pods(OURS)?.iter().map(|pod| chart::name(pod).to_owned()).collect();
    let (mut refusals, mut refused) = (0, BTreeSet::new());
    let began = Instant::now();
    while !left.is_empty() {
        if began.elapsed() > Duration::from_secs(400) {
            return Err(format!("{} are still there", left.join(", ")));
        }
        let mut still = Vec::new();
        for pod in left {
            match evict(release, &pod) {
                Ok(()) => {}
                Err(problem) if problem.contains("disruption budget") => {
                    refusals += 1;
                    refused.extend(roles::NAMES.into_iter().find(|role| pod.contains(role)));
                    still.push(pod);
                }
                Err(problem) if problem.contains("not found") => {}
                Err(problem) => return Err(problem),
            }
        }
        left = still;
        thread::sleep(Duration::from_secs(1));
    }
    match roles::NAMES.into_iter().find(|role| !refused.contains(role)) {
        Some(role) => Err(format!("no budget held {role} back")),
        None => Ok(refusals),
    }
}

fn evict(release: &Release<'_>, pod: &str) -> Result<(), String> {
    let namespace = release.namespace;
    let metadata = json!({"name": pod});
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata});
    let line = format!(
        "echo '{eviction}' | kubectl create --raw /api/v1/namespaces/{namespace}/pods/{pod}/eviction --filename -"
    );
    let mut bash = release.node.command("bash");
    command::captured(bash.args(["-ec", &line])).map(drop)
}

/// Id of the first process in a pod's container, on the machine.
fn pid(release: &Release<'_>, pod: &str) -> Result<String, String> {
    let format = "jsonpath={.status.containerStatuses[0].containerID}";
    let id = release.kubectl(&format!("get pod {pod} --output {format}"))?;
    let id = id.strip_prefix("containerd://").ok_or_else(|| format!("a container called {id}"))?;
    let list = "ctr --address /run/containerd.sock --namespace k8s.io tasks ls";
    let tasks = release.node.machine.shell(list)?;
    let line = tasks.lines().find(|line| line.starts_with(id)).ok_or("no such task")?;
    line.split_whitespace().nth(1).map(str::to_owned).ok_or_else(|| line.to_owned())
}

/// Kills a role's process. A client that waits for a killed bridge gets no answer; the calls of any
/// other role are retried.
fn kill(release: &Release<'_>, role: &str, load: &mut Load) -> Result<String, String> {
    let pods = release.of(role)?;
    let pod = pods.first().ok_or("no pod")?;
    let name = chart::name(pod);
    let before = chart::restarts(pod);
    release.node.machine.shell(&format!("kill -9 {}", pid(release, name)?))?;
    wait("not restarted", Duration::from_mins(1), || {
        let text = release.kubectl(&format!("get pod {name} --output json"))?;
        let pod: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let is_ready = pod["status"]["containerStatuses"][0]["ready"] == true;
        if chart::restarts(&pod) > before && is_ready { Ok(()) } else { Err(name.to_owned()) }
    })?;
    thread::sleep(Duration::from_secs(2));
    // Each buyer has at most one call in flight.
    let most = if role == "http-bridge" { 8 } else { 0 };
    load.stretch(role)?.within(most)
}
