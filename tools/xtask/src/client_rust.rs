//! tikv-client's own integration and failpoint tests, run against dev-kv.
//!
//! The package's source is copied below the target directory and built there, outside this
//! workspace, as its tests arm failpoints and need an HTTP client. Three things change in the copy:
//! the toolchain file goes (it names an older compiler), the HTTP client builds without a native
//! TLS library, and the copy becomes a workspace of its own. The tests are as published.

use std::{
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{command, files, report::Part, shop, test, workspace, workspace::Workspace};

/// The package whose tests run, in the version that the project depends on.
const PACKAGE: &str = "tikv-client";

/// How long the server may take to listen.
const START_MAX: Duration = Duration::from_secs(30);

/// Runs all tests, transactional and raw, against a new store with this many regions.
pub(crate) fn run(workspace: &Workspace, regions: u64) -> Part {
    let work = workspace.scratch("client-rust")?;
    let copy = copy_package(workspace, &work)?;
    let tests = || {
        let mut cargo = workspace::cargo();
        cargo
            .args(["test", "--no-fail-fast", "--features", "integration-tests fail/failpoints"])
            .args(["--test", "integration_tests", "--test", "failpoint_tests", "--target-dir"])
            .arg(work.join("build"))
            .current_dir(&copy);
        cargo
    };
    command::run(tests().arg("--no-run"))?;
    let server = Server::start(workspace, &work, regions)?;
    let mut tests = tests();
    tests.args(["--", "--test-threads", "1"]).env("PD_ADDRS", &server.address);
    if regions > 1 {
        tests.env("MULTI_REGION", "1");
    } else {
        tests.env_remove("MULTI_REGION");
    }
    test::rust_counted(&mut tests)
}

/// Copies the package's source, as cargo unpacked it, and adapts its manifest. It replaces an
/// earlier copy, but keeps what that one built.
fn copy_package(workspace: &Workspace, work: &Path) -> Result<PathBuf, String> {
    let mut metadata = workspace.cargo("metadata --locked --format-version 1");
    let metadata: Value = serde_json::from_str(&command::output(&mut metadata)?)
        .map_err(|error| error.to_string())?;
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    let manifest = packages
        .find(|package| package["name"] == PACKAGE)
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("the project does not depend on it")?;
    let source = Path::new(manifest).parent().ok_or("a manifest in no folder")?;
    let copy = work.join(PACKAGE);
    files::no_folder(&copy)?;
    command::run(Command::new("cp").arg("-r").args([source, &copy]))?;
    files::remove(copy.join("rust-toolchain.toml"))?;
    let manifest = copy.join("Cargo.toml");
    files::write(&manifest, adapt_manifest(&files::read(&manifest)?)?)?;
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

/// Keys, in hexadecimal, that split the store into this many regions. They split what the suite
/// writes first, as would happen in a cluster: keys of transactions in the default keyspace. Half
/// of them lie from 0 to 1000, half over all numbers of 32 bits. Raw keys stay in one region, as in
/// a cluster: the client's descending raw scan visits regions in ascending order and concatenates
/// their answers, which is right for one region only.
fn cuts(regions: u64) -> Vec<String> {
    let cuts = regions.saturating_sub(1);
    let low = cuts / 2;
    let high = cuts - low;
    let low = (1..=low).map(move |number| number * 1_000 / (low + 1));
    let high = (1..=high).map(move |number| (number << 32) / (high + 1));
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
    fn start(workspace: &Workspace, work: &Path, regions: u64) -> Result<Self, String> {
        command::run(&mut workspace.cargo("build --quiet -p dev-kv --bin dev-kv"))?;
        let data = work.join(format!("data-{}-{regions}", std::process::id()));
        let address = shop::free_address()?;
        let child = Command::new(workspace.target.join("debug/dev-kv"))
            .args(["--listen", &address, "--data-dir"])
            .arg(&data)
            .args(cuts(regions).iter().flat_map(|key| ["--split-at", key]))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("dev-kv did not start: {error}"))?;
        let server = Self { child, address, data };
        command::wait("dev-kv does not listen", START_MAX, || {
            TcpStream::connect(&server.address).map(drop).map_err(|error| error.to_string())
        })?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process is gone either way, and its data is scratch.
        self.child.kill().ok();
        self.child.wait().ok();
        files::no_folder(&self.data).ok();
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
    fn as_many_regions_are_cut_as_asked_for() {
        assert_eq!(cuts(1), Vec::<String>::new());
        assert_eq!(cuts(3), ["78000000000001f4", "7800000080000000"]);
        let mut many = cuts(42);
        many.sort_unstable();
        many.dedup();
        assert_eq!(many.len(), 41);
        assert!(many.iter().all(|key| key.len() == 16), "{many:?}");
    }
}
