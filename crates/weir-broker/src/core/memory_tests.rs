//! The account of memory: what is counted, what is refused, and that all of it goes back.

use std::sync::Arc;

use super::tests::policy;
use crate::ids::{ConnId, Millis};
use crate::{
    Admission, Core, CoreConfig, Dropped, EndpointLimits, EndpointPolicy, MemoryAccount, MemoryKind, OfflineSessions,
    Principal, RetainedTotals, Scope, ShardId, TotalRates, WorkBudget,
};
use weir_mqtt::{Decoded, decode_connect};

const QUOTA_EXCEEDED: u8 = 0x97;

struct Bench {
    core: Core,
    account: MemoryAccount,
    policy: Arc<EndpointPolicy>,
    packet_id: u16,
    now: Millis,
}

fn sized(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    let mut length = body.len();
    loop {
        let byte = (length % 128) as u8;
        length /= 128;
        packet.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            break;
        }
    }
    [packet, body.to_vec()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

impl Bench {
    fn new(limits: EndpointLimits, account: MemoryAccount) -> Self {
        let mut core =
            Core::new(CoreConfig { shard: ShardId(0), shards: 1, hash_seed: 0, work: WorkBudget::default() });
        core.share_counts(OfflineSessions::default(), TotalRates::default(), RetainedTotals::default());
        core.share_memory(account.clone());
        let policy = Arc::new(EndpointPolicy { limits, ..policy() });
        core.register_policy(&policy, 0);
        Self { core, account, policy, packet_id: 0, now: 0 }
    }

    /// With limits of `bytes` for one kind.
    fn bounded(kind: MemoryKind, bytes: usize) -> Self {
        let account = MemoryAccount::with_limits(|other| if other == kind { bytes } else { usize::MAX });
        Self::new(EndpointLimits::default(), account)
    }

    /// A 5.0 client with a will, whose session outlives it, and that accepts topic aliases. `Err`: CONNACK's code.
    fn try_connect(&mut self, client_id: &str, version: u8) -> Result<ConnId, u8> {
        let properties: &[u8] = &[8, 0x11, 0, 0, 0, 100, 0x22, 0, 10];
        let (properties, will): (&[u8], &[u8]) = if version == 5 { (properties, &[0]) } else { (&[], &[]) };
        let head = [&text("MQTT")[..], &[version, 0x04, 0, 0], properties].concat();
        let body = [head, text(client_id), will.to_vec(), text("will"), text(&"w".repeat(100))].concat();
        let bytes = sized(0x10, &body);
        let Ok(Decoded::Packet { packet, .. }) = decode_connect(&bytes, 10_000) else { panic!("no CONNECT") };
        let principal =
            Principal { username: None, address: None, admitted_by: "test".into(), claims_acl: None, expires_at: None };
        let admission = Admission {
            policy: Arc::clone(&self.policy),
            connect: &packet,
            client_id,
            assigned: false,
            principal,
            authentication_data: None,
        };
        let admitted =
            self.core.admit(admission, self.now).map_err(|connack| connack.get(3).copied().unwrap_or_default());
        if let Ok(id) = admitted {
            self.answer(id);
        }
        admitted
    }

    fn connect(&mut self, client_id: &str) -> ConnId {
        self.try_connect(client_id, 5).expect("admitted")
    }

    /// All that waits for a connection, as if its socket took it.
    fn answer(&mut self, id: ConnId) -> Vec<u8> {
        let out = self.core.out(id).expect("open");
        let bytes = out.ready_from(0);
        out.advance(bytes.len());
        self.core.written(id, 0);
        bytes
    }

    fn subscribe(&mut self, id: ConnId, filter: &str) -> u8 {
        let body = [&[0, 1, 0][..], &text(filter), &[1]].concat();
        self.core.receive(id, &sized(0x82, &body), 0);
        *self.answer(id).last().expect("SUBACK")
    }

    /// QoS 1; returns the reason code of PUBACK.
    fn publish(&mut self, id: ConnId, topic: &str, payload: &str, retain: bool) -> u8 {
        self.packet_id += 1;
        let body = [&text(topic)[..], &self.packet_id.to_be_bytes(), &[0], payload.as_bytes()].concat();
        self.core.receive(id, &sized(0x32 | u8::from(retain), &body), 0);
        let puback = self.answer(id);
        if puback.get(1) == Some(&2) { 0 } else { puback.get(4).copied().unwrap_or(0) }
    }

    fn used(&mut self) -> [usize; MemoryKind::ALL.len()] {
        while self.core.poll(Scope::All).is_some() {}
        MemoryKind::ALL.map(|kind| self.account.used(kind))
    }
}

#[test]
fn what_is_freed_is_counted_no_more() {
    let mut bench = Bench::new(EndpointLimits::default(), MemoryAccount::new(1 << 30));
    bench.core.routing.namespace("");
    let empty = bench.used();
    let ids: Vec<ConnId> = (0..20).map(|n| bench.connect(&format!("client{n}"))).collect();
    for (n, &id) in ids.iter().enumerate() {
        assert_eq!(bench.subscribe(id, &format!("a/{n}/+")), 1);
        assert_eq!(bench.subscribe(id, &format!("$share/g/s/{n}")), 1);
        bench.subscribe(id, "to/all");
    }
    let publisher = bench.connect("publisher");
    for n in 0..50 {
        bench.publish(publisher, &format!("retained/{n}"), "value", true);
        bench.publish(publisher, &format!("a/{}/x", n % 20), &"x".repeat(1000), false);
    }
    // Half of the clients are offline: their messages wait in their queues; the others have them in their out buffers, and
    // have acknowledged none.
    ids[..10].iter().for_each(|&id| bench.core.connection_closed(id, 0));
    bench.publish(publisher, "to/all", &"y".repeat(20_000), false);
    // An alias of the publisher's own.
    let alias = [&text("with/alias")[..], &[3, 0x23, 0, 1], b"x"].concat();
    bench.core.receive(publisher, &sized(0x30, &alias), 0);
    let full = bench.used();
    for (kind, (full, empty)) in MemoryKind::ALL.iter().zip(full.iter().zip(&empty)) {
        let is_driven = matches!(kind, MemoryKind::Held | MemoryKind::Handshakes);
        assert!(is_driven || full > empty, "{kind:?}: {full} of {empty}");
    }
    for n in 0..50 {
        bench.publish(publisher, &format!("retained/{n}"), "", true);
    }
    ids[10..].iter().chain([&publisher]).for_each(|&id| bench.core.connection_closed(id, 0));
    // All sessions expire.
    bench.core.tick(1_000_000);
    let after = bench.used();
    for (kind, (after, empty)) in MemoryKind::ALL.iter().zip(after.iter().zip(&empty)) {
        let remembered = if *kind == MemoryKind::Tables { bench.core.routing.cache_bytes() } else { 0 };
        assert_eq!(after - remembered, *empty, "{kind:?}");
    }
}

#[test]
fn above_its_share_a_retained_message_is_refused_and_replacing_works() {
    let mut bench = Bench::bounded(MemoryKind::Retained, 1000);
    let id = bench.connect("c");
    let codes: Vec<u8> = (0..10).map(|n| bench.publish(id, &format!("t/{n}"), "value", true)).collect();
    assert_eq!((codes[0], codes[9]), (0, QUOTA_EXCEEDED));
    assert!(bench.used()[MemoryKind::Retained as usize] <= 1000);
    assert!(bench.account.refusals(MemoryKind::Retained) > 0);
    assert_eq!([bench.publish(id, "t/0", "other", true), bench.publish(id, "t/0", "", true)], [0, 0]);
    assert_eq!(bench.publish(id, "t/9", "value", true), 0, "there is room again");
}

#[test]
fn an_endpoints_publishers_retain_as_much_as_is_declared() {
    let limits = EndpointLimits { max_retained_messages: 3, ..EndpointLimits::default() };
    let mut bench = Bench::new(limits, MemoryAccount::default());
    let id = bench.connect("c");
    let codes: Vec<u8> = (0..5).map(|n| bench.publish(id, &format!("t/{n}"), "value", true)).collect();
    assert_eq!(codes, [0, 0, 0, QUOTA_EXCEEDED, QUOTA_EXCEEDED]);
    // A client of 3.1.1 has no answer for it: subscribers get the message, and it is not retained.
    let old = bench.try_connect("old", 4).expect("admitted");
    let before = bench.core.gauges().retained_messages;
    bench.core.receive(old, &sized(0x31, &[text("t/9"), b"x".to_vec()].concat()), 0);
    assert_eq!(bench.core.gauges().retained_messages, before);
    let dropped = bench.core.counters().next().map(|(_, counters)| counters.dropped[Dropped::RetainedFull as usize]);
    assert_eq!(dropped, Some(3));
    assert_eq!([bench.publish(id, "t/0", "", true), bench.publish(id, "t/4", "x", true)], [0, 0]);
}

#[test]
fn above_its_share_a_subscription_is_refused_and_a_known_one_is_changed() {
    let mut bench = Bench::bounded(MemoryKind::Subscriptions, 20_000);
    let id = bench.connect("c");
    let codes: Vec<u8> = (0..500).map(|n| bench.subscribe(id, &format!("t/{n}"))).collect();
    assert_eq!((codes[0], codes[499]), (1, QUOTA_EXCEEDED));
    assert_eq!(bench.subscribe(id, "$share/g/t"), QUOTA_EXCEEDED);
    assert_eq!(bench.subscribe(id, "t/0"), 1);
    assert!(bench.used()[MemoryKind::Subscriptions as usize] <= 20_000);
    assert!(bench.account.refusals(MemoryKind::Subscriptions) > 1);
}

#[test]
fn above_its_share_a_session_is_refused_and_a_known_one_is_taken_up() {
    let mut bench = Bench::bounded(MemoryKind::Sessions, 20_000);
    let codes: Vec<u8> = (0..50).map(|n| bench.try_connect(&format!("c{n}"), 5).err().unwrap_or(0)).collect();
    assert_eq!((codes[0], codes[49]), (0, QUOTA_EXCEEDED));
    assert_eq!(bench.try_connect("c49", 4), Err(3), "server unavailable");
    assert!(bench.try_connect("c0", 5).is_ok());
    assert!(bench.account.refusals(MemoryKind::Sessions) > 1);
}

#[test]
fn above_its_share_no_alias_is_learned() {
    let mut bench = Bench::bounded(MemoryKind::Tables, 20_000);
    let id = bench.connect("c");
    for alias in 1..20 {
        let packet = [&text(&format!("{alias}{}", "x".repeat(2000)))[..], &[3, 0x23, 0, alias], b"x"].concat();
        bench.core.receive(id, &sized(0x30, &packet), 0);
    }
    assert_eq!(bench.answer(id), [0xE0, 1, QUOTA_EXCEEDED]);
    assert_eq!(bench.account.refusals(MemoryKind::Tables), 1);
}

#[test]
fn a_publish_is_counted_while_its_receivers_are_searched_for() {
    let mut bench = Bench::new(EndpointLimits::default(), MemoryAccount::default());
    let id = bench.connect("c");
    (0..5).for_each(|n| assert_eq!(bench.subscribe(id, &format!("a/+/c/{n}")), 1));
    bench.core.config.work = WorkBudget::LEAST;
    bench.publish(id, "a/b/c/3", "x", false);
    assert!(bench.used()[MemoryKind::Held as usize] > 0);
    (0..1000).for_each(|_| bench.core.tick(0));
    assert_eq!(bench.used()[MemoryKind::Held as usize], 0);
}

#[test]
fn above_its_share_a_publish_that_needs_a_search_is_refused() {
    let mut bench = Bench::bounded(MemoryKind::Held, 10);
    let id = bench.connect("c");
    (0..5).for_each(|n| assert_eq!(bench.subscribe(id, &format!("a/+/c/{n}")), 1));
    bench.core.config.work = WorkBudget::LEAST;
    bench.core.receive(id, &sized(0x30, &[&text("a/b/c/3")[..], &[0], b"x"].concat()), 0);
    assert_eq!(bench.answer(id), [0xE0, 1, QUOTA_EXCEEDED]);
    assert_eq!(bench.account.refusals(MemoryKind::Held), 1);
}

#[test]
fn timers_of_connections_that_are_no_more_are_removed() {
    let mut bench = Bench::new(EndpointLimits::default(), MemoryAccount::default());
    for now in 0..20_000 {
        bench.now = now;
        let id = bench.connect("c");
        bench.core.connection_closed(id, now);
    }
    let bytes = bench.core.clients.timer_bytes();
    assert!(bytes < 400_000, "{bytes}");
}
