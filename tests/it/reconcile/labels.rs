//! A plan against a running broker uses its labels, which decide which endpoints it runs.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::broker::{Broker, endpoint};
use crate::support::ports;
use crate::support::weir;

/// An endpoint's name, the `nodes` of its document before the change and after it. `None`: there is no document.
type Row = (&'static str, Option<&'static str>, Option<&'static str>);

const ROWS: [Row; 9] = [
    ("everywhere", Some(""), Some("")),
    ("kept-eu", Some("zone: eu"), Some("zone: eu")),
    ("kept-us", Some("zone: us"), Some("zone: us")),
    ("to-us", Some("zone: eu"), Some("zone: us")),
    ("to-eu", Some("zone: us"), Some("zone: eu")),
    ("narrowed", Some(""), Some("zone: eu, rack: '7'")),
    ("widened", Some("zone: eu, rack: '7'"), Some("")),
    ("new-us", None, Some("zone: us")),
    ("gone-eu", Some("zone: eu"), None),
];

/// The set of documents on one side of the change. What is kept has another description, which no listener notices.
fn documents(ports: &[u16], nodes: fn(&Row) -> Option<&'static str>, description: &str) -> String {
    let rows = ROWS.iter().zip(ports).filter_map(|(row, port)| {
        let fields = format!(", description: {description}, nodes: {{{}}}", nodes(row)?);
        Some(endpoint(row.0, *port, &fields))
    });
    rows.collect::<Vec<_>>().join("---\n")
}

/// `endpoint action` of a plan, or of an entry of the history.
fn actions(of: &Value) -> BTreeSet<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = of["actions"].as_array().cloned().unwrap_or_default();
    all.iter().map(|action| format!("{} {}", text(&action["endpoint"]), text(&action["action"]))).collect()
}

fn plan(broker: &Broker, wanted: &str, more: &[&str]) -> (Option<i32>, String) {
    let proposed = tempfile::tempdir().unwrap();
    fs::write(proposed.path().join("all.yaml"), wanted).unwrap();
    let against = format!("http://{}", broker.status());
    let output =
        weir::command().args(["plan", "--against", &against]).args(more).arg(proposed.path()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn a_plan_against_a_broker_equals_what_the_broker_does() {
    for (labels, heading) in [
        (&[][..], "broker here (no labels):\n"),
        (&["zone=eu"], "broker here (zone=eu):\n"),
        (&["zone=us"], "broker here (zone=us):\n"),
        (&["zone=eu", "rack=7"], "broker here (rack=7, zone=eu):\n"),
    ] {
        let ports: Vec<u16> = ROWS.iter().map(|_| ports::free()).collect();
        let before = documents(&ports, |row| row.1, "before");
        let wanted = documents(&ports, |row| row.2, "after");
        let flags: Vec<&str> = labels.iter().flat_map(|label| ["--node-label", label]).collect();
        let arguments = [&["--node-name", "here"][..], &flags].concat();
        let broker = Broker::start_with(&[("all.yaml", &before)], &arguments);
        broker.until_listening("everywhere");

        let (_, same) = plan(&broker, &before, &["--format", "json"]);
        let same: Value = serde_json::from_str(&same).unwrap();
        assert_eq!(same["summary"], "nothing to do", "{labels:?}: what is declared already");

        let (_, shown) = plan(&broker, &wanted, &[]);
        assert!(shown.starts_with(heading), "{labels:?}: {shown}");
        let (_, planned) = plan(&broker, &wanted, &["--format", "json"]);
        let planned: Value = serde_json::from_str(&planned).unwrap();
        assert_eq!(planned["broker"]["name"], "here");
        broker.write("all.yaml", &wanted);
        let done = || -> BTreeSet<String> {
            let history = broker.get("/api/endpoints/history");
            let entries = history["entries"].as_array().cloned().unwrap_or_default();
            // The last is the start's.
            entries.iter().rev().skip(1).flat_map(actions).collect()
        };
        let planned = actions(&planned);
        broker.until(&format!("{labels:?}: {planned:?}"), || {
            let done = done();
            assert!(done.is_subset(&planned), "{labels:?}: {done:?} was not planned: {planned:?}");
            done == planned
        });
        assert!(planned.contains("everywhere update"), "{planned:?}");
    }
}

#[test]
fn a_plan_uses_the_labels_of_the_broker() {
    let port = ports::free();
    let broker = Broker::start(&[("all.yaml", &endpoint("e", port, ""))]);
    broker.until_listening("e");
    let (code, said) = plan(&broker, &endpoint("e", port, ""), &["--node-label", "zone=eu"]);
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("--node-label") && said.contains("has its own labels"), "{said}");
}
