//! The chart: helm lints and renders it, Kubernetes' own schemas judge the result, and `k8s/` has
//! the same objects as plain files.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::{go::Module, tools};
use crate::{
    command,
    report::{Outcome, Part, Tally},
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

/// Values that must be refused, and a word of the error.
const REFUSED: &[(&str, &str)] = &[
    ("otlp.endpoint=collector", "pattern"),
    ("store.tidbCluster.enabled=false", "no store"),
    ("store.pdEndpoints={pd:2379}", "exclude each other"),
    ("roles.stock.replica=3", "replica"),
    ("roles.stok.replicas=3", "no such role"),
    ("defaults.replicas=many", "replicas"),
    ("store.pdEndpoints={pd}", "pattern"),
    ("networkPolicy.probesFromCidrs={10.0.0.1}", "pattern"),
    ("networkPolicy.probesFromCidrs={nodes}", "pattern"),
    ("ingress.tls.key=text", "ingress.tls.certificate goes with"),
    ("roles.stock.autoscaling.enabled=true,roles.stock.autoscaling.maxReplicas=2", "minReplicas 3"),
    // The executable refuses more.
    ("bridge.requestTimeoutMs=60001", "maximum"),
    // It would stand twice in one object, or hide a pod from what selects it.
    (
        "defaults.podLabels.app\\.kubernetes\\.io/part-of=shop",
        "the chart itself sets app.kubernetes.io/part-of",
    ),
    ("roles.stock.podLabels.app\\.kubernetes\\.io/name=shop", "roles.stock.podLabels"),
    ("roles.stock.env.TILL_LAME_DUCK_MS=1", "lameDuckMs"),
    ("defaults.env.TILL_DRAIN_TIMEOUT_MS=1", "drainTimeoutMs"),
    ("defaults.env.PD_ENDPOINTS=pd:2379", "the chart itself sets PD_ENDPOINTS"),
    (
        "roles.order.extraEnv[0].name=TILL_STOCK_ENDPOINTS",
        "the chart itself sets TILL_STOCK_ENDPOINTS",
    ),
    // helm leaves out what is null.
    ("networkPolicy.enabled=null", "missing property 'enabled'"),
    ("networkPolicy.storePorts=null", "missing property 'storePorts'"),
    ("defaults.replicas=null", "missing property 'replicas'"),
    ("defaults.drainTimeoutMs=null", "missing property 'drainTimeoutMs'"),
    ("bridge.requestTimeoutMs=null", "missing property 'requestTimeoutMs'"),
    ("bridge.service.port=null", "missing property 'port'"),
    ("image.repository=null", "missing property 'repository'"),
    ("roles=null", "missing property 'roles'"),
    ("log=null", "missing property 'log'"),
    ("log.format=null", "missing property 'format'"),
    ("metrics=null", "missing property 'metrics'"),
    ("grpc.tls=null", "missing property 'tls'"),
    ("store.tls=null", "missing property 'tls'"),
    ("store.tidbCluster.pd.resources=null", "missing property 'resources'"),
    ("networkPolicy.dnsTo=null", "missing property 'dnsTo'"),
    ("networkPolicy.tidbCluster.operatorFrom=null", "missing property 'operatorFrom'"),
    ("test.image=null", "missing property 'image'"),
    ("defaults=null", "missing property 'defaults'"),
    ("defaults.env=null", "missing property 'env'"),
    ("defaults.lameDuckMs=null", "missing property 'lameDuckMs'"),
    ("defaults.tmpSize=null", "missing property 'tmpSize'"),
    ("defaults.autoscaling.maxReplicas=null", "missing property 'maxReplicas'"),
    ("roles.stock=null", "/roles/stock"),
];

/// Values that must be taken: null is left out by helm, and the chart does without.
const TAKEN: &[&str] = &[
    "image.tag=null",
    "store.shards=null",
    "store.tidbCluster.pd.resources.requests=null",
    "defaults.resources.limits=null",
    "defaults.podSecurityContext=null",
    "networkPolicy.tidbCluster.from=null",
    "networkPolicy.probesFromCidrs={10.0.0.0/8,fd00::/8}",
];

pub(super) const NO_GO: &str = "go is not installed";

/// helm, and the project whose chart it reads.
pub(super) struct Helm<'a> {
    program: PathBuf,
    pub(super) workspace: &'a Workspace,
}

impl<'a> Helm<'a> {
    pub(super) fn ready(workspace: &'a Workspace) -> Result<Option<Self>, String> {
        let program = HELM.program(workspace)?;
        Ok(program.map(|program| Self { program, workspace }))
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
        for file in self.workspace.files()? {
            let Ok(inner) = file.strip_prefix(CHART) else { continue };
            let copied = copy.join(inner);
            let folder = copied.parent().ok_or("a file without a folder")?;
            fs::create_dir_all(folder).map_err(|error| error.to_string())?;
            fs::copy(self.workspace.root.join(&file), &copied)
                .map_err(|error| format!("{}: {error}", file.display()))?;
        }
        let notes = fs::read_to_string(copy.join("templates/NOTES.txt"));
        let notes = notes.map_err(|error| format!("NOTES.txt: {error}"))?;
        let object = [
            "{{- define \"notes\" }}\n",
            &notes,
            "{{- end }}\n",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\n",
            "data:\n  notes: {{ include \"notes\" . | toJson }}\n",
        ];
        write(&copy.join(OBJECT), &object.concat())?;
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
        let (succeeded, text) = command::quietly(&mut helm)?;
        if succeeded { Ok(text) } else { Err(text) }
    }
}

/// Runs `helm lint` and `helm template` with every set of values, and with values that must be
/// refused.
pub(super) fn helm(workspace: &Workspace) -> Part {
    let Some(helm) = Helm::ready(workspace)? else {
        return Ok(Outcome::NotRun(NO_GO.to_owned()));
    };
    let mut tally = Tally::default();
    for values in VALUES {
        let what = values.unwrap_or("the defaults");
        let mut lint =
            helm.command(&["lint", "--strict", "--quiet", "--kube-version", KUBERNETES[1], CHART]);
        if let Some(values) = values {
            lint.args(["--values", values]);
        }
        let (succeeded, text) = command::quietly(&mut lint)?;
        tally.check(&format!("helm lint with {what}"), if succeeded { Ok(()) } else { Err(text) });
        let rendered = helm.template(values, &[]).map(drop);
        tally.check(&format!("helm template with {what}"), rendered);
    }
    for setting in TAKEN {
        tally.check(setting, helm.template(None, &["--set", setting]).map(drop));
    }
    for (setting, reason) in REFUSED {
        let result = match helm.template(None, &["--set", setting]) {
            Ok(_) => Err("was rendered".to_owned()),
            Err(text) if text.contains(reason) => Ok(()),
            Err(text) => Err(format!("does not say `{reason}`: {text}")),
        };
        tally.check(setting, result);
    }
    Ok(Outcome::Ran(tally))
}

/// Runs kubernetes-validate over everything that helm renders, and over the load test's own
/// objects. It has no schema for custom resources: these are listed, but not counted.
pub(super) fn schemas(workspace: &Workspace) -> Part {
    let Some(helm) = Helm::ready(workspace)? else {
        return Ok(Outcome::NotRun(NO_GO.to_owned()));
    };
    // Most objects are the same in many renderings.
    let mut objects = BTreeSet::new();
    for values in VALUES {
        let rendered = helm.template(values, &[])?;
        objects.extend(rendered.split("---\n").map(|object| format!("---\n{object}")));
    }
    let file = workspace.scratch("rendered")?.join("all.yaml");
    write(&file, &objects.into_iter().collect::<String>())?;
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
            return Err(text);
        }
    }
    custom.sort();
    custom.dedup();
    println!("not validated, for want of a schema: {}", custom.join(", "));
    Ok(Outcome::Ran(tally))
}

/// The files of the load test in Kubernetes.
fn load_test(workspace: &Workspace) -> Result<Vec<PathBuf>, String> {
    let mut files = workspace.files()?;
    files.retain(|file| file.starts_with("test/stress-k8s/kubernetes-config"));
    Ok(files)
}

/// The rendered objects with every option on; none without go.
pub(super) fn everything(workspace: &Workspace) -> Result<Option<Vec<Value>>, String> {
    let Some(helm) = Helm::ready(workspace)? else {
        return Ok(None);
    };
    super::yaml(workspace, &helm.template(Some(EVERYTHING), &[])?).map(Some)
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
    let Some(helm) = Helm::ready(workspace)? else {
        return Ok(Outcome::NotRun(NO_GO.to_owned()));
    };
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
    Ok(Outcome::Ran(tally))
}

/// Rewrites `k8s/`.
pub(crate) fn write_plain(workspace: &Workspace) -> Part {
    let helm = Helm::ready(workspace)?.ok_or(NO_GO)?;
    let wanted = plain_files(&helm)?;
    let folder = workspace.root.join(PLAIN);
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|error| error.to_string())?;
    }
    for (file, text) in wanted {
        let file = workspace.root.join(file);
        let folder = file.parent().ok_or("a file without a folder")?;
        fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        write(&file, &text)?;
    }
    Ok(Outcome::Ran(Tally::PASSED))
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

fn write(file: &Path, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}
