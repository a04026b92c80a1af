//! Who may call whom: the identities in certificates, and the table (`may_call`) of the calls that
//! each identity may make.
//!
//! An identity is the certificate's only URI name in our trust domain, in the form of a SPIFFE id:
//! `spiffe://till/coordinator`, `spiffe://till/participant/loyalty`. The table is consulted only
//! where callers must show certificates. Calls that it does not name are refused.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use types::{Classify, ErrorKind, Reason, Role};

#[cfg(test)]
mod tests;

/// The default trust domain.
pub const TRUST_DOMAIN: &str = "till";
/// Longest name after a role, in bytes.
const NAME_LEN_MAX: usize = 64;

/// The kind of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Party {
    /// A role of the shop.
    Role(Role),
    /// A further service that takes part in transactions. It has a name.
    Participant,
    /// An application that calls the services or runs transactions of its own. It may have a name.
    Client,
    /// A person who operates the shop, or their tool. It may have a name.
    Operator,
}

impl Party {
    /// The party as part of an identity.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Role(role) => role.name(),
            Self::Participant => "participant",
            Self::Client => "client",
            Self::Operator => "operator",
        }
    }

    fn named(name: &str) -> Option<Self> {
        let others = [Self::Participant, Self::Client, Self::Operator];
        let other = others.into_iter().find(|known| known.as_str() == name);
        other.or_else(|| Role::named(name).map(Self::Role))
    }

    /// True for parties that serve gRPC.
    const fn serves(self) -> bool {
        match self {
            Self::Role(Role::HttpBridge) | Self::Client | Self::Operator => false,
            Self::Role(_) | Self::Participant => true,
        }
    }
}

/// The identity of a process or a person. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    party: Party,
    name: Option<Arc<str>>,
}

/// The text is not an identity. A retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not ROLE or ROLE/NAME")]
pub struct IdentityError(String);

impl Identity {
    /// An identity of one of the shop's own roles.
    pub const fn of(role: Role) -> Self {
        Self { party: Party::Role(role), name: None }
    }

    /// The identity of a further service.
    ///
    /// # Errors
    /// [`IdentityError`] if the name is not valid.
    pub fn participant(name: &str) -> Result<Self, IdentityError> {
        format!("participant/{name}").parse()
    }

    /// The kind of the identity.
    pub const fn party(&self) -> Party {
        self.party
    }

    /// True if it may be the callee of a caller that expects no particular callee.
    pub(crate) const fn serves(&self) -> bool {
        self.party.serves()
    }

    /// Parses a URI name of a certificate. `None` if it is not in this trust domain.
    pub(crate) fn from_uri(uri: &str, trust_domain: &str) -> Option<Result<Self, IdentityError>> {
        let path = uri.strip_prefix("spiffe://")?.strip_prefix(trust_domain)?.strip_prefix('/')?;
        Some(path.parse())
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let refused = || IdentityError(text.to_owned());
        let (role, name) = match text.split_once('/') {
            Some((role, name)) => (role, Some(name)),
            None => (text, None),
        };
        let party = Party::named(role).ok_or_else(refused)?;
        let may_have = !matches!(party, Party::Role(_));
        let must_have = party == Party::Participant;
        match name {
            Some(name) if may_have && is_name(name) => Ok(Self { party, name: Some(name.into()) }),
            None if !must_have => Ok(Self { party, name: None }),
            Some(_) | None => Err(refused()),
        }
    }
}

fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=NAME_LEN_MAX).contains(&text.len()) && text.bytes().all(plain)
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.party.as_str())?;
        match &self.name {
            Some(name) => write!(f, "/{name}"),
            None => Ok(()),
        }
    }
}

/// The peer of a connection, in the extensions of every request. `None` if the connection is plain
/// or the peer showed no certificate.
#[derive(Debug, Clone, Default)]
pub struct Peer(pub Option<Identity>);

/// The table does not allow this caller to make this call. A retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{caller} may not call this")]
pub struct Refused {
    caller: String,
}

impl Refused {
    /// The caller, for the log.
    pub fn caller(&self) -> &str {
        &self.caller
    }
}

impl Classify for Refused {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Forbidden
    }

    fn reason(&self) -> Cow<'static, str> {
        Reason::Forbidden.as_str().into()
    }
}

/// Services that anybody may call: health and reflection.
const FREE: [&str; 3] =
    ["/grpc.health.v1.Health/", "/grpc.reflection.v1.", "/grpc.reflection.v1alpha."];

const ORDER: Party = Party::Role(Role::Order);
const COORDINATOR: Party = Party::Role(Role::Coordinator);
const BRIDGE: Party = Party::Role(Role::HttpBridge);

/// True if a party may make a call, given its path (`/till.stock.v1.StockService/GetItem`). Not for
/// [`FREE`] services. Nobody may make a call that no row names.
fn may_call(party: Party, path: &str) -> bool {
    let call = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    let Some((service, method)) = call else { return false };
    let role = match party {
        Party::Role(role) => Some(role),
        Party::Participant | Party::Client | Party::Operator => None,
    };
    match (service, method) {
        // The coordinator reads an order before it is bought, and order asks for a price.
        ("till.order.v1.OrderService", "GetOrder") if party == COORDINATOR => true,
        ("till.stock.v1.StockService", "GetItem") if party == ORDER => true,
        ("till.coordinator.v1.CoordinatorService", "Resolve") => {
            role.is_some_and(Role::is_service) || party == Party::Participant
        }
        ("till.coordinator.v1.TransactionService", "RunTransaction") => party == Party::Client,
        // The bridge calls these for its console, whose callers need the operator's key.
        ("till.coordinator.v1.TransactionService", _) => [BRIDGE, Party::Operator].contains(&party),
        // Callers of a service need this to find the replica of a shard.
        ("till.participant.v1.ParticipantService", "Describe") => match role {
            Some(role) => role.calls().iter().any(|callee| callee.is_service()),
            None => party != Party::Participant,
        },
        // Prepare, Commit, Abort, Query, Forget, and Apply, which carries them.
        ("till.participant.v1.ParticipantService", _) => party == COORDINATOR,
        // Each call in a bundle is checked on its own.
        ("till.bundle.v1.BundleService", _) => party == BRIDGE,
        // `till.NAME.v1.NameService`, a role's own.
        _ => is_own_service(service) && [BRIDGE, Party::Client].contains(&party),
    }
}

fn is_own_service(service: &str) -> bool {
    let parts = service.strip_prefix("till.").and_then(|rest| rest.split_once(".v1."));
    let Some((package, service)) = parts else { return false };
    Role::named(package).is_some_and(|role| Party::Role(role).serves())
        && service.strip_suffix("Service").is_some_and(|name| name.eq_ignore_ascii_case(package))
}

/// Checks that a caller may use the one-node store, if that checks its callers: the roles that keep
/// data there, and operators, who audit it.
///
/// # Errors
/// [`Refused`].
pub fn check_store(caller: &Identity) -> Result<(), Refused> {
    let may = match caller.party {
        Party::Role(role) => role.keeps_state(),
        Party::Operator => true,
        Party::Participant | Party::Client => false,
    };
    if may { Ok(()) } else { Err(Refused { caller: caller.to_string() }) }
}

/// True for calls that anybody may make: health and reflection.
pub(crate) fn is_free(path: &str) -> bool {
    FREE.iter().any(|free| path.starts_with(free))
}

/// True for the streams of reflection.
pub(crate) fn is_reflection(path: &str) -> bool {
    path.starts_with("/grpc.reflection.")
}

/// True for streams of health and reflection, which stay open for as long as their caller wants.
pub(crate) fn stays_open(path: &str) -> bool {
    is_reflection(path) || path == "/grpc.health.v1.Health/Watch"
}

/// Checks that a caller may make a call.
///
/// # Errors
/// [`Refused`].
pub fn check(peer: Option<&Peer>, path: &str) -> Result<(), Refused> {
    if is_free(path) {
        return Ok(());
    }
    let caller = peer.and_then(|peer| peer.0.as_ref());
    match caller {
        Some(caller) if may_call(caller.party, path) => Ok(()),
        Some(caller) => Err(Refused { caller: caller.to_string() }),
        None => Err(Refused { caller: "a caller without an identity".to_owned() }),
    }
}
