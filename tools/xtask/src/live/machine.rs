//! A machine inside this one: namespaces of its own for network, mounts and processes.
//!
//! Everything that an engine or a node makes (bridges, firewall rules, mounts, containers) lives in
//! these namespaces. It is gone when their first process ends, which it does with the task runner.
//! The host shares only its control groups: a machine has one of its own, which [`Machine::down`]
//! removes.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    command::{self, wait},
    files,
};

/// The first process: it reaps children, and ends when its input is closed. The kubelet sets
/// variables of the kernel that are the host's; it gets files in their place. Programs that write
/// to fixed folders of the host get empty ones in their place.
const INIT: &str = "\
set -e
mount --make-rshared /
made=
for folder in /run /var/log /var/lib /etc/docker /opt/containerd /usr/libexec/kubernetes; do
  if [ ! -d $folder ]; then mkdir $folder; made=\"$made $folder\"; fi
  mount -t tmpfs tmpfs $folder
done
echo '{}' >/run/no-configuration.json
for file in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys \
  kernel/keys/root_maxbytes; do
  copy=/run/sysctl-${file##*/}; cat /proc/sys/$file >$copy; mount --bind $copy /proc/sys/$file
done
if [ $0 = Own ]; then ip link set lo up; echo 1 >/proc/sys/net/ipv4/ip_forward; fi
echo ready
read -r _ || true
for folder in $made; do umount -l $folder; rmdir $folder; done";

/// Which network a machine uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// A network of its own without any route out: every port is free.
    Own,
    /// The host's network, for builds that download packages. Nothing there may change addresses or
    /// firewall rules.
    Host,
}

/// What names of control groups begin with; the id of the machine's first process follows.
const GROUPS: &str = "till-live-";

#[derive(Debug)]
pub(crate) struct Machine {
    holder: Child,
    /// Id of its first process on the host.
    init: String,
    /// Working directory of every command.
    root: PathBuf,
    logs: PathBuf,
    /// Its namespaces: a process's entry in /proc, and what that leads to.
    spaces: Vec<(&'static str, PathBuf)>,
    /// The control group of all its containers, below each hierarchy.
    pub(crate) group: String,
}

impl Machine {
    /// Starts a machine; needs root. Its services log to `logs`.
    pub(crate) fn start(root: &Path, logs: &Path, network: Network) -> Result<Self, String> {
        files::folder(logs)?;
        let mut unshare = Command::new("unshare");
        if network == Network::Own {
            unshare.arg("--net");
        }
        let mut holder = unshare
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["--propagation", "private", "--", "bash", "-c", INIT])
            .arg(format!("{network:?}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot run unshare: {error}"))?;
        let mut said = String::new();
        let output = holder.stdout.take().ok_or("no output to read")?;
        BufReader::new(output).read_line(&mut said).map_err(|error| error.to_string())?;
        if said.trim() != "ready" {
            return Err(
                "no namespaces of our own: this needs root, and util-linux's unshare".to_owned()
            );
        }
        let pid = holder.id();
        let children = files::read(format!("/proc/{pid}/task/{pid}/children"))?;
        let init = children.trim().to_owned();
        let kinds: &[&str] =
            if network == Network::Own { &["pid", "mnt", "net"] } else { &["pid", "mnt"] };
        let spaces = kinds.iter().map(|kind| space(&init, kind).map(|space| (*kind, space)));
        let spaces = spaces.collect::<Option<Vec<_>>>().ok_or("the machine ended at once")?;
        let group = format!("{GROUPS}{init}");
        for hierarchy in hierarchies() {
            sweep(&hierarchy);
            files::folder(hierarchy.join(&group))?;
        }
        Ok(Self { holder, init, root: root.to_owned(), logs: logs.to_owned(), spaces, group })
    }

    /// A command in the machine, in the project's root.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init, "--net", "--mount", "--pid"])
            .arg(format!("--wdns={}", self.root.display()))
            .arg("--")
            .arg(program.as_ref())
            .stdin(Stdio::null());
        command
    }

    /// Starts a service, which runs until it or the machine ends. Its output goes to a log of this
    /// name.
    pub(crate) fn spawn(&self, name: &str, service: &mut Command) -> Result<(), String> {
        command::logged(service, &self.log(name)).map(drop)
    }

    /// The last ten lines of a service's log, for an error message.
    pub(crate) fn tail(&self, name: &str) -> String {
        files::tail(self.log(name), 10)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// Runs a shell command in the machine, and returns its output.
    pub(crate) fn shell(&self, line: &str) -> Result<String, String> {
        command::heard(self.command("bash").args(["-ec", line]))
            .map_err(|text| format!("{line}: {text}"))
    }

    /// [`Machine::down`], and then a look at the host, where nothing may be left of the machine: no
    /// process in its namespaces, no mount below the folder of its files, no control group.
    pub(crate) fn gone(&mut self) -> Result<String, String> {
        self.down()?;
        wait("there are processes of the machine", Duration::from_secs(20), || {
            let left: Vec<String> = processes()
                .filter(|id| {
                    self.spaces.iter().any(|(kind, own)| space(id, kind).as_ref() == Some(own))
                })
                .map(|id| format!("{id} {}", told(&id)))
                .collect();
            if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
        })?;
        let files = self.logs.parent().unwrap_or(&self.logs);
        let mounts = files::read("/proc/self/mountinfo")?;
        if let Some(mount) = mount_below(&mounts, files) {
            return Err(format!("{mount} is still mounted"));
        }
        let group = hierarchies().into_iter().map(|hierarchy| hierarchy.join(&self.group));
        if let Some(group) = group.into_iter().find(|group| group.exists()) {
            return Err(format!("{} is still there", group.display()));
        }
        Ok("no process, mount or control group is left".to_owned())
    }

    /// Ends every process of the machine, and removes the control groups that are left.
    pub(crate) fn down(&mut self) -> Result<(), String> {
        drop(self.holder.stdin.take());
        self.holder.wait().map_err(|error| error.to_string())?;
        let began = Instant::now();
        for group in hierarchies().into_iter().map(|hierarchy| hierarchy.join(&self.group)) {
            while group.is_dir() && !removed(&group) {
                if began.elapsed() > Duration::from_secs(20) {
                    return Err(format!("{} is still there", group.display()));
                }
                thread::sleep(Duration::from_millis(200));
            }
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Callers of `down` have seen a failure; the namespaces end in any case.
        let _down = self.down();
    }
}

/// A namespace of a process; none when there is no such process, or nothing of it but its exit code.
fn space(id: &str, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{id}/ns/{kind}")).ok()
}

/// Ids of all processes of the host.
fn processes() -> impl Iterator<Item = String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What a process is called.
fn told(id: &str) -> String {
    fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default().trim().to_owned()
}

/// The first mount below a folder, by the lines of /proc/self/mountinfo.
fn mount_below<'a>(mounts: &'a str, folder: &Path) -> Option<&'a str> {
    let mut places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    places.find(|place| Path::new(place).starts_with(folder))
}

/// The one hierarchy of control groups, or with version 1 each of them.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root];
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()).collect()
}

/// Removes the groups of machines that have ended: an interrupted run leaves its own.
fn sweep(hierarchy: &Path) {
    for entry in fs::read_dir(hierarchy).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let init = name.to_str().and_then(|name| name.strip_prefix(GROUPS));
        if init.is_some_and(|init| !Path::new("/proc").join(init).exists()) {
            removed(&entry.path());
        }
    }
}

/// Removes a control group and those below it. A group that has processes stays.
fn removed(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            removed(&entry.path());
        }
    }
    fs::remove_dir(group).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_place() {
        let mounts = "36 35 98:0 / /a rw - ext4 /dev/a rw\n37 36 0:5 / /a/live/x rw - tmpfs t rw\n";
        assert_eq!(mount_below(mounts, Path::new("/a/live")), Some("/a/live/x"));
        assert_eq!(mount_below(mounts, Path::new("/a/liv")), None);
    }

    #[test]
    fn a_process_is_found_by_its_namespace() {
        let own = std::process::id().to_string();
        assert!(processes().any(|id| id == own));
        assert!(space(&own, "mnt").is_some());
        assert!(space("0", "mnt").is_none());
    }
}
