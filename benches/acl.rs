//! What permission costs: one check against a rule set, and a message through the core with rules and without.

#![allow(clippy::expect_used)] // what is measured is right, or the figures mean nothing

mod rig;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weir_broker::{Authorize, Subject};
use weir_declare::config::Acl;
use weir_mqtt::QoS;
use weirmq::auth::RuleSet;

use self::rig::{MESSAGES_PER_READ, Rig, publish};

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
    let subject = Subject { client_id: "device7", username: Some("user7"), address: None };
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

/// Messages of 64 bytes with QoS 0 without a subscriber: what is measured is taking them in. With one topic the last
/// permission answers for all; with two in turn each message is checked against the rules.
fn messages(c: &mut Criterion) {
    let mut group = c.benchmark_group("message");
    group.throughput(Throughput::Elements(MESSAGES_PER_READ as u64));
    for (name, count, topics) in [
        ("no rules", 0, 2),
        ("10 rules, one topic", 10, 1),
        ("10 rules, two topics", 10, 2),
        ("100 rules, two topics", 100, 2),
    ] {
        let mut rig = Rig::new((count > 0).then(|| rules(count) as Arc<dyn Authorize>));
        let publisher = rig.connect("device7");
        let packet = |n: usize| publish(&format!("devices/device7/{}", n % topics), 0, 64, 0);
        let read: Vec<u8> = (0..MESSAGES_PER_READ).flat_map(packet).collect();
        rig.drain();
        group.bench_function(name, |b| {
            b.iter(|| {
                rig.core.receive(publisher, black_box(&read), 0);
                rig.drain();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, checks, messages);
criterion_main!(benches);
