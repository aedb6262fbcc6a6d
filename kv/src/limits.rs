//! Sizes a command may have, each with its unit, related to one another at compile time.

/// One kibibyte, in bytes.
const KIB: usize = 1024;
/// One mebibyte, in bytes.
const MIB: usize = 1024 * KIB;

/// Bytes of a physical key (in encoded mode: after encoding) that may be written. A longer key
/// holds nothing, so a read of it finds nothing.
pub const KEY_BYTES_MAX: usize = 8 * KIB;

/// Bytes of a user's value.
pub const VALUE_BYTES_MAX: usize = 6 * MIB;

/// Bytes of one raft entry, all of it.
pub const ENTRY_BYTES_MAX: usize = 8 * MIB;

/// Bytes an entry holds around one command's modifications: version, kind, the part's epoch and
/// the length prefixes.
pub const ENTRY_OVERHEAD_BYTES: usize = 64;

/// Bytes of one answer on the wire. A larger one is an error, never cut short (contracts: C39).
pub const ANSWER_BYTES_MAX: usize = 64 * MIB;

/// Rows a scan reads between two looks at its deadline, invisible ones included.
pub const ROWS_PER_DEADLINE_CHECK: u32 = 256;

/// Bytes of one buffer that a scan's rows are copied into; it starts small and doubles up to this.
pub(crate) const ROW_BUFFER_BYTES_MAX: usize = 256 * KIB;
/// The first of them.
pub(crate) const ROW_BUFFER_BYTES_MIN: usize = 4 * KIB;

const _: () = {
    // The flags byte and the expiry of a row, and the framing of one modification.
    let row = VALUE_BYTES_MAX + 9 + KEY_BYTES_MAX + 32;
    assert!(
        row + ENTRY_OVERHEAD_BYTES <= ENTRY_BYTES_MAX,
        "one row always fits an entry"
    );
    assert!(
        VALUE_BYTES_MAX + KIB <= ANSWER_BYTES_MAX,
        "one row always fits an answer"
    );
    assert!(ROW_BUFFER_BYTES_MIN <= ROW_BUFFER_BYTES_MAX);
};
