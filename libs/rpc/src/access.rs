//! Who may call whom: the identities that certificates carry, and the table of what each identity
//! may call.
//!
//! An identity is the certificate's only URI name in our trust domain, in the form of a SPIFFE id:
//! `spiffe://till/coordinator`, `spiffe://till/participant/loyalty`. The table is consulted only
//! where callers must show certificates. Calls that it does not name are refused.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use types::{Classify, ErrorKind, Reason};

#[cfg(test)]
mod tests;

/// The default trust domain.
pub const TRUST_DOMAIN: &str = "till";
/// Longest name after a role, in bytes.
const NAME_LEN_MAX: usize = 64;

/// The role of a process, or of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The order service.
    Order,
    /// The stock service.
    Stock,
    /// The payment service.
    Payment,
    /// The coordinator.
    Coordinator,
    /// The REST bridge.
    HttpBridge,
    /// A further service that takes part in transactions. It has a name.
    Participant,
    /// An application that calls the services or runs transactions of its own. It may have a name.
    Client,
    /// A person who operates the shop, or their tool. It may have a name.
    Operator,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 8] = [
        Self::Order,
        Self::Stock,
        Self::Payment,
        Self::Coordinator,
        Self::HttpBridge,
        Self::Participant,
        Self::Client,
        Self::Operator,
    ];

    /// The role as part of an identity.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Stock => "stock",
            Self::Payment => "payment",
            Self::Coordinator => "coordinator",
            Self::HttpBridge => "http-bridge",
            Self::Participant => "participant",
            Self::Client => "client",
            Self::Operator => "operator",
        }
    }

    /// True for roles that serve gRPC.
    const fn serves(self) -> bool {
        match self {
            Self::Order | Self::Stock | Self::Payment | Self::Coordinator | Self::Participant => {
                true
            }
            Self::HttpBridge | Self::Client | Self::Operator => false,
        }
    }
}

/// The identity of a process or a person. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    role: Role,
    name: Option<Arc<str>>,
}

/// The text is not an identity. A retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not ROLE or ROLE/NAME")]
pub struct IdentityError(String);

impl Identity {
    /// An identity of one of the shop's own roles.
    pub const fn of(role: Role) -> Self {
        Self { role, name: None }
    }

    /// The identity of a further service.
    ///
    /// # Errors
    /// [`IdentityError`] if the name is not valid.
    pub fn participant(name: &str) -> Result<Self, IdentityError> {
        format!("participant/{name}").parse()
    }

    /// The role of the identity.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// True if it may be the callee of a caller that expects no particular one.
    pub(crate) const fn serves(&self) -> bool {
        self.role.serves()
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
        let role =
            Role::ALL.into_iter().find(|known| known.as_str() == role).ok_or_else(refused)?;
        let may_have = matches!(role, Role::Participant | Role::Client | Role::Operator);
        let must_have = role == Role::Participant;
        match name {
            Some(name) if may_have && is_name(name) => Ok(Self { role, name: Some(name.into()) }),
            None if !must_have => Ok(Self::of(role)),
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
        f.write_str(self.role.as_str())?;
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

/// Services, one method or all of them ("*"), and who may call them. The first matching row counts.
const TABLE: &[(&str, &str, &[Role])] = {
    use Role::{Client, Coordinator, HttpBridge, Operator, Order, Participant, Payment, Stock};
    const ORDER: &str = "till.order.v1.OrderService";
    const STOCK: &str = "till.stock.v1.StockService";
    const PAYMENT: &str = "till.payment.v1.PaymentService";
    const COORDINATOR: &str = "till.coordinator.v1.CoordinatorService";
    const TRANSACTION: &str = "till.coordinator.v1.TransactionService";
    const PARTICIPANT: &str = "till.participant.v1.ParticipantService";
    const BUNDLE: &str = "till.bundle.v1.BundleService";
    &[
        // The coordinator reads an order before it is bought, and order asks for a price.
        (ORDER, "GetOrder", &[HttpBridge, Client, Coordinator]),
        (ORDER, "*", &[HttpBridge, Client]),
        (STOCK, "GetItem", &[HttpBridge, Client, Order]),
        (STOCK, "*", &[HttpBridge, Client]),
        (PAYMENT, "*", &[HttpBridge, Client]),
        (COORDINATOR, "Resolve", &[Order, Stock, Payment, Participant]),
        (COORDINATOR, "*", &[HttpBridge, Client]),
        (TRANSACTION, "RunTransaction", &[Client]),
        // The bridge calls these for its console, which needs the operator's key.
        (TRANSACTION, "*", &[Operator, HttpBridge]),
        // Says how keys are sharded, which callers need to find a replica.
        (PARTICIPANT, "Describe", &[HttpBridge, Client, Order, Coordinator, Operator]),
        // Prepare, Commit, Abort, Query, Forget, and Apply, which carries them.
        (PARTICIPANT, "*", &[Coordinator]),
        // Each call in a bundle is checked on its own.
        (BUNDLE, "*", &[HttpBridge]),
    ]
};

/// Who may use the store, if it is ours and checks: the roles that keep data there, and operators,
/// who audit it.
const STORE: &[Role] =
    &[Role::Order, Role::Stock, Role::Payment, Role::Coordinator, Role::Operator];

/// Checks that a caller may use the store.
///
/// # Errors
/// [`Refused`].
pub fn check_store(caller: &Identity) -> Result<(), Refused> {
    if STORE.contains(&caller.role()) {
        return Ok(());
    }
    Err(Refused { caller: caller.to_string() })
}

/// True for calls that anybody may make: health and reflection.
pub(crate) fn is_free(path: &str) -> bool {
    FREE.iter().any(|free| path.starts_with(free))
}

/// True for the streams of reflection.
pub(crate) fn is_reflection(path: &str) -> bool {
    path.starts_with("/grpc.reflection.")
}

/// True for streams of health and reflection, which stay open for as long as their caller likes.
pub(crate) fn stays_open(path: &str) -> bool {
    is_reflection(path) || path == "/grpc.health.v1.Health/Watch"
}

/// The roles that may call a method, given its path (`/till.stock.v1.StockService/GetItem`). Empty
/// if the table has no row for it.
pub fn callers(path: &str) -> &'static [Role] {
    let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/'))
    else {
        return &[];
    };
    let fits = |row: &&(&str, &str, &[Role])| row.0 == service && (row.1 == "*" || row.1 == method);
    TABLE.iter().find(fits).map_or(&[], |row| row.2)
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
        Some(caller) if callers(path).contains(&caller.role()) => Ok(()),
        Some(caller) => Err(Refused { caller: caller.to_string() }),
        None => Err(Refused { caller: "a caller without an identity".to_owned() }),
    }
}
