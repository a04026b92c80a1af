//! The wire contracts of every service, generated at build time from `proto/till/**`, and their
//! conversion to the types that the rest of the workspace uses.
//!
//! Must not know: what a request means. Conversion here is *syntactic* validation, done once, at
//! the edge. A field that cannot be converted yields an [`InvalidField`] that names it.
//!
//! Modules: one for each package (`order::v1`, ...), with its message types, clients and servers;
//! [`convert`] for ids, amounts and transactions; [`encoded`] for operations that are sent many
//! times. [`DESCRIPTORS`] feeds gRPC reflection.
//!
//! Invariants: wire and stored messages are separate packages (`till.storage.v1` is generated in
//! `storage`); names follow buf's STANDARD rules, and published numbers never change (tests/it).

/// Encoded `google.protobuf.FileDescriptorSet` of all packages, comments included.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

pub mod convert;
pub mod encoded;

pub use convert::InvalidField;

#[allow(
    missing_docs,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
mod packages {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

pub use packages::till::*;
