//! Shared subscriptions whose members are clients of several nodes.

use std::collections::BTreeMap;

use super::nodes::Nodes;
use super::traffic::{Message, collect, collect_until_ping, number, publish_all};
use crate::cluster_engine::nats;
use crate::support::client::Client;
use crate::support::until;
use crate::wire::{Packet, Version};

const COUNT: usize = 600;

fn messages(count: usize) -> Vec<Message> {
    (0..count).map(|number| Message::new("work", number.to_string(), 1)).collect()
}

/// Two members on each node.
fn members(cluster: &Nodes) -> Vec<(usize, Client)> {
    let mut members = Vec::new();
    for (index, node) in cluster.nodes.iter().enumerate() {
        for number in 0..2 {
            let mut client = node.client(Version::V5, &format!("member-{index}-{number}"));
            client.subscribe("$share/group/work", 1);
            members.push((index, client));
        }
    }
    members
}

/// What all members have received until every number was received: how often each number, and how many by each node.
fn drain(members: &mut [(usize, Client)], count: usize, seen: &mut BTreeMap<usize, usize>, by_node: &mut [usize; 3]) {
    until("every message is received", String::new, || {
        for (node, client) in members.iter_mut() {
            for publish in collect_until_ping(client) {
                *seen.entry(number(&publish)).or_default() += 1;
                by_node[*node] += 1;
            }
        }
        seen.len() == count
    });
}

#[test]
fn each_message_goes_to_one_member_and_every_node_gets_its_part() {
    if !nats::is_there() {
        return;
    }
    let cluster = Nodes::start(3);
    let mut members = members(&cluster);
    let mut publisher = cluster.nodes[0].client(Version::V3_1_1, "publisher");
    publish_all(&mut publisher, &messages(COUNT));
    let (mut seen, mut by_node) = (BTreeMap::new(), [0; 3]);
    drain(&mut members, COUNT, &mut seen, &mut by_node);
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    assert!(by_node.iter().all(|part| *part >= COUNT / 6), "{by_node:?}");
}

#[test]
fn no_message_is_lost_when_the_members_of_a_node_leave() {
    if !nats::is_there() {
        return;
    }
    let cluster = Nodes::start(3);
    let mut members = members(&cluster);
    let address = cluster.nodes[0].address;
    let publisher = std::thread::spawn(move || {
        let mut publisher = Client::connect(address, Version::V5, "publisher");
        publish_all(&mut publisher, &messages(COUNT));
    });
    // The members of the second node acknowledge some, receive some that they do not acknowledge, and leave.
    let (mut seen, mut by_node) = (BTreeMap::new(), [0; 3]);
    let mut leaving = members.split_off(2);
    members.extend(leaving.split_off(2));
    for (_, client) in &mut leaving {
        for publish in collect(client, 10) {
            *seen.entry(number(&publish)).or_default() += 1;
        }
    }
    for (at, (_, mut client)) in leaving.into_iter().enumerate() {
        assert!(matches!(client.receive(), Some(Packet::Publish(_))));
        if at == 0 {
            client.send(&Packet::Disconnect { code: 0, properties: Vec::new() });
        }
    }
    drain(&mut members, COUNT, &mut seen, &mut by_node);
    publisher.join().unwrap();
    assert_eq!(by_node[1], 0, "the members that stay are on the other nodes");
}

#[test]
fn the_messages_of_a_node_that_is_killed_go_to_members_of_others() {
    if !nats::is_there() {
        return;
    }
    let mut cluster = Nodes::start(3);
    let mut members = members(&cluster);
    let address = cluster.nodes[0].address;
    // Members of the node that dies receive nothing: their messages are on the way, or wait.
    let of_dead: Vec<(usize, Client)> = members.drain(2..4).collect();
    let publisher = std::thread::spawn(move || {
        let mut publisher = Client::connect(address, Version::V5, "publisher");
        publish_all(&mut publisher, &messages(COUNT));
    });
    cluster.nodes[1].weir.kill();
    drop(of_dead);
    publisher.join().unwrap();
    // All that is published after the node is out reaches the members that live; so does all that had no PUBACK by then.
    cluster.nodes[0].until_logged(&["cluster peer is out", "n2"]);
    let mut publisher = cluster.nodes[2].client(Version::V5, "second-publisher");
    let later: Vec<Message> = (0..60).map(|number| Message::new("work", (COUNT + number).to_string(), 1)).collect();
    cluster.nodes[2].until_logged(&["cluster peer is out", "n2"]);
    publish_all(&mut publisher, &later);
    let mut seen = BTreeMap::new();
    until("the later messages are received", String::new, || {
        for (_, client) in &mut members {
            collect_until_ping(client).iter().for_each(|publish| *seen.entry(number(publish)).or_insert(0) += 1);
        }
        (COUNT..COUNT + 60).all(|number| seen.contains_key(&number))
    });
}
