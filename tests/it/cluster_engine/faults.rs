//! Three servers, of which one fails in the middle of appends. Nothing acknowledged is missing, and the order of each topic
//! holds.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use weirmq::cluster::engine::EngineConnection;

use super::nats::{self, Nats};
use super::node::{Node, append_all, check, converge, options, runtime};
use crate::support::until;

const STREAM: &str = "weir_test_retained";

/// The index of the server that leads the retained log.
fn leader(runtime: &Runtime, servers: &[Nats]) -> usize {
    let urls: Vec<async_nats::ServerAddr> = servers.iter().map(|server| server.url().parse().unwrap()).collect();
    let mut found = None;
    until("the log has a leader", String::new, || {
        let name = runtime.block_on(async {
            let client = async_nats::connect(&urls[..]).await.ok()?;
            let stream = async_nats::jetstream::new(client).get_stream(STREAM).await.ok()?;
            stream.cached_info().cluster.as_ref()?.leader.clone()
        });
        found = name.and_then(|name| servers.iter().position(|server| server.name == name));
        found.is_some()
    });
    found.unwrap()
}

fn connect(runtime: &Runtime, servers: &[Nats]) -> Vec<Node> {
    [("a", 1), ("b", 2)]
        .map(|(name, incarnation)| Node::connect(runtime, options(name, incarnation, servers, 3)).over(100))
        .into()
}

/// Converges, checks, and compares with what a node reads that comes later.
fn conclude(runtime: &Runtime, servers: &[Nats], mut nodes: Vec<Node>) {
    converge(&mut nodes);
    check(&nodes);
    let mut later = Node::connect(runtime, options("c", 3, servers, 3)).over(100);
    later.until_synced();
    assert_eq!(later.retained(), nodes[0].retained());
    for node in &nodes {
        eprintln!("{:?}", node.engine.counts());
    }
    later.shut_down(runtime);
    nodes.into_iter().for_each(|node| node.shut_down(runtime));
}

#[test]
fn the_leader_of_the_log_is_killed() {
    if !nats::is_there() {
        return;
    }
    let (runtime, mut servers) = (runtime(), Nats::three());
    let mut nodes = connect(&runtime, &servers);
    let mut killed = None;
    append_all(&mut nodes, 1500, |acked| {
        if acked > 1000 && killed.is_none() {
            let at = leader(&runtime, &servers);
            servers[at].kill();
            killed = Some((at, Instant::now()));
        }
    });
    let (at, since) = killed.unwrap();
    eprintln!("all acknowledged {:?} after the leader was killed", since.elapsed());
    servers[at].run();
    conclude(&runtime, &servers, nodes);
}

#[test]
#[ignore = "takes minutes"]
fn servers_are_killed_and_stopped_in_turn() {
    if !nats::is_there() {
        return;
    }
    let (runtime, mut servers) = (runtime(), Nats::three());
    let mut nodes = connect(&runtime, &servers);
    for round in 0..9_u64 {
        let mut begun = None;
        let before = round * 2 * 1000;
        let connected = nodes[0].server(EngineConnection::Streams);
        append_all(&mut nodes, (round + 1) * 1000, |acked| {
            if acked as u64 > before + 500 && begun.is_none() {
                let at = match round % 3 {
                    0 => leader(&runtime, &servers),
                    1 => servers.iter().position(|server| server.name == connected).unwrap(),
                    _ => (round as usize / 3) % 3,
                };
                match round % 3 {
                    2 => servers[at].stop(),
                    _ => servers[at].kill(),
                }
                begun = Some((at, Instant::now()));
            }
        });
        let (at, since) = begun.unwrap();
        eprintln!("round {round}: all acknowledged {:?} after server {at} failed", since.elapsed());
        match round % 3 {
            2 => servers[at].resume(),
            _ => servers[at].run(),
        }
        std::thread::sleep(Duration::from_secs(2));
    }
    conclude(&runtime, &servers, nodes);
}

/// The server that a node is connected to stops: the node leaves it by itself.
#[test]
fn a_connected_server_that_stops_is_left() {
    if !nats::is_there() {
        return;
    }
    let (runtime, servers) = (runtime(), Nats::three());
    let mut nodes = connect(&runtime, &servers);
    append_all(&mut nodes, 300, |_| {});
    let connected = nodes[0].server(EngineConnection::Streams);
    let stopped = servers.iter().find(|server| server.name == connected).unwrap();
    stopped.stop();
    let since = Instant::now();
    append_all(&mut nodes, 600, |_| {});
    eprintln!("all acknowledged {:?} after the server stopped", since.elapsed());
    // The report of the new connection follows what goes over it.
    until("another server is reported", String::new, || nodes[0].server(EngineConnection::Streams) != connected);
    stopped.resume();
    conclude(&runtime, &servers, nodes);
}
