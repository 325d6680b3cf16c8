//! The rules about properties, broken: chapter 2.2.2 and the packets' own sections.

use super::super::ProtocolVersion::V5;
use super::super::Side::{Client, Server};
use super::super::property;
use super::super::rule;
use super::refused::{Case, error};
use super::{body, with_length};

#[rustfmt::skip] // a table
pub(super) static CASES: &[Case] = &[
    // unknown
    Case(&rule::PROPERTY_UNKNOWN, V5, Client, 0x30, "'a' 02 00 00"),
    Case(&rule::PROPERTY_UNKNOWN, V5, Client, 0x30, "'a' 02 04 00"),
    Case(&rule::PROPERTY_UNKNOWN, V5, Client, 0x30, "'a' 02 2B 00"),
    Case(&rule::PROPERTY_UNKNOWN, V5, Client, 0x30, "'a' 02 7F 00"),
    Case(&rule::PROPERTY_UNKNOWN, V5, Client, 0x30, "'a' 03 81 02 00"), // identifier 257
    Case(&rule::VARINT_NOT_MINIMAL, V5, Client, 0x30, "'a' 03 81 00 00"), // identifier 1, in two bytes
    // twice
    Case(&rule::PROPERTY_REPEATED, V5, Client, 0x30, "'a' 04 01 00 01 00"),
    Case(&rule::PROPERTY_REPEATED, V5, Client, 0x30, "'a' 0A 02 00000001 02 00000001"),
    Case(&rule::PROPERTY_REPEATED, V5, Client, 0x30, "'a' 06 23 0001 23 0001"),
    Case(&rule::PROPERTY_REPEATED, V5, Client, 0x30, "'a' 08 08 'r' 08 'r'"),
    Case(&rule::PROPERTY_REPEATED, V5, Client, 0x30, "'a' 08 09 'd' 09 'd'"),
    Case(&rule::PROPERTY_REPEATED, V5, Client, 0x30, "'a' 08 03 't' 03 't'"),
    Case(&rule::PROPERTY_REPEATED, V5, Client, 0x40, "0001 00 08 1F 'r' 1F 'r'"),
    Case(&rule::PROPERTY_REPEATED, V5, Client, 0x82, "0001 04 0B 01 0B 01 'a' 00"),
    Case(&rule::PROPERTY_REPEATED, V5, Client, 0xE0, "00 0A 11 00000000 11 00000000"),
    Case(&rule::PROPERTY_REPEATED, V5, Server, 0xE0, "9C 08 1C 's' 1C 's'"),
    Case(&rule::PROPERTY_REPEATED, V5, Client, 0xF0, "18 08 15 'm' 15 'm'"),
    Case(&rule::PROPERTY_REPEATED, V5, Client, 0xF0, "18 0C 15 'm' 16 'd' 16 'd'"),
    Case(&rule::PROPERTY_REPEATED, V5, Client, 0x10, "'MQTT' 05 02 0000 0A 11 00000001 11 00000001 'c'"),
    Case(&rule::PROPERTY_REPEATED, V5, Client, 0x10, "'MQTT' 05 02 0000 06 21 0001 21 0001 'c'"),
    Case(&rule::PROPERTY_REPEATED, V5, Client, 0x10, "'MQTT' 05 02 0000 04 17 01 17 01 'c'"),
    Case(&rule::PROPERTY_REPEATED, V5, Client, 0x10, "'MQTT' 05 06 0000 00 'c' 0A 18 00000001 18 00000001 'w' 'm'"),
    Case(&rule::PROPERTY_REPEATED, V5, Server, 0x20, "00 00 06 13 0001 13 0001"),
    // the length
    Case(&rule::PROPERTY_LENGTH, V5, Client, 0x30, "'a' 01"),
    Case(&rule::PROPERTY_LENGTH, V5, Client, 0x30, "'a' 03 01 00"),
    Case(&rule::PROPERTY_LENGTH, V5, Client, 0x30, "'a' FFFFFF7F"),
    Case(&rule::PROPERTY_LENGTH, V5, Client, 0x40, "0001 00 01"),
    Case(&rule::PROPERTY_LENGTH, V5, Client, 0x82, "0001 7F 'a' 00"),
    Case(&rule::PROPERTY_LENGTH, V5, Client, 0x10, "'MQTT' 05 02 0000 7F 'c'"),
    Case(&rule::PROPERTY_LENGTH, V5, Client, 0x10, "'MQTT' 05 06 0000 00 'c' 7F 'w' 'm'"),
    Case(&rule::VARINT_NOT_MINIMAL, V5, Client, 0x30, "'a' 8000"),
    Case(&rule::VARINT_TOO_LONG, V5, Client, 0x30, "'a' 8080808001"),
    Case(&rule::PROPERTY_ENDS_EARLY, V5, Client, 0x30, "'a' 01 01"),
    Case(&rule::PROPERTY_ENDS_EARLY, V5, Client, 0x30, "'a' 03 02 0000"),
    Case(&rule::PROPERTY_ENDS_EARLY, V5, Client, 0x30, "'a' 03 01 00 81 00"), // inside an identifier
    Case(&rule::PROPERTY_ENDS_EARLY, V5, Client, 0x30, "'a' 04 03 0002 61"),
    Case(&rule::PROPERTY_ENDS_EARLY, V5, Client, 0x30, "'a' 04 26 'k'"),
    Case(&rule::PROPERTY_ENDS_EARLY, V5, Client, 0x30, "'a' 06 26 'k' 0001 61"), // the value stands outside
    Case(&rule::PROPERTY_ENDS_EARLY, V5, Server, 0x30, "'a' 02 0B 80"),
    Case(&rule::PROPERTY_ENDS_EARLY, V5, Client, 0x10, "'MQTT' 05 02 0000 02 21 00 'c'"),
    // strings in them
    Case(&rule::UTF8, V5, Client, 0x30, "'a' 04 03 0001 FF"),
    Case(&rule::UTF8, V5, Client, 0x30, "'a' 07 26 0001 FF 'v'"),
    Case(&rule::UTF8, V5, Client, 0x30, "'a' 07 26 'k' 0001 FF"),
    Case(&rule::UTF8, V5, Client, 0x30, "'a' 04 08 0001 FF"),
    Case(&rule::UTF8, V5, Client, 0x40, "0001 00 04 1F 0001 FF"),
    Case(&rule::UTF8, V5, Client, 0x10, "'MQTT' 05 02 0000 04 15 0001 FF 'c'"),
    Case(&rule::NULL_CHARACTER, V5, Client, 0x30, "'a' 04 03 0001 00"),
    Case(&rule::NULL_CHARACTER, V5, Client, 0x30, "'a' 07 26 'k' 0001 00"),
    Case(&rule::NULL_CHARACTER, V5, Client, 0x30, "'a' 04 08 0001 00"),
    // ranges
    Case(&rule::PROPERTY_NOT_BOOLEAN, V5, Client, 0x30, "'a' 02 01 02"),
    Case(&rule::PROPERTY_NOT_BOOLEAN, V5, Client, 0x10, "'MQTT' 05 02 0000 02 17 02 'c'"),
    Case(&rule::PROPERTY_NOT_BOOLEAN, V5, Client, 0x10, "'MQTT' 05 02 0000 02 19 FF 'c'"),
    Case(&rule::PROPERTY_NOT_BOOLEAN, V5, Client, 0x10, "'MQTT' 05 06 0000 00 'c' 02 01 02 'w' 'm'"),
    Case(&rule::PROPERTY_NOT_BOOLEAN, V5, Server, 0x20, "00 00 02 24 02"),
    Case(&rule::PROPERTY_NOT_BOOLEAN, V5, Server, 0x20, "00 00 02 25 02"),
    Case(&rule::PROPERTY_NOT_BOOLEAN, V5, Server, 0x20, "00 00 02 28 02"),
    Case(&rule::PROPERTY_NOT_BOOLEAN, V5, Server, 0x20, "00 00 02 29 02"),
    Case(&rule::PROPERTY_NOT_BOOLEAN, V5, Server, 0x20, "00 00 02 2A 02"),
    Case(&rule::RECEIVE_MAXIMUM_ZERO, V5, Client, 0x10, "'MQTT' 05 02 0000 03 21 0000 'c'"),
    Case(&rule::RECEIVE_MAXIMUM_ZERO, V5, Server, 0x20, "00 00 03 21 0000"),
    Case(&rule::MAXIMUM_PACKET_SIZE_ZERO, V5, Client, 0x10, "'MQTT' 05 02 0000 05 27 00000000 'c'"),
    Case(&rule::MAXIMUM_PACKET_SIZE_ZERO, V5, Server, 0x20, "00 00 05 27 00000000"),
    Case(&rule::SUBSCRIPTION_IDENTIFIER_ZERO, V5, Client, 0x82, "0001 02 0B 00 'a' 00"),
    Case(&rule::SUBSCRIPTION_IDENTIFIER_ZERO, V5, Server, 0x30, "'a' 02 0B 00"),
    Case(&rule::VARINT_TOO_LONG, V5, Client, 0x82, "0001 06 0B 8080808001 'a' 00"),
    Case(&rule::SUBSCRIPTION_IDENTIFIER_FROM_CLIENT, V5, Client, 0x30, "'a' 02 0B 01"),
    Case(&rule::TOPIC_ALIAS_ZERO, V5, Client, 0x30, "'a' 03 23 0000"),
    Case(&rule::TOPIC_ALIAS_ZERO, V5, Server, 0x30, "'' 03 23 0000"),
    Case(&rule::RESPONSE_TOPIC, V5, Client, 0x30, "'a' 06 08 'r/#'"),
    Case(&rule::RESPONSE_TOPIC, V5, Client, 0x30, "'a' 04 08 '+'"),
    Case(&rule::RESPONSE_TOPIC, V5, Client, 0x30, "'a' 03 08 ''"),
    Case(&rule::RESPONSE_TOPIC, V5, Client, 0x10, "'MQTT' 05 06 0000 00 'c' 06 08 'r/#' 'w' 'm'"),
    Case(&rule::AUTH_DATA_WITHOUT_METHOD, V5, Client, 0x10, "'MQTT' 05 02 0000 04 16 'd' 'c'"),
    // misplaced: all pairs are below, one here
    Case(&rule::PROPERTY_MISPLACED, V5, Client, 0x30, "'a' 02 24 01"),
];

/// A packet that can carry properties, as the bytes before and behind them.
struct Carrier {
    name: &'static str,
    allowed: u64,
    from: super::super::Side,
    first: u8,
    before: &'static str,
    behind: &'static str,
}

#[rustfmt::skip] // a table
const CARRIERS: &[Carrier] = &[
    Carrier { name: "CONNECT", allowed: property::IN_CONNECT, from: Client, first: 0x10, before: "'MQTT' 05 02 0000", behind: "'c'" },
    Carrier { name: "will", allowed: property::IN_WILL, from: Client, first: 0x10, before: "'MQTT' 05 06 0000 00 'c'", behind: "'w' 'm'" },
    Carrier { name: "CONNACK", allowed: property::IN_CONNACK, from: Server, first: 0x20, before: "00 00", behind: "" },
    Carrier { name: "PUBLISH", allowed: property::IN_PUBLISH, from: Server, first: 0x30, before: "'a'", behind: "" },
    Carrier { name: "PUBACK", allowed: property::IN_ACK, from: Client, first: 0x40, before: "0001 00", behind: "" },
    Carrier { name: "PUBREC", allowed: property::IN_ACK, from: Client, first: 0x50, before: "0001 00", behind: "" },
    Carrier { name: "PUBREL", allowed: property::IN_ACK, from: Client, first: 0x62, before: "0001 00", behind: "" },
    Carrier { name: "PUBCOMP", allowed: property::IN_ACK, from: Client, first: 0x70, before: "0001 00", behind: "" },
    Carrier { name: "SUBSCRIBE", allowed: property::IN_SUBSCRIBE, from: Client, first: 0x82, before: "0001", behind: "'a' 00" },
    Carrier { name: "SUBACK", allowed: property::IN_ACK, from: Server, first: 0x90, before: "0001", behind: "00" },
    Carrier { name: "UNSUBSCRIBE", allowed: property::IN_UNSUBSCRIBE, from: Client, first: 0xA2, before: "0001", behind: "'a'" },
    Carrier { name: "UNSUBACK", allowed: property::IN_ACK, from: Server, first: 0xB0, before: "0001", behind: "00" },
    Carrier { name: "DISCONNECT", allowed: property::IN_DISCONNECT, from: Client, first: 0xE0, before: "00", behind: "" },
    Carrier { name: "AUTH", allowed: property::IN_AUTH, from: Client, first: 0xF0, before: "18", behind: "" },
];

/// The specification's table 2-4, read across: property, and a letter for each packet that may carry it.
/// c CONNECT, w will, C CONNACK, P PUBLISH, a PUBACK and its like, s SUBSCRIBE, S SUBACK and UNSUBACK, u UNSUBSCRIBE,
/// d DISCONNECT, A AUTH.
#[rustfmt::skip] // a table
const TABLE_2_4: &[(u8, &str, &str)] = &[
    (0x01, "01", "Pw"), (0x02, "00000001", "Pw"), (0x03, "'t'", "Pw"), (0x08, "'r'", "Pw"), (0x09, "'d'", "Pw"),
    (0x0B, "01", "Ps"), (0x11, "00000001", "cCd"), (0x12, "'i'", "C"), (0x13, "0001", "C"), (0x15, "'m'", "cCA"),
    (0x16, "'d'", "cCA"), (0x17, "01", "c"), (0x18, "00000001", "w"), (0x19, "01", "c"), (0x1A, "'i'", "C"),
    (0x1C, "'s'", "Cd"), (0x1F, "'r'", "CaSdA"), (0x21, "0001", "cC"), (0x22, "0001", "cC"), (0x23, "0001", "P"),
    (0x24, "01", "C"), (0x25, "01", "C"), (0x26, "'k' 'v'", "cwCPasSudA"), (0x27, "00000001", "cC"),
    (0x28, "01", "C"), (0x29, "01", "C"), (0x2A, "01", "C"),
];

fn letter(carrier: &str) -> char {
    match carrier {
        "CONNECT" => 'c',
        "will" => 'w',
        "CONNACK" => 'C',
        "PUBLISH" => 'P',
        "SUBSCRIBE" => 's',
        "SUBACK" | "UNSUBACK" => 'S',
        "UNSUBSCRIBE" => 'u',
        "DISCONNECT" => 'd',
        "AUTH" => 'A',
        _ => 'a',
    }
}

/// Every property in every packet: taken where table 2-4 has it, refused elsewhere.
#[test]
fn a_property_is_taken_exactly_where_the_table_has_it() {
    for carrier in CARRIERS {
        for &(id, value, packets) in TABLE_2_4 {
            let mut properties = vec![id];
            properties.extend(body(value));
            // what must stand beside it
            if carrier.name == "AUTH" && id != 0x15 || carrier.name == "CONNECT" && id == 0x16 {
                properties.extend(body("15 'm'"));
            }
            let mut bytes = body(carrier.before);
            bytes.push(u8::try_from(properties.len()).unwrap());
            bytes.extend(&properties);
            bytes.extend(body(carrier.behind));
            let bytes = with_length(carrier.first, &bytes);
            let allowed = packets.contains(letter(carrier.name));
            assert_eq!(carrier.allowed & 1 << id != 0, allowed, "{} {id:02x}", carrier.name);
            if allowed {
                super::decoded(&bytes, V5, carrier.from);
            } else {
                let what = error(&bytes, V5, carrier.from).what;
                assert_eq!(what, rule::PROPERTY_MISPLACED.what, "{} {id:02x}", carrier.name);
            }
        }
    }
}

/// Every identifier that table 2-4 does not have, in every packet.
#[test]
fn an_unknown_property_is_refused() {
    for carrier in CARRIERS {
        for id in (0..0x80).filter(|id| !TABLE_2_4.iter().any(|row| row.0 == *id)) {
            let mut bytes = body(carrier.before);
            bytes.extend([2, id, 0]);
            bytes.extend(body(carrier.behind));
            let what = error(&with_length(carrier.first, &bytes), V5, carrier.from).what;
            assert_eq!(what, rule::PROPERTY_UNKNOWN.what, "{} {id:02x}", carrier.name);
        }
    }
}
