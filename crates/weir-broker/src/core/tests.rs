//! The order of writing, and how much may wait, where there are very many receivers.

use std::sync::Arc;

use crate::ids::ConnId;
use crate::limits::{CONGESTED_QUEUED_MESSAGES, PRIORITY_DELIVERIES};
use crate::{
    Admission, Core, CoreConfig, Durability, EndpointId, EndpointLimits, EndpointPolicy, Principal, ProtocolVersions,
    Recording, ShardId, StoreAck, WorkBudget,
};
use weir_mqtt::{Decoded, decode_connect};

fn core() -> Core {
    Core::new(CoreConfig { shard: ShardId(0), shards: 1, hash_seed: 0, work: WorkBudget::default() })
}

/// An endpoint without rules.
pub(super) fn policy() -> EndpointPolicy {
    EndpointPolicy {
        id: EndpointId(0),
        name: "e".into(),
        generation: 1,
        namespace: "".into(),
        versions: ProtocolVersions::ALL,
        limits: EndpointLimits::default(),
        acl: None,
        interceptors: None,
        admission: None,
    }
}

/// A client of 3.1.1 whose session outlives it.
fn admitted(core: &mut Core, client_id: &str) -> ConnId {
    admitted_to(core, policy(), client_id, false)
}

fn admitted_to(core: &mut Core, policy: EndpointPolicy, client_id: &str, clean: bool) -> ConnId {
    let (length, flags) = (client_id.len() as u8, u8::from(clean) << 1);
    let bytes = [&[0x10, 12 + length, 0, 4][..], b"MQTT", &[4, flags, 0, 0, 0, length], client_id.as_bytes()].concat();
    let Ok(Decoded::Packet { packet, .. }) = decode_connect(&bytes, 1000) else { panic!("no CONNECT") };
    let principal =
        Principal { username: None, address: None, admitted_by: "test".into(), claims_acl: None, expires_at: None };
    let admission = Admission {
        policy: Arc::new(policy),
        connect: &packet,
        client_id,
        assigned: false,
        principal,
        authentication_data: None,
    };
    core.admit(admission, 0).unwrap()
}

fn subscribed(core: &mut Core, client_id: &str) -> ConnId {
    let id = admitted(core, client_id);
    core.receive(id, &[0x82, 6, 0, 1, 0, 1, b't', 1], 0);
    id
}

/// QoS 1, to `t`, of 1000 bytes.
fn publish(core: &mut Core, from: ConnId) {
    core.receive(from, &[&[0x32, 0xED, 0x07, 0, 1, b't', 0, 1][..], &[b'x'; 1000]].concat(), 0);
}

fn prompt(core: &mut Core) -> Vec<ConnId> {
    std::iter::from_fn(|| core.next_flush()).collect()
}

#[test]
fn an_answer_is_flushed_before_a_fan_out() {
    let mut core = core();
    let few: Vec<ConnId> = (0..PRIORITY_DELIVERIES - 1).map(|n| subscribed(&mut core, &n.to_string())).collect();
    let publisher = admitted(&mut core, "publisher");
    prompt(&mut core);
    publish(&mut core, publisher);
    assert_eq!(prompt(&mut core).len(), few.len() + 1, "a small fan-out is flushed with priority");
    assert_eq!(core.next_bulk_flush(), None);

    let one_more = subscribed(&mut core, "one more");
    prompt(&mut core);
    publish(&mut core, publisher);
    core.receive(one_more, &[0xC0, 0], 0);
    assert_eq!(prompt(&mut core), [one_more], "an answer is");
    publish(&mut core, publisher);
    assert!(core.has_pending());
    let bulk: Vec<ConnId> = std::iter::from_fn(|| core.next_bulk_flush()).collect();
    assert_eq!(bulk.len(), few.len() + 2, "each receiver once, and the publisher for its PUBACK");
    assert!(!core.has_pending());
}

#[test]
fn queues_stop_growing_at_their_common_bound() {
    const SESSIONS: usize = 50;
    const MESSAGES: usize = 2000;
    let mut core = core();
    let ids: Vec<ConnId> = (0..SESSIONS).map(|n| subscribed(&mut core, &n.to_string())).collect();
    ids.iter().for_each(|&id| core.connection_closed(id, 0));
    let publisher = admitted(&mut core, "publisher");
    let most = 1 << 20;
    core.scheduler.bound_queues(most);
    (0..MESSAGES).for_each(|_| publish(&mut core, publisher));
    let entries: usize = core.clients.sessions().map(|(_, session)| session.queue.len()).sum();
    let queued_bytes = core.scheduler.queued_bytes();
    assert!(queued_bytes > most && queued_bytes < most + most / 10, "{queued_bytes} bytes of {entries} messages");
    let least = core.clients.sessions().filter(|(_, s)| !s.queue.is_empty()).map(|(_, s)| s.queue.len()).min();
    assert!(
        least.is_some_and(|least| least < MESSAGES && least >= CONGESTED_QUEUED_MESSAGES as usize / 2),
        "{least:?}"
    );
    core.clients.clear_sessions();
    assert_eq!(core.scheduler.queued_bytes(), 0, "what ends gives back what it held");
}

/// What a connection may get now, as packet types.
fn packet_types(core: &mut Core, id: ConnId) -> Vec<u8> {
    let Some(out) = core.out(id) else { panic!("closed") };
    let bytes = out.ready_from(0);
    out.advance(bytes.len());
    core.written(id, 0);
    let (mut types, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        types.push(bytes[at] >> 4);
        at += 2 + usize::from(bytes[at + 1]);
    }
    types
}

/// Writes the records to a disk that takes them at once.
fn commit(core: &mut Core) {
    while let Some(batch) = core.take_records() {
        core.on_store_ack(StoreAck::UpTo(batch.number), 0);
    }
}

#[test]
fn a_publisher_with_its_own_topic_gets_the_same_order_from_memory_and_disk() {
    const PUBLISH: u8 = 3;
    for (qos, expected) in [(1, [PUBLISH, 4]), (2, [5, PUBLISH])] {
        for case in 0..24_u8 {
            let (own_qos, disk, clean, other) = (case % 3, case / 3 % 2 == 1, case / 6 % 2 == 1, case / 12 == 1);
            let name =
                format!("QoS {qos}, subscription {own_qos}, disk {disk}, clean {clean}, durable receiver {other}");
            let mut core = core();
            let mut limits = EndpointLimits::default();
            if disk {
                core.start_recording(Recording { next_id: 1, epoch_unix_ms: 0 });
                limits.durability = Durability::Disk;
            }
            let policy = || EndpointPolicy { limits: limits.clone(), ..policy() };
            if other {
                let other = admitted_to(&mut core, policy(), "other", false);
                core.receive(other, &[0x82, 6, 0, 1, 0, 1, b't', 2], 0);
            }
            let id = admitted_to(&mut core, policy(), "publisher", clean);
            core.receive(id, &[0x82, 6, 0, 1, 0, 1, b't', own_qos], 0);
            commit(&mut core);
            packet_types(&mut core, id);
            // two of them, so that the second waits behind the first
            let publish = |packet_id| [0x30 | qos << 1, 6, 0, 1, b't', 0, packet_id, b'x'];
            core.receive(id, &[publish(1), publish(2)].concat(), 0);
            let mut got = packet_types(&mut core, id);
            commit(&mut core);
            got.extend(packet_types(&mut core, id));
            let publishes: Vec<usize> =
                got.iter().enumerate().filter(|(_, t)| **t == PUBLISH).map(|(at, _)| at).collect();
            let acknowledgements: Vec<usize> =
                got.iter().enumerate().filter(|(_, t)| **t != PUBLISH).map(|(at, _)| at).collect();
            assert_eq!((publishes.len(), acknowledgements.len()), (2, 2), "{name}: {got:?}");
            let acknowledgement_first = expected[0] != PUBLISH;
            for (publish, acknowledgement) in publishes.iter().zip(&acknowledgements) {
                assert_eq!(acknowledgement < publish, acknowledgement_first, "{name}: {got:?}");
            }
        }
    }
}
