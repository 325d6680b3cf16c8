//! What is moved when a file is cleaned.

use std::ops::Range;

use hashbrown::HashMap;

use super::frame::{self, Header};
use weir_broker::{Key, Records};

/// Cleaning under way: records of the oldest file that held when it began.
#[derive(Debug)]
pub(super) struct Cleaning {
    /// The file.
    pub(super) bytes: Vec<u8>,
    /// Key, and the range of its value.
    pub(super) records: Vec<(Key, Range<usize>)>,
    /// How many of them are done with.
    pub(super) done: usize,
}

impl Cleaning {
    /// Finds in a file's bytes the newest record of each key that `holds` knows; `None`: they are not of this store.
    pub(super) fn of(bytes: Vec<u8>, holds: impl Fn(&Key) -> Option<u32>) -> Option<Self> {
        let Header::Good(format) = frame::read_file_header(&bytes) else { return None };
        let mut newest = HashMap::new();
        let mut at = format.header_len();
        while let Some(frame) = bytes.get(at..).and_then(|from| format.read(from)) {
            let end = at + frame.len;
            let mut records = Records::of(frame.records);
            while let Some((key, value)) = records.next() {
                let value_end = end - records.rest();
                match value {
                    Some(value) => newest.insert(key, value_end - value.len()..value_end),
                    None => newest.remove(&key),
                };
            }
            at = end;
        }
        newest.retain(|key, _| holds(key).is_some());
        Some(Self { bytes, records: newest.into_iter().collect(), done: 0 })
    }
}
