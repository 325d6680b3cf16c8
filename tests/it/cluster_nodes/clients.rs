//! Clients of others, each connection of which goes to the next node.

use std::path::Path;
use std::process::Command;

use super::nodes::Nodes;
use crate::cluster_engine::nats;
use crate::programs::{is_there, succeeds, tools};

fn ports(cluster: &Nodes, prefix: &str) -> String {
    let each = cluster.nodes.iter().map(|node| format!("{prefix}{}", node.address.port()));
    each.collect::<Vec<_>>().join(",")
}

#[test]
fn paho_moves_between_nodes() {
    let python = tools().join("venv/bin/python");
    if !nats::is_there() || !is_there(&python) {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/paho_client.py");
    let cluster = Nodes::start(3);
    for version in ["3", "4", "5"] {
        succeeds(Command::new(&python).arg(&script).args(["tcp", &ports(&cluster, ""), version]));
    }
}

#[test]
fn mqtt_js_moves_between_nodes() {
    let root = tools().join("node");
    if !nats::is_there() || !is_there(Path::new("node")) || !is_there(&root.join("node_modules/mqtt")) {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/mqttjs_client.mjs");
    let cluster = Nodes::start(3);
    for version in ["3", "4", "5"] {
        let urls = ports(&cluster, "mqtt://127.0.0.1:");
        succeeds(Command::new("node").env("MQTTJS_ROOT", &root).arg(&script).args([&urls, version]));
    }
}

#[test]
fn mosquitto_moves_between_nodes() {
    let (publish, subscribe) = (Path::new("mosquitto_pub"), Path::new("mosquitto_sub"));
    if !nats::is_there() || !is_there(publish) || !is_there(subscribe) {
        return;
    }
    let cluster = Nodes::start(3);
    let port = |node: usize| cluster.nodes[node % 3].address.port().to_string();
    for (round, version) in ["mqttv31", "mqttv311", "mqttv5"].into_iter().enumerate() {
        let topic = format!("moved/{version}");
        let mut session = vec!["-V", version, "-h", "127.0.0.1", "-q", "2", "-i", version, "-c", "-t", &topic];
        if version == "mqttv5" {
            session.extend(["-x", "600"]);
        }
        for step in 0..3 {
            let node = round + step;
            succeeds(Command::new(subscribe).args(&session).args(["-p", &port(node), "-E"]));
            let message = ["-V", version, "-h", "127.0.0.1", "-q", "2", "-t", &topic, "-m", "kept"];
            succeeds(Command::new(publish).args(message).args(["-p", &port(node + 1)]));
            let received =
                succeeds(Command::new(subscribe).args(&session).args(["-p", &port(node + 2), "-C", "1", "-W", "30"]));
            assert_eq!(received, "kept\n", "{version}");
        }
    }
}
