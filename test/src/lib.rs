//! Tests of the whole shop over real processes: the Rust ones in `tests/it`, the Python ones in
//! `consistency`, `contract` and `system` (`python3 -m pytest` in this directory).
//!
//! Invariant: nothing here links the roles; what is tested is the executable, from outside.
