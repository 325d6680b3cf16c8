//! CONNECT and CONNACK.

use super::publish::will_properties;
use super::writer::{Writer, Written, packet};
use crate::property::id;
use crate::{ConnAckProperties, Connect, ConnectProperties, EncodeError, ProtocolVersion, QoS};

pub(super) fn connect(out: &mut Vec<u8>, connect: &Connect<'_>) -> Written {
    let (name, level) = match connect.version {
        ProtocolVersion::V3_1 => ("MQIsdp", 3),
        ProtocolVersion::V3_1_1 => ("MQTT", 4),
        ProtocolVersion::V5 => ("MQTT", 5),
    };
    packet(out, 0x10, |writer| {
        writer.binary(name.as_bytes())?;
        writer.u8(level | u8::from(connect.bridge) << 7);
        writer.u8(connect_flags(connect));
        writer.u16(connect.keep_alive_s);
        if connect.version == ProtocolVersion::V5 {
            writer.properties(|writer| connect_properties(writer, &connect.properties))?;
        }
        writer.binary(connect.client_id.as_bytes())?;
        if let Some(will) = &connect.will {
            if connect.version == ProtocolVersion::V5 {
                writer.properties(|writer| will_properties(writer, will))?;
            }
            writer.binary(will.topic.as_bytes())?;
            writer.binary(will.payload)?;
        }
        if let Some(username) = connect.username {
            writer.binary(username.as_bytes())?;
        }
        connect.password.map_or(Ok(()), |password| writer.binary(password))
    })
}

fn connect_flags(connect: &Connect<'_>) -> u8 {
    let will = connect.will.as_ref().map_or(0, |will| 0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5);
    u8::from(connect.clean_start) << 1
        | will
        | u8::from(connect.password.is_some()) << 6
        | u8::from(connect.username.is_some()) << 7
}

fn connect_properties(writer: &mut Writer<'_>, properties: &ConnectProperties<'_>) -> Written {
    writer.property_u32(id::SESSION_EXPIRY_INTERVAL, properties.session_expiry_s);
    writer.property_u16(id::RECEIVE_MAXIMUM, properties.receive_maximum.map(|maximum| maximum.get()));
    writer.property_u32(id::MAXIMUM_PACKET_SIZE, properties.maximum_packet_size);
    writer.property_u16(id::TOPIC_ALIAS_MAXIMUM, properties.topic_alias_maximum);
    writer.property_bool(id::REQUEST_RESPONSE_INFORMATION, properties.request_response_information);
    writer.property_bool(id::REQUEST_PROBLEM_INFORMATION, properties.request_problem_information);
    writer.property_str(id::AUTHENTICATION_METHOD, properties.authentication_method)?;
    writer.property_binary(id::AUTHENTICATION_DATA, properties.authentication_data)?;
    writer.user_properties(properties.user_properties);
    Ok(())
}

/// Appends a CONNACK. `code` is the return code for 3.x, the reason code for 5.0; MQTT 3.1 is told no session present.
pub fn connack(
    out: &mut Vec<u8>,
    version: ProtocolVersion,
    session_present: bool,
    code: u8,
    properties: &ConnAckProperties<'_>,
) -> Result<(), EncodeError> {
    packet(out, 0x20, |writer| {
        writer.u8(u8::from(session_present && version != ProtocolVersion::V3_1));
        writer.u8(code);
        if version == ProtocolVersion::V5 {
            writer.properties(|writer| connack_properties(writer, properties))?;
        }
        Ok(())
    })
}

fn connack_properties(writer: &mut Writer<'_>, properties: &ConnAckProperties<'_>) -> Written {
    writer.property_u32(id::SESSION_EXPIRY_INTERVAL, properties.session_expiry_s);
    writer.property_u16(id::RECEIVE_MAXIMUM, properties.receive_maximum.map(|maximum| maximum.get()));
    // QoS 2 is said by leaving it out: the property is 0 or 1
    writer.property_u8(
        id::MAXIMUM_QOS,
        properties.maximum_qos.filter(|&qos| qos != QoS::ExactlyOnce).map(|qos| qos as u8),
    );
    writer.property_bool(id::RETAIN_AVAILABLE, properties.retain_available);
    writer.property_u32(id::MAXIMUM_PACKET_SIZE, properties.maximum_packet_size);
    writer.property_str(id::ASSIGNED_CLIENT_IDENTIFIER, properties.assigned_client_id)?;
    writer.property_u16(id::TOPIC_ALIAS_MAXIMUM, properties.topic_alias_maximum);
    writer.property_str(id::REASON_STRING, properties.reason_string)?;
    writer.property_bool(id::WILDCARD_SUBSCRIPTION_AVAILABLE, properties.wildcard_subscription_available);
    writer.property_bool(id::SUBSCRIPTION_IDENTIFIER_AVAILABLE, properties.subscription_identifiers_available);
    writer.property_bool(id::SHARED_SUBSCRIPTION_AVAILABLE, properties.shared_subscription_available);
    writer.property_u16(id::SERVER_KEEP_ALIVE, properties.server_keep_alive_s);
    writer.property_str(id::RESPONSE_INFORMATION, properties.response_information)?;
    writer.property_str(id::SERVER_REFERENCE, properties.server_reference)?;
    writer.property_str(id::AUTHENTICATION_METHOD, properties.authentication_method)?;
    writer.property_binary(id::AUTHENTICATION_DATA, properties.authentication_data)?;
    writer.user_properties(properties.user_properties);
    Ok(())
}
