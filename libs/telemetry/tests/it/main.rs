//! Tests in a process of their own, as a process has one set of instruments.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod deployed;
mod documented;
mod exported;
