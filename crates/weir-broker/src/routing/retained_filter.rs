//! A topic filter over topics in byte order: where the next topic that may match is.
//!
//! The topics below `a/b` are one range, from `a/b/` to before `a/b0`: `0` follows `/`. So a read skips the topics below
//! a level that does not match, and with a wildcard it costs no more than a few looks for each value of that level.

/// The next step of a read after it visited a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The filter matches the topic.
    Matches,
    /// Look at the next topic.
    Next,
    /// No topic before this one matches. It is greater than the topic looked at.
    Seek(String),
    /// No later topic matches.
    End,
}

/// Compares a valid `filter` that has a wildcard with a `topic`.
pub(crate) fn step(filter: &str, topic: &str) -> Step {
    // The start of the level looked at; behind the topic's end when its levels are used up.
    let mut at = 0;
    // The end of the last level that `+` matched: what follows it is another value of that level.
    let mut wildcard_end = None;
    for (index, level) in filter.split('/').enumerate() {
        if index == 0 && matches!(level, "+" | "#") && topic.starts_with('$') {
            // [MQTT-4.7.2-1]; `%` follows `$`.
            return Step::Seek("%".to_owned());
        }
        if level == "#" {
            return Step::Matches;
        }
        if at > topic.len() {
            return Step::Next;
        }
        let end = topic[at..].find('/').map_or(topic.len(), |end| at + end);
        if level == "+" {
            wildcard_end = Some(end);
        } else if topic[at..end] != *level {
            return seek(topic, at, level, wildcard_end);
        }
        at = end + 1;
    }
    // The filter's levels are used up: it matches the topic itself, and nothing below it.
    if at > topic.len() { Step::Matches } else { Step::Seek(behind(&topic[..at - 1])) }
}

/// The topic's level at `at` is not the filter's: `level` may follow, else the last wildcard takes its next value.
fn seek(topic: &str, at: usize, level: &str, wildcard_end: Option<usize>) -> Step {
    let mut wanted = [&topic[..at], level].concat();
    if *wanted > *topic {
        return Step::Seek(wanted);
    }
    // `a-` sorts between `a` and `a/`.
    wanted.push('/');
    if *wanted > *topic {
        return Step::Seek(wanted);
    }
    wildcard_end.map_or(Step::End, |end| Step::Seek(behind(&topic[..end])))
}

/// The first text behind all topics below `prefix`.
fn behind(prefix: &str) -> String {
    format!("{prefix}0")
}
