//! The auditor: reads a whole shop at one timestamp and reports whether its books agree.
//!
//! It does not know the services' rules (it shares only the formats of records with them), nor
//! which store it uses.
//!
//! Modules: [`run`] performs the audit; [`journal`] collects what the journals say of transactions;
//! [`overlay`] lays the journals' images over records that lag behind; [`order`] judges one order;
//! [`balance`] checks items and users against orders and holds; [`offence`] holds the findings;
//! [`sort`] is an external sort, so that memory is bounded; [`scan`] reads pages at one timestamp,
//! which it protects from the janitor; [`lookup`] finds single records, for people.
//!
//! Invariants: everything is read at one timestamp, which is announced to the janitor; memory is
//! bounded by the settings and by the size of the live journals; nothing but that announcement is
//! written; an unreadable record is an offence and does not end the audit.

pub mod balance;
pub mod journal;
pub mod lookup;
pub mod offence;
pub mod order;
pub mod overlay;
pub mod run;
pub mod scan;
pub mod sort;

pub use offence::{Invariant, Offence};
pub use run::{AuditError, Counts, Options, Progress, Report, run};
