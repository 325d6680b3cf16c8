//! Topic names and topic filters: what is legal, and what matches what. Chapter 4.7 and 4.8.2.

/// Bytes of the longest topic name or filter [MQTT-4.7.3-3].
pub const MAX_TOPIC_BYTES: usize = 65_535;

/// What starts a shared subscription's filter.
pub const SHARE_PREFIX: &str = "$share/";

/// Why a string is no topic name or no topic filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicError {
    /// It is empty.
    Empty,
    /// It has more than 65,535 bytes.
    TooLong,
    /// It has U+0000.
    Null,
    /// A topic name has a wildcard.
    WildcardInName,
    /// `#` is not the last level, or not alone in it.
    MultiLevelWildcard,
    /// `+` is not alone in its level.
    SingleLevelWildcard,
    /// The share name is empty.
    ShareNameEmpty,
    /// The share name has a wildcard.
    ShareNameWildcard,
    /// No filter follows the share name.
    ShareFilterMissing,
}

impl std::error::Error for TopicError {}

impl std::fmt::Display for TopicError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "is empty [MQTT-4.7.3-1]",
            Self::TooLong => "is longer than 65,535 bytes [MQTT-4.7.3-3]",
            Self::Null => "contains U+0000 [MQTT-4.7.3-2]",
            Self::WildcardInName => "is a topic name with a wildcard in it [MQTT-4.7.1-1]",
            Self::MultiLevelWildcard => "has a # that is not the last level on its own [MQTT-4.7.1-1]",
            Self::SingleLevelWildcard => "has a + that is not a whole level [MQTT-4.7.1-2]",
            Self::ShareNameEmpty => "is a shared subscription without a share name [MQTT-4.8.2-1]",
            Self::ShareNameWildcard => "is a shared subscription with a wildcard in its share name [MQTT-4.8.2-2]",
            Self::ShareFilterMissing => "is a shared subscription without a topic filter [MQTT-4.8.2-2]",
        })
    }
}

/// Whether `name` can be published to: not empty, at most 65,535 bytes, neither U+0000 nor a wildcard in it.
pub fn validate_topic_name(name: &str) -> Result<(), TopicError> {
    validate_length(name)?;
    match name.bytes().find(|byte| matches!(byte, 0 | b'+' | b'#')) {
        None => Ok(()),
        Some(0) => Err(TopicError::Null),
        Some(_) => Err(TopicError::WildcardInName),
    }
}

/// Whether `filter` can be subscribed to. A shared subscription's filter is judged by [`SharedFilter::parse`] instead,
/// which looks behind the share name.
pub fn validate_topic_filter(filter: &str) -> Result<(), TopicError> {
    validate_length(filter)?;
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(TopicError::MultiLevelWildcard);
        }
        if level.contains('+') && level != "+" {
            return Err(TopicError::SingleLevelWildcard);
        }
        if level.contains('\0') {
            return Err(TopicError::Null);
        }
    }
    Ok(())
}

fn validate_length(topic: &str) -> Result<(), TopicError> {
    match topic.len() {
        0 => Err(TopicError::Empty),
        1..=MAX_TOPIC_BYTES => Ok(()),
        _ => Err(TopicError::TooLong),
    }
}

/// A shared subscription, `$share/{group}/{filter}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SharedFilter<'a> {
    /// The share name.
    pub group: &'a str,
    /// What is matched against topic names.
    pub filter: &'a str,
}

impl<'a> SharedFilter<'a> {
    /// Takes a SUBSCRIBE's or UNSUBSCRIBE's filter apart and validates it whole: `None` is an ordinary, valid filter.
    ///
    /// Only what starts with `$share/` is shared [MQTT-4.8.2-1]; `$share` alone and `$shared/x` are ordinary.
    pub fn parse(filter: &'a str) -> Result<Option<SharedFilter<'a>>, TopicError> {
        let Some(rest) = filter.strip_prefix(SHARE_PREFIX) else {
            return validate_topic_filter(filter).map(|()| None);
        };
        validate_length(filter)?;
        let (group, filter) = rest.split_once('/').unwrap_or((rest, ""));
        if group.is_empty() {
            return Err(TopicError::ShareNameEmpty);
        }
        if group.contains(['+', '#']) {
            return Err(TopicError::ShareNameWildcard);
        }
        if group.contains('\0') {
            return Err(TopicError::Null);
        }
        if filter.is_empty() {
            return Err(TopicError::ShareFilterMissing);
        }
        validate_topic_filter(filter)?;
        Ok(Some(SharedFilter { group, filter }))
    }
}

/// Levels of a topic name or filter: one more than it has separators.
pub fn levels(topic: &str) -> usize {
    1 + topic.bytes().filter(|&byte| byte == b'/').count()
}

/// Whether the valid `filter` (not a shared one) matches the valid topic name `topic`.
///
/// A wildcard at the first level does not match a topic that starts with `$` [MQTT-4.7.2-1].
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        // `a/#` matches `a` too: the parent level
        if wanted == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if wanted == "+" || wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}
