//! Looking for clients, backlogs and retained messages, for the status.

use std::net::IpAddr;
use std::sync::Arc;

use super::plane::{ClientRow, DataPlane, PlaneError};
use super::shard::Control;
use weir_broker::{Backlog, ConnectionDetail, EndpointId, RetainedPlace, RetainedTopic};

/// Which connected clients are looked for: those that meet all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientFilter {
    /// Of one of these endpoints; `None`: of any.
    pub endpoint: Option<EndpointId>,
    /// Exactly this client id: then [`FoundClient::detail`] is told.
    pub client_id: Option<String>,
    pub client_id_prefix: Option<String>,
    pub address: Option<IpAddr>,
    /// Accepted after the connection of this number.
    pub after: Option<u64>,
    /// The first so many, by number.
    pub limit: usize,
}

impl ClientFilter {
    /// Whether a connection's own facts meet it; the client id is asked for last.
    pub(super) fn meets(&self, endpoint: EndpointId, sequence: u64, peer: Option<IpAddr>, client_id: &str) -> bool {
        self.endpoint.is_none_or(|wanted| wanted == endpoint)
            && self.after.is_none_or(|after| sequence > after)
            && self.address.is_none_or(|address| peer.map(|peer| peer.to_canonical()) == Some(address.to_canonical()))
            && self.client_id.as_ref().is_none_or(|wanted| wanted == client_id)
            && self.client_id_prefix.as_ref().is_none_or(|prefix| client_id.starts_with(prefix))
    }
}

/// A client that was looked for.
#[derive(Debug, Clone)]
pub struct FoundClient {
    pub endpoint: EndpointId,
    pub row: ClientRow,
    pub detail: Option<ConnectionDetail>,
}

/// Which retained messages are looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetainedFilter {
    /// `None`: of any namespace.
    pub namespace: Option<String>,
    /// A valid topic filter; `None`: all, those of `$SYS` too.
    pub filter: Option<String>,
}

/// Where a search for retained messages goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetainedCursor {
    pub shard: u16,
    pub place: RetainedPlace,
}

impl DataPlane {
    /// Looks for connected clients, in the order in which they were accepted.
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

    /// The sessions with most waiting for them, worst first, at most `limit`.
    ///
    /// # Errors
    /// The data plane was shut down.
    pub async fn backlogs(&self, limit: usize) -> Result<Vec<Backlog>, PlaneError> {
        let mut found = self.ask_all(|reply| Control::Backlogs { limit, reply }).await?.concat();
        found.sort_by_key(|backlog| std::cmp::Reverse(backlog.weight()));
        found.truncate(limit);
        Ok(found)
    }

    /// Retained messages from `from` on, at most `limit`, and where to go on; `None`: those were the last. A shard gives a
    /// fraction of a millisecond at a time to it.
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
                None => RetainedCursor { shard: shard + 1, place: RetainedPlace::default() },
            };
            if found.len() >= limit {
                return Ok((found, Some(cursor)));
            }
        }
    }

    /// Ends when every shard has come round once.
    ///
    /// # Errors
    /// The data plane was shut down.
    pub async fn pulse(&self) -> Result<(), PlaneError> {
        self.ask_all(|reply| Control::Pulse { reply }).await.map(|_| ())
    }
}
