//! What a program reads of its server: retained messages, clients, metrics.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use weir_mqtt::QoS;

use super::error::ServerError;
use super::handle::ServerHandle;
use crate::net::{self, ClientFilter, DataPlane, PlaneError, RetainedFilter};
#[cfg(feature = "status")]
use crate::status::prometheus_metrics;

/// The retained messages of the shared namespace; see [`ServerHandle::retained`].
pub struct Retained<'a> {
    plane: &'a DataPlane,
}

/// Where a search for retained messages goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedCursor(net::RetainedCursor);

/// The retained message of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetainedMessage {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// The QoS at which it was published.
    pub qos: QoS,
    /// When it expires; `None`: never.
    pub expires_in: Option<Duration>,
}

/// A connected client.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientInfo {
    /// The client id.
    pub client_id: String,
    /// The user name.
    pub username: Option<String>,
    /// `None` on a Unix socket, and for clients in the process.
    pub address: Option<SocketAddr>,
    /// Time since it was admitted.
    pub connected: Duration,
    /// CONNECT's protocol level: 3, 4 or 5.
    pub protocol_level: u8,
    /// Counts connections; give the last one to [`ServerHandle::clients`] for the next page.
    pub sequence: u64,
}

/// Counters since the start and gauges of now, over all endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Open connections.
    pub connections: u64,
    /// Connections that were admitted.
    pub connections_admitted_total: u64,
    /// Sessions, with those of offline clients.
    pub sessions: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Retained messages.
    pub retained_messages: u64,
    /// PUBLISH packets of clients.
    pub messages_received_total: u64,
    /// PUBLISH packets to clients.
    pub messages_sent_total: u64,
    /// Bytes of clients.
    pub bytes_received_total: u64,
    /// Bytes of PUBLISH packets to clients.
    pub bytes_sent_total: u64,
    /// Messages that were dropped, for any reason.
    pub messages_dropped_total: u64,
    /// Publishes, subscriptions and wills that an access list denied.
    pub authorization_failures_total: u64,
}

impl std::fmt::Debug for Retained<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retained").finish_non_exhaustive()
    }
}

impl ServerHandle {
    /// The retained messages of the shared namespace.
    pub fn retained(&self) -> Retained<'_> {
        Retained { plane: self.data_plane() }
    }

    /// Connected clients in the order of their connects, at most `limit`, after the connection with this sequence number.
    ///
    /// # Errors
    /// The server has ended.
    pub async fn clients(&self, after: Option<u64>, limit: usize) -> Result<Vec<ClientInfo>, ServerError> {
        let filter = ClientFilter { after, limit, ..ClientFilter::default() };
        let found = self.data_plane().find_clients(filter).await.map_err(ended)?;
        let client = |row: net::ClientRow| ClientInfo {
            client_id: row.client_id,
            username: row.username,
            address: row.peer,
            connected: Duration::from_millis(row.connected_ms),
            protocol_level: row.protocol_level,
            sequence: row.sequence,
        };
        Ok(found.into_iter().map(|found| client(found.row)).collect())
    }

    /// Counters and gauges.
    ///
    /// # Errors
    /// The server has ended.
    pub async fn metrics(&self) -> Result<Metrics, ServerError> {
        let plane = self.data_plane();
        let gauges = plane.gauges().await.map_err(ended)?;
        let mut all = Metrics {
            sessions: gauges.sessions as u64,
            subscriptions: gauges.subscriptions as u64,
            retained_messages: gauges.retained_messages as u64,
            ..Metrics::default()
        };
        for stats in plane.stats() {
            all.connections += u64::from(stats.connections_current);
            all.connections_admitted_total += stats.admitted_total;
            all.messages_received_total += stats.broker.messages_received;
            all.messages_sent_total += stats.broker.messages_sent;
            all.bytes_received_total += stats.broker.bytes_received;
            all.bytes_sent_total += stats.broker.bytes_sent;
            all.messages_dropped_total += stats.broker.dropped.iter().sum::<u64>();
            all.authorization_failures_total += stats.broker.authorization_failures;
        }
        Ok(all)
    }

    /// Everything that `/metrics` of the HTTP API has, in Prometheus's text format.
    ///
    /// # Errors
    /// The text cannot be made.
    #[cfg(feature = "status")]
    pub async fn prometheus(&self) -> Result<String, ServerError> {
        prometheus_metrics(self.view()).await.map_err(|_| ServerError::Metrics)
    }
}

impl Retained<'_> {
    /// Publishes `payload` at QoS 0 as the topic's retained message; an empty one removes it. Returns when
    /// [`Retained::get`] finds it.
    ///
    /// # Errors
    /// [`ServerError::Topic`]: it is not a topic name. Or the server has ended.
    pub async fn set(&self, topic: &str, payload: impl Into<Vec<u8>>) -> Result<(), ServerError> {
        weir_mqtt::validate_topic_name(topic)
            .map_err(|problem| ServerError::Topic { topic: topic.to_owned(), problem: problem.to_string() })?;
        self.plane.publish("", topic, payload.into(), true);
        // The first turn publishes and forwards to the topic's shard; after the second that shard has it.
        for _ in 0..2 {
            self.plane.ping_shards().await.map_err(ended)?;
        }
        Ok(())
    }

    /// The retained message of a topic.
    ///
    /// # Errors
    /// The server has ended.
    pub async fn get(&self, topic: &str) -> Result<Option<RetainedMessage>, ServerError> {
        let found = self.plane.retained_value("", topic).await.map_err(ended)?;
        Ok(found.map(|value| RetainedMessage {
            topic: topic.to_owned(),
            payload: value.payload.into(),
            qos: value.qos,
            expires_in: value.expires_in_ms.map(Duration::from_millis),
        }))
    }

    /// Retained messages whose topics match a filter, at most `limit`, and where to go on; `None`: there are no more. Start
    /// without a cursor.
    ///
    /// # Errors
    /// [`ServerError::Topic`]: it is not a topic filter. Or the server has ended.
    pub async fn get_matching(
        &self,
        filter: &str,
        from: Option<RetainedCursor>,
        limit: usize,
    ) -> Result<(Vec<RetainedMessage>, Option<RetainedCursor>), ServerError> {
        weir_mqtt::validate_topic_filter(filter)
            .map_err(|problem| ServerError::Topic { topic: filter.to_owned(), problem: problem.to_string() })?;
        let search = RetainedFilter { namespace: Some(String::new()), filter: Some(filter.to_owned()) };
        let from = from.map_or_else(Default::default, |cursor| cursor.0);
        let (topics, next) = self.plane.retained(search, from, limit).await.map_err(ended)?;
        let mut found = Vec::with_capacity(topics.len());
        for topic in topics {
            // One that was removed meanwhile is left out.
            found.extend(self.get(&topic.topic).await?);
        }
        Ok((found, next.map(RetainedCursor)))
    }
}

fn ended(_: PlaneError) -> ServerError {
    ServerError::Ended
}
