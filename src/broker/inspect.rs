//! What a core tells of itself: for draining, the status and the metrics.

use super::{ConnId, ConnectionDetail, Core, CoreGauges, EndpointCounters, EndpointId};

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
        })
    }

    /// Counters of the endpoints this core has seen.
    pub fn counters(&self) -> impl Iterator<Item = (EndpointId, &EndpointCounters)> {
        self.endpoint_index.iter().map(|(&id, &place)| (id, &self.counters[place as usize]))
    }

    /// What the core holds now.
    pub fn gauges(&self) -> CoreGauges {
        CoreGauges {
            connections: self.connections.len(),
            sessions: self.sessions.len(),
            subscriptions: self.sessions.iter().map(|(_, s)| s.subscriptions.len()).sum(),
            retained_messages: self.spaces.iter().map(|s| s.retained.count()).sum(),
            retained_bytes: self.spaces.iter().map(|s| s.retained.bytes()).sum(),
            inflight: self.sessions.iter().map(|(_, s)| s.inflight.len()).sum(),
            queued: self.sessions.iter().map(|(_, s)| s.queue.len()).sum(),
        }
    }
}
