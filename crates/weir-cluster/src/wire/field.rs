//! Variable-length integers, byte strings, and their errors.

/// A field that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}` {problem}")]
pub struct FieldError {
    /// Name of the field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: FieldProblem,
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldProblem {
    /// The bytes end before the field does.
    #[error("is longer than the bytes that are left")]
    Truncated,
    /// A number is larger than its type allows.
    #[error("is too large a number")]
    TooLarge,
    /// A text is not UTF-8.
    #[error("is not UTF-8")]
    NotUtf8,
    /// A value that the field cannot have.
    #[error("has the value {0}, which is not defined")]
    Undefined(u64),
    /// A required field of a record is missing.
    #[error("is missing")]
    Missing,
    /// A field is repeated more often than allowed.
    #[error("occurs too often")]
    TooMany,
}

impl FieldProblem {
    pub(super) const fn of(self, field: &'static str) -> FieldError {
        FieldError { field, problem: self }
    }
}

/// A writer of fields: a buffer, or a count of bytes.
pub(super) trait Sink {
    fn byte(&mut self, value: u8);
    fn slice(&mut self, bytes: &[u8]);

    /// Seven bits in each byte, the lowest first; the high bit says that more follow.
    #[inline]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.slice(bytes);
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn byte(&mut self, value: u8) {
        self.push(value);
    }

    #[inline]
    fn slice(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts bytes instead of writing them.
pub(super) struct Length(pub(super) usize);

impl Sink for Length {
    #[inline]
    fn byte(&mut self, _: u8) {
        self.0 += 1;
    }

    #[inline]
    fn slice(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    #[inline]
    fn varint(&mut self, value: u64) {
        self.0 += varint_len(value);
    }
}

/// How many bytes a number takes: 1 to 10.
#[inline]
pub(super) const fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// What is not yet decoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    pub(super) fn byte(&mut self, field: &'static str) -> Result<u8, FieldError> {
        let (first, rest) = self.0.split_first().ok_or(FieldProblem::Truncated.of(field))?;
        self.0 = rest;
        Ok(*first)
    }

    #[inline]
    pub(super) fn varint(&mut self, field: &'static str) -> Result<u64, FieldError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(field)?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(FieldProblem::TooLarge.of(field))
    }

    #[inline]
    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, FieldError> {
        u32::try_from(self.varint(field)?).map_err(|_| FieldProblem::TooLarge.of(field))
    }

    #[inline]
    pub(super) fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], FieldError> {
        let len = self.varint(field)?;
        let len = usize::try_from(len).map_err(|_| FieldProblem::Truncated.of(field))?;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(FieldProblem::Truncated.of(field))?;
        self.0 = rest;
        Ok(bytes)
    }

    #[inline]
    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, FieldError> {
        text(self.bytes(field)?, field)
    }
}

#[inline]
pub(super) fn text<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, FieldError> {
    std::str::from_utf8(bytes).map_err(|_| FieldProblem::NotUtf8.of(field))
}
