//! Lints the Dockerfiles by hadolint. `cargo xtask live docker` builds and runs the images.

use super::tools;
use crate::{
    command,
    report::{Outcome, Part, Tally},
    workspace::Workspace,
};

/// Runs hadolint over every Dockerfile of the project.
pub(super) fn lint(workspace: &Workspace) -> Part {
    let mut tally = Tally::default();
    for file in workspace.files()? {
        if file.file_name().is_some_and(|name| name == "Dockerfile") {
            let mut hadolint = tools(workspace)?.tool("hadolint");
            hadolint.args(["--failure-threshold", "style"]).arg(&file);
            let result = command::captured(hadolint.current_dir(&workspace.root)).map(drop);
            tally.check(&file.display().to_string(), result);
        }
    }
    Ok(Outcome::Ran(tally))
}
