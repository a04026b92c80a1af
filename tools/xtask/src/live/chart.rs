//! The chart in a namespace of the node, over a dev-kv that has a volume of its own.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::{
    image,
    load::Load,
    node::{self, Node},
};
use crate::{command::wait, files, roles};

const CHART: &str = "helm-config/till";
const VALUES: &str = "tools/xtask/live/node/values.yaml";
/// The labels by which the chart selects its pods in a namespace.
pub(crate) const OURS: &str = "app.kubernetes.io/name=till";

/// A Helm release called `till`.
#[derive(Debug)]
pub(crate) struct Release<'a> {
    pub(crate) node: &'a Node<'a>,
    pub(crate) namespace: &'static str,
    /// The chart's folder: the project's own, or that of an earlier release.
    pub(crate) chart: String,
    /// More arguments for every `helm upgrade`.
    more: Vec<String>,
}

impl<'a> Release<'a> {
    pub(crate) fn new(node: &'a Node<'a>, namespace: &'static str) -> Self {
        Self { node, namespace, chart: CHART.to_owned(), more: Vec::new() }
    }

    pub(crate) fn with(mut self, more: &[&str]) -> Self {
        self.more.extend(more.iter().map(|&word| word.to_owned()));
        self
    }

    /// Makes the namespace, which admits only restricted pods, and the store in it.
    pub(crate) fn store(&self, image: &str) -> Result<String, String> {
        let namespace = self.namespace;
        if self.node.kubectl(&format!("get namespace {namespace}")).is_err() {
            self.node.kubectl(&format!("create namespace {namespace}"))?;
            let restricted = "pod-security.kubernetes.io/enforce=restricted";
            self.node.kubectl(&format!("label namespace {namespace} {restricted}"))?;
        }
        let folder = self.data();
        files::folder(&folder)?;
        files::give(&folder, image::USER)?;
        let file = self.node.workspace.root.join("tools/xtask/live/node/store.yaml");
        let text = files::read(file)?;
        let text = text
            .replace("@IMAGE@", image)
            .replace("@NAMESPACE@", namespace)
            .replace("@FOLDER@", &folder.display().to_string());
        self.node.apply(namespace, &text)?;
        self.kubectl("rollout status statefulset/store --timeout 90s")?;
        Ok(format!("dev-kv of {image}"))
    }

    /// The store's data on this machine.
    fn data(&self) -> PathBuf {
        self.node.workspace.target.join("live/data").join(self.namespace)
    }

    pub(crate) fn kubectl(&self, line: &str) -> Result<String, String> {
        self.kubectl_with(line, &[])
    }

    pub(crate) fn kubectl_with(&self, line: &str, more: &[&str]) -> Result<String, String> {
        self.node.kubectl_with(&format!("--namespace {} {line}", self.namespace), more)
    }

    pub(crate) fn helm(&self, line: &str, more: &[&str]) -> Result<String, String> {
        self.node.helm(&format!("--namespace {} {line}", self.namespace), more)
    }

    /// Installs this image, or upgrades to it, and waits until every role is ready.
    pub(crate) fn upgrade(&self, image: &str, more: &[&str]) -> Result<String, String> {
        let (repository, tag) = image.split_once(':').ok_or("an image without a tag")?;
        let line = format!(
            "upgrade --install till --values {VALUES} --wait --timeout 5m \
             --set store.pdEndpoints={{store-0.store.{}:2379}} \
             --set image.repository={repository} --set-string image.tag={tag}",
            self.namespace
        );
        let mut args = vec![self.chart.as_str()];
        args.extend(self.more.iter().map(String::as_str));
        args.extend(more);
        self.helm(&line, &args)?;
        self.told()
    }

    /// A summary of pods and restarts.
    pub(crate) fn told(&self) -> Result<String, String> {
        let pods = self.pods(OURS)?;
        let restarts: u64 = pods.iter().map(restarts).sum();
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        Ok(format!("{ready} of {} pods ready, {restarts} restarts", pods.len()))
    }

    /// Pods that are not being deleted, without those of `helm test`.
    pub(crate) fn pods(&self, labels: &str) -> Result<Vec<Value>, String> {
        let mut pods = self.node.list(self.namespace, "pods", labels)?;
        pods.retain(|pod| {
            let is_test = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "test";
            pod["metadata"]["deletionTimestamp"].is_null() && !is_test
        });
        Ok(pods)
    }

    pub(crate) fn of(&self, role: &str) -> Result<Vec<Value>, String> {
        self.pods(&format!("{OURS},app.kubernetes.io/component={role}"))
    }

    /// Waits until every rollout is complete and no old pod is left.
    pub(crate) fn settled(&self) -> Result<(), String> {
        for role in roles::NAMES {
            self.kubectl(&format!("rollout status deployment/till-{role} --timeout 120s"))?;
        }
        wait("pods are still ending", Duration::from_secs(90), || {
            let ending = self.node.list(self.namespace, "pods", OURS)?;
            let ending: Vec<&str> = ending
                .iter()
                .filter(|pod| !pod["metadata"]["deletionTimestamp"].is_null())
                .filter_map(|pod| pod["metadata"]["name"].as_str())
                .collect();
            if ending.is_empty() { Ok(()) } else { Err(ending.join(", ")) }
        })
    }

    /// The bridge's URL, at a port of the node.
    pub(crate) fn url(&self) -> Result<String, String> {
        let format = "jsonpath={.spec.ports[0].nodePort}";
        let port = self.kubectl(&format!("get service till-http-bridge --output {format}"))?;
        Ok(format!("http://{}:{port}", node::ADDRESS))
    }

    /// A load with as many buyers as a busy machine can serve without a pause.
    pub(crate) fn load(&self) -> Result<Load, String> {
        self.load_of("8")
    }

    pub(crate) fn load_of(&self, buyers: &str) -> Result<Load, String> {
        let enter = |program: &OsStr| self.node.machine.command(Path::new(program));
        let more = ["--seconds", "1200", "--workers", buyers];
        Load::start(self.node.workspace, enter, &[self.url()?], &more)
    }

    /// Checks that no process of the roles has ended so far. Call before pods go, as their restarts
    /// go with them.
    pub(crate) fn unharmed(&self) -> Result<(), String> {
        match self.pods(OURS)?.iter().find(|pod| restarts(pod) > 0) {
            Some(pod) => Err(format!("{} was restarted, and nobody killed it", name(pod))),
            None => Ok(()),
        }
    }

    /// Runs `helm test` as documented.
    pub(crate) fn test(&self, more: &[&str]) -> Result<String, String> {
        let said = self.helm("test till --timeout 3m", more)?;
        if !said.contains("Phase:          Succeeded") {
            return Err(said);
        }
        if more.contains(&"--logs") && !said.contains("every invariant holds") {
            return Err(format!("no logs of the audit: {said}"));
        }
        Ok("Succeeded".to_owned())
    }

    /// Kubernetes' events of type Warning.
    pub(crate) fn warnings(&self) -> Result<Vec<String>, String> {
        let format =
            "jsonpath={range .items[*]}{.involvedObject.name}: {.reason}: {.message}{\"\\n\"}{end}";
        let get = "get events --field-selector type=Warning --output";
        let text = self.kubectl_with(get, &[format])?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Removes the release, its namespace and its data.
    pub(crate) fn down(&self) -> Result<String, String> {
        self.helm("uninstall till --wait --timeout 3m", &[])?;
        self.remove()?;
        Ok("uninstalled".to_owned())
    }

    /// Removes the namespace and the store's data.
    pub(crate) fn remove(&self) -> Result<(), String> {
        let namespace = self.namespace;
        self.node.kubectl(&format!("delete namespace {namespace} --timeout 120s"))?;
        self.node.kubectl(&format!(
            "delete persistentvolume {namespace}-store --ignore-not-found --timeout 60s"
        ))?;
        files::no_folder(self.data())
    }
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["ready"] == true
}

pub(crate) fn restarts(pod: &Value) -> u64 {
    let statuses = pod["status"]["containerStatuses"].as_array();
    statuses.into_iter().flatten().filter_map(|status| status["restartCount"].as_u64()).sum()
}

pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}
