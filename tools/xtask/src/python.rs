//! Virtual environments below the target directory, made once per list of requirements.

use std::{
    collections::hash_map::DefaultHasher,
    env,
    ffi::{OsStr, OsString},
    fs,
    hash::{Hash as _, Hasher as _},
    iter,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{command, workspace::Workspace};

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
        let list = fs::read_to_string(requirements)
            .map_err(|error| format!("{}: {error}", requirements.display()))?;
        let path = workspace.scratch("venv")?.join(name);
        let venv = Self { path };
        let stamp = venv.path.join("made-for");
        let wanted = fingerprint(&list);
        if fs::read_to_string(&stamp).is_ok_and(|made_for| made_for == wanted) {
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
        fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
        Ok(venv)
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

/// Differs when the list does. `DefaultHasher` may change with the toolchain; then the environment
/// is made anew.
fn fingerprint(list: &str) -> String {
    let mut hasher = DefaultHasher::new();
    list.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
