//! The server against the real client, and against hand-written messages.

mod basics;
mod support;
