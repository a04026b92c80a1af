//! Server and client kit: health, reflection, deadlines, status mapping, drain, routing.
