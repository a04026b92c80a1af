//! Compiles the stored messages with protox (no protoc needed) into `OUT_DIR`.

use std::error::Error;

const ROOT: &str = "../../proto";
const FILE: &str = "till/storage/v1/storage.proto";

fn main() -> Result<(), Box<dyn Error>> {
    let files = protox::compile([FILE], [ROOT])?;
    tonic_prost_build::configure().bytes(".").btree_map(".").compile_fds(files)?;
    println!("cargo:rerun-if-changed={ROOT}/{FILE}");
    println!("cargo:rerun-if-changed=build.rs");
    Ok(())
}
