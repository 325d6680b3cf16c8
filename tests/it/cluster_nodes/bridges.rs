//! Bridges of a cluster: each runs on one node, and on another one when that dies.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::nodes::{Node, Nodes};
use super::traffic::{Message, collect, collect_until_ping, number, publish_all};
use crate::cluster_engine::nats::{self, Nats};
use crate::support::client::Client;
use crate::support::weir::Weir;
use crate::support::{ports, until};
use crate::wire::Version;
use weir_broker::placement::slot_of;

/// The remote broker of bridges.
struct Remote {
    weir: Weir,
    address: std::net::SocketAddr,
}

impl Remote {
    fn start() -> Self {
        let address = ports::free_address();
        let endpoint =
            format!("endpoint: {{host: 127.0.0.1, port: {}, enableAuth: false, enableAcl: false}}\n", address.port());
        let mut weir = Weir::new().with_status().with_file("remote.yaml", &endpoint);
        weir.run_until_accepting(&[address]);
        Self { weir, address }
    }

    /// The ids of the connected bridges with this name.
    fn clients(&self, bridge: &str) -> Vec<String> {
        let answer = self.weir.get("/api/clients?limit=100");
        let clients = answer["clients"].as_array().cloned().unwrap_or_default();
        let ids = clients.iter().filter_map(|client| client["clientId"].as_str());
        ids.filter(|id| id.ends_with(bridge)).map(str::to_owned).collect()
    }
}

/// A node with these bridges to a broker, by an endpoint with these fields.
fn node(name: &str, servers: &[Nats], remote: &Remote, bridges: &[String], endpoint: &str) -> Node {
    let node = Node::new(name, servers);
    let mut documents = format!(
        "endpoint: {{name: bridged, host: 127.0.0.1, port: {}, enableAuth: false, enableAcl: false, enableBridge: true, \
         bridges: [{}]{endpoint}}}\n",
        ports::free_address().port(),
        bridges.join(", ")
    );
    for bridge in bridges {
        documents.push_str(&format!(
            "---\nbridge: {{name: {bridge}, address: [\"mqtt://{}\"], out: [{{filter: \"{bridge}/out/#\", qos: 1}}], \
             in: [{{filter: \"{bridge}/in/#\", qos: 1}}], reconnect: {{minMs: 100, maxMs: 500}}}}\n",
            remote.address
        ));
    }
    node.weir.write("bridges.yaml", &documents);
    node
}

fn connected(node: &Node, bridge: &str) -> Value {
    let bridges = node.weir.get("/api/bridges")["bridges"].as_array().cloned().unwrap_or_default();
    let bridge = bridges.into_iter().find(|each| each["name"] == bridge).unwrap_or_default();
    let conditions = bridge["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == "Connected").unwrap_or_default()
}

/// The place of the node whose bridge is connected, where all other nodes say so.
fn runner(nodes: &[&Node], bridge: &str) -> Option<usize> {
    let conditions: Vec<Value> = nodes.iter().map(|node| connected(node, bridge)).collect();
    let at = conditions.iter().position(|condition| condition["status"] == "True")?;
    let message = format!("node {} runs it", nodes[at].name);
    let others = conditions.iter().enumerate().filter(|(other, _)| *other != at);
    let agree = |condition: &Value| condition["reason"] == "RunsElsewhere" && condition["message"] == message;
    others.map(|(_, condition)| condition).all(agree).then_some(at)
}

fn until_runner(nodes: &[&Node], bridge: &str) -> usize {
    let mut found = None;
    let logs = || nodes.iter().map(|node| node.weir.log()).collect::<Vec<_>>().join("\n");
    until(&format!("one node runs {bridge}"), logs, || {
        found = runner(nodes, bridge);
        found.is_some()
    });
    found.unwrap()
}

fn messages(topic: &str, numbers: std::ops::Range<usize>) -> Vec<Message> {
    numbers.map(|number| Message::new(topic, number.to_string(), 1)).collect()
}

#[test]
fn a_bridge_runs_on_one_node_and_another_one_takes_it_over_without_loss_of_what_the_remote_broker_has() {
    if !nats::is_there() {
        return;
    }
    let remote = Remote::start();
    let servers = vec![Nats::start()];
    let bridge = ["cloud".to_owned()];
    let nodes = ["n1", "n2", "n3"].map(|name| node(name, &servers, &remote, &bridge, "")).into();
    let mut cluster = Nodes::start_nodes(servers, nodes);
    let all: Vec<&Node> = cluster.nodes.iter().collect();
    let first = until_runner(&all, "cloud");
    // The nodes continue one session of the remote broker, under the cluster's name.
    assert_eq!(remote.clients("cloud"), ["test-cloud"]);
    let connects = || all.iter().map(|node| node.logged(&["bridge connected"])).sum::<usize>();
    let before = connects();
    let mut there = Client::connect(remote.address, Version::V5, "there");
    there.subscribe("cloud/out/#", 1);
    for (at, node) in all.iter().enumerate() {
        publish_all(&mut node.client(Version::V5, "out"), &messages("cloud/out/1", at * 20..at * 20 + 20));
    }
    let numbers: Vec<usize> = collect(&mut there, 60).iter().map(number).collect();
    assert_eq!(numbers.iter().copied().collect::<BTreeSet<_>>(), (0..60).collect());
    assert_eq!(collect_until_ping(&mut there), [], "each message crosses once");
    assert_eq!(connects(), before, "no other node connects");
    // From the remote broker, while the node dies that runs the bridge.
    let survivors = [(first + 1) % 3, (first + 2) % 3];
    let mut here = cluster.nodes[survivors[0]].client(Version::V5, "here");
    here.subscribe("cloud/in/#", 1);
    let address = remote.address;
    let publisher = thread::spawn(move || {
        let mut client = Client::connect(address, Version::V5, "publisher");
        for number in 0..300 {
            publish_all(&mut client, &messages("cloud/in/1", number..number + 1));
            thread::sleep(Duration::from_millis(5));
        }
    });
    let mut seen: BTreeSet<usize> = collect(&mut here, 50).iter().map(number).collect();
    cluster.nodes[first].weir.kill();
    publisher.join().unwrap();
    let alive: Vec<&Node> = survivors.iter().map(|&at| &cluster.nodes[at]).collect();
    let second = until_runner(&alive, "cloud");
    while seen.len() < 300 {
        seen.extend(collect(&mut here, 1).iter().map(number));
    }
    assert_eq!(remote.clients("cloud"), ["test-cloud"]);
    for (at, node) in alive.iter().enumerate() {
        publish_all(&mut node.client(Version::V5, "out"), &messages("cloud/out/2", at * 20..at * 20 + 20));
    }
    let numbers: BTreeSet<usize> = collect(&mut there, 40).iter().map(number).collect();
    assert_eq!(numbers, (0..40).collect());
    assert!(alive[second].has_logged(&["bridge placed", "this node runs it", "cloud"]));
    // The node that was killed comes back and finds that another one runs it.
    cluster.nodes[first].start();
    until_runner(&cluster.nodes.iter().collect::<Vec<_>>(), "cloud");
}

#[test]
fn bridges_whose_slots_belong_to_a_node_that_is_not_selected_run_on_one_of_those_that_are() {
    if !nats::is_there() {
        return;
    }
    let remote = Remote::start();
    let servers = vec![Nats::start()];
    let bridges: Vec<String> = (0..8).map(|number| format!("b{number}")).collect();
    let nodes = [("n1", "edge"), ("n2", "edge"), ("n3", "core")].map(|(name, zone)| {
        let node = node(name, &servers, &remote, &bridges, ", nodes: {zone: edge}");
        Node { weir: node.weir.with_arguments(&["--node-label", &format!("zone={zone}")]), ..node }
    });
    let cluster = Nodes::start_nodes(servers, nodes.into());
    let selected: Vec<&Node> = cluster.nodes.iter().take(2).collect();
    for bridge in &bridges {
        until_runner(&selected, bridge);
    }
    let members = cluster.nodes[0].weir.get("/api/cluster/members");
    let owner = |bridge: &str| {
        let slot = slot_of("", &format!("$bridge/{bridge}"), 16);
        members["cluster"]["slots"][usize::from(slot)]["node"].as_str().unwrap().to_owned()
    };
    let owners: BTreeSet<String> = bridges.iter().map(|bridge| owner(bridge)).collect();
    assert!(owners.contains("n3"), "{owners:?}");
    for bridge in &bridges {
        assert_eq!(connected(&cluster.nodes[2], bridge)["reason"], "NotRunning");
        assert_eq!(remote.clients(bridge), [format!("test-{bridge}")]);
    }
}
