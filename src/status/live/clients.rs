//! Clients, their backlogs, and retained messages, as the shards answer.

use super::{endpoint_name, names};
use crate::net::{ClientFilter, DataPlane, FoundClient, RetainedCursor, RetainedFilter};
use crate::state::ControlState;
use crate::status::{
    BacklogView, ClientDetail, ClientPage, ClientQuery, ClientView, RetainedTopicView, TopicCursor, TopicPage,
    TopicQuery,
};
use weir_broker::RetainedPosition;
use weir_declare::reconcile::Timestamp;

/// Asks the shards for one more than the limit, which shows whether there are more.
pub(super) async fn clients(
    control: &ControlState,
    plane: &DataPlane,
    query: ClientQuery,
    now: Timestamp,
) -> Option<ClientPage> {
    let endpoint = match &query.endpoint {
        None => None,
        // Without an id, it never had a listener.
        Some(name) => match control.endpoints.get(name.as_str()).and_then(|endpoint| endpoint.id) {
            Some(id) => Some(id),
            None => return Some(ClientPage::default()),
        },
    };
    let filter = ClientFilter {
        endpoint,
        client_id: query.client_id,
        client_id_prefix: query.client_id_prefix,
        address: query.address,
        after: query.after,
        limit: query.limit.saturating_add(1),
    };
    let mut found = plane.find_clients(filter).await.ok()?;
    let more = found.len() > query.limit;
    found.truncate(query.limit);
    let names = names(control);
    let clients = found.into_iter().map(|found| client(endpoint_name(&names, found.endpoint), found, now));
    Some(ClientPage { clients: clients.collect(), more })
}

pub(super) fn backlog(endpoint: String, found: weir_broker::Backlog) -> BacklogView {
    BacklogView {
        client_id: found.client_id,
        endpoint,
        connected: found.connected,
        slow: found.slow,
        inflight_messages: found.inflight as u64,
        queued_messages: found.queued as u64,
        queued_bytes: found.queued_bytes,
        waiting_bytes: found.waiting_bytes,
        dropped_messages: found.dropped.into(),
    }
}

pub(super) async fn topics(plane: &DataPlane, query: TopicQuery) -> Option<TopicPage> {
    let TopicCursor(shard, namespace, after) = query.after;
    let from = RetainedCursor { shard, place: RetainedPosition { namespace, after } };
    let filter = RetainedFilter { namespace: query.namespace, filter: query.filter };
    let (found, next) = plane.retained(filter, from, query.limit).await.ok()?;
    let topics = found.into_iter().map(|each| RetainedTopicView {
        namespace: each.namespace.to_string(),
        topic: each.topic,
        qos: each.qos as u8,
        payload_bytes: each.payload_bytes as u64,
        expires_in_s: each.expires_in_ms.map(|ms| ms / 1000),
    });
    let next = next.map(|RetainedCursor { shard, place }| TopicCursor(shard, place.namespace, place.after));
    Some(TopicPage { topics: topics.collect(), next })
}

/// As people call a protocol level.
pub(super) fn protocol(level: u8) -> &'static str {
    match level {
        3 => "3.1",
        4 => "3.1.1",
        _ => "5.0",
    }
}

fn client(endpoint: String, found: FoundClient, now: Timestamp) -> ClientView {
    let row = found.row;
    // At least one second: a rate over less is meaningless.
    let per_s = |count: u64| count as f64 / (row.connected_ms.max(1000) as f64 / 1000.0);
    ClientView {
        client_id: row.client_id,
        endpoint,
        sequence: row.sequence,
        address: row.peer,
        username: row.username,
        protocol: protocol(row.protocol_level),
        transport: match (row.tls, row.websocket) {
            (false, false) => "tcp",
            (true, false) => "tls",
            (false, true) => "ws",
            (true, true) => "wss",
        },
        connected_at: Timestamp::from_unix_ms(now.unix_ms.saturating_sub(row.connected_ms)),
        shard: row.shard,
        detail: found.detail.map(|detail| ClientDetail {
            keep_alive_s: detail.keep_alive_s,
            session_expiry_s: detail.session_expiry_s,
            subscriptions: detail.subscriptions,
            inflight_messages: detail.inflight as u64,
            queued_messages: detail.queued as u64,
            queued_bytes: detail.queued_bytes,
            waiting_bytes: detail.waiting_bytes as u64,
            slow: detail.slow,
            paused: detail.paused,
            dropped_messages: detail.dropped.into(),
            messages_received: detail.messages_received,
            messages_sent: detail.messages_sent,
            messages_received_per_s: per_s(detail.messages_received),
            messages_sent_per_s: per_s(detail.messages_sent),
        }),
    }
}
