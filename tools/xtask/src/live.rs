//! Runs the shop in Docker and Kubernetes for real.
//!
//! Must not know: how any role works. It deploys the shop as a user does, puts it under load,
//! breaks and upgrades it, and compares the books with what clients were told.
//!
//! Modules: [`docker`] is the shop in compose; [`machine`] has the namespaces in which everything
//! runs and which take everything with them; [`engine`] is Docker and [`compose`] its projects;
//! [`bases`] are stand-ins for images that no package registry has; [`image`] is the project's own;
//! [`load`] are buyers that keep books; [`groups`] is what the kernel counts for a container;
//! [`steps`] is the table.
//!
//! Invariants: nothing keeps running on the host, and files stay below the target directory alone,
//! but for Debian's packages; a table names the commit. docs/deploy.md says what stood in for what.

use std::process::Command;

use crate::{
    command, files,
    report::{Part, Tally},
    workspace::{Workspace, git},
};
use steps::Steps;

mod bases;
mod chart;
mod compose;
mod docker;
mod engine;
mod groups;
mod image;
mod kubernetes;
mod load;
mod machine;
mod node;
mod policies;
mod scripts;
mod steps;
mod store;
mod usage;
mod variants;

/// What to run.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Wanted {
    /// The image and the compose files.
    Docker {
        /// An executable to put into the Dockerfile's last stage: its path, or a cargo profile to
        /// build it by.
        #[arg(long, value_name = "PROFILE", default_value = "release")]
        executable: String,
        /// Build by all stages of the Dockerfile, with this cargo profile.
        #[arg(long, value_name = "PROFILE", conflicts_with = "executable")]
        build: Option<String>,
    },
    /// The chart on one node, upgrades and losses under load, the deploy scripts.
    Kubernetes {
        /// As for docker.
        #[arg(long, value_name = "PROFILE", default_value = "release")]
        executable: String,
    },
    /// The cluster at `PD_ENDPOINTS`, with roles killed for this many minutes.
    Store {
        /// How long.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// An interactive shell with an engine of our own.
    Shell,
}

/// Runs it and prints its table, which is also written below the target directory.
pub(crate) fn run(workspace: &Workspace, wanted: &Wanted) -> Part {
    let directory = workspace.target.join("live");
    files::folder(&directory)?;
    let mut steps = Steps::default();
    let heading = head(workspace)?;
    let (name, done) = match wanted {
        Wanted::Docker { executable, build } => {
            ("docker", docker::run(workspace, &mut steps, executable, build.as_deref()))
        }
        Wanted::Kubernetes { executable } => {
            ("kubernetes", kubernetes::run(workspace, &mut steps, executable))
        }
        Wanted::Store { minutes } => ("store", store::run(workspace, &mut steps, *minutes)),
        Wanted::Shell => return Ok(docker::shell(workspace).map(|()| Tally::PASSED)?),
    };
    let table = format!("{heading}\n\n{}", steps.table());
    println!("\n{table}");
    let file = directory.join(format!("{name}.md"));
    files::write(&file, &table)?;
    done?;
    Ok(steps.tally())
}

/// A table's heading: the date and the commit.
fn head(workspace: &Workspace) -> Result<String, String> {
    let git = |line: &str| command::output(&mut git(&workspace.root, line));
    let commit = git("rev-parse --short HEAD")?;
    let changed = git("status --porcelain --untracked-files=no")?;
    let date = command::output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let note = if changed.is_empty() { "" } else { ", with changes that were not committed" };
    Ok(format!("{}, commit {}{note}:", date.trim(), commit.trim()))
}
