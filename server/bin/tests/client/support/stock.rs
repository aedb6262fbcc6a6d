//! The stock Rust client, unmodified.

use std::time::Duration;

use tikv_client::{Config, Key, KvPair, RawClient};

/// The time for one request. The client's own 2 s are kept where time is not the point, but a busy
/// machine that runs several tests at once may need longer.
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// The client's configuration.
pub(crate) fn patient() -> Config {
    Config::default().with_timeout(REQUEST_MAX)
}

/// A client of API v1.
pub(crate) async fn client(addr: &str) -> RawClient {
    RawClient::new_with_config(vec![addr], patient())
        .await
        .expect("the client connects")
}

/// A client of API v2.
pub(crate) async fn client_in(addr: &str, keyspace: &str) -> RawClient {
    RawClient::new_with_config(vec![addr], patient().with_keyspace(keyspace))
        .await
        .expect("the client finds its keyspace")
}

/// A key.
pub(crate) fn key(text: &str) -> Key {
    Key::from(text.to_owned())
}

/// A range of keys, the end excluded.
pub(crate) fn range(start: &str, end: &str) -> std::ops::Range<Key> {
    key(start)..key(end)
}

/// Keys as text, in the order in which they came.
pub(crate) fn keys(keys: impl IntoIterator<Item = Key>) -> Vec<String> {
    let text = |key: Key| String::from_utf8(key.into()).expect("a key of text");
    keys.into_iter().map(text).collect()
}

/// Pairs as text, in the order in which they came.
pub(crate) fn pairs(pairs: impl IntoIterator<Item = KvPair>) -> Vec<(String, String)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let pair = |pair: KvPair| {
        let (key, value): (Key, Vec<u8>) = pair.into();
        (text(key.into()), text(value))
    };
    pairs.into_iter().map(pair).collect()
}

/// The names of the keys of `pairs`, in one word.
pub(crate) fn word(pairs: impl IntoIterator<Item = KvPair>) -> String {
    keys(pairs.into_iter().map(KvPair::into_key)).join(" ")
}

/// The keys `a` to `z`, each with its own name twice as value.
pub(crate) fn alphabet() -> Vec<(String, String)> {
    ('a'..='z')
        .map(|letter| (letter.to_string(), format!("{letter}{letter}")))
        .collect()
}
