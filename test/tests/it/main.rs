//! Tests of real processes over gRPC, REST and the command line, and of a store of release 0.1.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod audit;
mod collector;
mod dynamic;
mod grpc;
mod in_process;
mod release_0_1;
mod replicas;
mod telemetry;
mod tls;
mod tools;
mod up_tls;
