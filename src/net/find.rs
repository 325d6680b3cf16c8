//! Queries of the status API: clients, backlogs, retained messages.

use std::net::IpAddr;
use std::sync::Arc;

use super::plane::{ClientRow, DataPlane, PlaneError};
use super::shard::Control;
use weir_broker::{Backlog, ConnectionDetail, EndpointId, RetainedPosition, RetainedTopic};

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

    /// Returns when every shard has completed one turn of its event loop.
    ///
    /// # Errors
    /// The data plane was shut down.
    pub async fn ping_shards(&self) -> Result<(), PlaneError> {
        self.ask_all(|reply| Control::Ping { reply }).await.map(|_| ())
    }
}
