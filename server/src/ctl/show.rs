//! Tables for the reader, JSON for programs.

use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use serde::Serialize;

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(super) struct Print {
    pub(super) json: bool,
}

/// What a table shows of one thing.
pub(super) trait Row: Serialize {
    const HEADER: &'static [&'static str];
    fn cells(&self) -> Vec<String>;
}

impl Print {
    /// One thing that is no row.
    pub(super) fn one(self, thing: &impl Serialize, text: impl FnOnce() -> String) {
        if self.json {
            println!("{}", to_json(thing));
        } else {
            println!("{}", text());
        }
    }

    /// Rows of one kind.
    pub(super) fn rows<R: Row>(self, rows: &[R]) {
        self.one(&rows, || table(rows));
    }
}

fn to_json(thing: &impl Serialize) -> String {
    serde_json::to_string_pretty(thing).expect("texts and numbers under text keys")
}

pub(super) fn table<R: Row>(rows: &[R]) -> String {
    if rows.is_empty() {
        return "none".to_owned();
    }
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(R::HEADER);
    table.add_rows(rows.iter().map(R::cells));
    table.to_string()
}

/// Nothing for what is not there.
pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A key, shortened; the open ends are empty.
pub(super) fn key(bytes: &[u8]) -> String {
    const LONGEST: usize = 24;
    let text = bytes.escape_ascii().to_string();
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_readable_and_short() {
        #[track_caller]
        fn check(bytes: &[u8], expected: &str) {
            assert_eq!(key(bytes), expected);
        }
        check(b"", "");
        check(b"row-1", "row-1");
        check(b"a\x00\xff", "a\\x00\\xff");
        check(&[b'k'; 24], &"k".repeat(24));
        check(&[b'k'; 25], &format!("{}...", "k".repeat(24)));
        assert_eq!(hex(b"a\xff"), "61FF");
    }
}
