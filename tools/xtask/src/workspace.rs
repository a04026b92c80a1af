//! Paths of the project, and cargo's view of it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{command, files};

/// The project's tree and cargo's view of it.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    /// Packages of the workspace, as `cargo metadata` lists them.
    pub(crate) packages: Vec<Value>,
}

impl Workspace {
    /// Locates the project, and asks cargo about it.
    pub(crate) fn find() -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .ok_or("the crate is not two folders deep")?
            .to_owned();
        let mut metadata = cargo();
        metadata.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(&root);
        let text = command::output(&mut metadata)?;
        let value: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let target = value["target_directory"].as_str().ok_or("no target directory")?;
        let packages = value["packages"].as_array().cloned().unwrap_or_default();
        Ok(Self { root, target: PathBuf::from(target), packages })
    }

    /// A cargo command with the arguments of this line, in the project's root.
    pub(crate) fn cargo(&self, line: &str) -> Command {
        let mut command = cargo();
        command.args(line.split_whitespace()).current_dir(&self.root);
        command
    }

    /// The executable of `cargo build -p till`.
    pub(crate) fn till(&self) -> PathBuf {
        self.target.join("debug/till")
    }

    /// Makes a directory for our own use below the target directory.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.target.join("xtask").join(name);
        files::folder(&path)?;
        Ok(path)
    }

    /// Makes the same directory, without leftovers of an earlier run.
    pub(crate) fn emptied(&self, name: &str) -> Result<PathBuf, String> {
        files::no_folder(self.target.join("xtask").join(name))?;
        self.scratch(name)
    }

    /// Every file that is or may become part of the project: tracked, or neither tracked nor
    /// ignored.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>, String> {
        let list = "ls-files -z --cached --others --exclude-standard";
        let mut files: Vec<PathBuf> = command::output(&mut git(&self.root, list))?
            .split('\0')
            .filter(|name| !name.is_empty())
            .map(PathBuf::from)
            .filter(|file| self.root.join(file).is_file())
            .collect();
        files.sort();
        files.dedup();
        Ok(files)
    }

    /// The full name of a commit, by any name that git knows.
    pub(crate) fn revision(&self, commit: &str) -> Result<String, String> {
        let mut parse = git(&self.root, "rev-parse --verify --quiet --end-of-options");
        let (found, text) = command::quietly(parse.arg(format!("{commit}^{{commit}}")))?;
        if found {
            Ok(text.trim().to_owned())
        } else {
            Err(format!("git knows no commit {commit}"))
        }
    }

    /// A file's text; none if it is not UTF-8.
    pub(crate) fn read(&self, file: &Path) -> Result<Option<String>, String> {
        let bytes = std::fs::read(self.root.join(file))
            .map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(String::from_utf8(bytes).ok())
    }
}

/// A git command with the arguments of this line, in a folder.
pub(crate) fn git(folder: &Path, line: &str) -> Command {
    let mut command = Command::new("git");
    command.args(line.split_whitespace()).current_dir(folder);
    command
}

/// The cargo that runs this program, without the variables that describe this program's package.
/// Build scripts such as ring's depend on variables of these names: if they were passed on, cargo
/// would compile ring and all that uses it anew, here and again in the next command without them.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let ours =
            |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        if name.to_str().is_some_and(ours) {
            command.env_remove(name);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_hears_nothing_of_this_package() {
        let command = cargo();
        let removed: Vec<_> =
            command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        for name in ["CARGO_PKG_NAME", "CARGO_PKG_VERSION_MAJOR", "CARGO_MANIFEST_DIR"] {
            assert!(env::var_os(name).is_some(), "cargo sets {name}");
            assert!(removed.iter().any(|found| *found == name), "{name} is passed on");
        }
    }
}
