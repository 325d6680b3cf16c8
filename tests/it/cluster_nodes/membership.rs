//! Nodes that leave, die, stop, come again, and have one name; and an engine that is gone.

use rustix::process::Signal;

use super::nodes::{Node, Nodes, connect_code};
use super::traffic::{Message, collect, collect_until_ping, number, publish_all};
use crate::cluster_engine::nats;
use crate::support::client::{Client, clean_connect};
use crate::support::until;
use crate::wire::{Ack, Connect, Packet, Version, Will, packet_type};

fn subscriber(node: &Node, id: &str) -> Client {
    let mut client = node.client(Version::V5, id);
    client.subscribe("t/#", 1);
    client
}

#[test]
fn a_node_that_gets_sigterm_leaves_at_once_and_is_not_waited_for() {
    if !nats::is_there() {
        return;
    }
    let mut cluster = Nodes::start(3);
    let mut on_leaving = subscriber(&cluster.nodes[0], "leaving");
    let mut stays = subscriber(&cluster.nodes[1], "stays");
    let mut with_will = Client::open(cluster.nodes[0].address, Version::V5);
    let will = Will { topic: "t/will".into(), payload: b"7".into(), qos: 1, retain: false, properties: Vec::new() };
    with_will
        .send(&Packet::Connect(Connect { will: Some(will), ..clean_connect(Version::V5, "with-will", Vec::new()) }));
    assert!(matches!(with_will.receive(), Some(Packet::ConnAck { code: 0, .. })));
    assert!(cluster.nodes[0].weir.stop().success());
    assert_eq!(number(&collect(&mut stays, 1)[0]), 7);
    // Its client is told that the server shuts down.
    assert!(matches!(on_leaving.receive(), Some(Packet::Disconnect { code: 0x8b, .. })));
    for node in &cluster.nodes[1..] {
        node.until_logged(&["cluster peer left", "n1"]);
    }
    let mut publisher = cluster.nodes[2].client(Version::V5, "publisher");
    publish_all(&mut publisher, &[Message::new("t/1", "1", 1)]);
    assert_eq!(number(&collect(&mut stays, 1)[0]), 1);
    for node in &cluster.nodes[1..] {
        assert!(!node.has_logged(&["cluster peer is out"]), "{}", node.weir.log());
    }
    // It comes again.
    cluster.nodes[0].start();
    let mut again = subscriber(&cluster.nodes[0], "again");
    publish_all(&mut publisher, &[Message::new("t/2", "2", 1)]);
    assert_eq!(number(&collect(&mut again, 1)[0]), 2);
    for node in &cluster.nodes[1..] {
        // A node that comes or goes does not make the others refuse clients.
        assert!(!node.has_logged(&["new clients are refused"]), "{}", node.weir.log());
    }
}

#[test]
fn puback_waits_for_a_node_that_was_killed_until_it_is_out() {
    if !nats::is_there() {
        return;
    }
    let mut cluster = Nodes::start(3);
    let on_dead = subscriber(&cluster.nodes[0], "on-dead");
    let mut lives = subscriber(&cluster.nodes[1], "lives");
    let mut publisher = cluster.nodes[2].client(Version::V3_1_1, "publisher");
    publish_all(&mut publisher, &[Message::new("t/0", "0", 1)]);
    cluster.nodes[0].weir.kill();
    drop(on_dead);
    for qos in [1, 2] {
        publish_all(&mut publisher, &[Message::new(&format!("t/{qos}"), qos.to_string(), qos)]);
        assert!(cluster.nodes[2].has_logged(&["cluster peer is out", "n1"]), "acknowledged before the node was out");
    }
    let numbers: Vec<usize> = collect(&mut lives, 3).iter().map(number).collect();
    assert_eq!(numbers, [0, 1, 2]);
    cluster.nodes[0].start();
    let mut again = subscriber(&cluster.nodes[0], "again");
    let mut third = cluster.nodes[0].client(Version::V5, "third");
    publish_all(&mut publisher, &[Message::new("t/3", "3", 2)]);
    publish_all(&mut third, &[Message::new("t/4", "4", 1)]);
    for client in [&mut again, &mut lives] {
        let numbers: Vec<usize> = collect(client, 2).iter().map(number).collect();
        assert_eq!(numbers, [3, 4]);
    }
}

#[test]
fn a_stopped_node_is_out_and_serves_its_clients_again_when_it_continues() {
    if !nats::is_there() {
        return;
    }
    let mut cluster = Nodes::start(3);
    let mut on_stopped = subscriber(&cluster.nodes[0], "on-stopped");
    let mut lives = subscriber(&cluster.nodes[1], "lives");
    let mut publisher = cluster.nodes[2].client(Version::V5, "publisher");
    cluster.nodes[0].weir.signal(Signal::STOP);
    publish_all(&mut publisher, &[Message::new("t/1", "1", 1)]);
    assert!(cluster.nodes[2].has_logged(&["cluster peer is out", "n1"]));
    cluster.nodes[1].until_logged(&["cluster peer is out", "n1"]);
    assert_eq!(number(&collect(&mut lives, 1)[0]), 1);
    cluster.nodes[0].weir.signal(Signal::CONT);
    for node in &cluster.nodes[1..] {
        node.until_logged(&["cluster peer is in again", "n1"]);
    }
    // Messages from its peers and from itself reach its subscriber, and all others.
    let mut round = 1;
    until(
        "the node delivers again",
        || cluster.nodes[0].weir.log(),
        || {
            round += 1;
            publish_all(&mut publisher, &[Message::new("t/x", round.to_string(), 1)]);
            collect_until_ping(&mut on_stopped).iter().any(|publish| publish.topic == "t/x")
        },
    );
    collect_until_ping(&mut lives);
    cluster.nodes[0].until_serving();
    let mut third = cluster.nodes[0].client(Version::V5, "third");
    publish_all(&mut third, &[Message::new("t/last", "99", 1)]);
    until(
        "the others get its messages",
        || cluster.nodes[1].weir.log(),
        || collect_until_ping(&mut lives).iter().any(|publish| publish.topic == "t/last"),
    );
}

#[test]
fn without_the_engine_a_node_acknowledges_nothing_refuses_clients_and_heals() {
    if !nats::is_there() {
        return;
    }
    let mut cluster = Nodes::start(2);
    let mut on_other = subscriber(&cluster.nodes[1], "subscriber");
    let mut publisher = cluster.nodes[0].client(Version::V5, "publisher");
    cluster.servers[0].kill();
    for node in &cluster.nodes {
        node.until_logged(&["cluster member is out"]);
        until("clients are refused", || node.weir.log(), || connect_code(node.address) == Some(0x88));
    }
    publisher.send(&Message::new("t/1", "1", 1).packet(1));
    publisher.send(&Message::new("t/2", "2", 2).packet(2));
    // The connection lives, and nothing is acknowledged.
    publisher.send(&Packet::PingReq);
    assert_eq!(publisher.receive(), Some(Packet::PingResp));
    std::thread::sleep(std::time::Duration::from_secs(2));
    publisher.send(&Packet::PingReq);
    assert_eq!(publisher.receive(), Some(Packet::PingResp));
    cluster.servers[0].run();
    let mut acknowledged: Vec<u8> = (0..2)
        .map(|_| match publisher.receive() {
            Some(Packet::Ack(Ack { packet_type, code: 0, .. })) => packet_type,
            other => panic!("{other:?}"),
        })
        .collect();
    acknowledged.sort_unstable();
    assert_eq!(acknowledged, [packet_type::PUBACK, packet_type::PUBREC]);
    let mut numbers: Vec<usize> = collect(&mut on_other, 2).iter().map(number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2]);
    for node in &mut cluster.nodes {
        node.until_serving();
        assert_eq!(node.logged(&["cluster member is out"]), 1);
        for words in [["cluster engine connect failed"], ["cluster heartbeat failed"]] {
            assert!(node.logged(&words) <= 4, "{}", node.weir.log());
        }
    }
}

#[test]
fn a_node_with_the_name_of_one_that_runs_does_not_start_and_the_running_one_stays() {
    if !nats::is_there() {
        return;
    }
    let mut cluster = Nodes::start(2);
    let mut on_first = subscriber(&cluster.nodes[0], "on-first");
    let mut second = Node::new("n1", &cluster.servers);
    second.weir.run();
    assert_eq!(second.weir.wait().code(), Some(1));
    let words = ["cluster not joined: a node named n1 runs in this cluster", "give each node its own --node-name"];
    assert!(second.has_logged(&words), "{}", second.weir.log());
    publish_all(&mut cluster.nodes[1].client(Version::V5, "publisher"), &[Message::new("t/1", "1", 1)]);
    assert_eq!(number(&collect(&mut on_first, 1)[0]), 1);
    for node in &cluster.nodes {
        assert!(
            !node.has_logged(&["used twice"]) && !node.has_logged(&["cluster peer restarted"]),
            "{}",
            node.weir.log()
        );
    }
    // When it has died, another process may take the name.
    cluster.nodes[0].weir.kill();
    second.start();
    assert!(second.has_logged(&["cluster node name was used before"]), "{}", second.weir.log());
}

#[test]
fn a_client_that_connects_to_another_node_is_disconnected_from_the_first() {
    if !nats::is_there() {
        return;
    }
    let cluster = Nodes::start(3);
    let mut first = Client::connect(cluster.nodes[0].address, Version::V5, "moving");
    // SUBACK: the other nodes know of this connection, so the next one is the newer one.
    first.subscribe("any", 0);
    let _second = Client::connect(cluster.nodes[1].address, Version::V5, "moving");
    assert!(matches!(first.receive(), Some(Packet::Disconnect { code: 0x8E, .. })));
}
