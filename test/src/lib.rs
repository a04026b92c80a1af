//! Tests of the whole shop.
//!
//! Over real processes: `tests/it` (gRPC, by reflection alone), and in Python `consistency`, `contract` and
//! `system` (`python3 -m pytest` in this directory). They know the executable, an address and the published
//! contracts, and link no role.
//!
//! In one process: `tests/sim` links the roles' own modules, over a simulated network, store and clock.
