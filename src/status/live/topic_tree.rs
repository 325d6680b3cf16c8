//! One level of the retained topics of the data plane's shards.

use crate::net::{DataPlane, LevelFilter};
use crate::status::{TopicLevelPage, TopicLevelQuery, TopicLevelView, TopicValueView};

/// `None`: the data plane does not answer.
pub(super) async fn level(plane: &DataPlane, query: TopicLevelQuery) -> Option<TopicLevelPage> {
    let filter = LevelFilter {
        namespace: query.namespace,
        prefix: query.prefix,
        after: query.after,
        limit: query.limit,
        payload_max: query.payload_max,
    };
    let (entries, next) = plane.retained_level(filter).await.ok()?;
    let entries = entries.into_iter().map(|entry| TopicLevelView {
        key: entry.key,
        value: entry.value.map(|value| TopicValueView {
            qos: value.qos as u8,
            payload_bytes: value.payload_bytes as u64,
            payload: value.payload,
            expires_in_s: value.expires_in_ms.map(|ms| ms / 1000),
        }),
    });
    Some(TopicLevelPage { entries: entries.collect(), next })
}
