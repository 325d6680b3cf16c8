//! Sessions move with their slots, when a node is stopped with SIGTERM and when the document evacuates it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::nodes::{Node, Nodes};
use super::sessions::{continuing, enter, leave, settle};
use super::traffic::{Message, collect, collect_until_ping, number, publish_all};
use crate::cluster_engine::nats::{self, Nats};
use crate::support::until;
use crate::wire::{Packet, Version};
use weir_broker::Durability;
use weir_broker::placement::session_slot;

const CLIENTS: usize = 12;

fn id(client: usize) -> String {
    format!("moved-{client}")
}

/// Two nodes, with sessions on both, each with a message of QoS 1 and one of QoS 2 in its queue.
fn with_sessions(is_durable: bool) -> Nodes {
    let servers = vec![Nats::start()];
    let node = |name: &str| if is_durable { Node::durable(name, &servers) } else { Node::new(name, &servers) };
    let nodes = vec![node("n1"), node("n2")];
    let cluster = Nodes::start_nodes(servers, nodes);
    settle(&cluster);
    let mut publisher = cluster.nodes[1].client(Version::V5, "before");
    for client in 0..CLIENTS {
        let (mut connection, _) = enter(&cluster.nodes[client % 2], continuing(Version::V5, &id(client)));
        connection.subscribe(&format!("to/{client}"), 2);
        connection.subscribe("to/all", 2);
        leave(connection);
        let topic = format!("to/{client}");
        publish_all(&mut publisher, &[Message::new(&topic, "1", 1), Message::new(&topic, "2", 2)]);
    }
    cluster
}

/// Publishes to all sessions while something is done; returns how many messages that were.
fn publishing_while(node: &Node, act: impl FnOnce()) -> usize {
    let is_over = AtomicBool::new(false);
    let mut publisher = node.client(Version::V5, "meanwhile");
    thread::scope(|scope| {
        let published = scope.spawn(|| {
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                count += 1;
                publish_all(&mut publisher, &[Message::new("to/all", count.to_string(), 1 + (count % 2) as u8)]);
                // A session's queue is bounded.
                thread::sleep(Duration::from_millis(5));
            }
            count
        });
        act();
        is_over.store(true, Ordering::Relaxed);
        published.join().expect("the publisher gets its acknowledgements")
    })
}

/// Every client finds its session at this node, with all messages, once, and in order.
fn assert_all_there(node: &Node, meanwhile: usize) {
    for client in 0..CLIENTS {
        let (mut connection, present) = enter(node, continuing(Version::V5, &id(client)));
        assert!(present, "{client} at {}", node.name);
        let messages = collect(&mut connection, 2 + meanwhile);
        let of = |topic: &str| -> Vec<usize> {
            messages.iter().filter(|message| message.topic == topic).map(number).collect()
        };
        assert_eq!(of(&format!("to/{client}")), [1, 2], "{client}");
        // Order holds for each QoS.
        for parity in 0..2 {
            let expected: Vec<usize> = (1..=meanwhile).filter(|number| number % 2 == parity).collect();
            let found: Vec<usize> = of("to/all").into_iter().filter(|number| number % 2 == parity).collect();
            assert_eq!(found, expected, "{client}");
        }
        assert!(collect_until_ping(&mut connection).is_empty(), "{client}");
    }
}

/// The slots by number: the name of the owner.
fn owners(node: &Node) -> Vec<String> {
    let members = node.weir.get("/api/cluster/members");
    let slots = members["cluster"]["slots"].as_array().cloned().unwrap_or_default();
    slots.iter().map(|slot| slot["node"].as_str().unwrap_or_default().to_owned()).collect()
}

fn stopped_node_gives_its_sessions_away(durability: Durability) {
    let mut cluster = with_sessions(durability == Durability::Disk);
    // A client whose session is at the node that is stopped, and its socket at the other one.
    let n2 = &cluster.nodes[1];
    until("n1 owns slots", || n2.weir.log(), || owners(n2).iter().any(|owner| owner == "n1"));
    let owners = owners(n2);
    let slot = |id: &str| usize::from(session_slot(durability, "", id, owners.len() as u16 / 2));
    let stays = (0..).map(|n| format!("stays-{n}")).find(|id| owners[slot(id)] == "n1").expect("n1 has slots");
    let (mut connected, _) = enter(&cluster.nodes[1], continuing(Version::V5, &stays));
    let [n1, n2] = &mut cluster.nodes[..] else { panic!("two nodes") };
    let meanwhile = publishing_while(n2, || assert!(n1.weir.stop().success(), "{}", n1.weir.log()));
    assert!(n1.has_logged(&["cluster slot move finished", "to=\"n2\""]), "{}", n1.weir.log());
    assert!(!n1.has_logged(&["cluster slot moves not finished"]), "{}", n1.weir.log());
    eprintln!("{meanwhile} messages meanwhile");
    assert_all_there(n2, meanwhile);
    assert!(matches!(connected.receive(), Some(Packet::Disconnect { code: 0x9C, .. })));
    assert!(enter(n2, continuing(Version::V5, &stays)).1);
}

#[test]
fn sessions_in_memory_move_when_their_node_is_stopped() {
    if nats::is_there() {
        stopped_node_gives_its_sessions_away(Durability::Memory);
    }
}

#[test]
fn sessions_on_disk_move_when_their_node_is_stopped() {
    if nats::is_there() {
        stopped_node_gives_its_sessions_away(Durability::Disk);
    }
}

#[test]
fn sessions_move_when_their_node_is_evacuated() {
    if !nats::is_there() {
        return;
    }
    for is_durable in [false, true] {
        let cluster = with_sessions(is_durable);
        let [n1, n2] = &cluster.nodes[..] else { panic!("two nodes") };
        let owns = |node: &Node| owners(n2).iter().filter(|owner| **owner == node.name).count();
        until("n1 owns slots", || n1.weir.log(), || owns(n1) > 0);
        let meanwhile = publishing_while(n2, || {
            for node in [n1, n2] {
                node.weir.write("cluster.yaml", "cluster: {evacuate: [n1]}\n");
            }
            until("n1 owns no slots", || n1.weir.log(), || owns(n1) == 0);
        });
        assert_all_there(n2, meanwhile);
        let metrics = n1.weir.http("/metrics");
        assert!(metrics.contains("weir_cluster_slot_moves_total{result=\"finished\"}"), "{metrics}");
    }
}
