//! Records: a version, a checksum, and fields with a tag and a length, so that a reader skips those that it does not know.

use super::envelope::checksum;
use super::field::{FieldError, Reader, Sink, varint_len};

const VERSION: u8 = 1;
const HEADER: usize = 5;

/// A heartbeat or an entry of the log that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It has fewer bytes than a header.
    #[error("a record has at least {HEADER} bytes, this one {len}")]
    TooShort {
        /// Its bytes.
        len: usize,
    },
    /// A version that this build does not read.
    #[error("record version {version}: this build reads version {VERSION}")]
    UnsupportedVersion {
        /// The record's version.
        version: u8,
    },
    /// The bytes have changed.
    #[error("checksum mismatch: the bytes of the record are damaged")]
    Checksum,
    /// A field cannot be decoded.
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// Appends a field.
pub(super) fn put_field(out: &mut Vec<u8>, tag: u64, bytes: &[u8]) {
    out.varint(tag);
    out.bytes(bytes);
}

/// Appends a field that is a number.
pub(super) fn put_number(out: &mut Vec<u8>, tag: u64, value: u64) {
    out.varint(tag);
    out.varint(varint_len(value) as u64);
    out.varint(value);
}

/// Appends a record whose fields `write` writes.
pub(super) fn encode_record(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
    write(out);
    let sum = checksum(&[&[VERSION], &out[start + HEADER..]]);
    out[start + 1..start + HEADER].copy_from_slice(&sum.to_le_bytes());
}

/// The fields of a record.
pub(super) fn decode_record(bytes: &[u8]) -> Result<FieldIter<'_>, RecordError> {
    let (header, fields) = bytes.split_first_chunk::<HEADER>().ok_or(RecordError::TooShort { len: bytes.len() })?;
    let [version, sum @ ..] = *header;
    if version != VERSION {
        return Err(RecordError::UnsupportedVersion { version });
    }
    if checksum(&[&[version], fields]) != u32::from_le_bytes(sum) {
        return Err(RecordError::Checksum);
    }
    Ok(FieldIter(Reader(fields)))
}

/// Fields as (tag, bytes).
pub(super) struct FieldIter<'a>(pub(super) Reader<'a>);

impl<'a> Iterator for FieldIter<'a> {
    type Item = Result<(u64, &'a [u8]), FieldError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.0.varint("tag").and_then(|tag| Ok((tag, self.0.bytes("value")?)));
        if field.is_err() {
            self.0 = Reader(&[]);
        }
        Some(field)
    }
}

/// A number in a field.
pub(super) fn number(bytes: &[u8], field: &'static str) -> Result<u64, FieldError> {
    Reader(bytes).varint(field)
}
