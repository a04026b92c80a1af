//! Compiles the wire protos into `OUT_DIR`, without a system `protoc`.

use std::path::Path;

const FILES: [&str; 6] = [
    "metapb.proto",
    "errorpb.proto",
    "pdpb.proto",
    "keyspacepb.proto",
    "kvrpcpb.proto",
    "tikvpb.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("proto");
    println!("cargo:rerun-if-changed=proto");
    let files = FILES.map(|file| root.join(file));
    let descriptors = protox::compile(files, [root])?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
