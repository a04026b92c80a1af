//! Checks whether the shop can rely on a store: everything that the project requires of one, tried
//! on the cluster at `PD_ENDPOINTS`, in one table.
//!
//! The cluster should be fresh, as the conformance suite and the shop write to it. `--minutes` is
//! how long roles are killed under load. Garbage is collected every five minutes, so that ten
//! minutes see it twice.

use std::{
    env,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    image,
    load::{self, Load},
    steps::Steps,
};
use crate::{
    command::{self, wait},
    files,
    report::Tally,
    roles,
    shop::Shop,
    test,
    workspace::Workspace,
};

/// Pause between two kills.
const PAUSE: Duration = Duration::from_secs(12);
/// Most failed calls per kill of the bridge, which breaks all buyers' connections until it is back:
/// eight buyers try 20 times a second each, for three seconds.
const BROKEN_MAX: u64 = 480;

/// What the safe point must have advanced by, more than clocks and rounding explain.
const SAFE_POINT_STEP_S: f64 = 5.0;

/// Runs all steps against the cluster.
pub(crate) fn run(workspace: &Workspace, steps: &mut Steps, minutes: u64) -> Result<(), String> {
    let endpoints = env::var_os("PD_ENDPOINTS")
        .and_then(|endpoints| endpoints.into_string().ok())
        .ok_or("PD_ENDPOINTS must name the cluster: host:port[,host:port...]")?;
    let till = steps.need("build", || {
        let till = image::executable(workspace, "release")?;
        let said = command::captured(Command::new(&till).arg("--version"))?;
        Ok((till, said.trim().to_owned()))
    })?;
    steps.run("conformance suite", || {
        let mut cargo = workspace.cargo("test --package storage --test cluster");
        let outcome = test::rust_counted(cargo.env("PD_ENDPOINTS", &endpoints))?;
        let Tally { passed, failed: 0 } = outcome else {
            return Err(format!("{outcome:?}"));
        };
        if passed > 0 { Ok(format!("{passed} pass")) } else { Err("no test was run".to_owned()) }
    });
    let mut shop = steps.need("till up --replicas 2 over the cluster", || {
        let shop = Shop::over(workspace, &till, 2, Some(&endpoints))?;
        Ok((shop, "ready".to_owned()))
    })?;
    load::consistency(workspace, steps, |program| Command::new(program), &shop.rest()?);
    // A coordinator sweeps the store once it holds the lease for that.
    let mut before = 0.0;
    let known = wait("no safe point", Duration::from_mins(1), || {
        before = safe_point(&shop)?;
        Ok(())
    });
    steps.run(&format!("kills of our roles, {minutes} minutes"), || {
        kills(workspace, &mut shop, Duration::from_mins(minutes))
    });
    steps.run("garbage collection advances", || {
        known?;
        let advance = safe_point(&shop)? - before;
        if advance > SAFE_POINT_STEP_S {
            Ok(format!("the safe point advanced by {advance:.0} s in {minutes} minutes"))
        } else {
            Err(format!("the safe point advanced by {advance:.0} s"))
        }
    });
    steps.run("till audit", || audit(&till, &endpoints));
    steps.run("the shop stops", || shop.stop().map(|()| "in order".to_owned()));
    steps.run("till bench --up, with its audit", || bench(workspace, &till, &endpoints));
    Ok(())
}

/// Kills one role after the other while people buy, then compares the books.
fn kills(workspace: &Workspace, shop: &mut Shop, longest: Duration) -> Result<String, String> {
    let seconds = (longest.as_secs() + 120).to_string();
    let more = ["--seconds", &seconds];
    let mut load = Load::start(workspace, |program| Command::new(program), &[shop.rest()?], &more)?;
    let began = Instant::now();
    let (mut kills, mut calls, mut failed) = (0, 0, 0);
    // The store belongs to the cluster.
    for role in roles::NAMES.into_iter().cycle() {
        if began.elapsed() >= longest {
            break;
        }
        thread::sleep(PAUSE);
        shop.kill(role)?;
        thread::sleep(PAUSE);
        let stretch = load.stretch(role)?;
        stretch
            .within(if role == "http-bridge" { BROKEN_MAX } else { 0 })
            .map_err(|problem| format!("{role} killed: {problem}"))?;
        kills += 1;
        calls += stretch.calls;
        failed += stretch.failed;
    }
    let books = load.audit()?;
    Ok(format!("{kills} kills, {calls} calls, {failed} failed; {books}"))
}

/// The store's safe point in seconds since 1970, as far as the coordinators know. A replica that
/// has not swept the store since it started knows none.
#[expect(clippy::disallowed_methods, reason = "ages in metrics are told by the wall clock")]
fn safe_point(shop: &Shop) -> Result<f64, String> {
    let mut known = Vec::new();
    for admin in shop.admins("coordinator") {
        let mut curl = Command::new("curl");
        let text = command::captured(curl.args(["-sS", "-m", "5", &format!("{admin}/metrics")]))?;
        let now =
            SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
        known.extend(age(&text).map(|age| now.as_secs_f64() - age));
    }
    known.into_iter().reduce(f64::max).ok_or_else(|| "no coordinator knows it".to_owned())
}

/// The age of the safe point in the metrics of a coordinator.
fn age(metrics: &str) -> Option<f64> {
    let line =
        metrics.lines().find(|line| line.starts_with("till_store_safe_point_age_seconds"))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn audit(till: &Path, endpoints: &str) -> Result<String, String> {
    let mut audit = Command::new(till);
    load::held(command::captured(audit.arg("audit").env("PD_ENDPOINTS", endpoints))?)
}

fn bench(workspace: &Workspace, till: &Path, endpoints: &str) -> Result<String, String> {
    let file = workspace.target.join("live/store-bench.json");
    let mut bench = Command::new(till);
    bench
        .args(["bench", "--up", "--concurrency", "64", "--duration-ms", "20000", "--json"])
        .arg(&file)
        .env("PD_ENDPOINTS", endpoints);
    command::captured(&mut bench)?;
    let report = files::json(&file)?;
    let point = &report["points"][0];
    let rate = &point["fresh_per_s"];
    if rate.is_null() {
        return Err(format!("no figures: {}", point["problems"]));
    }
    Ok(format!("{rate:.0} fresh checkouts a second by 64 callers, audit {}", point["audit"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_the_safe_point_is_read() {
        let text = "# TYPE till_store_safe_point_age_seconds gauge\n\
                    till_store_safe_point_age_seconds{service_name=\"till-coordinator\"} 635.5\n\
                    till_ready 1\n";
        assert_eq!(age(text), Some(635.5));
        assert_eq!(age("till_ready 1\n"), None);
    }
}
