//! The fields packets are made of, written twice: once to measure, once for good.

use crate::property::{Walk, id};
use crate::{EncodeError, UserProperties};

/// The greatest remaining length, bytes after the fixed header: four bytes of a Variable Byte Integer.
pub const MAX_REMAINING_LENGTH: usize = 268_435_455;

/// Measures, and writes if it has where to.
pub(super) struct Writer<'o> {
    out: Option<&'o mut Vec<u8>>,
    len: usize,
}

/// Writes fields; nothing else can go wrong but a field that is too long.
pub(super) type Written = Result<(), EncodeError>;

impl Writer<'_> {
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        if let Some(out) = &mut self.out {
            out.extend_from_slice(bytes);
        }
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    fn varint(&mut self, value: u32) {
        let mut bytes = [0; 4];
        let len = varint_bytes(value, &mut bytes);
        self.bytes(&bytes[..len]);
    }

    /// A length, then the bytes.
    pub(super) fn binary(&mut self, bytes: &[u8]) -> Written {
        self.u16(field_len(bytes.len())?);
        self.bytes(bytes);
        Ok(())
    }

    /// A property block: its length, then what `each` writes.
    pub(super) fn properties(&mut self, each: impl Fn(&mut Writer<'_>) -> Written) -> Written {
        let len = measure(&each)?;
        self.varint(u32::try_from(len).map_err(|_| EncodeError::PacketTooLong(len))?);
        each(self)
    }

    pub(super) fn property_u8(&mut self, id: u8, value: Option<u8>) {
        if let Some(value) = value {
            self.bytes(&[id, value]);
        }
    }

    pub(super) fn property_bool(&mut self, id: u8, value: Option<bool>) {
        self.property_u8(id, value.map(u8::from));
    }

    pub(super) fn property_u16(&mut self, id: u8, value: Option<u16>) {
        if let Some(value) = value {
            self.u8(id);
            self.u16(value);
        }
    }

    pub(super) fn property_u32(&mut self, id: u8, value: Option<u32>) {
        if let Some(value) = value {
            self.u8(id);
            self.bytes(&value.to_be_bytes());
        }
    }

    pub(super) fn property_binary(&mut self, id: u8, value: Option<&[u8]>) -> Written {
        match value {
            Some(value) => {
                self.u8(id);
                self.binary(value)
            }
            None => Ok(()),
        }
    }

    pub(super) fn property_str(&mut self, id: u8, value: Option<&str>) -> Written {
        self.property_binary(id, value.map(str::as_bytes))
    }

    pub(super) fn subscription_identifier(&mut self, identifier: u32) -> Written {
        check_subscription_identifier(identifier)?;
        self.u8(id::SUBSCRIPTION_IDENTIFIER);
        self.varint(identifier);
        Ok(())
    }

    /// The user properties among a block's.
    pub(super) fn user_properties(&mut self, properties: UserProperties<'_>) {
        for (id, value) in Walk::new(properties.raw) {
            if id == id::USER_PROPERTY {
                self.u8(id);
                self.bytes(value);
            }
        }
    }
}

/// How many bytes `write` writes.
fn measure(write: &impl Fn(&mut Writer<'_>) -> Written) -> Result<usize, EncodeError> {
    let mut writer = Writer { out: None, len: 0 };
    write(&mut writer)?;
    Ok(writer.len)
}

/// Appends a packet: the fixed header's first byte, the remaining length, and the body that `body` writes.
pub(super) fn packet(out: &mut Vec<u8>, first: u8, body: impl Fn(&mut Writer<'_>) -> Written) -> Written {
    let len = measure(&body)?;
    header(out, first, len)?;
    body(&mut Writer { out: Some(out), len: 0 })
}

/// Makes room for a packet and writes its fixed header.
#[inline]
pub(super) fn header(out: &mut Vec<u8>, first: u8, remaining: usize) -> Written {
    if remaining > MAX_REMAINING_LENGTH {
        return Err(EncodeError::PacketTooLong(remaining));
    }
    out.reserve(remaining + 5);
    let mut bytes = [first, 0, 0, 0, 0];
    let mut varint = [0; 4];
    let len = varint_bytes(remaining as u32, &mut varint);
    bytes[1..].copy_from_slice(&varint);
    out.extend_from_slice(&bytes[..1 + len]);
    Ok(())
}

/// A Variable Byte Integer's bytes, and how many they are. `value` is at most 268,435,455.
#[inline]
pub(super) fn varint_bytes(mut value: u32, bytes: &mut [u8; 4]) -> usize {
    let mut len = 0;
    loop {
        let byte = (value & 0x7F) as u8;
        value >>= 7;
        bytes[len] = if value == 0 { byte } else { byte | 0x80 };
        len += 1;
        if value == 0 || len == 4 {
            return len;
        }
    }
}

/// Bytes of a Variable Byte Integer.
#[inline]
pub(super) fn varint_len(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

#[inline]
pub(super) fn field_len(len: usize) -> Result<u16, EncodeError> {
    u16::try_from(len).map_err(|_| EncodeError::FieldTooLong(len))
}

#[inline]
pub(super) fn check_subscription_identifier(identifier: u32) -> Written {
    match identifier {
        1..=268_435_455 => Ok(()),
        _ => Err(EncodeError::SubscriptionIdentifier(identifier)),
    }
}

/// Appends a user property to a block that will be a [`UserProperties`]' `raw`.
pub fn push_user_property(block: &mut Vec<u8>, name: &str, value: &str) -> Result<(), EncodeError> {
    let pair = |writer: &mut Writer<'_>| {
        writer.property_str(id::USER_PROPERTY, Some(name))?;
        writer.binary(value.as_bytes())
    };
    append(block, pair)
}

/// Appends what `write` writes, or nothing.
pub(super) fn append(block: &mut Vec<u8>, write: impl Fn(&mut Writer<'_>) -> Written) -> Written {
    measure(&write)?;
    write(&mut Writer { out: Some(block), len: 0 })
}
