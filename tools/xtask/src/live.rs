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
    command,
    report::{Outcome, Part, Tally},
    workspace::Workspace,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The image and the compose files.
    Docker(Source),
    /// The chart on one node.
    Kubernetes(Source),
    /// The cluster at `PD_ENDPOINTS`, with roles killed for this many minutes.
    Store(u64),
    /// An interactive shell with an engine of our own.
    Shell,
}

/// Where the image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// An executable that is put into the Dockerfile's last stage: a path, or a cargo profile to
    /// build it by.
    Executable(String),
    /// All stages of the Dockerfile, with this cargo profile.
    Dockerfile(String),
}

impl Wanted {
    /// Parses the arguments after `cargo xtask live`.
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["docker"] => Ok(Self::Docker(Source::Executable("release".to_owned()))),
            ["docker", "--executable", profile] => {
                Ok(Self::Docker(Source::Executable(profile.to_owned())))
            }
            ["docker", "--build", profile] => {
                Ok(Self::Docker(Source::Dockerfile(profile.to_owned())))
            }
            ["kubernetes"] => Ok(Self::Kubernetes(Source::Executable("release".to_owned()))),
            ["kubernetes", "--executable", profile] => {
                Ok(Self::Kubernetes(Source::Executable(profile.to_owned())))
            }
            ["store"] => Ok(Self::Store(10)),
            ["store", "--minutes", minutes] => {
                let minutes = minutes.parse().map_err(|_| "--minutes needs a number".to_owned())?;
                Ok(Self::Store(minutes))
            }
            ["shell"] => Ok(Self::Shell),
            _ => Err("after live comes one of: docker [--executable PROFILE | --build PROFILE], \
                 kubernetes, store [--minutes N], shell"
                .to_owned()),
        }
    }
}

/// Runs it and prints its table, which is also written below the target directory.
pub(crate) fn run(workspace: &Workspace, wanted: &Wanted) -> Part {
    let directory = workspace.target.join("live");
    std::fs::create_dir_all(&directory)
        .map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut steps = Steps::default();
    let heading = head(workspace)?;
    let (name, done) = match wanted {
        Wanted::Docker(source) => ("docker", docker::run(workspace, &mut steps, source)),
        Wanted::Kubernetes(source) => {
            ("kubernetes", kubernetes::run(workspace, &mut steps, source))
        }
        Wanted::Store(minutes) => ("store", store::run(workspace, &mut steps, *minutes)),
        Wanted::Shell => return docker::shell(workspace).map(|()| Outcome::Ran(Tally::PASSED)),
    };
    let table = format!("{heading}\n\n{}", steps.table());
    println!("\n{table}");
    let file = directory.join(format!("{name}.md"));
    std::fs::write(&file, &table).map_err(|error| format!("{}: {error}", file.display()))?;
    done?;
    Ok(Outcome::Ran(steps.tally()))
}

/// A table's heading: the date and the commit.
fn head(workspace: &Workspace) -> Result<String, String> {
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        command::output(git.args(args).current_dir(&workspace.root))
    };
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    let date = command::output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let note = if changed.is_empty() { "" } else { ", with changes that were not committed" };
    Ok(format!("{}, commit {}{note}:", date.trim(), commit.trim()))
}
