//! What a shop on this machine costs: CPU time and memory of each role, from Linux's `/proc`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use rpc::net::Endpoint;
use serde_json::{Value, json};

use crate::tally::as_float;

/// Ticks per second in `/proc/*/stat` (`USER_HZ`): 100 on all common Linux systems.
const TICKS: u64 = 100;

/// One process of a shop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// The name of its role, as on its command line.
    pub(crate) role: String,
    /// Addresses it listens on.
    pub(crate) listen: Vec<Endpoint>,
    /// Address of its admin listener, if it has one.
    pub(crate) admin: Option<Endpoint>,
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    ticks: u64,
    rss_kib: u64,
    peak_kib: u64,
}

/// Usage of a shop's processes at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// By role, then by pid.
    of: BTreeMap<String, BTreeMap<u32, Used>>,
}

/// The child processes of a `till up`; empty where there is no `/proc`.
pub(crate) fn children(up: u32) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found: Vec<Process> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| parent(*pid) == Some(up))
        .filter_map(process)
        .collect();
    found.sort_by(|one, other| (&one.role, one.pid).cmp(&(&other.role, other.pid)));
    found
}

/// Addresses of a role's replicas; of each the first one.
pub(crate) fn listening(processes: &[Process], role: &str) -> Vec<Endpoint> {
    let of_role = processes.iter().filter(|process| process.role == role);
    of_role.filter_map(|process| process.listen.first().cloned()).collect()
}

fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may contain anything. The state is the first field after it.
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

fn process(pid: u32) -> Option<Process> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments: Vec<String> =
        line.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into()).collect();
    let given = |flag| arguments.windows(2).filter(move |pair| pair[0] == flag);
    Some(Process {
        pid,
        role: arguments.get(1)?.clone(),
        listen: given("--listen").filter_map(|pair| reachable(&pair[1])).collect(),
        admin: given("--admin-listen").find_map(|pair| reachable(&pair[1])),
    })
}

/// The address to connect to for an address that is listened on.
fn reachable(listen: &str) -> Option<Endpoint> {
    let mut address: std::net::SocketAddr = listen.parse().ok()?;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    Some(Endpoint::from(address))
}

fn used(pid: u32) -> Option<Used> {
    let stat = stat(pid)?;
    // Fields 14 and 15 of proc(5), user and system; the state is field 3.
    let field = |number: usize| stat.get(number - 3)?.parse::<u64>().ok();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    Some(Used { ticks: field(14)? + field(15)?, rss_kib: kib("VmRSS:")?, peak_kib: kib("VmHWM:")? })
}

/// What these processes have used so far.
///
/// # Errors
/// In words, when a process has ended: figures of a shop that lost a role mean nothing.
pub(crate) fn usage(processes: &[Process]) -> Result<Usage, String> {
    let mut usage = Usage::default();
    for process in processes {
        let used = used(process.pid)
            .ok_or_else(|| format!("{} (pid {}) has ended", process.role, process.pid))?;
        usage.of.entry(process.role.clone()).or_default().insert(process.pid, used);
    }
    Ok(usage)
}

/// What this process has used so far.
pub(crate) fn own() -> Usage {
    let pid = std::process::id();
    let used = used(pid).into_iter().map(|used| (pid, used)).collect();
    Usage { of: BTreeMap::from([("generator".to_owned(), used)]) }
}

impl Usage {
    /// CPU seconds of all processes since an earlier reading.
    pub(crate) fn cpu_since(&self, before: &Self) -> f64 {
        self.of.keys().map(|role| self.role_cpu(before, role)).sum()
    }

    fn role_cpu(&self, before: &Self, role: &str) -> f64 {
        let ticks = |usage: &Self| -> u64 {
            usage.of.get(role).into_iter().flatten().map(|(_, used)| used.ticks).sum()
        };
        as_float(ticks(self).saturating_sub(ticks(before))) / as_float(TICKS)
    }

    /// CPU seconds since an earlier reading, and memory now, by role; null if nothing is known.
    pub(crate) fn json(&self, before: &Self) -> Value {
        if self.of.values().all(BTreeMap::is_empty) {
            return Value::Null;
        }
        let role = |(role, processes): (&String, &BTreeMap<u32, Used>)| {
            let sum = |part: fn(&Used) -> u64| processes.values().map(part).sum::<u64>();
            let value = json!({
                "processes": processes.len(),
                "cpu_s": self.role_cpu(before, role),
                "rss_mib": sum(|used| used.rss_kib) / 1024,
                "rss_peak_mib": sum(|used| used.peak_kib) / 1024,
            });
            (role.clone(), value)
        };
        self.of.iter().map(role).collect::<serde_json::Map<_, _>>().into()
    }
}

/// The machine, as far as figures depend on it.
pub(crate) fn machine(disk: Option<&Path>) -> Value {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = read("/proc/meminfo");
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let memory = memory.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    json!({
        "cores": cores,
        "cpu": cpu.map(|(_, name)| name),
        "memory_mib": memory.map(|kib| kib / 1024),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "disk_sync_us": disk.and_then(sync_us),
    })
}

/// Median microseconds of making a small write durable where a shop keeps its data. No commit on
/// that disk is faster. A figure of a few microseconds means a file system in memory.
fn sync_us(directory: &Path) -> Option<u64> {
    use std::io::Write as _;
    let path: PathBuf = directory.join("sync-probe");
    let mut file = fs::File::create(&path).ok()?;
    let mut times = Vec::new();
    for _ in 0..21 {
        let begun = std::time::Instant::now();
        file.write_all(&[0; 4096]).ok()?;
        file.sync_data().ok()?;
        times.push(begun.elapsed().as_micros());
    }
    drop(file);
    fs::remove_file(path).ok()?;
    times.sort_unstable();
    u64::try_from(times[times.len() / 2]).ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_below_its_parent_with_its_cost() {
        let parent = std::process::id();
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        // Until it executes `sleep`, it has the command line of this process.
        let found = loop {
            let all = children(parent);
            let found = all.into_iter().find(|one| one.pid == child.id() && one.role == "30");
            assert!(std::time::Instant::now() < deadline);
            if let Some(found) = found {
                break found;
            }
        };
        let before = usage(std::slice::from_ref(&found)).unwrap();
        assert_eq!(before.json(&before)["30"]["processes"], 1);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(usage(&[found]).unwrap_err().contains("has ended"));
    }

    #[test]
    fn own_time_grows_with_work() {
        let before = own();
        let begun = std::time::Instant::now();
        // On a busy machine this process gets only a little of the time that passes.
        while own().cpu_since(&before) < 0.05 {
            assert!(begun.elapsed() < std::time::Duration::from_mins(1));
        }
    }

    #[test]
    fn where_anybody_is_heard_this_machine_is_reached() {
        let address = |listen| reachable(listen).unwrap().to_string();
        assert_eq!(address("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(address("[::]:80"), "[::1]:80");
        assert_eq!(address("10.0.0.1:80"), "10.0.0.1:80");
    }
}
