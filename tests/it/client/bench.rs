//! `weir bench`

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{Dev, good, shown, weir};
use crate::programs::{is_there, run};
use crate::support::ports;
use crate::support::weir::{PROGRAM, Weir};

fn report(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn every_message_is_accounted_for() {
    let dev = Dev::start();
    let url = &dev.url;
    for (words, publishers, subscribers, sent, received) in [
        ("pairs --clients 7 --count 1000 -q 0", 7, 7, 1000, 1000),
        ("pairs --clients 3 --count 100 -q 2 --size 5000 -V 3.1", 3, 3, 100, 100),
        ("fanout --clients 20 --count 50 -q 1 -V 3.1.1", 1, 20, 50, 1000),
        ("latency --count 50 -q 1", 1, 1, 50, 50),
        ("pairs --clients 2 --count 40 --rate 200", 2, 2, 40, 40),
    ] {
        let report = report(&good(&format!("bench {words} --url {url} --json")));
        let numbers = ["publishers", "subscribers", "sent", "received", "lost", "duplicates", "refused"];
        let seen = numbers.map(|name| report[name].as_u64().unwrap());
        assert_eq!(seen, [publishers, subscribers, sent, received, 0, 0, 0], "{words}: {report}");
        let latency = ["p50", "p90", "p99", "p99.9", "max"].map(|name| report["latencyMs"][name].as_f64().unwrap());
        assert!(latency.is_sorted() && latency[0] > 0.0, "{report}");
    }
    let text = good(&format!("bench pairs --url {url} --duration 0.2"));
    for word in ["10 publishers, 10 subscribers, QoS 0, 64 bytes", "sent", "received", "lost 0", "p99.9"] {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn lost_and_refused_messages_are_counted() {
    let acl =
        "acl: {name: default, noMatch: allow, rules: [{permission: deny, action: publish, topics: [\"no/#\"]}]}\n";
    let address = ports::free_address();
    let port = address.port();
    let document = format!("endpoint: {{host: 127.0.0.1, port: {port}, enableAuth: false}}\n---\n{acl}");
    let mut broker = Weir::new().with_file("e.yaml", &document);
    broker.run_until_accepting(&[address]);
    for (qos, exit, lost, refused) in [(0, 0, 20, 0), (1, 1, 0, 20)] {
        let words = format!("bench pairs --url mqtt://{address} --clients 2 --count 20 -q {qos} --topic no --json");
        let output = run(&mut weir(&words));
        assert_eq!(output.status.code(), Some(exit), "{}", shown(&output));
        let report = report(&String::from_utf8_lossy(&output.stdout));
        let seen = ["sent", "received", "lost", "refused"].map(|name| report[name].as_u64().unwrap());
        assert_eq!(seen, [20, 0, lost, refused], "{report}");
    }
}

#[test]
fn progress_is_shown_at_a_terminal_only() {
    if !is_there(Path::new("script")) {
        return;
    }
    let dev = Dev::start();
    let words = format!("bench pairs --url {} --clients 1 --rate 10 --duration 4", dev.url);
    let output = run(&mut weir(&words));
    assert!(output.status.success() && output.stderr.is_empty(), "{}", shown(&output));
    let output =
        run(Command::new("script").args(["-qec", &format!("{PROGRAM} {words}"), "/dev/null"]).env("TERM", "xterm"));
    assert!(output.status.success() && shown(&output).contains(" sent, "), "{}", shown(&output));
}
