//! The last known good declaration survives a restart.

use std::fs;

use super::broker::{Broker, at, client, endpoint};
use crate::support::{ports, weir};

fn saved(broker: &Broker) {
    broker.until("it is kept", || broker.endpoints().join("../data/last-known-good.json").exists());
}

#[test]
fn a_start_with_a_broken_file_serves_the_last_known_good() {
    let (first, second) = (ports::free(), ports::free());
    let text = |fields: &str| endpoint("first", first, fields);
    let mut broker = Broker::start(&[("first.yaml", &text("")), ("second.yaml", &endpoint("second", second, ""))]);
    broker.until_listening("first");
    saved(&broker);
    broker.write("first.yaml", &text(", maxConnectionSze: 3"));
    broker.until_condition("first", "Accepted", false, "Invalid");
    broker.restart(&[]);
    for name in ["first", "second"] {
        broker.until_listening(name);
    }
    let told = broker.until_condition("first", "Accepted", false, "Invalid");
    assert!(told.message.contains("first.yaml:1:") && told.message.contains("last good"), "{told:?}");
    client(first, "c").ping();
    // And with one that is no YAML at all.
    broker.write("first.yaml", "endpoint: {\n");
    broker.restart(&[]);
    broker.until_listening("first");
    broker.until_condition("first", "Accepted", false, "Invalid");
    broker.write("first.yaml", &text(""));
    broker.until_condition("first", "Accepted", true, "AsDeclared");
}

#[test]
fn a_start_without_the_mount_serves_the_last_known_good_and_reports_it() {
    let port = ports::free();
    let mut broker = Broker::start(&[("e.yaml", &endpoint("e", port, ""))]);
    broker.until_listening("e");
    saved(&broker);
    let revision = broker.applied();
    fs::rename(broker.endpoints(), broker.endpoints().with_extension("away")).unwrap();
    broker.restart(&[]);
    broker.until_listening("e");
    client(port, "c").ping();
    let source = broker.get("/api/source");
    assert_eq!(source["lastKnownGood"]["revision"], revision, "{source}");
    assert!(source["lastKnownGood"]["since"].is_string(), "{source}");
    assert!(source["trouble"]["message"].as_str().is_some_and(|why| why.contains("no such file")), "{source}");
    let url = format!("http://{}", broker.status());
    let probe = weir::command().args(["status", "--probe", "ready", "--status", &url]).output().unwrap();
    assert_eq!(String::from_utf8(probe.stdout).unwrap(), "ok\n");
    let shown = weir::command().args(["status", "--status", &url]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.starts_with(&format!("serving the last known good ({revision}, saved ")), "{shown}");
    fs::rename(broker.endpoints().with_extension("away"), broker.endpoints()).unwrap();
    broker.until("the source is read again", || broker.get("/api/source")["lastKnownGood"].is_null());
    assert!(broker.get("/api/source")["trouble"].is_null());
    client(port, "c").ping();
}

#[test]
fn a_start_with_an_empty_mount_deletes_nothing() {
    let port = ports::free();
    let mut broker = Broker::start(&[("e.yaml", &endpoint("e", port, ""))]);
    broker.until_listening("e");
    saved(&broker);
    broker.remove("e.yaml");
    broker.restart(&[]);
    let told = broker.until_condition("e", "Accepted", false, "DeletionHeld");
    assert!(told.message.contains("--allow-empty"), "{told:?}");
    client(port, "c").ping();
    // Meant so.
    broker.restart(&["--allow-empty"]);
    broker.until("it is gone", || std::net::TcpStream::connect(at(port)).is_err());
}

#[test]
fn errors_in_documents_without_endpoint_are_reported() {
    let port = ports::free();
    let broker = Broker::start(&[("e.yaml", &endpoint("e", port, "")), ("ban.yaml", "ban: {name: b, entries: []}\n")]);
    broker.until_listening("e");
    let checked = || {
        let health = broker.get("/api/system/health");
        let check = health["checks"].as_array().and_then(|all| all.iter().find(|c| c["check"] == "DocumentsAccepted"));
        check.map_or_else(String::new, |check| format!("{} {}", check["ok"], check["message"].as_str().unwrap_or("")))
    };
    assert_eq!(checked(), "true ");
    broker.write("ban.yaml", "ban: {name: b, entries: [{user: x}]}\n");
    broker.until("it is reported", || checked().contains("ban.yaml:1:"));
    broker.write("ban.yaml", "{");
    broker.until("and that it is no YAML", || checked().contains("not YAML"));
    broker.write("ban.yaml", "ban: {name: b, entries: []}\n");
    broker.until("the error is resolved", || checked() == "true " && broker.log().contains("config error resolved"));
}

#[test]
fn an_accepted_deletion_outlives_a_restart() {
    let (stays, goes) = (ports::free(), ports::free());
    let mut broker =
        Broker::start(&[("stays.yaml", &endpoint("stays", stays, "")), ("goes.yaml", &endpoint("goes", goes, ""))]);
    broker.until_listening("goes");
    saved(&broker);
    broker.remove("goes.yaml");
    broker.until("it is gone", || std::net::TcpStream::connect(at(goes)).is_err());
    let kept = broker.endpoints().join("../data/last-known-good.json");
    broker.until("that is kept", || !fs::read_to_string(&kept).unwrap().contains("\"goes\""));
    fs::rename(broker.endpoints(), broker.endpoints().with_extension("away")).unwrap();
    broker.restart(&[]);
    broker.until_listening("stays");
    assert!(std::net::TcpStream::connect(at(goes)).is_err());
    assert!(broker.condition("goes", "Accepted").is_none());
}

#[test]
fn the_history_outlives_a_restart() {
    let port = ports::free();
    let mut broker = Broker::start(&[("e.yaml", &endpoint("e", port, ""))]);
    broker.until_listening("e");
    broker.apply("e.yaml", &endpoint("e", port, ", maxConnectionSize: 7"));
    let entries = |broker: &Broker| broker.get("/api/endpoints/history?name=e")["entries"].clone();
    broker.until("the change is recorded", || entries(&broker)[0]["diff"].to_string().contains("maxConnectionSize: 7"));
    let before = entries(&broker);
    broker.restart(&[]);
    broker.until_listening("e");
    let after = entries(&broker);
    for entry in before.as_array().unwrap() {
        assert!(after.as_array().unwrap().contains(entry), "{entry} is not in {after}");
    }
}
