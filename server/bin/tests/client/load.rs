//! Many regions under load: clients write and read while regions are cut in every way there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use flotilla::config::ByteSize;
use flotilla_proto::kvrpcpb as kv;
use flotilla_proto::pdpb as p;
use tikv_client::RawClient;

use crate::support::stock::{client, key, pairs, range};
use crate::support::{TestNode, Wire, in_time};

/// The seed of a run; the test prints it.
const SEED: &str = "FLOTILLA_SEED";
const WRITERS: u64 = 8;
/// Operations of each writer.
const OPERATIONS: u64 = 600;
/// Keys of each writer.
const KEYS: u64 = 400;
/// A region is cut when it holds more than this.
const SPLIT_KEYS: u64 = 150;
const SPLIT_SIZE: ByteSize = ByteSize(32 << 10);
/// Cuts that each way makes at most: a thousand regions show no more than a few hundred.
const CUTS_MAX: u32 = 100;
/// Regions that there must be at the end, or the test has not shown much.
const REGIONS_MIN: usize = 30;

/// Pseudo-random numbers (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % below
    }
}

fn seed() -> u64 {
    match std::env::var(SEED) {
        Ok(seed) => seed.parse().expect("a seed is a number"),
        Err(_) => u64::from(std::process::id()),
    }
}

/// Keys of all writers lie between one another.
fn row(writer: u64, nth: u64) -> String {
    format!("row {nth:05} of {writer}")
}

/// What a writer knows to be stored under its keys.
type Rows = BTreeMap<String, String>;

/// One client's work on its own keys. Every call must succeed, and every read must find what the
/// calls before have written.
async fn write(addr: String, writer: u64, mut dice: Dice) -> Rows {
    let client = client(&addr).await;
    let mut rows = Rows::new();
    for operation in 0..OPERATIONS {
        let at = row(writer, dice.next(KEYS));
        let value = format!("{operation} by {writer}: {}", "x".repeat(100));
        let what = format!("operation {operation} of writer {writer}, {at:?}");
        let done = match dice.next(10) {
            0..=3 => {
                rows.insert(at.clone(), value.clone());
                client.put(at, value).await
            }
            4..=5 => {
                let batch: Rows = (0..8)
                    .map(|_| (row(writer, dice.next(KEYS)), value.clone()))
                    .collect();
                rows.extend(batch.clone());
                client.batch_put(batch).await
            }
            6 => {
                rows.remove(&at);
                client.delete(at).await
            }
            7 => {
                let batch: BTreeSet<String> =
                    (0..4).map(|_| row(writer, dice.next(KEYS))).collect();
                rows.retain(|row, _| !batch.contains(row));
                client.batch_delete(batch).await
            }
            8 => {
                let found = client.get(at.clone()).await;
                found.map(|found| {
                    let expected = rows.get(&at).map(|value| value.clone().into_bytes());
                    assert_eq!(found, expected, "{what}");
                })
            }
            _ => {
                let asked: BTreeSet<String> =
                    (0..20).map(|_| row(writer, dice.next(KEYS))).collect();
                let found = client.batch_get(asked.clone()).await;
                found.map(|found| {
                    let found: Rows = pairs(found).into_iter().collect();
                    let expected = asked.iter().filter_map(|row| rows.get_key_value(row));
                    let expected: Rows = expected
                        .map(|(row, value)| (row.clone(), value.clone()))
                        .collect();
                    assert_eq!(found, expected, "{what}");
                })
            }
        };
        done.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    }
    rows
}

/// Cuts a region at a random key by the store's call. Another cut may be faster: then the store says
/// so, in the ways it may.
async fn cut_by_store(wire: &Wire, dice: &mut Dice) -> bool {
    let at = row(dice.next(WRITERS), dice.next(KEYS));
    let cuts = [&at, &row(dice.next(WRITERS), dice.next(KEYS))].map(|cut| cut.clone().into());
    let request = kv::SplitRegionRequest {
        context: wire.at(&at).await,
        split_keys: cuts.to_vec(),
        is_raw_kv: true,
        ..kv::SplitRegionRequest::default()
    };
    let response = wire.split_region(request).await.expect("an answer");
    match response.region_error {
        None => true,
        Some(error) => {
            let known = error.epoch_not_match.is_some()
                || error.region_not_found.is_some()
                || error.not_leader.is_some()
                || error.message.starts_with("failed to split");
            assert!(known, "{error:?}");
            false
        }
    }
}

/// Cuts regions at random keys by PD's call.
async fn cut_by_pd(wire: &Wire, dice: &mut Dice) -> bool {
    let cuts: Vec<Bytes> = (0..3)
        .map(|_| row(dice.next(WRITERS), dice.next(KEYS)).into())
        .collect();
    let request = p::SplitRegionsRequest {
        split_keys: cuts,
        ..p::SplitRegionsRequest::default()
    };
    let response = in_time("SplitRegions", wire.split_regions(request)).await;
    wire.sound(response).finished_percentage == 100
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_notice_no_split() {
    let seed = seed();
    println!("{SEED}={seed}");
    let mut node = TestNode::with(|config| {
        config.split_keys = SPLIT_KEYS;
        config.split_size = SPLIT_SIZE;
    })
    .await;
    let addr = node.addr();
    let writers = (0..WRITERS).map(|writer| {
        let dice = Dice(seed ^ (writer << 32));
        tokio::spawn(write(addr.clone(), writer, dice))
    });
    let writers: Vec<_> = writers.collect();

    let writing = Arc::new(AtomicBool::new(true));
    let cutting = [true, false].map(|by_store| {
        let (addr, writing) = (addr.clone(), Arc::clone(&writing));
        let mut dice = Dice(!seed ^ u64::from(by_store));
        tokio::spawn(async move {
            let wire = Wire::connect(&addr).await;
            let mut cuts = 0;
            while writing.load(Ordering::Relaxed) && cuts < CUTS_MAX {
                let cut = if by_store {
                    cut_by_store(&wire, &mut dice).await
                } else {
                    cut_by_pd(&wire, &mut dice).await
                };
                cuts += u32::from(cut);
            }
            cuts
        })
    });

    let mut rows = Rows::new();
    for writer in writers {
        rows.extend(writer.await.expect("no writer fails"));
    }
    writing.store(false, Ordering::Relaxed);
    for cutter in cutting {
        let cuts = in_time("cutting", cutter).await.expect("no cutter fails");
        assert!(cuts > 0, "each way of cutting had its part");
    }

    assert_all(&node, &rows).await;
    let routes = node.wire().await.settled_routes().await;
    assert!(routes.len() >= REGIONS_MIN, "{} regions", routes.len());
    node.stop().await;
    node.start_again().await;
    assert_all(&node, &rows).await;
    node.stop().await;
}

/// Regions tile the key space, and hold exactly `rows`.
async fn assert_all(node: &TestNode, rows: &Rows) {
    let wire = node.wire().await;
    wire.settled_routes().await;
    let client = client(&node.addr()).await;
    let scanned = in_time("a scan", client.scan(range("", "~"), 10_240)).await;
    let scanned: Vec<(String, String)> = pairs(scanned.expect("a scan"));
    assert!(scanned.is_sorted(), "in the order of keys");
    let scanned: Rows = scanned.into_iter().collect();
    assert!(scanned == *rows, "{}", difference(&scanned, rows));
    assert_read(&client, rows).await;
}

async fn assert_read(client: &RawClient, rows: &Rows) {
    for some in rows.keys().collect::<Vec<_>>().chunks(200) {
        let asked = some.iter().map(|row| key(row));
        let found = pairs(client.batch_get(asked).await.expect("batch get"));
        assert_eq!(found.len(), some.len());
        for (row, value) in found {
            assert_eq!(rows.get(&row), Some(&value));
        }
    }
}

/// The first rows that are missing, too many or different.
fn difference(found: &Rows, expected: &Rows) -> String {
    let all: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    let of = |row: &&String| (row.to_string(), found.get(*row), expected.get(*row));
    let different: Vec<_> = all
        .iter()
        .map(of)
        .filter(|(_, found, expected)| found != expected)
        .collect();
    format!(
        "{} rows differ: {:?}",
        different.len(),
        &different[..different.len().min(5)]
    )
}
