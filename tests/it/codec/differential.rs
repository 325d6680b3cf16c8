//! Our decoder against mqttbytes, an independent one: wherever mqttbytes is right, both agree. Where it is not, the
//! difference is a named case of [`super::known_differences`].

use bytes::BytesMut;
use mqttbytes::{Error, v4, v5};
use weir_mqtt::{DecodeContext, Decoded, Packet, ProtocolVersion, Side, decode, encode};

use super::generate::{self, Choices};
use super::known_differences::{FORBIDDEN_AND_TAKEN, taken_wrongly, wrongly_refused};
use super::ours::{self, Facts};
use super::theirs;

/// What mqttbytes says of `bytes`, with the reader of `version`.
pub fn theirs(bytes: &[u8], version: ProtocolVersion) -> Result<Facts, Error> {
    let mut stream = BytesMut::from(bytes);
    match version {
        ProtocolVersion::V5 => v5::read(&mut stream, usize::MAX).map(|packet| theirs::facts_v5(&packet)),
        _ => v4::read(&mut stream, usize::MAX).map(|packet| theirs::facts_v4(&packet)),
    }
}

/// A CONNECT is read by the version it names, as ours does; mqttbytes must be told.
fn reader_of(bytes: &[u8], version: ProtocolVersion) -> ProtocolVersion {
    let is_connect = bytes.first().is_some_and(|first| first >> 4 == 1);
    let name = bytes.windows(7).position(|window| window.starts_with(b"\x00\x04MQTT"));
    match name {
        Some(at) if is_connect && bytes[at + 6] == 5 => ProtocolVersion::V5,
        _ if is_connect => ProtocolVersion::V3_1_1,
        _ => version,
    }
}

fn context(version: ProtocolVersion, from: Side) -> DecodeContext {
    DecodeContext { version, max_packet_size: u32::MAX, from }
}

/// Compares the two; `Err` says how they differ without a name for it.
pub fn compare(bytes: &[u8], version: ProtocolVersion, from: Side) -> Result<(), String> {
    let theirs = theirs(bytes, reader_of(bytes, version));
    match (decode(bytes, &context(version, from)), theirs) {
        (Ok(Decoded::Packet { packet, .. }), Ok(theirs)) => {
            let ours = ours::facts(&packet, version);
            let named = ours == theirs || taken_wrongly(&packet).is_some();
            if named { written_is_read(&packet, version) } else { Err(format!("ours {ours:?}\ntheirs {theirs:?}")) }
        }
        (Ok(Decoded::Packet { packet, .. }), Err(error)) => match wrongly_refused(&packet, bytes) {
            Some(_) => Ok(()),
            None => Err(format!("theirs refuses ({error:?}) {packet:?}")),
        },
        (Err(error), Ok(theirs)) => {
            // it looks past a byte of the properties for each subscription identifier: whatever is wrong there
            let miscounted = theirs.count("subscription identifier") > 0;
            let named = miscounted || FORBIDDEN_AND_TAKEN.iter().any(|known| known.what == error.what);
            if named { Ok(()) } else { Err(format!("ours refuses ({error}), theirs {theirs:?}")) }
        }
        (Ok(Decoded::Incomplete { .. }), Ok(theirs)) => Err(format!("ours is incomplete, theirs {theirs:?}")),
        (Ok(Decoded::Incomplete { .. }) | Err(_), Err(_)) => Ok(()),
    }
}

/// What we write of a packet, mqttbytes reads as the same.
fn written_is_read(packet: &Packet<'_>, version: ProtocolVersion) -> Result<(), String> {
    let mut bytes = Vec::new();
    encode(packet, version, &mut bytes).map_err(|error| error.to_string())?;
    if taken_wrongly(packet).is_some() || wrongly_refused(packet, &bytes).is_some() {
        return Ok(());
    }
    match theirs(&bytes, reader_of(&bytes, version)) {
        Ok(theirs) if theirs == ours::facts(packet, version) => Ok(()),
        other => Err(format!("of what we wrote, {bytes:02x?}, theirs read {other:?}")),
    }
}

/// Runs `compare` on packets of seeds; `WEIR_SEED` and `WEIR_SEEDS` choose others.
fn over_seeds(spoiled: usize) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let start = number("WEIR_SEED").unwrap_or(1);
    for seed in start..start + number("WEIR_SEEDS").unwrap_or(3000) {
        let entropy = generate::bytes_of_seed(seed, 600);
        let mut choices = Choices::new(&entropy);
        let version = choices.of(&[ProtocolVersion::V3_1_1, ProtocolVersion::V5]);
        let from = generate::side(&mut choices);
        let packet = generate::packet(&mut choices, version, from);
        if let Err(difference) = compare(&packet, version, from) {
            panic!("seed {seed}, {version:?} from {from:?}: {difference}\nof {packet:02x?}");
        }
        for _ in 0..spoiled {
            let packet = generate::spoil(&mut choices, &packet);
            if let Err(difference) = compare(&packet, version, from) {
                panic!("seed {seed} spoiled, {version:?} from {from:?}: {difference}\nof {packet:02x?}");
            }
        }
    }
}

#[test]
fn both_read_right_packets_alike() {
    over_seeds(0);
}

#[test]
fn both_judge_spoiled_packets_alike() {
    over_seeds(6);
}

#[test]
fn both_match_alike() {
    let levels = ["a", "b", "", "+", "aa"];
    let mut paths: Vec<String> = Vec::new();
    for first in levels {
        paths.push(first.to_owned());
        for second in levels {
            paths.push(format!("{first}/{second}"));
            paths.extend(levels.iter().map(|third| format!("{first}/{second}/{third}")));
        }
    }
    let topics: Vec<&String> = paths.iter().filter(|path| !path.is_empty() && !path.contains('+')).collect();
    let filters: Vec<String> = paths.iter().flat_map(|path| [path.clone(), format!("{path}/#")]).collect();
    for filter in filters.iter().map(String::as_str).chain(["#"]).filter(|filter| !filter.is_empty()) {
        assert!(mqttbytes::valid_filter(filter) && weir_mqtt::validate_topic_filter(filter).is_ok(), "{filter}");
        for topic in &topics {
            let (ours, theirs) = (weir_mqtt::matches(filter, topic), mqttbytes::matches(topic, filter));
            assert_eq!(ours, theirs, "{filter} {topic}");
        }
    }
}
