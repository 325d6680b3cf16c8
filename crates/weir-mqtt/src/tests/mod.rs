//! Tests of the codec as tables: a row is a packet, written as in [`body`].

mod accepted;
mod cve;
mod encoded;
mod incomplete;
mod properties;
mod reason;
mod refused;
mod refused_properties;
mod topic;

use super::*;

/// Bytes as hexadecimal digits; `'text'` is a string with its two bytes of length, `"text"` is bare text, `[ .. ]` is a
/// block of properties with its length (of one byte).
fn body(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut block_at = 0;
    for token in text.split_ascii_whitespace() {
        if let Some(string) = token.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
            bytes.extend_from_slice(&u16::try_from(string.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(string.as_bytes());
        } else if let Some(string) = token.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            bytes.extend_from_slice(string.as_bytes());
        } else if token == "[" {
            block_at = bytes.len();
        } else if token == "]" {
            bytes.insert(block_at, u8::try_from(bytes.len() - block_at).ok().filter(|len| *len < 0x80).unwrap());
        } else {
            for at in (0..token.len()).step_by(2) {
                bytes.push(u8::from_str_radix(&token[at..at + 2], 16).unwrap());
            }
        }
    }
    bytes
}

/// A packet: its first byte, the right remaining length, the body.
fn packet(first: u8, text: &str) -> Vec<u8> {
    with_length(first, &body(text))
}

fn with_length(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut rest = body.len();
    loop {
        let more = rest > 0x7F;
        bytes.push((rest & 0x7F) as u8 | if more { 0x80 } else { 0 });
        rest >>= 7;
        if !more {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

fn context(version: ProtocolVersion, from: Side) -> DecodeContext {
    DecodeContext { version, max_packet_size: 1 << 20, from }
}

/// Decodes a packet that must be whole and right, and take all of `bytes`.
#[track_caller]
fn decoded(bytes: &[u8], version: ProtocolVersion, from: Side) -> Packet<'_> {
    match decode(bytes, &context(version, from)) {
        Ok(Decoded::Packet { packet, len }) => {
            assert_eq!(len, bytes.len(), "{packet:?} of {bytes:02x?}");
            packet
        }
        other => panic!("{other:?} of {bytes:02x?}"),
    }
}

#[track_caller]
fn encoded(packet: &Packet<'_>, version: ProtocolVersion) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(packet, version, &mut bytes).unwrap();
    bytes
}
