//! Every role of the shop in one executable.
fn main() {}
