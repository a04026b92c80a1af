//! The server and client kit of every role: one way to listen, to serve and drain, to find a shard's
//! replica, to say an error and to read it back.
//!
//! Must not know: orders, items, users, transactions, the store. Of the wire it knows two calls,
//! `till.participant.v1.ParticipantService/Describe` and `till.bundle.v1.BundleService/Call`, by their
//! names and field numbers, and of all others their names, to say who may call them.
//!
//! Modules: [`net`] connections behind a seam; [`tls`] encrypts them; `bundle` many calls in one request;
//! [`access`] who calls whom; [`endpoints`] where they are; [`routing`] shard to replica; [`status`] errors to `tonic::Status` and back;
//! [`deadline`] the caller's time; [`retry`] pauses between attempts; [`listen`] sockets; `guard` what
//! surrounds each request; [`server`] serving, health, reflection, drain; [`admin`] what operators ask; [`reload`]
//! files that change; [`env`] the real clock and the real entropy.
//!
//! Invariants: [`status`] is the only place that builds a `tonic::Status`; a server says NOT_SERVING
//! before it stops accepting; where callers show certificates, nobody calls what [`access`] does not
//! let them; what is in flight is finished within the drain timeout; a mark-down only
//! chooses a slower route, never an outcome.

pub mod access;
pub mod admin;
mod bundle;
pub mod call;
pub mod deadline;
pub mod endpoints;
pub mod env;
mod guard;
pub mod listen;
pub mod net;
pub mod reload;
pub mod retry;
pub mod routing;
pub mod server;
mod spans;
pub mod status;
pub mod store_time;
pub mod tls;

/// Greatest size of a message, in bytes, either way, and of one that comes compressed once it is not. tonic bounds
/// 4 MiB unless told; a batch of operations may be larger. [`served!`] sets it on servers; clients that may get large
/// answers set it with `max_decoding_message_size`.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How callers may compress what they send.
pub const COMPRESSION: tonic::codec::CompressionEncoding = tonic::codec::CompressionEncoding::Gzip;

/// A generated server, set up as all of ours are: it takes messages of up to [`MESSAGE_BYTES_MAX`], plain or
/// compressed with gzip. A macro, as generated servers have these settings and no trait.
#[macro_export]
macro_rules! served {
    ($server:expr) => {
        $server
            .max_decoding_message_size($crate::MESSAGE_BYTES_MAX)
            .accept_compressed($crate::COMPRESSION)
    };
}
