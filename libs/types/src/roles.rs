//! The table of the roles of a shop. Ports, identities, callers, endpoints, certificates, keys and
//! the processes of `till up` are derived from it; docs/adding.md says what else a new role needs.
//!
//! `tools/xtask/src/roles.rs` repeats it, for checks from outside.
//!
//! Invariant: no two roles share a name, a port or a letter.

use crate::Service;

/// A process of the shop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// REST.
    HttpBridge,
    /// Orders.
    Order,
    /// Items and their stock.
    Stock,
    /// Users and their credit.
    Payment,
    /// Checkouts.
    Coordinator,
}

/// The constants of a role.
struct Row {
    name: &'static str,
    port: u16,
    admin_port: u16,
    letter: u8,
    keeps_state: bool,
    calls: &'static [Role],
}

impl Role {
    /// All roles, in the order in which `till up` starts and shows them.
    pub const ALL: [Self; 5] =
        [Self::HttpBridge, Self::Order, Self::Stock, Self::Payment, Self::Coordinator];

    /// The services: roles that take part in transactions and keep their records in shards.
    pub const SERVICES: [Self; 3] = [Self::Order, Self::Stock, Self::Payment];

    const fn row(self) -> Row {
        match self {
            Self::HttpBridge => Row {
                name: "http-bridge",
                port: 8000,
                admin_port: 7450,
                letter: b'h',
                keeps_state: false,
                calls: &[Self::Order, Self::Stock, Self::Payment, Self::Coordinator],
            },
            Self::Order => Row {
                name: "order",
                port: 7100,
                admin_port: 7150,
                letter: b'o',
                keeps_state: true,
                calls: &[Self::Stock, Self::Coordinator],
            },
            Self::Stock => Row {
                name: "stock",
                port: 7200,
                admin_port: 7250,
                letter: b's',
                keeps_state: true,
                calls: &[Self::Coordinator],
            },
            Self::Payment => Row {
                name: "payment",
                port: 7300,
                admin_port: 7350,
                letter: b'p',
                keeps_state: true,
                calls: &[Self::Coordinator],
            },
            Self::Coordinator => Row {
                name: "coordinator",
                port: 7000,
                admin_port: 7050,
                letter: b'c',
                keeps_state: true,
                calls: &Self::SERVICES,
            },
        }
    }

    /// The name in commands, identities and branches. A service's gRPC package is `till.NAME.v1`.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// The default port for callers. Replicas on one machine use up to 50 ports from here on.
    pub const fn port(self) -> u16 {
        self.row().port
    }

    /// The default port for operators. Replicas use up to 50 ports from here on.
    pub const fn admin_port(self) -> u16 {
        self.row().admin_port
    }

    /// The first byte of its keys in the store; published, so it never changes.
    pub const fn letter(self) -> u8 {
        self.row().letter
    }

    /// True if it keeps records in the store.
    pub const fn keeps_state(self) -> bool {
        self.row().keeps_state
    }

    /// The roles that it calls.
    pub const fn calls(self) -> &'static [Self] {
        self.row().calls
    }

    /// The role of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// True for the [`Self::SERVICES`].
    pub fn is_service(self) -> bool {
        Self::SERVICES.contains(&self)
    }
}

impl From<Role> for Service {
    /// The role as a branch names it.
    fn from(role: Role) -> Self {
        Self::new(role.name()).expect("the name of a role has the form of a service's")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_roles_share_a_name_a_port_or_a_letter() {
        let names: BTreeSet<_> = Role::ALL.map(Role::name).into();
        assert_eq!(names.len(), Role::ALL.len());
        let ports = Role::ALL.map(|role| [role.port(), role.admin_port()]).concat();
        for (index, port) in ports.iter().enumerate() {
            assert!(ports[..index].iter().all(|other| port.abs_diff(*other) >= 50), "{port}");
        }
        let letters: BTreeSet<_> = Role::ALL.map(Role::letter).into();
        assert_eq!(letters.len(), Role::ALL.len());
    }

    #[test]
    fn a_service_has_a_name_for_branches_and_keeps_state_and_is_coordinated() {
        for service in Role::SERVICES {
            assert_eq!(Service::from(service).as_str(), service.name());
            assert!(service.keeps_state());
            assert!(Role::Coordinator.calls().contains(&service));
            assert!(service.calls().contains(&Role::Coordinator));
        }
    }

    #[test]
    fn stored_names_never_change() {
        assert_eq!(Role::SERVICES.map(Role::name), ["order", "stock", "payment"]);
    }

    #[test]
    fn a_role_is_found_by_its_name() {
        assert!(Role::ALL.into_iter().all(|role| Role::named(role.name()) == Some(role)));
        assert_eq!(Role::named("dev-kv"), None);
    }
}
