//! The names and addresses of services beyond our own that take part in transactions.

use std::{collections::BTreeSet, str::FromStr};

use rpc::routing::Target;
use types::{IdError, Role, Service};

use crate::tx_log::LogSettings;

/// Settings for services beyond our own.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ParticipantArgs {
    /// A further service that speaks till.participant.v1, as NAME=host:port[,host:port...] or
    /// NAME=dns:host:port; may be repeated. The variable separates several by semicolons. Every
    /// replica of the coordinator needs the same ones.
    #[arg(long, env = "TILL_PARTICIPANTS", value_name = "NAME=ENDPOINTS", value_delimiter = ';')]
    pub participant: Vec<Participant>,

    /// Name of a --participant that takes part in every checkout; may be repeated.
    #[arg(long, env = "TILL_CHECKOUT_PARTICIPANTS", value_name = "NAME", value_delimiter = ';')]
    pub checkout_participant: Vec<String>,
}

/// A service and the addresses of its replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Participant {
    /// Its name in branches and in its own description.
    pub service: Service,
    /// The addresses of its replicas.
    pub target: Target,
}

/// Why a participant cannot be used. A retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParticipantError {
    /// The text does not have the required form.
    #[error("must be NAME=host:port[,host:port...] or NAME=dns:host:port")]
    Form,
    /// The name is not a valid service name.
    #[error("the name {0}")]
    Name(#[source] IdError),
    /// The address is not valid.
    #[error("the address of {0} cannot be used")]
    Address(String, #[source] rpc::net::EndpointError),
    /// The name belongs to one of our own services.
    #[error("{0} is one of our own services and has settings of its own")]
    Ours(String),
    /// The name occurs twice.
    #[error("{0} is named twice; list its replicas behind one name")]
    Twice(String),
    /// A checkout participant that has no address.
    #[error("{0} takes part in checkouts, but no --participant says where it is")]
    Nowhere(String),
}

impl FromStr for Participant {
    type Err = ParticipantError;

    fn from_str(text: &str) -> Result<Self, ParticipantError> {
        let (name, target) = text.trim().split_once('=').ok_or(ParticipantError::Form)?;
        let service = Service::new(name).map_err(ParticipantError::Name)?;
        if Role::named(name).is_some_and(Role::is_service) {
            return Err(ParticipantError::Ours(name.to_owned()));
        }
        let target =
            target.parse().map_err(|error| ParticipantError::Address(name.to_owned(), error))?;
        Ok(Self { service, target })
    }
}

impl std::fmt::Display for Participant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.service, self.target)
    }
}

/// Optional settings of a coordinator: further participants and the log.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    /// Services beyond our own.
    pub participants: Vec<Participant>,
    /// The names of those that take part in every checkout.
    pub checkout_participants: Vec<Service>,
    /// What the transaction log keeps.
    pub log: LogSettings,
}

impl ParticipantArgs {
    /// Checks that the settings do not contradict each other.
    ///
    /// # Errors
    /// [`ParticipantError`]; a retry does not help.
    pub fn extras(&self) -> Result<Extras, ParticipantError> {
        let mut known = BTreeSet::new();
        for participant in &self.participant {
            if !known.insert(&participant.service) {
                return Err(ParticipantError::Twice(participant.service.to_string()));
            }
        }
        let mut checkout_participants = Vec::new();
        for name in &self.checkout_participant {
            let service = Service::new(name).map_err(ParticipantError::Name)?;
            if !known.contains(&service) {
                return Err(ParticipantError::Nowhere(name.clone()));
            }
            if checkout_participants.contains(&service) {
                return Err(ParticipantError::Twice(name.clone()));
            }
            checkout_participants.push(service);
        }
        let participants = self.participant.clone();
        Ok(Extras { participants, checkout_participants, log: LogSettings::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(participant: &[&str], checkout: &[&str]) -> Result<ParticipantArgs, ParticipantError> {
        Ok(ParticipantArgs {
            participant: participant.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            checkout_participant: checkout.iter().map(|name| (*name).to_owned()).collect(),
        })
    }

    #[test]
    fn a_participant_is_a_name_and_where_it_is() {
        let one: Participant = "loyalty=a:1,b:2".parse().unwrap();
        assert_eq!(one.to_string(), "loyalty=a:1,b:2");
        for wrong in ["loyalty", "=a:1", "Loyalty=a:1", "loyalty=", "stock=a:1"] {
            assert!(wrong.parse::<Participant>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let extras = |participant: &[&str], checkout: &[&str]| {
            args(participant, checkout).and_then(|args| args.extras())
        };
        assert_eq!(extras(&["a=a:1"], &["a"]).unwrap().checkout_participants.len(), 1);
        let nowhere = ParticipantError::Nowhere("b".to_owned());
        assert_eq!(extras(&["a=a:1"], &["b"]).unwrap_err(), nowhere);
        let twice = ParticipantError::Twice("a".to_owned());
        assert_eq!(extras(&["a=a:1", "a=b:1"], &[]).unwrap_err(), twice);
        assert_eq!(extras(&["a=a:1"], &["a", "a"]).unwrap_err(), twice);
    }
}
