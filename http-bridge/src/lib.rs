//! The REST face of the shop.
