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

macro_rules! package {
    ($doc:literal, $area:ident, $package:literal) => {
        #[doc = $doc]
        #[allow(
            missing_docs,
            clippy::pedantic,
            clippy::allow_attributes_without_reason,
            clippy::large_enum_variant,
            unused_qualifications,
            reason = "generated code"
        )]
        pub mod $area {
            /// Version 1.
            pub mod v1 {
                tonic::include_proto!($package);
            }
        }
    };
}

package!("Words that several services share.", types, "till.types.v1");
package!(
    "What a service must speak to take part in transactions.",
    participant,
    "till.participant.v1"
);
package!("Orders.", order, "till.order.v1");
package!("Items.", stock, "till.stock.v1");
package!("Users and their credit.", payment, "till.payment.v1");
package!("Transactions across services.", coordinator, "till.coordinator.v1");
package!("Many calls in one request.", bundle, "till.bundle.v1");
