//! The console in a browser: buys by keyboard, looks right in every size and colour, and passes
//! axe-core.

use std::{
    process::{Child, Command},
    time::Duration,
};

use crate::{
    command, files,
    python::Venv,
    report::{Part, Stopped},
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
    let Some(browser) = BROWSERS.into_iter().find_map(command::find) else {
        return Err(Stopped::without("chromium"));
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
        .env("CHROMIUM", browser)
        .env("SCREENSHOTS", scratch.join("screenshots"));
    if let Some(admin) = shop.admins("http-bridge").first() {
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
        files::write(&keys, KEY)?;
        let here = shop::free_address()?;
        let mut bridge = Command::new(workspace.till());
        bridge.args(["http-bridge", "--admin-listen", "127.0.0.1:0"]);
        bridge.args(["--listen", &here]).arg("--api-key-file").arg(&keys);
        for Role { name, .. } in roles::grpc() {
            bridge.arg(format!("--{name}-endpoints")).arg(shop.address(name)?);
        }
        let process = command::logged(&mut bridge, &keys.with_file_name("guarded.log"))?;
        // From here on the drop ends it, whatever happens.
        let guarded = Self { process, rest: format!("http://{here}") };
        let mut ask = Command::new(workspace.till());
        ask.args(["health", "--http", "--endpoint", &here]);
        command::wait("a bridge with keys is not ready", Duration::from_secs(10), || {
            command::captured(&mut ask).map(drop)
        })?;
        Ok(guarded)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.process.kill();
        let _status = self.process.wait();
    }
}
