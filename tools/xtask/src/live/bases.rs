//! Stand-ins for images that the project's files name and that package registries do not have: the
//! same Debian from its own packages, and programs from Go modules. They exist only in our own
//! engine.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::engine::Engine;
use crate::{command, outside::go::Module, workspace::Workspace};

const SUITE: &str = "bookworm";
const FRONTEND: Module = Module::new(
    "github.com/moby/buildkit",
    "v0.23.2",
    &["./frontend/dockerfile/cmd/dockerfile-frontend"],
);

const FRONTEND_IMAGE: &str = "docker/dockerfile:1";
const RUNTIME_IMAGE: &str = "gcr.io/distroless/cc-debian12:nonroot";
const RUST_IMAGE: &str = "rust:1.95.0-slim-bookworm";
/// A shell and curl, for the chart's test and for our checks from within a pod.
pub(crate) const SHELL_IMAGE: &str = "curlimages/curl:8.17.0";

/// A file system: its packages, how they are unpacked, and what is done to it afterwards.
struct Base {
    name: &'static str,
    /// mmdebstrap's variant; `extract` runs no maintainer scripts.
    variant: &'static str,
    packages: &'static str,
    hooks: Vec<String>,
}

/// Adds the users of distroless images.
const USERS: &str = "\
printf 'root:x:0:0:root:/root:/sbin/nologin\\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\\n\
nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\\n' >\"$1/etc/passwd\"; \
printf 'root:x:0:\\ntty:x:5:\\nnobody:x:65534:\\nnonroot:x:65532:\\n' >\"$1/etc/group\"; \
install -d -m 1777 \"$1/tmp\"; install -d -o 65532 -g 65532 \"$1/home/nonroot\"";

/// Adds the CA certificates that this machine trusts, as it may reach registries through a proxy
/// with a CA of its own.
const AUTHORITIES: &str =
    "install -D -m 644 /etc/ssl/certs/ca-certificates.crt \"$1/etc/ssl/certs/ca-certificates.crt\"";

/// The base of the published image.
pub(crate) fn runtime(workspace: &Workspace, engine: &Engine<'_>) -> Result<(), String> {
    if engine.has_image(RUNTIME_IMAGE) {
        return Ok(());
    }
    let base = Base {
        name: "runtime",
        variant: "extract",
        packages: "ca-certificates,libc6,libgcc-s1,libssl3,libstdc++6,base-files,netbase,tzdata",
        hooks: vec![USERS.to_owned(), AUTHORITIES.to_owned()],
    };
    let changes = [
        "USER 65532",
        "WORKDIR /home/nonroot",
        "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
    ];
    engine.import(&base.tar(workspace)?, &changes, RUNTIME_IMAGE)
}

/// An image with a shell and curl.
pub(crate) fn shell(workspace: &Workspace, engine: &Engine<'_>) -> Result<(), String> {
    if engine.has_image(SHELL_IMAGE) {
        return Ok(());
    }
    let base = Base {
        name: "shell",
        variant: "extract",
        packages: "dash,coreutils,sed,grep,curl,ca-certificates",
        hooks: vec![USERS.to_owned()],
    };
    let changes = ["USER 65532", "ENV PATH=/usr/local/bin:/usr/bin:/bin"];
    engine.import(&base.tar(workspace)?, &changes, SHELL_IMAGE)
}

/// The image that holds a pod's namespaces. It only waits.
pub(crate) fn pause(workspace: &Workspace, engine: &Engine<'_>, name: &str) -> Result<(), String> {
    if engine.has_image(name) {
        return Ok(());
    }
    shell(workspace, engine)?;
    let changes = ["ENTRYPOINT [\"/bin/sleep\", \"infinity\"]"];
    engine.import(&folder(workspace)?.join("shell.tar"), &changes, name)
}

/// The Rust toolchain that runs us, on the smallest Debian that has a linker.
pub(crate) fn rust(workspace: &Workspace, engine: &Engine<'_>) -> Result<(), String> {
    if engine.has_image(RUST_IMAGE) {
        return Ok(());
    }
    let toolchain = command::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let toolchain = fs::canonicalize(toolchain.trim()).map_err(|error| error.to_string())?;
    let cargo = which("cargo")?;
    let place = "usr/local/rustup/toolchains/1.95.0-x86_64-unknown-linux-gnu";
    let copy = format!(
        "mkdir -p \"$1/{place}\" \"$1/usr/local/cargo/bin\"; \
         cp -r --no-preserve=ownership '{}/.' \"$1/{place}\"; rm -rf \"$1/{place}/share/doc\"; \
         cp -a '{}/.' \"$1/usr/local/cargo/bin/\"",
        toolchain.display(),
        cargo.parent().ok_or("cargo in no folder")?.display(),
    );
    // Without these settings rustup would download its default toolchain.
    let settings = "printf 'version = \"12\"\\ndefault_toolchain = \"1.95.0-x86_64-unknown-linux-gnu\"\\n\
                    profile = \"minimal\"\\n' >\"$1/usr/local/rustup/settings.toml\"";
    let base = Base {
        name: "rust",
        variant: "minbase",
        packages: "ca-certificates,gcc,libc6-dev,binutils",
        hooks: vec![copy, settings.to_owned(), AUTHORITIES.to_owned()],
    };
    let changes = [
        "ENV PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo RUST_VERSION=1.95.0 RUSTUP_AUTO_INSTALL=0",
        "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
        "ENV CARGO_HTTP_CAINFO=/etc/ssl/certs/ca-certificates.crt",
        "CMD [\"bash\"]",
    ];
    engine.import(&base.tar(workspace)?, &changes, RUST_IMAGE)
}

/// The frontend that reads Dockerfiles, which their first line names.
pub(crate) fn frontend(workspace: &Workspace, engine: &Engine<'_>) -> Result<(), String> {
    if engine.has_image(FRONTEND_IMAGE) {
        return Ok(());
    }
    let program = FRONTEND.program(workspace)?.ok_or("go is not installed")?;
    let changes = [
        "ENTRYPOINT [\"/bin/dockerfile-frontend\"]",
        "LABEL moby.buildkit.frontend.network.none=true",
    ];
    program_image(workspace, engine, &program, "bin/dockerfile-frontend", &changes, FRONTEND_IMAGE)
}

/// An image of one program that needs nothing else.
pub(crate) fn program_image(
    workspace: &Workspace,
    engine: &Engine<'_>,
    program: &Path,
    place: &str,
    changes: &[&str],
    name: &str,
) -> Result<(), String> {
    if engine.has_image(name) {
        return Ok(());
    }
    let folder = folder(workspace)?.join(place.replace('/', "-"));
    let target = folder.join(place);
    let parent = target.parent().ok_or("a program in no folder")?;
    fs::create_dir_all(parent).map_err(|error| error.to_string())?;
    fs::copy(program, &target).map_err(|error| error.to_string())?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755))
        .map_err(|error| error.to_string())?;
    let tar = folder.with_extension("tar");
    let mut pack = Command::new("tar");
    pack.args(["--numeric-owner", "--owner=0", "--group=0", "-C"]).arg(&folder).arg("-cf");
    command::run(pack.arg(&tar).arg("."))?;
    engine.import(&tar, changes, name)
}

impl Base {
    /// The file system as a tar file, made if it is missing.
    fn tar(&self, workspace: &Workspace) -> Result<PathBuf, String> {
        let tar = folder(workspace)?.join(format!("{}.tar", self.name));
        if tar.exists() {
            return Ok(tar);
        }
        let half = tar.with_extension("half.tar");
        let mut make = Command::new("nice");
        make.args(["-n", "10", "mmdebstrap", "--quiet"])
            .arg(format!("--variant={}", self.variant))
            .arg(format!("--include={}", self.packages));
        for hook in &self.hooks {
            make.arg(format!("--customize-hook={hook}"));
        }
        let (succeeded, text) = command::quietly(make.arg(SUITE).arg(&half))?;
        if !succeeded {
            return Err(text);
        }
        fs::rename(&half, &tar).map_err(|error| error.to_string())?;
        Ok(tar)
    }
}

fn folder(workspace: &Workspace) -> Result<PathBuf, String> {
    let folder = workspace.target.join("live/bases");
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    Ok(folder)
}

fn which(program: &str) -> Result<PathBuf, String> {
    let mut shell = Command::new("sh");
    let path = command::output(shell.args(["-c", &format!("command -v {program}")]))?;
    Ok(PathBuf::from(path.trim()))
}
