//! The broker's core by itself: no sockets, one shard. Nanoseconds per message from bytes in to bytes out.

#![allow(clippy::expect_used)] // what the rig sends is right, or the figures mean nothing

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weirmq::broker::{
    Admission, ConnId, Core, CoreConfig, EndpointId, EndpointLimits, EndpointPolicy, Principal, ProtocolVersions,
    ShardId,
};
use weirmq::mqtt::{DecodeContext, Decoded, Packet, ProtocolVersion, Side, decode};

const MESSAGES_PER_READ: usize = 500;

struct Rig {
    core: Core,
    policy: Arc<EndpointPolicy>,
    dirty: Vec<ConnId>,
}

impl Rig {
    fn new() -> Self {
        let policy = EndpointPolicy {
            id: EndpointId(1),
            name: "bench".into(),
            generation: 1,
            namespace: "".into(),
            versions: ProtocolVersions::ALL,
            limits: EndpointLimits::default(),
            acl: None,
        };
        let core = Core::new(CoreConfig { shard: ShardId(0), shards: 1 });
        Self { core, policy: Arc::new(policy), dirty: Vec::new() }
    }

    fn connect(&mut self, client_id: &str) -> ConnId {
        let length = client_id.len() as u8;
        let mut bytes = vec![0x10, 12 + length, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, length];
        bytes.extend_from_slice(client_id.as_bytes());
        let context = DecodeContext { version: ProtocolVersion::V3_1_1, max_packet_size: 1 << 20, from: Side::Client };
        let Ok(Decoded::Packet { packet: Packet::Connect(connect), .. }) = decode(&bytes, &context) else {
            panic!("a CONNECT")
        };
        let principal = Principal {
            username: None,
            address: None,
            admitted_by: "anonymous".into(),
            claims_acl: None,
            expires_at: None,
        };
        let policy = Arc::clone(&self.policy);
        let (assigned, authentication_data) = (false, None);
        let admission = Admission { policy, connect: &connect, client_id, assigned, principal, authentication_data };
        self.core.admit(admission, 0).expect("admitted")
    }

    fn subscribe(&mut self, conn: ConnId, filter: &str, qos: u8) {
        let mut bytes = vec![0x82, 5 + filter.len() as u8, 0, 1, 0, filter.len() as u8];
        bytes.extend_from_slice(filter.as_bytes());
        bytes.push(qos);
        self.core.receive(conn, &bytes, 0);
    }

    /// Takes everything that waits to be written, as a socket would; answers PUBLISHes of QoS 1 with PUBACK.
    fn drain(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        self.core.take_dirty(&mut dirty);
        for conn in dirty.drain(..) {
            let mut acks = Vec::new();
            if let Some(out) = self.core.out(conn) {
                let mut bytes = black_box(out.first());
                while bytes.first().is_some_and(|b| b & 0xf6 == 0x32) {
                    let (length, header) = match bytes[1] {
                        short @ ..128 => (usize::from(short), 2),
                        low => (usize::from(low & 127) + usize::from(bytes[2]) * 128, 3),
                    };
                    let at = header + 2 + usize::from(bytes[header + 1]);
                    acks.extend_from_slice(&[0x40, 2, bytes[at], bytes[at + 1]]);
                    bytes = &bytes[header + length..];
                }
                let n = out.len();
                out.advance(n);
            }
            self.core.written(conn, 0);
            if !acks.is_empty() {
                self.core.receive(conn, &acks, 0);
            }
        }
        self.dirty = dirty;
    }
}

fn publish(topic: &str, qos: u8, payload: usize, id: u16) -> Vec<u8> {
    let remaining = 2 + topic.len() + if qos > 0 { 2 } else { 0 } + payload;
    let mut bytes = vec![0x30 | qos << 1];
    if remaining < 128 {
        bytes.push(remaining as u8);
    } else {
        bytes.extend_from_slice(&[(remaining % 128) as u8 | 128, (remaining / 128) as u8]);
    }
    bytes.extend_from_slice(&[0, topic.len() as u8]);
    bytes.extend_from_slice(topic.as_bytes());
    if qos > 0 {
        bytes.extend_from_slice(&id.to_be_bytes());
    }
    bytes.resize(bytes.len() + payload, b'x');
    bytes
}

fn pairs(c: &mut Criterion) {
    let mut group = c.benchmark_group("pair");
    for (qos, payload) in [(0, 64), (1, 64), (0, 1024), (1, 1024)] {
        let mut rig = Rig::new();
        let publisher = rig.connect("publisher");
        let subscriber = rig.connect("subscriber");
        rig.subscribe(subscriber, "bench/topic/1", qos);
        let packet = |i: usize| publish("bench/topic/1", qos, payload, i as u16 + 1);
        let read: Vec<u8> = (0..MESSAGES_PER_READ).flat_map(packet).collect();
        rig.drain();
        group.throughput(Throughput::Elements(MESSAGES_PER_READ as u64));
        group.bench_function(BenchmarkId::new(format!("qos{qos}"), payload), |b| {
            b.iter(|| {
                rig.core.receive(publisher, &read, 0);
                rig.drain();
            });
        });
    }
    group.finish();
}

fn fan_out(c: &mut Criterion) {
    let mut rig = Rig::new();
    let publisher = rig.connect("publisher");
    for i in 0..500 {
        let subscriber = rig.connect(&format!("subscriber{i}"));
        rig.subscribe(subscriber, "bench/topic/1", 0);
    }
    let read: Vec<u8> = (0..50).flat_map(|_| publish("bench/topic/1", 0, 64, 0)).collect();
    rig.drain();
    let mut group = c.benchmark_group("fan-out");
    group.throughput(Throughput::Elements(50 * 500));
    group.bench_function("500 subscribers", |b| {
        b.iter(|| {
            rig.core.receive(publisher, &read, 0);
            rig.drain();
        });
    });
    group.finish();
}

fn wildcards(c: &mut Criterion) {
    let mut rig = Rig::new();
    let publisher = rig.connect("publisher");
    let subscribers: Vec<_> = (0..100).map(|i| rig.connect(&format!("s{i}"))).collect();
    for i in 0..100_000 {
        rig.subscribe(subscribers[i % 100], &format!("site/{}/+/dev{}/#", i % 1000, i / 1000), 0);
    }
    let packet = |i| publish(&format!("site/{}/x/dev{}/temp", i * 7 % 1000, i % 100), 0, 64, 0);
    let read: Vec<u8> = (0..5000).flat_map(packet).collect();
    rig.drain();
    let mut group = c.benchmark_group("wildcards");
    group.throughput(Throughput::Elements(5000));
    group.bench_function("100,000 filters", |b| {
        b.iter(|| {
            rig.core.receive(publisher, &read, 0);
            rig.drain();
        });
    });
    group.finish();
}

fn subscriptions(c: &mut Criterion) {
    let mut rig = Rig::new();
    let subscriber = rig.connect("subscriber");
    let mut i = 0u64;
    c.bench_function("subscribe", |b| {
        b.iter(|| {
            i += 1;
            rig.subscribe(subscriber, &format!("site/{}/dev{i}/temp", i % 1000), 0);
            rig.drain();
        });
    });
}

criterion_group!(benches, pairs, fan_out, wildcards, subscriptions);
criterion_main!(benches);
