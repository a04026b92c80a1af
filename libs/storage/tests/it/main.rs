//! The conformance suite on every backend, and the wrapper's rules against a server with faults.

mod mem;
