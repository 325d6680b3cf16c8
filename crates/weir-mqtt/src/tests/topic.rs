//! Topic names, topic filters, shared subscriptions, matching. Chapters 4.7 and 4.8.2.

use super::super::TopicError::{self, *};
use super::super::{SharedFilter, levels, matches, validate_topic_filter, validate_topic_name};

#[test]
fn a_topic_name_has_no_wildcard() {
    let cases: &[(&str, Result<(), TopicError>)] = &[
        ("a", Ok(())),
        ("/", Ok(())),
        ("a//b/", Ok(())),
        ("a b", Ok(())),
        ("$SYS/x", Ok(())),
        ("\u{FEFF}", Ok(())),
        ("", Err(Empty)),
        ("+", Err(WildcardInName)),
        ("a/#", Err(WildcardInName)),
        ("a+b", Err(WildcardInName)),
        ("a\0", Err(Null)),
    ];
    for (name, wanted) in cases {
        assert_eq!(validate_topic_name(name), *wanted, "{name:?}");
    }
    assert_eq!(validate_topic_name(&"n".repeat(65_535)), Ok(()));
    assert_eq!(validate_topic_name(&"n".repeat(65_536)), Err(TooLong));
}

#[test]
fn a_wildcard_takes_a_whole_level() {
    let cases: &[(&str, Result<(), TopicError>)] = &[
        ("a", Ok(())),
        ("#", Ok(())),
        ("+", Ok(())),
        ("+/+", Ok(())),
        ("/+", Ok(())),
        ("+/#", Ok(())),
        ("/#", Ok(())),
        ("sport/+/player1", Ok(())),
        ("sport/tennis/#", Ok(())),
        ("$SYS/#", Ok(())),
        ("é/#", Ok(())),
        ("", Err(Empty)),
        ("sport/tennis#", Err(MultiLevelWildcard)),
        ("sport/tennis/#/ranking", Err(MultiLevelWildcard)),
        ("#/", Err(MultiLevelWildcard)),
        ("##", Err(MultiLevelWildcard)),
        ("sport+", Err(SingleLevelWildcard)),
        ("a/b+/c", Err(SingleLevelWildcard)),
        ("++", Err(SingleLevelWildcard)),
        ("a/\0", Err(Null)),
    ];
    for (filter, wanted) in cases {
        assert_eq!(validate_topic_filter(filter), *wanted, "{filter:?}");
    }
    assert_eq!(validate_topic_filter(&"/".repeat(65_535)), Ok(()));
    assert_eq!(validate_topic_filter(&"/".repeat(65_536)), Err(TooLong));
}

#[test]
fn a_shared_filter_has_a_name_and_a_filter() {
    let shared = |group, filter| Ok(Some(SharedFilter { group, filter }));
    let cases: &[(&str, Result<Option<SharedFilter<'_>>, TopicError>)] = &[
        ("$share/g/a", shared("g", "a")),
        ("$share/g/#", shared("g", "#")),
        ("$share/g//finance", shared("g", "/finance")),
        ("$share/g//", shared("g", "/")),
        ("$share/g/$SYS/#", shared("g", "$SYS/#")),
        ("$share/é/+/b", shared("é", "+/b")),
        ("$share/g/$share/h/a", shared("g", "$share/h/a")), // only the first prefix counts
        // not marked as shared [MQTT-4.8.2-1]
        ("$share", Ok(None)),
        ("$shared/g/a", Ok(None)),
        ("$SHARE/g/a", Ok(None)),
        ("a/$share/g/a", Ok(None)),
        ("$share/", Err(ShareNameEmpty)),
        ("$share//x", Err(ShareNameEmpty)),
        ("$share//", Err(ShareNameEmpty)),
        ("$share/g", Err(ShareFilterMissing)),
        ("$share/g/", Err(ShareFilterMissing)),
        ("$share/+/a", Err(ShareNameWildcard)),
        ("$share/#", Err(ShareNameWildcard)),
        ("$share/g#/a", Err(ShareNameWildcard)),
        ("$share/g\0/a", Err(Null)),
        ("$share/g/a#", Err(MultiLevelWildcard)),
        ("$share/g/a/+b", Err(SingleLevelWildcard)),
        ("a#", Err(MultiLevelWildcard)),
        ("", Err(Empty)),
    ];
    for (filter, wanted) in cases {
        assert_eq!(SharedFilter::parse(filter), *wanted, "{filter:?}");
    }
    assert_eq!(
        SharedFilter::parse(&format!("$share/g/{}", "x".repeat(65_526))).map(|shared| shared.is_some()),
        Ok(true)
    );
    assert_eq!(SharedFilter::parse(&format!("$share/g/{}", "x".repeat(65_527))), Err(TooLong));
}

#[test]
fn a_filter_matches_as_the_specification_says() {
    #[rustfmt::skip] // a table
    let cases: &[(&str, &str, bool)] = &[
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
        ("sport/#", "sport", true),
        ("sport/#", "sports", false),
        ("#", "a/b/c", true),
        ("#", "/", true),
        ("sport/tennis/+", "sport/tennis/player1", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        ("+", "finance", true),
        ("+/tennis/#", "sport/tennis", true),
        ("+/tennis/#", "sport/tennis/a/b", true),
        ("a/+/c", "a//c", true),
        ("a//c", "a/b/c", false),
        ("a", "A", false),
        ("a", "a/", false),
        ("a/", "a", false),
        ("a/b", "a", false),
        ("a", "a/b", false),
        // a leading $ [MQTT-4.7.2-1]
        ("#", "$SYS/a", false),
        ("#", "$SYS", false),
        ("+/monitor/Clients", "$SYS/monitor/Clients", false),
        ("+", "$SYS", false),
        ("$SYS/#", "$SYS/a", true),
        ("$SYS/#", "$SYS", true),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
        ("$+", "$+", true), // not a wildcard there, if it were a filter
        ("a/#", "a/$b", true),
        ("a/+", "a/$b", true),
        // not ASCII
        ("#", "é/x", true),
        ("é/+", "é/x", true),
        ("\u{65}\u{301}", "é", false), // no normalisation [MQTT-4.7.3-4]
    ];
    for (filter, topic, wanted) in cases {
        assert_eq!(matches(filter, topic), *wanted, "{filter} {topic}");
    }
}

#[test]
fn levels_are_counted_by_separators() {
    for (topic, wanted) in [("a", 1), ("/", 2), ("a/b", 2), ("a//b", 3), ("/a/", 3)] {
        assert_eq!(levels(topic), wanted, "{topic}");
    }
}
