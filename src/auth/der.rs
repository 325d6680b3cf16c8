//! As much of DER as certificates and public keys need.

/// Not DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;

/// Walks the values of a DER sequence.
#[derive(Clone, Copy)]
pub(super) struct Der<'a>(pub(super) &'a [u8]);

impl<'a> Der<'a> {
    /// The next tag and contents; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, Malformed> {
        let (tag, rest) = match self.0 {
            [] => return Ok(None),
            [tag, rest @ ..] => (*tag, rest),
        };
        let (length, rest) = match rest {
            [short @ 0..=0x7F, rest @ ..] => (usize::from(*short), rest),
            [0x81, length, rest @ ..] => (usize::from(*length), rest),
            [0x82, a, b, rest @ ..] => (usize::from(u16::from_be_bytes([*a, *b])), rest),
            [0x83, a, b, c, rest @ ..] => (u32::from_be_bytes([0, *a, *b, *c]) as usize, rest),
            _ => return Err(Malformed),
        };
        let (value, rest) = rest.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(Some((tag, value)))
    }

    pub(super) fn expect(&mut self, wanted: u8) -> Result<&'a [u8], Malformed> {
        match self.next()? {
            Some((tag, value)) if tag == wanted => Ok(value),
            _ => Err(Malformed),
        }
    }

    pub(super) fn optional(&mut self, wanted: u8) -> Result<Option<&'a [u8]>, Malformed> {
        if self.0.first() == Some(&wanted) { self.expect(wanted).map(Some) } else { Ok(None) }
    }
}
