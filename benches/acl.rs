//! What permission costs: one question to a rule set, and a message through the core with rules and without.

#![allow(clippy::expect_used)] // what the rig sends is right, or the figures mean nothing

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weirmq::auth::RuleSet;
use weirmq::broker::{
    Admission, Authorize, ConnId, Core, CoreConfig, EndpointId, EndpointLimits, EndpointPolicy, Principal,
    ProtocolVersions, ShardId, Subject,
};
use weirmq::config::Acl;
use weirmq::mqtt::{DecodeContext, Decoded, Packet, ProtocolVersion, QoS, Side, decode};

const MESSAGES_PER_READ: usize = 500;

/// `count` rules about other clients, then one that allows a client its own topics.
fn rules(count: usize) -> Arc<RuleSet> {
    let others: String = (0..count.saturating_sub(1))
        .map(|n| format!("  - {{permission: allow, username: user{n}, topics: [\"site/{n}/#\", \"shared/+/{n}\"]}}\n"))
        .collect();
    let yaml = format!("rules:\n{others}  - {{permission: allow, topics: [\"devices/${{clientid}}/#\"]}}\n");
    let acl: Acl = serde_yaml::from_str(&yaml).expect("an acl document");
    Arc::new(RuleSet::compile(&acl))
}

fn checks(c: &mut Criterion) {
    let mut group = c.benchmark_group("acl");
    let subject = Subject { client_id: "device7", username: Some("nobody"), address: None };
    for count in [1, 10, 100] {
        let rules = rules(count);
        group.bench_function(BenchmarkId::new("publish", count), |b| {
            b.iter(|| rules.may_publish(black_box(subject), black_box("devices/device7/temp"), QoS::AtMostOnce, false));
        });
        group.bench_function(BenchmarkId::new("subscribe", count), |b| {
            b.iter(|| rules.may_subscribe(black_box(subject), black_box("devices/device7/+/x"), QoS::AtMostOnce));
        });
    }
    group.finish();
}

fn connect(core: &mut Core, policy: &Arc<EndpointPolicy>, client_id: &str) -> ConnId {
    let length = client_id.len() as u8;
    let mut bytes = vec![0x10, 12 + length, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, length];
    bytes.extend_from_slice(client_id.as_bytes());
    let context = DecodeContext { version: ProtocolVersion::V3_1_1, max_packet_size: 1 << 20, from: Side::Client };
    let Ok(Decoded::Packet { packet: Packet::Connect(connect), .. }) = decode(&bytes, &context) else {
        panic!("a CONNECT")
    };
    let principal = Principal {
        username: Some("nobody".into()),
        address: None,
        admitted_by: "anonymous".into(),
        claims_acl: None,
        expires_at: None,
    };
    let policy = Arc::clone(policy);
    let (assigned, authentication_data) = (false, None);
    let admission = Admission { policy, connect: &connect, client_id, assigned, principal, authentication_data };
    core.admit(admission, 0).expect("admitted")
}

/// Messages of 64 bytes with QoS 0 that nobody subscribes to: what is measured is taking them in. With one topic the last
/// permission answers for all; with two in turn each message asks the rules.
fn messages(c: &mut Criterion) {
    let mut group = c.benchmark_group("message");
    group.throughput(Throughput::Elements(MESSAGES_PER_READ as u64));
    for (name, count, topics) in [
        ("no rules", 0, 2),
        ("10 rules, one topic", 10, 1),
        ("10 rules, two topics", 10, 2),
        ("100 rules, two topics", 100, 2),
    ] {
        let policy = Arc::new(EndpointPolicy {
            id: EndpointId(1),
            name: "bench".into(),
            generation: 1,
            namespace: "".into(),
            versions: ProtocolVersions::ALL,
            limits: EndpointLimits::default(),
            acl: (count > 0).then(|| rules(count) as Arc<dyn Authorize>),
        });
        let mut core = Core::new(CoreConfig { shard: ShardId(0), shards: 1 });
        core.know_policy(&policy);
        let publisher = connect(&mut core, &policy, "device7");
        let read: Vec<u8> = (0..MESSAGES_PER_READ)
            .flat_map(|n| {
                let topic = format!("devices/device7/{}", n % topics);
                let mut packet = vec![0x30, (2 + topic.len() + 64) as u8, 0, topic.len() as u8];
                packet.extend_from_slice(topic.as_bytes());
                packet.resize(packet.len() + 64, b'x');
                packet
            })
            .collect();
        group.bench_function(name, |b| b.iter(|| core.receive(publisher, black_box(&read), 0)));
    }
    group.finish();
}

criterion_group!(benches, checks, messages);
criterion_main!(benches);
