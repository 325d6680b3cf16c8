//! Queries of a core: for draining, the status and the metrics.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::clients::session::Session;
use crate::ids::{ConnId, EndpointId, Millis, SessionId};
use crate::{
    Backlog, ConnectionDetail, Core, CoreGauges, EndpointCounters, RetainedPosition, RetainedTopic, Site, Waiting,
};

/// Positions that one query for retained messages looks at: a fraction of a millisecond of the shard's time.
const RETAINED_SCAN_MAX: usize = 4096;

impl Core {
    /// Every connection of an endpoint, oldest first.
    pub fn connections(&self, endpoint: EndpointId) -> Vec<ConnId> {
        let of_endpoint = self.clients.connections().filter(|(_, c)| c.policy.id == endpoint && !c.closing);
        let mut found: Vec<_> = of_endpoint
            .map(|(slot, c)| (c.connected_at, ConnId { slot, generation: self.clients.generation(slot) }))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// A connection and its session, for the status.
    pub fn describe(&self, conn: ConnId) -> Option<ConnectionDetail> {
        let connection = self.clients.connection(conn.slot)?;
        if self.clients.generation(conn.slot) != conn.generation {
            return None;
        }
        let session = self.clients.session(connection.session)?;
        let filters = self.routing.subscriptions(session.namespace);
        let mut subscriptions: Vec<String> = session.subscriptions.iter().map(|&n| filters.filter(n)).collect();
        let shared = session.cold.iter().flat_map(|cold| &cold.shared);
        subscriptions.extend(shared.map(|(key, _)| format!("$share/{}/{}", key.group, key.filter)));
        Some(ConnectionDetail {
            client_id: session.client_id.to_string(),
            keep_alive_s: (connection.keep_alive_ms / 1500) as u16,
            session_expiry_s: session.expiry_s,
            subscriptions,
            inflight: session.inflight.len(),
            queued: session.queue.len(),
            queued_bytes: session.queue.bytes(),
            waiting_bytes: connection.outlet.out.len(),
            slow: self.now < connection.slow_until,
            paused: connection.pauses > 0,
            dropped: session.dropped,
            messages_received: connection.messages_received,
            messages_sent: connection.messages_sent,
        })
    }

    /// The queue of a client, connected or not; `None`: it has no session here.
    pub fn waiting_for(&self, namespace: &str, client_id: &str) -> Option<Waiting> {
        let namespace = self.routing.find_namespace(namespace)?;
        let session = self.clients.session(self.clients.find_session(namespace, client_id)?)?;
        Some(Waiting {
            queued: session.queue.len() as u64,
            queued_bytes: session.queue.bytes(),
            inflight: session.inflight.len() as u64,
        })
    }

    /// Counters of the endpoints this core has seen.
    pub fn counters(&self) -> impl Iterator<Item = (EndpointId, &EndpointCounters)> {
        self.observe.counters()
    }

    /// Counts an internal inconsistency that the driver found. Fails a debug build.
    #[cold]
    #[track_caller]
    pub fn count_internal_error(&mut self, site: Site) {
        self.observe.count_error(site);
    }

    /// Gauges of the core: iterates over every session.
    pub fn gauges(&self) -> CoreGauges {
        let mut gauges = CoreGauges {
            connections: self.clients.connection_count(),
            sessions: self.clients.session_count(),
            retained_messages: self.routing.namespaces().iter().map(|s| s.retained().count()).sum(),
            retained_bytes: self.routing.namespaces().iter().map(|s| s.retained().bytes()).sum(),
            internal_errors: self.observe.errors(),
            ..CoreGauges::default()
        };
        for (_, session) in self.clients.sessions().filter(|(_, session)| !session.ending) {
            let of_endpoint = gauges.endpoints.entry(session.policy.id).or_default();
            of_endpoint.sessions += 1;
            of_endpoint.offline += usize::from(session.connection.is_none());
            of_endpoint.subscriptions += session.filters();
            of_endpoint.inflight += session.inflight.len();
            of_endpoint.queued += session.queue.len();
            of_endpoint.queued_bytes += session.queue.bytes();
            gauges.unowned_sessions += usize::from(self.is_unowned(session));
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
        let mut worst: BinaryHeap<Reverse<((u64, u32), SessionId)>> = BinaryHeap::new();
        for (slot, session) in self.clients.sessions() {
            let weight = (session.queue.bytes().saturating_add(self.waiting_bytes(session)), session.dropped);
            if weight > (0, 0) {
                worst.push(Reverse((weight, slot)));
                if worst.len() > limit {
                    worst.pop();
                }
            }
        }
        let worst = worst.into_sorted_vec();
        worst.into_iter().filter_map(|Reverse((_, slot))| self.backlog(self.clients.session(slot)?)).collect()
    }

    fn waiting_bytes(&self, session: &Session) -> u64 {
        session.connection.and_then(|slot| self.clients.connection(slot)).map_or(0, |c| c.outlet.out.len() as u64)
    }

    fn backlog(&self, session: &Session) -> Option<Backlog> {
        let connection = session.connection.and_then(|slot| self.clients.connection(slot));
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

    /// Retained messages from a position on: at most `limit` of those in `namespace` (`None`: in any) whose topic `filter`
    /// matches (`None`: all), after looking at no more than [`RETAINED_SCAN_MAX`]; and where to go on. By namespace and
    /// topic.
    pub fn retained_from(
        &self,
        from: RetainedPosition,
        (namespace, filter): (Option<&str>, Option<&str>),
        limit: usize,
        now: Millis,
    ) -> (Vec<RetainedTopic>, Option<RetainedPosition>) {
        let mut found = Vec::new();
        let mut looks = RETAINED_SCAN_MAX;
        let mut position = from;
        while let Some(candidate) = self.routing.namespaces().get(position.namespace as usize) {
            let wanted = namespace.is_none_or(|namespace| namespace == &**candidate.name());
            for message in candidate.retained().after(&position.after).take_while(|_| wanted) {
                if found.len() == limit || looks == 0 {
                    return (found, Some(position));
                }
                looks -= 1;
                message.topic().clone_into(&mut position.after);
                let is_matched = filter.is_none_or(|filter| weir_mqtt::matches(filter, message.topic()));
                if is_matched && !message.is_expired(now) {
                    found.push(RetainedTopic {
                        namespace: Arc::clone(candidate.name()),
                        topic: message.topic().to_owned(),
                        qos: message.qos,
                        payload_bytes: message.payload().len(),
                        expires_in_ms: (message.expires_at != Millis::MAX).then(|| message.expires_at - now),
                    });
                }
            }
            position = RetainedPosition { namespace: position.namespace + 1, after: String::new() };
        }
        (found, None)
    }
}
