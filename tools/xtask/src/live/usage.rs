//! CPU and memory of each role: idle, at all of the load that it can take, and at half of that.
//! docs/deploy.md has the table, and the chart's requests follow from it.
//!
//! Each container's control groups are read at a steady interval, from when the bench begins to buy
//! until it has bought. The metrics server would tell a mean of ten seconds once in ten.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read},
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use super::{
    chart::{self, Release},
    groups::Group,
    steps::Steps,
};
use crate::files;

/// Between two readings. docs/deploy.md names it.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long nothing happens before and while idle pods are read.
const IDLE: Duration = Duration::from_secs(25);
const CALLERS: &str = "64";
/// The bench's own warm-up.
const WARM_UP: Duration = Duration::from_secs(2);
/// What the bench says when it has sent the last call of its window.
const BOUGHT: &str = "last answers";

/// What was read of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    at: Instant,
    cpu_ns: u64,
    memory: u64,
}

/// By role, the readings in order.
type Readings = BTreeMap<String, Vec<Reading>>;

/// Of one role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Usage {
    /// Thousandths of a CPU: the mean, and the most between two readings.
    cpu: u64,
    cpu_most: u64,
    /// Bytes at most.
    memory_most: u64,
}

/// Measures a fresh release that has one pod of each role, under the bench of this executable.
pub(crate) fn measure(steps: &mut Steps, release: &Release<'_>, till: &Path) {
    steps.run("usage, idle", || {
        thread::sleep(IDLE);
        let groups = groups(release)?;
        let began = Instant::now();
        let mut readings = Readings::new();
        read_while(&groups, &mut readings, || Ok(began.elapsed() < IDLE))?;
        words(&readings, began, Instant::now())
    });
    let mut peak = 0;
    steps.run("usage, peak", || {
        let (rate, used) = under(release, till, &["--concurrency", CALLERS])?;
        peak = rate;
        Ok(format!("{rate} checkouts a second; {used}"))
    });
    steps.run("usage, half of the peak", || {
        let offered = (peak / 2).max(1).to_string();
        let (rate, used) = under(release, till, &["--rate", &offered])?;
        Ok(format!("{rate} checkouts a second; {used}"))
    });
}

/// The control groups of all pods by role, and of `store`.
fn groups(release: &Release<'_>) -> Result<BTreeMap<String, Group>, String> {
    let mut found = BTreeMap::new();
    for pod in release.pods("")? {
        let labels = &pod["metadata"]["labels"];
        let role = labels["app.kubernetes.io/component"].as_str().or(labels["app"].as_str());
        let role = role.ok_or_else(|| format!("{} is of no role", chart::name(&pod)))?;
        let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
        let id = id.strip_prefix("containerd://").ok_or_else(|| format!("a container {id}"))?;
        let group = Group::of(&release.node.machine.group, id)?;
        if found.insert(role.to_owned(), group).is_some() {
            return Err(format!("two pods of {role}"));
        }
    }
    if found.len() == 6 { Ok(found) } else { Err(format!("pods of {:?}", found.keys())) }
}

/// Reads all groups once in an interval, while `goes_on`.
fn read_while(
    groups: &BTreeMap<String, Group>,
    readings: &mut Readings,
    mut goes_on: impl FnMut() -> Result<bool, String>,
) -> Result<(), String> {
    let mut due = Instant::now();
    while goes_on()? {
        for (role, group) in groups {
            let (cpu_ns, memory) = (group.cpu_ns()?, group.working_set()?);
            let reading = Reading { at: Instant::now(), cpu_ns, memory };
            readings.entry(role.clone()).or_default().push(reading);
        }
        // Steady: what a reading takes does not move the next one.
        due += INTERVAL;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// The bench's checkouts per second at this pace, and the usage meanwhile.
fn under(release: &Release<'_>, till: &Path, pace: &[&str]) -> Result<(u64, String), String> {
    let file = release.node.workspace.target.join("live/bench.json");
    let groups = groups(release)?;
    let mut bench = release.node.machine.command(till);
    bench
        .args(["bench", "--target", &release.url()?, "--duration-ms", "45000"])
        .args(["--orders", "100000", "--json"])
        .arg(&file)
        .args(pace)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut bench = bench.spawn().map_err(|error| format!("no bench: {error}"))?;
    let said = bench.stderr.take().ok_or("no way to hear the bench")?;
    let mut readings = Readings::new();
    let (done, window) = thread::scope(|scope| {
        let window = scope.spawn(|| window(said));
        let done = read_while(&groups, &mut readings, || {
            let ended = bench.try_wait().map_err(|error| error.to_string())?;
            Ok(ended.is_none())
        });
        if done.is_err() {
            // It has to end before the scope can; that it has ended is no problem.
            let _ended = bench.kill();
        }
        (done, window.join())
    });
    let status = bench.wait().map_err(|error| error.to_string())?;
    done?;
    let (began, ended) =
        window.map_err(|_| "nobody heard the bench")?.ok_or("it bought nothing")?;
    let report = files::json(&file)?;
    match report["points"][0]["fresh_per_s"].as_f64() {
        Some(rate) if status.success() => Ok((whole(rate), words(&readings, began, ended)?)),
        _ => Err(format!("the bench has no figures: {}", report["points"][0]["problems"])),
    }
}

/// When the bench begins to buy and when it has bought, by what it says: it fills the shop, warms
/// up, and says nothing until the last answers.
fn window(said: impl Read) -> Option<(Instant, Instant)> {
    let (mut filled, mut bought) = (None, None);
    for line in BufReader::new(said).lines().map_while(Result::ok) {
        if line.starts_with(BOUGHT) {
            bought = bought.or_else(|| Some(Instant::now()));
        } else if bought.is_none() {
            filled = Some(Instant::now());
        }
    }
    Some((filled? + WARM_UP, bought?))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is small and positive"
)]
fn whole(rate: f64) -> u64 {
    rate.round() as u64
}

/// The usage of each role between these moments, in words.
fn words(readings: &Readings, began: Instant, ended: Instant) -> Result<String, String> {
    let mut each = Vec::new();
    for (role, all) in readings {
        let within = all.iter().filter(|reading| reading.at >= began && reading.at <= ended);
        let used = usage(&within.copied().collect::<Vec<_>>());
        let Usage { cpu, cpu_most, memory_most } =
            used.ok_or_else(|| format!("{role} was read less than twice"))?;
        each.push(format!("{role} {cpu}m, at most {cpu_most}m and {} MiB", memory_most >> 20));
    }
    Ok(format!("{} s: {}", ended.duration_since(began).as_secs(), each.join(", ")))
}

/// None of less than two readings.
fn usage(readings: &[Reading]) -> Option<Usage> {
    let (first, last) = (readings.first()?, readings.last()?);
    let pairs = readings.windows(2);
    Some(Usage {
        cpu: thousandths(first, last)?,
        cpu_most: pairs.filter_map(|pair| thousandths(&pair[0], &pair[1])).max()?,
        memory_most: readings.iter().map(|reading| reading.memory).max()?,
    })
}

/// Thousandths of a CPU between two readings.
fn thousandths(earlier: &Reading, later: &Reading) -> Option<u64> {
    let micros = u64::try_from(later.at.duration_since(earlier.at).as_micros()).ok()?;
    later.cpu_ns.checked_sub(earlier.cpu_ns)?.checked_div(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_is_of_any_interval() {
        let start = Instant::now();
        let reading = |seconds: u64, cpu_ms: u64, memory: u64| Reading {
            at: start + Duration::from_secs(seconds),
            cpu_ns: cpu_ms * 1_000_000,
            memory,
        };
        let readings = [reading(0, 0, 5), reading(1, 900, 9), reading(2, 1000, 7)];
        let used = Usage { cpu: 500, cpu_most: 900, memory_most: 9 };
        assert_eq!(usage(&readings), Some(used));
        assert_eq!(usage(&readings[..1]), None);
    }

    #[test]
    fn the_bench_buys_between_its_last_fill_and_the_last_answers() {
        let said =
            "batch_init [#] 1/2\nbatch_init [##] 2/2\nlast answers [#] 64/64\ncheck [#] 1/1\n";
        let (began, ended) = window(said.as_bytes()).unwrap();
        // Nothing was waited for here, and the warm-up is left out.
        assert!(began > ended && began < ended + WARM_UP);
        assert!(window("batch_init [##] 2/2\n".as_bytes()).is_none());
    }
}
