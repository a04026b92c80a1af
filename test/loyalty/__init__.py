"""A loyalty service: not ours, not Rust, not on the shop's store, and yet part of every checkout."""
