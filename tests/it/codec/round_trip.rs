//! Decode, encode, decode: the same packet.

use proptest::prelude::*;
use weir_mqtt::{
    DecodeContext, Decoded, Packet, ProtocolVersion, PublishPropsOut, Side, decode, encode, encode_publish_parts,
    publish_len,
};

use super::generate::{self, Choices};

fn context(version: ProtocolVersion, from: Side) -> DecodeContext {
    DecodeContext { version, max_packet_size: u32::MAX, from }
}

/// What `bytes` hold, if they are right: and then, encoded again, they hold the same.
fn round_trip(bytes: &[u8], version: ProtocolVersion, from: Side) -> bool {
    let Ok(Decoded::Packet { packet, len }) = decode(bytes, &context(version, from)) else { return false };
    assert!(len <= bytes.len());
    let mut again = Vec::new();
    encode(&packet, version, &mut again).unwrap();
    match decode(&again, &context(version, from)) {
        Ok(Decoded::Packet { packet: second, len }) => {
            assert_eq!(second, packet, "{bytes:02x?}");
            assert_eq!(len, again.len(), "{bytes:02x?}");
            let mut third = Vec::new();
            encode(&second, version, &mut third).unwrap();
            assert_eq!(third, again, "the encoder's form comes back byte by byte");
        }
        other => panic!("{other:?} of {again:02x?}, encoded from {packet:?}"),
    }
    true
}

/// A PUBLISH that is forwarded in parts keeps what is to be kept.
fn forwarded(bytes: &[u8], version: ProtocolVersion, from: Side) {
    let Ok(Decoded::Packet { packet: Packet::Publish(publish), .. }) = decode(bytes, &context(version, from)) else {
        return;
    };
    let pieces: Vec<&[u8]> = publish.properties.forwardable().collect();
    let out = PublishPropsOut {
        pieces: &pieces,
        message_expiry_s: Some(5),
        topic_alias: None,
        subscription_identifiers: &[9],
    };
    let topic = if publish.topic.is_empty() { "by/alias" } else { publish.topic };
    let mut again = Vec::new();
    let (qos, id) = (publish.qos, publish.packet_id);
    encode_publish_parts(&mut again, version, false, qos, publish.retain, topic, id, &out, publish.payload).unwrap();
    assert_eq!(publish_len(version, qos, topic.len(), &out, publish.payload.len()), again.len());
    let Ok(Decoded::Packet { packet: Packet::Publish(second), .. }) = decode(&again, &context(version, Side::Server))
    else {
        panic!("{again:02x?}, from {publish:?}");
    };
    assert_eq!((second.topic, second.payload, second.qos, second.dup), (topic, publish.payload, qos, false));
    if version == ProtocolVersion::V5 {
        let (before, after) = (&publish.properties, &second.properties);
        assert_eq!(after.user_properties(), before.user_properties());
        assert_eq!(after.content_type, before.content_type);
        assert_eq!(after.response_topic, before.response_topic);
        assert_eq!(after.correlation_data, before.correlation_data);
        assert_eq!(after.payload_format_indicator, before.payload_format_indicator);
        assert_eq!((after.message_expiry_s, after.topic_alias), (Some(5), None));
        assert_eq!(after.subscription_identifiers().collect::<Vec<_>>(), [9]);
    } else {
        assert!(second.properties.raw.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_right_packet_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut choices = Choices::new(&bytes);
        let (version, from) = (generate::version(&mut choices), generate::side(&mut choices));
        let packet = generate::packet(&mut choices, version, from);
        prop_assert!(round_trip(&packet, version, from), "{packet:02x?} is right for {version:?} from {from:?}");
        forwarded(&packet, version, from);
    }

    #[test]
    fn a_spoiled_packet_is_refused_or_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut choices = Choices::new(&bytes);
        let (version, from) = (generate::version(&mut choices), generate::side(&mut choices));
        let packet = generate::packet(&mut choices, version, from);
        let spoiled = generate::spoil(&mut choices, &packet);
        round_trip(&spoiled, version, from);
        forwarded(&spoiled, version, from);
    }

    #[test]
    fn any_bytes_are_refused_or_come_back(
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
        version in prop_oneof![Just(ProtocolVersion::V3_1), Just(ProtocolVersion::V3_1_1), Just(ProtocolVersion::V5)],
        from in prop_oneof![Just(Side::Client), Just(Side::Server)],
    ) {
        round_trip(&bytes, version, from);
    }
}
