//! tikv-client's own integration and failpoint tests, run against dev-kv.
//!
//! The package's source is copied below the target directory and built there, outside this
//! workspace, as its tests arm failpoints and need an HTTP client. Three things change in the copy:
//! the toolchain file goes (it names an older compiler), the HTTP client builds without a native
//! TLS library, and the copy becomes a workspace of its own. The tests are as published.

use std::ffi::OsString;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{
    command,
    report::{Outcome, Part, Tally},
    workspace::Workspace,
};

/// The published version whose tests run; the project depends on the same one.
const PACKAGE: &str = "tikv-client-0.4.0";

/// How long the server may take to listen.
const START_MAX: Duration = Duration::from_secs(30);

/// Number of regions without `--regions`.
const REGIONS_DEFAULT: usize = 1;

/// Parses the number of regions from the arguments after the command.
pub(crate) fn regions(arguments: &[String]) -> Result<usize, String> {
    match arguments {
        [] => Ok(REGIONS_DEFAULT),
        [flag, count] if flag == "--regions" => match count.parse() {
            Ok(count) if count > 0 => Ok(count),
            Ok(_) | Err(_) => Err(format!("--regions {count}: a number from 1 on is meant")),
        },
        [..] => Err("usage: cargo xtask client-tests [--regions N]".to_owned()),
    }
}

/// Runs all tests, transactional and raw, against a new store with this many regions.
pub(crate) fn run(workspace: &Workspace, regions: usize) -> Part {
    let work = workspace.scratch("client-rust")?;
    let copy = copy_package(&work)?;
    let tests = build_tests(&work, &copy)?;
    let server = Server::start(workspace, &work, regions)?;
    let mut tally = Tally::default();
    for test in tests {
        tally += run_one(&test, &copy, &server, regions)?;
    }
    Ok(Outcome::Ran(tally))
}

fn said(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> String {
    let text = format!("{what} {}", path.display());
    move |error| format!("{text}: {error}")
}

/// The package's source, as cargo unpacked it.
fn package_source() -> Result<PathBuf, String> {
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")),
        |home| Some(PathBuf::from(home)),
    );
    let sources = home.ok_or("neither CARGO_HOME nor HOME is set")?.join("registry").join("src");
    let registries = fs::read_dir(&sources).map_err(said("read", &sources))?;
    registries
        .filter_map(Result::ok)
        .map(|registry| registry.path().join(PACKAGE))
        .find(|source| source.is_dir())
        .ok_or_else(|| format!("{PACKAGE} is not below {}: run cargo fetch", sources.display()))
}

/// Copies the package and adapts its manifest. It replaces an earlier copy, but keeps what that one
/// built.
fn copy_package(work: &Path) -> Result<PathBuf, String> {
    let copy = work.join(PACKAGE);
    if copy.exists() {
        fs::remove_dir_all(&copy).map_err(said("remove", &copy))?;
    }
    copy_tree(&package_source()?, &copy)?;
    let toolchain = copy.join("rust-toolchain.toml");
    fs::remove_file(&toolchain).map_err(said("remove", &toolchain))?;
    let manifest = copy.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).map_err(said("read", &manifest))?;
    let adapted = adapt_manifest(&text)?;
    fs::write(&manifest, adapted).map_err(said("write", &manifest))?;
    Ok(copy)
}

fn adapt_manifest(text: &str) -> Result<String, String> {
    let native = "    \"native-tls-vendored\",\n";
    let client = "[dev-dependencies.reqwest]\n";
    if !text.contains(native) || !text.contains(client) {
        return Err(format!("{PACKAGE}'s manifest is not as expected"));
    }
    let without = text.replace(native, "");
    let plain = without.replace(client, &format!("{client}default-features = false\n"));
    Ok(format!("{plain}\n[workspace]\n"))
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), String> {
    fs::create_dir_all(to).map_err(said("make", to))?;
    for entry in fs::read_dir(from).map_err(said("read", from))? {
        let entry = entry.map_err(said("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_tree(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(said("copy", &source))?;
        }
    }
    Ok(())
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

/// Builds the test programs, and returns their paths.
fn build_tests(work: &Path, copy: &Path) -> Result<Vec<PathBuf>, String> {
    let output = cargo()
        .current_dir(copy)
        .args(["test", "--no-run", "--features", "integration-tests fail/failpoints"])
        .args(["--test", "integration_tests", "--test", "failpoint_tests", "--target-dir"])
        .arg(work.join("build"))
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("cargo did not start: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{PACKAGE}'s tests were not built:\n{said}"));
    }
    let tests = executables(&said, copy);
    if tests.len() == 2 {
        Ok(tests)
    } else {
        Err(format!("cargo named {} test programs instead of 2:\n{said}", tests.len()))
    }
}

/// Parses the paths from cargo's lines `Executable tests/x.rs (path)`.
fn executables(said: &str, copy: &Path) -> Vec<PathBuf> {
    said.lines()
        .filter(|line| line.trim_start().starts_with("Executable "))
        .filter_map(|line| line.rsplit_once('(')?.1.strip_suffix(')'))
        .map(|path| copy.join(path))
        .collect()
}

/// Keys, in hexadecimal, that split the store into this many regions. They split what the suite
/// writes first, as would happen in a cluster: keys of transactions in the default keyspace. Half
/// of them lie from 0 to 1000, half over all numbers of 32 bits. Raw keys stay in one region, as in
/// a cluster: the client's descending raw scan visits regions in ascending order and concatenates
/// their answers, which is right for one region only.
fn cuts(regions: usize) -> Vec<String> {
    let cuts = regions.saturating_sub(1);
    let low = cuts / 2;
    let high = cuts - low;
    let low = (1..=low).map(move |number| number * 1_000 / (low + 1));
    let high = (1..=high).map(move |number| number * (1 << 32) / (high + 1));
    low.chain(high).map(|key| format!("78000000{key:08x}")).collect()
}

/// dev-kv over a directory of its own; stops when dropped.
#[derive(Debug)]
struct Server {
    child: Child,
    address: String,
    data: PathBuf,
}

impl Server {
    fn start(workspace: &Workspace, work: &Path, regions: usize) -> Result<Self, String> {
        let build = ["build", "--quiet", "-p", "dev-kv", "--bin", "dev-kv"];
        command::run(&mut workspace.cargo(&build))?;
        let data = work.join(format!("data-{}-{regions}", std::process::id()));
        let free = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(|error| format!("no free port: {error}"))?;
        let address = free.to_string();
        let child = Command::new(workspace.target.join("debug/dev-kv"))
            .args(["--listen", &address, "--data-dir"])
            .arg(&data)
            .args(cuts(regions).iter().flat_map(|key| ["--split-at", key]))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("dev-kv did not start: {error}"))?;
        let server = Self { child, address, data };
        let until = Instant::now() + START_MAX;
        while TcpStream::connect(&server.address).is_err() {
            if Instant::now() > until {
                return Err(format!("dev-kv does not listen on {}", server.address));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process is gone either way, and its data is scratch.
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_dir_all(&self.data).ok();
    }
}

fn run_one(test: &Path, copy: &Path, server: &Server, regions: usize) -> Result<Tally, String> {
    let mut program = Command::new(test);
    program
        .current_dir(copy)
        .args(["--test-threads", "1"])
        .env("PD_ADDRS", &server.address)
        .env_remove("MULTI_REGION");
    if regions > 1 {
        program.env("MULTI_REGION", "1");
    }
    let mut tally = Tally::default();
    let succeeded = command::watch(&mut program, |line| tally += verdict(line))?;
    if tally == Tally::default() || (!succeeded && tally.failed == 0) {
        return Err(format!("{} ended early", test.display()));
    }
    Ok(tally)
}

/// What a line of a test program says of one test. A test's own output may come before its verdict.
fn verdict(line: &str) -> Tally {
    if line == "ok" || (line.starts_with("test ") && line.ends_with(" ... ok")) {
        Tally::PASSED
    } else if line == "FAILED" || (line.starts_with("test ") && line.ends_with(" ... FAILED")) {
        Tally { passed: 0, failed: 1 }
    } else {
        Tally::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_adapted_or_refused() {
        let text = "[dev-dependencies.reqwest]\nversion = \"0.11\"\nfeatures = [\n    \"json\",\n    \
                    \"native-tls-vendored\",\n]\n";
        let adapted = adapt_manifest(text).unwrap();
        assert!(adapted.contains("[dev-dependencies.reqwest]\ndefault-features = false\n"));
        assert!(!adapted.contains("native-tls"));
        assert!(adapted.ends_with("\n[workspace]\n"));
        assert!(adapt_manifest("[package]\n").is_err());
    }

    #[test]
    fn test_programs_are_found_in_what_cargo_says() {
        let said = "   Compiling x\n  Executable tests/a.rs (/t/debug/deps/a-1)\n  Executable \
                    tests/b.rs (rel/b-2)\n";
        let found = executables(said, Path::new("/copy"));
        assert_eq!(found, [PathBuf::from("/t/debug/deps/a-1"), PathBuf::from("/copy/rel/b-2")]);
    }

    #[test]
    fn as_many_regions_are_cut_as_asked_for() {
        assert_eq!(cuts(1), Vec::<String>::new());
        assert_eq!(cuts(3), ["78000000000001f4", "7800000080000000"]);
        let mut many = cuts(42);
        many.sort_unstable();
        many.dedup();
        assert_eq!(many.len(), 41);
        assert!(many.iter().all(|key| key.len() == 16), "{many:?}");
    }

    #[test]
    fn verdicts_are_counted() {
        assert_eq!(verdict("test txn_crud ... ok"), Tally::PASSED);
        assert_eq!(verdict("ok"), Tally::PASSED, "after what the test printed itself");
        assert_eq!(verdict("test raw_ttl ... FAILED"), Tally { passed: 0, failed: 1 });
        assert_eq!(verdict("test result: ok. 27 passed; 0 failed"), Tally::default());
    }

    #[test]
    fn the_number_of_regions_is_read_or_refused() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(regions(&[]), Ok(1));
        assert_eq!(regions(&words("--regions 42")), Ok(42));
        for bad in ["--regions", "--regions 0", "--regions many", "42"] {
            assert!(regions(&words(bad)).is_err(), "{bad}");
        }
    }
}
