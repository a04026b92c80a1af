//! The console in a browser: bought by keyboard, looked at in every size and colour, read by axe-core.

use std::process::Command;

use crate::{
    python::Venv,
    report::{Outcome, Part},
    shop::Shop,
    test,
    workspace::Workspace,
};

/// What Chromium is called, by distribution.
const BROWSERS: [&str; 4] =
    ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];

/// Runs the suite beside the console's files; screenshots stay below the target directory.
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
    test::counted(&mut pytest, &results)
}

/// The program's whole path, which a browser's driver asks for.
fn path_of(program: &str) -> String {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(program));
    let mut found = found.filter(|path| path.is_file());
    found.next().map_or_else(|| program.to_owned(), |path| path.display().to_string())
}
