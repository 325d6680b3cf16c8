//! Decode, encode, decode: the same packet. The bytes are chosen by the fuzzer, or are a right packet that it spoils.
#![no_main]

#[path = "../../tests/it/codec/generate.rs"]
#[allow(dead_code)] // the tests use more of it
mod generate;

use generate::Choices;
use libfuzzer_sys::fuzz_target;
use weir_mqtt::{DecodeContext, Decoded, ProtocolVersion, Side, decode, encode};

fn round_trip(bytes: &[u8], version: ProtocolVersion, from: Side) -> bool {
    let context = DecodeContext { version, max_packet_size: u32::MAX, from };
    let Ok(Decoded::Packet { packet, .. }) = decode(bytes, &context) else { return false };
    let mut again = Vec::new();
    encode(&packet, version, &mut again).expect("what was decoded can be encoded");
    match decode(&again, &context) {
        Ok(Decoded::Packet { packet: second, len }) => {
            assert_eq!(second, packet);
            assert_eq!(len, again.len());
        }
        other => panic!("{other:?} of what was encoded from {packet:?}"),
    }
    true
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let (version, from) = (generate::version(&mut choices), generate::side(&mut choices));
    round_trip(data.get(2..).unwrap_or_default(), version, from);
    let packet = generate::packet(&mut choices, version, from);
    assert!(round_trip(&packet, version, from), "a right packet was refused: {packet:02x?}");
    round_trip(&generate::spoil(&mut choices, &packet), version, from);
});
