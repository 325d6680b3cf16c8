//! Queries of the status API: clients, queues, backlogs, retained messages, gauges.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::plane::{DataPlane, PlaneError};
use super::shard::{Control, ShardEvent};
use weir_broker::{
    Backlog, ConnectionDetail, CoreGauges, EndpointId, Millis, RetainedPosition, RetainedTopic, Waiting,
};

/// A filter of connected clients; all its conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientFilter {
    /// The endpoint; `None`: any.
    pub endpoint: Option<EndpointId>,
    /// The exact client id. With it, [`FoundClient::detail`] is filled in.
    pub client_id: Option<String>,
    pub client_id_prefix: Option<String>,
    pub address: Option<IpAddr>,
    /// Only connections with a higher sequence number.
    pub after: Option<u64>,
    /// The maximum number of results, lowest sequence numbers first.
    pub limit: usize,
}

impl ClientFilter {
    /// Whether a connection matches. The client id is compared last, since it costs most.
    pub(super) fn matches(&self, endpoint: EndpointId, sequence: u64, peer: Option<IpAddr>, client_id: &str) -> bool {
        self.endpoint.is_none_or(|wanted| wanted == endpoint)
            && self.after.is_none_or(|after| sequence > after)
            && self.address.is_none_or(|address| peer.map(|peer| peer.to_canonical()) == Some(address.to_canonical()))
            && self.client_id.as_ref().is_none_or(|wanted| wanted == client_id)
            && self.client_id_prefix.as_ref().is_none_or(|prefix| client_id.starts_with(prefix))
    }
}

/// One connected client, for the status API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRow {
    pub client_id: String,
    pub username: Option<String>,
    /// `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// Milliseconds since admission.
    pub connected_ms: Millis,
    /// CONNECT's protocol level: 3, 4 or 5.
    pub protocol_level: u8,
    pub tls: bool,
    pub websocket: bool,
    pub shard: u16,
    /// The connection's sequence number, counted over the process; rows are sorted by it.
    pub sequence: u64,
}

/// A client that matches a filter.
#[derive(Debug, Clone)]
pub struct FoundClient {
    pub endpoint: EndpointId,
    pub row: ClientRow,
    pub detail: Option<ConnectionDetail>,
}

/// A filter of retained messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetainedFilter {
    /// `None`: any namespace.
    pub namespace: Option<String>,
    /// A valid topic filter; `None`: all topics, those of `$SYS` included.
    pub filter: Option<String>,
}

/// The position from which a search for retained messages continues.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetainedCursor {
    pub shard: u16,
    pub place: RetainedPosition,
}

impl DataPlane {
    /// Connected clients of an endpoint, in the order in which they were accepted: `limit` of them, from index `offset`
    /// on.
    pub async fn clients(
        &self,
        endpoint: EndpointId,
        offset: usize,
        limit: usize,
    ) -> Result<Vec<ClientRow>, PlaneError> {
        let first = offset.saturating_add(limit);
        let mut rows = self.ask_all(|reply| Control::Clients { endpoint, limit: first, reply }).await?.concat();
        rows.sort_unstable_by_key(|row| row.sequence);
        Ok(rows.into_iter().skip(offset).take(limit).collect())
    }

    /// The queue of a client's session, connected or not; `None`: it has no session.
    pub async fn waiting_for(&self, namespace: &str, client_id: &str) -> Result<Option<Waiting>, PlaneError> {
        let (reply, receiver) = oneshot::channel();
        if let Some(shard) = self.home_shard_of(namespace, client_id) {
            let (namespace, client_id) = (namespace.into(), client_id.into());
            shard.send(ShardEvent::Control(Control::Waiting { namespace, client_id, reply }));
        }
        receiver.await.map_err(|_| PlaneError::Stopped)
    }

    /// Finds connected clients, in the order in which they were accepted.
    ///
    /// # Errors
    /// The data plane was shut down.
    pub async fn find_clients(&self, filter: ClientFilter) -> Result<Vec<FoundClient>, PlaneError> {
        let filter = Arc::new(filter);
        let mut found = self
            .ask_all(|reply| Control::Find { filter: Arc::clone(&filter), reply })
            .await?
            .into_iter()
            .flatten()
            .collect::<Vec<_>>();
        found.sort_unstable_by_key(|each| each.row.sequence);
        found.truncate(filter.limit);
        Ok(found)
    }

    /// The sessions with the largest backlogs, largest first, at most `limit`.
    ///
    /// # Errors
    /// The data plane was shut down.
    pub async fn backlogs(&self, limit: usize) -> Result<Vec<Backlog>, PlaneError> {
        let mut found = self.ask_all(|reply| Control::Backlogs { limit, reply }).await?.concat();
        found.sort_by_key(|backlog| std::cmp::Reverse(backlog.weight()));
        found.truncate(limit);
        Ok(found)
    }

    /// Retained messages from position `from` on, at most `limit`, and the position to continue from; `None`: there are
    /// no more. A shard spends a fraction of a millisecond on each request.
    ///
    /// # Errors
    /// The data plane was shut down.
    pub async fn retained(
        &self,
        filter: RetainedFilter,
        from: RetainedCursor,
        limit: usize,
    ) -> Result<(Vec<RetainedTopic>, Option<RetainedCursor>), PlaneError> {
        let filter = Arc::new(filter);
        let (mut found, mut cursor) = (Vec::new(), from);
        loop {
            let RetainedCursor { shard, place } = cursor;
            let (filter, wanted) = (Arc::clone(&filter), limit - found.len());
            let asked = self.ask_one(shard, |reply| Control::Retained { filter, from: place, limit: wanted, reply });
            let Some((more, next)) = asked.await? else { return Ok((found, None)) };
            found.extend(more);
            cursor = match next {
                Some(place) => RetainedCursor { shard, place },
                None => RetainedCursor { shard: shard + 1, place: RetainedPosition::default() },
            };
            if found.len() >= limit {
                return Ok((found, Some(cursor)));
            }
        }
    }

    /// Gauges of all cores, summed.
    pub async fn gauges(&self) -> Result<CoreGauges, PlaneError> {
        let each = self.ask_all(|reply| Control::Gauges { reply }).await?;
        let mut all = CoreGauges::default();
        each.iter().for_each(|core| all.add(core));
        Ok(all)
    }

    /// Returns when every shard has completed one turn of its event loop.
    ///
    /// # Errors
    /// The data plane was shut down.
    pub async fn ping_shards(&self) -> Result<(), PlaneError> {
        self.ask_all(|reply| Control::Ping { reply }).await.map(|_| ())
    }
}
