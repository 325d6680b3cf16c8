//! The field's known holes, as far as a codec can have them. What sessions and sockets must do is tested where they are.

use super::super::ProtocolVersion::{V3_1_1, V5};
use super::super::Side::Client;
use super::super::rule;
use super::super::{DecodeErrorKind, Decoded, Packet, ReasonCode, decode, decode_connect, matches};
use super::refused::error;
use super::{body, context, decoded, packet, with_length};

/// mosquitto: a CONNECT that announces a huge remaining length had its memory allocated at once. Here the length is
/// refused by the header alone, and a length within the bound is only told: the decoder allocates nothing.
#[test]
fn cve_2017_7651_a_huge_connect_is_refused_by_its_header() {
    let error = decode_connect(&[0x10, 0xFF, 0xFF, 0xFF, 0x7F], 65_536).unwrap_err();
    assert_eq!((error.kind, error.reason), (DecodeErrorKind::PacketTooLarge, ReasonCode::PacketTooLarge));
    assert_eq!(decode_connect(&[0x10, 0xFF, 0x7F], 65_536), Ok(Decoded::Incomplete { needs: Some(3 + 0x3FFF) }));
}

/// mosquitto: a first packet that is no CONNECT was collected, however large. Here its first byte is enough.
#[test]
fn cve_2023_0809_a_first_packet_that_is_no_connect_is_refused_by_its_first_byte() {
    for first in (0..=u8::MAX).filter(|first| first >> 4 != 1) {
        let error = decode_connect(&[first], 65_536).unwrap_err();
        assert_eq!(error.clause, rule::FIRST_NOT_CONNECT.v5, "{first:02x}");
    }
}

/// VerneMQ: crafted packets made it take memory without bound. Here lengths inside a packet never reach beyond it: each
/// length field, set to its greatest value, is refused.
#[test]
fn cve_2021_33176_a_length_inside_a_packet_never_reaches_beyond_it() {
    let connect = body("'MQTT' 05 C6 0000 05 11 00000001 'c' 05 18 00000001 'w' 'm' 'u' 'p'");
    assert!(decode_connect(&with_length(0x10, &connect), 65_536).is_ok());
    // protocol name, properties, client id, will properties, topic, payload, user name, password
    for at in [0, 10, 16, 19, 25, 28, 31, 34] {
        let mut bytes = connect.clone();
        bytes[at] = 0xFF;
        bytes[at + 1] = 0x7F;
        let bytes = with_length(0x10, &bytes);
        assert!(decode_connect(&bytes, 65_536).is_err(), "the length at {at}");
    }
}

/// mosquitto: a will with properties of a wrong kind leaked. Here such a CONNECT is refused as a whole.
#[test]
fn cve_2023_3592_a_will_with_properties_of_a_wrong_kind_is_refused() {
    for property in ["11 00000001", "21 0001", "23 0001", "0B 01", "1F 'r'", "24 01", "7F 00"] {
        let block = body(property);
        let mut bytes = body("'MQTT' 05 06 0000 00 'c'");
        bytes.push(u8::try_from(block.len()).unwrap());
        bytes.extend(block);
        bytes.extend(body("'w' 'm'"));
        let error = decode_connect(&with_length(0x10, &bytes), 65_536).unwrap_err();
        assert_eq!(error.reason, ReasonCode::MalformedPacket, "{property}");
        assert_eq!(error.refusal.map(|refusal| (refusal.version, refusal.code)), Some((V5, 0x81)));
    }
}

/// mosquitto: a PUBLISH with a topic of length 0 crashed it.
#[test]
fn cve_2021_34432_an_empty_topic_is_refused() {
    assert_eq!(error(&packet(0x30, "''"), V3_1_1, Client).clause, "MQTT-4.7.3-1");
    assert_eq!(error(&packet(0x32, "'' 0001"), V3_1_1, Client).clause, "MQTT-4.7.3-1");
    assert_eq!(error(&packet(0x30, "'' 00"), V5, Client).reason, ReasonCode::ProtocolError);
}

/// NanoMQ: a Variable Byte Integer of five bytes was read past the packet's end. All places where one stands:
#[test]
fn cve_2026_21888_a_variable_byte_integer_of_five_bytes_is_refused() {
    let five = "80 80 80 80 01";
    let malformed = |bytes: &[u8]| {
        let error = decode(bytes, &context(V5, Client)).unwrap_err();
        assert_eq!((error.what, error.reason.as_u8()), (rule::VARINT_TOO_LONG.what, 0x81), "{bytes:02x?}");
    };
    malformed(&body(&format!("30 {five}")));
    malformed(&body(&format!("10 {five}")));
    malformed(&packet(0x10, &format!("'MQTT' 05 02 0000 {five} 'c'")));
    malformed(&packet(0x10, &format!("'MQTT' 05 06 0000 00 'c' {five} 'w' 'm'")));
    malformed(&packet(0x30, &format!("'a' {five}")));
    malformed(&packet(0x30, &format!("'a' 06 {five} 00")));
    malformed(&packet(0x40, &format!("0001 00 {five}")));
    malformed(&packet(0x82, &format!("0001 {five} 'a' 00")));
    malformed(&packet(0x82, &format!("0001 06 0B {five} 'a' 00")));
    malformed(&packet(0xA2, &format!("0001 {five} 'a'")));
    malformed(&packet(0xE0, &format!("00 {five}")));
    malformed(&packet(0xF0, &format!("18 {five}")));
    // and where the packet ends inside one
    for (first, text) in [(0x30, "'a' 80"), (0x30, "'a' 80 80 80"), (0xE0, "00 FF"), (0x82, "0001 80")] {
        assert_eq!(error(&packet(first, text), V5, Client).what, rule::ENDS_EARLY.what, "{text}");
    }
}

/// mosquitto: a PUBLISH to a topic that starts with `$`, but not with `$SYS`, crashed it.
#[test]
fn cve_2018_12543_any_topic_may_start_with_a_dollar() {
    for topic in ["$test/test", "$", "$/", "$$", "$SY"] {
        let mut bytes = vec![0, u8::try_from(topic.len()).unwrap()];
        bytes.extend_from_slice(topic.as_bytes());
        let bytes = with_length(0x30, &bytes);
        assert!(matches!(decoded(&bytes, V3_1_1, Client), Packet::Publish(publish) if publish.topic == topic));
        assert!(!matches("#", topic) && matches(topic, topic), "{topic}");
    }
}

/// mosquitto: a CONNACK sent by a client dereferenced NULL. Nothing that only a server sends is taken from a client.
#[test]
fn cve_2021_28166_a_servers_packet_from_a_client_is_refused() {
    for (first, text) in [(0x20, "00 00 00"), (0x90, "0001 00 00"), (0xB0, "0001 00 00"), (0xD0, "")] {
        let error = error(&packet(first, text), V5, Client);
        assert_eq!((error.what, error.reason.as_u8()), (rule::NOT_FROM_CLIENT.what, 0x82), "{first:02x}");
    }
}

/// mosquitto: many user properties in a CONNECT took quadratic time. Here they are walked once, and stay bytes.
#[test]
fn cve_2021_41039_many_user_properties_stay_bytes() {
    let pairs = 100_000;
    let block = body("26 'k' 'v'").repeat(pairs);
    let mut length = with_length(0, &block);
    length.remove(0);
    let bytes = with_length(0x10, &[body("'MQTT' 05 02 0000"), length, body("'c'")].concat());
    match decode_connect(&bytes, 1 << 20) {
        Ok(Decoded::Packet { packet, .. }) => assert_eq!(packet.properties.user_properties.iter().count(), pairs),
        other => panic!("{other:?}"),
    }
}
