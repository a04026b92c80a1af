//! A Docker engine of our own in the machine, with its data below the target directory, and its
//! client.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::machine::{Machine, Network, wait};
use crate::{
    command,
    outside::{compose::COMPOSE, go::Module},
    workspace::Workspace,
};

/// Lies in the machine's own /run.
const SOCKET: &str = "unix:///run/docker.sock";
const BUILDX: Module = Module::new("github.com/docker/buildx", "v0.23.0", &["./cmd/buildx"])
    .linked("-X github.com/docker/buildx/version.Version=v0.23.0");

/// Debian packages: the engine, the tools that make base images, and what a Kubernetes node needs.
const PACKAGES: [&str; 9] = [
    "docker.io",
    "mmdebstrap",
    "iptables",
    "containerd",
    "runc",
    "etcd-server",
    "containernetworking-plugins",
    "conntrack",
    "ipset",
];
/// One program of each package.
const PROGRAMS: [&str; 9] = [
    "/usr/sbin/dockerd",
    "/usr/bin/mmdebstrap",
    "/usr/sbin/iptables",
    "/usr/bin/containerd",
    "/usr/sbin/runc",
    "/usr/bin/etcd",
    "/usr/lib/cni/bridge",
    "/usr/sbin/conntrack",
    "/usr/sbin/ipset",
];

/// Installs the missing programs. The error says why that is not possible.
pub(crate) fn packages() -> Result<String, String> {
    if PROGRAMS.iter().all(|program| Path::new(program).exists()) {
        return Ok("already there".to_owned());
    }
    let mut update = Command::new("apt-get");
    command::quietly(update.args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "--no-install-recommends"])
        .args(PACKAGES)
        .env("DEBIAN_FRONTEND", "noninteractive");
    let (succeeded, text) = command::quietly(&mut install)?;
    if succeeded { Ok(format!("{} packages of Debian's", PACKAGES.len())) } else { Err(text) }
}

/// A running engine.
#[derive(Debug)]
pub(crate) struct Engine<'a> {
    machine: &'a Machine,
    config: PathBuf,
}

impl<'a> Engine<'a> {
    /// Starts dockerd, and gives its client compose and buildx.
    pub(crate) fn start(
        workspace: &Workspace,
        machine: &'a Machine,
        network: Network,
    ) -> Result<Self, String> {
        let config = plugins(workspace)?;
        let data = workspace.target.join("live/engine");
        let mut service = machine.command("/usr/sbin/dockerd");
        service
            .args(["--exec-root", "/run/docker", "--pidfile", "/run/docker.pid", "--host", SOCKET])
            .args(["--storage-driver", "overlay2"])
            .args(["--cgroup-parent", &format!("/{}", machine.group)])
            .args(["--default-address-pool", "base=10.240.0.0/16,size=24", "--data-root"])
            .arg(data);
        if network == Network::Host {
            service.args(["--bridge", "none", "--iptables=false", "--ip-forward=false"]);
        }
        machine.spawn("dockerd", &mut service)?;
        let engine = Self { machine, config };
        wait("the engine does not answer", Duration::from_mins(1), || {
            engine.quietly(&["info"]).map(drop)
        })
        .map_err(|problem| format!("{problem}\n{}", machine.tail("dockerd")))?;
        // What an earlier run left that was interrupted.
        for (list, remove) in
            [("ps --all --quiet", "rm --force"), ("volume ls --quiet", "volume rm")]
        {
            let left = engine.quietly(&list.split(' ').collect::<Vec<_>>())?;
            for one in left.split_whitespace() {
                engine.quietly(&remove.split(' ').chain([one]).collect::<Vec<_>>())?;
            }
        }
        engine.quietly(&["network", "prune", "--force"])?;
        Ok(engine)
    }

    pub(crate) fn machine(&self) -> &Machine {
        self.machine
    }

    /// A command in the machine for which `docker` means this engine.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = self.machine.command(program);
        command.env("DOCKER_HOST", SOCKET).env("DOCKER_CONFIG", &self.config);
        command
    }

    /// A `docker` command.
    pub(crate) fn docker(&self, args: &[&str]) -> Command {
        let mut docker = self.command("docker");
        docker.args(args);
        docker
    }

    /// Runs a `docker` command, and returns its standard output.
    pub(crate) fn quietly(&self, args: &[&str]) -> Result<String, String> {
        command::captured(&mut self.docker(args)).map(|text| text.trim().to_owned())
    }

    /// A container's log.
    pub(crate) fn logs(&self, container: &str) -> Result<String, String> {
        command::quietly(&mut self.docker(&["logs", container])).map(|(_, text)| text)
    }

    pub(crate) fn has_image(&self, name: &str) -> bool {
        self.quietly(&["image", "inspect", "--format", "{{.Id}}", name]).is_ok()
    }

    /// Makes an image from a file system and Dockerfile instructions.
    pub(crate) fn import(&self, tar: &Path, changes: &[&str], name: &str) -> Result<(), String> {
        let mut import = self.docker(&["import"]);
        for change in changes {
            import.args(["--change", change]);
        }
        let (succeeded, text) = command::quietly(import.arg(tar).arg(name))?;
        if succeeded { Ok(()) } else { Err(text) }
    }
}

/// The client's configuration folder, with both plugins.
fn plugins(workspace: &Workspace) -> Result<PathBuf, String> {
    let config = workspace.target.join("live/docker-config");
    let folder = config.join("cli-plugins");
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    for (module, name) in [(COMPOSE, "docker-compose"), (BUILDX, "docker-buildx")] {
        let program = module.program(workspace)?.ok_or("go is not installed")?;
        let link = folder.join(name);
        if link.is_symlink() {
            fs::remove_file(&link).map_err(|error| error.to_string())?;
        }
        symlink(program, &link).map_err(|error| error.to_string())?;
    }
    Ok(config)
}
