//! Patterns in rules: globs for client ids, and topic filters with placeholders.

use std::fmt;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use weir_mqtt::{TopicError, validate_topic_filter, validate_topic_name};

/// A glob: `*` matches any characters, `?` matches one, every other character matches itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Glob(pub Arc<str>);

impl Glob {
    /// Whether the glob matches the whole of `text`. Time is bounded by the product of the lengths; allocates nothing.
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut p, mut t) = (0, 0);
        // The position of the last `*`, and the end of the text that it matched.
        let mut star: Option<(usize, usize)> = None;
        while t < text.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p, t));
                    p += 1;
                }
                Some(b'?') => {
                    p += 1;
                    t += char_len(text, t);
                }
                Some(byte) if Some(byte) == text.get(t) => {
                    p += 1;
                    t += 1;
                }
                _ => {
                    let Some((at, taken)) = star else { return false };
                    t = taken + char_len(text, taken);
                    star = Some((at, t));
                    p = at + 1;
                }
            }
        }
        pattern.get(p..).is_some_and(|rest| rest.iter().all(|&byte| byte == b'*'))
    }
}

/// Length in bytes of the character at `at`.
fn char_len(text: &[u8], at: usize) -> usize {
    match text.get(at) {
        Some(0xF0..) => 4,
        Some(0xE0..) => 3,
        Some(0xC0..) => 2,
        _ => 1,
    }
}

/// The topic condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TopicPattern {
    /// A filter. `${clientid}` and `${username}` are replaced by those of the client.
    Filter(Arc<str>),
    /// `{eq: "#"}`: matches the filter itself in a SUBSCRIBE, not the topics that it matches.
    Eq(Arc<str>),
}

impl TopicPattern {
    /// The filter as written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Filter(filter) | Self::Eq(filter) => filter,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EqForm {
    eq: Arc<str>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PatternForm {
    Plain(Arc<str>),
    Eq(EqForm),
}

impl Serialize for TopicPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Filter(filter) => serializer.serialize_str(filter),
            Self::Eq(filter) => EqForm { eq: Arc::clone(filter) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for TopicPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (filter, pattern): (_, fn(Arc<str>) -> Self) = match PatternForm::deserialize(deserializer)? {
            PatternForm::Plain(filter) => (filter, Self::Filter),
            PatternForm::Eq(EqForm { eq }) => (eq, Self::Eq),
        };
        check_filter(&filter).map_err(D::Error::custom)?;
        Ok(pattern(filter))
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(filter) => f.write_str(filter),
            Self::Eq(filter) => write!(f, "{{eq: {filter}}}"),
        }
    }
}

/// Why a text is not a topic filter or not a topic name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {reason}")]
pub struct InvalidTopic {
    /// The text.
    pub text: String,
    /// What is wrong.
    pub reason: TopicError,
}

/// Checks that `filter` is a topic filter.
///
/// # Errors
/// It is not.
pub fn check_filter(filter: &str) -> Result<(), InvalidTopic> {
    validate_topic_filter(filter).map_err(|reason| InvalidTopic { text: filter.to_owned(), reason })
}

/// The placeholders of rules.
const PLACEHOLDERS: [&str; 2] = ["${clientid}", "${username}"];

/// A level of `filter` in which two placeholders touch: clients could choose values that join to another client's.
pub(crate) fn touching_placeholders(filter: &str) -> Option<&str> {
    let touches = |level: &&str| {
        PLACEHOLDERS.iter().any(|first| PLACEHOLDERS.iter().any(|second| level.contains(&format!("{first}{second}"))))
    };
    filter.split('/').find(touches)
}

/// Checks that `topic` is a topic name, or the prefix of one.
///
/// # Errors
/// It is not.
pub fn check_topic(topic: &str) -> Result<(), InvalidTopic> {
    validate_topic_name(topic).map_err(|reason| InvalidTopic { text: topic.to_owned(), reason })
}
