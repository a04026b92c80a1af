//! Logs, and the one registry of metric, span and field names.
