//! Everything but CONNECT, CONNACK and PUBLISH.

use super::writer::{Writer, Written, packet};
use crate::property::id;
use crate::{
    Ack, Auth, Disconnect, EncodeError, PacketId, ProtocolVersion, ReasonCode, SubAck, Subscribe, Unsubscribe,
    UserProperties,
};

pub(super) const PUBACK: u8 = 0x40;
pub(super) const PUBREC: u8 = 0x50;
pub(super) const PUBREL: u8 = 0x62;
pub(super) const PUBCOMP: u8 = 0x70;

/// Appends a PUBACK without properties.
#[inline]
pub fn puback(out: &mut Vec<u8>, version: ProtocolVersion, packet_id: PacketId, code: ReasonCode) {
    short_ack(out, version, PUBACK, packet_id, code);
}

/// Appends a PUBREC without properties.
#[inline]
pub fn pubrec(out: &mut Vec<u8>, version: ProtocolVersion, packet_id: PacketId, code: ReasonCode) {
    short_ack(out, version, PUBREC, packet_id, code);
}

/// Appends a PUBREL without properties.
#[inline]
pub fn pubrel(out: &mut Vec<u8>, version: ProtocolVersion, packet_id: PacketId, code: ReasonCode) {
    short_ack(out, version, PUBREL, packet_id, code);
}

/// Appends a PUBCOMP without properties.
#[inline]
pub fn pubcomp(out: &mut Vec<u8>, version: ProtocolVersion, packet_id: PacketId, code: ReasonCode) {
    short_ack(out, version, PUBCOMP, packet_id, code);
}

#[inline]
fn short_ack(out: &mut Vec<u8>, version: ProtocolVersion, first: u8, packet_id: PacketId, code: ReasonCode) {
    let [high, low] = packet_id.get().to_be_bytes();
    if version == ProtocolVersion::V5 && code != ReasonCode::Success {
        out.extend_from_slice(&[first, 3, high, low, code.as_u8()]);
    } else {
        out.extend_from_slice(&[first, 2, high, low]);
    }
}

/// An acknowledgement with all it has; success without properties in the short form.
pub(super) fn ack(out: &mut Vec<u8>, version: ProtocolVersion, first: u8, ack: &Ack<'_>) -> Written {
    let bare = ack.reason_string.is_none() && ack.user_properties.is_empty();
    packet(out, first, |writer| {
        writer.u16(ack.packet_id.get());
        if version != ProtocolVersion::V5 || bare && ack.code == 0 {
            return Ok(());
        }
        writer.u8(ack.code);
        if bare { Ok(()) } else { reason_properties(writer, ack.reason_string, ack.user_properties) }
    })
}

/// A block of a reason string and user properties.
fn reason_properties(writer: &mut Writer<'_>, reason: Option<&str>, user: UserProperties<'_>) -> Written {
    writer.properties(|writer| {
        writer.property_str(id::REASON_STRING, reason)?;
        writer.user_properties(user);
        Ok(())
    })
}

/// Appends a SUBACK without properties: a code for each filter [MQTT-3.9.3-1]. For 3.x each failure is 0x80
/// [MQTT-3.9.3-2].
pub fn suback(
    out: &mut Vec<u8>,
    version: ProtocolVersion,
    packet_id: PacketId,
    codes: &[u8],
) -> Result<(), EncodeError> {
    suback_with(
        out,
        version,
        &SubAck { packet_id, reason_string: None, user_properties: UserProperties::default(), codes },
    )
}

pub(super) fn suback_with(out: &mut Vec<u8>, version: ProtocolVersion, ack: &SubAck<'_>) -> Written {
    packet(out, 0x90, |writer| {
        writer.u16(ack.packet_id.get());
        if version == ProtocolVersion::V5 {
            reason_properties(writer, ack.reason_string, ack.user_properties)?;
            writer.bytes(ack.codes);
        } else {
            ack.codes.iter().for_each(|&code| writer.u8(code.min(ReasonCode::UnspecifiedError.as_u8())));
        }
        Ok(())
    })
}

/// Appends an UNSUBACK without properties: a code for each filter [MQTT-3.11.3-1]; 3.x has no codes.
pub fn unsuback(
    out: &mut Vec<u8>,
    version: ProtocolVersion,
    packet_id: PacketId,
    codes: &[u8],
) -> Result<(), EncodeError> {
    unsuback_with(
        out,
        version,
        &SubAck { packet_id, reason_string: None, user_properties: UserProperties::default(), codes },
    )
}

pub(super) fn unsuback_with(out: &mut Vec<u8>, version: ProtocolVersion, ack: &SubAck<'_>) -> Written {
    packet(out, 0xB0, |writer| {
        writer.u16(ack.packet_id.get());
        if version == ProtocolVersion::V5 {
            reason_properties(writer, ack.reason_string, ack.user_properties)?;
            writer.bytes(ack.codes);
        }
        Ok(())
    })
}

pub(super) fn subscribe(out: &mut Vec<u8>, version: ProtocolVersion, subscribe: &Subscribe<'_>) -> Written {
    packet(out, 0x82, |writer| {
        writer.u16(subscribe.packet_id.get());
        if version == ProtocolVersion::V5 {
            writer.properties(|writer| {
                if let Some(identifier) = subscribe.subscription_identifier {
                    writer.subscription_identifier(identifier)?;
                }
                writer.user_properties(subscribe.user_properties);
                Ok(())
            })?;
        }
        writer.bytes(subscribe.raw_filters);
        Ok(())
    })
}

pub(super) fn unsubscribe(out: &mut Vec<u8>, version: ProtocolVersion, unsubscribe: &Unsubscribe<'_>) -> Written {
    packet(out, 0xA2, |writer| {
        writer.u16(unsubscribe.packet_id.get());
        if version == ProtocolVersion::V5 {
            writer.properties(|writer| {
                writer.user_properties(unsubscribe.user_properties);
                Ok(())
            })?;
        }
        writer.bytes(unsubscribe.raw_filters);
        Ok(())
    })
}

/// Appends a PINGREQ.
pub fn pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xC0, 0]);
}

/// Appends a PINGRESP.
#[inline]
pub fn pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xD0, 0]);
}

/// Appends a DISCONNECT. In 3.x it has no body, and only a client sends it.
pub fn disconnect(out: &mut Vec<u8>, version: ProtocolVersion, disconnect: &Disconnect<'_>) -> Result<(), EncodeError> {
    let bare = disconnect.session_expiry_s.is_none()
        && disconnect.reason_string.is_none()
        && disconnect.server_reference.is_none()
        && disconnect.user_properties.is_empty();
    packet(out, 0xE0, |writer| {
        if version != ProtocolVersion::V5 || bare && disconnect.code == 0 {
            return Ok(());
        }
        writer.u8(disconnect.code);
        if bare {
            return Ok(());
        }
        writer.properties(|writer| {
            writer.property_u32(id::SESSION_EXPIRY_INTERVAL, disconnect.session_expiry_s);
            writer.property_str(id::REASON_STRING, disconnect.reason_string)?;
            writer.property_str(id::SERVER_REFERENCE, disconnect.server_reference)?;
            writer.user_properties(disconnect.user_properties);
            Ok(())
        })
    })
}

/// Appends an AUTH, 5.0 only.
pub fn auth(out: &mut Vec<u8>, version: ProtocolVersion, auth: &Auth<'_>) -> Result<(), EncodeError> {
    if version != ProtocolVersion::V5 {
        return Err(EncodeError::NotInThisVersion("AUTH"));
    }
    let bare = auth.authentication_method.is_none()
        && auth.authentication_data.is_none()
        && auth.reason_string.is_none()
        && auth.user_properties.is_empty();
    packet(out, 0xF0, |writer| {
        if bare && auth.code == 0 {
            return Ok(());
        }
        writer.u8(auth.code);
        writer.properties(|writer| {
            writer.property_str(id::AUTHENTICATION_METHOD, auth.authentication_method)?;
            writer.property_binary(id::AUTHENTICATION_DATA, auth.authentication_data)?;
            writer.property_str(id::REASON_STRING, auth.reason_string)?;
            writer.user_properties(auth.user_properties);
            Ok(())
        })
    })
}
