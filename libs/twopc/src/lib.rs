//! The commit protocol as sans-IO state machines.
