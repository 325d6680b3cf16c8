//! One level of the tree of retained topics, for the status.

use weir_mqtt::QoS;

use crate::Core;
use crate::ids::{Millis, SlabIndex as _};
use crate::routing::retained::Retained;
use crate::values::message::Message;

/// Topics that one query looks at: a fraction of a millisecond of the shard's time.
const LOOKS_MAX: usize = 1024;
/// Bytes of topics after which a page ends, with the topic that exceeds them.
const BYTES_MAX: usize = 256 << 10;

/// An entry directly below a prefix: a topic that has a retained message, or a branch with topics below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LevelEntry {
    /// The rest of the topic after the prefix. A branch ends with `/`, so a topic and the branch of the same level are two
    /// entries. Entries are ordered by it, and it is the cursor.
    pub key: String,
    /// `None` for a branch.
    pub value: Option<LevelValue>,
}

/// A retained message of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LevelValue {
    /// The QoS at which it was published.
    pub qos: QoS,
    /// Length of the payload, bytes.
    pub payload_bytes: usize,
    /// The first bytes of the payload.
    pub payload: Vec<u8>,
    /// Milliseconds until it expires; `None`: it does not.
    pub expires_in_ms: Option<Millis>,
}

impl Core {
    /// The entries directly below `prefix` (empty, or it ends with `/`) in a namespace whose key is greater than `after`
    /// (`None`: from the first), at most `limit`, with the first `payload_max` bytes of each payload. Also returns the key to
    /// continue after; `None`: there are no more entries here. The number of entries may be less than `limit` although there
    /// are more.
    pub fn retained_level(
        &self,
        (namespace, prefix, after): (&str, &str, Option<&str>),
        (limit, payload_max): (usize, usize),
        now: Millis,
    ) -> (Vec<LevelEntry>, Option<String>) {
        let namespace = self.routing.find_namespace(namespace);
        let namespace = namespace.and_then(|id| self.routing.namespaces().get(id.index()));
        let Some(namespace) = namespace else { return (Vec::new(), None) };
        read(namespace.retained(), (prefix, after), (limit, payload_max), now)
    }

    /// The retained message of a topic, with its whole payload; `None`: there is none on this shard.
    pub fn retained_value(&self, namespace: &str, topic: &str, now: Millis) -> Option<LevelValue> {
        let namespace = self.routing.find_namespace(namespace)?;
        let retained = self.routing.namespaces().get(namespace.index())?.retained();
        let message = retained.starting_at(topic).next().filter(|message| message.topic() == topic)?;
        (!message.is_expired(now)).then(|| value(message, usize::MAX, now))
    }
}

fn read(
    retained: &Retained,
    (prefix, after): (&str, Option<&str>),
    (limit, payload_max): (usize, usize),
    now: Millis,
) -> (Vec<LevelEntry>, Option<String>) {
    let (mut found, mut bytes) = (Vec::new(), 0);
    let mut key = after.map(str::to_owned);
    for _ in 0..LOOKS_MAX {
        if found.len() == limit || bytes > BYTES_MAX {
            return (found, key);
        }
        let next = match key.as_deref().map(|key| (key, key.strip_suffix('/'))) {
            None => retained.starting_at(prefix).next(),
            // Behind everything below the branch: `0` follows `/`.
            Some((_, Some(level))) => retained.starting_at(&format!("{prefix}{level}0")).next(),
            Some((key, None)) => retained.after(&format!("{prefix}{key}")).next(),
        };
        let Some((message, rest)) = next.and_then(|message| Some((message, message.topic().strip_prefix(prefix)?)))
        else {
            return (found, None);
        };
        let entry = match rest.split_once('/') {
            Some((level, _)) => Some(LevelEntry { key: format!("{level}/"), value: None }),
            None if message.is_expired(now) => None,
            None => Some(LevelEntry { key: rest.to_owned(), value: Some(value(message, payload_max, now)) }),
        };
        key = Some(entry.as_ref().map_or(rest, |entry| &entry.key).to_owned());
        bytes += key.as_ref().map_or(0, String::len);
        found.extend(entry);
    }
    (found, key)
}

fn value(message: &Message, payload_max: usize, now: Millis) -> LevelValue {
    let payload = message.payload();
    LevelValue {
        qos: message.qos,
        payload_bytes: payload.len(),
        payload: payload[..payload.len().min(payload_max)].to_vec(),
        expires_in_ms: (message.expires_at != Millis::MAX).then(|| message.expires_at - now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RecordId;
    use weir_mqtt::{Publish, PublishProperties};

    fn retained(topics: &[&str]) -> Retained {
        let mut retained = Retained::default();
        for topic in topics {
            let publish = Publish {
                dup: false,
                qos: QoS::AtMostOnce,
                retain: true,
                topic,
                packet_id: None,
                properties: PublishProperties::default(),
                payload: topic.as_bytes(),
            };
            // Those that are called so expire at 10.
            let expires_at = if topic.ends_with("old") { 10 } else { Millis::MAX };
            retained.set(&Message::new(topic, &publish, expires_at), RecordId::NONE);
        }
        retained
    }

    /// All keys below a prefix, read in pages of `limit`.
    fn keys(retained: &Retained, prefix: &str, limit: usize) -> Vec<String> {
        let (mut keys, mut after) = (Vec::new(), None);
        loop {
            let (found, next) = read(retained, (prefix, after.as_deref()), (limit, 8), 11);
            assert!(found.len() <= limit && keys.len() < 100, "the pages do not end");
            keys.extend(found.into_iter().map(|entry| entry.key));
            let Some(next) = next else { return keys };
            after = Some(next);
        }
    }

    #[test]
    fn a_level_has_its_topics_and_its_branches_once_whatever_the_page() {
        let topics =
            ["/", "/x", "a", "a-", "a-/z", "a/", "a//b", "a/b", "a/b/c/d", "a/b/e", "a/old", "a0", "$SYS/up", "b/c"];
        let retained = retained(&topics);
        for limit in [1, 2, 3, 100] {
            assert_eq!(keys(&retained, "", limit), ["$SYS/", "/", "a", "a-", "a-/", "a/", "a0", "b/"]);
            assert_eq!(keys(&retained, "a/", limit), ["", "/", "b", "b/"], "the expired one is not shown");
            assert_eq!(keys(&retained, "a/b/", limit), ["c/", "e"]);
            assert_eq!(keys(&retained, "/", limit), ["", "x"]);
            assert_eq!(keys(&retained, "nothing/", limit), [""; 0]);
        }
    }

    #[test]
    fn a_value_has_the_first_bytes_of_its_payload() {
        let (found, next) = read(&retained(&["plant/temperature"]), ("plant/", None), (10, 5), 0);
        let value = found[0].value.as_ref().unwrap();
        assert_eq!((&*value.payload, value.payload_bytes, value.expires_in_ms, next), (&b"plant"[..], 17, None, None));
    }

    #[test]
    fn a_page_is_bounded_in_bytes() {
        let long = "x".repeat(60_000);
        let topics: Vec<String> = (10..30).map(|n| format!("{n}{long}")).collect();
        let retained = retained(&topics.iter().map(String::as_str).collect::<Vec<_>>());
        let (found, next) = read(&retained, ("", None), (100, 1), 0);
        assert!(found.len() < 10 && next.is_some(), "{}", found.len());
        assert_eq!(keys(&retained, "", 100), topics);
    }
}
