//! The auditor: reads a whole shop at one timestamp and says whether its books agree.
//!
//! Must not know: how the services came to write what they wrote (it shares no code with them beyond the
//! forms of records), nor which store it is.
//!
//! Modules: [`run`] the audit; [`journal`] what the journals say of transactions; [`overlay`] what they show of records
//! that follow behind; [`order`] one order judged; [`balance`] items and users against orders and holds; [`offence`] what
//! was found; [`sort`] an external sort, so that memory is bounded; [`scan`] pages at one timestamp, kept from the
//! janitor; [`lookup`] single records, for people.
//!
//! Invariants: everything is read at one timestamp, which is announced to the janitor; memory is bounded
//! by the settings and by what the live journals hold; nothing is written but that announcement; a record
//! that cannot be read is an offence, never an end.

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
