//! Compiles the contracts with protox (no protoc needed) into `OUT_DIR`, and keeps the descriptor
//! set for gRPC reflection.

use std::{env, error::Error, fs, path::PathBuf};

/// Packages are folders here. That of stored messages is compiled where they are used.
const ROOT: &str = "till";
const STORED: &str = "storage";

fn main() -> Result<(), Box<dyn Error>> {
    let mut files = Vec::new();
    for package in fs::read_dir(ROOT)? {
        let name = package?.file_name().into_string().map_err(|_| "a package's name is UTF-8")?;
        if name != STORED {
            files.push(format!("{ROOT}/{name}/v1/{name}.proto"));
        }
    }
    files.sort();
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(files)?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .include_file("packages.rs")
        .compile_fds(compiler.file_descriptor_set())?;
    println!("cargo:rerun-if-changed={ROOT}");
    println!("cargo:rerun-if-changed=build.rs");
    Ok(())
}
