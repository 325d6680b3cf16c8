//! What the encoder writes, and what it refuses to write.

use std::num::NonZeroU16;

use super::super::ProtocolVersion::{V3_1, V3_1_1, V5};
use super::super::Side::Server;
use super::super::*;
use super::{body, context, decoded, packet};

fn id(value: u16) -> PacketId {
    NonZeroU16::new(value).unwrap()
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vec![0xEE];
    write(&mut bytes);
    assert_eq!(bytes.remove(0), 0xEE, "what was there stays");
    bytes
}

#[test]
fn acknowledgements_are_as_short_as_they_can_be() {
    let success = ReasonCode::Success;
    assert_eq!(written(|out| puback(out, V3_1_1, id(0x1234), ReasonCode::QuotaExceeded)), body("40 02 1234"));
    assert_eq!(written(|out| puback(out, V5, id(1), success)), body("40 02 0001"));
    assert_eq!(written(|out| puback(out, V5, id(1), ReasonCode::NoMatchingSubscribers)), body("40 03 0001 10"));
    assert_eq!(written(|out| pubrec(out, V5, id(1), ReasonCode::QuotaExceeded)), body("50 03 0001 97"));
    assert_eq!(written(|out| pubrel(out, V3_1, id(1), success)), body("62 02 0001"));
    assert_eq!(written(|out| pubcomp(out, V5, id(1), ReasonCode::PacketIdentifierNotFound)), body("70 03 0001 92"));
    assert_eq!(written(pingreq), body("C0 00"));
    assert_eq!(written(pingresp), body("D0 00"));
}

#[test]
fn suback_has_a_code_for_each_filter() {
    let of = |version, codes: &[u8]| written(|out| suback(out, version, id(1), codes).unwrap());
    assert_eq!(of(V5, &[0, 1, 2, 0x8F]), body("90 07 0001 00 00 01 02 8F"));
    assert_eq!(of(V3_1_1, &[0, 1, 2, 0x8F, 0x80]), body("90 07 0001 00 01 02 80 80"));
    let of = |version, codes: &[u8]| written(|out| unsuback(out, version, id(1), codes).unwrap());
    assert_eq!(of(V5, &[0, 0x11]), body("B0 05 0001 00 00 11"));
    assert_eq!(of(V3_1_1, &[0, 0x11]), body("B0 02 0001"));
}

#[test]
fn connack_is_written_for_each_version() {
    let properties = ConnAckProperties {
        receive_maximum: NonZeroU16::new(10),
        maximum_qos: Some(QoS::ExactlyOnce),
        assigned_client_id: Some("id"),
        reason_string: Some("why"),
        ..ConnAckProperties::default()
    };
    let of = |version, present, code| written(|out| connack(out, version, present, code, &properties).unwrap());
    assert_eq!(of(V3_1, true, 0), body("20 02 00 00"));
    assert_eq!(of(V3_1_1, true, 0), body("20 02 01 00"));
    assert_eq!(of(V3_1_1, false, 5), body("20 02 00 05"));
    // a Maximum QoS of 2 is said by leaving it out
    assert_eq!(of(V5, false, 0), packet(0x20, "00 00 0E 21 000A 12 'id' 1F 'why'"));
}

#[test]
fn disconnect_and_auth_are_as_short_as_they_can_be() {
    let of = |version, packet: Disconnect<'_>| written(|out| disconnect(out, version, &packet).unwrap());
    assert_eq!(of(V3_1_1, Disconnect { code: 0x8E, ..Disconnect::default() }), body("E0 00"));
    assert_eq!(of(V5, Disconnect::default()), body("E0 00"));
    assert_eq!(of(V5, Disconnect { code: 0x8E, ..Disconnect::default() }), body("E0 01 8E"));
    let moved = Disconnect { code: 0x9D, server_reference: Some("b:1883"), ..Disconnect::default() };
    assert_eq!(of(V5, moved), packet(0xE0, "9D 09 1C 'b:1883'"));
    let packet_of = Auth { code: 0x18, authentication_method: Some("m"), ..Auth::default() };
    assert_eq!(written(|out| auth(out, V5, &packet_of).unwrap()), body("F0 06 18 04 15 'm'"));
    assert_eq!(written(|out| auth(out, V5, &Auth::default()).unwrap()), body("F0 00"));
    assert_eq!(auth(&mut Vec::new(), V3_1_1, &packet_of), Err(EncodeError::NotInThisVersion("AUTH")));
}

#[test]
fn a_publish_is_made_of_its_parts() {
    let pieces = [body("01 01"), body("26 'k' 'v'")];
    let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
    let properties = PublishPropsOut {
        pieces: &pieces,
        message_expiry_s: Some(10),
        topic_alias: Some(3),
        subscription_identifiers: &[1, 128, 268_435_455],
    };
    let plain = PublishPropsOut::default();
    type Row<'a> = (ProtocolVersion, bool, QoS, bool, &'a str, u16, &'a PublishPropsOut<'a>, u8, &'a str);
    #[rustfmt::skip] // a table
    let cases: &[Row<'_>] = &[
        (V3_1_1, false, QoS::AtMostOnce, false, "a", 0, &plain, 0x30, "'a' \"pay\""),
        (V3_1_1, true, QoS::AtLeastOnce, true, "a", 7, &properties, 0x3B, "'a' 0007 \"pay\""),
        (V5, false, QoS::AtMostOnce, true, "a", 0, &plain, 0x31, "'a' 00 \"pay\""),
        (V5, false, QoS::ExactlyOnce, false, "", 7, &properties, 0x34,
            "'' 0007 1B 02 0000000A 23 0003 0B 01 0B 8001 0B FFFFFF7F 01 01 26 'k' 'v' \"pay\""),
    ];
    for (version, dup, qos, retain, topic, packet_id, properties, first, text) in cases {
        let bytes = written(|out| {
            let packet_id = NonZeroU16::new(*packet_id);
            encode_publish_parts(out, *version, *dup, *qos, *retain, topic, packet_id, properties, b"pay").unwrap();
        });
        assert_eq!(bytes, packet(*first, text));
        assert_eq!(publish_len(*version, *qos, topic.len(), properties, 3), bytes.len(), "{text}");
    }
}

/// At each length where the fixed header or the property length grows by a byte.
#[test]
fn publish_len_is_the_length_at_every_step() {
    for len in
        [0, 100, 120, 121, 122, 123, 124, 125, 126, 127, 128, 16_370, 16_379, 16_380, 16_384, 2_097_140, 2_097_152]
    {
        let payload = vec![b'x'; len];
        let piece = [body("26"), vec![0, 1, b'k'], vec![(len.min(60_000) >> 8) as u8, len.min(60_000) as u8]].concat();
        let piece = [piece, vec![b'v'; len.min(60_000)]].concat();
        for (version, pieces) in [(V3_1_1, &[][..]), (V5, &[][..]), (V5, &[&piece[..]][..])] {
            let properties = PublishPropsOut { pieces, ..PublishPropsOut::default() };
            let mut bytes = Vec::new();
            let qos = QoS::AtLeastOnce;
            encode_publish_parts(&mut bytes, version, false, qos, false, "t", Some(id(1)), &properties, &payload)
                .unwrap();
            assert_eq!(publish_len(version, qos, 1, &properties, len), bytes.len(), "{len}");
            let context = DecodeContext { max_packet_size: u32::MAX, ..context(version, Server) };
            match decode(&bytes, &context) {
                Ok(Decoded::Packet { packet: Packet::Publish(publish), len }) => {
                    assert_eq!((publish.payload, len), (&payload[..], bytes.len()));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn what_is_too_long_is_refused_and_leaves_the_buffer_alone() {
    let long = "x".repeat(65_536);
    let mut out = vec![1, 2, 3];
    let properties = PublishPropsOut::default();
    let refused = encode_publish_parts(&mut out, V5, false, QoS::AtMostOnce, false, &long, None, &properties, b"");
    assert_eq!(refused, Err(EncodeError::FieldTooLong(65_536)));
    for identifier in [0, 268_435_456] {
        let properties = PublishPropsOut { subscription_identifiers: &[identifier], ..PublishPropsOut::default() };
        let refused = encode_publish_parts(&mut out, V5, false, QoS::AtMostOnce, false, "a", None, &properties, b"");
        assert_eq!(refused, Err(EncodeError::SubscriptionIdentifier(identifier)));
    }
    let reason_string = ConnAckProperties { reason_string: Some(&long), ..ConnAckProperties::default() };
    assert_eq!(connack(&mut out, V5, false, 0x80, &reason_string), Err(EncodeError::FieldTooLong(65_536)));
    let reference = Disconnect { server_reference: Some(&long), ..Disconnect::default() };
    assert_eq!(disconnect(&mut out, V5, &reference), Err(EncodeError::FieldTooLong(65_536)));
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn a_packet_longer_than_mqtt_has_room_for_is_refused() {
    let payload = vec![0; MAX_REMAINING_LENGTH - 2];
    let mut out = Vec::new();
    let properties = PublishPropsOut::default();
    let refused =
        encode_publish_parts(&mut out, V3_1_1, false, QoS::AtMostOnce, false, "a", None, &properties, &payload);
    assert_eq!(refused, Err(EncodeError::PacketTooLong(MAX_REMAINING_LENGTH + 1)));
    assert!(out.is_empty());
}

/// Packets made by hand, without a raw block: their fields are written.
#[test]
fn the_fields_of_a_publish_without_a_block_are_written() {
    let properties = PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_s: Some(10),
        topic_alias: NonZeroU16::new(2),
        response_topic: Some("r"),
        correlation_data: Some(b"d"),
        content_type: Some("t"),
        subscription_identifier: Some(5),
        raw: &[],
    };
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "a",
        packet_id: None,
        properties: properties.clone(),
        payload: b"p",
    };
    let bytes = super::encoded(&Packet::Publish(publish), V5);
    let Packet::Publish(read) = decoded(&bytes, V5, Server) else { panic!() };
    assert_eq!(PublishProperties { raw: &[], ..read.properties }, properties);
}
