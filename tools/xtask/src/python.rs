//! Virtual environments below the target directory, made once per list of requirements.

use std::{
    env,
    ffi::{OsStr, OsString},
    iter,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{command, files, workspace::Workspace};

/// An environment with all packages of a list.
#[derive(Debug)]
pub(crate) struct Venv {
    path: PathBuf,
}

impl Venv {
    /// The environment for this list. It is made if it is missing or the list has changed.
    pub(crate) fn ready(
        workspace: &Workspace,
        name: &str,
        requirements: &Path,
    ) -> Result<Self, String> {
        let list = files::read(requirements)?;
        let path = workspace.scratch("venv")?.join(name);
        let venv = Self { path };
        let stamp = venv.path.join("made-for");
        if files::read(&stamp).is_ok_and(|made_for| made_for == list) {
            return Ok(venv);
        }
        let mut make = Command::new("python3");
        make.args(["-m", "venv", "--clear"]).arg(&venv.path);
        command::run(&mut make)?;
        let mut install = venv.python();
        install
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
            .arg(requirements)
            .env("PIP_CACHE_DIR", workspace.scratch("pip")?);
        command::captured(&mut install)?;
        files::write(&stamp, list)?;
        Ok(venv)
    }

    /// The environment of the suites in `test/`.
    pub(crate) fn tests(workspace: &Workspace) -> Result<Self, String> {
        Self::ready(workspace, "tests", &workspace.root.join("test/requirements.txt"))
    }

    /// The environment's interpreter, set to write no bytecode beside the sources.
    pub(crate) fn python(&self) -> Command {
        self.tool("python")
    }

    /// A PATH that starts with the environment's programs.
    pub(crate) fn search_path(&self) -> Result<OsString, String> {
        let usual = env::var_os("PATH").unwrap_or_default();
        let folders = iter::once(self.path.join("bin")).chain(env::split_paths(&usual));
        env::join_paths(folders).map_err(|error| error.to_string())
    }

    /// A program of the environment.
    pub(crate) fn tool(&self, name: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(self.path.join("bin").join(name.as_ref()));
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}
