//! grpcurl: uses reflection, and calls every role with JSON, like a person at a shell. README's tour
//! buys by it; test/tests/it/grpc.rs makes every call by reflection, and looks at every refusal.

use std::{path::Path, process::Command};

use serde_json::{Value, json};

use super::go::Module;
use crate::{
    command,
    report::{Part, Tally},
    roles::{self, Role},
    shop::Shop,
    workspace::Workspace,
};

pub(crate) const GRPCURL: Module =
    Module::new("github.com/fullstorydev/grpcurl", "v1.9.3", &["./cmd/grpcurl"]);

/// Installs grpcurl if it is missing, then makes the calls.
pub(super) fn check(workspace: &Workspace, shop: &Shop) -> Part {
    let program = GRPCURL.program(workspace)?;
    let grpc = Grpcurl { program: &program, shop };
    let mut tally = Tally::default();
    for Role { name, services, .. } in roles::grpc() {
        tally.check(name, grpc.lists(name, services));
    }
    Ok(tally)
}

struct Grpcurl<'a> {
    program: &'a Path,
    shop: &'a Shop,
}

impl Grpcurl<'_> {
    fn run(&self, role: &str, before: &[&str], after: &[&str]) -> Result<(bool, String), String> {
        let mut command = Command::new(self.program);
        command.args(["-plaintext", "-max-time", "20"]).args(before);
        command.arg(self.shop.address(role)?).args(after);
        command::quietly(&mut command)
    }

    /// Calls a method, and returns the answer.
    fn call(&self, role: &str, method: &str, request: &Value) -> Result<Value, String> {
        let data = request.to_string();
        let (succeeded, text) = self.run(role, &["-emit-defaults", "-d", &data], &[method])?;
        if !succeeded {
            return Err(text);
        }
        serde_json::from_str(&text).map_err(|error| format!("{method}: {error}: {text}"))
    }

    fn lists(&self, role: &str, services: &[&str]) -> Result<(), String> {
        let (_, listed) = self.run(role, &[], &["list"])?;
        for service in services {
            expect(&listed, service)?;
            let (_, described) = self.run(role, &[], &["describe", service])?;
            expect(&described, &format!("{service} is a service"))?;
        }
        let health = "grpc.health.v1.Health/Check";
        let answer = self.call(role, health, &json!({"service": services[0]}))?;
        equal("status", &answer["status"], &json!("SERVING"))?;
        if services.contains(&"till.participant.v1.ParticipantService") {
            let method = "till.participant.v1.ParticipantService/Describe";
            let described = self.call(role, method, &json!({}))?;
            equal("service", &described["service"], &json!(role))?;
        }
        Ok(())
    }
}

fn expect(text: &str, part: &str) -> Result<(), String> {
    if text.contains(part) { Ok(()) } else { Err(format!("no `{part}` in: {text}")) }
}

fn equal(what: &str, found: &Value, wanted: &Value) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what} is {found}, not {wanted}")) }
}
