//! `examples/cluster/run`: three nodes and three nats-servers from nothing.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::nats;
use crate::support::child::ChildGuard;
use crate::support::client::{Client, publish};
use crate::support::{ports, until, weir};
use crate::wire::{Packet, Version};

/// The running example. It stops what it has started when it gets INT, so it gets one where the test fails, too.
struct Example(ChildGuard);

impl Drop for Example {
    fn drop(&mut self) {
        for attempt in 0..100 {
            if self.0.exit_status().is_some() {
                return;
            }
            if attempt == 0 {
                self.0.signal(Signal::INT);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn cluster_status(address: &str, more: &[&str]) -> Output {
    weir::command().args(["cluster", "status", "--status", address]).args(more).output().unwrap()
}

// It takes four ports on each of three addresses. A broker of a test beside it may have one of them.
#[test]
#[ignore = "must run alone: tests/run --all"]
fn the_example_starts_one_broker_of_three_nodes_and_stops_all_of_it() {
    if !nats::is_there() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let [mqtt, status, nats, route] = std::array::from_fn(|_| ports::free());
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cluster/run"));
    command
        .env("WEIR", weir::PROGRAM)
        .env("NATS_SERVER", nats::program())
        .env("TMPDIR", directory.path())
        .envs(
            [("MQTT_PORT", mqtt), ("STATUS_PORT", status), ("NATS_PORT", nats), ("ROUTE_PORT", route)]
                .map(|(name, port)| (name, port.to_string())),
        )
        .stdin(Stdio::null())
        .stdout(File::create(&log).unwrap())
        .stderr(File::options().append(true).open(&log).unwrap());
    let mut example = Example(ChildGuard::spawn(&mut command));
    until("all nodes are ready", said, || said().contains("Ctrl-C stops everything"));

    let at = |node: u8, port: u16| SocketAddr::from(([127, 0, 0, node], port));
    let mut subscriber = Client::connect(at(1, mqtt), Version::V5, "subscriber");
    subscriber.subscribe("demo/#", 1);
    let mut publisher = Client::connect(at(3, mqtt), Version::V5, "publisher");
    publisher.send(&publish("demo/a", b"hello", 1, Some(1)));
    assert!(matches!(publisher.receive(), Some(Packet::Ack(ack)) if (ack.id, ack.code) == (1, 0)));
    let got = subscriber.receive();
    assert!(matches!(&got, Some(Packet::Publish(publish)) if publish.topic == "demo/a"), "{got:?}");

    let address = at(2, status).to_string();
    let shown = cluster_status(&address, &["--format", "json"]);
    let view: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let names: Vec<&str> = view["peers"].as_array().unwrap().iter().filter_map(|peer| peer["node"].as_str()).collect();
    assert_eq!((names, &view["ready"]), (vec!["node1", "node3"], &Value::Bool(true)), "{view}");
    let shown = String::from_utf8(cluster_status(&address, &[]).stdout).unwrap();
    assert!(shown.starts_with("node2 is in, ready; nats-servers: nats"), "{shown}");

    example.0.signal(Signal::INT);
    until("the example ends", said, || example.0.exit_status().is_some());
    assert!(std::net::TcpStream::connect(at(1, mqtt)).is_err() && std::net::TcpStream::connect(at(2, nats)).is_err());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "the example leaves files behind");
}
