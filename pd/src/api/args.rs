//! What a request says: its path, its query, its body.

use std::borrow::Cow;
use std::str::FromStr;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use super::{HttpAnswer, HttpRequest, no};
use crate::limits::BOUNDARY_BYTES_MAX;

/// A request, taken apart.
pub(crate) struct Args<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    query: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    body: &'a [u8],
    /// What stands in the path where the page has a name.
    pub(super) named: Vec<(&'static str, Vec<u8>)>,
}

impl<'a> Args<'a> {
    pub(super) fn of(request: &'a HttpRequest) -> Result<Self, HttpAnswer> {
        let target = request.target.as_str();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Ok(Self {
            method: &request.method,
            path,
            query: form_urlencoded::parse(query.as_bytes()).collect(),
            body: &request.body,
            named: Vec::new(),
        })
    }

    fn bytes_named(&self, name: &str) -> &[u8] {
        let named = self.named.iter().find(|(known, _)| *known == name);
        named.map_or(&[], |(_, value)| value)
    }

    /// A text of the path.
    pub(super) fn text(&self, name: &str) -> Result<&str, HttpAnswer> {
        let value = self.bytes_named(name);
        std::str::from_utf8(value)
            .or_else(|_| no(400, format!("the {name} in the path is no UTF-8")))
    }

    /// A number of the path.
    pub(super) fn id(&self, name: &str) -> Result<u64, HttpAnswer> {
        let text = self.text(name)?;
        text.parse()
            .or_else(|_| no(400, format!("the {name} {text:?} in the path is no number")))
    }

    /// A key of the path.
    pub(super) fn key(&self, name: &str) -> Result<Bytes, HttpAnswer> {
        self.key_of(Cow::Borrowed(self.bytes_named(name)), name)
    }

    /// Something of the query.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let mut all = self.query.iter();
        all.find_map(|(known, value)| (known == name).then_some(value.as_ref()))
    }

    /// All of one name in the query.
    pub(super) fn query_all<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b str> {
        let named = self.query.iter().filter(move |(known, _)| known == name);
        named.map(|(_, value)| value.as_ref())
    }

    /// A number of the query, or `default`.
    pub(super) fn number<T: FromStr>(&self, name: &str, default: T) -> Result<T, HttpAnswer> {
        match self.query(name) {
            None | Some("") => Ok(default),
            Some(text) => text
                .parse()
                .or_else(|_| no(400, format!("{name}={text:?} is no such number"))),
        }
    }

    /// A key of the query; empty if it is not there.
    pub(super) fn query_key(&self, name: &str) -> Result<Bytes, HttpAnswer> {
        let text = self.query(name).unwrap_or_default();
        self.key_of(Cow::Borrowed(text.as_bytes()), name)
    }

    /// With `format=hex` keys are hexadecimal digits, else they are as they stand.
    fn key_of(&self, raw: Cow<'_, [u8]>, name: &str) -> Result<Bytes, HttpAnswer> {
        let key = match self.query("format") {
            Some("hex") => unhex(&raw).ok_or_else(|| {
                HttpAnswer::problem(
                    400,
                    format!("{name} is no even number of hexadecimal digits"),
                )
            })?,
            _ => raw.into_owned(),
        };
        if key.len() > BOUNDARY_BYTES_MAX {
            return no(
                400,
                format!("{name} is longer than {BOUNDARY_BYTES_MAX} bytes"),
            );
        }
        Ok(key.into())
    }

    /// The body.
    pub(super) fn body<T: DeserializeOwned>(&self) -> Result<T, HttpAnswer> {
        serde_json::from_slice(self.body).or_else(|error| {
            no(
                400,
                format!("the body is not the JSON that this page takes: {error}"),
            )
        })
    }
}

/// Splits a path where the slashes are; escapes are read after that.
pub(super) fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.trim_end_matches('/').split('/')
}

pub(super) fn unescape(segment: &str) -> Vec<u8> {
    percent_decode_str(segment).collect()
}

/// Bytes of their hexadecimal digits, in either case.
pub(super) fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |pair: &[u8]| match *pair {
        [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    };
    digits.chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_come_in_pairs() {
        #[track_caller]
        fn check(digits: &str, expected: Option<&[u8]>) {
            assert_eq!(unhex(digits.as_bytes()).as_deref(), expected, "{digits}");
        }
        check("", Some(b""));
        check("6b", Some(b"k"));
        check("6BfF", Some(b"k\xff"));
        check("6", None);
        check("6g", None);
        check("6b6", None);
    }
}
