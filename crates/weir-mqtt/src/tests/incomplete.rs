//! Partial packets, and bytes that follow a packet.

use super::super::ProtocolVersion::{V3_1_1, V5};
use super::super::Side::Client;
use super::super::{DecodeContext, Decoded, decode, decode_connect};
use super::accepted::CANONICAL;
use super::{context, packet};

#[test]
fn every_beginning_of_a_packet_is_incomplete() {
    for (version, from, first, text) in CANONICAL {
        let bytes = packet(*first, text);
        for end in 0..bytes.len() {
            let needs = match decode(&bytes[..end], &context(*version, *from)) {
                Ok(Decoded::Incomplete { needs }) => needs,
                other => panic!("{other:?} of {:02x?}", &bytes[..end]),
            };
            assert_eq!(needs, (end >= 2).then_some(bytes.len()), "{:02x?}", &bytes[..end]);
        }
    }
}

#[test]
fn the_length_is_needed_whole_before_it_is_told() {
    let mut bytes = vec![0x30, 0x80, 0x80, 0x01];
    for end in 0..4 {
        assert_eq!(decode(&bytes[..end], &context(V5, Client)), Ok(Decoded::Incomplete { needs: None }), "{end}");
    }
    assert_eq!(decode(&bytes, &context(V5, Client)), Ok(Decoded::Incomplete { needs: Some(4 + 0x4000) }));
    bytes.extend([0; 100]);
    assert_eq!(decode(&bytes, &context(V5, Client)), Ok(Decoded::Incomplete { needs: Some(4 + 0x4000) }));
}

#[test]
fn what_follows_a_packet_is_left() {
    for (version, from, first, text) in CANONICAL {
        let mut bytes = packet(*first, text);
        let len = bytes.len();
        bytes.extend_from_slice(&[0xFF; 7]);
        match decode(&bytes, &context(*version, *from)) {
            Ok(Decoded::Packet { len: taken, .. }) => assert_eq!(taken, len, "{text}"),
            other => panic!("{other:?} of {text}"),
        }
    }
}

#[test]
fn a_packet_of_exactly_the_maximum_is_taken() {
    let bytes = packet(0x30, "'a' \"payload\"");
    let of = |max_packet_size| DecodeContext { version: V3_1_1, max_packet_size, from: Client };
    let len = u32::try_from(bytes.len()).unwrap();
    assert!(decode(&bytes, &of(len)).is_ok());
    assert_eq!(decode(&bytes, &of(len - 1)).unwrap_err().reason.as_u8(), 0x95);
    assert_eq!(decode(&bytes[..2], &of(len - 1)).unwrap_err().reason.as_u8(), 0x95);
    assert_eq!(
        decode(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], &of(u32::MAX)),
        Ok(Decoded::Incomplete { needs: Some(268_435_460) })
    );
}

#[test]
fn a_first_packet_is_decoded_like_any_other() {
    for (version, _, first, text) in CANONICAL.iter().filter(|row| row.2 == 0x10) {
        let bytes = packet(*first, text);
        for end in 0..bytes.len() {
            let needs = (end >= 2).then_some(bytes.len());
            assert_eq!(decode_connect(&bytes[..end], 1000), Ok(Decoded::Incomplete { needs }), "{text}");
        }
        match decode_connect(&bytes, 1000) {
            Ok(Decoded::Packet { packet, len }) => assert_eq!((packet.version, len), (*version, bytes.len())),
            other => panic!("{other:?} of {text}"),
        }
    }
}
