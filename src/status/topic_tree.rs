//! `/api/topics/tree`: one level of the tree of retained topics, with the last values.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::StatusCode;
use serde_json::{Map, Value, json};

use super::counters::Refused;
use super::http::{Problem, Reply};
use super::query::Query;
use super::router::App;

/// Entries of a page: without `limit`, and at most.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 200;
/// Bytes of a payload that are shown.
const PAYLOAD_SHOWN_BYTES: usize = 512;
/// Levels that are read from the shards at a time. Further requests wait for a quarter of the time-out of requests.
pub(super) const READS_MAX: usize = 4;

/// Parameters of `GET /api/topics/tree`.
pub(super) const PARAMETERS: &[&str] = &["namespace", "below", "after", "limit"];

/// The part of a level to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicLevelQuery {
    /// A `mountpoint`; empty: the shared one.
    pub namespace: String,
    /// Empty, or it ends with `/`.
    pub prefix: String,
    /// Only entries with a greater key; `None`: from the first.
    pub after: Option<String>,
    pub limit: usize,
    /// Bytes of a payload to return.
    pub payload_max: usize,
}

/// Some entries of a level.
#[derive(Debug, Clone, Default)]
pub struct TopicLevelPage {
    /// By key.
    pub entries: Vec<TopicLevelView>,
    /// The key that the next page begins after; `None`: this was the last.
    pub next: Option<String>,
}

/// A topic with a retained message, or a branch.
#[derive(Debug, Clone, Default)]
pub struct TopicLevelView {
    /// The rest of the topic after the prefix; of a branch it ends with `/`.
    pub key: String,
    /// `None` for a branch.
    pub value: Option<TopicValueView>,
}

/// The last value of a topic.
#[derive(Debug, Clone, Default)]
pub struct TopicValueView {
    pub qos: u8,
    pub payload_bytes: u64,
    /// The first bytes.
    pub payload: Vec<u8>,
    /// `None`: it does not expire.
    pub expires_in_s: Option<u64>,
}

/// `GET /api/topics/tree?namespace=&below=&after=&limit=`: what is directly below a topic; without `below`, the first
/// levels. `next` is the `after` of the next page. A page may be empty and still not the last.
pub(super) async fn list(app: &App, query: &Query) -> Reply {
    let below = query.get("below");
    if let Some(wrong) = below.filter(|below| below.contains(['+', '#', '\0'])) {
        let message = format!("below {wrong:?} is not a topic; a topic has no wildcards: ?below=plant/line-1");
        return Err(Problem::bad_request(message));
    }
    let prefix = below.map(|below| format!("{below}/")).unwrap_or_default();
    let wanted = TopicLevelQuery {
        namespace: query.get("namespace").unwrap_or_default().to_owned(),
        prefix: prefix.clone(),
        after: query.get("after").map(str::to_owned),
        limit: query.limit(PAGE_DEFAULT, PAGE_MAX)?,
        payload_max: PAYLOAD_SHOWN_BYTES,
    };
    let reading = tokio::time::timeout(app.options.request_timeout / 4, app.topic_reads.acquire()).await;
    let Ok(Ok(_reading)) = reading else {
        app.counters.count(Refused::TopicReads);
        let message = format!("{READS_MAX} levels of topics are being read, the maximum; try again");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, message));
    };
    let page = app.ask_shards(app.view.topic_level(wanted)).await?;
    let entries: Vec<Value> = page.entries.iter().map(|entry| entry_json(&prefix, entry)).collect();
    Ok(json!({"entries": entries, "next": page.next}))
}

fn entry_json(prefix: &str, entry: &TopicLevelView) -> Value {
    let level = entry.key.strip_suffix('/').unwrap_or(&entry.key);
    let topic = format!("{prefix}{level}");
    match &entry.value {
        None => json!({"level": level, "topic": topic, "branch": true, "value": null}),
        Some(value) => json!({"level": level, "topic": topic, "branch": false, "value": value_json(value)}),
    }
}

fn value_json(value: &TopicValueView) -> Value {
    let mut fields = Map::new();
    let is_cut = value.payload_bytes > value.payload.len() as u64;
    match text(&value.payload, is_cut) {
        Some(text) => fields.insert("payload".to_owned(), json!(text)),
        None => fields.insert("payloadBase64".to_owned(), json!(BASE64_STANDARD.encode(&value.payload))),
    };
    fields.insert("payloadBytes".to_owned(), json!(value.payload_bytes));
    fields.insert("qos".to_owned(), json!(value.qos));
    fields.insert("expiresInS".to_owned(), json!(value.expires_in_s));
    Value::Object(fields)
}

/// The payload as text; the cut may have divided its last character. `None`: it is not UTF-8.
fn text(payload: &[u8], is_cut: bool) -> Option<&str> {
    match std::str::from_utf8(payload) {
        Ok(text) => Some(text),
        Err(error) if is_cut && error.error_len().is_none() => {
            std::str::from_utf8(payload.get(..error.valid_up_to())?).ok()
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_text_where_it_is_utf_8_and_a_divided_last_character_is_left_out() {
        assert_eq!(text("21 °C".as_bytes(), false), Some("21 °C"));
        assert_eq!(text(b"21 \xc2", true), Some("21 "));
        assert_eq!(text(b"21 \xc2", false), None);
        assert_eq!(text(b"\xff\xfe", true), None);
    }
}
