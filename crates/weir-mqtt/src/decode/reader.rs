//! The fields packets are made of. Chapter 1.5.

use std::num::NonZeroU16;

use crate::rule::{self, Broken};
use crate::{PacketId, SHARE_PREFIX};

/// What is left of a packet's body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Everything that is left.
    #[inline]
    pub(super) fn rest(self) -> &'a [u8] {
        self.bytes
    }

    /// That nothing is left.
    #[inline]
    pub(super) fn end(&self) -> Result<(), Broken> {
        if self.bytes.is_empty() { Ok(()) } else { Err(&rule::TRAILING_BYTES) }
    }

    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or(&rule::ENDS_EARLY)?;
        self.bytes = rest;
        Ok(taken)
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, Broken> {
        let (&byte, rest) = self.bytes.split_first().ok_or(&rule::ENDS_EARLY)?;
        self.bytes = rest;
        Ok(byte)
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Result<u16, Broken> {
        let (bytes, rest) = self.bytes.split_first_chunk().ok_or(&rule::ENDS_EARLY)?;
        self.bytes = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    #[inline]
    pub(super) fn u32(&mut self) -> Result<u32, Broken> {
        let (bytes, rest) = self.bytes.split_first_chunk().ok_or(&rule::ENDS_EARLY)?;
        self.bytes = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// A Variable Byte Integer, 0 to 268,435,455.
    #[inline]
    pub(super) fn varint(&mut self) -> Result<u32, Broken> {
        match varint(self.bytes)? {
            Some((value, len)) => {
                self.bytes = &self.bytes[len..];
                Ok(value)
            }
            None => Err(&rule::ENDS_EARLY),
        }
    }

    #[inline]
    pub(super) fn packet_id(&mut self) -> Result<PacketId, Broken> {
        NonZeroU16::new(self.u16()?).ok_or(&rule::PACKET_ID_ZERO)
    }

    /// Binary Data: two bytes of length, then as many bytes.
    #[inline]
    pub(super) fn binary(&mut self) -> Result<&'a [u8], Broken> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// A UTF-8 Encoded String. Control characters and non-characters "SHOULD NOT" be there and are taken.
    #[inline]
    pub(super) fn string(&mut self) -> Result<&'a str, Broken> {
        let string = std::str::from_utf8(self.binary()?).map_err(|_| &rule::UTF8)?;
        if has_null(string.as_bytes()) { Err(&rule::NULL_CHARACTER) } else { Ok(string) }
    }

    /// A topic name, perhaps an empty one; a wildcard in it breaks `on_wildcard`.
    #[inline]
    pub(super) fn topic_name(&mut self, on_wildcard: Broken) -> Result<&'a str, Broken> {
        let name = std::str::from_utf8(self.binary()?).map_err(|_| &rule::UTF8)?;
        match unfit_for_name(name.as_bytes()) {
            false => Ok(name),
            true if has_null(name.as_bytes()) => Err(&rule::NULL_CHARACTER),
            true => Err(on_wildcard),
        }
    }

    /// A topic filter of at least one byte, not judged otherwise; and whether it is a shared subscription's.
    pub(super) fn topic_filter(&mut self) -> Result<(&'a str, bool), Broken> {
        let filter = self.string()?;
        if filter.is_empty() { Err(&rule::FILTER_EMPTY) } else { Ok((filter, filter.starts_with(SHARE_PREFIX))) }
    }
}

/// Whether there is a NUL among `bytes`.
#[inline]
fn has_null(bytes: &[u8]) -> bool {
    any_by_words(bytes, zero_in, |byte| byte == 0)
}

/// Whether there is a NUL or a wildcard among `bytes`.
#[inline]
fn unfit_for_name(bytes: &[u8]) -> bool {
    any_by_words(
        bytes,
        |word| zero_in(word) | zero_in(word ^ (ONES * b'+' as u64)) | zero_in(word ^ (ONES * b'#' as u64)),
        |byte| matches!(byte, 0 | b'+' | b'#'),
    )
}

/// Whether one of `bytes` is sought: eight at a time, for this is asked of every PUBLISH.
#[inline]
fn any_by_words(bytes: &[u8], in_word: impl Fn(u64) -> u64, is_sought: impl Fn(u8) -> bool) -> bool {
    let (words, _) = bytes.as_chunks::<8>();
    let Some(last) = bytes.last_chunk::<8>() else { return bytes.iter().any(|&byte| is_sought(byte)) };
    // the last eight cover what is left over, and a part of what was looked at already
    let found =
        words.iter().fold(in_word(u64::from_le_bytes(*last)), |found, word| found | in_word(u64::from_le_bytes(*word)));
    found != 0
}

const ONES: u64 = u64::from_ne_bytes([1; 8]);

/// Not zero exactly where one of the word's bytes is.
#[inline]
fn zero_in(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & (ONES << 7)
}

/// The Variable Byte Integer that `bytes` start with, and its length; `None` where it is not all there yet.
#[inline]
pub(super) fn varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, Broken> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return if byte == 0 && at > 0 { Err(&rule::VARINT_NOT_MINIMAL) } else { Ok(Some((value, at + 1))) };
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(&rule::VARINT_TOO_LONG) }
}
