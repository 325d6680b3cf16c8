//! Answers of the status API and of the verbs that ask it: ancestors, removed and unselected endpoints, ports, missing documents.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use serde_json::Value;

use super::broker::{Broker, at, endpoint};
use crate::source::git::git;
use crate::support::client::{Client, connect};
use crate::support::{ports, weir};
use crate::wire::{Packet, Properties, Version};

fn commit_all(root: &Path, message: &str) -> String {
    git(root, &["add", "-A"]);
    git(root, &["commit", "-qm", message]);
    git(root, &["rev-parse", "HEAD"])
}

/// The exit code of `weir VERB --status HOST:PORT ...`, and everything it prints.
fn ask(broker: &Broker, verb: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let status = broker.status().to_string();
    let output = weir::command().args([verb, "--status", &status]).args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn a_revision_is_applied_when_a_later_commit_is() {
    let port = ports::free();
    let first = std::cell::RefCell::default();
    let prepare = |root: &Path| {
        git(root, &["init", "-q"]);
        first.replace(commit_all(root, "First"));
    };
    let broker = Broker::start_prepared(&[("e.yaml", &endpoint("e", port, ""))], prepare, &["--git-ref", "HEAD"]);
    broker.until_listening("e");
    let first = first.into_inner();
    broker.write("e.yaml", &endpoint("e", port, ", maxConnectionSize: 7"));
    let second = commit_all(&broker.endpoints(), "Second");
    broker.until("the second commit is applied", || broker.applied() == second[..12]);
    // A commit of another branch is not among the ancestors.
    let tree = git(&broker.endpoints(), &["rev-parse", "HEAD^{tree}"]);
    let beside = git(&broker.endpoints(), &["commit-tree", "-m", "Beside", "-p", &first, &tree]);
    for (revision, expected) in [(&second, Some(0)), (&first, Some(0)), (&beside, Some(1))] {
        let (code, shown) = ask(&broker, "wait", &["--revision", revision, "--timeout-s", "1"]);
        assert_eq!(code, expected, "{revision}: {shown}");
    }
    assert_eq!(broker.get(&format!("/api/source?contains={}", &first[..7]))["contains"], true);
    assert_eq!(broker.get(&format!("/api/source?contains={beside}"))["contains"], false);
    assert_eq!(broker.get("/api/source?contains=0000000")["contains"], Value::Null);
    assert!(broker.http("/api/source?contains=main").contains("is not a commit"));
}

#[test]
fn a_revision_that_was_rolled_back_is_not_applied() {
    let (port, other) = (ports::free(), ports::free());
    let prepare = |root: &Path| {
        git(root, &["init", "-q"]);
        commit_all(root, "First");
    };
    let broker = Broker::start_prepared(&[("e.yaml", &endpoint("e", port, ""))], prepare, &["--git-ref", "HEAD"]);
    let root = broker.endpoints();
    let commit = |message: &str, limit: u32| {
        broker.write("e.yaml", &endpoint("e", port, &format!(", maxConnectionSize: {limit}")));
        commit_all(&root, message)
    };
    let (second, third) = (commit("Second", 7), commit("Third", 8));
    broker.write("other.yaml", &endpoint("other", other, ""));
    let beside = commit_all(&root, "Beside");
    let wait = |revision: &str| ask(&broker, "wait", &["--revision", revision, "--timeout-s", "20"]);
    let expect = |revision: &str, is_applied: bool| {
        let (code, shown) = wait(revision);
        assert_eq!(code, Some(if is_applied { 0 } else { 1 }), "{revision}: {shown}");
        assert_eq!(shown.contains("was rolled back"), !is_applied, "{shown}");
    };
    let revert = |commit: &str| {
        git(&root, &["revert", "--no-edit", commit]);
        expect(&git(&root, &["rev-parse", "HEAD"]), true);
    };
    expect(&beside, true);
    expect(&second, true);
    revert(&third);
    expect(&third, false);
    for applied in [&second, &beside] {
        expect(applied, true);
    }
    // With two reverts the file has a content from before both commits.
    revert(&second);
    for undone in [&second, &third] {
        expect(undone, false);
    }
    expect(&beside, true);
    let again = commit("Again", 8);
    expect(&again, true);
    expect(&third, true);
    expect(&second, true);
    let answer = broker.get(&format!("/api/source?contains={second}"));
    assert_eq!((&answer["contains"], &answer["rolledBack"]), (&true.into(), &false.into()), "{answer}");
}

#[test]
fn a_removed_endpoint_without_clients_is_shown_as_removed() {
    let (keep, go) = (ports::free(), ports::free());
    let broker = Broker::start(&[("keep.yaml", &endpoint("keep", keep, "")), ("go.yaml", &endpoint("go", go, ""))]);
    broker.until_listening("go");
    broker.remove("go.yaml");
    let mut seen = BTreeSet::new();
    broker.until("it is not listed any more", || {
        let status = broker.get("/api/endpoints/status?name=go");
        if let Some(state) = status["state"].as_str() {
            if state == "removed" {
                assert!(status["origin"]["file"].as_str().unwrap().ends_with("go.yaml"), "{status}");
                let (_, shown) = ask(&broker, "status", &[]);
                assert!(!shown.contains("draining"), "{shown}");
            }
            seen.insert(state.to_owned());
        }
        status["state"].is_null()
    });
    assert!(!seen.contains("draining"), "{seen:?}");
}

#[test]
fn an_endpoint_of_other_nodes_is_hidden_unless_all_are_asked_for() {
    let port = ports::free();
    let documents = [
        ("here.yaml", endpoint("here", port, ", nodes: {zone: eu}")),
        ("there.yaml", endpoint("there", port, ", nodes: {zone: us}")),
    ];
    let documents: Vec<(&str, &str)> = documents.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let broker = Broker::start_with(&documents, &["--node-label", "zone=eu"]);
    broker.until_listening("here");
    for path in ["list", "status", "get", "metrics", "performance", "health"] {
        let answer = broker.get(&format!("/api/endpoints/{path}"));
        let keys: Vec<&String> = answer["endpoints"].as_object().unwrap().keys().collect();
        assert_eq!(keys, [&port.to_string()], "{path}");
        assert_eq!((&answer["total"], &answer["notSelected"]), (&1.into(), &1.into()), "{path}");
        let answer = broker.get(&format!("/api/endpoints/{path}?all=true"));
        assert_eq!(answer["endpoints"].as_object().unwrap().len(), 2, "{path}");
    }
    assert_eq!(broker.get(&format!("/api/endpoints/status?port={port}"))["name"], "here");
    assert_eq!(broker.get("/api/endpoints/status?name=there")["state"], "notSelected");
    let (code, shown) = ask(&broker, "status", &[]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(!shown.contains("there") && shown.contains("(1 for other brokers"), "{shown}");
    let (_, shown) = ask(&broker, "status", &["--all"]);
    assert!(shown.contains("not selected"), "{shown}");
}

#[test]
fn check_port_tries_to_bind_the_port() {
    let port = ports::free();
    let broker = Broker::start(&[("e.yaml", &endpoint("e", port, ""))]);
    broker.until_listening("e");
    let of = |port: u16| broker.get(&format!("/api/endpoints/check-port?port={port}"));
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = of(other.local_addr().unwrap().port());
    assert_eq!((&taken["available"], &taken["usedBy"][0]["state"]), (&false.into(), &"otherProcess".into()), "{taken}");
    let own = of(port);
    assert_eq!((&own["available"], &own["usedBy"][0]["endpoint"]), (&false.into(), &"e".into()), "{own}");
    assert_eq!(own["usedBy"].as_array().unwrap().len(), 1, "{own}");
    let status = of(broker.status().port());
    assert_eq!(status["usedBy"][0]["state"], "statusServer", "{status}");
    let free = of(ports::free());
    assert_eq!((&free["available"], &free["error"]), (&true.into(), &Value::Null), "{free}");
}

#[test]
fn without_an_auth_document_the_log_and_the_reason_code_say_so() {
    let port = ports::free();
    let document = format!("endpoint: {{name: e, host: 127.0.0.1, port: {port}, auth: devices}}\n");
    let acl = "acl: {name: default, rules: [{permission: allow, topics: ['#']}]}\n";
    let other = "auth: {name: other, chain: [{anonymous: {}}]}\n";
    // The document is named before it exists: `auth: devices` alone is an error of the declaration.
    let broker =
        Broker::start(&[("e.yaml", &document.replace(", auth: devices", "")), ("acl.yaml", acl), ("o.yaml", other)]);
    broker.until_listening("e");
    let refused = broker.until_condition("e", "ResolvedRefs", false, "MissingReference");
    assert_eq!(refused.message, "no auth document named `default`: every CONNECT is refused");
    for (version, expected) in [(Version::V5, 0x88), (Version::V3_1_1, 3)] {
        let mut client = Client::open(at(port), version);
        client.send(&connect(version, "c", Properties::new()));
        match client.receive() {
            Some(Packet::ConnAck { code, .. }) => assert_eq!(code, expected, "{version:?}"),
            other => panic!("no CONNACK: {other:?}"),
        }
    }
    let line = "authentication failed: no auth document named \"default\"";
    broker.until("the log names the document", || broker.log().contains(line));
}

#[test]
fn boolean_variables_accept_the_usual_words() {
    for (value, atomic) in [("1", true), ("yes", true), ("true", true), ("0", false), ("no", false), ("false", false)] {
        let (good, other) = (ports::free(), ports::free());
        let mut weir = weir::Weir::new().with_status().with_variable("WEIR_ATOMIC", value).with_files(&[
            ("good.yaml", &endpoint("good", good, "")),
            ("bad.yaml", "endpoint: {prt: 1}\n"),
            ("other.yaml", &endpoint("other", other, "")),
        ]);
        weir.run();
        let word = if atomic { "refused" } else { "listener bound" };
        weir.until_running(&format!("WEIR_ATOMIC={value}: {word}"), |weir| weir.log().contains(word));
    }
}

#[test]
fn the_binary_names_no_registered_authenticator_and_does_not_start_the_endpoint() {
    let port = ports::free();
    let auth = "auth: {name: default, chain: [{custom: {name: device-db}}]}\n";
    let document = format!("endpoint: {{name: e, host: 127.0.0.1, port: {port}, enableAcl: false}}\n");
    let broker = Broker::start(&[("e.yaml", &document), ("auth.yaml", auth)]);
    let refused = broker.until_condition("e", "ResolvedRefs", false, "MissingReference");
    let expected =
        "no authenticator is registered as `device-db`; this program registers none (the binary weir never does";
    assert!(refused.message.contains(expected), "{}", refused.message);
    assert!(TcpStream::connect(at(port)).is_err());
}
