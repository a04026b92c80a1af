//! PD's and TiKV's messages and services, compiled from `proto/`: the part that dev-kv speaks, with
//! TiKV's names and numbers. The clients are for tests.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    let_underscore_drop,
    unused_qualifications,
    clippy::pedantic,
    clippy::wildcard_enum_match_arm,
    clippy::large_futures,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

pub mod metapb {
    tonic::include_proto!("metapb");
}

pub mod errorpb {
    tonic::include_proto!("errorpb");
}

pub mod pdpb {
    tonic::include_proto!("pdpb");
}

pub mod keyspacepb {
    tonic::include_proto!("keyspacepb");
}

pub mod kvrpcpb {
    tonic::include_proto!("kvrpcpb");
}

pub mod tikvpb {
    tonic::include_proto!("tikvpb");
}
