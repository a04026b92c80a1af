//! The project's image: by the whole Dockerfile, or by its last stage alone from an existing
//! executable.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{bases, engine::Engine};
use crate::{command, files, workspace::Workspace};

/// The name in compose files and chart.
pub(crate) const IMAGE: &str = "till:0.2.0";
/// The only user of the image.
pub(crate) const USER: u32 = 65532;
/// The commit of [`IMAGE`].
pub(crate) const HEAD: &str = "HEAD";
/// The Dockerfile's stage that the executable replaces.
const STAGE: &str = "build";
/// Says of which commit an image is.
const REVISION: &str = "org.opencontainers.image.revision";

/// The executable at this path, or the one that cargo builds with this profile.
pub(crate) fn executable(workspace: &Workspace, profile: &str) -> Result<PathBuf, String> {
    if profile.contains('/') {
        return Ok(PathBuf::from(profile));
    }
    let build = format!("build --locked --package till --profile {profile}");
    command::run(&mut workspace.cargo(&build))?;
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(workspace.target.join(folder).join("till"))
}

/// Makes the image `name` from this executable of a commit, which takes seconds.
pub(crate) fn of_executable(
    workspace: &Workspace,
    engine: &Engine<'_>,
    executable: &Path,
    commit: &str,
    name: &str,
) -> Result<String, String> {
    bases::frontend(workspace, engine)?;
    bases::runtime(workspace, engine)?;
    // The result of the build stage, and the project's files that the last stage copies.
    let context = workspace.target.join("live/context");
    let out = context.join("stage/src/out");
    for folder in ["bin", "data"] {
        files::folder(out.join(folder))?;
    }
    let mut strip = Command::new("objcopy");
    command::run(strip.arg("--strip-debug").arg(executable).arg(out.join("bin/till")))?;
    files::copy(workspace.root.join("LICENSE"), context.join("LICENSE"))?;
    let text = workspace.read(Path::new("Dockerfile"))?.ok_or("no Dockerfile")?;
    files::write(context.join("Dockerfile"), last_stage(&text)?)?;
    let revision = workspace.revision(commit)?;
    let line =
        format!("buildx build --progress plain --build-arg REVISION={revision} --tag {name}");
    command::captured(engine.docker(&line).arg(&context))?;
    is_of(workspace, engine, name, commit)?;
    size(engine, name)
}

/// Checks that the image's label names this commit.
pub(crate) fn is_of(
    workspace: &Workspace,
    engine: &Engine<'_>,
    name: &str,
    commit: &str,
) -> Result<(), String> {
    let label = format!("{{{{index .Config.Labels \"{REVISION}\"}}}}");
    let (found, wanted) = (engine.inspect(name, &label)?, workspace.revision(commit)?);
    if found == wanted { Ok(()) } else { Err(format!("{name} is of {found}, not of {wanted}")) }
}

/// A Dockerfile with only the last stage, and `stage/` in place of the build stage.
fn last_stage(dockerfile: &str) -> Result<String, String> {
    let head = dockerfile.lines().next().unwrap_or_default();
    let at = dockerfile.rfind("\nFROM ").ok_or("a Dockerfile without a second stage")?;
    Ok(format!("{head}\nFROM scratch AS {STAGE}\nCOPY stage /\n{}", &dockerfile[at..]))
}

/// Builds the image like `docker build`, with all its stages.
pub(crate) fn whole(
    workspace: &Workspace,
    engine: &Engine<'_>,
    profile: &str,
    name: &str,
) -> Result<String, String> {
    bases::frontend(workspace, engine)?;
    bases::runtime(workspace, engine)?;
    bases::rust(workspace, engine)?;
    let revision = workspace.revision(HEAD)?;
    command::run(&mut engine.docker(&format!(
        "buildx build --progress plain --network host --build-arg PROFILE={profile} \
         --build-arg REVISION={revision} --tag {name} ."
    )))?;
    is_of(workspace, engine, name, HEAD)?;
    size(engine, name)
}

fn size(engine: &Engine<'_>, name: &str) -> Result<String, String> {
    let bytes = engine.inspect(name, "{{.Size}}")?;
    let bytes: u64 = bytes.parse().map_err(|_| format!("no size: {bytes}"))?;
    Ok(format!("{name}, {}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_stage_stands_as_it_is() {
        let text = "# syntax=x\nFROM a AS build\nRUN b\n\nFROM c\nCOPY --from=build /d /e\n";
        let made = last_stage(text);
        let wanted =
            "# syntax=x\nFROM scratch AS build\nCOPY stage /\n\nFROM c\nCOPY --from=build /d /e\n";
        assert_eq!(made.as_deref(), Ok(wanted));
        assert!(last_stage("FROM a\n").is_err());
    }
}
