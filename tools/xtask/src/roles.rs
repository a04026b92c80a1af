//! The roles of the shop as a deployment shows them: names, ports, services, and who calls whom.
//!
//! The task runner judges from outside, so it does not take these from the code that it checks.

/// A role that a container runs.
#[derive(Debug)]
pub(crate) struct Role {
    /// The command of the executable, and the name of the container.
    pub(crate) name: &'static str,
    /// The port of its gRPC; the bridge's serves REST.
    pub(crate) port: u16,
    /// Its gRPC services, besides health and reflection.
    pub(crate) services: &'static [&'static str],
    /// The roles that call it, by docs/security.md. The bridge is for everybody but the roles.
    pub(crate) callers: &'static [&'static str],
}

const PARTICIPANT: &str = "till.participant.v1.ParticipantService";

/// Every role, in the order in which a checkout meets them.
pub(crate) const ROLES: [Role; 5] = [
    Role { name: "http-bridge", port: 8000, services: &[], callers: &[] },
    Role {
        name: "coordinator",
        port: 7000,
        services: &[
            "till.coordinator.v1.CoordinatorService",
            "till.coordinator.v1.TransactionService",
        ],
        callers: &["http-bridge", "order", "stock", "payment"],
    },
    Role {
        name: "order",
        port: 7100,
        services: &["till.order.v1.OrderService", PARTICIPANT],
        callers: &["http-bridge", "coordinator"],
    },
    Role {
        name: "stock",
        port: 7200,
        services: &["till.stock.v1.StockService", PARTICIPANT],
        callers: &["http-bridge", "coordinator", "order"],
    },
    Role {
        name: "payment",
        port: 7300,
        services: &["till.payment.v1.PaymentService", PARTICIPANT],
        callers: &["http-bridge", "coordinator"],
    },
];

/// The names of [`ROLES`].
pub(crate) const NAMES: [&str; 5] =
    [ROLES[0].name, ROLES[1].name, ROLES[2].name, ROLES[3].name, ROLES[4].name];

/// The roles that serve gRPC.
pub(crate) fn grpc() -> impl Iterator<Item = &'static Role> {
    ROLES.iter().filter(|role| !role.services.is_empty())
}

/// True for roles that take part in transactions.
pub(crate) fn is_service(name: &str) -> bool {
    ROLES.iter().any(|role| role.name == name && role.services.contains(&PARTICIPANT))
}
