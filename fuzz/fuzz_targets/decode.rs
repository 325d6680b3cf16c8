//! Any bytes, as a stream from either side: nothing panics, and what the decoder says of them hangs together.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_mqtt::{DecodeContext, Decoded, ProtocolVersion, Side, decode, decode_connect};

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let version = [ProtocolVersion::V3_1, ProtocolVersion::V3_1_1, ProtocolVersion::V5][usize::from(choice >> 1) % 3];
    let from = if choice & 1 == 0 { Side::Client } else { Side::Server };
    let max_packet_size = if choice & 0x80 == 0 { u32::MAX } else { 64 };
    let context = DecodeContext { version, max_packet_size, from };

    let mut rest = bytes;
    loop {
        match decode(rest, &context) {
            Ok(Decoded::Packet { packet, len }) => {
                assert!(len >= 2 && len <= rest.len() && len <= max_packet_size as usize);
                // a beginning of it is not the whole
                for end in [0, 1, len / 2, len - 1] {
                    assert!(matches!(decode(&rest[..end], &context), Ok(Decoded::Incomplete { .. })), "{packet:?}");
                }
                rest = &rest[len..];
            }
            Ok(Decoded::Incomplete { needs }) => {
                assert!(needs.is_none_or(|needs| needs > rest.len() && needs <= max_packet_size as usize));
                break;
            }
            Err(error) => {
                assert!(error.reason.is_error() && !error.clause.is_empty(), "{error}");
                break;
            }
        }
    }
    let _ = decode_connect(bytes, max_packet_size);
});
