"""A loyalty service that takes part in every checkout, although it is not in Rust and not on the shop's store."""
