//! One Kubernetes node in the machine, from Go modules and Debian packages: control plane, kubelet,
//! DNS, a firewall that enforces network policies, and a metrics server.
//!
//! The API server and the pods share one bridge, whose address is the node's. The node keeps
//! everything but image layers in the machine's memory.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use serde_json::Value;

use super::{
    bases,
    engine::Engine,
    machine::{Machine, wait},
};
use crate::{
    command,
    outside::{chart::HELM, go::Module},
    workspace::Workspace,
};

const KUBERNETES: Module = Module::new(
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
.unreplaced("v0.34.4")
.linked(
    "-X k8s.io/component-base/version.gitVersion=v1.34.4 -X k8s.io/component-base/version.gitMajor=1 \
     -X k8s.io/component-base/version.gitMinor=34 -X k8s.io/client-go/pkg/version.gitVersion=v1.34.4 \
     -X k8s.io/client-go/pkg/version.gitMajor=1 -X k8s.io/client-go/pkg/version.gitMinor=34",
);
const ROUTER: Module =
    Module::new("github.com/cloudnativelabs/kube-router/v2", "v2.1.0", &["./cmd/kube-router"]);
const COREDNS: Module = Module::new("github.com/coredns/coredns", "v1.15.0", &["."]);
const METRICS: Module =
    Module::new("sigs.k8s.io/metrics-server", "v0.8.0", &["./cmd/metrics-server"]);

/// The node's address, and the gateway of its pods.
pub(crate) const ADDRESS: &str = "10.250.0.1";
const NAME: &str = "node0";
const PODS: &str = "10.250.0.0/24";
const SERVICES: &str = "10.96.0.0/16";
/// Not on etcd's default port, which PD uses.
const ETCD: &str = "http://127.0.0.1:12379";
const ETCD_PEER: &str = "http://127.0.0.1:12380";
const CONFIG: &str = "/run/pki/admin.conf";
/// The images of pod sandboxes, and of DNS.
const PAUSE_IMAGE: &str = "sandbox:1";
const COREDNS_IMAGE: &str = "coredns:1";

/// The API server's arguments. The node's name cannot be resolved, so kubelets are reached by
/// address. The request headers are for the metrics server.
const API_SERVER: &[&str] = &[
    "--etcd-servers",
    ETCD,
    "--service-cluster-ip-range",
    SERVICES,
    "--bind-address",
    ADDRESS,
    "--advertise-address",
    ADDRESS,
    "--secure-port",
    "6443",
    "--cert-dir",
    "/run/pki",
    "--tls-cert-file",
    "/run/pki/apiserver.crt",
    "--tls-private-key-file",
    "/run/pki/apiserver.key",
    "--client-ca-file",
    "/run/pki/ca.crt",
    "--kubelet-client-certificate",
    "/run/pki/admin.crt",
    "--kubelet-client-key",
    "/run/pki/admin.key",
    "--kubelet-certificate-authority",
    "/run/pki/ca.crt",
    "--kubelet-preferred-address-types",
    "InternalIP",
    "--service-account-issuer",
    "https://kubernetes.default.svc",
    "--service-account-key-file",
    "/run/pki/accounts.pub",
    "--service-account-signing-key-file",
    "/run/pki/accounts.key",
    "--authorization-mode",
    "Node,RBAC",
    "--allow-privileged",
    "--requestheader-client-ca-file",
    "/run/pki/ca.crt",
    "--requestheader-allowed-names",
    "front-proxy",
    "--requestheader-username-headers",
    "X-Remote-User",
    "--requestheader-group-headers",
    "X-Remote-Group",
    "--requestheader-extra-headers-prefix",
    "X-Remote-Extra-",
    "--proxy-client-cert-file",
    "/run/pki/front-proxy.crt",
    "--proxy-client-key-file",
    "/run/pki/front-proxy.key",
    "--enable-aggregator-routing",
];

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
        module.folder(workspace)?.ok_or("go is not installed")?;
    }
    Ok("Kubernetes 1.34.4, kube-router 2.1.0, CoreDNS 1.15.0".to_owned())
}

impl<'a> Node<'a> {
    /// Starts everything, and waits until the node is ready.
    pub(crate) fn start(workspace: &'a Workspace, machine: &'a Machine) -> Result<Self, String> {
        let folder =
            |module: Module| module.folder(workspace)?.ok_or("go is not installed".to_owned());
        let node = Self {
            machine,
            workspace,
            kubernetes: folder(KUBERNETES)?,
            helm: folder(HELM)?.join("helm"),
            layers: workspace.target.join("live/containerd"),
        };
        // Data of namespaces is left if a run was interrupted.
        for folder in [&node.layers, &workspace.target.join("live/data")] {
            if folder.exists() {
                fs::remove_dir_all(folder).map_err(|error| error.to_string())?;
            }
        }
        node.lay_out()?;
        node.control_plane()?;
        node.worker()?;
        wait("the node is not ready", Duration::from_secs(90), || {
            let format = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
            let ready = node.kubectl(&["get", "node", NAME, "--output", format])?;
            if ready == "True" { Ok(()) } else { Err(node.machine.tail("kubelet")) }
        })?;
        let router = folder(ROUTER)?.join("kube-router");
        node.service(
            "kube-router",
            &router,
            &[
                "--kubeconfig",
                CONFIG,
                "--hostname-override",
                NAME,
                "--run-firewall=true",
                "--run-router=false",
                "--run-service-proxy=false",
                "--run-loadbalancer=false",
                "--service-cluster-ip-range",
                SERVICES,
            ],
        )?;
        Ok(node)
    }

    /// Starts the metrics server, which horizontal autoscaling needs, and waits for its first
    /// values.
    pub(crate) fn measure(&self) -> Result<String, String> {
        let metrics = METRICS.program(self.workspace)?.ok_or("go is not installed")?;
        self.service(
            "metrics-server",
            &metrics,
            &[
                "--kubeconfig",
                CONFIG,
                "--authentication-kubeconfig",
                CONFIG,
                "--authorization-kubeconfig",
                CONFIG,
                "--secure-port",
                "4443",
                "--cert-dir",
                "/run/metrics-server",
                "--kubelet-insecure-tls",
                "--kubelet-preferred-address-types",
                "InternalIP",
                "--metric-resolution",
                "10s",
                "--kubelet-request-timeout",
                "5s",
            ],
        )?;
        self.kubectl(&["apply", "--filename", "tools/xtask/live/node/metrics-server.yaml"])?;
        wait("no figures of the node", Duration::from_mins(2), || {
            self.kubectl(&["top", "node"]).map(drop)
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

    fn control_plane(&self) -> Result<(), String> {
        self.service(
            "etcd",
            "/usr/bin/etcd",
            &[
                "--name",
                "node",
                "--data-dir",
                "/run/etcd",
                "--listen-client-urls",
                ETCD,
                "--advertise-client-urls",
                ETCD,
                "--listen-peer-urls",
                ETCD_PEER,
                "--initial-advertise-peer-urls",
                ETCD_PEER,
                "--initial-cluster",
                &format!("node={ETCD_PEER}"),
            ],
        )?;
        self.service(
            "containerd",
            "/usr/bin/containerd",
            &["--config", "/run/cluster/containerd.toml"],
        )?;
        let program = |name: &str| self.kubernetes.join(name);
        self.service("apiserver", program("kube-apiserver"), API_SERVER)?;
        wait("the API server does not answer", Duration::from_mins(2), || {
            self.kubectl(&["get", "--raw", "/readyz"]).map(drop)
        })
        .map_err(|problem| format!("{problem}\n{}", self.machine.tail("apiserver")))?;
        self.service(
            "controller-manager",
            program("kube-controller-manager"),
            &[
                "--kubeconfig",
                CONFIG,
                "--leader-elect=false",
                "--service-account-private-key-file",
                "/run/pki/accounts.key",
                "--root-ca-file",
                "/run/pki/ca.crt",
                "--allocate-node-cidrs",
                "--cluster-cidr",
                PODS,
                "--node-cidr-mask-size",
                "24",
                "--service-cluster-ip-range",
                SERVICES,
                "--horizontal-pod-autoscaler-sync-period",
                "5s",
                "--horizontal-pod-autoscaler-initial-readiness-delay",
                "10s",
                "--horizontal-pod-autoscaler-cpu-initialization-period",
                "20s",
            ],
        )?;
        self.service(
            "scheduler",
            program("kube-scheduler"),
            &["--kubeconfig", CONFIG, "--leader-elect=false"],
        )
    }

    fn worker(&self) -> Result<(), String> {
        self.service(
            "kubelet",
            self.kubernetes.join("kubelet"),
            &[
                "--config",
                "/run/cluster/kubelet.yaml",
                "--kubeconfig",
                CONFIG,
                "--hostname-override",
                NAME,
                "--node-ip",
                ADDRESS,
                "--root-dir",
                "/run/kubelet",
                "--cert-dir",
                "/run/pki",
            ],
        )?;
        self.service(
            "kube-proxy",
            self.kubernetes.join("kube-proxy"),
            &[
                "--kubeconfig",
                CONFIG,
                "--hostname-override",
                NAME,
                "--proxy-mode",
                "iptables",
                "--cluster-cidr",
                PODS,
                // These belong to the host.
                "--conntrack-max-per-core",
                "0",
                "--conntrack-tcp-timeout-established",
                "0",
                "--conntrack-tcp-timeout-close-wait",
                "0",
            ],
        )
    }

    fn service(
        &self,
        name: &str,
        program: impl AsRef<std::path::Path>,
        args: &[&str],
    ) -> Result<(), String> {
        self.machine.spawn(name, self.machine.command(program).args(args))
    }

    /// Loads images from the engine, and starts the cluster's own workloads from them.
    pub(crate) fn furnish(&self, engine: &Engine<'_>, images: &[&str]) -> Result<(), String> {
        bases::shell(self.workspace, engine)?;
        bases::pause(self.workspace, engine, PAUSE_IMAGE)?;
        let program = COREDNS.program(self.workspace)?.ok_or("go is not installed")?;
        let changes = ["ENTRYPOINT [\"/bin/coredns\"]"];
        bases::program_image(
            self.workspace,
            engine,
            &program,
            "bin/coredns",
            &changes,
            COREDNS_IMAGE,
        )?;
        let own = [PAUSE_IMAGE, COREDNS_IMAGE, bases::SHELL_IMAGE];
        self.load(engine, &[&own[..], images].concat())?;
        let files = "tools/xtask/live/node";
        self.kubectl(&["apply", "--filename", &format!("{files}/coredns.yaml")])?;
        let rollout = ["--namespace", "kube-system", "rollout", "status", "deployment/coredns"];
        self.kubectl(&[&rollout[..], &["--timeout", "90s"]].concat()).map(drop)
    }

    /// Copies images from the engine to the node.
    #[allow(clippy::unused_self, reason = "it is the node that takes them")]
    pub(crate) fn load(&self, engine: &Engine<'_>, images: &[&str]) -> Result<(), String> {
        let save = format!(
            "docker save {} | ctr --address /run/containerd.sock --namespace k8s.io images import -",
            images.join(" ")
        );
        let (succeeded, text) = command::quietly(engine.command("bash").args(["-ec", &save]))?;
        if succeeded { Ok(()) } else { Err(text) }
    }

    /// A command in the machine for which kubectl and helm mean this node.
    pub(crate) fn command(&self, program: impl AsRef<std::path::Path>) -> Command {
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

    /// Runs kubectl, and returns its output if it succeeds.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        let mut kubectl = self.command(self.kubernetes.join("kubectl"));
        command::captured(kubectl.args(args)).map(|text| text.trim().to_owned())
    }

    pub(crate) fn helm(&self, args: &[&str]) -> Result<String, String> {
        command::captured(self.command(&self.helm).args(args)).map(|text| text.trim().to_owned())
    }

    /// The objects of a kind in a namespace, selected by labels.
    pub(crate) fn list(
        &self,
        namespace: &str,
        kind: &str,
        labels: &str,
    ) -> Result<Vec<Value>, String> {
        let text = self.kubectl(&[
            "--namespace",
            namespace,
            "get",
            kind,
            "--selector",
            labels,
            "--output",
            "json",
        ])?;
        let told: Value =
            serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        Ok(told["items"].as_array().cloned().unwrap_or_default())
    }

    /// Applies objects given as text.
    pub(crate) fn apply(&self, namespace: &str, objects: &str) -> Result<String, String> {
        let file = self.workspace.target.join("live/apply.yaml");
        fs::write(&file, objects).map_err(|error| error.to_string())?;
        let file = file.display().to_string();
        self.kubectl(&["--namespace", namespace, "apply", "--filename", &file])
    }
}
