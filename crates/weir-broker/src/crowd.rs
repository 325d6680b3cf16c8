//! What holds where there are very many. What all connections' out buffers hold together: past a bound, who is behind gets
//! less room, for ten thousand clients that never read must not cost ten thousand times what one may. And who is written to
//! when: an answer does not wait until what goes to thousands is written.

use super::limits::{
    BUFFERED_MAX_BYTES, CROWDED_QUEUED_BYTES, CROWDED_QUEUED_MESSAGES, CROWDED_WRITE_HIGH_BYTES,
    CROWDED_WRITE_MAX_BYTES, PENDING_WRITE_HIGH_BYTES, PENDING_WRITE_MAX_BYTES, PROMPT_DELIVERIES,
};
use super::session::Session;
use super::{ConnId, Core};

/// How much may wait for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WriteBounds {
    /// From here on it is behind.
    pub(super) high_bytes: usize,
    /// From here on it gets no more, or is closed.
    pub(super) max_bytes: usize,
}

/// How much may wait in a session's queue.
pub(super) struct QueueBounds {
    pub(super) messages: u32,
    pub(super) bytes: u64,
}

/// How much may wait in a session's queue with a message of `size` bytes, where all queues together hold too much or not:
/// what the endpoint declares, or no more than waits already.
pub(super) fn queue_bounds(session: &Session, size: u64, crowded: bool) -> QueueBounds {
    let limits = &session.policy.limits;
    let (messages, bytes) = (limits.max_queued_messages, limits.max_queued_bytes);
    if !crowded {
        return QueueBounds { messages, bytes };
    }
    let queue = &session.queue;
    QueueBounds {
        messages: messages.min(queue.counted().max(CROWDED_QUEUED_MESSAGES)),
        bytes: bytes.min(queue.bytes().max(CROWDED_QUEUED_BYTES).max(size)),
    }
}

impl Core {
    /// From how many bytes on the queues of this core's sessions grow no more. Never called, they have no bound together.
    pub fn bound_queues(&mut self, max_bytes: usize) {
        self.queued_max_bytes = max_bytes;
    }

    /// Counts what a connection's buffer holds now.
    pub(super) fn count_buffer(&mut self, slot: u32) {
        if let Some(connection) = self.connections.get_mut(slot) {
            let held_bytes = connection.out.held_bytes();
            self.buffered_bytes = self.buffered_bytes + held_bytes - connection.held_bytes;
            connection.held_bytes = held_bytes;
        }
    }

    /// What is written from now on goes out promptly, as long as it goes to few.
    pub(super) fn begin_prompt(&mut self) {
        self.prompt_deliveries = PROMPT_DELIVERIES;
    }

    /// A connection has something to write: now, or in the crowd's turn.
    pub(super) fn mark_dirty(&mut self, slot: u32) {
        let generation = self.connections.generation(slot);
        let Some(connection) = self.connections.get_mut(slot).filter(|connection| !connection.dirty) else { return };
        if self.prompt_deliveries > 0 {
            connection.dirty = true;
            self.dirty.push(ConnId { slot, generation });
        } else if !connection.in_crowd {
            connection.in_crowd = true;
            self.crowd.push_back(ConnId { slot, generation });
        }
    }

    /// A connection that could not be written to for a while can be again.
    pub fn write_later(&mut self, conn: ConnId) {
        if self.connections.get_generation(conn.slot, conn.generation).is_some() {
            self.prompt_deliveries = 0;
            self.mark_dirty(conn.slot);
        }
    }

    /// The next connection of the crowd: those that got something because of what went to many at once. Each may be named
    /// by [`Core::take_dirty`] in between.
    pub fn next_in_crowd(&mut self) -> Option<ConnId> {
        let id = self.crowd.pop_front()?;
        if let Some(connection) = self.connections.get_generation(id.slot, id.generation) {
            connection.in_crowd = false;
        }
        Some(id)
    }

    /// How many [`Core::next_in_crowd`] has to name.
    pub fn crowd_len(&self) -> usize {
        self.crowd.len()
    }

    /// How much may wait for a connection, as things are.
    pub(super) fn write_bounds(&self) -> WriteBounds {
        if self.buffered_bytes > BUFFERED_MAX_BYTES / usize::from(self.config.shards.max(1)) {
            WriteBounds { high_bytes: CROWDED_WRITE_HIGH_BYTES, max_bytes: CROWDED_WRITE_MAX_BYTES }
        } else {
            WriteBounds { high_bytes: PENDING_WRITE_HIGH_BYTES, max_bytes: PENDING_WRITE_MAX_BYTES }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        Admission, CoreConfig, Ended, EndpointId, EndpointLimits, EndpointPolicy, Principal, ProtocolVersions, ShardId,
    };
    use weir_mqtt::{Decoded, decode_connect};

    fn core() -> Core {
        Core::new(CoreConfig { shard: ShardId(0), shards: 1 })
    }

    /// A client of 3.1.1 whose session outlives it.
    fn admitted(core: &mut Core, client_id: &str) -> ConnId {
        let policy = EndpointPolicy {
            id: EndpointId(0),
            name: "e".into(),
            generation: 1,
            namespace: "".into(),
            versions: ProtocolVersions::ALL,
            limits: EndpointLimits::default(),
            acl: None,
            admission: None,
        };
        let length = client_id.len() as u8;
        let bytes = [&[0x10, 12 + length, 0, 4][..], b"MQTT", &[4, 0, 0, 0, 0, length], client_id.as_bytes()].concat();
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
        let mut ids = Vec::new();
        core.take_dirty(&mut ids);
        ids
    }

    #[test]
    fn who_gets_an_answer_does_not_wait_for_those_who_get_what_goes_to_many() {
        let mut core = core();
        let few: Vec<ConnId> = (0..PROMPT_DELIVERIES - 1).map(|n| subscribed(&mut core, &n.to_string())).collect();
        let publisher = admitted(&mut core, "publisher");
        prompt(&mut core);
        publish(&mut core, publisher);
        assert_eq!(prompt(&mut core).len(), few.len() + 1, "few are written to at once");
        assert_eq!(core.next_in_crowd(), None);

        let one_more = subscribed(&mut core, "one more");
        prompt(&mut core);
        publish(&mut core, publisher);
        core.receive(one_more, &[0xC0, 0], 0);
        assert_eq!(prompt(&mut core), [one_more], "an answer is");
        publish(&mut core, publisher);
        assert!(core.has_pending());
        let crowd: Vec<ConnId> = std::iter::from_fn(|| core.next_in_crowd()).collect();
        assert_eq!(crowd.len(), few.len() + 2, "each once, and the publisher with its own answer");
        assert!(!core.has_pending());
    }

    #[test]
    fn queues_grow_no_more_where_they_hold_too_much_together() {
        const SESSIONS: usize = 50;
        const MESSAGES: usize = 2000;
        let mut core = core();
        let ids: Vec<ConnId> = (0..SESSIONS).map(|n| subscribed(&mut core, &n.to_string())).collect();
        ids.iter().for_each(|&id| core.ended(id, Ended::PeerClosed, 0));
        let publisher = admitted(&mut core, "publisher");
        let most = 1 << 20;
        core.bound_queues(most);
        (0..MESSAGES).for_each(|_| publish(&mut core, publisher));
        let entries: usize = core.sessions.iter().map(|(_, session)| session.queue.len()).sum();
        let held = core.queued_bytes.get();
        assert!(held > most && held < most + most / 10, "{held} bytes of {entries} messages");
        let least = core.sessions.iter().filter(|(_, s)| !s.queue.is_empty()).map(|(_, s)| s.queue.len()).min();
        assert!(
            least.is_some_and(|least| least < MESSAGES && least >= CROWDED_QUEUED_MESSAGES as usize / 2),
            "{least:?}"
        );
        core.sessions = crate::slab::Slab::new();
        assert_eq!(core.queued_bytes.get(), 0, "what ends gives back what it held");
    }
}
