//! Stand-ins for images that the project's files name and that package registries do not have: the
//! same Debian from its own packages, and programs from Go modules. They exist only in our own
//! engine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::engine::Engine;
use crate::{command, files, outside::go::Module, workspace::Workspace};

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

/// A file system and the image of it.
struct Base<'a> {
    name: &'a str,
    image: &'a str,
    /// mmdebstrap's variant; `extract` runs no maintainer scripts.
    variant: &'a str,
    packages: &'a str,
    /// What is done to the file system once it is unpacked.
    hooks: &'a [&'a str],
    /// Instructions of a Dockerfile.
    changes: &'a [&'a str],
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
    let base = Base {
        name: "runtime",
        image: RUNTIME_IMAGE,
        variant: "extract",
        packages: "ca-certificates,libc6,libgcc-s1,libssl3,libstdc++6,base-files,netbase,tzdata",
        hooks: &[USERS, AUTHORITIES],
        changes: &[
            "USER 65532",
            "WORKDIR /home/nonroot",
            "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
        ],
    };
    base.ready(workspace, engine)
}

/// An image with a shell and curl.
pub(crate) fn shell(workspace: &Workspace, engine: &Engine<'_>) -> Result<(), String> {
    let base = Base {
        name: "shell",
        image: SHELL_IMAGE,
        variant: "extract",
        packages: "dash,coreutils,sed,grep,curl,ca-certificates",
        hooks: &[USERS],
        changes: &["USER 65532", "ENV PATH=/usr/local/bin:/usr/bin:/bin"],
    };
    base.ready(workspace, engine)
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
    let toolchain = command::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let toolchain = fs::canonicalize(toolchain.trim()).map_err(|error| error.to_string())?;
    let cargo = command::find("cargo").ok_or("no cargo")?;
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
        image: RUST_IMAGE,
        variant: "minbase",
        packages: "ca-certificates,gcc,libc6-dev,binutils",
        hooks: &[&copy, settings, AUTHORITIES],
        changes: &[
            "ENV PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo RUST_VERSION=1.95.0 RUSTUP_AUTO_INSTALL=0",
            "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
            "ENV CARGO_HTTP_CAINFO=/etc/ssl/certs/ca-certificates.crt",
            "CMD [\"bash\"]",
        ],
    };
    base.ready(workspace, engine)
}

/// The frontend that reads Dockerfiles, which their first line names.
pub(crate) fn frontend(workspace: &Workspace, engine: &Engine<'_>) -> Result<(), String> {
    if engine.has_image(FRONTEND_IMAGE) {
        return Ok(());
    }
    let program = FRONTEND.program(workspace)?;
    let changes = ["LABEL moby.buildkit.frontend.network.none=true"];
    program_image(workspace, engine, &program, "dockerfile-frontend", &changes, FRONTEND_IMAGE)
}

/// An image of one program that needs nothing else. It lies in `/bin` by this name.
pub(crate) fn program_image(
    workspace: &Workspace,
    engine: &Engine<'_>,
    program: &Path,
    name: &str,
    changes: &[&str],
    image: &str,
) -> Result<(), String> {
    if engine.has_image(image) {
        return Ok(());
    }
    let folder = folder(workspace)?.join(format!("bin-{name}"));
    files::folder(folder.join("bin"))?;
    files::copy(program, folder.join("bin").join(name))?;
    let tar = folder.with_extension("tar");
    let mut pack = Command::new("tar");
    pack.args(["--numeric-owner", "--owner=0", "--group=0", "--mode=a+rx", "-C"]).arg(&folder);
    command::run(pack.arg("-cf").arg(&tar).arg("."))?;
    let entry = format!("ENTRYPOINT [\"/bin/{name}\"]");
    engine.import(&tar, &[&[entry.as_str()], changes].concat(), image)
}

impl Base<'_> {
    /// Makes the image if it is missing.
    fn ready(&self, workspace: &Workspace, engine: &Engine<'_>) -> Result<(), String> {
        if engine.has_image(self.image) {
            return Ok(());
        }
        engine.import(&self.tar(workspace)?, self.changes, self.image)
    }

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
        make.args(self.hooks.iter().map(|hook| format!("--customize-hook={hook}")));
        command::captured(make.arg(SUITE).arg(&half))?;
        fs::rename(&half, &tar).map_err(|error| error.to_string())?;
        Ok(tar)
    }
}

fn folder(workspace: &Workspace) -> Result<PathBuf, String> {
    let folder = workspace.target.join("live/bases");
    files::folder(&folder)?;
    Ok(folder)
}
