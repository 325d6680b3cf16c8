//! `/api/topics`: retained messages by filter, with their sizes; `topic_tree` shows payloads.

use serde_json::json;

use super::http::{Problem, Reply};
use super::query::Query;
use super::router::App;
use super::{TopicCursor, TopicQuery};

/// Topics a page: without `limit`, and at most.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;

/// Parameters of `GET /api/topics`.
pub(super) const PARAMETERS: &[&str] = &["filter", "namespace", "after", "limit"];

/// `GET /api/topics?filter=&namespace=&after=&limit=`: by topic, for each shard; `next` is the `after` of the next page. A page may
/// be empty and still not the last.
pub(super) async fn list(app: &App, query: &Query) -> Reply {
    let filter = query.get("filter").map(str::to_owned);
    if let Some(filter) = &filter {
        weir_mqtt::validate_topic_filter(filter)
            .map_err(|error| Problem::bad_request(format!("filter {filter:?}: {error}")))?;
    }
    let wanted = TopicQuery {
        namespace: query.get("namespace").map(str::to_owned),
        filter,
        after: query.get("after").map(cursor).transpose()?.unwrap_or_default(),
        limit: query.limit(PAGE_DEFAULT, PAGE_MAX)?,
    };
    let page = app.ask_shards(app.view.topics(wanted)).await?;
    let next = page.next.map(|TopicCursor(shard, namespace, topic)| format!("{shard}.{namespace}.{topic}"));
    Ok(json!({"topics": page.topics, "next": next}))
}

fn cursor(text: &str) -> Result<TopicCursor, Problem> {
    let mut parts = text.splitn(3, '.');
    let mut number = |digits_max| {
        let part = parts.next()?;
        let digits = part.len() <= digits_max && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u32>().ok()).flatten()
    };
    let numbers = (|| Some((u16::try_from(number(4)?).ok()?, number(9)?)))();
    numbers
        .zip(parts.next())
        .map(|((shard, namespace), topic)| TopicCursor(shard, namespace, topic.to_owned()))
        .ok_or_else(|| Problem::bad_request(format!("after {text:?} is no `next` of an earlier page")))
}
