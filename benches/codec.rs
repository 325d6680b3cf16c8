//! What a packet costs: `cargo bench --bench codec`.
#![allow(clippy::expect_used)] // the packets are made here, and are right

use std::hint::black_box;
use std::num::NonZeroU16;

use criterion::{Criterion, criterion_group, criterion_main};
use weir_mqtt::ProtocolVersion::{V3_1_1, V5};
use weir_mqtt::{
    Connect, ConnectProperties, DecodeContext, Decoded, Packet, ProtocolVersion, PublishPropsOut, QoS, ReasonCode,
    Side, decode, decode_connect, encode, encode_publish_parts, puback, publish_len,
};

const TOPIC: &str = "site/7/line/3/temperature";
const PAYLOAD: [u8; 64] = [b'x'; 64];

fn context(version: ProtocolVersion) -> DecodeContext {
    DecodeContext { version, max_packet_size: 1 << 20, from: Side::Client }
}

fn publish(version: ProtocolVersion, qos: QoS, pieces: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_into(&mut bytes, version, qos, pieces);
    bytes
}

fn encode_into(bytes: &mut Vec<u8>, version: ProtocolVersion, qos: QoS, pieces: &[&[u8]]) {
    let packet_id = if qos == QoS::AtMostOnce { None } else { NonZeroU16::new(7) };
    let properties = PublishPropsOut { pieces, ..PublishPropsOut::default() };
    let written = encode_publish_parts(bytes, version, false, qos, false, TOPIC, packet_id, &properties, &PAYLOAD);
    written.expect("the topic is short");
}

/// With a user name and a password; in 5.0 with a session expiry.
fn connect(version: ProtocolVersion) -> Vec<u8> {
    let properties = ConnectProperties { session_expiry_s: Some(3600), ..ConnectProperties::default() };
    let connect = Connect {
        version,
        bridge: false,
        clean_start: true,
        keep_alive_s: 60,
        client_id: "sensor-0042",
        username: Some("device"),
        password: Some(b"secret"),
        will: None,
        properties,
    };
    let mut bytes = Vec::new();
    encode(&Packet::Connect(Box::new(connect)), version, &mut bytes).expect("the fields are short");
    bytes
}

/// A content type and a user property.
const BLOCK: &[u8] = b"\x03\x00\x10application/json\x26\x00\x04site\x00\x017";

fn cases() -> Vec<(String, ProtocolVersion, QoS, Vec<&'static [u8]>)> {
    let mut cases = Vec::new();
    for version in [V3_1_1, V5] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            cases.push((format!("{version:?} QoS {}", qos as u8), version, qos, vec![]));
        }
    }
    cases.push(("V5 QoS 1, 2 properties".into(), V5, QoS::AtLeastOnce, vec![BLOCK]));
    cases
}

fn decoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for (name, version, qos, pieces) in cases() {
        let bytes = publish(version, qos, &pieces);
        let context = context(version);
        group.bench_function(format!("PUBLISH 64 B {name}"), |b| {
            b.iter(|| match decode(black_box(&bytes), &context) {
                Ok(Decoded::Packet { packet, len }) => {
                    black_box(&packet);
                    len
                }
                _ => 0,
            });
        });
    }
    for version in [V3_1_1, V5] {
        let bytes = connect(version);
        assert!(matches!(decode_connect(&bytes, 1000), Ok(Decoded::Packet { .. })));
        group.bench_function(format!("CONNECT {version:?}"), |b| b.iter(|| decode_connect(black_box(&bytes), 1000)));
    }
    let subscribe = b"\x82\x1E\x00\x01\x00\x00\x08site/7/#\x01\x00\x0Dsite/+/line/+\x02";
    assert!(matches!(decode(subscribe, &context(V5)), Ok(Decoded::Packet { .. })));
    group.bench_function("SUBSCRIBE V5, 2 filters", |b| b.iter(|| decode(black_box(subscribe), &context(V5)).is_ok()));
    group.bench_function("PUBACK", |b| b.iter(|| decode(black_box(b"\x40\x02\x00\x07"), &context(V5)).is_ok()));
    group.finish();
}

fn encoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    let mut out = Vec::with_capacity(4096);
    for (name, version, qos, pieces) in cases() {
        group.bench_function(format!("PUBLISH 64 B {name}"), |b| {
            b.iter(|| {
                out.clear();
                encode_into(&mut out, version, qos, black_box(&pieces));
                out.len()
            });
        });
    }
    group.bench_function("PUBACK", |b| {
        b.iter(|| {
            out.clear();
            puback(&mut out, V5, black_box(NonZeroU16::MIN), ReasonCode::Success);
            out.len()
        });
    });
    group.bench_function("publish_len V5", |b| {
        b.iter(|| publish_len(V5, QoS::AtLeastOnce, black_box(TOPIC.len()), &PublishPropsOut::default(), 64));
    });
    group.finish();
}

criterion_group!(benches, decoding, encoding);
criterion_main!(benches);
