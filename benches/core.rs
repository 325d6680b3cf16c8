//! The broker's core by itself: no sockets, one shard. Nanoseconds per message from bytes in to bytes out.

mod rig;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weir_broker::{ConnId, Hook, Interceptor, Interceptors, RegisteredInterceptor};

use self::rig::{MESSAGES_PER_READ, Rig, publish};

fn subscribe(rig: &mut Rig, conn: ConnId, filter: &str, qos: u8) {
    let mut bytes = vec![0x82, 5 + filter.len() as u8, 0, 1, 0, filter.len() as u8];
    bytes.extend_from_slice(filter.as_bytes());
    bytes.push(qos);
    rig.core.receive(conn, &bytes, 0);
}

fn pairs(c: &mut Criterion) {
    let mut group = c.benchmark_group("pair");
    for (qos, payload) in [(0, 64), (1, 64), (0, 1024), (1, 1024)] {
        let mut rig = Rig::new(None);
        let publisher = rig.connect("publisher");
        let subscriber = rig.connect("subscriber");
        subscribe(&mut rig, subscriber, "bench/topic/1", qos);
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

/// Does nothing, where it is called at this hook.
struct Nothing(&'static [Hook]);

impl Interceptor for Nothing {
    fn hooks(&self) -> &'static [Hook] {
        self.0
    }
}

/// A message without a subscriber, and one to one subscriber, by the number of interceptors that see it.
fn interceptors(c: &mut Criterion) {
    let mut group = c.benchmark_group("interceptors");
    let hooks: [(&str, &'static [Hook]); 2] = [("publish", &[Hook::Publish]), ("deliver", &[Hook::Deliver])];
    for (name, hook) in hooks {
        for count in [0, 1, 4] {
            let interceptors = Interceptors::new(&vec![RegisteredInterceptor::new(Nothing(hook)); count]);
            let mut rig = Rig::with_interceptors(None, interceptors);
            let publisher = rig.connect("publisher");
            if hook == [Hook::Deliver] {
                let subscriber = rig.connect("subscriber");
                subscribe(&mut rig, subscriber, "bench/topic/1", 0);
            }
            let read: Vec<u8> = (0..MESSAGES_PER_READ).flat_map(|_| publish("bench/topic/1", 0, 64, 0)).collect();
            rig.drain();
            group.throughput(Throughput::Elements(MESSAGES_PER_READ as u64));
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter(|| {
                    rig.core.receive(publisher, &read, 0);
                    rig.drain();
                });
            });
        }
    }
    group.finish();
}

fn fan_out(c: &mut Criterion) {
    let mut rig = Rig::new(None);
    let publisher = rig.connect("publisher");
    for i in 0..500 {
        let subscriber = rig.connect(&format!("subscriber{i}"));
        subscribe(&mut rig, subscriber, "bench/topic/1", 0);
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
    let mut rig = Rig::new(None);
    let publisher = rig.connect("publisher");
    let subscribers: Vec<_> = (0..100).map(|i| rig.connect(&format!("s{i}"))).collect();
    for i in 0..100_000 {
        subscribe(&mut rig, subscribers[i % 100], &format!("site/{}/+/dev{}/#", i % 1000, i / 1000), 0);
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
    let mut rig = Rig::new(None);
    let subscriber = rig.connect("subscriber");
    let mut i = 0u64;
    c.bench_function("subscribe", |b| {
        b.iter(|| {
            i += 1;
            subscribe(&mut rig, subscriber, &format!("site/{}/dev{i}/temp", i % 1000), 0);
            rig.drain();
        });
    });
}

criterion_group!(benches, pairs, interceptors, fan_out, wildcards, subscriptions);
criterion_main!(benches);
