//! What a validated property block yields later: user properties, and what a forwarder takes over.

use super::property::{self, Walk, id};
use super::{PublishProperties, UserProperties};

impl<'a> UserProperties<'a> {
    /// Names and values, in order, repeats kept [MQTT-3.3.2-18].
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        Walk::new(self.raw).filter(|&(id, _)| id == id::USER_PROPERTY).filter_map(|(_, pair)| {
            let (name, rest) = prefixed(pair)?;
            let (value, _) = prefixed(rest)?;
            Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
        })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        !Walk::new(self.raw).any(|(id, _)| id == id::USER_PROPERTY)
    }
}

/// The same pairs in the same order: the blocks they stand in may differ.
impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

fn prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}

impl<'a> PublishProperties<'a> {
    /// Whether something in `raw` is not to be forwarded as it is: a topic alias, a message expiry, a subscription
    /// identifier, a will delay.
    #[inline]
    pub fn has_unforwardable(&self) -> bool {
        Walk::new(self.raw).any(|(id, _)| property::is_unforwardable(id))
    }

    /// What is to be forwarded unaltered, in order, in as few pieces of `raw` as possible; none where there is nothing.
    #[inline]
    pub fn forwardable(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        Pieces { raw: self.raw, at: 0 }
    }

    /// Every subscription identifier, in order.
    pub fn subscription_identifiers(&self) -> impl Iterator<Item = u32> + use<'a> {
        Walk::new(self.raw)
            .filter(|&(id, _)| id == id::SUBSCRIPTION_IDENTIFIER)
            .map(|(_, value)| value.iter().rev().fold(0, |identifier, byte| identifier << 7 | u32::from(byte & 0x7F)))
    }

    /// The user properties.
    pub fn user_properties(&self) -> UserProperties<'a> {
        UserProperties { raw: self.raw }
    }
}

/// The runs of forwardable properties.
struct Pieces<'a> {
    raw: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (mut start, mut end) = (self.at, self.at);
        for (id, value) in Walk::new(self.raw.get(self.at..)?) {
            let after = end + 1 + value.len();
            if !property::is_unforwardable(id) {
                end = after;
            } else if start == end {
                (start, end) = (after, after);
            } else {
                self.at = after;
                return self.raw.get(start..end);
            }
        }
        self.at = self.raw.len();
        self.raw.get(start..end).filter(|piece| !piece.is_empty())
    }
}
