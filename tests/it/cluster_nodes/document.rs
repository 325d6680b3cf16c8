//! The document `cluster`: nodes that are evacuated, removed, isolated, or gone for long; and a broker that is alone.

use std::net::SocketAddr;

use rustix::process::Signal;
use serde_json::Value;

use super::nodes::{Node, Nodes, connect_code};
use super::traffic::{Message, collect, number, publish_all};
use crate::cluster_engine::nats::{self, Nats};
use crate::support::client::{Client, clean_connect};
use crate::support::weir::{Weir, command};
use crate::support::{ports, until};
use crate::wire::{Connect, Packet, PropertyRow, PropertyValue, Version};

/// A node with one endpoint more, whose clients are told where to go.
fn node(name: &str, servers: &[Nats]) -> (Node, SocketAddr) {
    let node = Node::new(name, servers);
    let address = ports::free_address();
    let endpoint = format!(
        "endpoint: {{name: moving, host: 127.0.0.1, port: {}, enableAuth: false, enableAcl: false, \
         drain: {{windowS: 0, serverReference: \"other.example:1883\"}}}}",
        address.port()
    );
    node.weir.write("moving.yaml", &endpoint);
    (node, address)
}

fn declare(nodes: &[&Node], cluster: &str) {
    nodes.iter().for_each(|node| node.weir.write("cluster.yaml", &format!("cluster: {cluster}\n")));
}

/// Its clients are sent to another node: 5.0 with a DISCONNECT, 3.1.1 by closing.
fn assert_sent_elsewhere(mut newer: Client, mut older: Client) {
    let Some(Packet::Disconnect { code: 0x9C, properties }) = newer.receive() else { panic!("not 0x9C") };
    let reference =
        (PropertyRow::by_name("server_reference").unwrap().id, PropertyValue::String("other.example:1883".into()));
    assert!(properties.contains(&reference), "{properties:?}");
    assert_eq!(older.receive(), None);
}

fn clients(address: SocketAddr) -> (Client, Client) {
    let of = |version| Client::connect(address, version, &format!("{}-{}", version.name(), address.port()));
    (of(Version::V5), of(Version::V3_1_1))
}

/// What a node says of a peer; null: it does not list it.
fn peer(node: &Node, name: &str) -> Value {
    let members = node.weir.get("/api/cluster/members");
    let peers = members["cluster"]["peers"].as_array().cloned().unwrap_or_default();
    peers.into_iter().find(|peer| peer["node"] == name).unwrap_or_default()
}

fn until_peer_is(node: &Node, name: &str, state: &str) {
    node.weir.until(&format!("{name} is {state}"), || peer(node, name)["state"] == state);
}

fn is_ready(node: &Node) -> bool {
    node.weir.http("/readyz").starts_with("HTTP/1.1 200")
}

/// The text of `weir cluster status`.
fn status(node: &Node) -> String {
    let output = command().args(["cluster", "status", "--status", &node.weir.status_url()]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_evacuated_node_sends_its_clients_elsewhere_and_serves_again_when_its_name_leaves_the_list() {
    if !nats::is_there() {
        return;
    }
    let servers = vec![Nats::start()];
    let ((mut n1, on_n1), (mut n2, _)) = (node("n1", &servers), node("n2", &servers));
    n1.start();
    n2.start();
    let (newer, older) = clients(on_n1);
    let mut stays = n2.client(Version::V5, "stays");
    stays.subscribe("t/#", 1);
    declare(&[&n1, &n2], "{evacuate: [n1]}");
    assert_sent_elsewhere(newer, older);
    n1.until_logged(&["cluster node evacuated"]);
    n1.weir.until("new clients are refused", || connect_code(n1.address) == Some(0x88));
    assert!(!is_ready(&n1) && is_ready(&n2));
    until_peer_is(&n2, "n1", "evacuating");
    let text = status(&n1);
    assert!(
        text.contains("n1 is in, not ready") && text.contains("the cluster document evacuates this node"),
        "{text}"
    );
    let counted = "weir_cluster_disconnects_total{reason=\"evacuated\"} 2";
    n1.weir.until("both are counted", || n1.weir.http("/metrics").contains(counted));
    // Clients of the other node are served.
    publish_all(&mut n2.client(Version::V5, "publisher"), &[Message::new("t/1", "1", 1)]);
    assert_eq!(number(&collect(&mut stays, 1)[0]), 1);
    declare(&[&n1, &n2], "{}");
    n1.until_logged(&["cluster node serves clients again"]);
    n1.until_serving();
    until_peer_is(&n2, "n1", "in");
    publish_all(&mut n1.client(Version::V5, "publisher"), &[Message::new("t/2", "2", 1)]);
    assert_eq!(number(&collect(&mut stays, 1)[0]), 2);
}

/// A client that continues its session, and whether it was present.
fn enter(node: &Node, version: Version, id: &str) -> (Client, bool) {
    let mut client = Client::open(node.address, version);
    let properties = match version {
        Version::V5 => {
            vec![(PropertyRow::by_name("session_expiry_interval").unwrap().id, PropertyValue::Number(600))]
        }
        _ => Vec::new(),
    };
    client.send(&Packet::Connect(Connect { clean: false, ..clean_connect(version, id, properties) }));
    match client.receive() {
        Some(Packet::ConnAck { code: 0, session_present, .. }) => (client, session_present),
        other => panic!("not admitted: {other:?}"),
    }
}

#[test]
fn clients_of_an_evacuated_node_find_their_sessions_at_other_nodes_whichever_node_owns_them() {
    if !nats::is_there() {
        return;
    }
    let servers = vec![Nats::start()];
    let ((mut n1, _), (mut n2, _)) = (node("n1", &servers), node("n2", &servers));
    declare(&[&n1, &n2], "{slots: 8}");
    n1.start();
    n2.start();
    let per_class = || n2.weir.get("/api/cluster/members")["cluster"]["slotsPerClass"].clone();
    n2.weir.until("the cluster is founded with the declared number of slots", || per_class() == 8);
    // Of both nodes' slots.
    let sessions = sessions_of_12();
    let clients: Vec<Client> = sessions.iter().map(|(version, id)| enter(&n1, *version, id).0).collect();
    declare(&[&n1, &n2], "{slots: 8, evacuate: [n1]}");
    for (mut client, (version, id)) in clients.into_iter().zip(&sessions) {
        if *version == Version::V5 {
            let packet = client.receive();
            assert!(matches!(packet, Some(Packet::Disconnect { code: 0x9C, .. })), "{id}: {packet:?}");
        }
        assert_eq!(client.receive(), None, "{id}");
    }
    until_peer_is(&n2, "n1", "evacuating");
    for (version, id) in &sessions {
        let (_, present) = enter(&n2, *version, id);
        assert!(present, "{id}");
    }
}

/// Clients of both versions.
fn sessions_of_12() -> Vec<(Version, String)> {
    let version = |client| if client % 2 == 0 { Version::V3_1_1 } else { Version::V5 };
    (0..12).map(|client| (version(client), format!("session-{client}"))).collect()
}

#[test]
fn clients_of_a_node_that_gets_sigterm_are_told_so_whichever_node_owns_their_sessions() {
    if !nats::is_there() {
        return;
    }
    let cluster = Nodes::start(2);
    let sessions = sessions_of_12();
    let enter = |(version, id): &(Version, String)| enter(&cluster.nodes[0], *version, id).0;
    let clients: Vec<Client> = sessions.iter().map(enter).collect();
    cluster.nodes[0].weir.signal(Signal::TERM);
    let mut codes = Vec::new();
    for (mut client, (version, id)) in clients.into_iter().zip(&sessions) {
        if *version == Version::V5 {
            let Some(Packet::Disconnect { code, .. }) = client.receive() else { panic!("{id}: no DISCONNECT") };
            codes.push(code);
        }
        assert_eq!(client.receive(), None, "{id}");
    }
    // The sessions of the node itself move before it stops.
    assert!(codes.contains(&0x8B) && codes.iter().all(|code| matches!(code, 0x8B | 0x9C)), "{codes:x?}");
}

#[test]
fn a_removed_node_serves_no_clients_even_after_a_restart_and_the_others_forget_it() {
    if !nats::is_there() {
        return;
    }
    let servers = vec![Nats::start()];
    let ((mut n1, _), (mut n2, on_n2)) = (node("n1", &servers), node("n2", &servers));
    n1.start();
    n2.start();
    let (newer, older) = clients(on_n2);
    declare(&[&n1, &n2], "{removed: [n2]}");
    assert_sent_elsewhere(newer, older);
    for start in 1..=2 {
        n2.until_logged(&["cluster node removed", "stop it, or take its name from the list"]);
        n2.weir.until("new clients are refused", || connect_code(n2.address) == Some(0x88) && !is_ready(&n2));
        assert!(status(&n2).contains("! not ready: the cluster document removes this node"), "{}", status(&n2));
        n1.weir.until("its record is removed", || peer(&n1, "n2").is_null());
        assert!(status(&n1).contains("removed nodes: n2"), "{}", status(&n1));
        // The other node does not wait for it.
        publish_all(&mut n1.client(Version::V5, "publisher"), &[Message::new("t/1", "1", 1)]);
        if start == 1 {
            assert!(n1.has_logged(&["cluster member record removed", "n2", "the cluster document removes it"]));
            assert!(n2.weir.stop().success());
            n2.weir.run();
        }
    }
    declare(&[&n1, &n2], "{}");
    n2.until_serving();
    until_peer_is(&n1, "n2", "in");
}

#[test]
fn a_node_that_is_out_for_the_declared_time_sends_its_clients_elsewhere_and_serves_again_when_it_is_in() {
    if !nats::is_there() {
        return;
    }
    let mut servers = vec![Nats::start()];
    let (mut n1, on_n1) = node("n1", &servers);
    declare(&[&n1], "{isolation: {disconnectAfterS: 1}}");
    n1.start();
    let (newer, older) = clients(on_n1);
    servers[0].kill();
    assert_sent_elsewhere(newer, older);
    assert!(n1.has_logged(&["cluster member is out"]));
    n1.until_logged(&["cluster node isolated", "after_s=1"]);
    servers[0].run();
    n1.until_serving();
    let _again = clients(on_n1);
    n1.weir.until("the clients are counted", || {
        n1.weir.http("/metrics").contains("weir_cluster_disconnects_total{reason=\"isolated\"} 2")
    });
    assert_eq!(n1.logged(&["cluster node isolated"]), 1);
}

#[test]
fn the_record_of_a_node_that_is_gone_for_the_declared_time_is_removed() {
    if !nats::is_there() {
        return;
    }
    let mut cluster = Nodes::start(2);
    declare(&[&cluster.nodes[0]], "{autocleanS: 4}");
    cluster.nodes[1].weir.kill();
    until_peer_is(&cluster.nodes[0], "n2", "out");
    cluster.nodes[0].weir.until("its record is removed", || peer(&cluster.nodes[0], "n2").is_null());
    cluster.nodes[0].until_logged(&["cluster member record removed", "n2", "it was gone for cluster.autocleanS"]);
    cluster.nodes[1].start();
    until_peer_is(&cluster.nodes[0], "n2", "in");
}

#[test]
fn a_plan_counts_the_clients_of_the_nodes_that_it_evacuates() {
    if !nats::is_there() {
        return;
    }
    let cluster = Nodes::start(2);
    let _clients = [cluster.nodes[1].client(Version::V5, "a"), cluster.nodes[1].client(Version::V5, "b")];
    cluster.nodes[0].weir.until("n1 knows of them", || peer(&cluster.nodes[0], "n2")["clients"] == 2);
    let new = cluster.nodes[0].weir.directory().join("new.d");
    std::fs::create_dir(&new).unwrap();
    for file in ["endpoints.yaml", "cluster.yaml"] {
        std::fs::copy(cluster.nodes[0].weir.endpoints().join(file), new.join(file)).unwrap();
    }
    std::fs::write(new.join("cluster.yaml"), "cluster: {evacuate: [n2], replicas: 3}\n").unwrap();
    let against = cluster.nodes[0].weir.status_url();
    let plan = |more: &[&str]| {
        let output = command().arg("plan").arg(&new).args(["--against", &against]).args(more).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (code, text) = plan(&[]);
    let words = "n2 is evacuated: it accepts no new clients, disconnects its 2 clients, and stays a member";
    assert!(code == Some(0) && text.contains(words) && text.contains("Plan: cluster to change"), "{text}");
    let (code, text) = plan(&["--max-disconnects", "1"]);
    assert!(code == Some(1) && text.contains("2 clients would be disconnected"), "{text}");
    // The streams have one copy.
    declare(&[&cluster.nodes[0]], "{replicas: 3}");
    let document = || cluster.nodes[0].weir.get("/api/cluster/members")["document"]["conditions"][1].clone();
    cluster.nodes[0].weir.until("the condition says so", || document()["reason"] == "Founded");
    assert!(
        status(&cluster.nodes[0]).contains("! document cluster: not Programmed (Founded): replicas: 3 is declared")
    );
    declare(&[&cluster.nodes[0]], "{slots: 32}");
    let words = "slots: 32 is declared, and the cluster was founded with 16, which it keeps";
    let says = || document()["message"].as_str().is_some_and(|text| text.starts_with(words));
    cluster.nodes[0].weir.until("and for slots", says);
}

#[test]
fn a_broker_that_is_alone_says_that_the_document_has_no_effect() {
    let address = ports::free_address();
    let endpoint =
        format!("endpoint: {{host: 127.0.0.1, port: {}, enableAuth: false, enableAcl: false}}", address.port());
    let mut weir =
        Weir::new().with_status().with_files(&[("mqtt.yaml", &endpoint), ("cluster.yaml", "cluster: {removed: [n1]}")]);
    weir.run_until_accepting(&[address]);
    until(
        "the condition says so",
        || weir.log(),
        || weir.get("/api/cluster/members")["document"]["conditions"][1]["reason"] == "NotInCluster",
    );
    assert_eq!(connect_code(address), Some(0));
    let output = command().args(["cluster", "status", "--status", &weir.status_url()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let words = "! document cluster: not Programmed (NotInCluster): the broker runs without --cluster: the document has no effect\n\
                 this broker is alone";
    assert!(output.status.code() == Some(1) && text.starts_with(words), "{text}");
    assert!(
        weir.log().contains("document `cluster` not as declared: the broker runs without --cluster"),
        "{}",
        weir.log()
    );
}
