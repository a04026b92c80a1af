//! Compiles the stored messages, and PD's calls that the client lacks, with protox (no protoc
//! needed) into `OUT_DIR`.

use std::error::Error;

const STORED_ROOT: &str = "../../proto";
const STORED: &str = "till/storage/v1/storage.proto";
const PD_ROOT: &str = "proto";
const PD: &str = "pdpb.proto";

fn main() -> Result<(), Box<dyn Error>> {
    let files = protox::compile([STORED], [STORED_ROOT])?;
    tonic_prost_build::configure().bytes(".").btree_map(".").compile_fds(files)?;
    let files = protox::compile([PD], [PD_ROOT])?;
    let pd = tonic_prost_build::configure().bytes(".").generate_default_stubs(true);
    pd.compile_fds(files)?;
    println!("cargo:rerun-if-changed={STORED_ROOT}/{STORED}");
    println!("cargo:rerun-if-changed={PD_ROOT}/{PD}");
    println!("cargo:rerun-if-changed=build.rs");
    Ok(())
}
