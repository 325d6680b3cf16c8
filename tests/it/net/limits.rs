//! Connections are counted exactly and bounded.

use std::io::Read;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weirmq::net::{AcceptOverflow, DataPlaneConfig, HandshakeLimits, ListenerPolicy};

use super::client::{Client, connect};
use super::plane::{Plane, policy};
use crate::support::stream;

/// Whether a client gets in; the broker answers or closes.
fn try_enter(address: SocketAddr, id: &str) -> Option<Client> {
    let mut client = Client::new(stream::tcp(address), 4);
    client.try_send(&connect(4, id)).ok()?;
    (client.receive()? == (0x20, vec![0, 0])).then_some(client)
}

#[test]
fn connections_above_the_endpoint_limit_are_refused() {
    for shards in [1, 3] {
        let plane = Plane::start(shards);
        let address = plane.listen_tcp(ListenerPolicy { max_connections: Some(5), ..policy(1) });
        let free = plane.listen_tcp(policy(2));
        let mut clients: Vec<_> = (0..5).map(|n| try_enter(address, &format!("c{n}")).expect("room")).collect();
        for n in 5..10 {
            assert!(try_enter(address, &format!("c{n}")).is_none());
        }
        Client::enter(stream::tcp(free), 4, "elsewhere");
        for (level, code) in [(5, 0x97), (4, 3)] {
            let mut refused = Client::new(stream::tcp(address), level);
            refused.send(&connect(level, "told"));
            assert_eq!(refused.receive().map(|(_, body)| body[1]), Some(code), "version {level}");
            assert_eq!(refused.receive(), None);
        }
        assert_eq!(plane.stats(1).refused.connection_limit, 7);
        assert_eq!(plane.stats(1).connections_current, 5);
        clients.iter_mut().for_each(Client::ping);
        clients.pop();
        plane.until(1, "one leaves", |stats| stats.connections_current == 4);
        clients.push(try_enter(address, "c10").expect("the connection that was closed makes room"));
        assert!(try_enter(address, "c11").is_none());
    }
}

#[test]
fn connections_above_the_address_limit_are_refused() {
    let plane = Plane::start(2);
    let address = plane.listen_tcp(ListenerPolicy { max_connections_per_address: Some(2), ..policy(1) });
    let first = try_enter(address, "a").expect("room");
    let _second = try_enter(address, "b").expect("room");
    assert!(try_enter(address, "c").is_none());
    drop(first);
    plane.until(1, "one leaves", |stats| stats.connections_current == 1);
    assert!(try_enter(address, "d").is_some());
    assert_eq!(plane.stats(1).refused.address_limit, 1);
}

#[test]
fn connections_above_the_node_limit_are_refused() {
    let plane = Plane::with(&DataPlaneConfig { shards: 2, max_connections: Some(3), ..DataPlaneConfig::default() });
    let addresses = [plane.listen_tcp(policy(1)), plane.listen_tcp(policy(2))];
    let clients: Vec<_> = (0..3).map(|n| try_enter(addresses[n % 2], &format!("c{n}")).expect("room")).collect();
    assert!(try_enter(addresses[0], "d").is_none());
    assert!(try_enter(addresses[1], "e").is_none());
    assert_eq!(plane.stats(1).refused.node_limit + plane.stats(2).refused.node_limit, 2);
    drop(clients);
    plane.until(1, "they leave", |stats| stats.connections_current == 0);
    plane.until(2, "they leave", |stats| stats.connections_current == 0);
    assert!(try_enter(addresses[0], "f").is_some());
}

#[test]
fn connections_above_the_accept_rate_wait_or_are_refused() {
    let plane = Plane::start(1);
    let rate = |id, accept_overflow| ListenerPolicy { max_connections_per_s: Some(10), accept_overflow, ..policy(id) };
    let delays = plane.listen_tcp(rate(1, AcceptOverflow::Delay));
    let refuses = plane.listen_tcp(rate(2, AcceptOverflow::Refuse));
    let start = Instant::now();
    let entered = (0..30).filter(|n| try_enter(refuses, &format!("r{n}")).is_some()).count();
    // Ten at once, and one more for every tenth of a second that it took.
    let most = 11 + start.elapsed().as_millis() as usize / 100;
    assert!((10..=most).contains(&entered), "{entered} in {:?}", start.elapsed());
    assert_eq!(plane.stats(2).refused.accept_rate, 30 - entered as u64);
    let start = Instant::now();
    for n in 0..15 {
        assert!(try_enter(delays, &format!("d{n}")).is_some());
    }
    // Ten at once, the other five at a tenth of a second each.
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
    assert_eq!(plane.stats(1).refused.iter().map(|(_, count)| count).sum::<u64>(), 0);
}

#[test]
fn a_flood_of_pending_connections_evicts_pending_connections() {
    let config = DataPlaneConfig { shards: 1, max_pending_connections: 50, ..DataPlaneConfig::default() };
    let plane = Plane::with(&config);
    let open = plane.listen_tcp(policy(1));
    let bounded = plane.listen_tcp(ListenerPolicy { max_pending_connections: Some(10), ..policy(2) });
    let mut silent: Vec<_> = (0..100).map(|_| stream::tcp(open)).collect();
    plane.until(1, "all accepted", |stats| stats.accepted_total == 100 && stats.refused.pending_limit == 50);
    assert_eq!(plane.stats(1).connections_pending, 50);
    assert!(try_enter(open, "honest").is_some(), "amid the flood");
    let is_closed = |stream: &mut std::net::TcpStream| {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        matches!(stream.read(&mut [0]), Ok(0))
    };
    plane.until(1, "the displaced ones see it", |_| {
        silent.iter_mut().map(is_closed).filter(|closed| *closed).count() >= 50
    });
    let _silent: Vec<_> = (0..20).map(|_| stream::tcp(bounded)).collect();
    plane.until(2, "all accepted", |stats| stats.accepted_total == 20 && stats.connections_pending <= 10);
    assert!(try_enter(bounded, "honest-2").is_some(), "amid the flood");
}

#[test]
fn connection_counts_return_to_zero_however_connections_end() {
    for shards in [1, 3] {
        let plane = Plane::start(shards);
        let handshake = HandshakeLimits { time_ms: 2000, ..HandshakeLimits::default() };
        let address = plane.listen_tcp(ListenerPolicy { handshake, ..policy(1) });
        for n in 0..50 {
            let mut client = Client::enter(stream::tcp(address), 4, &format!("c{n}"));
            match n % 5 {
                0 => client.send(&[0xE0, 0]),
                1 => client.send(&[0xFF, 0]),
                2 => drop(stream::tcp(address)),
                3 => drop(Client::enter(stream::tcp(address), 4, &format!("c{n}"))),
                _ => drop(client),
            }
        }
        let _silent: Vec<_> = (0..10).map(|_| stream::tcp(address)).collect();
        plane.until(1, "no connection is left", |stats| {
            stats.connections_current == 0 && stats.connections_pending == 0
        });
    }
}

/// Descriptors are the process's: what happens when they run out is tried in a process of its own.
mod exhaustion {
    use std::fs::File;
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};
    use std::thread;

    use super::*;

    const IN_CHILD: &str = "WEIR_TEST_EXHAUSTION";

    #[test]
    #[ignore = "run by accepting_resumes_when_file_descriptors_are_free_again"]
    fn child() {
        if std::env::var_os(IN_CHILD).is_none() {
            return;
        }
        let plane = Plane::start(1);
        let address = plane.listen_tcp(policy(1));
        let mut held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        println!("\nport {}", address.port());
        plane.until(1, "the acceptor finds no descriptor", |stats| stats.refused.node_limit > 0);
        held.clear();
        println!("\nfreed");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
    }

    #[test]
    fn accepting_resumes_when_file_descriptors_are_free_again() {
        let program = std::env::current_exe().unwrap();
        let limited = "ulimit -n 128; exec \"$0\" \"$@\"";
        let mut child = Command::new("sh")
            .args(["-c", limited])
            .arg(program)
            .args(["--ignored", "--exact", "--nocapture", "net::limits::exhaustion::child"])
            .env(IN_CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut line = |start: &str| {
            lines.by_ref().map(Result::unwrap).find_map(|line| line.strip_prefix(start).map(str::to_owned)).unwrap()
        };
        let port: u16 = line("port ").parse().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        // It waits in the backlog; nothing is refused.
        let waiting = thread::spawn(move || try_enter(address, "patient").is_some());
        line("freed");
        assert!(waiting.join().unwrap());
        assert!(try_enter(address, "later").is_some());
        child.stdin.take().unwrap().write_all(b"done\n").unwrap();
        assert!(child.wait().unwrap().success());
    }
}
