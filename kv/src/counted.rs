//! What a command reads, counted.

use std::cell::{Cell, RefCell};

use bytes::Bytes;
use flotilla_engine::{Cf, KeyRange, Result, StateReader, StoredRegion};

/// A reader that counts what it gives. It belongs to one command.
#[derive(Debug)]
pub struct Counted<'a, R: ?Sized> {
    reader: &'a R,
    /// Whether to note the keys.
    noting: bool,
    keys: Cell<u64>,
    bytes: Cell<u64>,
    touched: RefCell<Option<(Bytes, Bytes)>>,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Keys asked for one by one, there or not, and rows gone over.
    pub keys: u64,
    /// Bytes of the rows: keys and values.
    pub bytes: u64,
    /// The lowest and the highest of the keys, if they were to be noted.
    pub touched: Option<(Bytes, Bytes)>,
}

impl<'a, R: StateReader + ?Sized> Counted<'a, R> {
    /// Reads from `reader`; `noting`: keys are wanted too.
    pub fn new(reader: &'a R, noting: bool) -> Self {
        Self {
            reader,
            noting,
            keys: Cell::new(0),
            bytes: Cell::new(0),
            touched: RefCell::new(None),
        }
    }

    /// What was read.
    pub fn seen(self) -> Seen {
        Seen {
            keys: self.keys.get(),
            bytes: self.bytes.get(),
            touched: self.touched.into_inner(),
        }
    }

    fn count(&self, key: &[u8], bytes: usize) {
        self.keys.set(self.keys.get() + 1);
        self.bytes.set(self.bytes.get() + bytes as u64);
        if !self.noting {
            return;
        }
        match &mut *self.touched.borrow_mut() {
            Some((low, _)) if key < &low[..] => *low = Bytes::copy_from_slice(key),
            Some((_, high)) if key > &high[..] => *high = Bytes::copy_from_slice(key),
            Some(_) => {}
            first @ None => {
                let key = Bytes::copy_from_slice(key);
                *first = Some((key.clone(), key));
            }
        }
    }
}

impl<R: StateReader + ?Sized> StateReader for Counted<'_, R> {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.reader.get(cf, key)?;
        self.count(
            key,
            value.as_ref().map_or(0, |value| key.len() + value.len()),
        );
        Ok(value)
    }

    fn scan(
        &self,
        cf: Cf,
        range: KeyRange<'_>,
        reverse: bool,
        row: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        self.reader.scan(cf, range, reverse, &mut |key, value| {
            self.count(key, key.len() + value.len());
            row(key, value)
        })
    }

    fn stored_region(&self, region: u64) -> Result<Option<StoredRegion>> {
        self.reader.stored_region(region)
    }

    fn get_meta(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.reader.get_meta(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rows;

    impl StateReader for Rows {
        fn get(&self, _: Cf, key: &[u8]) -> Result<Option<Bytes>> {
            Ok((key != b"none").then(|| Bytes::from_static(b"value")))
        }

        fn scan(
            &self,
            _: Cf,
            _: KeyRange<'_>,
            _: bool,
            row: &mut dyn FnMut(&[u8], &[u8]) -> bool,
        ) -> Result<()> {
            for key in [b"d", b"e", b"f"] {
                if !row(key, b"1234") {
                    break;
                }
            }
            Ok(())
        }
    }

    #[test]
    fn rows_and_misses_are_counted() {
        for noting in [true, false] {
            let counted = Counted::new(&Rows, noting);
            for key in [&b"m"[..], b"none", b"b"] {
                counted.get(Cf::CfDefault, key).expect("it is read");
            }
            let mut left = 2;
            let mut two = |_: &[u8], _: &[u8]| {
                left -= 1;
                left > 0
            };
            let all = KeyRange {
                start: b"",
                end: b"",
            };
            counted
                .scan(Cf::CfDefault, all, false, &mut two)
                .expect("it is read");
            let touched = noting.then(|| (Bytes::from("b"), Bytes::from("none")));
            let bytes = 2 * (1 + 5) + 2 * (1 + 4);
            let expected = Seen {
                keys: 5,
                bytes,
                touched,
            };
            assert_eq!(counted.seen(), expected);
        }
    }
}
