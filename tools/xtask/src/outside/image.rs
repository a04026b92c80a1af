//! The image: hadolint reads the Dockerfiles, and the lines of the first are run, in order, in a scratch
//! directory: what they say of files, arguments and commands is true, though no engine is here.
//!
//! Not run here: base images, labels, the health check's timing, other processors.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::tools;
use crate::{
    command,
    report::{Outcome, Part, Tally},
    workspace::Workspace,
};

/// hadolint over every Dockerfile of the project.
pub(super) fn lint(workspace: &Workspace) -> Part {
    let mut tally = Tally::default();
    for file in workspace.files()? {
        if file.file_name().is_some_and(|name| name == "Dockerfile") {
            let mut hadolint = tools(workspace)?.tool("hadolint");
            hadolint.args(["--failure-threshold", "style"]).arg(&file);
            let (succeeded, text) = command::quietly(hadolint.current_dir(&workspace.root))?;
            let result = if succeeded { Ok(()) } else { Err(text) };
            tally.check(&file.display().to_string(), result);
        }
    }
    Ok(Outcome::Ran(tally))
}

/// Runs the Dockerfile's lines, then the program that they leave in the last stage.
pub(super) fn build(workspace: &Workspace) -> Part {
    let text = workspace.read(Path::new("Dockerfile"))?.ok_or("no Dockerfile")?;
    let mut image = Image::new(workspace)?;
    for (word, rest) in instructions(&text) {
        image.step(&word, &rest).map_err(|problem| format!("{word} {rest}: {problem}"))?;
    }
    let mut tally = Tally::default();
    tally.check("the user is nobody's root", image.user());
    tally.check("the entry point is there and tells its version", image.version());
    tally.check("the health check is a command of it", image.health());
    Ok(Outcome::Ran(tally))
}

/// Words that begin a line, and what follows them; continued lines are one.
fn instructions(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut line = String::new();
    for part in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let part = part.trim();
        if let Some(part) = part.strip_suffix('\\') {
            line.push_str(part);
            continue;
        }
        line.push_str(part);
        if let Some((word, rest)) = line.split_once(' ') {
            found.push((word.to_owned(), rest.trim().to_owned()));
        }
        line.clear();
    }
    found
}

/// Where the build stands.
struct Image<'a> {
    workspace: &'a Workspace,
    /// Below it the root directory of each stage.
    scratch: PathBuf,
    /// Names of stages, in order.
    stages: Vec<String>,
    folder: PathBuf,
    variables: BTreeMap<String, String>,
    /// The last of each of USER, ENTRYPOINT and HEALTHCHECK.
    says: BTreeMap<String, String>,
}

impl<'a> Image<'a> {
    fn new(workspace: &'a Workspace) -> Result<Self, String> {
        Ok(Self {
            workspace,
            scratch: workspace.scratch("image")?,
            stages: Vec::new(),
            folder: PathBuf::from("/"),
            variables: BTreeMap::new(),
            says: BTreeMap::new(),
        })
    }

    fn step(&mut self, word: &str, rest: &str) -> Result<(), String> {
        match word {
            "FROM" => {
                let name = rest.split(" AS ").nth(1).unwrap_or_default();
                self.stages.push(name.to_owned());
                self.folder = PathBuf::from("/");
                self.variables.clear();
            }
            "ARG" | "ENV" => {
                let (name, value) = rest.split_once('=').ok_or("no value")?;
                self.variables.insert(name.to_owned(), value.trim_matches('"').to_owned());
            }
            "WORKDIR" => {
                self.folder = PathBuf::from(rest);
                fs::create_dir_all(self.place(rest)).map_err(|error| error.to_string())?;
            }
            "COPY" => self.copy(rest)?,
            "RUN" => self.run(rest)?,
            "USER" | "ENTRYPOINT" | "HEALTHCHECK" => {
                self.says.insert(word.to_owned(), rest.to_owned());
            }
            "LABEL" | "EXPOSE" | "CMD" => {}
            _ => return Err("not known to this check".to_owned()),
        }
        Ok(())
    }

    fn root(&self, stage: usize) -> PathBuf {
        self.scratch.join(format!("stage-{stage}"))
    }

    /// A path of the present stage, on this machine.
    fn place(&self, path: &str) -> PathBuf {
        let path = self.folder.join(path);
        let stage = self.stages.len().saturating_sub(1);
        self.root(stage).join(path.strip_prefix("/").unwrap_or(&path))
    }

    fn copy(&self, rest: &str) -> Result<(), String> {
        let mut words: Vec<&str> = rest.split(' ').collect();
        let mut from = None;
        words.retain(|word| {
            from = word.strip_prefix("--from=").or(from);
            !word.starts_with("--")
        });
        let [source, target] = words[..] else {
            return Err("not one source and one target".to_owned());
        };
        let target = self.place(target);
        if let Some(stage) = from {
            let stage = self.stages.iter().position(|name| name == stage).ok_or("no such stage")?;
            let source = self.root(stage).join(source.trim_start_matches('/'));
            return if source.is_dir() {
                fs::create_dir_all(&target).map_err(|error| error.to_string())
            } else {
                copy_file(&source, &target)
            };
        }
        let context = self.context()?;
        if source == "." {
            return mirror(&self.workspace.root, &context, &target);
        }
        if !context.contains(&PathBuf::from(source)) {
            return Err(format!(".dockerignore keeps {source} out"));
        }
        copy_file(&self.workspace.root.join(source), &target)
    }

    /// The project's files that .dockerignore lets in: nothing but what it names.
    fn context(&self) -> Result<Vec<PathBuf>, String> {
        let ignored = self.workspace.read(Path::new(".dockerignore"))?.unwrap_or_default();
        let mut lines = ignored.lines().filter(|line| !line.starts_with('#'));
        if lines.next() != Some("*") {
            return Err(".dockerignore does not begin by keeping everything out".to_owned());
        }
        let let_in: Vec<&str> = lines.filter_map(|line| line.strip_prefix('!')).collect();
        let mut files = self.workspace.files()?;
        files.retain(|file| let_in.iter().any(|name| file.starts_with(name)));
        Ok(files)
    }

    /// Runs a line as it stands, but for its mounts, which are plain folders here, and with a profile that
    /// compiles in a fraction of the time.
    fn run(&self, rest: &str) -> Result<(), String> {
        let line: Vec<&str> = rest
            .split(' ')
            .skip_while(|word| word.is_empty() || word.starts_with("--mount="))
            .collect();
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-ec", &line.join(" ")])
            .current_dir(self.place("."))
            .env_remove("CARGO_TARGET_DIR")
            .envs(&self.variables)
            .env("PROFILE", "release")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
        command::run(&mut shell)
    }

    fn user(&self) -> Result<(), String> {
        let user = self.says.get("USER").map_or("", String::as_str);
        if user == "65532:65532" { Ok(()) } else { Err(format!("USER {user}")) }
    }

    /// The words of the last such line in its JSON form.
    fn words(&self, what: &str) -> Result<Vec<String>, String> {
        let said = self.says.get(what).ok_or_else(|| format!("no {what}"))?;
        let json = said.find('[').map_or("", |at| &said[at..]);
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    fn entry(&self) -> Result<PathBuf, String> {
        let words = self.words("ENTRYPOINT")?;
        let program = words.first().ok_or("an empty ENTRYPOINT")?;
        Ok(self.place(program))
    }

    fn version(&self) -> Result<(), String> {
        let text = command::output(Command::new(self.entry()?).arg("--version"))?;
        let wanted = self.variables.get("VERSION").map_or("", String::as_str);
        let is_it = text.trim() == format!("till {wanted}");
        if is_it { Ok(()) } else { Err(format!("it is {text}, the image is {wanted}")) }
    }

    /// Nobody listens, and it must say so rather than not know its own arguments.
    fn health(&self) -> Result<(), String> {
        let words = self.words("HEALTHCHECK")?;
        let (program, args) = words.split_first().ok_or("an empty HEALTHCHECK")?;
        if self.place(program) != self.entry()? {
            return Err(format!("{program} is not the entry point"));
        }
        let (succeeded, text) = command::quietly(Command::new(self.entry()?).args(args))?;
        let is_asked = succeeded || text.contains("127.0.0.1:8000");
        if is_asked { Ok(()) } else { Err(text) }
    }
}

/// Copies with the time of the last change, so that cargo sees what has not changed.
fn copy_file(source: &Path, target: &Path) -> Result<(), String> {
    let tell = |error: std::io::Error| format!("{}: {error}", source.display());
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).map_err(tell)?;
    }
    fs::copy(source, target).map_err(tell)?;
    let modified = fs::metadata(source).and_then(|metadata| metadata.modified()).map_err(tell)?;
    let copy = fs::File::options().write(true).open(target).map_err(tell)?;
    copy.set_modified(modified).map_err(tell)
}

/// Makes `target` hold these files of `root`, and of what it held before only cargo's target directory. What
/// is the same already is left alone, folders too: cargo looks at their times.
fn mirror(root: &Path, files: &[PathBuf], target: &Path) -> Result<(), String> {
    sweep(target, Path::new(""), files)?;
    for file in files {
        let (source, copy) = (root.join(file), target.join(file));
        let state = |path: &Path| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.len(), metadata.modified().ok()?))
        };
        if state(&source) != state(&copy) {
            copy_file(&source, &copy)?;
        }
    }
    Ok(())
}

/// Removes what is not wanted.
fn sweep(target: &Path, folder: &Path, wanted: &[PathBuf]) -> Result<(), String> {
    let entries = fs::read_dir(target.join(folder)).map_err(|error| error.to_string())?;
    for entry in entries.flatten() {
        let path = folder.join(entry.file_name());
        let there = target.join(&path);
        let removed = if path == Path::new("target") || wanted.contains(&path) {
            Ok(())
        } else if !there.is_dir() {
            fs::remove_file(&there)
        } else if wanted.iter().any(|file| file.starts_with(&path)) {
            sweep(target, &path, wanted)?;
            Ok(())
        } else {
            fs::remove_dir_all(&there)
        };
        removed.map_err(|error| format!("{}: {error}", there.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continued_lines_are_one_instruction() {
        let found =
            instructions("# a\nFROM a AS b\n\nRUN --mount=x \\\n    # why\n    c d \\\n    && e\n");
        let run = ("RUN".to_owned(), "--mount=x c d && e".to_owned());
        assert_eq!(found, [("FROM".to_owned(), "a AS b".to_owned()), run]);
    }
}
