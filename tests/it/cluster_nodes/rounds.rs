//! Rounds of random faults of brokers and nats-servers under load, and a checker of what clients saw. `WEIR_SIM_SEED` repeats
//! a run's choices, `WEIR_CLUSTER_ROUNDS` says how many rounds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::load::{Published, Publisher, Seen, Subscriber, Topic};
use super::nodes::{Node, Nodes, connect_code};
use super::retained::retained;
use crate::cluster_engine::nats::{self, Nats};
use crate::seeded_random::{SeededRandom, seed};
use crate::support::{GUARD, until};

const NODES: usize = 3;
/// Load before and after a fault.
const LOAD: Duration = Duration::from_millis(1500);
/// Time between two messages of a publisher.
const PAUSE: Duration = Duration::from_millis(4);
/// After this time without an engine, nothing is acknowledged: 2 s, and what a busy machine adds.
const SILENT_AFTER: Duration = Duration::from_secs(4);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KillBroker(usize),
    StopBroker(usize),
    LeaveAndJoin(usize),
    KillServer(usize),
    StopServer(usize),
    StopAllServers,
}

impl Fault {
    fn pick(random: &mut SeededRandom) -> Self {
        let target = random.below(NODES as u64) as usize;
        match random.below(5) {
            0 => Self::KillBroker(target),
            1 => Self::StopBroker(target),
            2 => Self::LeaveAndJoin(target),
            3 => Self::KillServer(target),
            _ => Self::StopServer(target),
        }
    }

    /// The broker whose clients may lose messages.
    fn victim(self) -> Option<usize> {
        match self {
            Self::KillBroker(node) | Self::StopBroker(node) | Self::LeaveAndJoin(node) => Some(node),
            Self::KillServer(_) | Self::StopServer(_) | Self::StopAllServers => None,
        }
    }

    fn begin(self, cluster: &mut Nodes) {
        match self {
            Self::KillBroker(node) => cluster.nodes[node].weir.kill(),
            Self::StopBroker(node) => cluster.nodes[node].weir.signal(Signal::STOP),
            Self::LeaveAndJoin(node) => assert!(cluster.nodes[node].weir.stop().success()),
            Self::KillServer(server) => cluster.servers[server].kill(),
            Self::StopServer(server) => cluster.servers[server].stop(),
            Self::StopAllServers => cluster.servers.iter().for_each(Nats::stop),
        }
    }

    fn end(self, cluster: &mut Nodes) {
        match self {
            Self::KillBroker(node) | Self::LeaveAndJoin(node) => cluster.nodes[node].weir.run(),
            Self::StopBroker(node) => cluster.nodes[node].weir.signal(Signal::CONT),
            Self::KillServer(server) => cluster.servers[server].run(),
            Self::StopServer(server) => cluster.servers[server].resume(),
            Self::StopAllServers => cluster.servers.iter().for_each(Nats::resume),
        }
    }
}

/// The clients of a round, one publisher and one subscriber on each node.
struct Load {
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
}

fn topics(node: &str, round: usize) -> Vec<Topic> {
    let topic = |name: String, qos, retain| Topic { name, qos, retain };
    vec![
        topic(format!("load/{round}/{node}/1"), 1, false),
        topic(format!("load/{round}/{node}/2"), 2, false),
        topic(format!("load/{round}/{node}/kept"), 1, true),
        // Retained messages of all nodes on one topic.
        topic(format!("kept/{round}"), 1, true),
    ]
}

impl Load {
    fn start(cluster: &Nodes, round: usize) -> Self {
        let subscribers = cluster
            .nodes
            .iter()
            .map(|node| {
                Subscriber::start(node.address, &format!("sub-{round}-{}", node.name), &format!("load/{round}/#"))
            })
            .collect();
        let publishers = cluster
            .nodes
            .iter()
            .map(|node| {
                Publisher::start(node.address, &format!("pub-{round}-{}", node.name), topics(&node.name, round), PAUSE)
            })
            .collect();
        Self { publishers, subscribers }
    }
}

/// Nodes that another one has taken out since, by the lines of the logs.
fn taken_out(cluster: &Nodes, since: &[usize]) -> BTreeSet<usize> {
    let mut out = BTreeSet::new();
    for (node, since) in cluster.nodes.iter().zip(since) {
        for line in node.weir.log().lines().skip(*since).filter(|line| line.contains("cluster peer is out")) {
            out.extend((0..NODES).filter(|other| line.contains(&format!("peer=\"{}\"", cluster.nodes[*other].name))));
        }
    }
    out
}

fn is_delivered(published: &[Option<Instant>], seen: Option<&Vec<usize>>) -> bool {
    let acknowledged = published.iter().enumerate().filter(|(_, at)| at.is_some()).map(|(number, _)| number);
    let seen: BTreeSet<usize> = seen.into_iter().flatten().copied().collect();
    acknowledged.into_iter().all(|number| seen.contains(&number))
}

/// What a subscriber saw of one topic: each number once, in order. (QoS 1 is sent again only on a new connection.)
fn check_order(topic: &str, node: &str, seen: &[usize]) {
    let disorder = seen.windows(2).position(|pair| pair[0] >= pair[1]);
    let around = |at: usize| &seen[at.saturating_sub(3)..(at + 4).min(seen.len())];
    assert!(disorder.is_none(), "{topic} on {node}: {:?}", around(disorder.unwrap()));
}

fn check_round(
    cluster: &Nodes,
    load: Load,
    victims: &BTreeSet<usize>,
    silent: Option<(Instant, Instant)>,
    story: &str,
) {
    load.publishers.iter().for_each(Publisher::end);
    let deadline = Instant::now() + GUARD;
    for (node, publisher) in load.publishers.iter().enumerate() {
        while !victims.contains(&node) && !publisher.is_done() {
            assert!(Instant::now() < deadline, "{story}: the publisher on {} waits", cluster.nodes[node].name);
            std::thread::sleep(Duration::from_millis(20));
        }
        publisher.give_up();
    }
    let published: Vec<Published> = load.publishers.into_iter().map(Publisher::finish).collect();
    for (node, published) in published.iter().enumerate().filter(|(node, _)| !victims.contains(node)) {
        assert!(!published.is_broken, "{story}: the publisher on {} was disconnected", cluster.nodes[node].name);
    }
    if let Some((from, to)) = silent {
        let acknowledged = published.iter().flat_map(|published| published.topics.values().flatten().flatten());
        let early = acknowledged.filter(|at| **at > from + SILENT_AFTER && **at < to).count();
        assert_eq!(early, 0, "{story}: acknowledged without an engine");
    }
    let missing = |subscribers: &[Subscriber]| {
        let mut missing = Vec::new();
        for (node, subscriber) in subscribers.iter().enumerate().filter(|(node, _)| !victims.contains(node)) {
            let seen = subscriber.seen();
            for (from, published) in published.iter().enumerate().filter(|(from, _)| !victims.contains(from)) {
                for (topic, numbers) in published.topics.iter().filter(|(topic, _)| topic.starts_with("load/")) {
                    if !is_delivered(numbers, seen.get(topic)) {
                        missing.push(format!("{topic} of node {from} on node {node}"));
                    }
                }
            }
        }
        missing
    };
    let words = || format!("{story}\nmissing: {:?}", missing(&load.subscribers));
    until("every acknowledged message is delivered", words, || missing(&load.subscribers).is_empty());
    for (node, subscriber) in load.subscribers.into_iter().enumerate() {
        let broken = subscriber.is_broken();
        let seen: Seen = subscriber.finish();
        if !victims.contains(&node) {
            assert!(!broken, "{story}: the subscriber on {} was disconnected", cluster.nodes[node].name);
        }
        for (topic, numbers) in &seen {
            check_order(topic, &format!("{} ({story})", cluster.nodes[node].name), numbers);
        }
    }
    check_retained(cluster, &published, story);
}

/// All nodes have the same retained messages; of a topic with one publisher, none that is older than the last acknowledged.
fn check_retained(cluster: &Nodes, published: &[Published], story: &str) {
    let sets = || cluster.nodes.iter().map(|node| retained(node.address)).collect::<Vec<BTreeMap<_, _>>>();
    let words = || format!("{story}: {:?}", sets().iter().map(BTreeMap::len).collect::<Vec<_>>());
    until("the retained messages converge", words, || sets().windows(2).all(|pair| pair[0] == pair[1]));
    let kept = retained(cluster.nodes[0].address);
    for (topic, numbers) in published.iter().flat_map(|published| &published.topics) {
        if topic.ends_with("/kept")
            && let Some(last) = numbers.iter().rposition(Option::is_some)
        {
            let found: usize = std::str::from_utf8(&kept[topic]).unwrap().parse().unwrap();
            assert!(found >= last, "{story}: {topic} has {found}, and {last} was acknowledged");
        }
    }
}

fn round(cluster: &mut Nodes, random: &mut SeededRandom, number: usize) {
    let first = Fault::pick(random);
    let mut faults = vec![if number % 5 == 4 { Fault::StopAllServers } else { first }];
    if random.one_in(3) && faults[0] != Fault::StopAllServers {
        let second = Fault::pick(random);
        // One broker and one server at most.
        faults.extend((second.victim().is_none() != faults[0].victim().is_none()).then_some(second));
    }
    let is_all = faults.contains(&Fault::StopAllServers);
    let lasts = Duration::from_millis(if is_all { 10_000 } else { 500 + random.below(6000) });
    let story = format!("round {number}: {faults:?} for {lasts:?}");
    println!("{story}");
    let since: Vec<usize> = cluster.nodes.iter().map(|node| node.weir.log().lines().count()).collect();
    let load = Load::start(cluster, number);
    std::thread::sleep(LOAD);
    let began = Instant::now();
    for fault in &faults {
        fault.begin(cluster);
    }
    if is_all {
        std::thread::sleep(SILENT_AFTER);
        for node in &cluster.nodes {
            until("clients are refused", || story.clone(), || connect_code(node.address) == Some(0x88));
        }
    }
    std::thread::sleep(lasts.saturating_sub(began.elapsed()));
    let ended = Instant::now();
    for fault in &faults {
        fault.end(cluster);
    }
    cluster.nodes.iter_mut().for_each(Node::until_serving);
    std::thread::sleep(LOAD);
    let mut victims: BTreeSet<usize> = faults.iter().filter_map(|fault| fault.victim()).collect();
    victims.extend(taken_out(cluster, &since));
    println!("  nodes whose clients may lose messages: {victims:?}; served again after {:?}", ended.elapsed() - LOAD);
    check_round(cluster, load, &victims, is_all.then_some((began, ended)), &story);
}

fn run(rounds: usize, seed: u64) {
    println!("WEIR_SIM_SEED={seed}, {rounds} rounds");
    let mut random = SeededRandom::new(seed);
    let mut cluster = Nodes::start_on(Nats::three(), NODES);
    for number in 0..rounds {
        round(&mut cluster, &mut random, number);
    }
}

#[test]
#[ignore = "minutes; tests/run --all runs it by tests/all/cluster"]
fn acknowledged_messages_survive_rounds_of_random_faults() {
    if !nats::is_there() {
        return;
    }
    let rounds = std::env::var("WEIR_CLUSTER_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    run(rounds, seed());
}
