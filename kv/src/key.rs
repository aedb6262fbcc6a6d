//! Keys, from the one place that all crates share, and what the engine calls the key mode.

pub use flotilla_proto::keys::*;

/// The mode as compactions know it.
pub fn row_mode(mode: KeyMode) -> flotilla_engine::row::KeyMode {
    match mode {
        KeyMode::Plain => flotilla_engine::row::KeyMode::Plain,
        KeyMode::Encoded => flotilla_engine::row::KeyMode::Encoded,
    }
}
