//! Rules: which topics are bridged, and their names on the other side.

use weir_mqtt::{MAX_TOPIC_BYTES, QoS, SHARE_PREFIX, matches};

/// One rule, of either direction. A topic that `filter` matches is bridged: `strip` is removed from its beginning, then
/// `add` is prepended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRule {
    /// A topic filter on the sending side; never a shared one.
    pub filter: Box<str>,
    /// Prefix to remove; empty: none.
    pub strip: Box<str>,
    /// Prefix to add; empty: none.
    pub add: Box<str>,
    /// The maximum QoS.
    pub qos: QoS,
    /// Whether the retain flag is forwarded.
    pub retain: bool,
    /// The group of the shared subscription, if it is one.
    pub share: Option<Box<str>>,
}

impl TopicRule {
    /// Whether the rule matches a topic.
    pub(super) fn matches_topic(&self, topic: &str) -> bool {
        matches(&self.filter, topic)
    }

    /// Writes the name of `topic` on the other side. `false`: the name would not be valid.
    pub(super) fn rename(&self, topic: &str, into: &mut String) -> bool {
        let Some(rest) = topic.strip_prefix(&*self.strip) else { return false };
        into.clear();
        into.push_str(&self.add);
        into.push_str(rest);
        (1..=MAX_TOPIC_BYTES).contains(&into.len())
    }

    /// The filter of the subscription.
    pub(super) fn subscription(&self) -> Box<str> {
        match &self.share {
            Some(group) => format!("{SHARE_PREFIX}{group}/{}", self.filter).into(),
            None => self.filter.clone(),
        }
    }
}

/// The first rule that matches a topic.
pub(super) fn find<'a>(rules: &'a [TopicRule], topic: &str) -> Option<&'a TopicRule> {
    rules.iter().find(|rule| rule.matches_topic(topic))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(filter: &str, strip: &str, add: &str) -> TopicRule {
        TopicRule {
            filter: filter.into(),
            strip: strip.into(),
            add: add.into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            share: None,
        }
    }

    #[test]
    fn prefixes_are_stripped_and_added() {
        let cases = [
            ("sensor/#", "", "site1/", "sensor/1/temp", Some("site1/sensor/1/temp")),
            ("cmd/site1/#", "cmd/site1/", "cmd/", "cmd/site1/reset", Some("cmd/reset")),
            ("a/+", "a/", "", "a/b", Some("b")),
            ("a/#", "a/", "", "a/", None),
            ("a/#", "a/", "", "a", None),
            ("a/#", "a", "b", "a", Some("b")),
            ("#", "", "x/", "/", Some("x//")),
        ];
        for (filter, strip, add, topic, expected) in cases {
            let mut renamed = String::from("what was there");
            let carried = rule(filter, strip, add).rename(topic, &mut renamed);
            assert_eq!(carried.then_some(renamed.as_str()), expected, "{filter} {topic}");
        }
        let mut renamed = String::new();
        assert!(!rule("#", "", "xx").rename(&"y".repeat(MAX_TOPIC_BYTES - 1), &mut renamed), "too long");
    }

    #[test]
    fn the_first_rule_that_matches_a_topic_applies() {
        let rules = [rule("a/b", "", "1/"), rule("a/#", "", "2/"), rule("#", "", "3/")];
        let add = |topic| find(&rules, topic).map(|rule| &*rule.add);
        assert_eq!([add("a/b"), add("a/c"), add("x"), add("$SYS/x")], [Some("1/"), Some("2/"), Some("3/"), None]);
    }

    #[test]
    fn a_shared_rule_uses_a_shared_subscription() {
        let shared = TopicRule { share: Some("both".into()), ..rule("a/#", "", "") };
        assert_eq!(&*shared.subscription(), "$share/both/a/#");
        assert!(shared.matches_topic("a/b"));
    }

    proptest! {
        /// The rule with swapped prefixes restores every topic name.
        #[test]
        fn renaming_is_reversible(strip in "[a-c/]{0,3}", add in "[a-c/]{0,3}", rest in "[a-c/]{0,5}") {
            let topic = format!("{strip}{rest}");
            let (mut there, mut back) = (String::new(), String::new());
            if rule("#", &strip, &add).rename(&topic, &mut there) {
                let reverse = rule("#", &add, &strip).rename(&there, &mut back);
                prop_assert!(reverse || topic.is_empty());
                prop_assert_eq!(back, topic);
            }
        }
    }
}
