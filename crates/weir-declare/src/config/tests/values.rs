//! Parsers of single values: names, addresses, ranges, patterns, references.

use super::*;

#[test]
fn valid_names_parse_and_invalid_ones_do_not() {
    for good in ["a", "eu/tenant-a", "Größe", "日本/x", "a.b_c-d@e+f", "a(1)", "007", &"x".repeat(255)] {
        assert!(Name::parse(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "a b",
        "a\tb",
        "a:b",
        "a#",
        "a*",
        "\"a\"",
        "a,b",
        "$a",
        &"x".repeat(256),
    ] {
        assert!(Name::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn an_address_range_contains_its_addresses() {
    let cases = [
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("10.0.0.0/8", "::ffff:10.1.2.3", true),
        ("10.0.0.0/8", "::1", false),
        ("0.0.0.0/0", "1.2.3.4", true),
        ("0.0.0.0/0", "::1", false),
        ("::/0", "::1", true),
        ("::/0", "1.2.3.4", false),
        ("192.0.2.7", "192.0.2.7", true),
        ("192.0.2.7", "192.0.2.8", false),
        ("2001:db8::/33", "2001:db8:7fff::1", true),
        ("2001:db8::/33", "2001:db8:8000::1", false),
    ];
    for (range, address, inside) in cases {
        assert_eq!(Cidr::parse(range).unwrap().contains(address.parse().unwrap()), inside, "{address} in {range}");
    }
    for bad in ["10.0.0.1/8", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/8/8", "a", ""] {
        assert!(Cidr::parse(bad).is_err(), "{bad}");
    }
    let covers = |a: &str, b: &str| Cidr::parse(a).unwrap().covers(&Cidr::parse(b).unwrap());
    assert!(covers("10.0.0.0/8", "10.1.0.0/16") && covers("10.0.0.0/8", "10.0.0.0/8"));
    assert!(!covers("10.1.0.0/16", "10.0.0.0/8") && !covers("0.0.0.0/0", "::/0"));
}

#[test]
fn addresses_that_cannot_be_bound_together_overlap() {
    let bind = |text: &str| BindAddress::Tcp(text.parse().unwrap());
    let cases = [
        ("0.0.0.0:1", "127.0.0.1:1", true),
        ("0.0.0.0:1", "127.0.0.1:2", false),
        ("127.0.0.1:1", "127.0.0.2:1", false),
        ("[::]:1", "0.0.0.0:1", true),
        ("[::]:1", "127.0.0.1:1", true),
        ("[::]:1", "[::1]:1", true),
        ("[::1]:1", "0.0.0.0:1", false),
        ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
        ("[::1]:1", "[::1]:1", true),
        ("127.0.0.1:0", "127.0.0.1:0", false),
    ];
    for (a, b, overlap) in cases {
        assert_eq!(bind(a).overlaps(&bind(b)), overlap, "{a} {b}");
        assert_eq!(bind(b).overlaps(&bind(a)), overlap, "{b} {a}");
    }
    let unix = |path: &str| BindAddress::Unix(Arc::from(Path::new(path)));
    assert!(
        unix("/a").overlaps(&unix("/a")) && !unix("/a").overlaps(&unix("/b")) && !unix("/a").overlaps(&bind("[::]:1"))
    );
}

#[test]
fn a_glob_matches_the_whole_text() {
    let cases = [
        ("sensor_*", "sensor_1", true),
        ("sensor_*", "sensor_", true),
        ("sensor_*", "Sensor_1", false),
        ("*", "", true),
        ("?", "", false),
        ("?", "é", true),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "a-c-b", false),
        ("**a", "bba", true),
        ("[a]", "a", false),
        ("", "", true),
        ("a", "ab", false),
    ];
    for (glob, text, matches) in cases {
        assert_eq!(Glob(Arc::from(glob)).matches(text), matches, "{glob} {text}");
    }
    // Backtracking into every star would take exponential time.
    assert!(!Glob("*a".repeat(50).into()).matches(&"a".repeat(49)));
    assert!(!Glob(format!("{}b", "a*".repeat(200)).into()).matches(&"a".repeat(5000)));
}

#[test]
fn remote_addresses_have_default_ports() {
    let cases = [
        ("mqtt://a", "mqtt://a:1883"),
        ("mqtts://a", "mqtts://a:8883"),
        ("mqtt://10.0.0.1:1884/", "mqtt://10.0.0.1:1884"),
        ("mqtts://[2001:db8::1]:443", "mqtts://[2001:db8::1]:443"),
        ("mqtt://[::1]", "mqtt://[::1]:1883"),
    ];
    for (text, canonical) in cases {
        assert_eq!(String::from(RemoteAddress::parse(text).unwrap()), canonical);
        assert_eq!(RemoteAddress::parse(canonical), RemoteAddress::parse(text));
    }
    for bad in ["a", "tcp://a", "mqtt://", "mqtt://a:0", "mqtt://a:65536", "mqtt://a:+1", "mqtt://u:p@a", "mqtt://a b"]
    {
        assert!(RemoteAddress::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_secret_must_be_a_reference() {
    for good in ["file:a", "file:/run/secrets/x", "env:A", "env:_a1"] {
        assert_eq!(String::from(SecretRef::parse(good).unwrap()), good);
    }
    for bad in ["hunter2", "", "file:", "env:", "env:1", "env:A-B", "FILE:a"] {
        let problem = SecretRef::parse(bad).unwrap_err().to_string();
        assert!(!problem.contains("hunter2"), "{problem}");
    }
}
