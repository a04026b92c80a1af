//! Shell scripts: shellcheck reads them, and the deploy scripts run against tools that only record
//! their arguments. How a cluster would react is not tested here.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::tools;
use crate::{
    command,
    report::{Outcome, Part, Tally},
    workspace::Workspace,
};

/// Runs shellcheck over every script of the project.
pub(super) fn check(workspace: &Workspace) -> Part {
    let mut tally = Tally::default();
    for file in scripts(workspace)? {
        let mut shellcheck = tools(workspace)?.tool("shellcheck");
        shellcheck.args(["--external-sources", "--source-path=SCRIPTDIR"]).arg(&file);
        let (succeeded, text) = command::quietly(shellcheck.current_dir(&workspace.root))?;
        let result = if succeeded { Ok(()) } else { Err(text) };
        tally.check(&file.display().to_string(), result);
    }
    Ok(Outcome::Ran(tally))
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

/// Each deploy script, and the tools that it calls.
const DEPLOY: [(&str, &[&str]); 2] = [
    ("deploy-charts-minikube.sh", &["kubectl", "helm", "minikube"]),
    ("deploy-charts-cluster.sh", &["kubectl", "helm"]),
];

/// What a cluster has of ingress controllers, and what a script has to make of it.
struct Ingress {
    name: &'static str,
    variables: &'static [(&'static str, &'static str)],
    argument: Option<&'static str>,
    /// Whether the script installs a controller, or configures its own.
    installs: bool,
    /// What it gives the chart or, where it must fail, says.
    wanted: &'static str,
    fails: bool,
}

const OURS: &str =
    "controller:\n  config:\n    more_set_input_headers \"X-Request-Id: $request_id\";\n";
const ADDON: &str = "{\"helm\": {\"Status\": \"disabled\"}, \"ingress\": {\"Profile\": \"m\", \"Status\": \"enabled\"}}";
const OFF: &str = "{\"ingress\": {\"Profile\": \"m\", \"Status\": \"disabled\"}, \"helm\": {\"Status\": \"enabled\"}}";
const CLASS: &str = "ingress: {className: \"nginx\", mintsRequestId: false}";

const INGRESS: &[Ingress] = &[
    Ingress {
        name: "a controller of its own, again",
        variables: &[("CLASSES", "nginx \n"), ("VALUES_THERE", OURS), ("ADDONS", ADDON)],
        argument: None,
        installs: true,
        wanted: "--install till ",
        fails: false,
    },
    Ingress {
        name: "the class nginx of somebody else",
        variables: &[
            ("CLASSES", "other true\nnginx \n"),
            ("VALUES_THERE", "null"),
            ("ADDONS", OFF),
        ],
        argument: None,
        installs: false,
        wanted: CLASS,
        fails: false,
    },
    Ingress {
        name: "a default class",
        variables: &[("CLASSES", "first \nsecond true\nthird \n")],
        argument: None,
        installs: false,
        wanted: "ingress: {className: \"second\", mintsRequestId: false}",
        fails: false,
    },
    Ingress {
        name: "classes without a default",
        variables: &[("CLASSES", "first \nsecond \n")],
        argument: None,
        installs: false,
        wanted: "INGRESS_CLASS",
        fails: true,
    },
    Ingress {
        name: "a controller without a class",
        variables: &[("CONTROLLERS", "daemonset.apps/ingress\n")],
        argument: None,
        installs: false,
        wanted: "daemonset.apps/ingress",
        fails: true,
    },
    Ingress {
        name: "INGRESS_CLASS",
        variables: &[("CLASSES", "first \nsecond \n"), ("INGRESS_CLASS", "first")],
        argument: None,
        installs: false,
        wanted: "ingress: {className: \"first\", mintsRequestId: false}",
        fails: false,
    },
    Ingress {
        name: "--no-ingress",
        variables: &[("CLASSES", "nginx \n")],
        argument: Some("--no-ingress"),
        installs: false,
        wanted: "--set ingress.enabled=false",
        fails: false,
    },
];

/// What a script must refuse before it changes anything.
struct Wrong {
    name: &'static str,
    argument: Option<&'static str>,
    variable: Option<(&'static str, &'static str)>,
    /// Whether the script may ask kubectl before.
    asks: bool,
    said: &'static str,
    /// The only script that has it, if not both.
    script: Option<&'static str>,
}

const WRONG: &[Wrong] = &[
    Wrong {
        name: "an unknown argument",
        argument: Some("--no-store"),
        variable: None,
        asks: false,
        said: "unknown argument --no-store",
        script: None,
    },
    Wrong {
        name: "an old helm",
        argument: None,
        variable: Some(("HELM_VERSION", "v3.16.4")),
        asks: false,
        said: "helm 3.16.4 is too old: 3.17",
        script: None,
    },
    Wrong {
        name: "a file of values that is not there",
        argument: None,
        variable: Some(("VALUES", "mine.yaml")),
        asks: true,
        said: "cannot read mine.yaml",
        script: Some("deploy-charts-cluster.sh"),
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
    for (script, programs) in DEPLOY {
        let stage = Stage::set(workspace, script, programs)?;
        let (first, second) = (stage.run()?, stage.run()?);
        tally.check(&format!("{script} runs"), first.and_then(|_| second.map(drop)));
        tally.check(&format!("{script} pins what it installs"), stage.pins());
        tally.check(&format!("{script} without an image"), stage.image()?);
        tally.check(&format!("{script} --store-only"), stage.store_only()?);
        for (ingresses, wanted) in ADDRESSES {
            let name = format!("{script} says the address with {ingresses:?}");
            tally.check(&name, stage.address(ingresses, wanted)?);
        }
        for wrong in WRONG.iter().filter(|wrong| wrong.script.is_none_or(|only| only == script)) {
            tally.check(&format!("{script}: {}", wrong.name), stage.refuses(wrong)?);
        }
        for case in INGRESS {
            tally.check(&format!("{script}: {}", case.name), stage.ingress(case)?);
        }
        for program in programs {
            let result = stage.run_without(program)?;
            tally.check(&format!("{script} without {program}"), result);
        }
    }
    Ok(Outcome::Ran(tally))
}

/// A folder of stand-ins that write their arguments to a file.
struct Stage<'a> {
    workspace: &'a Workspace,
    script: &'a str,
    folder: PathBuf,
    calls: PathBuf,
}

impl<'a> Stage<'a> {
    fn set(workspace: &'a Workspace, script: &'a str, programs: &[&str]) -> Result<Self, String> {
        let folder = workspace.scratch("stage")?.join(script);
        let calls = folder.with_extension("calls");
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        fs::write(&calls, "").map_err(|error| error.to_string())?;
        for program in programs.iter().chain(&["docker"]) {
            // minikube reports its profile's state and kubectl a context; neither changes anything.
            // What a cluster has of ingress controllers is in variables, and values given to helm
            // by standard input are written down.
            let text = format!(
                "#!/bin/sh\necho \"{program} $*\" >> '{0}'\ncase \"$*\" in *current-context*) echo a-cluster ;; \
                 *ingressclasses*) printf '%b' \"${{CLASSES:-}}\" ;; \
                 *deployments,daemonsets*) printf '%b' \"${{CONTROLLERS:-}}\" ;; \
                 *'get values ingress-nginx'*) printf '%b' \"${{VALUES_THERE:-}}\" ;; \
                 *'get ingress '*) printf '%b' \"${{INGRESSES:-}}\" ;; \
                 *'get service --namespace'*) printf '%b' \"${{SERVICES:-}}\" ;; \
                 *'apply --namespace'*) printf '%b' \"${{APPLIED:-}}\" ;; \
                 *'addons list'*) printf '%b' \"${{ADDONS:-}}\" ;; \
                 *'--values - '*) while read -r line; do echo \"$line\" >> '{0}'; done ;; \
                 *version*) echo \"${{HELM_VERSION:-v3.22.0}}\" ;; esac\n",
                calls.display()
            );
            let path = folder.join(program);
            fs::write(&path, text).map_err(|error| error.to_string())?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .map_err(|error| error.to_string())?;
        }
        Ok(Self { workspace, script, folder, calls })
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new("/bin/bash");
        command
            .arg(self.workspace.root.join(self.script))
            .current_dir(&self.folder)
            .env("IMAGE", "registry.example.com/till:1.2.3")
            .env("PATH", format!("{}:/usr/bin:/bin", folder.display()));
        command
    }

    fn run(&self) -> Result<Result<String, String>, String> {
        let (succeeded, text) = command::quietly(&mut self.command(&self.folder))?;
        Ok(if succeeded { Ok(text) } else { Err(text) })
    }

    /// If no image is named, one script builds it and the other asks for it.
    fn image(&self) -> Result<Result<(), String>, String> {
        let mut command = self.command(&self.folder);
        let (succeeded, text) = command::quietly(command.env_remove("IMAGE"))?;
        let calls = fs::read_to_string(&self.calls).map_err(|error| error.to_string())?;
        let is_made = succeeded && calls.contains("docker build") && calls.contains("image load");
        let is_asked = !succeeded && text.contains("IMAGE=");
        Ok(if is_made || is_asked { Ok(()) } else { Err(text) })
    }

    /// With `--store-only` the script waits for the store, and installs nothing of ours.
    fn store_only(&self) -> Result<Result<(), String>, String> {
        fs::write(&self.calls, "").map_err(|error| error.to_string())?;
        let own = self.folder.join("own.yaml");
        fs::write(&own, "").map_err(|error| error.to_string())?;
        let mut command = self.command(&self.folder);
        command.arg("--store-only").env("VALUES", &own);
        // What kubectl says it has applied.
        command.env("APPLIED", "tidbcluster.pingcap.com/shop-store\nnetworkpolicy/shop-store\n");
        let (succeeded, text) = command::quietly(&mut command)?;
        let calls = fs::read_to_string(&self.calls).map_err(|error| error.to_string())?;
        let waits = calls.contains("--for=condition=Ready tidbcluster.pingcap.com/shop-store");
        // Only one of the scripts takes values.
        let takes = calls.contains("own.yaml") != self.script.contains("minikube");
        let is_right = succeeded && waits && takes && !calls.contains("--install till ");
        Ok(if is_right { Ok(()) } else { Err(format!("{text}{calls}")) })
    }

    /// With an ingress class of the cluster's, and whatever values do with ingress and service, the
    /// script says how the shop is reached.
    fn address(&self, ingresses: &str, wanted: &str) -> Result<Result<(), String>, String> {
        let mut command = self.command(&self.folder);
        command.env("INGRESS_CLASS", "theirs").env("INGRESSES", ingresses);
        // cd goes by it, if it is not unset.
        command.env("CDPATH", "/").env("SERVICES", "shop-http-bridge 8080\n");
        let (succeeded, text) = command::quietly(&mut command)?;
        Ok(if succeeded && text.contains(wanted) { Ok(()) } else { Err(text) })
    }

    /// The script ends at once, says why, and has changed nothing.
    fn refuses(&self, wrong: &Wrong) -> Result<Result<(), String>, String> {
        fs::write(&self.calls, "").map_err(|error| error.to_string())?;
        let mut command = self.command(&self.folder);
        let (succeeded, text) =
            command::quietly(command.args(wrong.argument).envs(wrong.variable))?;
        let calls = fs::read_to_string(&self.calls).map_err(|error| error.to_string())?;
        let is_early = !calls.contains("--install") && !calls.contains("apply");
        let is_silent = wrong.asks || !calls.contains("kubectl");
        let is_right = !succeeded && text.contains(wrong.said) && is_early && is_silent;
        Ok(if is_right { Ok(()) } else { Err(format!("{text}{calls}")) })
    }

    /// What the cluster has of ingress controllers stays as it is, and serves the shop.
    fn ingress(&self, case: &Ingress) -> Result<Result<(), String>, String> {
        fs::write(&self.calls, "").map_err(|error| error.to_string())?;
        let mut command = self.command(&self.folder);
        command.args(case.argument).envs(case.variables.iter().copied());
        let (succeeded, text) = command::quietly(&mut command)?;
        let calls = fs::read_to_string(&self.calls).map_err(|error| error.to_string())?;
        let changes = ["--install ingress-nginx", "addons enable", "patch configmap"];
        let installs = changes.iter().any(|change| calls.contains(change));
        let is_told =
            if case.fails { text.contains(case.wanted) } else { calls.contains(case.wanted) };
        // It fails before it has changed anything.
        let is_early = !case.fails || !calls.contains("--install") && !calls.contains("apply");
        let is_own = case.installs != calls.contains("mintsRequestId: false");
        let is_right = succeeded != case.fails
            && installs == case.installs
            && is_told
            && is_early
            && (is_own || case.fails || case.argument.is_some());
        Ok(if is_right { Ok(()) } else { Err(format!("{text}{calls}")) })
    }

    /// Checks that every installed chart has a version.
    fn pins(&self) -> Result<(), String> {
        let calls = fs::read_to_string(&self.calls).map_err(|error| error.to_string())?;
        let installs: Vec<&str> = calls.lines().filter(|call| call.contains("--install")).collect();
        let odd =
            installs.iter().find(|call| call.contains("--repo") && !call.contains("--version"));
        match odd {
            Some(call) => Err((*call).to_owned()),
            None if installs.len() < 2 => Err("installs nothing".to_owned()),
            None => Ok(()),
        }
    }

    /// The script must stop at once and name the missing tool. The real tool may be in /usr/bin, so
    /// the PATH has only the other stand-ins and what a shell script needs.
    fn run_without(&self, program: &str) -> Result<Result<(), String>, String> {
        let folder = self.folder.with_extension(format!("without-{program}"));
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        for name in ["kubectl", "helm", "minikube", "docker", "dirname", "cat"] {
            let link = folder.join(name);
            if link.is_symlink() {
                fs::remove_file(&link).map_err(|error| error.to_string())?;
            }
            let own = self.folder.join(name);
            let target = if own.exists() { own } else { Path::new("/usr/bin").join(name) };
            if name != program && (target.exists()) {
                std::os::unix::fs::symlink(&target, &link).map_err(|error| error.to_string())?;
            }
        }
        let mut command = self.command(&folder);
        command.env("PATH", &folder);
        let (succeeded, text) = command::quietly(&mut command)?;
        let is_told = !succeeded && text.contains(program) && text.contains("not installed");
        Ok(if is_told { Ok(()) } else { Err(format!("does not say what is missing: {text}")) })
    }
}
