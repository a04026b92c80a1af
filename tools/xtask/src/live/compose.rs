//! A compose project on our engine.

use std::time::Duration;

use serde_json::Value;

use super::{engine::Engine, machine::Machine};
use crate::command::{self, wait};

/// Compose files with their size and variables, and the containers that run of them.
#[derive(Debug)]
pub(crate) struct Project<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) engine: &'a Engine<'a>,
    /// The project's name, as in the files.
    name: &'static str,
    files: Vec<&'static str>,
    size: &'static str,
    environment: Vec<(&'static str, String)>,
}

/// One container of a project.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) service: String,
    pid: Option<u64>,
    pub(crate) restarts: u64,
    pub(crate) is_healthy: bool,
    pub(crate) was_out_of_memory: bool,
    /// Its addresses by network.
    networks: Value,
}

impl Container {
    /// Id of its first process, outside of the container. Fails if there is none: a signal to
    /// process 0, which Docker names then, would end this program.
    pub(crate) fn process(&self) -> Result<u64, String> {
        self.pid.ok_or_else(|| format!("{} has no process", self.service))
    }

    /// The container's address in a network of the project, such as `calls`.
    pub(crate) fn address(&self, network: &str) -> Result<String, String> {
        let found = self.networks.as_object().into_iter().flatten();
        let mut found = found.filter(|(name, _)| name.ends_with(&format!("_{network}")));
        let address = found.next().and_then(|(_, found)| found["IPAddress"].as_str());
        address.map(str::to_owned).ok_or_else(|| format!("{} is not in {network}", self.service))
    }
}

impl<'a> Project<'a> {
    pub(crate) fn new(
        machine: &'a Machine,
        engine: &'a Engine<'a>,
        name: &'static str,
        files: &[&'static str],
        size: &'static str,
    ) -> Self {
        Self { machine, engine, name, files: files.to_vec(), size, environment: Vec::new() }
    }

    /// Adds an environment variable for compose.
    pub(crate) fn with(mut self, name: &'static str, value: String) -> Self {
        self.environment.push((name, value));
        self
    }

    /// Runs `docker compose` with the arguments of this line, and returns its standard output.
    pub(crate) fn quietly(&self, line: &str) -> Result<String, String> {
        let mut compose = self.engine.docker("compose --env-file");
        compose.arg(self.size).args(self.files.iter().flat_map(|file| ["--file", file]));
        compose.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command::captured(compose.args(line.split_whitespace()))
    }

    /// Starts everything, and waits until it is healthy.
    pub(crate) fn up(&self) -> Result<String, String> {
        self.quietly("up --detach --wait --wait-timeout 120 --no-build")?;
        Ok(format!("{} containers healthy", self.containers()?.len()))
    }

    pub(crate) fn containers(&self) -> Result<Vec<Container>, String> {
        let ids = self.engine.quietly(&format!("ps --all --quiet {}", self.filter()))?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let told: Value = serde_json::from_str(&self.engine.quietly(&format!("inspect {ids}"))?)
            .map_err(|error| error.to_string())?;
        Ok(told.as_array().into_iter().flatten().map(container).collect())
    }

    /// The first container of a service.
    pub(crate) fn container(&self, service: &str) -> Result<Container, String> {
        let mut found = self.containers()?.into_iter().filter(|found| found.service == service);
        found.next().ok_or_else(|| format!("no {service} runs"))
    }

    /// The same container as it is now. A service may have several, in any order.
    pub(crate) fn again(&self, before: &Container) -> Result<Container, String> {
        let mut found = self.containers()?.into_iter().filter(|found| found.id == before.id);
        found.next().ok_or_else(|| format!("{} is gone", before.service))
    }

    /// Waits until all containers are healthy again.
    pub(crate) fn recovered(&self) -> Result<(), String> {
        wait("not healthy again", Duration::from_mins(1), || {
            let ill = self.containers()?.into_iter().find(|container| !container.is_healthy);
            ill.map_or(Ok(()), |container| Err(container.service))
        })
    }

    /// Removes the project with its volumes, and checks that nothing is left.
    pub(crate) fn down(&self) -> Result<String, String> {
        self.quietly("down --volumes --timeout 40")?;
        for list in ["container ls --all", "network ls", "volume ls"] {
            let left = self.engine.quietly(&format!("{list} --quiet {}", self.filter()))?;
            if !left.is_empty() {
                return Err(format!("docker {list} says {left}"));
            }
        }
        Ok("no container, network or volume is left".to_owned())
    }

    /// Selects what is of this project.
    fn filter(&self) -> String {
        format!("--filter label=com.docker.compose.project={}", self.name)
    }
}

fn container(told: &Value) -> Container {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let state = &told["State"];
    let health = &state["Health"]["Status"];
    Container {
        id: text(&told["Id"]),
        service: text(&told["Config"]["Labels"]["com.docker.compose.service"]),
        pid: state["Pid"].as_u64().filter(|pid| *pid > 0),
        restarts: told["RestartCount"].as_u64().unwrap_or(0),
        // A container without a health check counts as healthy while it runs.
        is_healthy: health.as_str().map_or(state["Running"] == true, |health| health == "healthy"),
        was_out_of_memory: state["OOMKilled"] == true,
        networks: told["NetworkSettings"]["Networks"].clone(),
    }
}
