//! The reason codes, against the specification's tables.

use super::super::ProtocolVersion::{V3_1_1, V5};
use super::super::Side::{Client, Server};
use super::super::reason::{self, UnknownReasonCode};
use super::super::{ReasonCode, return_code};

/// The specification's tables 3-1, 3-4 to 3-11, read across: a code and the packets that may carry it. C CONNACK,
/// a PUBACK and PUBREC, r PUBREL and PUBCOMP, S SUBACK, U UNSUBACK, d DISCONNECT by a client, D by a server, t AUTH by
/// a client, T by a server.
const TABLES: &[(u8, &str)] = &[
    (0x00, "CarSUdDT"),
    (0x01, "S"),
    (0x02, "S"),
    (0x04, "d"),
    (0x10, "a"),
    (0x11, "U"),
    (0x18, "tT"),
    (0x19, "t"),
    (0x80, "CaSUdD"),
    (0x81, "CdD"),
    (0x82, "CdD"),
    (0x83, "CaSUdD"),
    (0x84, "C"),
    (0x85, "C"),
    (0x86, "C"),
    (0x87, "CaSUD"),
    (0x88, "C"),
    (0x89, "CD"),
    (0x8A, "C"),
    (0x8B, "D"),
    (0x8C, "C"),
    (0x8D, "D"),
    (0x8E, "D"),
    (0x8F, "SUD"),
    (0x90, "CadD"),
    (0x91, "aSU"),
    (0x92, "r"),
    (0x93, "dD"),
    (0x94, "dD"),
    (0x95, "CdD"),
    (0x96, "dD"),
    (0x97, "CaSdD"),
    (0x98, "dD"),
    (0x99, "CadD"),
    (0x9A, "CD"),
    (0x9B, "CD"),
    (0x9C, "CD"),
    (0x9D, "CD"),
    (0x9E, "SD"),
    (0x9F, "CD"),
    (0xA0, "D"),
    (0xA1, "SD"),
    (0xA2, "SD"),
];

#[test]
fn a_code_is_legal_exactly_where_the_tables_have_it() {
    for code in 0..=u8::MAX {
        let packets = TABLES.iter().find(|row| row.0 == code).map_or("", |row| row.1);
        let legal = [
            ('C', reason::legal_in_connack(V5, code)),
            ('a', reason::legal_in_puback(code)),
            ('r', reason::legal_in_pubrel(code)),
            ('S', reason::legal_in_suback(V5, code)),
            ('U', reason::legal_in_unsuback(code)),
            ('d', reason::legal_in_disconnect(Client, code)),
            ('D', reason::legal_in_disconnect(Server, code)),
            ('t', reason::legal_in_auth(Client, code)),
            ('T', reason::legal_in_auth(Server, code)),
        ];
        for (letter, legal) in legal {
            assert_eq!(legal, packets.contains(letter), "0x{code:02X} {letter}");
        }
    }
}

#[test]
fn every_code_has_a_name_and_comes_back() {
    let named: Vec<u8> = ReasonCode::ALL.iter().map(|code| code.as_u8()).collect();
    assert_eq!(named, TABLES.iter().map(|row| row.0).collect::<Vec<_>>());
    for value in 0..=u8::MAX {
        match ReasonCode::try_from(value) {
            Ok(code) => {
                assert_eq!(u8::from(code), value);
                assert_eq!(code.is_error(), value >= 0x80);
                assert!(!code.name().is_empty());
            }
            Err(UnknownReasonCode(unknown)) => {
                assert_eq!(unknown, value);
                assert!(!named.contains(&value));
            }
        }
    }
    assert_eq!(ReasonCode::SessionTakenOver.to_string(), "session taken over (0x8E)");
}

#[test]
fn the_return_codes_are_those_of_3_1_1() {
    for code in 0..=u8::MAX {
        assert_eq!(reason::legal_in_connack(V3_1_1, code), code <= return_code::NOT_AUTHORIZED, "{code}");
    }
}
