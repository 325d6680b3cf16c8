//! Requests of the control plane to a shard.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Shard;
use super::table::{Connection, ConnectionState};
use crate::net::drain::DrainRequest;
use crate::net::find::ClientRow;
use crate::net::find::{ClientFilter, FoundClient, RetainedFilter};
use crate::net::policy::ListenerPolicy;
use crate::net::topic_level::LevelFilter;
use crate::net::trace::ClientTracer;
use weir_broker::{
    Backlog, ConnId, CoreGauges, EndpointId, EndpointPolicy, LevelEntry, LevelValue, RetainedPosition, RetainedTopic,
    Waiting,
};
use weir_mqtt::{Publish, PublishProperties, QoS};

/// A request. The caller may have dropped the receiver of the reply; the request is carried out all the same.
pub(in crate::net) enum Control {
    SetPolicy {
        policy: Arc<ListenerPolicy>,
        reply: oneshot::Sender<()>,
    },
    Drain {
        request: DrainRequest,
        reply: oneshot::Sender<u32>,
    },
    /// The sequence numbers of an endpoint's connections, and their addresses. Those of clients of other nodes are not among
    /// them.
    Sequences {
        endpoint: EndpointId,
        reply: oneshot::Sender<Vec<(u64, Option<IpAddr>)>>,
    },
    /// An endpoint's clients: the first `limit` by sequence number.
    Clients {
        endpoint: EndpointId,
        limit: usize,
        reply: oneshot::Sender<Vec<ClientRow>>,
    },
    /// Publishes a message of the broker itself.
    Publish {
        namespace: Arc<str>,
        topic: String,
        payload: Vec<u8>,
        retain: bool,
        /// When it expires, seconds.
        expiry_s: Option<u32>,
    },
    /// Clients that match a filter.
    Find {
        filter: Arc<ClientFilter>,
        reply: oneshot::Sender<Vec<FoundClient>>,
    },
    Gauges {
        reply: oneshot::Sender<CoreGauges>,
    },
    /// The sessions with the largest backlogs.
    Backlogs {
        limit: usize,
        reply: oneshot::Sender<Vec<Backlog>>,
    },
    /// Retained messages that match a filter, from a position on.
    Retained {
        filter: Arc<RetainedFilter>,
        from: RetainedPosition,
        limit: usize,
        reply: oneshot::Sender<(Vec<RetainedTopic>, Option<RetainedPosition>)>,
    },
    /// One level of the retained topics.
    RetainedLevel {
        filter: Arc<LevelFilter>,
        reply: oneshot::Sender<(Vec<LevelEntry>, Option<String>)>,
    },
    /// The retained message of a topic.
    RetainedValue {
        namespace: Arc<str>,
        topic: Arc<str>,
        reply: oneshot::Sender<Option<LevelValue>>,
    },
    /// Begins to trace a client.
    Trace {
        tracer: Box<ClientTracer>,
        reply: oneshot::Sender<()>,
    },
    /// Checks that the event loop runs.
    Ping {
        reply: oneshot::Sender<()>,
    },
    /// Registers the policy of an endpoint before its first connection.
    RegisterPolicy {
        policy: Arc<EndpointPolicy>,
    },
    /// The queue of a client whose home is this shard.
    Waiting {
        namespace: Box<str>,
        client_id: Box<str>,
        reply: oneshot::Sender<Option<Waiting>>,
    },
    /// Removes an endpoint.
    UnregisterPolicy {
        endpoint: EndpointId,
    },
    Shutdown {
        grace: Duration,
        reply: oneshot::Sender<()>,
    },
}

impl Shard {
    pub(super) fn on_control(&mut self, control: Control) {
        match control {
            Control::SetPolicy { policy, reply } => {
                let endpoint = Arc::clone(&policy.endpoint);
                self.policies.insert(endpoint.id, policy);
                self.core.set_policy(endpoint, self.now);
                let _ = reply.send(());
            }
            Control::Drain { request, reply } => self.begin_drain(request, reply),
            Control::Sequences { endpoint, reply } => {
                let of_endpoint = self.table.iter().filter(|(_, connection)| {
                    connection.guard.counts_for() == Some(endpoint)
                        && !matches!(connection.state, ConnectionState::Lingering)
                });
                let row = |c: &Connection| (c.sequence, c.peer.map(|peer| peer.ip()));
                let _ = reply.send(of_endpoint.map(|(_, connection)| row(connection)).collect());
            }
            Control::Clients { endpoint, limit, reply } => {
                let _ = reply.send(self.clients(endpoint, limit));
            }
            Control::Publish { namespace, topic, payload, retain, expiry_s } => {
                let publish = Publish {
                    dup: false,
                    qos: QoS::AtMostOnce,
                    retain,
                    topic: &topic,
                    packet_id: None,
                    properties: PublishProperties { message_expiry_s: expiry_s, ..PublishProperties::default() },
                    payload: &payload,
                };
                self.core.publish_internal(&namespace, &publish, self.now);
            }
            Control::Find { filter, reply } => {
                let _ = reply.send(self.find(&filter));
            }
            Control::Gauges { reply } => {
                let _ = reply.send(self.core.gauges());
            }
            Control::Backlogs { limit, reply } => {
                let _ = reply.send(self.core.backlogs(limit));
            }
            Control::Retained { filter, from, limit, reply } => {
                let wanted = (filter.namespace.as_deref(), filter.filter.as_deref());
                let _ = reply.send(self.core.retained_from(from, wanted, limit, self.now));
            }
            Control::RetainedLevel { filter, reply } => {
                let from = (&*filter.namespace, &*filter.prefix, filter.after.as_deref());
                let _ = reply.send(self.core.retained_level(from, (filter.limit, filter.payload_max), self.now));
            }
            Control::RetainedValue { namespace, topic, reply } => {
                let _ = reply.send(self.core.retained_value(&namespace, &topic, self.now));
            }
            Control::Trace { tracer, reply } => {
                self.begin_trace(*tracer);
                let _ = reply.send(());
            }
            Control::Ping { reply } => {
                let _ = reply.send(());
            }
            Control::RegisterPolicy { policy } => self.core.register_policy(&policy, self.now),
            Control::Waiting { namespace, client_id, reply } => {
                let _ = reply.send(self.core.waiting_for(&namespace, &client_id));
            }
            Control::UnregisterPolicy { endpoint } => {
                self.core.unregister_policy(endpoint);
                self.policies.remove(&endpoint);
                self.past_drains.forget(endpoint);
                self.published.remove(&endpoint);
            }
            Control::Shutdown { grace, reply } => self.begin_shutdown(grace, reply),
        }
    }

    fn clients(&self, endpoint: EndpointId, limit: usize) -> Vec<ClientRow> {
        let mut found: Vec<_> = self.core.connections(endpoint);
        let sequence = |id| Some(self.table.get(self.table.key_of(id)?)?.sequence);
        found.sort_by_cached_key(|&id| sequence(id));
        found.into_iter().filter_map(|id| self.row(id)).take(limit).collect()
    }

    fn row(&self, id: ConnId) -> Option<ClientRow> {
        let connection = self.table.get(self.table.key_of(id)?)?;
        let client = self.core.client(id)?;
        let layers = connection.layers.as_ref();
        Some(ClientRow {
            client_id: client.client_id.to_owned(),
            username: client.principal.username.as_deref().map(str::to_owned),
            peer: connection.peer,
            connected_ms: self.now.saturating_sub(client.connected_at),
            protocol_level: client.version as u8,
            tls: layers.is_some_and(|layers| layers.tls.is_some()),
            websocket: layers.is_some_and(|layers| layers.websocket.is_some()),
            shard: self.id.0,
            sequence: connection.sequence,
        })
    }

    fn find(&self, filter: &ClientFilter) -> Vec<FoundClient> {
        let mut found: Vec<(u64, EndpointId, ConnId)> = self
            .table
            .iter()
            .filter_map(|(_, connection)| {
                let ConnectionState::Open(id) = connection.state else { return None };
                let endpoint = connection.guard.metrics().endpoint();
                let peer = connection.peer.map(|peer| peer.ip());
                let client = self.core.client(id)?;
                let matches = filter.matches(endpoint, connection.sequence, peer, client.client_id);
                matches.then_some((connection.sequence, endpoint, id))
            })
            .collect();
        found.sort_unstable();
        let with_detail = |(_, endpoint, id): (u64, EndpointId, ConnId)| {
            let detail = filter.client_id.as_ref().and_then(|_| self.core.describe(id));
            Some(FoundClient { endpoint, row: self.row(id)?, detail })
        };
        found.into_iter().filter_map(with_detail).take(filter.limit).collect()
    }
}
