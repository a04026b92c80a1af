//! Compiles the contracts with protox (no protoc needed) into `OUT_DIR`, and keeps the descriptor
//! set for gRPC reflection.

use std::{env, error::Error, fs, path::PathBuf};

const FILES: [&str; 7] = [
    "till/types/v1/types.proto",
    "till/participant/v1/participant.proto",
    "till/order/v1/order.proto",
    "till/stock/v1/stock.proto",
    "till/payment/v1/payment.proto",
    "till/coordinator/v1/coordinator.proto",
    "till/bundle/v1/bundle.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(FILES)?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .compile_fds(compiler.file_descriptor_set())?;
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    Ok(())
}
