//! The contracts as they are published: named by buf's STANDARD rules, commented throughout, and
//! never changed in a way that breaks their users.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod convert;
mod golden;
mod lint;
mod tree;
