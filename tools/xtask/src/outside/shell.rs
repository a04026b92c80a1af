//! Shell scripts: shellcheck reads them, and the deploy scripts run against tools that only record
//! their arguments. How a cluster would react is not tested here.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::tools;
use crate::{
    command, files,
    report::{Part, Tally},
    workspace::Workspace,
};

/// Runs shellcheck over every script of the project.
pub(super) fn check(workspace: &Workspace) -> Part {
    let mut tally = Tally::default();
    for file in scripts(workspace)? {
        let mut shellcheck = tools(workspace)?.tool("shellcheck");
        shellcheck.args(["--external-sources", "--source-path=SCRIPTDIR"]).arg(&file);
        let result = command::heard(shellcheck.current_dir(&workspace.root)).map(drop);
        tally.check(&file.display().to_string(), result);
    }
    Ok(tally)
}

/// Files with a script's name or first line.
fn scripts(workspace: &Workspace) -> Result<Vec<PathBuf>, String> {
    let mut scripts = Vec::new();
    for file in workspace.files()? {
        let is_named = file.extension().is_some_and(|extension| extension == "sh");
        let text = workspace.read(&file)?.unwrap_or_default();
        let first = text.lines().next().unwrap_or_default();
        if is_named || (first.starts_with("#!") && first.ends_with("sh")) {
            scripts.push(file);
        }
    }
    Ok(scripts)
}

/// Each deploy script, the tools that it calls, and what only it has to cope with.
const DEPLOY: [(&str, &[&str], &[Case]); 2] = [
    ("deploy-charts-minikube.sh", &["kubectl", "helm", "minikube"], &[]),
    (
        "deploy-charts-cluster.sh",
        &["kubectl", "helm"],
        &[Case {
            name: "a file of values that is not there",
            variables: &[("VALUES", "mine.yaml")],
            argument: None,
            makes: Makes::Fails("cannot read mine.yaml"),
        }],
    ),
];

/// What a script is given, or finds in a cluster.
struct Case {
    name: &'static str,
    variables: &'static [(&'static str, &'static str)],
    argument: Option<&'static str>,
    makes: Makes,
}

/// What a script has to make of a case.
enum Makes {
    /// It installs an ingress controller, or configures its own.
    Own,
    /// It gives the chart this, and leaves all ingress controllers as they are.
    Uses(&'static str),
    /// It says this and fails before it has changed anything.
    Fails(&'static str),
    /// It fails like that before it has even asked kubectl.
    Refuses(&'static str),
}

const OURS: &str =
    "controller:\n  config:\n    more_set_input_headers \"X-Request-Id: $request_id\";\n";
const ADDON: &str = "{\"helm\": {\"Status\": \"disabled\"}, \"ingress\": {\"Profile\": \"m\", \"Status\": \"enabled\"}}";
const OFF: &str = "{\"ingress\": {\"Profile\": \"m\", \"Status\": \"disabled\"}, \"helm\": {\"Status\": \"enabled\"}}";

/// What both scripts have to cope with.
const CASES: &[Case] = &[
    Case {
        name: "an unknown argument",
        variables: &[],
        argument: Some("--no-store"),
        makes: Makes::Refuses("unknown argument --no-store"),
    },
    Case {
        name: "an old helm",
        variables: &[("HELM_VERSION", "v3.16.4")],
        argument: None,
        makes: Makes::Refuses("helm 3.16.4 is too old: 3.17"),
    },
    Case {
        name: "a controller of its own, again",
        variables: &[("CLASSES", "nginx \n"), ("VALUES_THERE", OURS), ("ADDONS", ADDON)],
        argument: None,
        makes: Makes::Own,
    },
    Case {
        name: "the class nginx of somebody else",
        variables: &[
            ("CLASSES", "other true\nnginx \n"),
            ("VALUES_THERE", "null"),
            ("ADDONS", OFF),
        ],
        argument: None,
        makes: Makes::Uses("ingress: {className: \"nginx\", mintsRequestId: false}"),
    },
    Case {
        name: "a default class",
        variables: &[("CLASSES", "first \nsecond true\nthird \n")],
        argument: None,
        makes: Makes::Uses("ingress: {className: \"second\", mintsRequestId: false}"),
    },
    Case {
        name: "classes without a default",
        variables: &[("CLASSES", "first \nsecond \n")],
        argument: None,
        makes: Makes::Fails("INGRESS_CLASS"),
    },
    Case {
        name: "a controller without a class",
        variables: &[("CONTROLLERS", "daemonset.apps/ingress\n")],
        argument: None,
        makes: Makes::Fails("daemonset.apps/ingress"),
    },
    Case {
        name: "INGRESS_CLASS",
        variables: &[("CLASSES", "first \nsecond \n"), ("INGRESS_CLASS", "first")],
        argument: None,
        makes: Makes::Uses("ingress: {className: \"first\", mintsRequestId: false}"),
    },
    Case {
        name: "--no-ingress",
        variables: &[("CLASSES", "nginx \n")],
        argument: Some("--no-ingress"),
        makes: Makes::Uses("--set ingress.enabled=false"),
    },
];

/// The ingress objects of the release, and what the script says then.
const ADDRESSES: [(&str, &str); 2] = [
    ("ingress.networking.k8s.io/shop\n", "The shop's address, by the ingress class theirs"),
    ("", "port-forward service/shop-http-bridge 8000:8080"),
];

/// Runs each deploy script twice against stand-ins, and once without each tool.
pub(super) fn deploy(workspace: &Workspace) -> Part {
    let mut tally = Tally::default();
    for (script, programs, own) in DEPLOY {
        let stage = Stage::set(workspace, script, programs)?;
        let (first, second) = (stage.run(|_| {})?, stage.run(|_| {})?);
        tally.check(&format!("{script} runs"), first.is(second.succeeded && first.succeeded));
        tally.check(&format!("{script} pins what it installs"), pins(&second.calls));
        tally.check(&format!("{script} without an image"), stage.image());
        tally.check(&format!("{script} --store-only"), stage.store_only());
        for (ingresses, wanted) in ADDRESSES {
            let name = format!("{script} says the address with {ingresses:?}");
            tally.check(&name, stage.address(ingresses, wanted));
        }
        for case in CASES.iter().chain(own) {
            tally.check(&format!("{script}: {}", case.name), stage.copes(case));
        }
        for program in programs {
            let result = stage.run_without(program);
            tally.check(&format!("{script} without {program}"), result);
        }
    }
    Ok(tally)
}

/// A folder of stand-ins, which write their arguments to a file.
struct Stage<'a> {
    workspace: &'a Workspace,
    script: &'a str,
    folder: PathBuf,
    calls: PathBuf,
}

/// A script that has ended: what it said, and the calls of its tools.
struct Ended {
    succeeded: bool,
    text: String,
    calls: String,
}

impl Ended {
    /// What it said and called, if that is not right.
    fn is(&self, right: bool) -> Result<(), String> {
        if right { Ok(()) } else { Err(format!("{}{}", self.text, self.calls)) }
    }
}

impl<'a> Stage<'a> {
    fn set(workspace: &'a Workspace, script: &'a str, programs: &[&str]) -> Result<Self, String> {
        let folder = workspace.scratch("stage")?.join(script);
        let calls = folder.with_extension("calls");
        files::empty_folder(&folder)?;
        for program in programs.iter().chain(&["docker"]) {
            files::link(workspace.root.join("tools/xtask/standin.sh"), folder.join(program))?;
        }
        Ok(Self { workspace, script, folder, calls })
    }

    /// Runs the script, changed as this says.
    fn run(&self, change: impl FnOnce(&mut Command)) -> Result<Ended, String> {
        files::write(&self.calls, "")?;
        let mut command = Command::new("/bin/bash");
        command
            .arg(self.workspace.root.join(self.script))
            .current_dir(&self.folder)
            .env("CALLS", &self.calls)
            .env("IMAGE", "registry.example.com/till:1.2.3")
            .env("PATH", format!("{}:/usr/bin:/bin", self.folder.display()));
        change(&mut command);
        let (succeeded, text) = command::quietly(&mut command)?;
        Ok(Ended { succeeded, text, calls: files::read(&self.calls)? })
    }

    /// If no image is named, one script builds it and the other asks for it.
    fn image(&self) -> Result<(), String> {
        let ended = self.run(|command| {
            command.env_remove("IMAGE");
        })?;
        let is_made = ended.calls.contains("docker build") && ended.calls.contains("image load");
        let is_asked = !ended.succeeded && ended.text.contains("IMAGE=");
        ended.is((ended.succeeded && is_made) || is_asked)
    }

    /// With `--store-only` the script waits for the store, and installs nothing of ours.
    fn store_only(&self) -> Result<(), String> {
        let own = self.folder.join("own.yaml");
        files::write(&own, "")?;
        let ended = self.run(|command| {
            // What kubectl says it has applied.
            let applied = "tidbcluster.pingcap.com/shop-store\nnetworkpolicy/shop-store\n";
            command.arg("--store-only").env("VALUES", &own).env("APPLIED", applied);
        })?;
        let waits =
            ended.calls.contains("--for=condition=Ready tidbcluster.pingcap.com/shop-store");
        // Only one of the scripts takes values.
        let takes = ended.calls.contains("own.yaml") != self.script.contains("minikube");
        ended.is(ended.succeeded && waits && takes && !ended.calls.contains("--install till "))
    }

    /// With an ingress class of the cluster's, and whatever values do with ingress and service, the
    /// script says how the shop is reached.
    fn address(&self, ingresses: &str, wanted: &str) -> Result<(), String> {
        let ended = self.run(|command| {
            command.env("INGRESS_CLASS", "theirs").env("INGRESSES", ingresses);
            // cd goes by it, if it is not unset.
            command.env("CDPATH", "/").env("SERVICES", "shop-http-bridge 8080\n");
        })?;
        ended.is(ended.succeeded && ended.text.contains(wanted))
    }

    /// The script does with a case what it has to. The ingress controllers of a cluster stay as they
    /// are, unless they are the script's own.
    fn copes(&self, case: &Case) -> Result<(), String> {
        let variables = case.variables.iter().copied();
        let ended = self.run(|command| {
            command.args(case.argument).envs(variables);
        })?;
        let changes = ["--install ingress-nginx", "addons enable", "patch configmap"];
        let installs = changes.iter().any(|change| ended.calls.contains(change));
        let mints = !ended.calls.contains("mintsRequestId: false");
        let is_early = !ended.calls.contains("--install") && !ended.calls.contains("apply");
        let fails =
            |said: &str| !ended.succeeded && ended.text.contains(said) && is_early && !installs;
        ended.is(match case.makes {
            Makes::Own => {
                ended.succeeded && installs && mints && ended.calls.contains("--install till ")
            }
            Makes::Uses(values) => {
                let is_told = ended.calls.contains(values) && mints == case.argument.is_some();
                ended.succeeded && !installs && is_told
            }
            Makes::Fails(said) => fails(said),
            Makes::Refuses(said) => fails(said) && !ended.calls.contains("kubectl"),
        })
    }

    /// The script must stop at once and name the missing tool. The real tool may be in /usr/bin, so
    /// the PATH has only the other stand-ins and what a shell script needs.
    fn run_without(&self, program: &str) -> Result<(), String> {
        let folder = self.folder.with_extension(format!("without-{program}"));
        files::empty_folder(&folder)?;
        for name in ["kubectl", "helm", "minikube", "docker", "dirname", "cat"] {
            let own = self.folder.join(name);
            let target = if own.exists() { own } else { Path::new("/usr/bin").join(name) };
            if name != program && target.exists() {
                files::link(target, folder.join(name))?;
            }
        }
        let ended = self.run(|command| {
            command.env("PATH", &folder);
        })?;
        let is_told = ended.text.contains(program) && ended.text.contains("not installed");
        ended.is(!ended.succeeded && is_told)
    }
}

/// Checks that every installed chart has a version.
fn pins(calls: &str) -> Result<(), String> {
    let installs: Vec<&str> = calls.lines().filter(|call| call.contains("--install")).collect();
    let odd = installs.iter().find(|call| call.contains("--repo") && !call.contains("--version"));
    match odd {
        Some(call) => Err((*call).to_owned()),
        None if installs.len() < 2 => Err("installs nothing".to_owned()),
        None => Ok(()),
    }
}
