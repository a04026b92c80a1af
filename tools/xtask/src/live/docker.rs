//! The shop in Docker, run as docs/deploy.md describes, with dev-kv in place of PD and TiKV.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    bases,
    compose::{Container, Project},
    engine::{self, Engine},
    groups::Group,
    image,
    load::{self, Load},
    machine::{Machine, Network},
    steps::Steps,
};
use crate::{
    command::{self, wait},
    files,
    outside::grpcurl::GRPCURL,
    roles::{self, Role},
    tour,
    workspace::Workspace,
};

const SMALL: &str = "env/small.env";
const ONE: &[&str] = &["compose.yaml", "compose.dev-kv.yaml"];
const ENCRYPTED: &[&str] = &["compose.yaml", "compose.tls.yaml", "compose.dev-kv.yaml"];
const THREE: &[&str] =
    &["compose.yaml", "compose.ha.yaml", "compose.dev-kv.yaml", "tools/xtask/live/ha.yaml"];

const REST: &str = "http://localhost:8000";

/// Runs an interactive shell in which `docker` talks to an engine of our own.
pub(crate) fn shell(workspace: &Workspace) -> Result<(), String> {
    engine::packages(workspace)?;
    let machine = machine(workspace, Network::Own)?;
    let engine = Engine::start(workspace, &machine, Network::Own)?;
    bases::frontend(workspace, &engine)?;
    bases::runtime(workspace, &engine)?;
    let mut shell = engine.command("bash");
    shell.stdin(Stdio::inherit()).status().map(drop).map_err(|error| error.to_string())
}

fn machine(workspace: &Workspace, network: Network) -> Result<Machine, String> {
    Machine::start(&workspace.root, &workspace.target.join("live/log"), network)
}

/// Runs all steps: with the image of this executable, a path or a cargo profile to build it by, or
/// with that of the whole Dockerfile, built with a profile.
pub(crate) fn run(
    workspace: &Workspace,
    steps: &mut Steps,
    executable: &str,
    whole: Option<&str>,
) -> Result<(), String> {
    steps.must("engine's packages", || engine::packages(workspace))?;
    if let Some(profile) = whole {
        // Compiling needs the network.
        let built = |steps: &mut Steps, machine: &_| build(workspace, steps, machine, profile);
        within(workspace, steps, Network::Host, built)?;
    }
    within(workspace, steps, Network::Own, |steps, machine| {
        on(workspace, steps, machine, executable, whole.is_some())
    })
}

/// Runs steps on a machine, and takes it down whatever becomes of them.
pub(crate) fn within(
    workspace: &Workspace,
    steps: &mut Steps,
    network: Network,
    run: impl FnOnce(&mut Steps, &Machine) -> Result<(), String>,
) -> Result<(), String> {
    let mut machine = steps.need("machine", || {
        let machine = machine(workspace, network)?;
        let spaces = match network {
            Network::Own => "namespaces for network, mounts and processes",
            Network::Host => "namespaces for mounts and processes",
        };
        Ok((machine, spaces.to_owned()))
    })?;
    let done = run(steps, &machine);
    steps.run("machine: down", || machine.gone());
    done
}

/// Builds by the whole Dockerfile, twice.
fn build(
    workspace: &Workspace,
    steps: &mut Steps,
    machine: &Machine,
    profile: &str,
) -> Result<(), String> {
    let engine = Engine::start(workspace, machine, Network::Host)?;
    let build = || image::whole(workspace, &engine, profile, image::IMAGE);
    steps.run(&format!("docker build, profile {profile}"), build);
    steps.run("docker build again", build);
    Ok(())
}

/// All that runs on the machine.
fn on(
    workspace: &Workspace,
    steps: &mut Steps,
    machine: &Machine,
    executable: &str,
    has_image: bool,
) -> Result<(), String> {
    let engine = steps.need("engine", || {
        let engine = Engine::start(workspace, machine, Network::Own)?;
        let version = engine.quietly("version --format {{.Server.Version}}")?;
        let compose = engine.quietly("compose version --short")?;
        Ok((engine, format!("Docker {version}, compose {compose}")))
    })?;
    if !has_image {
        steps.must("image of the executable", || {
            let executable = image::executable(workspace, executable)?;
            image::of_executable(workspace, &engine, &executable, image::HEAD, image::IMAGE)
        })?;
    }
    steps.run("docker run, a whole shop", || alone(workspace, &engine));
    let project = |files, name, size| Project::new(machine, &engine, name, files, size);
    small(workspace, steps, &project(ONE, "till", SMALL), executable);
    let certificates = workspace.target.join("live/certs");
    let encrypted =
        project(ENCRYPTED, "till", SMALL).with("TLS_DIR", certificates.display().to_string());
    tls(workspace, steps, &encrypted, &certificates);
    several(workspace, steps, &project(THREE, "till-ha", "env/medium.env"));
    steps.run("nothing is left", || nothing_left(&engine));
    Ok(())
}

/// The image's default command: a whole shop in one container, started as in docs/deploy.md.
fn alone(workspace: &Workspace, engine: &Engine<'_>) -> Result<String, String> {
    engine.quietly(&format!(
        "run --detach --name shop --publish 8000:8000 --read-only --volume till-data:/data {}",
        image::IMAGE
    ))?;
    let done = wait("not healthy", Duration::from_secs(90), || {
        let health = engine.quietly("inspect --format {{.State.Health.Status}} shop")?;
        if health == "healthy" { Ok(()) } else { Err(engine.logs("shop")?) }
    })
    .and_then(|()| rest_tour(workspace, engine.machine()));
    engine.quietly("rm --force shop")?;
    engine.quietly("volume rm till-data")?;
    done
}

/// `compose.yaml` in the small size: what people do with it, and what can happen to it.
fn small(workspace: &Workspace, steps: &mut Steps, project: &Project<'_>, executable: &str) {
    if !steps.run("compose.yaml: up --wait", || project.up()) {
        steps.run("compose.yaml: what it logged", || Err(project.quietly("logs")?));
        return;
    }
    steps.run("README's tour by REST", || rest_tour(workspace, project.machine));
    steps.run("README's tour by gRPC", || grpc_tour(workspace, project));
    steps.run("plain gRPC is answered", || {
        health(project, &[])?;
        Ok("as TLS is off".to_owned())
    });
    steps.run("locked down", || locked_down(project));
    let enter = |program: &_| project.machine.command(Path::new(program));
    load::consistency(workspace, steps, enter, REST);
    steps.run("memory limits under bench", || bench(workspace, project, executable));
    kills(workspace, steps, project);
    steps.run("till audit", || audit(project));
    steps.run("logs", || logs(project));
    steps.run("a wrong PD_ENDPOINTS", || wrong_store(project));
    steps.run("compose.yaml: down", || project.down());
}

/// Mutual TLS between the roles.
fn tls(workspace: &Workspace, steps: &mut Steps, project: &Project<'_>, certificates: &Path) {
    let is_made = steps.run("certificates, by docs/security.md", || make(workspace, certificates));
    if !is_made || !steps.run("compose.tls.yaml: up --wait", || project.up()) {
        return;
    }
    steps.run("README's tour over mTLS", || rest_tour(workspace, project.machine));
    steps.run("plain gRPC is refused", || {
        // The same question of the same container is answered over TLS, and was without TLS where
        // the roles had none: it is the plain text that is refused.
        let authority = format!("{}:/ca.pem:ro", certificates.join("ca.pem").display());
        let answered = || health(project, &["--volume", &authority]);
        answered()?;
        if let Ok(text) = health(project, &[]) {
            return Err(format!("was answered: {text}"));
        }
        answered()?;
        Ok("a caller without TLS gets no answer, one with it does".to_owned())
    });
    steps.run("compose.tls.yaml: down", || project.down());
}

/// Two replicas of each role, over a list of three endpoints.
fn several(workspace: &Workspace, steps: &mut Steps, project: &Project<'_>) {
    if !steps.run("compose.ha.yaml, medium: up --wait", || project.up()) {
        return;
    }
    steps.run("README's tour over two of each", || rest_tour(workspace, project.machine));
    steps.run("kill -9 of a coordinator and a stock", || {
        let bridges = [8000, 8001].map(|port| format!("http://localhost:{port}"));
        let enter = |program: &_| project.machine.command(Path::new(program));
        let mut load = Load::start(workspace, enter, &bridges, &[])?;
        for service in ["coordinator", "stock"] {
            std::thread::sleep(Duration::from_secs(3));
            kill(project, &project.container(service)?)?;
        }
        project.recovered()?;
        std::thread::sleep(Duration::from_secs(2));
        let stretch = load.stretch("kills")?;
        let audit = load.audit()?;
        stretch.within(0)?;
        Ok(format!("{stretch}; {audit}"))
    });
    steps.run("compose.ha.yaml: down", || project.down());
}

/// Asks order for its health by gRPC, from a container of the roles' network. With an authority
/// mounted at `/ca.pem`, over TLS.
fn health(project: &Project<'_>, mount: &[&str]) -> Result<String, String> {
    let order = format!("{}:7100", project.container("order")?.address("calls")?);
    let mut run = project.engine.docker("run --rm --network till_calls");
    run.args(mount).args([image::IMAGE, "health", "--endpoint", &order]);
    if !mount.is_empty() {
        run.args(["--tls-ca-file", "/ca.pem"]);
    }
    command::captured(&mut run)
}

fn rest_tour(workspace: &Workspace, machine: &Machine) -> Result<String, String> {
    tour::run(workspace, "A tour by REST", &[], |line| machine.shell(line))
}

/// The gRPC ports are not published, so the tour goes to the containers' own addresses.
fn grpc_tour(workspace: &Workspace, project: &Project<'_>) -> Result<String, String> {
    let grpcurl = GRPCURL.program(workspace)?;
    let folder = grpcurl.parent().ok_or("a program in no folder")?.display().to_string();
    let mut places = Vec::new();
    for Role { name, port, .. } in roles::grpc() {
        let address = project.container(name)?.address("calls")?;
        places.push((format!("localhost:{port}"), format!("{address}:{port}")));
    }
    tour::run(workspace, "A tour by gRPC", &places, |line| {
        // Refusals are part of the tour, and grpcurl exits with an error for them.
        project.machine.shell(&format!("PATH={folder}:$PATH; {line} 2>&1 || true"))
    })
}

/// Checks that processes have the users, capabilities and file systems that the files say.
fn locked_down(project: &Project<'_>) -> Result<String, String> {
    let containers = project.containers()?;
    if containers.is_empty() {
        return Err("no container runs".to_owned());
    }
    for container in containers {
        let pid = container.process()?;
        let status = project.machine.shell(&format!("cat /proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().unwrap_or_default().to_owned()
        };
        for (name, wanted) in [
            ("Uid:", "65532"),
            ("Gid:", "65532"),
            ("CapBnd:", "0000000000000000"),
            ("NoNewPrivs:", "1"),
        ] {
            let found = field(name);
            if found != wanted {
                return Err(format!("{}: {name} {found}, not {wanted}", container.service));
            }
        }
        // Not even the host's root can write there.
        let touch = format!("cd /proc/{pid}/root; touch usr/local/bin/it 2>&1 || true");
        let said = project.machine.shell(&touch)?;
        if !said.contains("Read-only file system") {
            return Err(format!("{}: its root can be written: {said}", container.service));
        }
    }
    Ok("user 65532, no capability, no new privileges, read-only root, in every container"
        .to_owned())
}

/// Runs `till bench` from outside; returns the peak memory of each container.
fn bench(workspace: &Workspace, project: &Project<'_>, executable: &str) -> Result<String, String> {
    let mut bench = project.machine.command(image::executable(workspace, executable)?);
    bench
        .args(["bench", "--target", REST, "--concurrency", "64", "--duration-ms", "10000"])
        .args(["--orders", "20000", "--items", "20000", "--accounts", "20000", "--json", "-"]);
    command::captured(&mut bench)?;
    let mut most = Vec::new();
    for container in project.containers()? {
        if container.was_out_of_memory || container.restarts > 0 {
            return Err(format!("{} was ended for its memory", container.service));
        }
        let group = Group::of(&project.machine.group, &container.id)?;
        let (peak, limit) = group.peak_and_limit()?;
        most.push(format!("{} {}/{}", container.service, peak >> 20, limit >> 20));
    }
    most.sort();
    Ok(format!("64 callers, books checked; most MB of their limits: {}", most.join(", ")))
}

/// Kills each container's process by SIGKILL under load. After `docker kill` Docker would not
/// restart it, as if a person had stopped it.
fn kills(workspace: &Workspace, steps: &mut Steps, project: &Project<'_>) {
    let enter = |program: &_| project.machine.command(Path::new(program));
    let mut load = match Load::start(workspace, enter, &[REST.to_owned()], &[]) {
        Ok(load) => load,
        Err(problem) => {
            steps.run("load", || Err(problem));
            return;
        }
    };
    // The store is last, as it has all the data.
    for service in roles::NAMES.into_iter().chain(["dev-kv"]) {
        steps.run(&format!("kill -9 of {service} under load"), || {
            let before = project.container(service)?;
            std::thread::sleep(Duration::from_secs(2));
            load.stretch("before")?;
            kill(project, &before)?;
            project.recovered()?;
            std::thread::sleep(Duration::from_secs(2));
            let stretch = load.stretch(service)?;
            // Clients are connected to the bridge. Any other role's call is retried for them.
            if service != "http-bridge" {
                stretch.within(0)?;
            }
            Ok(stretch.to_string())
        });
    }
    steps.run("the buyers' books", || load.audit());
}

/// Kills a container's process, and waits until Docker has restarted it once more than before.
fn kill(project: &Project<'_>, before: &Container) -> Result<(), String> {
    project.machine.shell(&format!("kill -9 {}", before.process()?))?;
    wait("not restarted", Duration::from_secs(30), || {
        let now = project.again(before)?.restarts;
        if now == before.restarts + 1 {
            Ok(())
        } else {
            Err(format!("{now} restarts of {}, and {} before", before.service, before.restarts))
        }
    })
}

fn audit(project: &Project<'_>) -> Result<String, String> {
    load::held(project.quietly("run --rm --no-deps order audit")?)
}

/// Counts log lines by level. There must be no ERROR, which asks for a person.
fn logs(project: &Project<'_>) -> Result<String, String> {
    let text = project.quietly("logs --no-color")?;
    let with = |level: &str| text.lines().filter(|line| line.contains(level)).collect::<Vec<_>>();
    let (warnings, errors) = (with(" WARN "), with(" ERROR "));
    if let Some(error) = errors.first() {
        return Err(format!("{} errors, the first: {error}", errors.len()));
    }
    Ok(format!(
        "{} lines after six kills, {} warnings, no error",
        text.lines().count(),
        warnings.len()
    ))
}

/// A role with a wrong store endpoint logs where it looks, stays alive, and is not ready.
fn wrong_store(project: &Project<'_>) -> Result<String, String> {
    let name = "till-wrong-store";
    let variable = "PD_ENDPOINTS=nowhere:2379";
    project.quietly(&format!("run --detach --no-deps --name {name} --env {variable} order"))?;
    let said = wait("does not say what is wrong", Duration::from_secs(30), || {
        let said = project.engine.logs(name)?;
        let is_told =
            said.lines().any(|line| line.contains(" WARN ") && line.contains("nowhere:2379"));
        if is_told { Ok(()) } else { Err(said) }
    });
    let health = format!("exec {name} /usr/local/bin/till health --endpoint 127.0.0.1:7100");
    let ready = project.engine.quietly(&health);
    let is_alive = project.engine.quietly(&format!("{health} --service till.live"));
    project.engine.quietly(&format!("rm --force {name}"))?;
    said?;
    match (is_alive, ready) {
        (Ok(_), Err(_)) => Ok("warns with the address, alive, not ready".to_owned()),
        (alive, ready) => Err(format!("alive: {alive:?}, ready: {ready:?}")),
    }
}

/// Makes certificates with the commands of docs/security.md, readable by the image's user.
pub(crate) fn make(workspace: &Workspace, folder: &Path) -> Result<String, String> {
    let page = workspace.read(Path::new("docs/security.md"))?.unwrap_or_default();
    let script = page
        .split("```\n")
        .find(|block| block.starts_with("openssl req -x509"))
        .ok_or("docs/security.md has no commands for certificates")?;
    files::empty_folder(folder)?;
    let mut bash = Command::new("bash");
    command::heard(bash.args(["-ec", script]).current_dir(folder))?;
    let mut keys = 0;
    for entry in fs::read_dir(folder).map_err(|error| error.to_string())?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "key") {
            files::give(&path, image::USER)?;
            keys += 1;
        }
    }
    Ok(format!("{keys} keys"))
}

fn nothing_left(engine: &Engine<'_>) -> Result<String, String> {
    for list in ["ps --all --quiet", "volume ls --quiet", "network ls --quiet --filter type=custom"]
    {
        let left = engine.quietly(list)?;
        if !left.is_empty() {
            return Err(format!("docker {list} says {left}"));
        }
    }
    Ok("no container, volume or network in the engine".to_owned())
}
