//! `/api/topics`: retained messages. Topics and sizes only; payloads are never shown.

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

/// `GET /api/topics?filter=&namespace=&after=&limit=`: in no order; `next` is the `after` of the next page. A page may
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
    let next = page.next.map(|TopicCursor(shard, namespace, place)| format!("{shard}.{namespace}.{place}"));
    Ok(json!({"topics": page.topics, "next": next}))
}

fn cursor(text: &str) -> Result<TopicCursor, Problem> {
    let mut parts = text.split('.');
    let mut part = |digits_max| {
        let part = parts.next()?;
        let digits = part.len() <= digits_max && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u32>().ok()).flatten()
    };
    let parsed = (|| Some(TopicCursor(u16::try_from(part(4)?).ok()?, part(9)?, part(9)?)))();
    parsed
        .filter(|_| parts.next().is_none())
        .ok_or_else(|| Problem::bad_request(format!("after {text:?} is no `next` of an earlier page")))
}
