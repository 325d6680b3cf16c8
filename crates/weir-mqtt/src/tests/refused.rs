//! Every rule of the decoder, broken: which error, which clause, which reason code, which answer to CONNECT.

use super::super::ProtocolVersion::{V3_1, V3_1_1, V5};
use super::super::Side::{Client, Server};
use super::super::rule::{self, ALL, Rule};
use super::super::{DecodeError, DecodeErrorKind, Decoded, ProtocolVersion, Side, decode, decode_connect};
use super::{context, packet, refused_properties};

/// A packet that breaks a rule.
pub(super) struct Case(
    pub(super) &'static Rule,
    pub(super) ProtocolVersion,
    pub(super) Side,
    /// The first byte.
    pub(super) u8,
    /// The body, as [`super::body`] reads it.
    pub(super) &'static str,
);

#[rustfmt::skip] // a table
static CASES: &[Case] = &[
    // the fixed header, chapter 2.1
    Case(&rule::PACKET_TYPE_ZERO, V5, Client, 0x00, ""),
    Case(&rule::PACKET_TYPE_ZERO, V3_1_1, Server, 0x0F, ""),
    Case(&rule::PACKET_TYPE_AUTH, V3_1_1, Client, 0xF0, ""),
    Case(&rule::PACKET_TYPE_AUTH, V3_1, Server, 0xF0, ""),
    Case(&rule::NOT_FROM_CLIENT, V5, Client, 0x20, "00 00 00"),
    Case(&rule::NOT_FROM_CLIENT, V3_1_1, Client, 0x90, "0001 00"),
    Case(&rule::NOT_FROM_CLIENT, V5, Client, 0xB0, "0001 00 00"),
    Case(&rule::NOT_FROM_CLIENT, V3_1_1, Client, 0xD0, ""),
    Case(&rule::NOT_FROM_SERVER, V5, Server, 0x10, "'MQTT' 05 02 0000 00 'c'"),
    Case(&rule::NOT_FROM_SERVER, V3_1_1, Server, 0x82, "0001 'a' 00"),
    Case(&rule::NOT_FROM_SERVER, V5, Server, 0xA2, "0001 00 'a'"),
    Case(&rule::NOT_FROM_SERVER, V5, Server, 0xC0, ""),
    Case(&rule::NOT_FROM_SERVER, V3_1_1, Server, 0xE0, ""),
    Case(&rule::FLAGS, V5, Client, 0x11, "'MQTT' 05 02 0000 00 'c'"),
    Case(&rule::FLAGS, V5, Server, 0x21, "00 00 00"),
    Case(&rule::FLAGS, V3_1_1, Client, 0x42, "0001"),
    Case(&rule::FLAGS, V5, Client, 0x51, "0001"),
    Case(&rule::FLAGS, V3_1_1, Client, 0x72, "0001"),
    Case(&rule::FLAGS, V5, Server, 0x92, "0001 00 00"),
    Case(&rule::FLAGS, V5, Server, 0xB8, "0001 00 00"),
    Case(&rule::FLAGS, V3_1_1, Client, 0xC1, ""),
    Case(&rule::FLAGS, V5, Server, 0xDF, ""),
    Case(&rule::FLAGS, V3_1_1, Client, 0xC8, ""),
    Case(&rule::FLAGS, V3_1_1, Client, 0x18, "'MQTT' 04 02 0000 'c'"),
    Case(&rule::FLAGS, V3_1, Client, 0x11, "'MQTT' 04 02 0000 'c'"), // the packet's version counts
    Case(&rule::FLAGS_DISCONNECT, V3_1_1, Client, 0xE8, ""),
    Case(&rule::FLAGS_PUBREL, V3_1_1, Client, 0x60, "0001"),
    Case(&rule::FLAGS_PUBREL, V5, Server, 0x63, "0001"),
    Case(&rule::FLAGS_PUBREL, V3_1_1, Client, 0x6A, "0001"),
    Case(&rule::FLAGS_PUBREL, V3_1, Client, 0x66, "0001"),
    Case(&rule::FLAGS_SUBSCRIBE, V3_1_1, Client, 0x80, "0001 'a' 00"),
    Case(&rule::FLAGS_SUBSCRIBE, V5, Client, 0x8A, "0001 00 'a' 00"),
    Case(&rule::FLAGS_SUBSCRIBE, V3_1, Client, 0x88, "0001 'a' 00"),
    Case(&rule::FLAGS_SUBSCRIBE, V3_1_1, Client, 0x83, "0001 'a' 00"),
    Case(&rule::FLAGS_UNSUBSCRIBE, V3_1, Client, 0xA1, "0001 'a'"),
    Case(&rule::FLAGS_UNSUBSCRIBE, V3_1_1, Client, 0xA0, "0001 'a'"),
    Case(&rule::FLAGS_UNSUBSCRIBE, V5, Client, 0xA3, "0001 00 'a'"),
    Case(&rule::FLAGS_DISCONNECT, V3_1_1, Client, 0xE1, ""),
    Case(&rule::FLAGS_DISCONNECT, V5, Server, 0xE8, "00"),
    Case(&rule::FLAGS_AUTH, V5, Client, 0xF1, "18 00"),
    Case(&rule::QOS_3, V3_1_1, Client, 0x36, "'a' 0001"),
    Case(&rule::QOS_3, V5, Server, 0x3F, "'a' 0001 00"),
    Case(&rule::DUP_AT_QOS_0, V3_1_1, Client, 0x38, "'a'"),
    Case(&rule::DUP_AT_QOS_0, V5, Client, 0x39, "'a' 00"),
    // fields, chapter 1.5
    Case(&rule::ENDS_EARLY, V3_1_1, Client, 0x30, ""),
    Case(&rule::ENDS_EARLY, V3_1_1, Client, 0x30, "00"),
    Case(&rule::ENDS_EARLY, V3_1_1, Client, 0x30, "0002 \"a\""),
    Case(&rule::ENDS_EARLY, V3_1_1, Client, 0x32, "'a' 00"),
    Case(&rule::ENDS_EARLY, V5, Client, 0x30, "'a'"),
    Case(&rule::ENDS_EARLY, V5, Client, 0x32, "'a' 0001"),
    Case(&rule::ENDS_EARLY, V5, Client, 0x30, "'a' 80"),
    Case(&rule::ENDS_EARLY, V3_1_1, Client, 0x40, ""),
    Case(&rule::ENDS_EARLY, V5, Client, 0x40, "01"),
    Case(&rule::ENDS_EARLY, V3_1_1, Client, 0x82, "00"),
    Case(&rule::ENDS_EARLY, V5, Client, 0x82, "0001"),
    Case(&rule::ENDS_EARLY, V3_1_1, Client, 0x82, "0001 'a'"),
    Case(&rule::ENDS_EARLY, V3_1_1, Client, 0x82, "0001 0005 \"a\""),
    Case(&rule::ENDS_EARLY, V5, Client, 0xA2, "0001"),
    Case(&rule::ENDS_EARLY, V3_1_1, Client, 0xA2, "0001 'a' 00"),
    Case(&rule::ENDS_EARLY, V5, Client, 0xF0, "18"),
    Case(&rule::ENDS_EARLY, V5, Server, 0x90, "0001"),
    Case(&rule::ENDS_EARLY, V5, Server, 0x20, "00 00"),
    Case(&rule::ENDS_EARLY, V3_1_1, Server, 0x20, "00"),
    Case(&rule::TRAILING_BYTES, V3_1_1, Client, 0x40, "0001 00"),
    Case(&rule::TRAILING_BYTES, V3_1_1, Client, 0x50, "0001 00"),
    Case(&rule::TRAILING_BYTES, V3_1_1, Client, 0x62, "0001 00"),
    Case(&rule::TRAILING_BYTES, V3_1, Client, 0x70, "0001 00"),
    Case(&rule::TRAILING_BYTES, V5, Client, 0x40, "0001 00 00 00"),
    Case(&rule::TRAILING_BYTES, V5, Client, 0x62, "0001 00 00 1F"),
    Case(&rule::TRAILING_BYTES, V3_1_1, Client, 0xC0, "00"),
    Case(&rule::TRAILING_BYTES, V5, Client, 0xC0, "00"),
    Case(&rule::TRAILING_BYTES, V5, Server, 0xD0, "00"),
    Case(&rule::TRAILING_BYTES, V3_1_1, Client, 0xE0, "00"),
    Case(&rule::TRAILING_BYTES, V5, Client, 0xE0, "00 00 00"),
    Case(&rule::TRAILING_BYTES, V5, Client, 0xF0, "18 06 15 'abc' 00"),
    Case(&rule::TRAILING_BYTES, V3_1_1, Server, 0x20, "00 00 00"),
    Case(&rule::TRAILING_BYTES, V3_1_1, Server, 0xB0, "0001 00"),
    Case(&rule::TRAILING_BYTES, V3_1_1, Client, 0x10, "'MQTT' 04 02 0000 'c' 00"),
    Case(&rule::TRAILING_BYTES, V5, Client, 0x10, "'MQTT' 05 02 0000 00 'c' 'u'"),
    Case(&rule::UTF8, V3_1_1, Client, 0x30, "0001 FF"),
    Case(&rule::UTF8, V5, Client, 0x30, "0002 C0AF 00"), // overlong
    Case(&rule::UTF8, V5, Client, 0x30, "0003 EDA080 00"), // U+D800
    Case(&rule::UTF8, V3_1_1, Client, 0x30, "0003 EDBFBF"), // U+DFFF
    Case(&rule::UTF8, V5, Client, 0x30, "0004 F4908080 00"), // U+110000
    Case(&rule::UTF8, V5, Client, 0x30, "0002 E282 00"), // breaks off
    Case(&rule::UTF8, V3_1_1, Client, 0x82, "0001 0001 80 00"),
    Case(&rule::UTF8, V5, Client, 0xA2, "0001 00 0001 80"),
    Case(&rule::UTF8, V3_1_1, Client, 0x10, "'MQTT' 04 02 0000 0001 FF"),
    Case(&rule::UTF8, V5, Client, 0x10, "'MQTT' 05 82 0000 00 'c' 0001 FF"),
    Case(&rule::UTF8, V3_1_1, Client, 0x10, "'MQTT' 04 06 0000 'c' 0001 FF 0000"),
    Case(&rule::NULL_CHARACTER, V3_1_1, Client, 0x30, "0003 610062"),
    Case(&rule::NULL_CHARACTER, V5, Client, 0x30, "0001 00 00"),
    Case(&rule::NULL_CHARACTER, V5, Client, 0x82, "0001 00 0002 6100 00"),
    Case(&rule::NULL_CHARACTER, V3_1_1, Client, 0xA2, "0001 0001 00"),
    Case(&rule::NULL_CHARACTER, V3_1_1, Client, 0x10, "'MQTT' 04 02 0000 0001 00"),
    Case(&rule::NULL_CHARACTER, V5, Client, 0x10, "'MQTT' 05 82 0000 00 'c' 0002 0075"),
    Case(&rule::NULL_CHARACTER, V3_1_1, Client, 0x10, "'MQTT' 04 06 0000 'c' 0001 00 0000"),
    Case(&rule::PACKET_ID_ZERO, V3_1_1, Client, 0x32, "'a' 0000"),
    Case(&rule::PACKET_ID_ZERO, V5, Server, 0x34, "'a' 0000 00"),
    Case(&rule::PACKET_ID_ZERO, V3_1_1, Client, 0x40, "0000"),
    Case(&rule::PACKET_ID_ZERO, V5, Client, 0x50, "0000"),
    Case(&rule::PACKET_ID_ZERO, V5, Client, 0x62, "0000"),
    Case(&rule::PACKET_ID_ZERO, V5, Client, 0x70, "0000 00"),
    Case(&rule::PACKET_ID_ZERO, V3_1_1, Client, 0x82, "0000 'a' 00"),
    Case(&rule::PACKET_ID_ZERO, V5, Client, 0xA2, "0000 00 'a'"),
    Case(&rule::PACKET_ID_ZERO, V5, Server, 0x90, "0000 00 00"),
    Case(&rule::PACKET_ID_ZERO, V3_1_1, Server, 0xB0, "0000"),
    // CONNECT, chapter 3.1
    Case(&rule::PROTOCOL_NAME, V3_1_1, Client, 0x10, "'mqtt' 04 02 0000 'c'"),
    Case(&rule::PROTOCOL_NAME, V3_1_1, Client, 0x10, "'MQTTS' 04 02 0000 'c'"),
    Case(&rule::PROTOCOL_NAME, V3_1_1, Client, 0x10, "'' 04 02 0000 'c'"),
    Case(&rule::PROTOCOL_LEVEL, V3_1_1, Client, 0x10, "'MQTT' 03 02 0000 'c'"),
    Case(&rule::PROTOCOL_LEVEL, V3_1_1, Client, 0x10, "'MQTT' 06 02 0000 'c'"),
    Case(&rule::PROTOCOL_LEVEL, V3_1_1, Client, 0x10, "'MQTT' 00 02 0000 'c'"),
    Case(&rule::PROTOCOL_LEVEL, V3_1_1, Client, 0x10, "'MQTT' 85 02 0000 00 'c'"),
    Case(&rule::PROTOCOL_LEVEL, V3_1_1, Client, 0x10, "'MQIsdp' 04 02 0000 'c'"),
    Case(&rule::PROTOCOL_LEVEL, V3_1_1, Client, 0x10, "'MQIsdp' 05 02 0000 00 'c'"),
    Case(&rule::CONNECT_RESERVED_FLAG, V3_1_1, Client, 0x10, "'MQTT' 04 03 0000 'c'"),
    Case(&rule::CONNECT_RESERVED_FLAG, V5, Client, 0x10, "'MQTT' 05 03 0000 00 'c'"),
    Case(&rule::WILL_QOS_WITHOUT_WILL, V3_1_1, Client, 0x10, "'MQTT' 04 0A 0000 'c'"),
    Case(&rule::WILL_QOS_WITHOUT_WILL, V5, Client, 0x10, "'MQTT' 05 1A 0000 00 'c'"),
    Case(&rule::WILL_QOS_3, V3_1, Client, 0x10, "'MQIsdp' 03 1E 0000 'c' 'w' 'm'"),
    Case(&rule::WILL_QOS_3, V3_1_1, Client, 0x10, "'MQTT' 04 1E 0000 'c' 'w' 'm'"),
    Case(&rule::WILL_QOS_3, V5, Client, 0x10, "'MQTT' 05 1E 0000 00 'c' 00 'w' 'm'"),
    Case(&rule::WILL_RETAIN_WITHOUT_WILL, V3_1_1, Client, 0x10, "'MQTT' 04 22 0000 'c'"),
    Case(&rule::WILL_RETAIN_WITHOUT_WILL, V5, Client, 0x10, "'MQTT' 05 22 0000 00 'c'"),
    Case(&rule::PASSWORD_WITHOUT_USER_NAME, V3_1, Client, 0x10, "'MQIsdp' 03 42 0000 'c' 'p'"),
    Case(&rule::PASSWORD_WITHOUT_USER_NAME, V3_1_1, Client, 0x10, "'MQTT' 04 42 0000 'c' 'p'"),
    Case(&rule::CLIENT_ID_EMPTY, V3_1, Client, 0x10, "'MQIsdp' 03 02 0000 ''"),
    Case(&rule::CLIENT_ID_EMPTY, V3_1_1, Client, 0x10, "'MQTT' 04 00 0000 ''"),
    Case(&rule::WILL_TOPIC_EMPTY, V3_1_1, Client, 0x10, "'MQTT' 04 06 0000 'c' '' 'm'"),
    Case(&rule::WILL_TOPIC_EMPTY, V5, Client, 0x10, "'MQTT' 05 06 0000 00 'c' 00 '' 'm'"),
    Case(&rule::WILL_TOPIC_WILDCARD, V3_1_1, Client, 0x10, "'MQTT' 04 06 0000 'c' 'w/#' 'm'"),
    Case(&rule::WILL_TOPIC_WILDCARD, V5, Client, 0x10, "'MQTT' 05 06 0000 00 'c' 00 '+' 'm'"),
    Case(&rule::ENDS_EARLY, V3_1_1, Client, 0x10, "'MQTT' 04"),
    Case(&rule::ENDS_EARLY, V3_1_1, Client, 0x10, "'MQTT' 04 02 00"),
    Case(&rule::ENDS_EARLY, V3_1_1, Client, 0x10, "'MQTT' 04 02 0000"),
    Case(&rule::ENDS_EARLY, V3_1_1, Client, 0x10, "'MQTT' 04 06 0000 'c' 'w'"),
    Case(&rule::ENDS_EARLY, V3_1_1, Client, 0x10, "'MQTT' 04 82 0000 'c'"),
    Case(&rule::ENDS_EARLY, V3_1_1, Client, 0x10, "'MQTT' 04 C2 0000 'c' 'u'"),
    Case(&rule::ENDS_EARLY, V5, Client, 0x10, "'MQTT' 05 02 0000"),
    Case(&rule::ENDS_EARLY, V5, Client, 0x10, "'MQTT' 05 42 0000 00 'c'"),
    // CONNACK, chapter 3.2
    Case(&rule::CONNACK_FLAGS, V3_1_1, Server, 0x20, "02 00"),
    Case(&rule::CONNACK_FLAGS, V5, Server, 0x20, "81 00 00"),
    Case(&rule::CONNACK_SESSION_PRESENT, V3_1_1, Server, 0x20, "01 05"),
    Case(&rule::CONNACK_SESSION_PRESENT, V5, Server, 0x20, "01 87 00"),
    Case(&rule::CONNACK_CODE, V3_1_1, Server, 0x20, "00 06"),
    Case(&rule::CONNACK_CODE, V5, Server, 0x20, "00 01 00"),
    Case(&rule::CONNACK_CODE, V5, Server, 0x20, "00 8B 00"),
    // PUBLISH, chapter 3.3
    Case(&rule::TOPIC_EMPTY, V3_1_1, Client, 0x30, "''"),
    Case(&rule::TOPIC_EMPTY, V3_1, Server, 0x30, "'' \"payload\""),
    Case(&rule::TOPIC_EMPTY, V5, Client, 0x30, "'' 00"),
    Case(&rule::TOPIC_EMPTY, V5, Server, 0x30, "'' 02 01 00"),
    Case(&rule::TOPIC_WILDCARD, V3_1_1, Client, 0x30, "'#'"),
    Case(&rule::TOPIC_WILDCARD, V3_1_1, Client, 0x30, "'a/+/b'"),
    Case(&rule::TOPIC_WILDCARD, V5, Client, 0x30, "'a+' 00"),
    Case(&rule::TOPIC_WILDCARD, V5, Server, 0x30, "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa#' 00"),
    // the acknowledgements, chapters 3.4 to 3.7, 3.9, 3.11
    Case(&rule::PUBACK_CODE, V5, Client, 0x40, "0001 01"),
    Case(&rule::PUBACK_CODE, V5, Server, 0x40, "0001 92 00"),
    Case(&rule::PUBREC_CODE, V5, Client, 0x50, "0001 92"),
    Case(&rule::PUBREL_CODE, V5, Client, 0x62, "0001 80"),
    Case(&rule::PUBREL_CODE, V5, Client, 0x62, "0001 10 00"),
    Case(&rule::PUBCOMP_CODE, V5, Client, 0x70, "0001 91"),
    Case(&rule::SUBACK_CODE, V3_1_1, Server, 0x90, "0001 03"),
    Case(&rule::SUBACK_CODE, V3_1_1, Server, 0x90, "0001 00 81"),
    Case(&rule::SUBACK_CODE, V3_1, Server, 0x90, "0001 80"),
    Case(&rule::SUBACK_CODE, V5, Server, 0x90, "0001 00 00 11"),
    Case(&rule::SUBACK_EMPTY, V3_1_1, Server, 0x90, "0001"),
    Case(&rule::SUBACK_EMPTY, V5, Server, 0x90, "0001 00"),
    Case(&rule::UNSUBACK_CODE, V5, Server, 0xB0, "0001 00 01"),
    Case(&rule::UNSUBACK_EMPTY, V5, Server, 0xB0, "0001 00"),
    // SUBSCRIBE and UNSUBSCRIBE, chapters 3.8 and 3.10
    Case(&rule::SUBSCRIBE_EMPTY, V3_1_1, Client, 0x82, "0001"),
    Case(&rule::SUBSCRIBE_EMPTY, V5, Client, 0x82, "0001 00"),
    Case(&rule::UNSUBSCRIBE_EMPTY, V3_1_1, Client, 0xA2, "0001"),
    Case(&rule::UNSUBSCRIBE_EMPTY, V5, Client, 0xA2, "0001 00"),
    Case(&rule::FILTER_EMPTY, V3_1_1, Client, 0x82, "0001 '' 00"),
    Case(&rule::FILTER_EMPTY, V5, Client, 0xA2, "0001 00 'a' ''"),
    Case(&rule::SUBSCRIPTION_QOS_3, V3_1_1, Client, 0x82, "0001 'a' 03"),
    Case(&rule::SUBSCRIPTION_QOS_3, V5, Client, 0x82, "0001 00 'a' 00 'b' 03"),
    Case(&rule::SUBSCRIPTION_RESERVED_BITS, V3_1_1, Client, 0x82, "0001 'a' 04"),
    Case(&rule::SUBSCRIPTION_RESERVED_BITS, V3_1_1, Client, 0x82, "0001 'a' 80"),
    Case(&rule::SUBSCRIPTION_RESERVED_BITS, V5, Client, 0x82, "0001 00 'a' 40"),
    Case(&rule::SUBSCRIPTION_RESERVED_BITS, V5, Client, 0x82, "0001 00 'a' 80"),
    Case(&rule::RETAIN_HANDLING_3, V5, Client, 0x82, "0001 00 'a' 30"),
    Case(&rule::NO_LOCAL_SHARED, V5, Client, 0x82, "0001 00 '$share/g/a' 04"),
    // DISCONNECT and AUTH, chapters 3.14 and 3.15
    Case(&rule::DISCONNECT_CODE, V5, Client, 0xE0, "01"),
    Case(&rule::DISCONNECT_CODE, V5, Client, 0xE0, "8D"),
    Case(&rule::DISCONNECT_CODE, V5, Client, 0xE0, "8E 00"),
    Case(&rule::DISCONNECT_CODE, V5, Client, 0xE0, "9D"),
    Case(&rule::DISCONNECT_CODE, V5, Server, 0xE0, "04"),
    Case(&rule::DISCONNECT_CODE, V5, Server, 0xE0, "86"),
    Case(&rule::DISCONNECT_EXPIRY_FROM_SERVER, V5, Server, 0xE0, "00 05 11 00000000"),
    Case(&rule::AUTH_CODE, V5, Client, 0xF0, ""),
    Case(&rule::AUTH_CODE, V5, Client, 0xF0, "00 00"),
    Case(&rule::AUTH_CODE, V5, Server, 0xF0, "19 00"),
    Case(&rule::AUTH_CODE, V5, Client, 0xF0, "80 00"),
    Case(&rule::AUTH_METHOD_MISSING, V5, Client, 0xF0, "18 00"),
    Case(&rule::AUTH_METHOD_MISSING, V5, Server, 0xF0, "00 00"),
];

/// Bytes that break a rule before there is a body.
#[rustfmt::skip] // a table
static HEADERS: &[(&Rule, ProtocolVersion, Side, &[u8])] = &[
    (&rule::VARINT_TOO_LONG, V5, Client, &[0x30, 0x80, 0x80, 0x80, 0x80]),
    (&rule::VARINT_TOO_LONG, V3_1_1, Client, &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F]),
    (&rule::VARINT_TOO_LONG, V5, Client, &[0x30, 0x80, 0x80, 0x80, 0x80, 0x01]),
    (&rule::VARINT_NOT_MINIMAL, V5, Client, &[0xC0, 0x80, 0x00]),
    (&rule::VARINT_NOT_MINIMAL, V3_1_1, Client, &[0xC0, 0x80, 0x00]),
    (&rule::VARINT_NOT_MINIMAL, V5, Client, &[0x30, 0x84, 0x80, 0x00, 0x00, 0x01, 0x61, 0x00]),
    (&rule::TOO_LARGE, V5, Client, &[0x30, 0xFF, 0xFF, 0xFF, 0x7F]),
    (&rule::TOO_LARGE, V3_1_1, Client, &[0x10, 0xFF, 0xFF, 0xFF, 0x7F]),
    (&rule::TOO_LARGE, V5, Client, &[0x82, 0x80, 0x80, 0x40]), // 1 MiB and its fixed header
];

pub(super) fn error(bytes: &[u8], version: ProtocolVersion, from: Side) -> DecodeError {
    match decode(bytes, &context(version, from)) {
        Err(error) => error,
        Ok(taken) => panic!("{taken:?} of {bytes:02x?}, version {version:?} from {from:?}"),
    }
}

#[test]
fn what_breaks_a_rule_is_refused_by_that_rule() {
    for Case(rule, version, from, first, text) in CASES.iter().chain(refused_properties::CASES) {
        let bytes = packet(*first, text);
        let error = error(&bytes, *version, *from);
        let wanted = if first >> 4 == 1 { rule.connect_error(*version) } else { rule.error(*version) };
        assert_eq!(
            DecodeError { refusal: None, ..error },
            DecodeError { refusal: None, ..wanted },
            "{first:02x} {text}"
        );
    }
}

#[test]
fn a_wrong_fixed_header_is_refused_before_the_body_is_there() {
    for (rule, version, from, bytes) in HEADERS {
        assert_eq!(error(bytes, *version, *from), rule.error(*version), "{bytes:02x?}");
    }
    for Case(rule, version, from, first, _) in CASES {
        let by_first_byte = rule.what.contains("flags are") && !rule.what.contains("CONNACK") && first >> 4 != 1
            || [&rule::QOS_3, &rule::DUP_AT_QOS_0, &rule::PACKET_TYPE_ZERO, &rule::PACKET_TYPE_AUTH].contains(rule)
            || [&rule::NOT_FROM_CLIENT, &rule::NOT_FROM_SERVER].contains(rule);
        if by_first_byte {
            assert_eq!(error(&[*first], *version, *from), rule.error(*version), "{first:02x}");
        }
    }
}

/// Only the protocol name and level tell whether a CONNECT may have the flags that MQTT 3.1 does not use.
#[test]
fn a_connect_with_flags_is_refused_at_the_first_byte_that_is_not_of_mqtt_3_1() {
    #[rustfmt::skip] // a table
    let cases: &[(&str, usize)] = &[
        ("'MQTT' 04 02 0000 'c'", 4),
        ("'MQTT' 05 02 0000 00 'c'", 4),
        ("'MQIsdq' 03 02 0000 'c'", 10),
        ("'MQIsdp' 04 02 0000 'c'", 11),
        ("01 'ello'", 3),
    ];
    for (text, refused_at) in cases {
        let bytes = packet(0x1F, text);
        for end in 1..=bytes.len() {
            let decoded = decode_connect(&bytes[..end], 1000);
            let judged = decode(&bytes[..end], &context(V3_1, Client));
            if end < *refused_at {
                assert!(matches!(decoded, Ok(Decoded::Incomplete { .. })), "{text}, {end}: {decoded:?}");
                assert!(matches!(judged, Ok(Decoded::Incomplete { .. })), "{text}, {end}: {judged:?}");
            } else {
                let kind = rule::FLAGS.error(V3_1).kind;
                assert_eq!(decoded.map_err(|error| error.kind).unwrap_err(), kind, "{text}, {end}");
                assert_eq!(judged.map_err(|error| error.kind).unwrap_err(), kind, "{text}, {end}");
            }
        }
    }
}

#[test]
fn every_rule_has_a_case() {
    let broken: Vec<&Rule> = CASES.iter().chain(refused_properties::CASES).map(|case| case.0).collect();
    let by_header: Vec<&Rule> = HEADERS.iter().map(|row| row.0).collect();
    for (name, rule) in ALL {
        let first_packet = *rule == &rule::FIRST_NOT_CONNECT; // only of decode_connect, below
        assert!(first_packet || broken.contains(rule) || by_header.contains(rule), "no case breaks {name}");
    }
}

#[test]
fn a_clause_is_an_identifier_or_a_section() {
    for (name, rule) in ALL {
        for clause in [rule.v5, rule.v3] {
            let numbers = clause.strip_prefix("MQTT-").unwrap_or(clause);
            assert!(numbers.split(['.', '-']).all(|number| number.parse::<u8>().is_ok()), "{name}: {clause}");
        }
        assert!(!rule.what.is_empty(), "{name}");
    }
}

#[test]
fn the_first_packet_must_be_connect() {
    for first in [0x00, 0x20, 0x30, 0x82, 0xC0, 0xE0, 0xF0, b'G'] {
        let error = decode_connect(&[first], 1000).unwrap_err();
        assert_eq!(error, rule::FIRST_NOT_CONNECT.error(V5), "{first:02x}");
        assert_eq!(error.refusal, None);
    }
}

/// Which CONNACK a bad CONNECT gets; `None`: the close alone.
#[test]
fn a_bad_connect_is_refused_in_its_own_version() {
    type Row = (u8, &'static str, Option<(ProtocolVersion, u8)>);
    #[rustfmt::skip] // a table
    let cases: &[Row] = &[
        (0x10, "'MQTT' 06 02 0000 'c'", Some((V3_1_1, 0x01))),
        (0x10, "'MQTT' 03 02 0000 'c'", Some((V3_1_1, 0x01))),
        (0x10, "'MQIsdp' 04 02 0000 'c'", Some((V3_1_1, 0x01))),
        (0x10, "'HTTP' 04 02 0000 'c'", None),
        (0x10, "0004 FFFFFFFF 04 02 0000 'c'", None),
        (0x10, "'MQTT'", None),
        (0x10, "'MQIsdp' 03 02 0000 ''", Some((V3_1, 0x02))),
        (0x10, "'MQTT' 04 00 0000 ''", Some((V3_1_1, 0x02))),
        (0x10, "'MQTT' 04 03 0000 'c'", None),
        (0x10, "'MQTT' 04 42 0000 'c' 'p'", None),
        (0x10, "'MQTT' 05 03 0000 00 'c'", Some((V5, 0x81))),
        (0x10, "'MQTT' 05 02 0000 00 'c' 00", Some((V5, 0x81))),
        (0x10, "'MQTT' 05 02 0000 02 22 00 'c'", Some((V5, 0x81))),
        (0x10, "'MQTT' 05 02 0000 06 22 0001 22 0001 'c'", Some((V5, 0x82))),
        (0x10, "'MQTT' 05 02 0000 03 21 0000 'c'", Some((V5, 0x82))),
        // the fixed header is wrong, but the version can be seen
        (0x11, "'MQTT' 05 02 0000 00 'c'", Some((V5, 0x81))),
        (0x11, "'MQTT' 04 02 0000 'c'", None),
        (0x1F, "'MQIsdp' 04 02 0000 'c'", None),
    ];
    for (first, text, refusal) in cases {
        let bytes = packet(*first, text);
        let error = decode_connect(&bytes, 1000).unwrap_err();
        assert_eq!(error.refusal.map(|refusal| (refusal.version, refusal.code)), *refusal, "{text}: {error}");
    }
}

#[test]
fn a_connect_that_is_too_large_is_refused_as_such() {
    let mut bytes = packet(0x10, "'MQTT' 05 02 0000 00 'c'");
    let error = decode_connect(&bytes, 10).unwrap_err();
    assert_eq!(error.kind, DecodeErrorKind::PacketTooLarge);
    assert_eq!(error.refusal.map(|refusal| (refusal.version, refusal.code)), Some((V5, 0x95)));
    bytes.truncate(5);
    assert_eq!(decode_connect(&bytes, 10).unwrap_err().refusal, None, "the version is not read yet");
}
