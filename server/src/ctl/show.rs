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

/// A key that was given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key(pub(super) Vec<u8>);

/// The key that [`key`] would show like this: text, `\xNN`, and `\\` for a backslash.
pub(super) fn key_bytes(text: &str) -> Result<Key, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let digits = after.strip_prefix('x').and_then(|after| after.get(..2));
        let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let simple = |escape: &&(char, u8)| after.starts_with(escape.0);
        let (byte, length) = match (byte, ESCAPES.iter().find(simple)) {
            (Some(byte), _) => (byte, 3),
            (None, Some((_, byte))) => (*byte, 1),
            (None, None) => {
                return Err(format!(
                    "after the backslash before {after:?} comes xNN, n, r, t, a quote or a backslash"
                ));
            }
        };
        bytes.push(byte);
        rest = &after[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(Key(bytes))
}

const ESCAPES: [(char, u8); 6] = [
    ('\\', b'\\'),
    ('n', b'\n'),
    ('r', b'\r'),
    ('t', b'\t'),
    ('\'', b'\''),
    ('"', b'"'),
];

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// What PD writes as hexadecimal digits.
pub(super) fn unhex(text: &str) -> Vec<u8> {
    let digits = |at| text.get(at..at + 2);
    let bytes = (0..text.len()).step_by(2).map_while(digits);
    bytes
        .map_while(|digits| u8::from_str_radix(digits, 16).ok())
        .collect()
}

/// A name as one part of a path.
pub(super) fn escaped(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
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

    #[test]
    fn keys_are_read_as_they_are_shown() {
        #[track_caller]
        fn check(text: &str, expected: Option<&[u8]>) {
            let read = key_bytes(text).ok();
            assert_eq!(read, expected.map(|bytes| Key(bytes.to_vec())), "{text}");
        }
        check("", Some(b""));
        check("row-1", Some(b"row-1"));
        check("a\\x00\\xFf", Some(b"a\x00\xff"));
        check("\\\\x41\\n\\\"", Some(b"\\x41\n\""));
        check("grün", Some("grün".as_bytes()));
        check("\\", None);
        check("\\x4", None);
        check("\\xgg", None);
        check("\\ü", None);
        for byte in 0..=u8::MAX {
            let text = key(&[b'<', byte, b'>']);
            check(&text, Some(&[b'<', byte, b'>']));
        }
    }
}
