//! PUBLISH: the packet whose encoding counts.

use super::writer::{
    MAX_REMAINING_LENGTH, Writer, Written, append, check_subscription_identifier, field_len, header, packet,
    varint_bytes, varint_len,
};
use crate::property::id;
use crate::{EncodeError, PacketId, ProtocolVersion, Publish, PublishProperties, QoS, Will};

/// The properties of a PUBLISH that goes out (5.0; for 3.x they are left out).
#[derive(Debug, Clone, Copy, Default)]
pub struct PublishPropsOut<'a> {
    /// What is forwarded unaltered: [`PublishProperties::forwardable`]'s pieces, or the whole `raw`.
    pub pieces: &'a [&'a [u8]],
    /// What is left of the message's life, seconds.
    pub message_expiry_s: Option<u32>,
    /// The receiver's alias, not zero.
    pub topic_alias: Option<u16>,
    /// Those of all matching subscriptions, each 1 to 268,435,455 [MQTT-3.3.4-4].
    pub subscription_identifiers: &'a [u32],
}

impl PublishPropsOut<'_> {
    /// Bytes of the properties, without their length.
    #[inline]
    fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum::<usize>()
            + self.message_expiry_s.map_or(0, |_| 5)
            + self.topic_alias.map_or(0, |_| 3)
            + self.subscription_identifiers.iter().map(|&id| 1 + varint_len(id as usize)).sum::<usize>()
    }

    fn write(&self, out: &mut Vec<u8>) {
        if let Some(expiry_s) = self.message_expiry_s {
            out.push(id::MESSAGE_EXPIRY_INTERVAL);
            out.extend_from_slice(&expiry_s.to_be_bytes());
        }
        if let Some(alias) = self.topic_alias {
            out.push(id::TOPIC_ALIAS);
            out.extend_from_slice(&alias.to_be_bytes());
        }
        for &identifier in self.subscription_identifiers {
            let mut bytes = [0; 4];
            let len = varint_bytes(identifier, &mut bytes);
            out.push(id::SUBSCRIPTION_IDENTIFIER);
            out.extend_from_slice(&bytes[..len]);
        }
        for piece in self.pieces {
            out.extend_from_slice(piece);
        }
    }
}

#[inline]
fn remaining_len(
    version: ProtocolVersion,
    topic_bytes: usize,
    has_packet_id: bool,
    properties_len: usize,
    payload_bytes: usize,
) -> usize {
    let properties = if version == ProtocolVersion::V5 { varint_len(properties_len) + properties_len } else { 0 };
    2 + topic_bytes + if has_packet_id { 2 } else { 0 } + properties + payload_bytes
}

/// Bytes of the whole PUBLISH, fixed header and all: to be held against the receiver's Maximum Packet Size.
#[inline]
pub fn publish_len(
    version: ProtocolVersion,
    qos: QoS,
    topic_bytes: usize,
    properties: &PublishPropsOut<'_>,
    payload_bytes: usize,
) -> usize {
    let has_packet_id = qos != QoS::AtMostOnce;
    let remaining = remaining_len(version, topic_bytes, has_packet_id, properties.len(), payload_bytes);
    1 + varint_len(remaining) + remaining
}

/// Appends a PUBLISH made of its parts. `packet_id` is there exactly where `qos` is above 0.
#[inline]
#[allow(clippy::too_many_arguments)] // the parts of a PUBLISH; a struct would only name them again
pub fn encode_publish_parts(
    out: &mut Vec<u8>,
    version: ProtocolVersion,
    dup: bool,
    qos: QoS,
    retain: bool,
    topic: &str,
    packet_id: Option<PacketId>,
    properties: &PublishPropsOut<'_>,
    payload: &[u8],
) -> Result<(), EncodeError> {
    debug_assert_eq!(packet_id.is_some(), qos != QoS::AtMostOnce, "a packet id exactly where QoS is above 0");
    let topic_len = field_len(topic.len())?;
    let properties_len = if version == ProtocolVersion::V5 { properties.len() } else { 0 };
    if properties_len > MAX_REMAINING_LENGTH {
        return Err(EncodeError::PacketTooLong(properties_len));
    }
    for &identifier in properties.subscription_identifiers {
        check_subscription_identifier(identifier)?;
    }
    let remaining = remaining_len(version, topic.len(), packet_id.is_some(), properties_len, payload.len());
    let first = first_byte(dup, qos, retain);
    let [high, low] = topic_len.to_be_bytes();
    // slices of a known length are stores; others are calls
    match remaining {
        0..0x80 => {
            out.reserve(2 + remaining);
            out.extend_from_slice(&[first, remaining as u8, high, low]);
        }
        0x80..0x4000 => {
            out.reserve(3 + remaining);
            out.extend_from_slice(&[first, remaining as u8 | 0x80, (remaining >> 7) as u8, high, low]);
        }
        _ => {
            header(out, first, remaining)?;
            out.extend_from_slice(&[high, low]);
        }
    }
    out.extend_from_slice(topic.as_bytes());
    if let Some(packet_id) = packet_id {
        out.extend_from_slice(&packet_id.get().to_be_bytes());
    }
    if version == ProtocolVersion::V5 {
        if properties_len == 0 {
            out.push(0);
        } else {
            let mut bytes = [0; 4];
            let len = varint_bytes(properties_len as u32, &mut bytes);
            out.extend_from_slice(&bytes[..len]);
            properties.write(out);
        }
    }
    out.extend_from_slice(payload);
    Ok(())
}

#[inline]
fn first_byte(dup: bool, qos: QoS, retain: bool) -> u8 {
    0x30 | u8::from(dup) << 3 | (qos as u8) << 1 | u8::from(retain)
}

pub(super) fn publish(out: &mut Vec<u8>, version: ProtocolVersion, publish: &Publish<'_>) -> Written {
    packet(out, first_byte(publish.dup, publish.qos, publish.retain), |writer| {
        writer.binary(publish.topic.as_bytes())?;
        if let Some(packet_id) = publish.packet_id {
            writer.u16(packet_id.get());
        }
        if version == ProtocolVersion::V5 {
            writer.properties(|writer| publish_properties(writer, &publish.properties))?;
        }
        writer.bytes(publish.payload);
        Ok(())
    })
}

/// Appends the properties of a PUBLISH to a block that will be its `raw`: those that `properties` has as fields, without
/// user properties (see [`push_user_property`](crate::push_user_property)). Its `raw` is not read.
///
/// # Errors
/// A text or the correlation data is longer than MQTT allows.
pub fn push_publish_properties(block: &mut Vec<u8>, properties: &PublishProperties<'_>) -> Result<(), EncodeError> {
    let fields = PublishProperties { raw: &[], ..properties.clone() };
    append(block, |writer| publish_properties(writer, &fields))
}

fn publish_properties(writer: &mut Writer<'_>, properties: &PublishProperties<'_>) -> Written {
    if !properties.raw.is_empty() {
        writer.bytes(properties.raw);
        return Ok(());
    }
    writer.property_u8(id::PAYLOAD_FORMAT_INDICATOR, properties.payload_format_indicator);
    writer.property_u32(id::MESSAGE_EXPIRY_INTERVAL, properties.message_expiry_s);
    writer.property_u16(id::TOPIC_ALIAS, properties.topic_alias.map(|alias| alias.get()));
    writer.property_str(id::RESPONSE_TOPIC, properties.response_topic)?;
    writer.property_binary(id::CORRELATION_DATA, properties.correlation_data)?;
    writer.property_str(id::CONTENT_TYPE, properties.content_type)?;
    properties.subscription_identifier.map_or(Ok(()), |identifier| writer.subscription_identifier(identifier))
}

/// A will's properties: the delay, and those of the PUBLISH to come.
pub(super) fn will_properties(writer: &mut Writer<'_>, will: &Will<'_>) -> Written {
    if will.properties.raw.is_empty() && will.delay_s != 0 {
        writer.property_u32(id::WILL_DELAY_INTERVAL, Some(will.delay_s));
    }
    publish_properties(writer, &will.properties)
}
