//! The load bench's own judgement: it must see what is lost, doubled, late or changed, or its tables prove nothing.

#[path = "../../benches/load/ledger.rs"]
#[allow(unreachable_pub, dead_code)] // the bench's module, of which a part is used here
mod ledger;
#[path = "../../benches/load/stats.rs"]
#[allow(unreachable_pub)] // the bench's module
mod stats;
#[path = "../../benches/load/wire.rs"]
#[allow(unreachable_pub, dead_code)] // the bench's module, of which a part is used here
mod wire;

use ledger::{Faults, Stream};
use weir_mqtt::{DecodeContext, Decoded, Packet, ProtocolVersion, Side, decode};
use wire::{PublishTemplate, Version};

/// Received sequence numbers; lost of how many sent, duplicated, disordered.
type Case = (&'static [u32], u32, [u64; 3]);

#[test]
fn a_stream_tells_loss_from_lateness_from_repetition() {
    let cases: &[Case] = &[
        (&[], 0, [0, 0, 0]),
        (&[0, 1, 2], 3, [0, 0, 0]),
        (&[0, 1, 2], 4, [1, 0, 0]),
        (&[0, 2, 3], 4, [1, 0, 0]),
        (&[0, 2, 1], 3, [0, 0, 1]),
        (&[2, 1, 0], 3, [0, 0, 2]),
        (&[0, 0, 1], 2, [0, 1, 0]),
        (&[0, 1, 0, 1], 2, [0, 2, 0]),
        (&[0, 2, 1, 1], 3, [0, 1, 1]),
        (&[5], 6, [5, 0, 0]),
    ];
    for (received, sent, [lost, duplicated, disordered]) in cases {
        let (mut stream, mut faults) = (Stream::default(), Faults::default());
        received.iter().for_each(|&sequence| stream.record(sequence, &mut faults));
        assert_eq!(stream.lost(*sent), *lost, "lost of {received:?}");
        assert_eq!((faults.duplicated, faults.disordered), (*duplicated, *disordered), "{received:?}");
    }
}

fn published(bytes: &[u8], version: ProtocolVersion) -> (String, Vec<u8>, Option<u16>) {
    let context = DecodeContext { version, max_packet_size: 1 << 20, from: Side::Client };
    match decode(bytes, &context) {
        Ok(Decoded::Packet { packet: Packet::Publish(publish), len }) if len == bytes.len() => {
            let packet_id = publish.packet_id.map(std::num::NonZeroU16::get);
            (publish.topic.to_owned(), publish.payload.to_vec(), packet_id)
        }
        other => panic!("not one PUBLISH: {other:?}"),
    }
}

#[test]
fn templates_are_packets_that_the_codec_reads_and_the_bench_reads_back() {
    let templates = [
        (Version::V3_1_1, 0, PublishTemplate::new("a/b", 0, false, 64)),
        (Version::V3_1_1, 1, PublishTemplate::new("a/b", 1, false, 16)),
        (Version::V3_1_1, 2, PublishTemplate::new("a/b", 2, true, 65_536)),
        (Version::V5, 1, PublishTemplate::v5("a/b", 1, 64)),
    ];
    for (version, qos, mut template) in templates {
        let packet = template.stamp(513, 7, 70_000, 1 << 40).to_vec();
        assert_eq!(packet.len(), template.len());
        let spoken = if version == Version::V5 { ProtocolVersion::V5 } else { ProtocolVersion::V3_1_1 };
        let (topic, payload, packet_id) = published(&packet, spoken);
        assert_eq!((topic.as_str(), packet_id), ("a/b", (qos > 0).then_some(513)));
        let (frame, length) = wire::split_frame(&packet).expect("well formed").expect("whole");
        assert_eq!(length, packet.len());
        let delivery = wire::delivery(version, frame).expect("a delivery");
        assert_eq!((delivery.stream, delivery.sequence, delivery.sent_ns), (7, 70_000, 1 << 40));
        assert_eq!((delivery.qos, delivery.payload_bytes), (qos, payload.len()));
        for cut in [1, 2, packet.len() / 2, packet.len() - 1] {
            assert!(wire::split_frame(&packet[..cut]).expect("well formed").is_none(), "{cut} bytes are no frame");
        }
    }
}

#[test]
fn a_changed_property_is_seen() {
    let mut packet = PublishTemplate::v5("a/b", 0, 64).stamp(0, 0, 0, 0).to_vec();
    let at = packet.windows(4).position(|bytes| bytes == b"site").expect("the user property");
    packet[at] = b'S';
    let (frame, _) = wire::split_frame(&packet).expect("well formed").expect("whole");
    assert!(wire::delivery(Version::V5, frame).is_err());
}

#[test]
fn medians_and_percentiles() {
    assert_eq!(stats::median(&[]), None);
    assert_eq!(stats::median(&[3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(stats::median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    let mut samples: Vec<u64> = (1..=1000).rev().collect();
    assert_eq!(stats::percentile(&mut samples, 0.5), 500);
    assert_eq!(stats::percentile(&mut samples, 0.999), 999);
    assert_eq!(stats::percentile(&mut [], 0.5), 0);
}
