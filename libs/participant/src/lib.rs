//! Lanes and the generic participant service.
