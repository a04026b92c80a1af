//! The console in a browser: buys by keyboard, looks right in every size and colour, and passes
//! axe-core.

use std::{
    fs,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use crate::{
    command,
    python::Venv,
    report::{Outcome, Part},
    roles::{self, Role},
    shop::{self, Shop},
    test,
    workspace::Workspace,
};

/// Names of Chromium in various distributions.
const BROWSERS: [&str; 4] =
    ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];

/// Runs the suite that lies beside the console's files. Screenshots stay below the target
/// directory.
pub(super) fn check(workspace: &Workspace, shop: &Shop) -> Part {
    let runs = |name: &&&str| Command::new(name).arg("--version").output().is_ok();
    let Some(browser) = BROWSERS.iter().find(runs) else {
        return Ok(Outcome::NotRun("chromium is not installed".to_owned()));
    };
    let suite = workspace.root.join("http-bridge/tests/browser");
    let venv = Venv::ready(workspace, "browser", &suite.join("requirements.txt"))?;
    let scratch = workspace.scratch("console")?;
    let results = scratch.join("results.xml");
    let mut pytest = venv.python();
    pytest
        .args(["-m", "pytest", "-p", "no:cacheprovider", "--rootdir", ".", "--junitxml"])
        .arg(&results)
        .current_dir(&suite)
        .env("TILL_SHOP", shop.rest()?)
        .env("CHROMIUM", path_of(browser))
        .env("SCREENSHOTS", scratch.join("screenshots"));
    if let Ok(admin) = shop.admin("http-bridge") {
        pytest.env("TILL_ADMIN", admin);
    }
    let guarded = Guarded::start(workspace, shop)?;
    pytest.env("TILL_GUARDED", &guarded.rest).env("TILL_KEY", KEY);
    test::counted(&mut pytest, &results)
}

const KEY: &str = "the-key-of-this-shop";

/// Another bridge of the shop, which requires [`KEY`]. It ends when this is dropped.
struct Guarded {
    process: Child,
    rest: String,
}

impl Guarded {
    fn start(workspace: &Workspace, shop: &Shop) -> Result<Self, String> {
        let keys = workspace.scratch("console")?.join("keys");
        fs::write(&keys, KEY).map_err(|error| format!("{}: {error}", keys.display()))?;
        let log = keys.with_file_name("guarded.log");
        let log = fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let here = shop::free_address()?;
        let mut bridge = Command::new(workspace.till());
        bridge.args(["http-bridge", "--admin-listen", "127.0.0.1:0"]);
        bridge.args(["--listen", &here]).arg("--api-key-file").arg(&keys);
        for Role { name, .. } in roles::grpc() {
            bridge.arg(format!("--{name}-endpoints")).arg(shop.address(name)?);
        }
        let process = bridge
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|error| error.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("cannot start a bridge: {error}"))?;
        // From here on the drop ends it, whatever happens.
        let guarded = Self { process, rest: format!("http://{here}") };
        let mut ask = Command::new(workspace.till());
        ask.args(["health", "--http", "--endpoint", &here]);
        for _ in 0..100 {
            if command::quietly(&mut ask)?.0 {
                return Ok(guarded);
            }
            thread::sleep(Duration::from_millis(100));
        }
        Err("a bridge with keys does not become ready".to_owned())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.process.kill();
        let _status = self.process.wait();
    }
}

/// The program's absolute path, which the browser driver needs.
fn path_of(program: &str) -> String {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(program));
    let mut found = found.filter(|path| path.is_file());
    found.next().map_or_else(|| program.to_owned(), |path| path.display().to_string())
}
