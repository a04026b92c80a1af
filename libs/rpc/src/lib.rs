//! The server and client kit of every role: one way to listen, to serve and drain, to find a
//! shard's replica, and to send and read an error.
//!
//! This crate does not know orders, items, users, transactions or the store. Of the wire it knows
//! two calls, `till.participant.v1.ParticipantService/Describe` and
//! `till.bundle.v1.BundleService/Call`, by their names and field numbers. Of all other calls it
//! knows the names, to decide who may call them.
//!
//! Modules: [`net`] makes connections, behind a seam; [`tls`] encrypts them; `bundle` puts many
//! calls into one request; [`access`] says who may call whom, and [`endpoints`] where they are;
//! [`routing`] maps a shard to a replica; [`status`] converts errors to `tonic::Status` and back;
//! [`deadline`] carries the caller's time, and [`call`] what identifies a mutating call;
//! [`store_time`] estimates the store's clock; [`retry`] computes pauses between attempts;
//! [`listen`] opens sockets; `guard` checks, limits and traces each request, with the spans of
//! `spans`; [`server`] serves, with health, reflection and drain; [`admin`] answers operators;
//! [`reload`] watches files that change; [`env`] is the real clock and the real entropy.
//!
//! Invariants: only [`status`] builds a `tonic::Status`; a server says NOT_SERVING before it stops
//! accepting; where callers show certificates, each can only call what [`access`] allows; requests
//! in flight are finished within the drain timeout; passing over a replica only chooses a slower
//! route, and never changes an outcome.

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

/// Upper limit on the size of a message in bytes, in both directions. It also bounds a compressed
/// message after it is decompressed. tonic's default is 4 MiB; a batch of operations may be larger.
/// [`served!`] sets it on servers; clients that may get large answers set it with
/// `max_decoding_message_size`.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Upper limit on the size of a bundle, in bytes.
pub(crate) const BUNDLE_BYTES_MAX: usize = 1024 * 1024;

/// The compression that callers may use.
pub const COMPRESSION: tonic::codec::CompressionEncoding = tonic::codec::CompressionEncoding::Gzip;

/// Sets up a generated server like all of ours: it accepts messages of up to [`MESSAGE_BYTES_MAX`],
/// plain or compressed with gzip. This is a macro because generated servers have these settings but
/// no common trait.
#[macro_export]
macro_rules! served {
    ($server:expr) => {
        $crate::served!($server, $crate::MESSAGE_BYTES_MAX)
    };
    ($server:expr, $message_bytes_max:expr) => {
        $server.max_decoding_message_size($message_bytes_max).accept_compressed($crate::COMPRESSION)
    };
}

/// Calls a method of a generated client, for [`routing::Router::call`]. This is a macro because
/// generated clients have no common trait.
#[macro_export]
macro_rules! unary {
    ($client:ident::$method:ident) => {
        |transport, request| async move { $client::new(transport).$method(request).await }
    };
}
