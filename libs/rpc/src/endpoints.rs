//! The settings that say where other roles are: `--ROLE-endpoints`, and `TILL_ROLE_ENDPOINTS`.

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Command, FromArgMatches, error::ErrorKind, value_parser};
use types::Role;

use crate::{net::Endpoint, routing::Target};

/// The stock service.
#[derive(clap::Args, Clone, Debug)]
pub struct StockEndpoints {
    /// Address of the stock service: host:port[,host:port...] or dns:host:port.
    #[arg(long, env = "TILL_STOCK_ENDPOINTS", value_name = "ENDPOINTS",
          default_value_t = usual(Role::Stock))]
    pub stock_endpoints: Target,
}

/// The coordinator.
#[derive(clap::Args, Clone, Debug)]
pub struct CoordinatorEndpoints {
    /// Address of the coordinator: host:port[,host:port...] or dns:host:port.
    #[arg(long, env = "TILL_COORDINATOR_ENDPOINTS", value_name = "ENDPOINTS",
          default_value_t = usual(Role::Coordinator))]
    pub coordinator_endpoints: Target,
}

/// The services that a checkout needs: all of [`Role::SERVICES`].
#[derive(Clone, Debug)]
pub struct ServiceEndpoints(BTreeMap<Role, Target>);

impl ServiceEndpoints {
    /// Each service, and where it is.
    pub fn iter(&self) -> impl Iterator<Item = (Role, &Target)> {
        self.0.iter().map(|(service, target)| (*service, target))
    }
}

impl FromIterator<(Role, Target)> for ServiceEndpoints {
    fn from_iter<T: IntoIterator<Item = (Role, Target)>>(services: T) -> Self {
        Self(services.into_iter().collect())
    }
}

impl clap::Args for ServiceEndpoints {
    fn augment_args(command: Command) -> Command {
        command.args(Role::SERVICES.map(|service| {
            let name = service.name();
            Arg::new(setting(service))
                .long(format!("{name}-endpoints"))
                .env(format!("TILL_{}_ENDPOINTS", name.to_uppercase()))
                .value_name("ENDPOINTS")
                .value_parser(value_parser!(Target))
                .default_value(usual(service).to_string())
                .help(format!(
                    "Address of the {name} service: host:port[,host:port...] or dns:host:port"
                ))
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServiceEndpoints {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |service| {
            let target = matches.get_one(&setting(service)).cloned();
            let missing = || clap::Error::new(ErrorKind::MissingRequiredArgument);
            Ok((service, target.ok_or_else(missing)?))
        };
        Role::SERVICES.into_iter().map(given).collect()
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn setting(service: Role) -> String {
    format!("{}_endpoints", service.name())
}

/// The default address of a role, on this machine.
fn usual(role: Role) -> Target {
    Target::Static(vec![Endpoint::usual(role)])
}
