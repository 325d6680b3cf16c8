//! What a core tells of itself: for draining, the status and the metrics.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::session::Session;
use super::{
    Backlog, ConnId, ConnectionDetail, Core, CoreGauges, EndpointCounters, EndpointId, Millis, RetainedPlace,
    RetainedTopic, Waiting,
};

/// Places that one question after retained messages looks at: a fraction of a millisecond of the shard's time.
pub const RETAINED_LOOK_MAX: usize = 4096;

impl Core {
    /// Every connection of an endpoint, oldest first.
    pub fn connections(&self, endpoint: EndpointId) -> Vec<ConnId> {
        let of_endpoint = self.connections.iter().filter(|(_, c)| c.policy.id == endpoint && !c.closing);
        let mut found: Vec<_> = of_endpoint
            .map(|(slot, c)| (c.connected_at, ConnId { slot, generation: self.connections.generation(slot) }))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// What is to be told of a connection.
    pub fn describe(&self, conn: ConnId) -> Option<ConnectionDetail> {
        let connection = self.connections.get(conn.slot)?;
        if self.connections.generation(conn.slot) != conn.generation {
            return None;
        }
        let session = self.sessions.get(connection.session)?;
        let space = &self.spaces[session.space as usize];
        let mut subscriptions: Vec<String> =
            session.subscriptions.iter().map(|&n| space.subscriptions.filter(n)).collect();
        let shared = session.rare.iter().flat_map(|rare| &rare.shared);
        subscriptions.extend(shared.map(|s| format!("$share/{}/{}", s.key.group, s.key.filter)));
        Some(ConnectionDetail {
            client_id: session.client_id.to_string(),
            keep_alive_s: (connection.keep_alive_ms / 1500) as u16,
            session_expiry_s: session.expiry_s,
            subscriptions,
            inflight: session.inflight.len(),
            queued: session.queue.len(),
            queued_bytes: session.queue.bytes(),
            waiting_bytes: connection.out.len(),
            slow: self.now < connection.slow_until,
            paused: connection.pauses > 0,
            dropped: session.dropped,
            messages_received: connection.messages_received,
            messages_sent: connection.messages_sent,
        })
    }

    /// What waits for a client, connected or away; `None` where it has no session here.
    pub fn waiting_for(&self, namespace: &str, client_id: &str) -> Option<Waiting> {
        let space = *self.space_index.get(namespace)?;
        let session = self.sessions.get(self.find_session(space, client_id)?)?;
        Some(Waiting {
            queued: session.queue.len() as u64,
            queued_bytes: session.queue.bytes(),
            inflight: session.inflight.len() as u64,
        })
    }

    /// Counters of the endpoints this core has seen.
    pub fn counters(&self) -> impl Iterator<Item = (EndpointId, &EndpointCounters)> {
        self.endpoint_index.iter().map(|(&id, &place)| (id, &self.counters[place as usize]))
    }

    /// What the core holds now: one look at every session.
    pub fn gauges(&self) -> CoreGauges {
        let mut gauges = CoreGauges {
            connections: self.connections.len(),
            sessions: self.sessions.len(),
            retained_messages: self.spaces.iter().map(|s| s.retained.count()).sum(),
            retained_bytes: self.spaces.iter().map(|s| s.retained.bytes()).sum(),
            ..CoreGauges::default()
        };
        for (_, session) in self.sessions.iter() {
            let of_endpoint = gauges.endpoints.entry(session.policy.id).or_default();
            of_endpoint.sessions += 1;
            of_endpoint.away += usize::from(session.connection.is_none());
            of_endpoint.subscriptions += session.filters();
            of_endpoint.inflight += session.inflight.len();
            of_endpoint.queued += session.queue.len();
            of_endpoint.queued_bytes += session.queue.bytes();
        }
        for of_endpoint in gauges.endpoints.values() {
            gauges.subscriptions += of_endpoint.subscriptions;
            gauges.inflight += of_endpoint.inflight;
            gauges.queued += of_endpoint.queued;
        }
        gauges
    }

    /// The sessions with most waiting for them, or most lost, worst first; at most `limit`.
    pub fn backlogs(&self, limit: usize) -> Vec<Backlog> {
        let mut worst: BinaryHeap<Reverse<((u64, u32), u32)>> = BinaryHeap::new();
        for (slot, session) in self.sessions.iter() {
            let weight = (session.queue.bytes().saturating_add(self.waiting_bytes(session)), session.dropped);
            if weight > (0, 0) {
                worst.push(Reverse((weight, slot)));
                if worst.len() > limit {
                    worst.pop();
                }
            }
        }
        let worst = worst.into_sorted_vec();
        worst.into_iter().filter_map(|Reverse((_, slot))| self.backlog(self.sessions.get(slot)?)).collect()
    }

    fn waiting_bytes(&self, session: &Session) -> u64 {
        session.connection.and_then(|slot| self.connections.get(slot)).map_or(0, |c| c.out.len() as u64)
    }

    fn backlog(&self, session: &Session) -> Option<Backlog> {
        let connection = session.connection.and_then(|slot| self.connections.get(slot));
        Some(Backlog {
            client_id: session.client_id.to_string(),
            endpoint: session.policy.id,
            connected: connection.is_some(),
            inflight: session.inflight.len(),
            queued: session.queue.len(),
            queued_bytes: session.queue.bytes(),
            waiting_bytes: self.waiting_bytes(session),
            slow: connection.is_some_and(|connection| self.now < connection.slow_until),
            dropped: session.dropped,
        })
    }

    /// Retained messages from a place on: at most `limit` of those in `namespace` (`None`: in any) whose topic `filter`
    /// matches (`None`: all), after looking at no more than [`RETAINED_LOOK_MAX`] places; and where to go on. In no
    /// order that means anything.
    pub fn retained_from(
        &self,
        from: RetainedPlace,
        (namespace, filter): (Option<&str>, Option<&str>),
        limit: usize,
        now: Millis,
    ) -> (Vec<RetainedTopic>, Option<RetainedPlace>) {
        let mut found = Vec::new();
        let mut looks = RETAINED_LOOK_MAX;
        let mut place = from;
        while let Some(space) = self.spaces.get(place.space as usize) {
            let wanted = namespace.is_none_or(|namespace| namespace == &*space.name);
            let end = if wanted { space.retained.end() } else { 0 };
            while place.node < end {
                if found.len() == limit || looks == 0 {
                    return (found, Some(place));
                }
                looks -= 1;
                let message = space.retained.at(place.node).filter(|message| !message.is_expired(now));
                place.node += 1;
                let matched = |topic: &str| filter.is_none_or(|filter| weir_mqtt::matches(filter, topic));
                if let Some(message) = message.filter(|message| matched(message.topic())) {
                    found.push(RetainedTopic {
                        namespace: Arc::clone(&space.name),
                        topic: message.topic().to_owned(),
                        qos: message.qos,
                        payload_bytes: message.payload().len(),
                        expires_in_ms: (message.expires_at != Millis::MAX).then(|| message.expires_at - now),
                    });
                }
            }
            place = RetainedPlace { space: place.space + 1, node: 0 };
        }
        (found, None)
    }
}
