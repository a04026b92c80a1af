//! Runs two-phase commit across the participants.
