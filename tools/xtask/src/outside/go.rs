//! Programs that come as Go modules, built once below the target directory.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{command, workspace::Workspace};

/// A go that installs below the target directory; none where go is not installed.
fn go(folder: &Path) -> Option<Command> {
    let program = ["go", "/usr/local/go/bin/go"]
        .into_iter()
        .find(|program| Command::new(program).arg("version").output().is_ok())?;
    let mut command = Command::new(program);
    command
        .env("GOPATH", folder)
        .env("GOBIN", folder.join("bin"))
        .env("GOCACHE", folder.join("cache"))
        // Without -modcacherw the module cache cannot be removed with the target directory.
        .env("GOFLAGS", "-modcacherw");
    Some(command)
}

/// The program that a package (`module/path@version`) makes; installed when it is missing. The version is
/// part of where it stands, so that a new one is installed when it changes. None without go.
pub(super) fn installed(workspace: &Workspace, package: &str) -> Result<Option<PathBuf>, String> {
    let (path, version) = package.split_once('@').ok_or("a package without a version")?;
    let name = path.rsplit('/').next().unwrap_or(path);
    let folder = workspace.scratch("go")?;
    let program = folder.join(version).join(name);
    if program.exists() {
        return Ok(Some(program));
    }
    let Some(mut install) = go(&folder) else {
        return Ok(None);
    };
    install.args(["install", "-trimpath", "-ldflags", "-s -w", package]);
    install.env("GOBIN", folder.join(version));
    command::run(&mut install)?;
    Ok(Some(program))
}

/// As [`installed`], for a module that go installs only from within, as it replaces what it stands on; built
/// with these tags.
pub(super) fn inside(
    workspace: &Workspace,
    module: &str,
    package: &str,
    tags: &str,
) -> Result<Option<PathBuf>, String> {
    let (path, version) = package.split_once('@').ok_or("a package without a version")?;
    let name = path.rsplit('/').next().unwrap_or(path);
    let folder = workspace.scratch("go")?;
    let program = folder.join(version).join(name);
    if program.exists() {
        return Ok(Some(program));
    }
    let (Some(mut download), Some(mut build)) = (go(&folder), go(&folder)) else {
        return Ok(None);
    };
    let inner = path.strip_prefix(module).ok_or("a package of another module")?;
    let told = command::output(
        download.args(["mod", "download", "-json"]).arg(format!("{module}@{version}")),
    )?;
    let told: serde_json::Value = serde_json::from_str(&told).map_err(|error| error.to_string())?;
    let source = told["Dir"].as_str().ok_or("go does not say where the module is")?;
    build.args(["build", "-tags", tags, "-trimpath", "-ldflags", "-s -w", "-o"]).arg(&program);
    // Its workspace names modules that are not part of it.
    build.arg(format!(".{inner}")).env("GOWORK", "off").current_dir(source);
    command::run(&mut build)?;
    Ok(Some(program))
}

/// A program of our own that is written in Go, built from the folder that holds its go.mod. None without go.
pub(super) fn built(workspace: &Workspace, source: &str) -> Result<Option<PathBuf>, String> {
    let folder = workspace.scratch("go")?;
    let Some(mut build) = go(&folder) else {
        return Ok(None);
    };
    let source = workspace.root.join(source);
    let name = source.file_name().ok_or("a folder without a name")?;
    let program = folder.join("bin").join(name);
    // go itself knows whether there is anything to do.
    build.args(["build", "-trimpath", "-mod=readonly", "-o"]).arg(&program).arg(".");
    build.current_dir(&source);
    command::run(&mut build)?;
    Ok(Some(program))
}
