//! Programs from Go modules, built once below the target directory.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{command, files, report::Stopped, workspace::Workspace};

/// A Go module, and the programs to build from it.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) path: &'static str,
    pub(crate) version: &'static str,
    /// Packages below the module's folder, in the form of `go build`: `./cmd/helm`.
    pub(crate) packages: &'static [&'static str],
    pub(crate) tags: &'static str,
    /// Variables that the linker sets, `-X name=value ...`, such as a program's own version.
    pub(crate) linked: &'static str,
    /// The version at which modules that this one replaces by folders of its own are taken from the
    /// module proxy instead.
    pub(crate) unreplaced: Option<&'static str>,
}

impl Module {
    pub(crate) const fn new(
        path: &'static str,
        version: &'static str,
        packages: &'static [&'static str],
    ) -> Self {
        Self { path, version, packages, tags: "", linked: "", unreplaced: None }
    }

    /// The folder of the module's programs, each with go's name for it. Builds them if one is
    /// missing.
    pub(crate) fn folder(&self, workspace: &Workspace) -> Result<PathBuf, Stopped> {
        let go_folder = workspace.scratch("go")?;
        // The path includes the version, so that a changed version is built.
        let programs = go_folder.join(self.version);
        if self.packages.iter().all(|package| programs.join(self.name(package)).exists()) {
            return Ok(programs);
        }
        let mut source = self.download(&go_folder)?;
        // A module's archive has the list of its vendored packages, and not the packages.
        let mut dependencies = "-mod=readonly";
        if let Some(version) = self.unreplaced {
            source = unreplaced(&go_folder, &source, self, version)?;
            dependencies = "-mod=mod";
        }
        let mut build = go(&go_folder)?;
        build.args(["build", dependencies]);
        files::folder(&programs)?;
        let linked = format!("-s -w {}", self.linked);
        build.args(["-tags", self.tags, "-trimpath", "-ldflags", &linked, "-o"]);
        // With a trailing slash it is a folder for all programs.
        build.arg(programs.join("")).args(self.packages).current_dir(source);
        command::run(&mut build)?;
        Ok(programs)
    }

    /// The program of a module that has only one.
    pub(crate) fn program(&self, workspace: &Workspace) -> Result<PathBuf, Stopped> {
        let package = self.packages.first().ok_or("a module without a program")?;
        Ok(self.folder(workspace)?.join(self.name(package)))
    }

    /// The last part of the package's path, or of the module's path for the package at its root.
    fn name(&self, package: &'static str) -> &'static str {
        let path = if package == "." { self.path } else { package };
        path.rsplit('/').next().unwrap_or(path)
    }

    fn download(&self, go_folder: &Path) -> Result<PathBuf, Stopped> {
        let mut go = go(go_folder)?;
        go.args(["mod", "download", "-json"]).arg(format!("{}@{}", self.path, self.version));
        let told = command::output(&mut go)?;
        let told: Value = serde_json::from_str(&told).map_err(|error| error.to_string())?;
        Ok(PathBuf::from(told["Dir"].as_str().ok_or("go does not say where the module is")?))
    }
}

/// A copy of a module's source, whose go.mod takes the replaced modules from the proxy.
fn unreplaced(
    go_folder: &Path,
    source: &Path,
    module: &Module,
    version: &str,
) -> Result<PathBuf, Stopped> {
    let copy = go_folder.join(format!("{}-{}", module.name("."), module.version));
    files::no_folder(&copy)?;
    command::run(Command::new("cp").arg("-r").args([source, &copy]))?;
    let edit = |args: &[&str]| {
        let mut command = go(go_folder)?;
        command.args(["mod", "edit"]).args(args).current_dir(&copy);
        Ok::<_, Stopped>(command::output(&mut command)?)
    };
    let told: Value =
        serde_json::from_str(&edit(&["-json"])?).map_err(|error| error.to_string())?;
    for replaced in told["Replace"].as_array().into_iter().flatten() {
        let path = replaced["Old"]["Path"].as_str().ok_or("a replacement without a path")?;
        edit(&[&format!("-dropreplace={path}"), &format!("-require={path}@{version}")])?;
    }
    Ok(copy)
}

/// A go command that installs below the target directory.
pub(crate) fn go(folder: &Path) -> Result<Command, Stopped> {
    let program = ["go", "/usr/local/go/bin/go"]
        .into_iter()
        .find(|program| Command::new(program).arg("version").output().is_ok())
        .ok_or_else(|| Stopped::without("go"))?;
    let mut command = Command::new(program);
    command
        .env("GOPATH", folder)
        .env("GOCACHE", folder.join("cache"))
        // Programs for images must not need a C library.
        .env("CGO_ENABLED", "0")
        // A module's workspace file may name modules that are not part of it.
        .env("GOWORK", "off")
        // Without -modcacherw the module cache cannot be removed with the target directory.
        .env("GOFLAGS", "-modcacherw -buildvcs=false");
    Ok(command)
}
