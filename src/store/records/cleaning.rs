//! Cleaning: the live records of the oldest file.

use std::ops::Range;

use hashbrown::HashMap;

use super::frame::{self, Header};
use weir_broker::{RecordIter, RecordKey};

/// A cleaning in progress: the records of the oldest file that were live when it began.
#[derive(Debug)]
pub(super) struct Cleaning {
    /// The content of the file.
    pub(super) bytes: Vec<u8>,
    /// Keys, and the ranges of their values in `bytes`.
    pub(super) records: Vec<(RecordKey, Range<usize>)>,
    /// Number of records that are processed.
    pub(super) done: usize,
}

impl Cleaning {
    /// Collects the newest record of each live key from a file's content; `None`: the file is not valid.
    pub(super) fn read_file(bytes: Vec<u8>, live_len: impl Fn(&RecordKey) -> Option<u32>) -> Option<Self> {
        let Header::Valid(format) = frame::read_file_header(&bytes) else { return None };
        let mut newest = HashMap::new();
        let mut at = format.header_len();
        while let Some(frame) = bytes.get(at..).and_then(|from| format.read(from)) {
            let end = at + frame.len;
            let mut records = RecordIter::new(frame.records);
            while let Some((key, value)) = records.next() {
                let value_end = end - records.rest();
                match value {
                    Some(value) => newest.insert(key, value_end - value.len()..value_end),
                    None => newest.remove(&key),
                };
            }
            at = end;
        }
        newest.retain(|key, _| live_len(key).is_some());
        Some(Self { bytes, records: newest.into_iter().collect(), done: 0 })
    }
}
