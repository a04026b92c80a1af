//! The chart: helm lints and renders it, Kubernetes' own schemas judge the result, and `k8s/` has
//! the same objects as plain files.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::{go::Module, tools};
use crate::{
    command, files,
    report::{Part, Stopped, Tally},
    workspace::Workspace,
};

pub(crate) const HELM: Module = Module::new("helm.sh/helm/v3", "v3.22.0", &["./cmd/helm"]);
const CHART: &str = "helm-config/till";
const PLAIN: &str = "k8s";
/// The values of the plain files.
const PLAIN_VALUES: &str = "helm-config/k8s-values.yaml";
pub(super) const EVERYTHING: &str = "helm-config/till/ci/everything-values.yaml";
/// Goes into a folder of its own, as the deploy scripts apply it first.
const STORE: &str = "tidb-cluster.yaml";
/// The objects of all roles.
const ROLES: &str = "roles.yaml";
/// Oldest and newest Kubernetes that the objects must be valid for.
const KUBERNETES: [&str; 2] = ["1.32.0", "1.37.0"];

/// The values that the chart must render with; none for its defaults.
const VALUES: [Option<&str>; 7] = [
    None,
    Some("helm-config/till-minikube-values.yaml"),
    Some("helm-config/till-cluster-values.yaml"),
    Some(PLAIN_VALUES),
    Some(EVERYTHING),
    Some("helm-config/till/ci/external-store-values.yaml"),
    Some("helm-config/till/ci/bare-values.yaml"),
];

/// helm, and the project whose chart it reads.
pub(super) struct Helm<'a> {
    program: PathBuf,
    pub(super) workspace: &'a Workspace,
}

impl<'a> Helm<'a> {
    pub(super) fn ready(workspace: &'a Workspace) -> Result<Self, Stopped> {
        Ok(Self { program: HELM.program(workspace)?, workspace })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut helm = Command::new(&self.program);
        helm.args(args).current_dir(&self.workspace.root);
        helm
    }

    /// Renders a release of this name with these files of values.
    pub(super) fn release(&self, name: &str, values: &[&str]) -> Result<String, String> {
        self.render(name, CHART, values, &[])
    }

    /// Renders what helm prints after an installation. `helm template` leaves that out, so this
    /// renders a copy of the chart that has the same text in a ConfigMap.
    pub(super) fn notes(&self, name: &str, values: &[&str]) -> Result<String, String> {
        const OBJECT: &str = "templates/notes.yaml";
        let copy = self.workspace.emptied("notes")?;
        let chart = self.workspace.root.join(CHART).join(".");
        command::run(Command::new("cp").arg("-r").args([&chart, &copy]))?;
        let notes = files::read(copy.join("templates/NOTES.txt"))?;
        let object = [
            "{{- define \"notes\" }}\n",
            &notes,
            "{{- end }}\n",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\n",
            "data:\n  notes: {{ include \"notes\" . | toJson }}\n",
        ];
        files::write(copy.join(OBJECT), object.concat())?;
        let more = ["--show-only", OBJECT];
        let text = self.render(name, &copy.to_string_lossy(), values, &more)?;
        let objects = super::yaml(self.workspace, &text)?;
        let notes = objects.first().and_then(|object| object["data"]["notes"].as_str());
        notes.map(str::to_owned).ok_or_else(|| format!("no notes: {text}"))
    }

    /// Renders the chart.
    fn template(&self, values: Option<&str>, more: &[&str]) -> Result<String, String> {
        self.render("till", CHART, values.as_slice(), more)
    }

    /// Renders the chart at this place, or returns what helm complains of.
    fn render(
        &self,
        name: &str,
        chart: &str,
        values: &[&str],
        more: &[&str],
    ) -> Result<String, String> {
        let mut helm = self.command(&["template", name, chart, "--kube-version", KUBERNETES[1]]);
        helm.args(more);
        for file in values {
            helm.args(["--values", file]);
        }
        command::heard(&mut helm)
    }
}

/// Runs `helm lint` and `helm template` with every set of values, and with values that must be
/// refused.
pub(super) fn helm(workspace: &Workspace) -> Part {
    let helm = Helm::ready(workspace)?;
    let cases = cases(workspace)?;
    let mut tally = Tally::default();
    for values in VALUES {
        let what = values.unwrap_or("the defaults");
        let mut lint =
            helm.command(&["lint", "--strict", "--quiet", "--kube-version", KUBERNETES[1], CHART]);
        if let Some(values) = values {
            lint.args(["--values", values]);
        }
        tally.check(&format!("helm lint with {what}"), command::heard(&mut lint).map(drop));
        let rendered = helm.template(values, &[]).map(drop);
        tally.check(&format!("helm template with {what}"), rendered);
    }
    for setting in cases["taken"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        tally.check(setting, helm.template(None, &["--set", setting]).map(drop));
    }
    for (setting, reason) in cases["refused"].as_object().into_iter().flatten() {
        tally.check(setting, refused(helm.template(None, &["--set", setting]), reason));
    }
    Ok(tally)
}

/// What the chart must make of values.
pub(super) fn cases(workspace: &Workspace) -> Result<Value, String> {
    let text = files::read(workspace.root.join("tools/xtask/chart.yaml"))?;
    super::yaml(workspace, &text)?.pop().ok_or_else(|| "no cases".to_owned())
}

/// Checks that values were refused for this reason.
pub(super) fn refused<T>(rendered: Result<T, String>, reason: &Value) -> Result<(), String> {
    let reason = reason.as_str().ok_or("a refusal without a reason")?;
    match rendered {
        Ok(_) => Err("was rendered".to_owned()),
        Err(text) if text.contains(reason) => Ok(()),
        Err(text) => Err(format!("does not say `{reason}`: {text}")),
    }
}

/// Runs kubernetes-validate over everything that helm renders, and over the load test's own
/// objects. It has no schema for custom resources: these are listed, but not counted.
pub(super) fn schemas(workspace: &Workspace) -> Part {
    let helm = Helm::ready(workspace)?;
    // Most objects are the same in many renderings.
    let mut objects = BTreeSet::new();
    for values in VALUES {
        let rendered = helm.template(values, &[])?;
        objects.extend(rendered.split("---\n").map(|object| format!("---\n{object}")));
    }
    let file = workspace.scratch("rendered")?.join("all.yaml");
    files::write(&file, objects.into_iter().collect::<String>())?;
    let mut files = load_test(workspace)?;
    for file in &mut files {
        *file = workspace.root.join(&*file);
    }
    files.push(file);
    let mut tally = Tally::default();
    let mut custom = Vec::new();
    for version in KUBERNETES {
        let mut validate = tools(workspace)?.tool("kubernetes-validate");
        let short = version.trim_end_matches(".0");
        validate.args(["--strict", "--kubernetes-version", short]).args(&files);
        let (succeeded, text) = command::quietly(&mut validate)?;
        for line in text.lines() {
            if line.contains("passed for resource") {
                tally.passed += 1;
            } else if line.contains("Couldn't find schema for kind") {
                let kind = line.split("kind ").nth(1).and_then(|rest| rest.split(' ').next());
                custom.push(kind.unwrap_or(line).to_owned());
            } else {
                println!("{line}");
                tally.failed += 1;
            }
        }
        if !succeeded && tally.failed == 0 {
            return Err(text.into());
        }
    }
    custom.sort();
    custom.dedup();
    println!("not validated, for want of a schema: {}", custom.join(", "));
    Ok(tally)
}

/// The files of the load test in Kubernetes.
fn load_test(workspace: &Workspace) -> Result<Vec<PathBuf>, String> {
    let mut files = workspace.files()?;
    files.retain(|file| file.starts_with("test/stress-k8s/kubernetes-config"));
    Ok(files)
}

/// The rendered objects with every option on.
pub(super) fn everything(workspace: &Workspace) -> Result<Vec<Value>, Stopped> {
    let text = Helm::ready(workspace)?.template(Some(EVERYTHING), &[])?;
    Ok(super::yaml(workspace, &text)?)
}

/// The schema of the chart's values.
pub(super) fn schema(workspace: &Workspace) -> Result<Value, String> {
    let text = workspace.read(&Path::new(CHART).join("values.schema.json"))?.unwrap_or_default();
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// Checks that every value has a description.
pub(super) fn described(workspace: &Workspace) -> Result<(), String> {
    let schema = schema(workspace)?;
    let mut silent = Vec::new();
    look(&schema, "", &mut silent);
    if silent.is_empty() { Ok(()) } else { Err(format!("no description: {}", silent.join(", "))) }
}

fn look(schema: &Value, path: &str, silent: &mut Vec<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        // Requests and limits need no description.
        let is_known = name == "cpu" || name == "memory";
        if property["description"].as_str().is_none_or(str::is_empty) && !is_known {
            silent.push(path.clone());
        }
        look(property, &path, silent);
    }
    for (name, definition) in schema["definitions"].as_object().into_iter().flatten() {
        look(definition, &format!("{path}#{name}"), silent);
    }
}

/// Checks that `k8s/` is what the chart renders, file by file.
pub(super) fn plain(workspace: &Workspace) -> Part {
    let helm = Helm::ready(workspace)?;
    let mut tally = Tally::default();
    let wanted = plain_files(&helm)?;
    for (file, text) in &wanted {
        let found = workspace.read(file).ok().flatten();
        let result = if found.as_deref() == Some(text) {
            Ok(())
        } else {
            Err("is not what the chart renders: cargo xtask k8s".to_owned())
        };
        tally.check(&file.display().to_string(), result);
    }
    for file in workspace.files()?.iter().filter(|file| file.starts_with(PLAIN)) {
        if !wanted.iter().any(|(name, _)| name == file) {
            tally.check(
                &file.display().to_string(),
                Err("the chart renders no such file".to_owned()),
            );
        }
    }
    Ok(tally)
}

/// Rewrites `k8s/`.
pub(crate) fn write_plain(workspace: &Workspace) -> Part {
    let helm = Helm::ready(workspace)?;
    let wanted = plain_files(&helm)?;
    let folder = workspace.root.join(PLAIN);
    files::no_folder(&folder)?;
    for (file, text) in wanted {
        let file = workspace.root.join(file);
        let folder = file.parent().ok_or("a file without a folder")?;
        files::folder(folder)?;
        files::write(&file, text)?;
    }
    Ok(Tally::PASSED)
}

/// One file for each template, without helm's tests.
fn plain_files(helm: &Helm<'_>) -> Result<Vec<(PathBuf, String)>, String> {
    const SOURCE: &str = "# Source: till/templates/";
    let rendered = helm.template(Some(PLAIN_VALUES), &["--skip-tests"])?;
    let mut files: Vec<(PathBuf, String)> = Vec::new();
    for document in rendered.split("---\n").filter(|text| !text.trim().is_empty()) {
        let (source, text) = document.trim().split_once('\n').ok_or("an empty object")?;
        let name = source.strip_prefix(SOURCE).ok_or_else(|| format!("no source: {source}"))?;
        let folder = Path::new(PLAIN);
        let file = match name {
            STORE => folder.join("store").join(name),
            // A file for each role.
            ROLES => folder.join(format!("{}.yaml", component(text).unwrap_or_default())),
            _ => folder.join(name),
        };
        if !files.iter().any(|(there, _)| *there == file) {
            let head = format!("# Rendered from {CHART}/templates/{name} by `cargo xtask k8s`.\n");
            files.push((file.clone(), head));
        }
        for (there, all) in &mut files {
            if *there == file {
                all.push_str("---\n");
                all.push_str(text);
                all.push('\n');
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The role that a rendered object belongs to.
fn component(object: &str) -> Option<&str> {
    let label = "app.kubernetes.io/component: ";
    object.lines().find_map(|line| line.trim_start().strip_prefix(label))
}
