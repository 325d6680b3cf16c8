//! What is carried, and what it is called on the other side.

use weir_mqtt::{MAX_TOPIC_BYTES, QoS, SHARE_PREFIX, matches};

/// One rule, of either direction. A topic that `filter` matches is carried: `strip` is taken off its beginning, then
/// `add` is put in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// A topic filter, of the side that the messages come from; never a shared one.
    pub filter: Box<str>,
    /// Empty: nothing is taken off.
    pub strip: Box<str>,
    /// Empty: nothing is put in front.
    pub add: Box<str>,
    /// The highest QoS.
    pub qos: QoS,
    /// Whether the retain flag is carried.
    pub retain: bool,
    /// The shared subscription that messages are taken from.
    pub share: Option<Box<str>>,
}

impl Rule {
    /// Whether the rule is about a topic.
    pub(super) fn is_about(&self, topic: &str) -> bool {
        matches(&self.filter, topic)
    }

    /// Writes what `topic` is called on the other side. `false`: there it would be no topic name.
    pub(super) fn rename(&self, topic: &str, into: &mut String) -> bool {
        let Some(rest) = topic.strip_prefix(&*self.strip) else { return false };
        into.clear();
        into.push_str(&self.add);
        into.push_str(rest);
        (1..=MAX_TOPIC_BYTES).contains(&into.len())
    }

    /// The filter to subscribe with.
    pub(super) fn subscription(&self) -> Box<str> {
        match &self.share {
            Some(group) => format!("{SHARE_PREFIX}{group}/{}", self.filter).into(),
            None => self.filter.clone(),
        }
    }
}

/// The first rule that is about a topic.
pub(super) fn find<'a>(rules: &'a [Rule], topic: &str) -> Option<&'a Rule> {
    rules.iter().find(|rule| rule.is_about(topic))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(filter: &str, strip: &str, add: &str) -> Rule {
        Rule {
            filter: filter.into(),
            strip: strip.into(),
            add: add.into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            share: None,
        }
    }

    #[test]
    fn topics_are_renamed() {
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
    fn the_first_rule_that_is_about_a_topic_holds() {
        let rules = [rule("a/b", "", "1/"), rule("a/#", "", "2/"), rule("#", "", "3/")];
        let add = |topic| find(&rules, topic).map(|rule| &*rule.add);
        assert_eq!([add("a/b"), add("a/c"), add("x"), add("$SYS/x")], [Some("1/"), Some("2/"), Some("3/"), None]);
    }

    #[test]
    fn a_shared_rule_subscribes_as_a_member() {
        let shared = Rule { share: Some("both".into()), ..rule("a/#", "", "") };
        assert_eq!(&*shared.subscription(), "$share/both/a/#");
        assert!(shared.is_about("a/b"));
    }

    proptest! {
        /// The rule of the way back has the prefixes changed about: it gives every topic its name back.
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
