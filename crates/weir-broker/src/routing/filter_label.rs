//! Labels of the filter tree: one level of a filter, or several (`sensor/+/temp`), compared level by level.

/// The comparison of a label with what is left of a topic.
pub(super) enum LabelMatch {
    No,
    /// It matches; what is left begins here.
    Rest(usize),
    /// It ends with `#`.
    All,
}

/// The end of the level that begins at `at`.
#[inline]
pub(super) fn level_end(text: &str, at: usize) -> usize {
    text.as_bytes()[at..].iter().position(|&byte| byte == b'/').map_or(text.len(), |end| at + end)
}

#[inline]
pub(super) fn first_level(label: &str) -> &str {
    &label[..level_end(label, 0)]
}

#[inline]
pub(super) fn begins_with_level(label: &str, level: &str) -> bool {
    let label = label.as_bytes();
    label.starts_with(level.as_bytes()) && label.get(level.len()).is_none_or(|&byte| byte == b'/')
}

/// Bytes of the levels that both begin with.
pub(super) fn common_levels(one: &str, other: &str) -> usize {
    let mut common = 0;
    for (a, b) in one.split('/').zip(other.split('/')) {
        if a != b {
            break;
        }
        common += a.len() + 1;
    }
    common.saturating_sub(1)
}

pub(super) fn compare(label: &str, topic: &str, mut at: usize, work: &mut usize) -> LabelMatch {
    let (levels, name) = (label.as_bytes(), topic.as_bytes());
    let mut next = 0;
    loop {
        *work += 1;
        // In a valid filter a wildcard is the whole level [MQTT-4.7.1-1] [MQTT-4.7.1-2].
        match levels.get(next) {
            Some(b'#') => return LabelMatch::All,
            _ if at > name.len() => return LabelMatch::No,
            Some(b'+') => {
                next += 1;
                at = level_end(topic, at);
            }
            _ => {
                let end = level_end(label, next);
                let level = &levels[next..end];
                let is_same = name[at..].starts_with(level) && name.get(at + level.len()).is_none_or(|&b| b == b'/');
                if !is_same {
                    return LabelMatch::No;
                }
                (next, at) = (end, at + level.len());
            }
        }
        at += 1;
        if next >= levels.len() {
            return LabelMatch::Rest(at);
        }
        next += 1;
    }
}
