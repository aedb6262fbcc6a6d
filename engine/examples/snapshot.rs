//! What a snapshot of a large region costs: building it, receiving it, installing it.
//!
//! ```sh
//! cargo run --release -p flotilla-engine --features rocks --example snapshot
//! ```

#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use clap::Parser;
use flotilla_engine::rocks::{
    self, BlockCache, LogOptions, RocksState, SnapshotFolder, StateOptions,
};
use flotilla_engine::{
    Cf, DataDir, FlushReason, SnapshotFiles, SnapshotInstall, StateBatch, StateOp, StateStore,
    StoreIds, snapshot_bytes,
};
use flotilla_proto::clock::Wall;
use flotilla_proto::metapb::Region;
use flotilla_proto::store::{PeerState, RegionRecord};

const CACHE_BYTES: usize = 64 << 20;
const CHUNK_BYTES: u64 = 1 << 20;
const REGION: u64 = 7;

#[derive(Parser)]
struct Args {
    /// Rows of the region.
    #[arg(long, default_value_t = 256 << 10)]
    rows: u64,
    /// Bytes of a value; half of them repeat.
    #[arg(long, default_value_t = 1_000)]
    value_bytes: usize,
    /// Where both stores are made; a temporary folder by default.
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let temporary = tempfile::tempdir()?;
    let dir = args.dir.as_deref().unwrap_or(temporary.path());
    let (source, from_files) = store(&dir.join("sender"))?;
    let (target, files) = store(&dir.join("receiver"))?;
    // The receiver has old rows in the range, as a replica that fell behind does.
    for state in [&source, &target] {
        fill(state, &args)?;
        state.flush_all(FlushReason::Manual)?;
    }
    let view = source.background_snapshot();
    let start = Instant::now();
    let go_on = &mut |_| ControlFlow::Continue(());
    let (from, manifest) = from_files.build(&view, REGION, go_on)?;
    let bytes = snapshot_bytes(&manifest);
    say("build", bytes, start);

    let start = Instant::now();
    let key = files.receive(&manifest, u64::MAX)?;
    for file in &manifest.files {
        let mut offset = 0;
        while offset < file.bytes {
            let chunk = from_files.read_chunk(&from, file.cf(), offset, CHUNK_BYTES)?;
            files.write_chunk(&key, file.cf(), offset, &chunk)?;
            offset += chunk.len() as u64;
        }
    }
    say("read and write chunks", bytes, start);

    let start = Instant::now();
    files.finish_receive(&key)?;
    say("verify and sync", bytes, start);

    for round in ["install", "install again"] {
        let start = Instant::now();
        target.install(&files, &key, &manifest)?;
        say(round, bytes, start);
    }
    Ok(())
}

fn store(path: &Path) -> Result<(RocksState, SnapshotFolder), Box<dyn Error>> {
    let ids = StoreIds {
        cluster_id: 1,
        store_id: 1,
    };
    let mut dir = DataDir::create(path, ids, Wall(1))?;
    let cache = BlockCache::new(CACHE_BYTES);
    rocks::open_log(&dir, &LogOptions::new(cache.clone()))?;
    let state = rocks::open_state(&dir, &StateOptions::new(cache, Default::default()))?;
    dir.finish()?;
    let files = rocks::open_snapshots(&dir)?;
    Ok((state, files))
}

fn fill(state: &RocksState, args: &Args) -> Result<(), Box<dyn Error>> {
    let record = RegionRecord {
        state: PeerState::Normal.into(),
        region: Some(Region {
            id: REGION,
            ..Region::default()
        }),
        highest_peer_id: 70,
        ..RegionRecord::default()
    };
    let mut ops = vec![StateOp::PutRegion { record }];
    let mut random = 1u64;
    for row in 0..args.rows {
        let mut value = vec![b'v'; args.value_bytes];
        for byte in &mut value[..args.value_bytes / 2] {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = (random >> 56) as u8;
        }
        ops.push(StateOp::Put {
            cf: Cf::CfDefault,
            key: format!("user{row:012}").into(),
            value: Bytes::from(value),
        });
        if ops.len() == 1_000 {
            state.write(&StateBatch {
                ops: std::mem::take(&mut ops),
                admin: false,
            })?;
        }
    }
    state.write(&StateBatch { ops, admin: false })?;
    Ok(())
}

fn say(what: &str, bytes: u64, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    let mib = bytes as f64 / f64::from(1 << 20);
    println!(
        "{what:<22} {mib:>6.0} MiB {seconds:>7.2} s {:>7.0} MiB/s",
        mib / seconds
    );
}
