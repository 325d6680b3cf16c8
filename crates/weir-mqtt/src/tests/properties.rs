//! What a forwarder takes out of a PUBLISH's properties, and user properties.

use super::super::ProtocolVersion::V5;
use super::super::Side::Server;
use super::super::{Packet, PublishProperties, UserProperties, push_user_property};
use super::{body, decoded, packet};

/// Properties, and the pieces that are forwarded.
const FORWARDED: &[(&str, &[&str])] = &[
    ("", &[]),
    ("01 01", &["01 01"]),
    ("26 'k' 'v' 03 't'", &["26 'k' 'v' 03 't'"]),
    ("23 0001", &[]),
    ("02 00000001 23 0001", &[]),
    ("0B 01 0B FFFFFF7F", &[]),
    ("18 00000001", &[]),
    ("23 0001 01 01", &["01 01"]),
    ("01 01 23 0001", &["01 01"]),
    ("01 01 23 0001 03 't'", &["01 01", "03 't'"]),
    ("02 00000001 26 'k' 'v' 09 'd' 0B 8001 08 'r' 23 0001 26 'k' 'w'", &["26 'k' 'v' 09 'd'", "08 'r'", "26 'k' 'w'"]),
];

#[test]
fn what_is_forwarded_comes_in_whole_runs() {
    for (text, pieces) in FORWARDED {
        let raw = body(text);
        let properties = PublishProperties { raw: &raw, ..PublishProperties::default() };
        let wanted: Vec<Vec<u8>> = pieces.iter().map(|piece| body(piece)).collect();
        assert_eq!(properties.forwardable().collect::<Vec<_>>(), wanted, "{text}");
        let all_forwarded = wanted.concat() == raw;
        assert_eq!(properties.has_unforwardable(), !all_forwarded, "{text}");
    }
}

#[test]
fn the_properties_of_a_publish_are_read_out_of_its_block() {
    let text = "01 01 02 0000000A 03 't' 08 'r' 09 0002 00FF 0B 01 0B 8001 23 0002 26 'a' 'b' 26 'a' 'c'";
    let block = body(text);
    let mut bytes = body("'t'");
    bytes.push(u8::try_from(block.len()).unwrap());
    bytes.extend(&block);
    let bytes = super::with_length(0x30, &bytes);
    let Packet::Publish(publish) = decoded(&bytes, V5, Server) else { panic!() };
    let properties = publish.properties;
    assert_eq!(properties.raw, block);
    assert_eq!(properties.payload_format_indicator, Some(1));
    assert_eq!(properties.message_expiry_s, Some(10));
    assert_eq!(properties.content_type, Some("t"));
    assert_eq!(properties.response_topic, Some("r"));
    assert_eq!(properties.correlation_data, Some(&[0x00, 0xFF][..]));
    assert_eq!(properties.topic_alias.map(|alias| alias.get()), Some(2));
    assert_eq!(properties.subscription_identifier, Some(1));
    assert_eq!(properties.subscription_identifiers().collect::<Vec<_>>(), [1, 128]);
    assert_eq!(properties.user_properties().iter().collect::<Vec<_>>(), [("a", "b"), ("a", "c")]);
}

#[test]
fn user_properties_are_compared_pair_by_pair() {
    let of = |text: &str| body(text);
    let (bare, beside, other, twice) =
        (of("26 'k' 'v'"), of("1F 'r' 26 'k' 'v'"), of("26 'k' 'w'"), of("26 'k' 'v' 26 'k' 'v'"));
    let none = of("1F 'r'");
    let properties = |raw| UserProperties { raw };
    assert_eq!(properties(&bare), properties(&beside));
    assert_ne!(properties(&bare), properties(&other));
    assert_ne!(properties(&bare), properties(&twice));
    assert!(properties(&none).is_empty());
    assert!(!properties(&beside).is_empty());
}

#[test]
fn user_properties_are_made_pair_by_pair() {
    let mut block = Vec::new();
    push_user_property(&mut block, "name", "value").unwrap();
    push_user_property(&mut block, "name", "").unwrap();
    assert_eq!(block, body("26 'name' 'value' 26 'name' ''"));
    let before = block.clone();
    assert!(push_user_property(&mut block, "name", &"x".repeat(65_536)).is_err());
    assert_eq!(block, before, "an error leaves the block as it was");
}

/// A block that no decoder made ends where it breaks off; nothing panics.
#[test]
fn a_block_that_breaks_off_ends_there() {
    let whole = body("26 'key' 'value' 23 0001 0B 8001 09 'data' 26 'k' 'v'");
    for end in 0..whole.len() {
        let properties = PublishProperties { raw: &whole[..end], ..PublishProperties::default() };
        assert!(properties.user_properties().iter().count() <= 1, "{end}");
        assert!(properties.forwardable().map(<[u8]>::len).sum::<usize>() <= end);
        let _ = properties.subscription_identifiers().count();
    }
    let bytes = packet(0x30, "'a' 00");
    assert!(matches!(decoded(&bytes, V5, Server), Packet::Publish(publish) if publish.properties.raw.is_empty()));
}
