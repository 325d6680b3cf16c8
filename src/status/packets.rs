//! Packets as JSON, for a trace: headers and properties; payloads only on request. Pure.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use weir_mqtt::{Ack, DecodeContext, Decoded, Packet, ProtocolVersion, Publish, Side, Subscribe, decode};

/// Bytes of a payload that are shown.
const PAYLOAD_SHOWN_BYTES: usize = 1024;

/// The whole packets of `bytes`, in order.
pub(super) fn packets(bytes: &[u8], version: ProtocolVersion, from: Side, payloads: bool) -> Vec<Value> {
    let context = DecodeContext { version, max_packet_size: u32::MAX, from };
    let (mut rest, mut found) = (bytes, Vec::new());
    while !rest.is_empty() {
        match decode(rest, &context) {
            Ok(Decoded::Packet { packet, len }) => {
                found.push(packet_json(&packet, len, payloads));
                rest = &rest[len..];
            }
            Ok(Decoded::Incomplete { .. }) => {
                found.push(json!({"packet": "incomplete", "bytes": rest.len()}));
                break;
            }
            Err(error) => {
                found.push(json!({"packet": "malformed", "bytes": rest.len(), "error": error.to_string()}));
                break;
            }
        }
    }
    found
}

fn packet_json(packet: &Packet<'_>, len: usize, payloads: bool) -> Value {
    let (name, fields) = match packet {
        Packet::Connect(_) => ("CONNECT", json!({})),
        Packet::ConnAck(ack) => {
            let assigned = ack.properties.assigned_client_id;
            ("CONNACK", json!({"code": ack.code, "sessionPresent": ack.session_present, "assignedClientId": assigned}))
        }
        Packet::Publish(publish) => ("PUBLISH", publish_json(publish, payloads)),
        Packet::PubAck(ack) => ("PUBACK", ack_json(ack)),
        Packet::PubRec(ack) => ("PUBREC", ack_json(ack)),
        Packet::PubRel(ack) => ("PUBREL", ack_json(ack)),
        Packet::PubComp(ack) => ("PUBCOMP", ack_json(ack)),
        Packet::Subscribe(subscribe) => ("SUBSCRIBE", subscribe_json(subscribe)),
        Packet::SubAck(ack) => ("SUBACK", json!({"packetId": ack.packet_id, "codes": ack.codes})),
        Packet::Unsubscribe(unsubscribe) => {
            let filters: Vec<&str> = unsubscribe.filters().collect();
            ("UNSUBSCRIBE", json!({"packetId": unsubscribe.packet_id, "filters": filters}))
        }
        Packet::UnsubAck(ack) => ("UNSUBACK", json!({"packetId": ack.packet_id, "codes": ack.codes})),
        Packet::PingReq => ("PINGREQ", json!({})),
        Packet::PingResp => ("PINGRESP", json!({})),
        Packet::Disconnect(disconnect) => {
            let reference = disconnect.server_reference;
            let reason = disconnect.reason_string;
            ("DISCONNECT", json!({"code": disconnect.code, "reason": reason, "serverReference": reference}))
        }
        // Its data is a credential.
        Packet::Auth(auth) => ("AUTH", json!({"code": auth.code, "method": auth.authentication_method})),
    };
    let mut all = Map::new();
    all.insert("packet".to_owned(), json!(name));
    all.insert("bytes".to_owned(), json!(len));
    if let Value::Object(fields) = fields {
        all.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
    }
    Value::Object(all)
}

fn publish_json(publish: &Publish<'_>, payloads: bool) -> Value {
    let mut fields = json!({
        "topic": publish.topic,
        "topicAlias": publish.properties.topic_alias,
        "qos": publish.qos as u8,
        "retain": publish.retain,
        "dup": publish.dup,
        "packetId": publish.packet_id,
        "expiryS": publish.properties.message_expiry_s,
        "payloadBytes": publish.payload.len(),
    });
    if let (true, Value::Object(fields)) = (payloads, &mut fields) {
        let shown = &publish.payload[..publish.payload.len().min(PAYLOAD_SHOWN_BYTES)];
        match std::str::from_utf8(shown) {
            Ok(text) => fields.insert("payload".to_owned(), json!(text)),
            Err(_) => fields.insert("payloadBase64".to_owned(), json!(BASE64_STANDARD.encode(shown))),
        };
    }
    fields
}

fn ack_json(ack: &Ack<'_>) -> Value {
    json!({"packetId": ack.packet_id, "code": ack.code, "reason": ack.reason_string})
}

fn subscribe_json(subscribe: &Subscribe<'_>) -> Value {
    let filters: Vec<Value> = subscribe
        .filters()
        .map(|filter| json!({"filter": filter.filter, "qos": filter.options.qos as u8, "noLocal": filter.options.no_local}))
        .collect();
    json!({"packetId": subscribe.packet_id, "filters": filters})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PUBLISH QoS 1 to `a/b`, PINGREQ, and the beginning of something.
    const BYTES: &[u8] = b"\x32\x0a\x00\x03a/b\x00\x07\x00hi\xc0\x00\x30";

    #[test]
    fn packets_are_shown_without_payloads() {
        let found = packets(BYTES, ProtocolVersion::V5, Side::Client, false);
        let publish = json!({"packet": "PUBLISH", "bytes": 12, "topic": "a/b", "qos": 1, "retain": false, "dup": false,
            "packetId": 7, "payloadBytes": 2});
        assert_eq!(
            found,
            [publish, json!({"packet": "PINGREQ", "bytes": 2}), json!({"packet": "incomplete", "bytes": 1})]
        );
    }

    #[test]
    fn payloads_are_shown_on_request() {
        let found = packets(BYTES, ProtocolVersion::V5, Side::Client, true);
        assert_eq!(found[0]["payload"], json!("hi"));
        let binary = packets(b"\x30\x05\x00\x01a\xff\xfe", ProtocolVersion::V3_1_1, Side::Client, true);
        assert_eq!(binary[0]["payloadBase64"], json!("//4="));
    }
}
