//! Tests of the whole shop over real processes.
