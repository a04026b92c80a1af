//! A Docker engine of our own in the machine, with its data below the target directory, and its
//! client.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::machine::{Machine, Network};
use crate::{
    command::{self, wait},
    files,
    outside::{compose::COMPOSE, go::Module},
    workspace::Workspace,
};

/// Lies in the machine's own /run.
const SOCKET: &str = "unix:///run/docker.sock";
const BUILDX: Module = Module {
    linked: "-X github.com/docker/buildx/version.Version=v0.23.0",
    ..Module::new("github.com/docker/buildx", "v0.23.0", &["./cmd/buildx"])
};

/// Debian packages and one program of each: the engine, the tools that make base images, and what a
/// Kubernetes node needs.
const PACKAGES: [(&str, &str); 9] = [
    ("docker.io", "/usr/sbin/dockerd"),
    ("mmdebstrap", "/usr/bin/mmdebstrap"),
    ("iptables", "/usr/sbin/iptables"),
    ("containerd", "/usr/bin/containerd"),
    ("runc", "/usr/sbin/runc"),
    ("etcd-server", "/usr/bin/etcd"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("conntrack", "/usr/sbin/conntrack"),
    ("ipset", "/usr/sbin/ipset"),
];

/// Programs that Debian runs as services on a host with systemd, and their units.
const SERVICES: [(&str, &[&str]); 3] = [
    ("/usr/sbin/dockerd", &["docker.service", "docker.socket"]),
    ("/usr/bin/containerd", &["containerd.service"]),
    ("/usr/bin/etcd", &["etcd.service"]),
];
/// Debian's tools ask this script before they start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// Exit code 101 forbids it. The comment tells it from a script of somebody else's.
const NO_STARTS: &str =
    "#!/bin/sh\n# Of `cargo xtask live`, while it installs packages.\nexit 101\n";

/// As long as it is there, packages that are installed start no services.
struct NoStarts {
    is_ours: bool,
}

impl NoStarts {
    /// Whether an interrupted run has left ours.
    fn left() -> bool {
        let path = Path::new(POLICY);
        !path.is_symlink() && fs::read_to_string(path).is_ok_and(|text| text == NO_STARTS)
    }

    /// Somebody else's script stays, and decides.
    fn begin() -> Result<Self, String> {
        let path = Path::new(POLICY);
        let is_ours = Self::left() || (!path.exists() && !path.is_symlink());
        if is_ours {
            files::program(path, NO_STARTS)?;
        }
        Ok(Self { is_ours })
    }
}

impl Drop for NoStarts {
    fn drop(&mut self) {
        if self.is_ours {
            // The next run takes it for its own.
            let _removed = fs::remove_file(POLICY);
        }
    }
}

/// Installs the missing programs, and lets none of them run as a service: neither now nor, on a
/// host with systemd, after its next start. The error says why that is not possible.
pub(crate) fn packages(workspace: &Workspace) -> Result<String, String> {
    // What an interrupted run has left is put in order first.
    if NoStarts::left() {
        drop(NoStarts { is_ours: true });
    }
    disable(workspace)?;
    if PACKAGES.iter().all(|(_, program)| Path::new(program).exists()) {
        return Ok("already there".to_owned());
    }
    // Those of the host stay as they are.
    let new: Vec<&str> = SERVICES
        .iter()
        .filter(|(program, _)| !Path::new(program).exists())
        .flat_map(|(_, units)| units.iter().copied())
        .collect();
    files::write(to_disable(workspace), new.join("\n"))?;
    let _none = NoStarts::begin()?;
    let mut update = Command::new("apt-get");
    command::quietly(update.args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "--no-install-recommends"])
        .args(PACKAGES.map(|(package, _)| package))
        .env("DEBIAN_FRONTEND", "noninteractive");
    command::captured(&mut install)?;
    disable(workspace)?;
    Ok(format!("{} packages of Debian's, whose services do not run", PACKAGES.len()))
}

/// Lists the services that were installed and may not run.
fn to_disable(workspace: &Workspace) -> PathBuf {
    workspace.target.join("live/to-disable")
}

/// Disables the listed services, and forgets the list.
fn disable(workspace: &Workspace) -> Result<(), String> {
    let list = to_disable(workspace);
    let Ok(units) = fs::read_to_string(&list) else { return Ok(()) };
    if Path::new("/run/systemd/system").exists() {
        // Those that an interrupted installation did not reach do not exist.
        let is_there = |unit: &&str| {
            let mut cat = Command::new("systemctl");
            command::captured(cat.args(["cat", unit])).is_ok()
        };
        let units: Vec<&str> = units.lines().filter(is_there).collect();
        if !units.is_empty() {
            let mut disable = Command::new("systemctl");
            command::captured(disable.arg("disable").args(&units))?;
        }
    }
    files::remove(&list)
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
            // The host's own configuration is not for this engine.
            .args(["--config-file", "/run/no-configuration.json"])
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
            engine.quietly("info").map(drop)
        })
        .map_err(|problem| format!("{problem}\n{}", machine.tail("dockerd")))?;
        // What an earlier run left that was interrupted.
        for (list, remove) in
            [("ps --all --quiet", "rm --force"), ("volume ls --quiet", "volume rm")]
        {
            for one in engine.quietly(list)?.split_whitespace() {
                engine.quietly(&format!("{remove} {one}"))?;
            }
        }
        engine.quietly("network prune --force")?;
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

    /// A `docker` command with the arguments of this line.
    pub(crate) fn docker(&self, line: &str) -> Command {
        let mut docker = self.command("docker");
        docker.args(line.split_whitespace());
        docker
    }

    /// Runs a `docker` command with the arguments of this line, and returns its standard output.
    pub(crate) fn quietly(&self, line: &str) -> Result<String, String> {
        command::captured(&mut self.docker(line)).map(|text| text.trim().to_owned())
    }

    /// A container's log.
    pub(crate) fn logs(&self, container: &str) -> Result<String, String> {
        command::quietly(self.docker("logs").arg(container)).map(|(_, text)| text)
    }

    /// A part of what the engine knows of an image, by a template of Go.
    pub(crate) fn inspect(&self, image: &str, template: &str) -> Result<String, String> {
        let mut inspect = self.docker("image inspect --format");
        command::captured(inspect.args([template, image])).map(|text| text.trim().to_owned())
    }

    pub(crate) fn has_image(&self, name: &str) -> bool {
        self.inspect(name, "{{.Id}}").is_ok()
    }

    /// Makes an image from a file system and Dockerfile instructions.
    pub(crate) fn import(&self, tar: &Path, changes: &[&str], name: &str) -> Result<(), String> {
        let mut import = self.docker("import");
        for change in changes {
            import.args(["--change", change]);
        }
        command::captured(import.arg(tar).arg(name)).map(drop)
    }
}

/// The client's configuration folder, with both plugins.
fn plugins(workspace: &Workspace) -> Result<PathBuf, String> {
    let config = workspace.target.join("live/docker-config");
    let folder = config.join("cli-plugins");
    files::folder(&folder)?;
    for (module, name) in [(COMPOSE, "docker-compose"), (BUILDX, "docker-buildx")] {
        let program = module.program(workspace)?;
        files::link(program, folder.join(name))?;
    }
    Ok(config)
}
