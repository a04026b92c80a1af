//! Every short sequence of calls on one row, in every way of cutting it into batches. Goal: calls
//! that share a batch, in any order, are answered as one call at a time would be, and leave the
//! same state. Method: the services' own cores (`participant::core`), without lanes and store,
//! against a sequential model. Each batch is appended; or undone and run again; or followed by a
//! restart from the journal alone, or by one from records that show all of it.
//!
//! [`rig`] has a shard's core and its store, [`pots`] items and users, [`orders`] orders.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test that panics has failed, and names the calls that it makes"
)]

mod orders;
mod pots;
mod rig;

/// Breaks of rules that some sequence of a few calls must reveal.
#[cfg(feature = "mutations")]
#[test]
fn every_break_of_a_rule_is_noticed() {
    use types::{Mutation, mutation::activate};
    for mutation in [
        Mutation::StampsShared,
        Mutation::OldHoldReturns,
        Mutation::HoldsNotCounted,
        Mutation::LateSecondHold,
        Mutation::RequestIdApart,
        Mutation::ReturnNotJournaled,
        Mutation::CommitNotJournaled,
        Mutation::YoungerWaits,
        Mutation::RefusalForgotten,
    ] {
        activate(Some(mutation));
        let noticed = std::panic::catch_unwind(|| {
            rig::exhaust(&stock::records::Stock);
            rig::exhaust(&payment::records::Payment);
            rig::exhaust(&order::records::Orders);
        });
        activate(None);
        assert!(noticed.is_err(), "nobody noticed {mutation:?}");
    }
}
