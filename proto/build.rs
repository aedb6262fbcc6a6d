//! Compiles the `.proto` files with protox, so that no `protoc` is needed.

use std::path::PathBuf;

const FILES: &[&str] = &[
    "tikvpb.proto",
    "pdpb.proto",
    "keyspacepb.proto",
    "flotilla/admin.proto",
    "flotilla/peers.proto",
    "flotilla/raft.proto",
    "flotilla/store.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let files = protox::compile(FILES, [&root])?;
    let grpc = std::env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure()
        .build_server(grpc)
        .build_client(grpc)
        .bytes(".")
        // Rare and large: unboxed, an answer of a hundred rows would move a hundred kilobytes about.
        .boxed("region_error")
        .boxed(".kvrpcpb.KvPair.error")
        .boxed(".flotilla.raft.v1.Message.snapshot")
        .boxed(".flotilla.store.v1.RegionRecord.merging")
        .boxed(".flotilla.store.v1.RegionRecord.lineage")
        .boxed(".flotilla.store.v1.SnapshotManifest.merging")
        .boxed(".flotilla.store.v1.SnapshotManifest.lineage")
        .boxed(".flotilla.store.v1.PeerMessage.merged")
        .generate_default_stubs(true)
        .include_file("all.rs")
        .compile_fds(files)?;
    Ok(())
}
