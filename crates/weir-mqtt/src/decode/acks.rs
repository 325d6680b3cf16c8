//! The acknowledgements, DISCONNECT and AUTH. Chapters 3.4 to 3.7, 3.9, 3.11, 3.14, 3.15.

use super::properties::{self, Properties};
use super::reader::Reader;
use crate::property::{self, id};
use crate::rule::{self, Broken};
use crate::{Ack, Auth, Disconnect, ProtocolVersion, Side, SubAck, UserProperties, reason};

/// Which codes an acknowledgement may carry, and the rule that says so.
#[derive(Clone, Copy)]
pub(super) struct Codes {
    legal: fn(u8) -> bool,
    rule: Broken,
}

pub(super) const PUBACK: Codes = Codes { legal: reason::legal_in_puback, rule: &rule::PUBACK_CODE };
pub(super) const PUBREC: Codes = Codes { legal: reason::legal_in_puback, rule: &rule::PUBREC_CODE };
pub(super) const PUBREL: Codes = Codes { legal: reason::legal_in_pubrel, rule: &rule::PUBREL_CODE };
pub(super) const PUBCOMP: Codes = Codes { legal: reason::legal_in_pubrel, rule: &rule::PUBCOMP_CODE };

/// PUBACK, PUBREC, PUBREL, PUBCOMP. In 5.0 the properties may be left out, and the code with them.
#[inline]
pub(super) fn ack(mut reader: Reader<'_>, version: ProtocolVersion, codes: Codes) -> Result<Ack<'_>, Broken> {
    let packet_id = reader.packet_id()?;
    let mut ack = Ack { packet_id, code: 0, reason_string: None, user_properties: UserProperties::default() };
    if version == ProtocolVersion::V5 && !reader.is_empty() {
        ack.code = reader.u8()?;
        if !(codes.legal)(ack.code) {
            return Err(codes.rule);
        }
        if !reader.is_empty() {
            (ack.reason_string, ack.user_properties) = properties::ack(&mut reader)?;
        }
    }
    reader.end()?;
    Ok(ack)
}

pub(super) fn suback(mut reader: Reader<'_>, version: ProtocolVersion) -> Result<SubAck<'_>, Broken> {
    let packet_id = reader.packet_id()?;
    let (reason_string, user_properties) = match version {
        ProtocolVersion::V5 => properties::ack(&mut reader)?,
        _ => Default::default(),
    };
    let codes = reader.rest();
    if codes.is_empty() {
        return Err(&rule::SUBACK_EMPTY);
    }
    if !codes.iter().all(|&code| reason::legal_in_suback(version, code)) {
        return Err(&rule::SUBACK_CODE);
    }
    Ok(SubAck { packet_id, reason_string, user_properties, codes })
}

pub(super) fn unsuback(mut reader: Reader<'_>, version: ProtocolVersion) -> Result<SubAck<'_>, Broken> {
    let packet_id = reader.packet_id()?;
    if version != ProtocolVersion::V5 {
        reader.end()?;
        return Ok(SubAck { packet_id, reason_string: None, user_properties: UserProperties::default(), codes: &[] });
    }
    let (reason_string, user_properties) = properties::ack(&mut reader)?;
    let codes = reader.rest();
    if codes.is_empty() {
        return Err(&rule::UNSUBACK_EMPTY);
    }
    if !codes.iter().all(|&code| reason::legal_in_unsuback(code)) {
        return Err(&rule::UNSUBACK_CODE);
    }
    Ok(SubAck { packet_id, reason_string, user_properties, codes })
}

/// DISCONNECT. In 5.0 the properties may be left out, and the code with them; in 3.x there is no body.
pub(super) fn disconnect(
    mut reader: Reader<'_>,
    version: ProtocolVersion,
    from: Side,
) -> Result<Disconnect<'_>, Broken> {
    let mut disconnect = Disconnect::default();
    if version == ProtocolVersion::V5 && !reader.is_empty() {
        disconnect.code = reader.u8()?;
        if !reason::legal_in_disconnect(from, disconnect.code) {
            return Err(&rule::DISCONNECT_CODE);
        }
        if !reader.is_empty() {
            disconnect_properties(&mut reader, from, &mut disconnect)?;
        }
    }
    reader.end()?;
    Ok(disconnect)
}

fn disconnect_properties<'a>(
    reader: &mut Reader<'a>,
    from: Side,
    disconnect: &mut Disconnect<'a>,
) -> Result<(), Broken> {
    disconnect.user_properties = Properties::read(reader, property::IN_DISCONNECT)?.each(|id, value| {
        match id {
            id::SESSION_EXPIRY_INTERVAL if from == Side::Server => return Err(&rule::DISCONNECT_EXPIRY_FROM_SERVER),
            id::SESSION_EXPIRY_INTERVAL => disconnect.session_expiry_s = Some(value.u32()?),
            id::SERVER_REFERENCE => disconnect.server_reference = Some(value.string()?),
            id::REASON_STRING => disconnect.reason_string = Some(value.string()?),
            _ => properties::user_property(value)?,
        }
        Ok(())
    })?;
    Ok(())
}

/// AUTH. Without a body it is a success without properties, which only a server can say.
pub(super) fn auth(mut reader: Reader<'_>, from: Side) -> Result<Auth<'_>, Broken> {
    let mut auth = Auth::default();
    let bare = reader.is_empty();
    if !bare {
        auth.code = reader.u8()?;
    }
    if !reason::legal_in_auth(from, auth.code) {
        return Err(&rule::AUTH_CODE);
    }
    if bare {
        return Ok(auth);
    }
    auth.user_properties = Properties::read(&mut reader, property::IN_AUTH)?.each(|id, value| {
        match id {
            id::AUTHENTICATION_METHOD => auth.authentication_method = Some(value.string()?),
            id::AUTHENTICATION_DATA => auth.authentication_data = Some(value.binary()?),
            id::REASON_STRING => auth.reason_string = Some(value.string()?),
            _ => properties::user_property(value)?,
        }
        Ok(())
    })?;
    if auth.authentication_method.is_none() {
        return Err(&rule::AUTH_METHOD_MISSING);
    }
    reader.end()?;
    Ok(auth)
}
