//! One Kubernetes node in the machine, from Go modules and Debian packages: control plane, kubelet,
//! DNS, a firewall that enforces network policies, and a metrics server.
//!
//! The API server and the pods share one bridge, whose address is the node's. The node keeps
//! everything but image layers in the machine's memory.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use super::{bases, engine::Engine, machine::Machine};
use crate::{
    command::{self, wait},
    files,
    outside::{chart::HELM, go::Module},
    workspace::Workspace,
};

const KUBERNETES: Module = Module {
    unreplaced: Some("v0.34.4"),
    linked: "-X k8s.io/component-base/version.gitVersion=v1.34.4 -X k8s.io/component-base/version.gitMajor=1 \
             -X k8s.io/component-base/version.gitMinor=34 -X k8s.io/client-go/pkg/version.gitVersion=v1.34.4 \
             -X k8s.io/client-go/pkg/version.gitMajor=1 -X k8s.io/client-go/pkg/version.gitMinor=34",
    ..Module::new(
        "k8s.io/kubernetes",
        "v1.34.4",
        &[
            "./cmd/kube-apiserver",
            "./cmd/kube-controller-manager",
            "./cmd/kube-scheduler",
            "./cmd/kubelet",
            "./cmd/kube-proxy",
            "./cmd/kubectl",
        ],
    )
};
const ROUTER: Module =
    Module::new("github.com/cloudnativelabs/kube-router/v2", "v2.1.0", &["./cmd/kube-router"]);
const COREDNS: Module = Module::new("github.com/coredns/coredns", "v1.15.0", &["."]);
const METRICS: Module =
    Module::new("sigs.k8s.io/metrics-server", "v0.8.0", &["./cmd/metrics-server"]);

/// The node's address, and the gateway of its pods.
pub(crate) const ADDRESS: &str = "10.250.0.1";
const NAME: &str = "node0";
const CONFIG: &str = "/run/pki/admin.conf";
/// The images of pod sandboxes, and of DNS.
const PAUSE_IMAGE: &str = "sandbox:1";
const COREDNS_IMAGE: &str = "coredns:1";

/// The arguments of the node's services.
const SERVICES: &str = include_str!("../../live/node/services.txt");

/// A running node.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) workspace: &'a Workspace,
    kubernetes: PathBuf,
    helm: PathBuf,
    layers: PathBuf,
}

/// Builds the missing programs, which takes minutes the first time.
pub(crate) fn programs(workspace: &Workspace) -> Result<String, String> {
    for module in [KUBERNETES, ROUTER, COREDNS, HELM] {
        module.folder(workspace)?;
    }
    Ok("Kubernetes 1.34.4, kube-router 2.1.0, CoreDNS 1.15.0".to_owned())
}

impl<'a> Node<'a> {
    /// Starts everything, and waits until the node is ready.
    pub(crate) fn start(workspace: &'a Workspace, machine: &'a Machine) -> Result<Self, String> {
        let folder = |module: Module| module.folder(workspace).map_err(String::from);
        let node = Self {
            machine,
            workspace,
            kubernetes: folder(KUBERNETES)?,
            helm: folder(HELM)?.join("helm"),
            layers: workspace.target.join("live/containerd"),
        };
        // Data of namespaces is left if a run was interrupted.
        files::no_folder(&node.layers)?;
        files::no_folder(workspace.target.join("live/data"))?;
        node.lay_out()?;
        let (system, kubernetes) = (Path::new("/usr/bin"), &node.kubernetes);
        node.service(system, "etcd")?;
        node.service(system, "containerd")?;
        node.service(kubernetes, "kube-apiserver")?;
        wait("the API server does not answer", Duration::from_mins(2), || {
            node.kubectl("get --raw /readyz").map(drop)
        })
        .map_err(|problem| format!("{problem}\n{}", node.machine.tail("kube-apiserver")))?;
        for name in ["kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"] {
            node.service(kubernetes, name)?;
        }
        wait("the node is not ready", Duration::from_secs(90), || {
            let format = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
            let ready = node.kubectl(&format!("get node {NAME} --output {format}"))?;
            if ready == "True" { Ok(()) } else { Err(node.machine.tail("kubelet")) }
        })?;
        node.service(&folder(ROUTER)?, "kube-router")?;
        Ok(node)
    }

    /// Starts the metrics server, which horizontal autoscaling needs, and waits for its first
    /// values.
    pub(crate) fn measure(&self) -> Result<String, String> {
        self.service(&METRICS.folder(self.workspace)?, "metrics-server")?;
        self.kubectl("apply --filename tools/xtask/live/node/metrics-server.yaml")?;
        wait("no figures of the node", Duration::from_mins(2), || {
            self.kubectl("top node").map(drop)
        })
        .map_err(|problem| format!("{problem}\n{}", self.machine.tail("metrics-server")))?;
        Ok("metrics-server 0.8.0 answers".to_owned())
    }

    /// Makes the bridge, certificates and settings where the services expect them.
    fn lay_out(&self) -> Result<(), String> {
        let files = self.workspace.root.join("tools/xtask/live/node");
        let line = format!(
            "ip link add pods0 type bridge; ip addr add {ADDRESS}/24 dev pods0; ip link set pods0 up
             echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables; iptables -P FORWARD ACCEPT
             mkdir -p /run/pki /run/cni /run/cluster
             cd /run/pki; bash {files}/certificates.sh
             cp {files}/cni.json /run/cni/pods.conflist
             sed 's#@GROUP@#/{group}#' {files}/kubelet.yaml >/run/cluster/kubelet.yaml
             sed 's#@ROOT@#{layers}#' {files}/containerd.toml >/run/cluster/containerd.toml",
            files = files.display(),
            layers = self.layers.display(),
            group = self.machine.group,
        );
        self.machine.shell(&line).map(drop)
    }

    /// Starts a program of this folder with its arguments.
    fn service(&self, folder: &Path, name: &str) -> Result<(), String> {
        let mut command = self.machine.command(folder.join(name));
        self.machine.spawn(name, command.args(arguments(name)))
    }

    /// Loads images from the engine, and starts the cluster's own workloads from them.
    pub(crate) fn furnish(&self, engine: &Engine<'_>, images: &[&str]) -> Result<(), String> {
        bases::shell(self.workspace, engine)?;
        bases::pause(self.workspace, engine, PAUSE_IMAGE)?;
        let program = COREDNS.program(self.workspace)?;
        bases::program_image(self.workspace, engine, &program, "coredns", &[], COREDNS_IMAGE)?;
        let own = [PAUSE_IMAGE, COREDNS_IMAGE, bases::SHELL_IMAGE];
        self.load(engine, &[&own[..], images].concat())?;
        self.kubectl("apply --filename tools/xtask/live/node/coredns.yaml")?;
        let rollout = "--namespace kube-system rollout status deployment/coredns --timeout 90s";
        self.kubectl(rollout).map(drop)
    }

    /// Copies images from the engine to the node.
    #[allow(clippy::unused_self, reason = "it is the node that takes them")]
    pub(crate) fn load(&self, engine: &Engine<'_>, images: &[&str]) -> Result<(), String> {
        let save = format!(
            "docker save {} | ctr --address /run/containerd.sock --namespace k8s.io images import -",
            images.join(" ")
        );
        command::captured(engine.command("bash").args(["-ec", &save])).map(drop)
    }

    /// A command in the machine for which kubectl and helm mean this node.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.machine.command(program);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = [self.kubernetes.display(), self.helm.parent().unwrap_or(&self.helm).display()];
        command.env("PATH", format!("{}:{}:{}", own[0], own[1], path.display()));
        let home = self.workspace.target.join("live/helm");
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(name, home.join(name));
        }
        command.env("KUBECONFIG", CONFIG);
        command
    }

    /// Runs kubectl with the arguments of this line, and returns its output if it succeeds.
    pub(crate) fn kubectl(&self, line: &str) -> Result<String, String> {
        self.kubectl_with(line, &[])
    }

    /// Runs kubectl with more arguments, which may contain blanks.
    pub(crate) fn kubectl_with(&self, line: &str, more: &[&str]) -> Result<String, String> {
        self.run(&self.kubernetes.join("kubectl"), line, more)
    }

    /// Runs helm with the arguments of this line and more, and returns its output if it succeeds.
    pub(crate) fn helm(&self, line: &str, more: &[&str]) -> Result<String, String> {
        self.run(&self.helm, line, more)
    }

    fn run(&self, program: &Path, line: &str, more: &[&str]) -> Result<String, String> {
        let mut command = self.command(program);
        command.args(line.split_whitespace()).args(more);
        command::captured(&mut command).map(|text| text.trim().to_owned())
    }

    /// The objects of a kind in a namespace, selected by labels.
    pub(crate) fn list(
        &self,
        namespace: &str,
        kind: &str,
        labels: &str,
    ) -> Result<Vec<Value>, String> {
        let get = format!("--namespace {namespace} get {kind} --output json --selector");
        let text = self.kubectl_with(&get, &[labels])?;
        let told: Value =
            serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        Ok(told["items"].as_array().cloned().unwrap_or_default())
    }

    /// Applies objects given as text.
    pub(crate) fn apply(&self, namespace: &str, objects: &str) -> Result<String, String> {
        let file = self.workspace.target.join("live/apply.yaml");
        files::write(&file, objects)?;
        let apply = format!("--namespace {namespace} apply --filename");
        self.kubectl_with(&apply, &[&file.display().to_string()])
    }
}

/// The arguments of a service: the indented lines below its name.
fn arguments(name: &str) -> impl Iterator<Item = &'static str> + '_ {
    let lines = SERVICES.lines().skip_while(move |line| *line != name).skip(1);
    lines.take_while(|line| line.starts_with(' ')).flat_map(str::split_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_of_a_service_are_those_below_its_name() {
        let found: Vec<&str> = arguments("kube-scheduler").collect();
        assert_eq!(found, ["--kubeconfig", CONFIG, "--leader-elect=false"]);
        assert_eq!(arguments("metrics-server").last(), Some("5s"));
        assert_eq!(arguments("scheduler").next(), None);
    }
}
