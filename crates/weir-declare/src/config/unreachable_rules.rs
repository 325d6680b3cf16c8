//! Finds ACL rules that never decide, because an earlier rule matches everything that they match.

use super::{Acl, AclAction, AclRule, Glob, TopicPattern};

/// Pairs of indexes as written: an unreachable rule, and the first rule of higher precedence that covers it.
pub(super) fn unreachable_rules(acl: &Acl) -> Vec<(usize, usize)> {
    let rules = acl.by_precedence();
    let mut pairs = Vec::new();
    for (at, &(later, rule)) in rules.iter().enumerate() {
        let before = rules.iter().take(at);
        if let Some(&(earlier, _)) = before.clone().find(|(_, earlier)| covers(earlier, rule)) {
            pairs.push((later, earlier));
        }
    }
    pairs.sort_unstable();
    pairs
}

/// Whether `a` matches everything that `b` matches. May be `false` in cases that are hard to decide.
fn covers(a: &AclRule, b: &AclRule) -> bool {
    (a.action == AclAction::All || a.action == b.action)
        && any_or(a.username.as_ref(), b.username.as_ref(), |a, b| a == b)
        && any_or(a.retain.as_ref(), b.retain.as_ref(), |a, b| a == b)
        && any_or(a.qos.as_ref(), b.qos.as_ref(), |a, b| b.iter().all(|qos| a.contains(qos)))
        && any_or(a.ipaddr.as_ref(), b.ipaddr.as_ref(), |a, b| a.covers(b))
        && any_or(a.client_id.as_ref(), b.client_id.as_ref(), glob_covers)
        && any_or(a.topics.as_ref(), b.topics.as_ref(), |a, b| {
            b.iter().all(|inner| a.iter().any(|outer| pattern_covers(outer, inner)))
        })
}

/// An absent condition covers every condition, and only an absent one covers it.
fn any_or<T: ?Sized>(a: Option<&T>, b: Option<&T>, covers: impl FnOnce(&T, &T) -> bool) -> bool {
    match (a, b) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(a), Some(b)) => covers(a, b),
    }
}

fn glob_covers(a: &Glob, b: &Glob) -> bool {
    a == b || &*a.0 == "*" || (!b.0.contains(['*', '?']) && a.matches(&b.0))
}

fn pattern_covers(a: &TopicPattern, b: &TopicPattern) -> bool {
    match (a, b) {
        (TopicPattern::Eq(a), TopicPattern::Eq(b)) => a == b,
        // A rule with a wider filter applies to a literal filter, too.
        (TopicPattern::Filter(a), TopicPattern::Eq(b) | TopicPattern::Filter(b)) => filter_covers(a, b),
        (TopicPattern::Eq(_), TopicPattern::Filter(_)) => false,
    }
}

/// Whether filter `a` matches every topic that filter `b` matches. A placeholder matches only itself.
pub fn filter_covers(a: &str, b: &str) -> bool {
    // Wildcards in the first level do not match topics that begin with `$` [MQTT-4.7.2-1].
    if b.starts_with('$') && a.starts_with(['+', '#']) {
        return false;
    }
    let (mut a, mut b) = (a.split('/'), b.split('/'));
    loop {
        match (a.next(), b.next()) {
            (Some("#"), _) | (None, None) => return true,
            // The value of a placeholder is unknown, and may contain a `/`.
            (Some("+"), Some(level)) if level != "#" && !level.contains("${") => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_covers_narrower_filters_only() {
        let cases = [
            ("#", "a/b", true),
            ("#", "#", true),
            ("#", "$SYS/#", false),
            ("+/b", "$a/b", false),
            ("$SYS/#", "$SYS/a/+", true),
            ("a/#", "a", true),
            ("a/#", "a/+/c", true),
            ("a/+", "a/#", false),
            ("a/+", "a/b", true),
            ("a/b", "a/+", false),
            ("a/+/c", "a/+/c", true),
            ("a/+", "a", false),
            ("a", "a/#", false),
            ("a/${clientid}", "a/${clientid}", true),
            ("a/+", "a/${clientid}", false),
        ];
        for (a, b, expected) in cases {
            assert_eq!(filter_covers(a, b), expected, "{a} covers {b}");
        }
    }
}
