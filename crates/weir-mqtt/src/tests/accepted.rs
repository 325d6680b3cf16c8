//! What must be taken, and that it is written back byte by byte.

use super::super::ProtocolVersion::{V3_1, V3_1_1, V5};
use super::super::Side::{Client, Server};
use super::super::{Packet, ProtocolVersion, QoS, RetainHandling, Side, rule};
use super::{decoded, encoded, packet};

/// First byte and body of a packet that is right.
pub(super) type Row = (ProtocolVersion, Side, u8, &'static str);

/// In the form the encoder writes: these come back as they were.
#[rustfmt::skip] // a table
pub(super) static CANONICAL: &[Row] = &[
    (V3_1, Client, 0x10, "'MQIsdp' 03 02 003C 'c'"),
    (V3_1, Client, 0x10, "'MQIsdp' 83 02 003C 'bridge'"),
    (V3_1, Client, 0x10, "'MQIsdp' 03 00 003C 'much-longer-than-23-characters'"),
    (V3_1_1, Client, 0x10, "'MQTT' 04 02 0000 ''"),
    (V3_1_1, Client, 0x10, "'MQTT' 84 00 FFFF 'bridge'"),
    (V3_1_1, Client, 0x10, "'MQTT' 04 F6 000A 'c' 'will/topic' 'gone' 'user' 'password'"),
    (V3_1_1, Client, 0x10, "'MQTT' 04 82 000A 'c' ''"),
    (V3_1_1, Client, 0x10, "'MQTT' 04 C2 000A 'c' 'u' 0003 00FF80"), // a password is binary
    (V3_1_1, Client, 0x10, "'MQTT' 04 06 000A 'c' 'w' ''"),
    (V5, Client, 0x10, "'MQTT' 05 00 0000 00 ''"),
    (V5, Client, 0x10, "'MQTT' 05 42 0000 00 'c' 'token'"), // a password without a user name
    (V5, Client, 0x10, "'MQTT' 05 02 0000 08 15 'm' 16 'd' 'c'"),
    (V5, Client, 0x10, "'MQTT' 05 02 0000 05 11 FFFFFFFF 'c'"),
    (V5, Client, 0x10, "'MQTT' 05 02 0000 08 21 0001 27 00000001 'c'"),
    (V5, Client, 0x10, "'MQTT' 05 EE 0000 00 'c' [ 18 0000000A 01 01 02 0000000A 03 't' 08 'r' 09 'd' ] 'w' 'm' 'u' 'p'"),
    (V3_1, Server, 0x20, "00 00"),
    (V3_1_1, Server, 0x20, "01 00"),
    (V3_1_1, Server, 0x20, "00 05"),
    (V5, Server, 0x20, "00 00 00"),
    (V5, Server, 0x20, "00 9F 04 1F 'r'"),
    (V5, Server, 0x20, "01 00 [ 11 00000001 21 0001 24 01 25 00 27 00000001 12 'i' 22 0001 28 01 29 01 2A 01 13 0001 ]"),
    (V3_1_1, Client, 0x30, "'a'"),
    (V3_1_1, Client, 0x30, "'/' \"payload\""),
    (V3_1_1, Client, 0x31, "'//' 00FF"),
    (V3_1_1, Client, 0x3D, "'a/b' FFFF \"payload\""),
    (V3_1_1, Client, 0x30, "'$test/test'"),
    (V5, Client, 0x30, "'a' 00"),
    (V5, Client, 0x30, "'' 03 23 0001"),
    (V5, Client, 0x32, "'a' 0001 03 23 FFFF \"x\""),
    (V5, Client, 0x30, "'a' 0E 26 'k' 'v' 26 'k' 'v'"), // repeats are kept
    (V5, Client, 0x30, "'a' 05 26 '' ''"),
    (V5, Client, 0x30, "'a' 02 01 01 FFFE"), // the claim is the broker's affair
    (V5, Server, 0x30, "'a' 07 0B 01 0B FFFFFF7F"),
    (V3_1_1, Client, 0x40, "0001"),
    (V5, Client, 0x40, "0001"),
    (V5, Client, 0x40, "0001 10"),
    (V5, Server, 0x40, "0001 99 04 1F 'r'"),
    (V5, Client, 0x50, "0001 97"),
    (V5, Client, 0x62, "0001 92"),
    (V5, Client, 0x70, "0001 92"),
    (V3_1_1, Client, 0x62, "FFFF"),
    (V3_1_1, Client, 0x82, "0001 'a' 00 'b/#' 01 '+/c' 02"),
    (V3_1_1, Client, 0x82, "0001 '$share/g/a' 01"),
    (V5, Client, 0x82, "0001 00 'a' 2E"),
    (V5, Client, 0x82, "0001 05 0B FFFFFF7F 'a' 00"),
    (V5, Client, 0x82, "0001 00 '$share/g/a' 00 'b' 04"),
    (V3_1_1, Server, 0x90, "0001 00 01 02 80"),
    (V5, Server, 0x90, "0001 00 00 01 02 80 83 87 8F 91 97 9E A1 A2"),
    (V3_1_1, Client, 0xA2, "0001 'a' 'b'"),
    (V5, Client, 0xA2, "0001 07 26 'k' 'v' 'a'"),
    (V3_1_1, Server, 0xB0, "0001"),
    (V5, Server, 0xB0, "0001 00 00 11 80 83 87 8F 91"),
    (V3_1_1, Client, 0xC0, ""),
    (V5, Server, 0xD0, ""),
    (V3_1, Client, 0xE0, ""),
    (V5, Client, 0xE0, ""),
    (V5, Client, 0xE0, "04"),
    (V5, Client, 0xE0, "00 05 11 00000000"),
    (V5, Server, 0xE0, "8E"),
    (V5, Server, 0xE0, "9C 0A 1F 'r' 1C 'abc'"),
    (V5, Client, 0xF0, "19 04 15 'm'"),
    (V5, Server, 0xF0, "18 08 15 'm' 16 'd'"),
    (V5, Server, 0xF0, ""),
];

/// Right, but written otherwise by the encoder: the second text is what it makes of it.
#[rustfmt::skip] // a table
static OTHER_FORMS: &[(ProtocolVersion, Side, u8, &str, u8, &str)] = &[
    (V5, Client, 0x40, "0001 00", 0x40, "0001"),
    (V5, Client, 0x40, "0001 00 00", 0x40, "0001"),
    (V5, Client, 0x40, "0001 10 00", 0x40, "0001 10"),
    (V5, Client, 0xE0, "00", 0xE0, ""),
    (V5, Client, 0xE0, "00 00", 0xE0, ""),
    (V5, Client, 0xE0, "04 00", 0xE0, "04"),
    // properties in another order
    (V5, Client, 0x40, "0001 00 0B 26 'k' 'v' 1F 'r'", 0x40, "0001 00 0B 1F 'r' 26 'k' 'v'"),
    // MQTT 3.1 repeats these with DUP
    (V3_1, Client, 0x6A, "0001", 0x62, "0001"),
    (V3_1, Client, 0x8A, "0001 'a' 00", 0x82, "0001 'a' 00"),
    (V3_1, Client, 0xAA, "0001 'a'", 0xA2, "0001 'a'"),
    // MQTT 3.1 disregards the will's QoS and retain flag without a will, and flags of what is not there
    (V3_1, Client, 0x10, "'MQIsdp' 03 3A 0000 'c'", 0x10, "'MQIsdp' 03 02 0000 'c'"),
    (V3_1, Client, 0x10, "'MQIsdp' 03 C2 0000 'c'", 0x10, "'MQIsdp' 03 02 0000 'c'"),
    (V3_1, Client, 0x10, "'MQIsdp' 03 C2 0000 'c' 'u'", 0x10, "'MQIsdp' 03 82 0000 'c' 'u'"),
    // MQTT 3.1 does not use bit 0 of the connect flags, RETAIN of these, and none of the flags of all others but PUBLISH
    (V3_1, Client, 0x10, "'MQIsdp' 03 03 0000 'c'", 0x10, "'MQIsdp' 03 02 0000 'c'"),
    (V3_1, Client, 0x10, "'MQIsdp' 83 03 0000 'c'", 0x10, "'MQIsdp' 83 02 0000 'c'"),
    (V3_1, Client, 0x1F, "'MQIsdp' 03 02 0000 'c'", 0x10, "'MQIsdp' 03 02 0000 'c'"),
    (V3_1, Client, 0x11, "'MQIsdp' 83 02 0000 'c'", 0x10, "'MQIsdp' 83 02 0000 'c'"),
    (V3_1, Client, 0x63, "0001", 0x62, "0001"),
    (V3_1, Client, 0x8B, "0001 'a' 00", 0x82, "0001 'a' 00"),
    (V3_1, Client, 0xA3, "0001 'a'", 0xA2, "0001 'a'"),
    (V3_1, Client, 0x4A, "0001", 0x40, "0001"),
    (V3_1, Client, 0x5F, "0001", 0x50, "0001"),
    (V3_1, Client, 0x71, "0001", 0x70, "0001"),
    (V3_1, Client, 0xC2, "", 0xC0, ""),
    (V3_1, Client, 0xEF, "", 0xE0, ""),
    (V3_1, Server, 0x2F, "00 00", 0x20, "00 00"),
    (V3_1, Server, 0x98, "0001 00", 0x90, "0001 00"),
    (V3_1, Server, 0xB2, "0001", 0xB0, "0001"),
    (V3_1, Server, 0xD1, "", 0xD0, ""),
    // MQTT 3.1 does not use CONNACK's first byte
    (V3_1, Server, 0x20, "FF 00", 0x20, "00 00"),
];

#[test]
fn what_is_right_comes_back_as_it_was() {
    for (version, from, first, text) in CANONICAL {
        let bytes = packet(*first, text);
        let read = decoded(&bytes, *version, *from);
        assert_eq!(encoded(&read, *version), bytes, "{text}: {read:?}");
    }
}

#[test]
fn other_forms_of_the_same_are_taken() {
    for (version, from, first, text, canonical_first, canonical) in OTHER_FORMS {
        let bytes = packet(*first, text);
        let read = decoded(&bytes, *version, *from);
        let written = encoded(&read, *version);
        assert_eq!(written, packet(*canonical_first, canonical), "{text}: {read:?}");
        assert_eq!(decoded(&written, *version, *from), read, "{text}");
    }
}

#[test]
fn strings_may_hold_what_should_not_be_there() {
    // control characters and non-characters: "SHOULD NOT", and here they are taken; a BOM is kept [MQTT-1.5.4-3]
    for topic in ["\u{1}", "\u{1F}", "\u{7F}", "\u{9F}", "\u{FFFF}", "\u{FDD0}", "\u{FEFF}a", "\u{10FFFF}", "é/ü"] {
        let mut bytes = vec![0x30, 2 + topic.len() as u8, 0, topic.len() as u8];
        bytes.extend_from_slice(topic.as_bytes());
        let Packet::Publish(publish) = decoded(&bytes, V3_1_1, Client) else { panic!() };
        assert_eq!(publish.topic, topic);
    }
}

/// Names are looked through eight bytes at a time: at every length and place, what is forbidden is found and what is not
/// is left.
#[test]
fn every_byte_of_a_name_is_looked_at() {
    for len in 1..=40 {
        for at in 0..len {
            for byte in 0..0x80 {
                let mut bytes = vec![0x30, 2 + len as u8, 0, len as u8];
                bytes.extend(vec![b'a'; len]);
                bytes[4 + at] = byte;
                let taken = super::super::decode(&bytes, &super::context(V3_1_1, Client));
                match byte {
                    0 => assert_eq!(taken, Err(rule::NULL_CHARACTER.error(V3_1_1)), "{len} {at}"),
                    b'+' | b'#' => assert_eq!(taken, Err(rule::TOPIC_WILDCARD.error(V3_1_1)), "{len} {at} {byte}"),
                    _ => assert!(taken.is_ok(), "{len} {at} {byte}"),
                }
            }
        }
    }
}

#[test]
fn a_topic_may_be_as_long_as_a_string() {
    let topic = "t".repeat(65_535);
    let mut body = vec![0xFF, 0xFF];
    body.extend_from_slice(topic.as_bytes());
    let bytes = super::with_length(0x30, &body);
    let Packet::Publish(publish) = decoded(&bytes, V3_1_1, Client) else { panic!() };
    assert_eq!(publish.topic, topic);
}

#[test]
fn the_fields_are_where_they_belong() {
    let bytes = packet(
        0x10,
        "'MQTT' 05 F6 012C [ 11 0000000A 21 0002 27 00000100 22 0003 19 01 17 00 26 'k' 'v' ] \
         'id' 05 18 00000007 'w/t' 'gone' 'user' 'secret'",
    );
    let Packet::Connect(connect) = decoded(&bytes, V3_1_1, Client) else { panic!() };
    assert_eq!((connect.version, connect.bridge, connect.clean_start, connect.keep_alive_s), (V5, false, true, 300));
    assert_eq!((connect.client_id, connect.username), ("id", Some("user")));
    assert_eq!(connect.password, Some(&b"secret"[..]));
    let properties = &connect.properties;
    assert_eq!(properties.session_expiry_s, Some(10));
    assert_eq!(properties.receive_maximum.map(|maximum| maximum.get()), Some(2));
    assert_eq!(properties.maximum_packet_size, Some(256));
    assert_eq!(properties.topic_alias_maximum, Some(3));
    assert_eq!(properties.request_response_information, Some(true));
    assert_eq!(properties.request_problem_information, Some(false));
    assert_eq!(properties.user_properties.iter().collect::<Vec<_>>(), [("k", "v")]);
    let will = connect.will.as_ref().unwrap();
    assert_eq!((will.topic, will.payload, will.qos, will.retain), ("w/t", &b"gone"[..], QoS::ExactlyOnce, true));
    assert_eq!(will.delay_s, 7);
}

#[test]
fn the_filters_are_read_in_order() {
    let bytes = packet(0x82, "0007 02 0B 05 'a/+' 01 'b/#' 2C 'c' 12");
    let Packet::Subscribe(subscribe) = decoded(&bytes, V5, Client) else { panic!() };
    assert_eq!((subscribe.packet_id.get(), subscribe.subscription_identifier, subscribe.count), (7, Some(5), 3));
    let filters: Vec<_> = subscribe
        .filters()
        .map(|filter| {
            let options = filter.options;
            (filter.filter, options.qos, options.no_local, options.retain_as_published, options.retain_handling)
        })
        .collect();
    let wanted = [
        ("a/+", QoS::AtLeastOnce, false, false, RetainHandling::Always),
        ("b/#", QoS::AtMostOnce, true, true, RetainHandling::Never),
        ("c", QoS::ExactlyOnce, false, false, RetainHandling::IfNew),
    ];
    assert_eq!(filters, wanted);

    let bytes = packet(0xA2, "0007 'a/+' 'b/#'");
    let Packet::Unsubscribe(unsubscribe) = decoded(&bytes, V3_1_1, Client) else { panic!() };
    assert_eq!(unsubscribe.filters().collect::<Vec<_>>(), ["a/+", "b/#"]);
    assert_eq!(unsubscribe.count, 2);
}
