//! The order of writing, and how much may wait, where there are very many receivers.

use std::sync::Arc;

use crate::ids::ConnId;
use crate::limits::{CONGESTED_QUEUED_MESSAGES, PRIORITY_DELIVERIES};
use crate::{
    Admission, Core, CoreConfig, EndpointId, EndpointLimits, EndpointPolicy, Principal, ProtocolVersions, ShardId,
    WorkBudget,
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
        admission: None,
    }
}

/// A client of 3.1.1 whose session outlives it.
fn admitted(core: &mut Core, client_id: &str) -> ConnId {
    let length = client_id.len() as u8;
    let bytes = [&[0x10, 12 + length, 0, 4][..], b"MQTT", &[4, 0, 0, 0, 0, length], client_id.as_bytes()].concat();
    let Ok(Decoded::Packet { packet, .. }) = decode_connect(&bytes, 1000) else { panic!("no CONNECT") };
    let principal =
        Principal { username: None, address: None, admitted_by: "test".into(), claims_acl: None, expires_at: None };
    let admission = Admission {
        policy: Arc::new(policy()),
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
