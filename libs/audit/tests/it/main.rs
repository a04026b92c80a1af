//! Whole audits of a small shop in memory: clean, and with one thing wrong at a time.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod large;
mod planted;
mod shop;
