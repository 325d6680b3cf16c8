//! Where mqttbytes 0.6 is wrong: what it takes though the specification forbids it, what it refuses or reads wrongly
//! though it is right. Each is a case with its clause, and each is tried: a mended mqttbytes would fail here.

use weir_mqtt::ProtocolVersion::{V3_1_1, V5};
use weir_mqtt::Side::{Client, Server};
use weir_mqtt::{DecodeContext, Decoded, Packet, ProtocolVersion, Side, decode};

use super::differential::theirs;
use super::generate::frame;
use super::ours;

/// Something forbidden that mqttbytes takes.
pub struct Forbidden {
    /// Our decoder's words for it.
    pub what: &'static str,
    clause: &'static str,
    version: ProtocolVersion,
    from: Side,
    first: u8,
    body: &'static [u8],
}

const fn forbidden(
    what: &'static str,
    clause: &'static str,
    version: ProtocolVersion,
    from: Side,
    first: u8,
    body: &'static [u8],
) -> Forbidden {
    Forbidden { what, clause, version, from, first, body }
}

#[rustfmt::skip] // a table
pub const FORBIDDEN_AND_TAKEN: &[Forbidden] = &[
    // 3.1.1
    forbidden("the fixed header's flags are not 0000", "MQTT-2.2.2-2", V3_1_1, Client, 0x4F, b"\0\x01"),
    forbidden("PUBREL's flags are not 0010", "MQTT-3.6.1-1", V3_1_1, Client, 0x60, b"\0\x01"),
    forbidden("SUBSCRIBE's flags are not 0010", "MQTT-3.8.1-1", V3_1_1, Client, 0x80, b"\0\x01\0\x01a\0"),
    forbidden("UNSUBSCRIBE's flags are not 0010", "MQTT-3.10.1-1", V3_1_1, Client, 0xA0, b"\0\x01\0\x01a"),
    forbidden("DISCONNECT's flags are not 0000", "MQTT-3.14.1-1", V3_1_1, Client, 0xE1, b""),
    forbidden("DUP at QoS 0", "MQTT-3.3.1-2", V3_1_1, Client, 0x38, b"\0\x01a"),
    forbidden("a client does not send this packet", "2.2.1", V3_1_1, Client, 0x20, b"\0\0"),
    forbidden("a server does not send this packet", "2.2.1", V3_1_1, Server, 0xC0, b""),
    forbidden("bytes follow the packet's last field", "MQTT-4.8.0-1", V3_1_1, Client, 0x40, b"\0\x01\0"),
    forbidden("U+0000 in a string", "MQTT-1.5.3-2", V3_1_1, Client, 0x30, b"\0\x01\0"),
    forbidden("packet identifier 0", "MQTT-2.3.1-1", V3_1_1, Client, 0x40, b"\0\0"),
    forbidden("an empty topic name without a topic alias", "MQTT-4.7.3-1", V3_1_1, Client, 0x30, b"\0\0"),
    forbidden("a wildcard in the topic name", "MQTT-3.3.2-2", V3_1_1, Client, 0x30, b"\0\x01#"),
    forbidden("a SUBSCRIBE without a topic filter", "MQTT-3.8.3-3", V3_1_1, Client, 0x82, b"\0\x01"),
    forbidden("an UNSUBSCRIBE without a topic filter", "MQTT-3.10.3-2", V3_1_1, Client, 0xA2, b"\0\x01"),
    forbidden("an empty topic filter", "MQTT-4.7.3-1", V3_1_1, Client, 0x82, b"\0\x01\0\0\0"),
    forbidden("reserved bits of the subscription options are set", "MQTT-3-8.3-4", V3_1_1, Client, 0x82, b"\0\x01\0\x01a\x80"),
    forbidden("CONNECT's reserved flag is set", "MQTT-3.1.2-3", V3_1_1, Client, 0x10, b"\0\x04MQTT\x04\x03\0\0\0\x01c"),
    forbidden("a password without a user name", "MQTT-3.1.2-22", V3_1_1, Client, 0x10, b"\0\x04MQTT\x04\x42\0\0\0\x01c\0\x01p"),
    forbidden("an empty client identifier for a session to keep", "MQTT-3.1.3-8", V3_1_1, Client, 0x10, b"\0\x04MQTT\x04\0\0\0\0\0"),
    forbidden("an empty will topic", "MQTT-4.7.3-1", V3_1_1, Client, 0x10, b"\0\x04MQTT\x04\x06\0\0\0\x01c\0\0\0\0"),
    forbidden("a wildcard in the will topic", "MQTT-4.7.1-1", V3_1_1, Client, 0x10, b"\0\x04MQTT\x04\x06\0\0\0\x01c\0\x01#\0\0"),
    forbidden("CONNACK's reserved flags are set", "3.2.2.1", V3_1_1, Server, 0x20, b"\x02\0"),
    forbidden("session present in a CONNACK that refuses", "MQTT-3.2.2-4", V3_1_1, Server, 0x20, b"\x01\x05"),
    // 5.0
    forbidden("packet identifier 0", "MQTT-2.2.1-3", V5, Client, 0x50, b"\0\0"),
    forbidden("a variable byte integer longer than it needs to be", "MQTT-1.5.5-1", V5, Client, 0x30, b"\0\x01a\x80\0"),
    forbidden("a property that may stand only once stands twice", "2.2.2.2", V5, Client, 0x30, b"\0\x01a\x04\x01\0\x01\0"),
    forbidden("a property runs past the property length", "2.2.2.1", V5, Client, 0x30, b"\0\x01a\x01\x01\0"),
    forbidden("a property that is 0 or 1 has another value", "2.2.2.2", V5, Client, 0x30, b"\0\x01a\x02\x01\x02"),
    forbidden("a Receive Maximum of 0", "3.1.2.11.3", V5, Client, 0x10, b"\0\x04MQTT\x05\x02\0\0\x03\x21\0\0\0\x01c"),
    forbidden("a Maximum Packet Size of 0", "3.1.2.11.4", V5, Client, 0x10, b"\0\x04MQTT\x05\x02\0\0\x05\x27\0\0\0\0\0\x01c"),
    forbidden("authentication data without an authentication method", "3.1.2.11.10", V5, Client, 0x10, b"\0\x04MQTT\x05\x02\0\0\x03\x16\0\0\0\x01c"),
    forbidden("a topic alias of 0", "MQTT-3.3.2-8", V5, Client, 0x30, b"\0\x01a\x03\x23\0\0"),
    forbidden("the response topic is empty or has a wildcard", "MQTT-3.3.2-14", V5, Client, 0x30, b"\0\x01a\x04\x08\0\x01#"),
    forbidden("a Subscription Identifier in a client's PUBLISH", "MQTT-3.3.4-6", V5, Client, 0x30, b"\0\x01a\x02\x0B\x01"),
    forbidden("a Subscription Identifier of 0", "3.8.2.1.2", V5, Server, 0x30, b"\0\x01a\x02\x0B\0"),
    forbidden("No Local on a shared subscription", "MQTT-3.8.3-4", V5, Client, 0x82, b"\0\x01\0\0\x0A$share/g/a\x04"),
    forbidden("a code that is none of this side's DISCONNECT codes", "MQTT-3.14.2-1", V5, Client, 0xE0, b"\x8E\0"),
    forbidden("a session expiry in a server's DISCONNECT", "MQTT-3.14.2-2", V5, Server, 0xE0, b"\0\x05\x11\0\0\0\0"),
];

/// Why mqttbytes refuses a packet that is right.
pub fn wrongly_refused(packet: &Packet<'_>, bytes: &[u8]) -> Option<&'static str> {
    match packet {
        Packet::Auth(_) => Some("it has no AUTH"),
        Packet::Disconnect(_) if bytes[1] == 0 => Some("a 5.0 DISCONNECT without a body"),
        Packet::Disconnect(_) if bytes[1] == 1 => Some("a 5.0 DISCONNECT without properties"),
        Packet::Connect(connect) if connect.bridge => Some("a bridge's protocol level"),
        Packet::Connect(connect) if connect.version == ProtocolVersion::V3_1 => Some("MQTT 3.1"),
        Packet::Connect(connect) if connect.password.is_some_and(|password| std::str::from_utf8(password).is_err()) => {
            Some("a password that is not UTF-8")
        }
        _ => taken_wrongly(packet),
    }
}

/// Why mqttbytes reads a packet that is right as another.
pub fn taken_wrongly(packet: &Packet<'_>) -> Option<&'static str> {
    match packet {
        // it counts a byte too many for each, and ends before the last property
        Packet::Publish(publish) if publish.properties.subscription_identifiers().count() > 1 => {
            Some("several subscription identifiers")
        }
        _ => None,
    }
}

fn decoded(bytes: &[u8], version: ProtocolVersion, from: Side) -> Packet<'_> {
    match decode(bytes, &DecodeContext { version, max_packet_size: 1000, from }) {
        Ok(Decoded::Packet { packet, .. }) => packet,
        other => panic!("{other:?} of {bytes:02x?}"),
    }
}

#[test]
fn mqttbytes_takes_what_the_specification_forbids() {
    for case in FORBIDDEN_AND_TAKEN {
        let bytes = frame(case.first, case.body);
        let context = DecodeContext { version: case.version, max_packet_size: 1000, from: case.from };
        let error = decode(&bytes, &context).expect_err(case.what);
        assert_eq!((error.what, error.clause), (case.what, case.clause), "{bytes:02x?}");
        assert!(theirs(&bytes, case.version).is_ok(), "mqttbytes refuses it now: {}", case.what);
    }
}

#[test]
fn mqttbytes_refuses_what_is_right() {
    #[rustfmt::skip] // a table
    let cases: &[(ProtocolVersion, Side, u8, &[u8], &str)] = &[
        (V5, Client, 0xE0, b"", "a 5.0 DISCONNECT without a body"),
        (V5, Client, 0xE0, b"\x04", "a 5.0 DISCONNECT without properties"),
        (V5, Client, 0xF0, b"\x18\x04\x15\0\x01m", "it has no AUTH"),
        (V3_1_1, Client, 0x10, b"\0\x04MQTT\x84\x02\0\0\0\x01c", "a bridge's protocol level"),
        (V3_1_1, Client, 0x10, b"\0\x06MQIsdp\x03\x02\0\0\0\x01c", "MQTT 3.1"),
        (V3_1_1, Client, 0x10, b"\0\x04MQTT\x04\xC2\0\0\0\x01c\0\x01u\0\x01\xFF", "a password that is not UTF-8"),
    ];
    for (version, from, first, body, why) in cases {
        let bytes = frame(*first, body);
        assert_eq!(wrongly_refused(&decoded(&bytes, *version, *from), &bytes), Some(*why));
        assert!(theirs(&bytes, *version).is_err(), "mqttbytes takes it now: {why}");
    }
}

#[test]
fn mqttbytes_reads_several_subscription_identifiers_wrongly() {
    let bytes = frame(0x30, b"\0\x01a\x06\x0B\x01\x0B\x02\x0B\x03payload");
    let packet = decoded(&bytes, V5, Server);
    assert!(taken_wrongly(&packet).is_some());
    assert_ne!(theirs(&bytes, V5).ok(), Some(ours::facts(&packet, V5)));
    let Packet::Publish(publish) = packet else { panic!() };
    assert_eq!(publish.payload, b"payload");
}

/// Its 3.1.1 reader takes a 5.0 CONNECT, and reads it wrongly: the differential test chooses the reader by the level.
#[test]
fn mqttbytes_reads_a_connect_of_the_other_version() {
    let bytes = frame(0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\x01c");
    let Packet::Connect(connect) = decoded(&bytes, V3_1_1, Client) else { panic!() };
    assert_eq!((connect.version, connect.client_id), (V5, "c"));
    assert_ne!(theirs(&bytes, V3_1_1).ok(), theirs(&bytes, V5).ok());
}

#[test]
fn mqttbytes_writes_a_connack_without_its_property_length() {
    let connack = mqttbytes::v5::ConnAck {
        session_present: false,
        code: mqttbytes::v5::ConnectReturnCode::Success,
        properties: None,
    };
    let mut bytes = bytes::BytesMut::new();
    connack.write(&mut bytes).unwrap();
    assert_eq!(bytes[..], [0x20, 2, 0, 0], "mqttbytes writes it otherwise now");
    // [MQTT-2.2.2-1]: no properties are said by a length of 0
    assert!(decode(&bytes, &DecodeContext { version: V5, max_packet_size: 1000, from: Server }).is_err());
}

#[test]
fn mqttbytes_judges_and_matches_wrongly() {
    // [MQTT-4.7.2-1]: only a wildcard at the first level passes over `$`
    assert!(weir_mqtt::matches("$SYS/#", "$SYS/a") && !mqttbytes::matches("$SYS/a", "$SYS/#"));
    // [MQTT-4.7.1-2]
    assert!(weir_mqtt::validate_topic_filter("a+").is_err() && mqttbytes::valid_filter("a+"));
    // a topic that does not begin with an ASCII character
    assert!(weir_mqtt::matches("#", "é/x"));
    assert!(std::panic::catch_unwind(|| mqttbytes::matches("é/x", "#")).is_err());
}
