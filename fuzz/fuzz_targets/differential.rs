//! Our decoder against mqttbytes: where it is right, both agree; else the difference has a name.
#![no_main]
#![allow(dead_code, unused_imports)] // the tests use more of these modules

#[path = "../../tests/it/codec/differential.rs"]
mod differential;
#[path = "../../tests/it/codec/generate.rs"]
mod generate;
#[path = "../../tests/it/codec/known_differences.rs"]
mod known_differences;
#[path = "../../tests/it/codec/ours.rs"]
mod ours;
#[path = "../../tests/it/codec/theirs.rs"]
mod theirs;

use generate::Choices;
use libfuzzer_sys::fuzz_target;
use weir_mqtt::ProtocolVersion;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let version = choices.of(&[ProtocolVersion::V3_1_1, ProtocolVersion::V5]);
    let from = generate::side(&mut choices);
    let packet = generate::packet(&mut choices, version, from);
    let spoiled = generate::spoil(&mut choices, &packet);
    for bytes in [&packet[..], &spoiled, data.get(2..).unwrap_or_default()] {
        // mqttbytes prints each 5.0 UNSUBSCRIBE it reads
        if version == ProtocolVersion::V5 && bytes.first().is_some_and(|first| first >> 4 == 10) {
            continue;
        }
        if let Err(difference) = differential::compare(bytes, version, from) {
            panic!("{difference}\nof {bytes:02x?}");
        }
    }
});
