//! What a cluster costs: memory while a node is stopped under load, and processor time while nothing happens.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use super::nodes::{Node, Nodes};
use super::traffic::{Message, collect, publish_all};
use crate::cluster_engine::nats::{self, Nats};
use crate::support::until;
use crate::wire::Version;

const PAYLOAD: usize = 64 << 10;
/// What a node may keep for a peer that does not take it: 8 MiB on the link, what its queues and buffers hold, and what the
/// allocator keeps of that.
const GROWTH_MAX: usize = 64 << 20;

#[test]
fn a_stopped_node_pauses_the_publishers_of_others_and_costs_them_bounded_memory() {
    if !nats::is_there() {
        return;
    }
    const COUNT: usize = 4800; // 300 MiB
    let cluster = Nodes::start(2);
    let [stopped, node] = [&cluster.nodes[0], &cluster.nodes[1]];
    let mut subscriber = stopped.client(Version::V5, "subscriber");
    subscriber.subscribe("flood", 0);
    let mut publisher = node.client(Version::V5, "publisher");
    let message = Message::new("flood", vec![7; PAYLOAD], 0);
    publish_all(&mut publisher, &vec![message.clone(); 100]);
    collect(&mut subscriber, 100);
    let before = node.weir.resident_bytes();
    stopped.weir.signal(Signal::STOP);
    let flood = std::thread::spawn(move || {
        publish_all(&mut publisher, &vec![message; COUNT]);
        publisher.ping();
    });
    let mut peak = before;
    until(
        "the flood ends when the node is out",
        || node.weir.log(),
        || {
            peak = peak.max(node.weir.resident_bytes());
            flood.is_finished()
        },
    );
    flood.join().unwrap();
    assert!(node.has_logged(&["cluster peer is out", "n1"]), "300 MiB went on while the node was in and took nothing");
    assert!(peak < before + GROWTH_MAX, "{} MiB, and {} MiB before", peak >> 20, before >> 20);
    stopped.weir.signal(Signal::CONT);
    node.until_logged(&["cluster peer is in again", "n1"]);
}

/// User and system time of a process, in hundredths of a second.
fn processor_time(node: &Node) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/stat", node.weir.id())).unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum()
}

#[test]
#[ignore = "half a minute; tests/run --all runs it by tests/all/cluster"]
fn an_idle_node_takes_less_than_one_percent_of_a_core() {
    if !nats::is_there() {
        return;
    }
    const SECONDS: u64 = 30;
    let cluster = Nodes::start_on(Nats::three(), 3);
    std::thread::sleep(Duration::from_secs(2));
    let before: Vec<u64> = cluster.nodes.iter().map(processor_time).collect();
    std::thread::sleep(Duration::from_secs(SECONDS));
    let taken: Vec<u64> =
        cluster.nodes.iter().zip(before).map(|(node, before)| processor_time(node) - before).collect();
    println!("hundredths of a second in {SECONDS} s: {taken:?}");
    assert!(taken.iter().all(|taken| *taken < SECONDS), "{taken:?}");
}
